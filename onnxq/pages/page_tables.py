"""The tables of a page: working points, metrics, gates, times, ledgers, tensors that are kept.

Owns columns, units and the value each cell is sorted by. A cell holds plain text; the template
escapes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onnxq.pages import figures, overlay
from onnxq.pages.overlay import Entry, Measure
from onnxq.plaintext import one_line, plain
from onnxq.quantities import size_text
from onnxq.report import Ledger, SkipRow, ValidateReport
from onnxq.validation.measurements import Estimate, LayerRow, MetricRow, Performance, finite

LEDGER_PARTS = {
    "indices": "Indices",
    "codebooks": "Codebooks",
    "added_graph": "Decoding nodes",
    "kept_weights": "Weights kept",
    "original_graph": "Original graph",
}
"""Titles of the parts of a ledger, in the order of the bars."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Hold a cell's text, and what it is sorted by where that is not the text; None sorts last."""

    text: str
    sort: float | str | None = None
    kind: str = ""
    """"good" or "bad" where a cell is a verdict."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Name a column; numbers stand at the right."""

    title: str
    is_number: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """Hold a table; the cells of the first column are the headers of their rows."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def without_blanks(table: Table) -> Table:
    """Return a table without the columns in which no cell says anything."""
    kept = [
        position
        for position in range(len(table.columns))
        if position == 0 or any(row[position].text not in ("", "-") for row in table.rows)
    ]
    return dataclasses.replace(
        table,
        columns=tuple(table.columns[position] for position in kept),
        rows=tuple(tuple(row[position] for position in kept) for row in table.rows),
    )


def points_table(shown: Sequence[Entry], measure: Measure | None) -> Table:
    """Return the working points with all that was measured; the front is that of `measure`."""
    front = _front(shown, measure)
    columns: list[tuple[Column, Callable[[int, Entry], Cell]]] = [
        (_text("Working point"), lambda _, entry: _point(shown, entry)),
        (Column(title="File size"), lambda _, entry: _size(entry.point.file_bytes)),
        (Column(title="Times smaller"), lambda _, entry: number(entry.point.ratio, 2)),
        (Column(title="Bits per weight"), lambda _, entry: number(entry.point.bits_per_weight, 2)),
        (Column(title="CE2 size"), lambda _, entry: _size(entry.point.ce2_bytes)),
    ]
    for known in overlay.measures(shown):
        columns += _measure_columns(shown, known)
    if measure is not None:
        columns.append((_text("Pareto front"), lambda i, _: _front_cell(i in front)))
    if any(entry.point.error for entry in shown):
        columns.append((_text("Error"), lambda _, entry: _words(entry.point.error or "")))
    return Table(
        name="points",
        caption=f"Working points ({len(shown)})",
        columns=tuple(column for column, _ in columns),
        rows=tuple(tuple(cell(i, entry) for _, cell in columns) for i, entry in enumerate(shown)),
    )


def ledger_table(shown: Sequence[Entry]) -> Table:
    """Return the bytes of each part of each file."""
    rows = []
    for entry in shown:
        if entry.point.ledger is not None:
            parts = ledger_parts(entry.point.ledger)
            cells = [_size(size) for size in [*parts, sum(parts)]]
            rows.append((_point(shown, entry), *cells))
    titles = [*LEDGER_PARTS.values(), "File"]
    return Table(
        name="ledger",
        caption="Bytes of each part of each file",
        columns=(_text("Working point"), *(Column(title=title) for title in titles)),
        rows=tuple(rows),
    )


def ledger_parts(ledger: Ledger) -> list[int]:
    """Return the bytes of the parts in the order of LEDGER_PARTS."""
    return [getattr(ledger, part) for part in LEDGER_PARTS]


def metrics_table(rows: Sequence[MetricRow]) -> Table:
    """Return the metrics of a validation, with intervals and whether a difference is noise."""
    titles = ("Samples", "Float", "Converted", "Difference", "(float - converted) / converted")
    return Table(
        name="metrics",
        caption="Metrics, with 95 % intervals",
        columns=(
            _text("Metric"),
            *(Column(title=title) for title in titles),
            _text("Verdict"),
            _text("Remark"),
        ),
        rows=tuple(_metric_cells(row) for row in rows),
    )


def outputs_table(report: ValidateReport) -> Table:
    """Return the differences of each output."""
    count = report.check.samples
    samples = "1 sample" if count == 1 else f"{count:,} samples"
    return Table(
        name="outputs",
        caption=f"Differences of the outputs over {samples}",
        columns=(
            _text("Output"),
            Column(title="SNR (dB)"),
            Column(title="Largest absolute difference"),
            Column(title="Cosine"),
            _text("Remark"),
        ),
        rows=tuple(
            (
                _words(output.name),
                Cell(text="exact", sort=1e9)
                if output.is_equal
                else number(finite(output.snr_db), 2),
                number(output.max_abs),
                number(output.cosine, 6),
                _words(output.mismatch or output.undefined or ("equal" if output.is_equal else "")),
            )
            for output in report.check.outputs
        ),
    )


def gates_table(report: ValidateReport) -> Table:
    """Return the gates and how they went."""
    return Table(
        name="gates",
        caption="Gates",
        columns=(
            _text("Gate"),
            _text("Looks at"),
            Column(title="Found"),
            Column(title="Limit"),
            _text("Result"),
            _text("What it means"),
        ),
        rows=tuple(
            (
                _words(row.gate),
                _words(row.subject),
                number(row.found),
                number(row.limit),
                Cell(
                    text="passed" if row.passed else "failed", kind="good" if row.passed else "bad"
                ),
                _words(row.message),
            )
            for row in report.gates
        ),
    )


def performance_table(found: Performance) -> Table:
    """Return times and memory of both models."""
    ours, theirs = found.reference, found.candidate
    seconds = [
        ("Load time, median", ours.load_seconds, theirs.load_seconds, found.load_ratio),
        ("Latency, median", ours.median_seconds, theirs.median_seconds, found.latency_ratio),
        ("Latency, nine runs in ten", ours.p90_seconds, theirs.p90_seconds, None),
    ]
    memory = [
        ("Memory to load", ours.load_peak_bytes, theirs.load_peak_bytes, found.load_memory_ratio),
        ("Memory to run", ours.run_peak_bytes, theirs.run_peak_bytes, found.run_memory_ratio),
    ]
    threads = f"{found.threads} threads, " if found.threads else ""
    mode = "weights kept packed" if found.is_packed else "weights decoded at load"
    held = f" of {found.samples} samples" if found.samples else ""
    settings = f"{plain(found.provider)}, {threads}{mode}"
    return Table(
        name="performance",
        caption=f"Times and memory: {settings}, {ours.runs} runs{held} in turns; "
        "ratio of times: median of the turns",
        columns=(
            _text("Figure"),
            Column(title="Float"),
            Column(title="Converted"),
            Column(title="Converted / float"),
        ),
        rows=tuple(
            (_words(name), _time(left), _time(right), number(ratio, 2))
            for name, left, right, ratio in seconds
        )
        + tuple(
            (_words(name), _size(left), _size(right), number(ratio, 2))
            for name, left, right, ratio in memory
            if left is not None
        ),
    )


def layers_table(rows: Sequence[LayerRow]) -> Table:
    """Return what each tensor's encoding alone does to the outputs, worst first."""
    return Table(
        name="layers",
        caption="One tensor encoded at a time, worst first",
        columns=(
            _text("Tensor"),
            Column(title="Output SNR with it alone (dB)"),
            Column(title="Its own SNR (dB)"),
            Column(title="Bits"),
            Column(title="Stored"),
        ),
        rows=tuple(
            (
                _words(tensor_name(row.name, row.graph)),
                _decibels(row.output_snr_db),
                _decibels(row.snr_db),
                number(row.bit_width),
                _size(row.stored_bytes),
            )
            for row in rows
        ),
    )


