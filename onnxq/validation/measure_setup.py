"""Open what models are measured on: sessions, data and metrics, from the options of a caller.

Owns the way from `MeasureOptions` to a reference that has run on all data. What is wrong with
names (of options, metrics, gates) shows before its first run; with shapes, dtypes and
what users' metrics return, after the first batch; all of it before any candidate is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxq import runtime, sources
from onnxq.data.batches import DataOptions, Dataset
from onnxq.data.dataset import open_dataset
from onnxq.data.drawn_data import GivenData, RandomData
from onnxq.data.feeds import without_labels
from onnxq.data.preprocess_file import load_preprocess
from onnxq.data.watched_data import NotedData, Told, WatchedData
from onnxq.draws import Recipe
from onnxq.errors import InputError, UnsupportedError
from onnxq.graphs import Document
from onnxq.ranges import integer_ranges
from onnxq.runtime import Session
from onnxq.session_settings import SessionSettings
from onnxq.validation import metrics
from onnxq.validation.evaluation import Evaluation, evaluate, run_reference, skipped
from onnxq.validation.measure_options import MeasureOptions
from onnxq.validation.metrics import Metric
from onnxq.validation.reference_runs import Carried, ReferenceRuns
from onnxq.validation.tallies import MetricError

Measure = Callable[[Path], Evaluation]
"""Measure a candidate, from any thread; the reference is run once for all of them."""

Look = Callable[[Sequence[Metric], Sequence[str]], None]
"""See what will be measured and the reference's outputs, before its first run; may refuse."""


@dataclass(frozen=True, kw_only=True)
class OpenReference:
    """Hold a reference that has run on all data, and how candidates are measured against it.

    Attributes:
        runs: Its outputs; whoever opens it closes them.
        metrics: What is measured.
        data: What it ran on.
        settings: Of candidates' sessions.
        provider: Where it ran, by onnxruntime's name.
        inputs: Names of its inputs.
    """

    runs: ReferenceRuns
    metrics: tuple[Metric, ...]
    data: NotedData
    settings: SessionSettings
    provider: str
    inputs: tuple[str, ...]

    def measure(self, candidate: Path | bytes) -> Evaluation:
        """Run a candidate on the same data; errors as those of `evaluate`."""
        return evaluate(self.runs, candidate, self.metrics, self.settings)


def open_reference(
    document: Document,
    options: MeasureOptions,
    *,
    inputs: Mapping[str, Any] | None = None,
    look: Look | None = None,
    told: Told | None = None,
    may_skip: bool = True,
) -> OpenReference | Evaluation:
    """Run the reference on all data.

    Args:
        document: the reference.
        options: what to measure on, and how.
        inputs: inputs of a single run, in the place of the options' data.
        look: called before the first run.
        told: whom to tell of each batch.
        may_skip: whether a reference that cannot be run on random inputs is no error.

    Returns:
        The reference; or, where it cannot be run on random inputs, what is known of any candidate.

    Raises:
        OptionError: an option does not fit the model or the data.
        InputError: the reference or the data cannot be read, or they or a metric do not fit each
            other.
        UnsupportedError: onnxruntime cannot run the reference, or CUDA is asked for and does not
            work.
        MissingDependencyError: the data or a metric need a package that is not installed.
    """
    runtime.prepare(session_settings(options, is_packed=False))
    try:
        return _opened(document, options, inputs, look, told)
    except MetricError:
        raise
    except (InputError, UnsupportedError) as err:
        if not may_skip or options.data is not None or inputs is not None:
            raise
        return skipped(str(err))


def _opened(
    document: Document,
    options: MeasureOptions,
    inputs: Mapping[str, Any] | None,
    look: Look | None,
    told: Told | None,
) -> OpenReference:
    source, settings = sources.runnable(document), session_settings(options, is_packed=False)
    session = runtime.open_session(source, settings)
    names = tuple(spec.name for spec in session.inputs)
    given = GivenData([without_labels(inputs, names)]) if inputs is not None else None
    data = NotedData(given or open_data(document, session, options), options.limit)
    wanted = options.metrics or metrics.default_names(session.output_specs, data.truths)
    chosen = metrics.resolve(wanted)
    if look is not None:
        look(chosen, session.outputs)
    watched = data if told is None else WatchedData(data, told, options.limit)
    runs = ReferenceRuns(source, watched, settings, carry=options.carry, session=session)
    opened = OpenReference(
        runs=runs,
        metrics=chosen,
        data=data,
        settings=session_settings(options, is_packed=options.is_packed),
        provider=session.provider,
        inputs=names,
    )
    del session  # it is released as soon as nothing needs it
    with ExitStack() as stack:
        stack.enter_context(runs)
        run_reference(runs, chosen)
        stack.pop_all()
    return opened


@contextmanager
def open_measure(
    document: Document, options: MeasureOptions, look: Look | None = None
) -> Iterator[Measure]:
    """Run the reference and yield what measures candidates against it.

    Where inputs are random and the reference cannot be run on any, every check is "skipped",
    unless metrics were asked for; `look` then sees that there are none.

    Raises:
        OnnxqError: as `open_reference`.
    """
    opened = open_reference(document, options, look=look, may_skip=not options.metrics)
    if isinstance(opened, Evaluation):
        if look is not None:
            look((), ())
        yield lambda candidate: opened
        return
    with opened.runs:
        yield opened.measure


def session_settings(options: MeasureOptions, *, is_packed: bool) -> SessionSettings:
    """Return how a model is loaded and run."""
    return SessionSettings(
        provider=options.provider,
        threads=options.threads,
        options=options.session_options,
        is_packed=is_packed,
    )


def used_provider(options: MeasureOptions) -> Literal["cpu", "cuda"]:
    """Return where models run: of "auto", what works here."""
    if options.provider == "auto":
        return "cuda" if runtime.cuda_works() else "cpu"
    return options.provider


def open_data(document: Document, session: Session, options: MeasureOptions) -> Dataset:
    """Return the data of `options`, or random inputs within the ranges that the model takes.

    Raises:
        InputError: the data cannot be read or do not fit the model.
        OptionError: the options do not suit the data or the model.
        MissingDependencyError: the data need a package that is not installed.
    """
    Carried(session, options.carry)  # tells what does not fit before the data do
    if options.data is None:
        ranges = {**integer_ranges(document), **options.ranges}
        recipe = Recipe(dims=options.dims, ranges=ranges, kept=frozenset(options.ranges))
        return RandomData(session, options.samples, options.seed, recipe)
    preprocess = options.preprocess
    data = DataOptions(
        preprocess=None if preprocess is None else load_preprocess(preprocess),
        batch=options.batch,
        limit=options.limit,
        carried=frozenset(options.carry.values()),
        outputs=session.output_specs,
    )
    return open_dataset(options.data, session.inputs, data)
