"""The steps of `lowrank`: find layers, look at their inputs, choose ranks, rewrite, check, report.

Owns the order of work. Ranks are decided for the whole model before anything of it is changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from onnxq import checks, conversion, files, model, scratch, sources, summary
from onnxq.checks import Check
from onnxq.data.watched_data import Progress
from onnxq.graphs import Document
from onnxq.low_rank import factor_rows, ranks, selecting, trials
from onnxq.low_rank import layers as finding
from onnxq.low_rank.factors import Factors
from onnxq.low_rank.fits import Fits
from onnxq.low_rank.options import LowRankOptions
from onnxq.low_rank.ranks import Choice, Chosen, Key
from onnxq.low_rank.selecting import Selection
from onnxq.low_rank.statistics import MOST_INPUTS
from onnxq.low_rank.workbench import Steps, Workbench, needs_runs, open_reference
from onnxq.model import Weight
from onnxq.options import ConvertOptions
from onnxq.report import FactorLedger, FileSize, LowRankReport
from onnxq.selection import Skip
from onnxq.validation.evaluation import Evaluation
from onnxq.validation.measure_setup import OpenReference


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
    steps = Steps(request.progress)
    samples = _samples(request, given)
    with ExitStack() as stack:
        # Layers are shared out to threads already. One BLAS thread in each gives the same bytes
        # whatever their number, and on a busy machine none of them waits for the others.
        stack.enter_context(threadpool_limits(limits=1, user_api="blas"))
        opened = open_reference(request.document, request.options, samples, steps)
        if isinstance(opened, OpenReference):
            stack.enter_context(opened.runs)
        bench = Workbench(
            document=request.document,
            reopen=request.reopen,
            options=request.options,
            opened=opened if isinstance(opened, OpenReference) else None,
            folder=stack.enter_context(scratch.folder()) if needs_runs(request.options) else None,
            steps=steps,
        )
        decided = _decided(request, given, bench)
        written = _write(request, given, decided, opened if samples else None)
        data = None
        if request.options.data is not None and isinstance(opened, OpenReference):
            data = opened.runs.data_used()
    report = _report(request, given, decided, written)
    return replace(report, data=data, seconds=time.monotonic() - started)


def _report(request: Request, given: _Model, decided: _Decided, written: _Written) -> LowRankReport:
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
        check=written.check,
        notes=tuple(_notes(request, given, decided, written)),
        options=request.options.to_json(),
        versions=summary.versions(),
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


def _samples(request: Request, given: _Model) -> int:
    """Return on how many random inputs to check; 0 means that nothing is checked, data or not."""
    if request.samples is not None:
        return request.samples
    is_large = given.input_bytes > checks.LIMIT_BYTES and request.options.data is None
    return 0 if is_large else 1


def _decided(request: Request, given: _Model, bench: Workbench) -> _Decided:
    options, selection = request.options, given.selection
    keys = frozenset(layer.key for layer in selection.layers)
    stored = bench.statistics(keys)
    jobs = conversion.workers(ConvertOptions(jobs=options.jobs))
    fits = Fits(request.document, selection.layers, options.split, stored, jobs)
    curves = selecting.with_given(list(fits.curves(bench.tell("factors"))), selection.given)
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
    external = request.options.external_data
    if external == "auto" and not made and given.input_bytes < conversion.MAX_INLINE_BYTES:
        external = "never"  # the same values with longer references would take more bytes
    store = conversion.open_store(external, document, request.target)
    counted = selecting.counted(given.weights)
    kept = [weight for weight in counted if (weight.graph, weight.name) not in made]
    is_source = not made and store.placement is None and not document.has_data_files
    layers = given.selection.layers
    try:
        for layer in layers:
            if layer.key in made:
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
    hidden = sum(layer.key not in seen for layer in layers)
    wide = sum(layer.inputs > MOST_INPUTS and layer.key in seen for layer in layers)
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