def kept_table(rows: Sequence[SkipRow]) -> Table:
    """Return the tensors that are kept as they are, and why."""
    return Table(
        name="kept",
        caption=f"Tensors kept as they are ({len(rows)})",
        columns=(_text("Tensor"), Column(title="Size"), _text("Reason"), _text("Detail")),
        rows=tuple(
            (
                _words(tensor_name(row.name, row.graph)),
                _size(row.bytes),
                _words(row.reason),
                _words(row.detail),
            )
            for row in rows
        ),
    )


def tensor_name(name: str, graph: str) -> str:
    """Return a tensor's name, with its graph where that is not the main one."""
    return plain(name) if graph in ("", "main") else f"{plain(name)} in {plain(graph)}"


def number(value: float | None, digits: int | None = None) -> Cell:
    """Return a number with so many digits after the point, or four that count."""
    if value is None:
        return Cell(text="-")
    return Cell(text=f"{value:.4g}" if digits is None else f"{value:,.{digits}f}", sort=value)


def estimate_text(found: Estimate | None) -> str:
    """Return a figure with its 95 % interval.

    >>> estimate_text(Estimate(value=0.5, low=0.4, high=0.6))
    '0.5 [0.4, 0.6]'
    """
    if found is None or found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:.4g}"
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"


def _measure_columns(
    shown: Sequence[Entry], known: Measure
) -> list[tuple[Column, Callable[[int, Entry], Cell]]]:
    columns: list[tuple[Column, Callable[[int, Entry], Cell]]] = [
        (Column(title=known.axis), lambda _, entry: _value(overlay.reading(entry, known.label)))
    ]
    rows = [overlay.reading(entry, known.label) for entry in shown]
    if any(row is not None and row.reference is not None for row in rows):
        title = Column(title=f"Change of {known.title}")
        columns.append((title, lambda _, entry: _change(overlay.reading(entry, known.label))))
    return columns


