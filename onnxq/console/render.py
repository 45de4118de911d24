"""A report as text for a person: the headline, then the tables, then the remarks.

Owns wording and order; every figure comes from the report, and `report_tables` owns the tables.
A report is read from its top, so what went wrong stands there, coloured on a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxq.checks import Check
from onnxq.console import factor_tables
from onnxq.console import measure_tables as measured
from onnxq.console import report_tables as tables
from onnxq.plaintext import plain
from onnxq.report import (
    AnyReport,
    FileSize,
    InspectReport,
    LowRankReport,
    Report,
    RestoreReport,
    SkipRow,
    TensorRow,
    ValidateReport,
    sum_by_width,
)

WORST = 5
"""How many tensors the list of the worst shows."""
LAYERS = 10
"""How many tensors are shown that were ranked by what they do to the outputs."""


def render(report: AnyReport, console: Console, *, verbose: bool = False) -> None:
    """Write a report to a console; `verbose` lists every tensor and every use of it."""
    match report:
        case Report():
            _Page(console).convert(report, verbose=verbose)
        case InspectReport():
            _Page(console).inspect(report, verbose=verbose)
        case RestoreReport():
            _Page(console).restore(report, verbose=verbose)
        case ValidateReport():
            _Page(console).validate(report, verbose=verbose)
        case LowRankReport():
            _Page(console).lowrank(report, verbose=verbose)


def worst(rows: Iterable[TensorRow], count: int = WORST) -> list[TensorRow]:
    """Return the encoded tensors of the least SNR, rising; shared and exact ones do not count."""
    noisy = [row for row in rows if row.snr_db is not None and row.same_as is None]
    return sorted(noisy, key=lambda row: row.snr_db or 0.0)[:count]


class _Page:
    """Write lines and tables to one console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str, style: str = "") -> None:
        self._console.print(Text(plain(text), style), soft_wrap=True)

    def table(self, table: Table) -> None:
        if table.row_count:
            tables.fit(table, self._console.width)
            self._console.print()
            self._console.print(table)

    def notes(self, notes: Sequence[str]) -> None:
        if notes:
            self._console.print()
        for note in notes:
            self.line(f"note: {note}", "yellow")

    def convert(self, report: Report, *, verbose: bool) -> None:
        self.line(f"{_path(report.input)} -> {_path(report.output)}", "bold")
        self._data_files(report.output)
        self._gain(report)
        if report.check is not None:
            self._check(report.check, _random(report.check))
            self._hint(report.check, any(row.snr_db is not None for row in report.tensors))
        self.table(tables.width_table(report.by_width()))
        if report.ledger is not None:
            self.table(tables.ledger_table(report.ledger))
        if verbose:
            self.table(tables.tensor_table(report.tensors, "encoded tensors"))
            self.table(tables.skip_table(report.skipped))
        else:
            noisy = worst(report.tensors)
            self.table(tables.tensor_table(noisy, "worst tensors by SNR", is_short=True))
            self.table(tables.reason_table(report.skipped))
        self.notes(report.notes)
        if verbose:
            self._cost(report)

    def _data_files(self, output: FileSize | None) -> None:
        for name in () if output is None else output.data_files:
            self.line(f"with its data in {name}, which belongs beside it under this name")

    def _gain(self, report: Report) -> None:
        output = report.output
        if output is None:
            return
        sizes = f"{report.input.file_bytes:,} -> {output.file_bytes:,} bytes"
        if not report.is_smaller:
            self.line(f"{sizes}: nothing was gained", "yellow")
            if not report.tensors:
                self.line("no tensor is encoded; the output is the equivalent model")
            return
        bits = report.bits_per_weight
        rate = "" if bits is None else f", {bits:.2f} bits per weight"
        self.line(f"{sizes}: {output.ratio:.2f} times smaller{rate}", "green")
        self.line(f"{report.ce2_bytes:,} bytes as published work counts (CE2 bytes, no graph)")

    def _cost(self, report: Report | LowRankReport) -> None:
        memory = report.peak_memory_bytes
        peak = "" if memory is None else f", at most {memory / 1e6:,.0f} MB of memory"
        self._console.print()
        self.line(f"took {report.seconds:.2f} s{peak}")

    def _check(self, check: Check, fed: str) -> None:
        if check.status == "skipped":
            self.line(f"outputs not compared: {check.reason}", "yellow")
            return
        for output in check.outputs:
            if output.mismatch is not None:
                self.line(f"output {output.name!r} is broken: {output.mismatch}", "red")
            if output.undefined is not None:
                self.line(f"output {output.name!r}: {output.undefined}", "yellow")
        if check.is_equal:
            self.line(f"outputs are equal ({fed})", "green")
        elif check.status == "ok" and check.worst_snr_db is not None:
            compared = [output for output in check.outputs if output.undefined is None]
            finite = [output for output in compared if output.snr_db is not None]
            least = min(finite, key=lambda output: output.snr_db or 0.0)
            which = f", worst of {len(check.outputs)}" if len(check.outputs) > 1 else ""
            ratio = tables.decibels(least.snr_db)
            off = "" if least.max_abs is None else f", off by at most {least.max_abs:.3g}"
            self.line(f"output SNR {ratio} dB{off} ({least.name!r}{which}, {fed})")
        self._load(check)

    def _hint(self, check: Check, is_lossy: bool) -> None:
        """Say where a comparison on random inputs tells nothing of the weights."""
        is_unknown = any(output.undefined is not None for output in check.outputs)
        if is_unknown or (is_lossy and (check.is_equal or _is_drowned(check))):
            self.line(
                "these random inputs do not exercise the weights; validate with --data", "yellow"
            )

    def _load(self, check: Check) -> None:
        if check.reference_load_seconds is not None and check.candidate_load_seconds is not None:
            before = _milliseconds(check.reference_load_seconds)
            after = _milliseconds(check.candidate_load_seconds)
            ratio = "" if check.load_ratio is None else f" ({check.load_ratio:.2f} times)"
            self.line(f"load time {before} -> {after}{ratio}")

    def inspect(self, report: InspectReport, *, verbose: bool) -> None:
        self.line(f"{_path(report.model)}: {report.model.file_bytes:,} bytes", "bold")
        if report.is_converted:
            bits = report.bits_per_weight
            rate = "" if bits is None else f", {bits:.2f} bits per weight"
            self.line(f"converted by onnxq{rate}")
        if report.predicted_file_bytes is not None:
            self.line(_prediction(report, report.predicted_file_bytes))
        if report.predicted_load_bytes is not None and _is_decoded(report):
            self.line(f"decoding at load needs {report.predicted_load_bytes:,} bytes of memory")
        if report.is_converted:
            self.table(tables.tensor_table(report.tensors, "encoded tensors"))
            self.table(tables.width_table(sum_by_width(report.tensors, _kept(report))))
        else:
            table = tables.weight_table(report.weights, verbose=verbose)
            self.table(table)
            if hidden := len(report.weights) - table.row_count:
                what = "tensor holds" if hidden == 1 else "tensors hold"
                self.line(f"{hidden:,} more {what} no floats; --verbose lists them")
        if report.ledger is not None:
            self.table(tables.ledger_table(report.ledger))
        self.notes(report.notes)

    def restore(self, report: RestoreReport, *, verbose: bool) -> None:
        self.line(f"{_path(report.input)} -> {_path(report.output)}", "bold")
        grown = "" if report.output is None else f" -> {report.output.file_bytes:,}"
        self._data_files(report.output)
        count = len(report.tensors)
        decoded = f"{count:,} tensor{'' if count == 1 else 's'} decoded"
        self.line(f"{report.input.file_bytes:,}{grown} bytes, {decoded}")
        if verbose:
            self.table(tables.tensor_table(report.tensors, "decoded tensors"))
        self.notes(report.notes)

    def validate(self, report: ValidateReport, *, verbose: bool) -> None:
        reference, candidate, check = report.reference, report.candidate, report.check
        self.line(f"{_path(reference)} against {_path(candidate)}", "bold")
        self._verdict(report)
        sizes = f"{reference.file_bytes:,} -> {candidate.file_bytes:,} bytes"
        self.line(sizes + ("" if candidate.ratio is None else f" ({candidate.ratio:.2f} times)"))
        self.table(measured.gate_table(report.gates))
        self.table(measured.metric_table(report.metrics))
        for detail in measured.metric_details(report.metrics):
            self.line(detail, "dim")
        least = -math.inf if report.min_snr is None else report.min_snr
        is_gated = report.min_snr is not None
        self.table(tables.output_table(check, check.failing(least), is_gated=is_gated))
        self._drowned(report)
        if report.performance is not None:
            self.table(measured.performance_table(report.performance))
            self.line(measured.performance_line(report.performance), "dim")
        shown = report.layers if verbose else report.layers[:LAYERS]
        self.table(measured.layer_table(shown, "tensors, worst first"))
        if hidden := len(report.layers) - len(shown):
            self.line(f"{hidden:,} more tensor{'' if hidden == 1 else 's'}; --verbose lists them")
        if verbose and check.inputs:
            self._console.print()
            for fed in check.inputs:
                self.line(f"input {fed.name!r}: {fed.dtype} {list(fed.shape)}")
        self.notes(report.notes)

    def lowrank(self, report: LowRankReport, *, verbose: bool) -> None:
        self.line(f"{_path(report.input)} -> {_path(report.output)}", "bold")
        self._data_files(report.output)
        self._fewer(report)
        if report.check is not None:
            self._check(report.check, _random(report.check) if report.data is None else _of(report))
            if report.data is None:
                self._hint(report.check, bool(report.layers))
        rows = factor_tables.worst_first(report.layers)
        shown = rows if verbose else rows[: factor_tables.SHOWN]
        title = "weights as factors" if len(shown) == len(rows) else "factors, worst first"
        self.table(factor_tables.factor_table(shown, title))
        if hidden := len(rows) - len(shown):
            self.line(f"{hidden:,} more weight{'' if hidden == 1 else 's'}; --verbose lists them")
        if report.ledger is not None:
            self.table(tables.ledger_table(report.ledger))
        if verbose:
            self.table(tables.skip_table(report.skipped))
        else:
            self.table(tables.reason_table(report.skipped, factor_tables.REASONS))
        self.notes(report.notes)
        if verbose:
            self._cost(report)

    def _fewer(self, report: LowRankReport) -> None:
        """Say how much smaller a model of low rank is, in bytes and in parameters."""
        before, after = report.parameters_before, report.parameters_after
        if report.output is None:
            return
        sizes = f"{report.input.file_bytes:,} -> {report.output.file_bytes:,} bytes"
        if report.is_smaller:
            self.line(f"{sizes}: {report.output.ratio:.2f} times smaller", "green")
        else:
            self.line(f"{sizes}: nothing was gained", "yellow")
        share = tables.share(after, before)
        count = len(report.layers)
        what = f"{count:,} weight{'' if count == 1 else 's'} as factors"
        self.line(f"{before:,} -> {after:,} parameters ({share} are kept), {what}")

    def _verdict(self, report: ValidateReport) -> None:
        passed = "passed" if report.gates else "compared"
        count = len(report.gates)
        gates = f", {count} gate{'' if count == 1 else 's'}" if count else ""
        verdict = passed if report.passed else "FAILED"
        style = "green" if report.passed else "red"
        self.line(f"{verdict} ({_fed(report)}{gates})", style)
        for failure in report.failures:
            self.line(f"failed: {failure}", "red")

    def _drowned(self, report: ValidateReport) -> None:
        """Say where random inputs may be to blame for a bad ratio."""
        is_random = report.data is None or report.data.kind == "random"
        if is_random and _is_drowned(report.check):
            self.line(
                "below 0 dB there is more noise than signal; random inputs may not exercise the "
                "weights: validate with --data",
                "yellow",
            )


