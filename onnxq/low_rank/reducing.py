"""The steps of `lowrank`: find layers, look at their inputs, choose ranks, rewrite, check, report.

Owns the order of work. Ranks are decided for the whole model before anything of it is changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxq import checks, conversion, files, model, scratch, sources, summary
from onnxq.checks import Check
from onnxq.data.watched_data import FirstSamples, MeasureEvent, Progress, Told
from onnxq.errors import UnsupportedError
from onnxq.graphs import Document
from onnxq.low_rank import factor_rows, ranks, selecting, statistics, trials
from onnxq.low_rank import layers as finding
from onnxq.low_rank.factors import Factors
from onnxq.low_rank.fits import Fits, key_of
from onnxq.low_rank.options import LowRankOptions
from onnxq.low_rank.ranks import Choice, Chosen, Curve, Key
from onnxq.low_rank.selecting import Selection
from onnxq.low_rank.statistics import MOST_INPUTS, Stored
from onnxq.low_rank.trials import Trials
from onnxq.model import Weight
from onnxq.options import ConvertOptions
from onnxq.report import FactorLedger, FileSize, LowRankReport
from onnxq.selection import Skip
from onnxq.validation import measure_setup
from onnxq.validation.evaluation import Evaluation
from onnxq.validation.measure_setup import OpenReference
from onnxq.validation.reference_runs import ReferenceRuns

TRIAL_SAMPLES = 64
"""Samples on which sizes of single layers are tried, or those of the first batch if more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """Hold what is asked for.

    `target` is None for a model kept in memory; `inputs` are the source's files, which are never
    removed; `reopen` gives the source once more; `output_name` is the target as it was given;
    `samples` are the random inputs to check on where there are no data, by default 1 unless the
    model is large; 0 means that nothing is checked.
    """

    document: Document
    options: LowRankOptions
    target: Path | None
    inputs: frozenset[Path]
    reopen: Callable[[], Document]
    output_name: str | None = None
    samples: int | None = None
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Model:
    """Hold the model as it came: its tensors, and what may become factors."""

    input_bytes: int
    weights: list[Weight]
    selection: Selection
    skips: tuple[Skip, ...]

    @property
    def parameters(self) -> int:
        """Floats of all weights."""
        return sum(weight.elements for weight in selecting.counted(self.weights))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decided:
    """Hold the factors of all layers that get them, and the layers whose inputs were seen."""

    chosen: Chosen
    made: Mapping[Key, Factors]
    seen: frozenset[Key] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Written:
    """Hold what was put in place."""

    output_bytes: int
    ledger: FactorLedger
    check: Check | None
    data_files: tuple[str, ...] = field(default=())


def reduce(request: Request) -> LowRankReport:
    """Replace weights by factors and put the result in place; return the report.

    Without a target the request's document becomes the result.

    Raises:
        OptionError: a pattern matches nothing, or the options do not fit the data.
        InputError: the model or the data cannot be read, or they do not fit each other.
        UnsupportedError: ranks depend on runs, and onnxruntime cannot run the model.
        ValidationError: the result cannot be run although the source can.
        BudgetError: the ratio cannot be reached.
        OutputError: the output cannot be written; an existing target is untouched.
    """
    started = time.monotonic()
    given = _found(request)
    told = Told(request.progress)
    samples = _samples(request, given)
    with ExitStack() as stack:
        opened = _opened(request, samples, told)
        if isinstance(opened, OpenReference):
            stack.enter_context(opened.runs)
        folder = stack.enter_context(scratch.folder()) if _needs_runs(request.options) else None
        decided = _decided(request, given, _Bench(request, opened, folder, told))
        written = _write(request, given, decided, opened if samples else None)
        data = None
        if request.options.data is not None and isinstance(opened, OpenReference):
            data = opened.runs.data_used()
    rows = factor_rows.factor_rows(given.selection.layers, decided.made, decided.seen)
    saved = sum(row.elements - row.factor_elements for row in rows)
    skips = [*given.skips, *_whole(given, decided)]
    return LowRankReport(
        input=FileSize(path=sources.name_of(request.document), file_bytes=given.input_bytes),
        output=FileSize(
            path=request.output_name,
            file_bytes=written.output_bytes,
            data_files=written.data_files,
        ),
        parameters_before=given.parameters,
        parameters_after=given.parameters - saved,
        ledger=written.ledger,
        layers=rows,
        skipped=summary.skip_rows(factor_rows.all_skips(given.weights, decided.made, skips)),
        data=data,
        check=written.check,
        notes=tuple(_notes(request, given, decided, written)),
        options=request.options.to_json(),
        versions=summary.versions(),
        seconds=time.monotonic() - started,
        peak_memory_bytes=summary.peak_memory_bytes(),
    )