def _value(row: MetricRow | None) -> Cell:
    if row is None:
        return Cell(text="-")
    if row.candidate.value is None and row.is_equal:
        return Cell(text="exact", sort=1e9)
    return Cell(text=estimate_text(row.candidate), sort=row.candidate.value)


def _change(row: MetricRow | None) -> Cell:
    difference = None if row is None else row.difference
    if row is None or difference is None or difference.value is None:
        return Cell(text="-")
    text = f"{difference.value:+.4g}" if difference.value else "0"
    if row.is_within_noise:
        text += ", within noise"
    return Cell(text=text, sort=difference.value)


def _metric_cells(row: MetricRow) -> tuple[Cell, ...]:
    verdicts = {True: "within noise", False: "beyond noise", None: ""}
    change = row.relative_change
    equal = Cell(text="exact", sort=1e9)
    return (
        _words(f"{row.label} ({row.unit})" if row.unit else row.label),
        number(row.samples, 0),
        _estimate(row.reference),
        equal if row.candidate.value is None and row.is_equal else _estimate(row.candidate),
        _estimate(row.difference),
        Cell(text="-") if change is None else Cell(text=f"{100 * change:+.3g} %", sort=change),
        _words(verdicts[row.is_within_noise]),
        _words(row.detail),
    )


def _estimate(found: Estimate | None) -> Cell:
    return Cell(text=estimate_text(found), sort=None if found is None else found.value)


def _point(shown: Sequence[Entry], entry: Entry) -> Cell:
    """Return the name of a point, sorted by model, then series, then bits as a number."""
    bits: Any = entry.point.settings.get("bits", 0)
    rank = f"{bits:05d}" if isinstance(bits, int) else ""
    label = overlay.full_label(shown, entry)
    return Cell(text=label, sort="\t".join((entry.model, entry.series, rank, label)))


def _front(shown: Sequence[Entry], measure: Measure | None) -> frozenset[int]:
    if measure is None:
        return frozenset()
    chart = figures.chart(shown, measure)
    return frozenset(dot.entry for series in chart.series for dot in series.dots if dot.is_front)


def _front_cell(is_front: bool) -> Cell:
    return Cell(text="yes" if is_front else "no", kind="good" if is_front else "")


def _text(title: str) -> Column:
    return Column(title=title, is_number=False)


def _words(text: str) -> Cell:
    return Cell(text=one_line(text), sort=one_line(text) or None)


def _size(size: int | None) -> Cell:
    return Cell(text=size_text(size), sort=size)


def _decibels(value: float | None) -> Cell:
    if value is None:
        return Cell(text="exact", sort=1e9)
    return number(value, 2) if finite(value) is not None else Cell(text="none", sort=-1e9)


def _time(seconds: float) -> Cell:
    text = f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
    return Cell(text=text, sort=seconds)
