"""The tables of a validation: gates, metrics, times and memory, tensors by what they do.

Owns columns and digits of measured figures. A difference stands with half the width of its
95 % interval, since that decides whether it is noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from onnxq.console.report_tables import decibels, make_table, place
from onnxq.plaintext import plain
from onnxq.quantities import duration, size_text
from onnxq.validation.measurements import (
    Estimate,
    GateRow,
    LayerRow,
    MetricRow,
    Performance,
    Timing,
    short_name,
)


def gate_table(rows: Sequence[GateRow]) -> Table:
    """Return every gate, what was found, and whether it passed.

    What a gate looks at is told where it looks at several things.
    """
    counts = Counter(row.gate for row in rows)
    has_several = any(count > 1 for count in counts.values())
    table = make_table("gate", *(["of"] if has_several else []), "found", "")
    if has_several:
        table.columns[1].justify = "left"
    for row in rows:
        subject = [Text(plain(row.subject if counts[row.gate] > 1 else ""))] if has_several else []
        table.add_row(
            Text(plain(row.gate)),
            *subject,
            "-" if row.found is None else f"{row.found:.4g}",
            Text("ok", "green") if row.passed else Text("failed", "red"),
        )
    return table


def metric_table(rows: Sequence[MetricRow]) -> Table:
    """Return every metric of both models, the difference, and whether that is noise.

    Outputs are named only where there are several, and modules of functions where they must be.
    """
    table = make_table("metric", "REF", "CANDIDATE", "difference", "(REF-C)/C", "n", "noise?")
    labels = short_labels(rows)
    for row, label in zip(rows, labels, strict=True):
        is_task = row.kind == "task"
        noise = {True: "yes", False: "no", None: "-"}[row.is_within_noise]
        table.add_row(
            Text(plain(label + (f" ({row.unit})" if row.unit else ""))),
            _figure(row.reference, row) if is_task else "-",
            _figure(row.candidate, row) + ("" if is_task else _spread(row.candidate)),
            "-" if row.difference is None else _difference(row.difference),
            "-" if row.relative_change is None else f"{100 * row.relative_change:+.2f} %",
            f"{row.samples:,}",
            Text(noise, "yellow" if row.is_within_noise is False else ""),
        )
    return table


def short_labels(rows: Sequence[MetricRow]) -> list[str]:
    """Return names that tell metrics apart, without outputs and modules that need not be told."""
    has_one_output = len({row.output for row in rows if row.output is not None}) <= 1
    full = [row.name if has_one_output else row.label for row in rows]
    short = [
        short_name(row.name) + label[len(row.name) :] for row, label in zip(rows, full, strict=True)
    ]
    return [
        brief if short.count(brief) == 1 else label
        for brief, label in zip(short, full, strict=True)
    ]


def metric_details(rows: Sequence[MetricRow]) -> list[str]:
    """Return what else must be known of metrics, a line for each that has it."""
    labels = short_labels(rows)
    return [f"{label}: {row.detail}" for row, label in zip(rows, labels, strict=True) if row.detail]


def performance_table(performance: Performance) -> Table:
    """Return times and memory of both models, with their ratios: those of times over turns."""
    table = make_table("in onnxruntime", "REF", "CANDIDATE", "ratio")
    pair = performance.reference, performance.candidate
    seconds = {
        "load, median": ([t.load_seconds for t in pair], performance.load_ratio),
        "run, median": ([t.median_seconds for t in pair], performance.latency_ratio),
        "run, 9 of 10": ([t.p90_seconds for t in pair], None),
    }
    for name, (times, ratio) in seconds.items():
        table.add_row(name, *map(duration, times), _ratio(ratio))
    for name, peaks, ratio in (
        ("memory to load", [t.load_peak_bytes for t in pair], performance.load_memory_ratio),
        ("memory to run", [t.run_peak_bytes for t in pair], performance.run_memory_ratio),
    ):
        if any(peak is not None for peak in peaks):
            table.add_row(name, *map(size_text, peaks), _ratio(ratio))
    return table


def performance_line(performance: Performance) -> str:
    """Return how times and memory were measured."""
    provider = performance.provider.removesuffix("ExecutionProvider").upper()
    threads = performance.threads
    counted = "" if threads == 0 else f", {threads} thread{'' if threads == 1 else 's'}"
    packed = ", weights of CANDIDATE kept packed" if performance.is_packed else ""
    samples = performance.samples
    held = "" if samples is None else f" of {samples:,} sample{'' if samples == 1 else 's'}"
    runs = f"{_runs(performance.reference)} runs{held}"
    return f"{provider}{counted}{packed}, {runs}, turn about; ratio of times: median of the turns"


def layer_table(rows: Sequence[LayerRow], title: str) -> Table:
    """Return tensors with the SNR of each, and that of the outputs with it alone encoded."""
    has_outputs = len({row.output for row in rows if row.output is not None}) > 1
    names = ["bits", "weights", "bytes", "SNR dB", "output SNR dB"]
    table = make_table(title, *names, *(["output"] if has_outputs else []))
    for row in rows:
        output = [Text(plain(row.output or "-"))] if has_outputs else []
        table.add_row(
            place(row.name, row.graph),
            "-" if row.bit_width is None else str(row.bit_width),
            f"{row.elements:,}",
            f"{row.stored_bytes:,}",
            decibels(row.snr_db),
            "equal" if row.output_snr_db is None else decibels(row.output_snr_db),
            *output,
        )
    return table


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _runs(timing: Timing) -> str:
    return f"{timing.runs:,}"


def _figure(estimate: Estimate | None, row: MetricRow) -> str:
    if estimate is None or estimate.value is None:
        return "equal" if row.is_equal else "-"
    return f"{estimate.value:.2f}" if row.unit == "dB" else f"{estimate.value:.4g}"


def _difference(estimate: Estimate) -> str:
    return "-" if estimate.value is None else f"{estimate.value:+.3g}{_spread(estimate)}"


def _spread(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    return f" ±{(estimate.high - estimate.low) / 2:.2g}"
