"""A sweep as text for a person: what was swept, a table of the points, what failed.

Owns wording, columns and units on the terminal; every figure comes from the report. The float model
stands in the first row, so that every figure has its yardstick above it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxq.console.measure_tables import short_labels
from onnxq.console.report_tables import add_figures, bare_table
from onnxq.plaintext import plain
from onnxq.sweeps.sweep_csv import metric_labels, snr
from onnxq.sweeps.working_points import SweepReport, WorkingPoint
from onnxq.validation.measurements import Estimate, MetricRow

_SAME = "~"
"""Mark of a figure that differs from the float model's by no more than chance would."""


def render(report: SweepReport, console: Console, *, verbose: bool = False) -> None:
    """Write a sweep to a console; `verbose` adds metrics, and the command of each point."""
    _line(console, _headline(report), "bold")
    _line(console, _data(report))
    done = [point for point in report.points if point.error is None]
    if done:
        console.print()
        console.print(point_table(report, verbose=verbose))
        if any(metric.is_within_noise for point in done for metric in point.metrics):
            _line(console, f"{_SAME} within noise of the float model; intervals are 95 %")
    for point in report.points:
        if point.error is not None:
            _line(console, f"{_name(point)} failed: {point.error}", "red")
    for note in report.notes:
        _line(console, f"note: {note}", "yellow")
    if verbose:
        console.print()
        for point in done:
            _line(console, point.command)


def point_table(report: SweepReport, *, verbose: bool = False) -> Table:
    """Return the finished points in rows, the float model first.

    Of metrics that nobody asked for, those of fidelity stand beside the SNR only if `verbose`, or
    if the data know nothing better.
    """
    done = [point for point in report.points if point.error is None]
    labels = _labels(done, is_full=verbose or bool(report.options.get("metrics")))
    has_series = any(point.series for point in done)
    table = bare_table()
    if has_series:
        table.add_column("series", overflow="fold")
    add_figures(table, "bits", "bytes", "ratio", "bits/w", "CE2 bytes", "SNR dB")
    examples = list(labels.values())
    add_figures(table, *(Text(plain(name)) for name in short_labels(examples)))
    float_cells = [
        "-" if has_series else "float",
        f"{report.model.file_bytes:,}",
        "1.00",
        "-",
        "-",
        "-",
    ]
    float_cells += [_estimate(metric.reference) for metric in examples]
    table.add_row(*(["float"] if has_series else []), *float_cells, style="dim")
    for point in done:
        series = [Text(plain(point.series))] if has_series else []
        table.add_row(*series, *_cells(point), *_metric_cells(point, list(labels)))
    return table


def _labels(done: Sequence[WorkingPoint], *, is_full: bool) -> dict[str, MetricRow]:
    """Return the metrics to show, with an example of each."""
    # The column of the SNR has that of the worst output.
    found = {label: row for label, row in metric_labels(done).items() if row.name != "snr"}
    task = {label: row for label, row in found.items() if row.kind == "task"}
    return found if is_full or not task else task


def _headline(report: SweepReport) -> str:
    name = report.model.path or "model in memory"
    failed = sum(point.error is not None for point in report.points)
    parts = [f"{name}: {_count(len(report.points), 'point')}"]
    if report.reused:
        parts.append(f"{report.reused} from an earlier sweep")
    if failed:
        parts.append(f"{failed} failed")
    return f"{', '.join(parts)}, {report.seconds:.1f} s"


def _data(report: SweepReport) -> str:
    data = report.data
    of_all = ""
    if data.available is not None and data.available > data.samples:
        of_all = f" of {data.available:,}"
    where = f" of {data.path}" if data.path is not None else ""
    if data.kind == "random":
        return f"measured on {_count(data.samples, 'random input')}"
    return f"measured on {_count(data.samples, 'sample')}{of_all}{where}"


def _cells(point: WorkingPoint) -> list[str]:
    ratio = snr(point)
    return [
        str(point.settings["bits"]),
        _whole(point.file_bytes),
        "-" if point.ratio is None else f"{point.ratio:.2f}",
        "-" if point.bits_per_weight is None else f"{point.bits_per_weight:.2f}",
        _whole(point.ce2_bytes),
        "-" if ratio is None else _decibels(ratio),
    ]


def _metric_cells(point: WorkingPoint, labels: Sequence[str]) -> list[str]:
    found = {metric.label: metric for metric in point.metrics}
    return [_metric(found[label]) if label in found else "-" for label in labels]


def _metric(metric: MetricRow) -> str:
    if metric.is_equal and metric.candidate.value is None:
        return "equal"
    if metric.kind == "fidelity":
        return _figure(metric.candidate.value)
    return _estimate(metric.candidate) + (f" {_SAME}" if metric.is_within_noise else "")


def _estimate(estimate: Estimate | None) -> str:
    """Return a figure with the half width of its interval."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return _figure(None if estimate is None else estimate.value)
    return f"{_figure(estimate.value)} ±{(estimate.high - estimate.low) / 2:.2g}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _decibels(ratio: float) -> str:
    if math.isfinite(ratio):
        return f"{ratio:.2f}"
    return "equal" if ratio > 0 else "none"


def _whole(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _name(point: WorkingPoint) -> str:
    series = f"{point.series}, " if point.series else ""
    return f"{series}{_count(int(point.settings['bits']), 'bit')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(plain(text), style), soft_wrap=True)
