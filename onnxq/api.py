"""The public functions: convert, inspect, restore, sweep, validate; lowrank is `low_rank.entry`'s.

Each reads as one screen of named steps; the steps are in the modules below. A model may be a path,
an `onnx.ModelProto` or an `onnx_ir.Model`; what is given is never changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from onnxq import conversion, converting, files, inspection, model, recognise, summary
from onnxq.conversion import Progress, ProgressEvent
from onnxq.data.feeds import load_feeds
from onnxq.errors import InputError
from onnxq.low_rank.entry import lowrank
from onnxq.options import OptionValues, make_options
from onnxq.plans import Plan
from onnxq.report import FileSize, InspectReport, Report, RestoreReport, ValidateReport
from onnxq.sources import ModelLike, like, name_of, open_model, output_path, path_text
from onnxq.validation.measure_options import MeasureValues, make_measure_options

if TYPE_CHECKING:  # a conversion needs nothing of what measures
    from onnxq.converting import ConvertValues
    from onnxq.data.watched_data import MeasureEvent
    from onnxq.sweeps.sweep_pace import SweepEvent
    from onnxq.sweeps.working_points import SweepReport


@overload
def convert(
    source: ModelLike,
    output: None = None,
    *,
    check: int | None = None,
    force: bool = False,
    requantize: bool = False,
    plan: str | os.PathLike[str] | Plan | None = None,
    save_plan: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Unpack[ConvertValues],
) -> tuple[Report, Any]: ...
@overload
def convert(
    source: ModelLike,
    output: str | os.PathLike[str],
    *,
    check: int | None = None,
    force: bool = False,
    requantize: bool = False,
    plan: str | os.PathLike[str] | Plan | None = None,
    save_plan: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Unpack[ConvertValues],
) -> Report: ...
def convert(
    source: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    check: int | None = None,
    force: bool = False,
    requantize: bool = False,
    plan: str | os.PathLike[str] | Plan | None = None,
    save_plan: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Unpack[ConvertValues],
) -> Report | tuple[Report, Any]:
    """Replace float weights by codebooks and packed indices.

    Args:
        source: a path, an `onnx.ModelProto` or an `onnx_ir.Model`.
        output: path to write; without one the converted model is returned beside the report.
        check: random inputs to run both models on, 0 for none; by default 1 up to a model size of
            `checks.LIMIT_BYTES`.
        force: overwrite an existing output or plan file.
        requantize: decode a model that was converted before, instead of refusing it.
        plan: a saved plan to follow in place of the options that decide what is encoded.
        save_plan: path to write the plan to.
        progress: called with a ProgressEvent for each tensor.
        **options: the fields of `onnxq.options.ConvertOptions`, such as `bits=6`; or one target of
            `onnxq.allocation.targets.make_target`, such as `target_ratio=0.15`; and what it goes
            by: the fields of `onnxq.allocation.planning_options.PlanningOptions`.

    Returns:
        The report; without `output` a pair (report, model) with a model of the source's kind.

    Raises:
        OnnxqError: the options, the input or the output are at fault; see docs/errors.md.
    """
    request = converting.Request(
        source=source,
        output=output,
        options=options,
        plan=plan,
        save_plan=save_plan,
        check=check,
        force=force,
        requantize=requantize,
        progress=progress,
    )
    report, proto = converting.convert(request)
    return report if output is not None else (report, like(source, proto))


def plan(
    source: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    requantize: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ConvertValues],
) -> Plan:
    """Decide how each tensor would be stored, and convert nothing.

    Args:
        source: a path, an `onnx.ModelProto` or an `onnx_ir.Model`.
        output: path to write the plan to, as JSON that `convert` obeys byte for byte.
        force: overwrite an existing file.
        requantize: look at a model that was converted before, decoded.
        progress: called with a ProgressEvent for each tensor.
        **options: as of `convert`.

    Returns:
        The plan.

    Raises:
        OnnxqError: the options, the input or the output are at fault, or a target is out of reach.
    """
    if output is not None:
        files.check_output(Path(output), force=force)
    request = converting.Request(
        source=source, options=options, requantize=requantize, progress=progress
    )
    made = converting.plan(request)
    if output is not None:
        files.write_bytes(Path(output), made.dumps().encode())
    return made


def inspect(source: ModelLike, **options: Unpack[OptionValues]) -> InspectReport:
    """Return what a model holds and what `convert` would do with it under the same options.

    Raises:
        OnnxqError: the options or the input are at fault.
    """
    chosen = make_options(options)
    document = open_model(source)
    size = FileSize(path=name_of(document), file_bytes=model.total_bytes(document))
    if found := recognise.find(document):
        return inspection.inspect_converted(document, found, size)
    return inspection.inspect_plain(document, chosen, size)


@overload
def restore(
    source: ModelLike, output: None = None, *, force: bool = False
) -> tuple[RestoreReport, Any]: ...
@overload
def restore(
    source: ModelLike, output: str | os.PathLike[str], *, force: bool = False
) -> RestoreReport: ...
def restore(
    source: ModelLike, output: str | os.PathLike[str] | None = None, *, force: bool = False
) -> RestoreReport | tuple[RestoreReport, Any]:
    """Put the decoded weights back in place of every encoded tensor.

    Returns:
        The report; without `output` a pair (report, model) with a model of the source's kind.

    Raises:
        InputError: the model holds no encoded tensor, or is damaged.
        OutputError: the output cannot be written.
    """
    started = time.monotonic()
    target = output_path(output, source, force)
    document = open_model(source)
    input_bytes = model.total_bytes(document)
    if target is not None:
        files.check_output(target, force=force, inputs=model.data_files(document))
    found = recognise.find(document)
    if not found:
        raise InputError(f"{document.label}: holds no encoded tensor; there is nothing to restore")
    rows = tuple(summary.found_row(document, item) for item in found)
    output_bytes = conversion.restore(document, found, target)
    report = RestoreReport(
        input=FileSize(path=name_of(document), file_bytes=input_bytes),
        output=FileSize(path=path_text(output), file_bytes=output_bytes),
        tensors=rows,
        versions=summary.versions(),
        seconds=time.monotonic() - started,
        peak_memory_bytes=summary.peak_memory_bytes(),
    )
    return report if target is not None else (report, like(source, document.proto))


def validate(
    reference: ModelLike,
    candidate: ModelLike,
    *,
    inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    min_snr: float | None = None,
    max_drop: Mapping[str, float | str] | None = None,
    max_latency_ratio: float | None = None,
    max_size_ratio: float | None = None,
    progress: Callable[[MeasureEvent], None] | None = None,
    **options: Unpack[MeasureValues],
) -> ValidateReport:
    """Measure on the same inputs, in onnxruntime, what a candidate has lost.

    Args:
        reference: the model that is right by definition.
        candidate: the model to judge.
        inputs: inputs of a single run, an .npz file or a mapping of arrays by input name.
        min_snr: least SNR in dB of every output.
        max_drop: most that metrics may get worse: a number in the metric's unit, or "1%".
        max_latency_ratio: most latency, candidate through reference, median over runs in turn.
        max_size_ratio: most bytes, candidate through reference.
        progress: called with a MeasureEvent for each batch of samples and each tensor.
        **options: the fields of `onnxq.validation.measure_options.MeasureOptions`, such as
            `data="val.npz"`.

    Returns:
        The report; its `passed` says whether the candidate runs and every gate holds. No gate
        raises.

    Raises:
        OnnxqError: the options are at fault, or a model or the data cannot be read.
    """
    from onnxq.validation import gates, measuring

    limits = gates.make_gates(min_snr, max_drop, max_latency_ratio, max_size_ratio)
    chosen = make_measure_options(options)
    measuring.check_options(chosen, limits, has_inputs=inputs is not None)
    first, second = open_model(reference), open_model(candidate)
    request = measuring.ValidateRequest(
        reference=first,
        candidate=second,
        options=chosen,
        gates=limits,
        inputs=None if inputs is None else load_feeds(inputs),
        progress=progress,
    )
    return measuring.validate(request)


def sweep(
    source: ModelLike,
    *,
    bits: str | int | Sequence[int] = tuple(range(2, 9)),
    grid: Mapping[str, Any] | None = None,
    state: str | os.PathLike[str] | None = None,
    jobs: int = 0,
    command_line: str = "",
    plot_metric: str | None = None,
    progress: Callable[[SweepEvent], None] | None = None,
    **options: Unpack[MeasureValues],
) -> SweepReport:
    """Convert a model at every point of a grid and measure what each costs and does.

    Args:
        source: a path, an `onnx.ModelProto` or an `onnx_ir.Model`.
        bits: bit widths, or their text such as "2-8".
        grid: one or several values by the name of a convert option: `{"init": ["optimal"]}`.
        state: file of finished points, so that an interrupted sweep continues.
        jobs: points at a time, 0 for one per core; never more than memory allows.
        command_line: command that makes the report again, to be kept in it.
        plot_metric: metric that the report will be drawn by; refused at once if it is not measured.
        progress: called with a SweepEvent after each point.
        **options: the fields of `onnxq.validation.measure_options.MeasureOptions`, such as
            `data="val.npz"`; `layers` and `performance` belong to `validate`.

    Returns:
        The report; a point that failed has its error in it.

    Raises:
        OnnxqError: the options are at fault, the model, the data or the state file cannot be read
            or written, or every point failed.
    """
    from onnxq.sweeps import sweeping

    request = sweeping.SweepRequest(
        bits=bits,
        axes=grid or {},
        measure=make_measure_options({"performance": False, **options}),
        state=None if state is None else Path(state),
        jobs=jobs,
        command_line=command_line,
        plot_metric=plot_metric,
    )
    return sweeping.sweep(source, request, sweeping.Tools(convert=_convert_point), progress)


def _convert_point(source: ModelLike, target: Path, options: Mapping[str, Any]) -> Report:
    return convert(source, target, check=0, **options)


__all__ = [
    "ProgressEvent",
    "convert",
    "inspect",
    "lowrank",
    "plan",
    "restore",
    "sweep",
    "validate",
]