def _found(request: Request) -> _Model:
    document = request.document
    weights = model.weights(document)
    layers, skips = finding.find(document, weights)
    selection = selecting.select(layers, request.options, document.label)
    return _Model(
        input_bytes=model.total_bytes(document),
        weights=weights,
        selection=selection,
        skips=(*skips, *selection.skips),
    )


def _whole(given: _Model, decided: _Decided) -> Iterator[Skip]:
    selection = given.selection
    return selecting.whole_skips(selection.layers, decided.chosen, selection.given)


def _needs_runs(options: LowRankOptions) -> bool:
    """Tell whether ranks or factors depend on running the model."""
    return options.data is not None or options.max_snr_loss is not None


def _samples(request: Request, given: _Model) -> int:
    """Return on how many random inputs to check; 0 means that nothing is checked, data or not."""
    if request.samples is not None:
        return request.samples
    is_large = given.input_bytes > checks.LIMIT_BYTES and request.options.data is None
    return 0 if is_large else 1


def _opened(request: Request, samples: int, told: Told) -> OpenReference | Evaluation | None:
    """Run the source on what it is compared on; None where nothing is run."""
    options = request.options
    if not _needs_runs(options) and not samples:
        return None
    measured = replace(options.measured(), metrics=("snr",), performance=False)
    if options.data is None:
        measured = replace(measured, samples=max(1, samples))
    opened = measure_setup.open_reference(request.document, measured, told=told)
    if options.max_snr_loss is not None and isinstance(opened, Evaluation):
        raise UnsupportedError(
            f"--max-snr-loss is measured by running the model: {opened.check.reason}; give --data "
            "with inputs that it takes, or another goal"
        )
    return opened


class _Bench:
    """Look at layers' inputs and try ranks, where ranks depend on it."""

    def __init__(
        self,
        request: Request,
        opened: OpenReference | Evaluation | None,
        folder: Path | None,
        told: Told,
    ) -> None:
        self._request, self._folder, self._told = request, folder, told
        self._opened = opened if isinstance(opened, OpenReference) else None

    @property
    def has_data(self) -> bool:
        """Whether there are inputs that the model is made for."""
        return self._request.options.data is not None

    def statistics(self, keys: frozenset[Key]) -> dict[Key, Stored]:
        """Return what is known of layers' inputs; nothing without data."""
        if not self.has_data or self._opened is None or self._folder is None:
            return {}
        document = self._request.reopen()
        layers, _ = finding.find(document, model.weights(document))
        layers = [layer for layer in layers if key_of(layer) in keys]
        samples = self._opened.runs.data_used().samples
        total = samples * statistics.walks(document, layers)

        def tell(where: str, done: int) -> None:
            event = MeasureEvent(stage="layer inputs", subject=where, done=done, total=total)
            self._told.tell(event)

        return statistics.collect(document, layers, self._opened.data, self._folder, tell)

    def with_noise(self, curves: list[Curve], fits: Fits) -> list[Curve]:
        """Return the layers with what arrives at the outputs as loss; as they are without data."""
        if not self.has_data or self._opened is None:
            return curves
        few = FirstSamples(self._opened.data, TRIAL_SAMPLES)
        source = sources.runnable(self._request.document)
        with ReferenceRuns(source, few, self._opened.runs.settings) as runs:
            return trials.with_noise(curves, self._trials(fits), runs, self._tell("ranks"))

    def smallest(self, curves: list[Curve], fits: Fits, given: Chosen, limit_db: float) -> Chosen:
        """Return the smallest choice found whose outputs lose at most `limit_db`."""
        assert self._opened is not None  # _opened() refuses
        runs, tried = self._opened.runs, self._trials(fits)
        return trials.smallest_within(
            curves,
            lambda chosen: tried.noise({**given, **chosen}, runs),
            limit_db,
            self._tell("sizes"),
        )

    def _trials(self, fits: Fits) -> Trials:
        assert self._folder is not None
        return Trials(self._request.reopen(), fits, self._folder)

    def _tell(self, stage: str) -> trials.Tell:
        return lambda name, done, total: self._told.tell(
            MeasureEvent(stage=stage, subject=name, done=done, total=total)
        )


