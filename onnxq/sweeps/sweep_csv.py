"""A sweep as comma-separated values: a row for each working point, a column for each figure.

Owns the columns, their names and how a value is spelled; docs/sweep.md lists them. Every sweep of
the same settings and metrics has the same columns, failed points too, so files can be joined.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from onnxq.plaintext import plain
from onnxq.sweeps.grid import spell
from onnxq.sweeps.working_points import SweepReport, WorkingPoint
from onnxq.validation.measurements import Estimate, MetricRow

_SPREAD = ("standard error", "low", "high")
_COMPARED = (
    "reference",
    "reference standard error",
    "difference",
    "difference low",
    "difference high",
    "relative change",
    "within noise",
)


def dumps(report: SweepReport) -> str:
    """Return the table with a header, in UTF-8 and with a line feed at every end.

    Cells are empty where there is no figure; an SNR is "inf" of equal outputs, "-inf" of outputs
    that no ratio describes.
    """
    labels = metric_labels(report.points)
    settings = _names(point.settings for point in report.points)
    rows = [_row(report, point, settings, labels) for point in report.points]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_header(settings, labels)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def metric_labels(points: Iterable[WorkingPoint]) -> dict[str, MetricRow]:
    """Return the metrics of all points by label, with an example of each."""
    found: dict[str, MetricRow] = {}
    for point in points:
        for row in point.metrics:
            found.setdefault(row.label, row)
    return found


def _names(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of all settings, the width first."""
    return list(dict.fromkeys(["bits", *(name for record in records for name in record)]))


def _header(settings: Iterable[str], labels: Mapping[str, MetricRow]) -> Iterable[str]:
    yield from ("model", "series", *settings)
    yield from ("file_bytes", "ratio", "ce2_bytes", "bits_per_weight", "snr_db", "samples")
    for label, example in labels.items():
        others = _SPREAD if example.kind == "fidelity" else _SPREAD + _COMPARED
        yield from (plain(label), *(plain(f"{label} {name}") for name in others))
    yield from ("seconds", "command", "error")


def _row(
    report: SweepReport,
    point: WorkingPoint,
    settings: Iterable[str],
    labels: Mapping[str, MetricRow],
) -> dict[str, str]:
    row: dict[str, Any] = {
        "model": report.model.path,
        "series": point.series,
        **{name: spell(point.settings[name]) for name in settings if name in point.settings},
        "file_bytes": point.file_bytes,
        "ratio": point.ratio,
        "ce2_bytes": point.ce2_bytes,
        "bits_per_weight": point.bits_per_weight,
        "snr_db": snr(point),
        "samples": point.check.samples if point.check is not None else None,
        "seconds": point.seconds,
        "command": point.command,
        "error": point.error,
    }
    found = {metric.label: metric for metric in point.metrics}
    for label in labels:
        if label in found:
            row.update(_metric_cells(found[label]))
    return {plain(name): _cell(value) for name, value in row.items()}


def snr(point: WorkingPoint) -> float | None:
    """Return the least SNR of a point's outputs: inf where all are equal, None where unknown."""
    if point.check is None or point.check.status == "skipped":
        return None
    return float("inf") if point.check.is_equal else point.check.worst_snr_db


def _metric_cells(metric: MetricRow) -> dict[str, Any]:
    reference, difference = metric.reference or _NOTHING, metric.difference or _NOTHING
    cells = {
        "": metric.candidate.value,
        "standard error": metric.candidate.standard_error,
        "low": metric.candidate.low,
        "high": metric.candidate.high,
    }
    if metric.kind == "task":
        cells |= {
            "reference": reference.value,
            "reference standard error": reference.standard_error,
            "difference": difference.value,
            "difference low": difference.low,
            "difference high": difference.high,
            "relative change": metric.relative_change,
            "within noise": metric.is_within_noise,
        }
    return {f"{metric.label} {name}".rstrip(): value for name, value in cells.items()}


_NOTHING = Estimate(value=None)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return plain(str(value).lower() if isinstance(value, bool) else str(value))