def _kept(report: InspectReport) -> list[SkipRow]:
    return [
        SkipRow(
            name=row.name,
            graph=row.graph,
            elements=row.elements,
            bytes=row.bytes,
            reason=row.reason or "",
            detail=row.detail,
        )
        for row in report.weights
        if row.action == "keep"
    ]


def _fed(report: ValidateReport) -> str:
    """Return what the models were run on, in a few words."""
    data = report.data
    count = report.check.samples if data is None else data.samples
    if data is None or data.kind == "random":
        return f"{count:,} random sample{'' if count == 1 else 's'}"
    of_all = data.available is not None and data.available > data.samples
    among = f" of {data.available:,}" if of_all else ""
    where = f" of {data.path}" if data.path is not None else ""
    return f"{count:,} sample{'' if count == 1 else 's'}{among}{where}"


def _random(check: Check) -> str:
    return f"{check.samples} random sample{'' if check.samples == 1 else 's'}"


def _of(report: LowRankReport) -> str:
    count = 0 if report.check is None else report.check.samples
    return f"{count:,} sample{'' if count == 1 else 's'} of data"


def _is_decoded(report: InspectReport) -> bool:
    """Tell whether a runtime decodes anything: of this file, or of the one that is foreseen."""
    return report.is_converted or any(row.action == "convert" for row in report.weights)


def _is_drowned(check: Check) -> bool:
    """Tell whether an output has more noise than signal."""
    ratios = [o.snr_db for o in check.outputs if o.mismatch is None and o.undefined is None]
    return any(ratio is not None and ratio < 0 for ratio in ratios)


def _prediction(report: InspectReport, size: int) -> str:
    bits = report.options.get("bits")
    width = "" if bits is None else f" at {bits} bits"
    ratio = FileSize(path=None, file_bytes=size).compared_to(report.model).ratio
    gain = f"{ratio:.2f} times smaller" if ratio is not None and ratio > 1 else "nothing gained"
    return f"convert{width} would write {size:,} bytes: {gain}"


def _path(size: FileSize | None) -> str:
    return "(in memory)" if size is None or size.path is None else size.path


def _milliseconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{1000 * seconds:,.1f} ms"