def _decided(request: Request, given: _Model, bench: _Bench) -> _Decided:
    options, selection = request.options, given.selection
    keys = frozenset(key_of(layer) for layer in selection.layers)
    stored = bench.statistics(keys)
    jobs = conversion.workers(ConvertOptions(jobs=options.jobs))
    fits = Fits(request.document, selection.layers, options.split, stored, jobs)
    curves = selecting.with_given(list(fits.curves()), selection.given)
    fixed = selecting.of_given(curves, selection.given)
    free = [curve for curve in curves if curve.key not in selection.given]
    chosen: dict[Key, Choice] = {**fixed}
    if options.energy is not None:
        chosen |= ranks.keeping(free, options.energy)
    elif options.ratio is not None:
        total = given.parameters
        others = total - sum(layer.parameters for layer in selection.layers)
        others += sum(curve.parameters for curve in curves if curve.key in selection.given)
        selecting.check_ratio(free, options.ratio, total, others, request.document.label)
        free = bench.with_noise(free, fits)
        chosen |= ranks.within(free, int(options.ratio * total) - others)
    elif options.max_snr_loss is not None:
        free = bench.with_noise(free, fits)
        chosen |= bench.smallest(free, fits, fixed, options.max_snr_loss)
    return _Decided(
        chosen=chosen,
        made=dict(fits.factors(chosen)),
        seen=frozenset(stored),
        notes=tuple(_statistics_notes(request, given, frozenset(stored))),
    )


def _write(
    request: Request,
    given: _Model,
    decided: _Decided,
    opened: OpenReference | Evaluation | None,
) -> _Written:
    """Change the document and put it in place after its check."""
    document, made = request.document, decided.made
    store = conversion.open_store(request.options.external_data, document, request.target)
    counted = selecting.counted(given.weights)
    kept = [weight for weight in counted if (weight.graph, weight.name) not in made]
    is_source = not made and store.placement is None and not document.has_data_files
    layers = given.selection.layers
    try:
        for layer in layers:
            if key_of(layer) in made:
                _empty(layer.weight)
        files.move_kept(document, store)
        original = _original_bytes(document, kept)
        trials.put(document, layers, made, store)

        def serialize() -> bytes:
            if is_source and document.path is not None:
                return document.path.read_bytes()
            return files.serialize(document.proto, document.label)

        if request.target is None:
            data = serialize()
            size, check = len(data), _checked(opened, data)
        else:
            with files.pending_model(request.target, serialize, store, request.inputs) as path:
                size, check = path.stat().st_size, _checked(opened, path)
            size += conversion.data_bytes(store)
    except BaseException:
        conversion.abandon(store)
        raise
    ledger = factor_rows.ledger(
        size,
        sum(factor_rows.stored_bytes(factors) for factors in made.values()),
        sum(weight.data_bytes for weight in kept),
        original,
    )
    return _Written(
        output_bytes=size, ledger=ledger, check=check, data_files=conversion.data_names(store)
    )


def _original_bytes(document: Document, kept: list[Weight]) -> int:
    """Return the bytes of all but weights, once these stand where they stay."""
    inline = sum(weight.data_bytes for weight in kept) - summary.external_bytes(kept)
    moved = sum(model.external_lengths(document)) - summary.external_bytes(kept)
    return files.message_bytes(document.proto, document.label) - inline + moved


def _empty(weight: Weight) -> None:
    """Take the values out of a tensor, which has been read, so that they are not moved."""
    assert weight.tensor is not None
    for name in ("raw_data", "float_data", "double_data", "int32_data", "external_data"):
        weight.tensor.ClearField(name)
    weight.tensor.ClearField("data_location")


def _checked(opened: OpenReference | Evaluation | None, candidate: Path | bytes) -> Check | None:
    if opened is None or isinstance(opened, Evaluation):
        return None if opened is None else opened.check
    return opened.measure(candidate).check


def _statistics_notes(request: Request, given: _Model, seen: frozenset[Key]) -> Iterator[str]:
    """Yield what a user should know of layers whose inputs were not looked at as all others'."""
    if request.options.data is None:
        return
    layers = given.selection.layers
    hidden = sum(key_of(layer) not in seen for layer in layers)
    wide = sum(layer.inputs > MOST_INPUTS and key_of(layer) in seen for layer in layers)
    if hidden:
        what = "layer is" if hidden == 1 else "layers are"
        yield (
            f"{hidden} {what} out of sight of the data, inside other nodes or functions or never "
            "run, and factorised by the weights alone"
        )
    if wide:
        what = "layer has" if wide == 1 else "layers have"
        yield (
            f"{wide} {what} more than {MOST_INPUTS:,} inputs, which were looked at one by one, not "
            "in pairs"
        )


def _notes(request: Request, given: _Model, decided: _Decided, written: _Written) -> Iterator[str]:
    """Yield what a user should know."""
    for name in written.data_files:
        yield f"the values stand in {name}, which belongs beside the model: ship both files"
    if written.output_bytes >= given.input_bytes:
        yield "nothing was gained: the output is not smaller than the input"
    if request.options.max_snr_loss is not None and request.options.data is None:
        yield "the loss was measured on random inputs; give --data to measure it on real ones"
    yield from decided.notes
    if written.check is not None:
        yield from written.check.notes
