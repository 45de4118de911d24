"""Candidates carried out and measured: what a quality target is judged by.

Owns the data that this is done on and the models written for it. Nothing is estimated here: a
candidate is converted as it would be for good, biases included, and run beside the original.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from onnxq import conversion, runtime, sources
from onnxq.allocation.bars import Bar, bar_of
from onnxq.allocation.planned import Planned
from onnxq.allocation.planning_options import PlanningOptions
from onnxq.allocation.sensing import open_whole
from onnxq.allocation.targets import QualityTarget
from onnxq.allocation.ways import Picks
from onnxq.calibration import corrections
from onnxq.clustering.cluster import Clustering
from onnxq.clustering.codebook import Array
from onnxq.conversion import Job
from onnxq.data.batches import Dataset
from onnxq.data.watched_data import FirstSamples, HalfOfSamples, SpreadSamples
from onnxq.encode import Fitter
from onnxq.errors import InputError, UnsupportedError
from onnxq.graphs import Document
from onnxq.plans import TensorPlan
from onnxq.session_settings import SessionSettings
from onnxq.validation import gates, metrics
from onnxq.validation.evaluation import Evaluation, evaluate
from onnxq.validation.metrics import Metric
from onnxq.validation.reference_runs import ReferenceRuns

RUN_SAMPLES = 8
"""Samples of a run on data that are not split; split ones are run one by one."""
CARRIED_TIMES = 16
"""Samples of sequences that calibrate, for each that would of data without state."""
MEMORY_BYTES = 1 << 30
"""Most bytes of codebooks and indices that are kept from one candidate for the next."""
_SETTINGS = SessionSettings(threads=1)
"""Of all runs: figures, and what is decided by them, are the same on any number of processors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Hold data that candidates are judged on: `name` is "planning half" or the like."""

    name: str
    runs: ReferenceRuns
    metrics: tuple[Metric, ...]

    def measure(self, candidate: Path) -> Evaluation:
        """Return how a candidate differs from the original on these data.

        Raises:
            UnsupportedError: the original cannot be run on any random inputs.
            OnnxqError: as `evaluate`.
        """
        found = evaluate(self.runs, candidate, self.metrics)
        if found.check.status == "skipped":
            raise UnsupportedError(
                f"{found.check.reason}; what a candidate keeps is measured on inputs: give "
                "--calibration"
            )
        return found


def open_bar(document: Document, target: QualityTarget) -> Bar:
    """Return the bar that a target sets of a model.

    Raises:
        InputError, UnsupportedError: onnxruntime cannot load the model.
    """
    session = runtime.open_session(sources.runnable(document), _SETTINGS)
    return bar_of(target, session.output_specs)


@contextmanager
def open_parts(
    document: Document, options: PlanningOptions, bar: Bar, *, is_split: bool
) -> Iterator[tuple[Part, ...]]:
    """Yield the data to judge on, all together or two halves: to plan on, and to validate on.

    Args:
        document: the original.
        options: which data; random inputs where there are none.
        bar: what is judged.
        is_split: whether to split `options.data`, which are given then.

    Raises:
        InputError: the data cannot be read, do not fit the model or what is judged, or are too
            few to be split.
        OptionError: an option or a metric does not fit the model or the data.
        UnsupportedError: onnxruntime cannot load the model.
        MissingDependencyError: a metric needs a package that is not installed.
    """
    source = sources.runnable(document)
    session = runtime.open_session(source, _SETTINGS)
    chosen = metrics.resolve(bar.metrics)
    gates.check_drops(bar.gates, chosen, session.outputs)
    if is_split:
        first, second = halves(document, replace(options, calibration=None))
        named = [("planning half", first), ("validation half", second)]
    else:
        name = "random inputs" if options.inputs is None else f"data {options.inputs.name}"
        named = [(name, open_whole(document, options, RUN_SAMPLES))]
    with ExitStack() as stack:
        parts = []
        for name, data in named:
            runs = ReferenceRuns(source, data, _SETTINGS, carry=options.carry)
            parts.append(Part(name=name, runs=stack.enter_context(runs), metrics=chosen))
        yield tuple(parts)


def halves(document: Document, options: PlanningOptions) -> tuple[Dataset, Dataset]:
    """Return the half of the data with labels to plan on, and the other one to validate on.

    Single samples where the model takes any number, else batches of its own size, are told apart;
    where state is carried, sequences.

    Raises:
        InputError: the data cannot be read, do not fit the model or are too few.
        OptionError: an option does not fit the model or the data.
    """
    data = open_whole(document, options, 1)
    first, second = (
        HalfOfSamples(data, half, by_sequence=bool(options.carry)) for half in range(2)
    )
    if next(second.batches(), None) is None:
        what = "sequences" if options.carry else "samples"
        raise InputError(
            f"{options.inputs}: found fewer than two {what} (or batches of the model's own size), "
            "of which one half plans and the other validates; give more data"
        )
    return first, second


def planning_samples(document: Document, options: PlanningOptions) -> Dataset:
    """Return the samples that calibrate, of the half to plan on; errors as those of `halves`."""
    first, _ = halves(document, options)
    if options.carry:
        return FirstSamples(first, CARRIED_TIMES * options.samples)
    return SpreadSamples(first, options.samples)


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """Hold a model that was written, for a while: its file and the bytes of all its files."""

    path: Path
    bytes: int


@contextmanager
def written(job: Job, planned: Planned, folder: Path) -> Iterator[Candidate]:
    """Carry a plan out on a copy of the model, and remove it afterwards.

    Args:
        job: what is asked for; neither its plan nor its document is used.
        planned: what to do.
        folder: place for the model.

    Raises:
        OnnxqError: reading or writing failed.
    """
    document = job.reopen()
    corrections.put(document, planned.corrections)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "candidate.onnx"
        made = replace(job, document=document, plan=planned.plan, fits=planned.fits, target=path)
        outcome = conversion.run(made, lambda _: None, None)
        yield Candidate(path=path, bytes=outcome.output_bytes)


def remembered(fitter: Fitter, most_bytes: int = MEMORY_BYTES) -> Fitter:
    """Return a fitter that fits each tensor but once in a form; candidates share most of them."""
    known: dict[tuple[TensorPlan, bytes], Clustering] = {}
    lock, room = threading.Lock(), [most_bytes]

    def fit(values: Array, planned: TensorPlan, jobs: int) -> Clustering:
        digest = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).digest()
        key = (planned, digest)
        with lock:
            found = known.get(key)
        if found is not None:
            return found
        made = fitter(values, planned, jobs)
        size = made.centroids.nbytes + (0 if made.indices is None else made.indices.nbytes)
        with lock:
            if key not in known and size <= room[0]:
                room[0] -= size
                known[key] = made
        return made

    return fit


class Attempts:
    """Carry picks out and measure them, each but once on each part of the data.

    Args:
        job: what is asked for.
        bar: what is to be kept.
        parts: the data; the first is planned on.
        complete: gives the plan of picks with all that it needs.
        folder: place for models.
    """

    def __init__(
        self,
        job: Job,
        bar: Bar,
        parts: Sequence[Part],
        complete: Callable[[Picks], Planned],
        folder: Path,
    ) -> None:
        self._job, self._bar, self._parts = job, bar, parts
        self._complete, self._folder = complete, folder
        self._seen: dict[Picks, _Attempt] = {}

    def margin(self, picks: Picks) -> float:
        """Return how far picks are above the bar on the data that are planned on."""
        return self._margin(picks, 0)

    def holds(self, picks: Picks) -> bool:
        """Tell whether picks are enough on all data; those that fail on a part see no further."""
        return all(self._margin(picks, part) >= 0 for part in range(len(self._parts)))

    def saves(self, picks: Picks) -> bool:
        """Tell whether picks that were measured give a file that is worth having."""
        attempt = self._seen[picks]
        is_less = self._job.is_requantized or attempt.bytes < self._job.input_bytes
        return is_less and attempt.is_encoding

    def best(self) -> str:
        """Return what the best of the smaller files has on the data that are planned on."""
        found = [
            (margin, attempt.found[0])
            for picks, attempt in self._seen.items()
            if self.saves(picks) and not math.isnan(margin := self._margin(picks, 0))
        ]
        if not found:
            return "nothing that is smaller than the model"
        return self._bar.text(max(found, key=lambda item: item[0])[1])

    def notes(self, picks: Picks, option: str) -> Iterator[str]:
        """Yield what picks have on each part of the data."""
        for part, seen in sorted(self._seen[picks].found.items()):
            where = f"{self._parts[part].name}, {seen.data.samples} samples"
            yield f"{option}: {self._bar.text(seen)} ({where})"

    def _margin(self, picks: Picks, part: int) -> float:
        attempt = self._seen.setdefault(picks, _Attempt())
        if part not in attempt.found:
            planned = self._complete(picks)
            attempt.is_encoding = bool(planned.plan.tensors)
            with written(self._job, planned, self._folder) as made:
                attempt.bytes = made.bytes
                attempt.found[part] = self._parts[part].measure(made.path)
        return self._bar.margin(attempt.found[part])


@dataclass(eq=False)
class _Attempt:
    """Hold what is known of picks: bytes of the file, whether it encodes any tensor, figures."""

    bytes: int = 0
    is_encoding: bool = False
    found: dict[int, Evaluation] = field(default_factory=dict)
