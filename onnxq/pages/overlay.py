"""Reports of any kind as working points under names that tell them apart.

Owns which points of which model are looked at together, under which names, and which figures of
quality they have (measures). A conversion and a validation are taken as one working point each, so
that they can be laid over a sweep. Texts from reports are made plain here, since names of models
and tensors may hold anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnxq.errors import InputError, OptionError
from onnxq.plaintext import one_line, plain
from onnxq.quantities import size_text
from onnxq.report import AnyReport, FileSize, Report, ValidateReport
from onnxq.sweeps.working_points import SweepReport, WorkingPoint
from onnxq.validation.measurements import Estimate, MetricRow, finite, short_name

DrawnReport = Report | ValidateReport | SweepReport
"""The reports that can be drawn."""

SNR = "snr"
"""Label of the measure that every check has: the least signal-to-noise ratio of the outputs."""

_TITLES = {
    "snr": "Output SNR",
    "psnr-ref": "PSNR of the outputs",
    "cosine": "Cosine similarity of the outputs",
    "max-abs": "Largest absolute difference",
    "mean-abs": "Mean absolute difference",
    "top1-agreement": "Top-1 agreement with float",
    "top5-agreement": "Top-5 agreement with float",
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "f1": "F1 score",
    "auc": "Area under the ROC curve",
    "mse": "Mean squared error",
    "psnr": "PSNR",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Hold a working point of a report with the model it belongs to.

    Attributes:
        model: Name of the float model, the same for reports on the same model.
        model_bytes: Size of the float model.
        origin: Command that made the report.
        series: Curve that the point is on; "" where a model has one.
        label: Names the point on its curve: "4 bits", or a file.
        point: The figures.
    """

    model: str
    model_bytes: int
    origin: Literal["convert", "validate", "sweep"]
    series: str
    label: str
    point: WorkingPoint


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Name a figure of quality: its label, its title, the direction that is good, its unit."""

    label: str
    title: str
    better: Literal["higher", "lower"]
    unit: str = ""

    @property
    def axis(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def entries(reports: Sequence[AnyReport | SweepReport]) -> tuple[Entry, ...]:
    """Return the working points of reports, in their order.

    Raises:
        InputError: a report is none of `convert`, `validate` and `sweep`, or there is none.
    """
    drawn = [_drawn(report) for report in reports]
    if not drawn:
        raise InputError("report: found none, expected at least one of convert, validate or sweep")
    names = _model_names([original(report) for report in drawn])
    return tuple(
        entry
        for report, name in zip(drawn, names, strict=True)
        for entry in _entries_of(report, name)
    )


def original(report: DrawnReport) -> FileSize:
    """Return the float model that a report is about."""
    if isinstance(report, SweepReport):
        return report.model
    return report.input if isinstance(report, Report) else report.reference


def measures(shown: Sequence[Entry]) -> tuple[Measure, ...]:
    """Return what can be drawn upwards: those of a task, the SNR, others; each by appearance.

    The SNR of a single output is that of the worst one, which every check has: they are one.
    """
    found: dict[str, tuple[int, Measure]] = {}
    outputs = {row.output for entry in shown for row in entry.point.metrics}
    for entry in shown:
        for row in entry.point.metrics:
            title = _title(row, has_output=len(outputs) > 1)
            measure = Measure(
                label=plain(row.label), title=title, better=row.better, unit=plain(row.unit)
            )
            if row.name != SNR or len(_snr_rows(entry)) > 1:
                found.setdefault(row.label, (0 if row.kind == "task" else 2, measure))
    if any(reading(entry, SNR) is not None for entry in shown):
        worst = Measure(label=SNR, title="Output SNR, worst output", better="higher", unit="dB")
        found[SNR] = (1, worst)
    return tuple(measure for _, measure in sorted(found.values(), key=lambda item: item[0]))


def choose_measure(shown: Sequence[Entry], label: str | None) -> Measure:
    """Return the measure of a label or a metric's name, or the first one for None.

    Raises:
        OptionError: nothing was measured, or nothing of that name.
    """
    known = {measure.label: measure for measure in measures(shown)}
    if not known:
        raise OptionError("found no measured figure to draw; run with --check 1 or with --data")
    if label is None:
        return next(iter(known.values()))
    if label in known:
        return known[label]
    if any(plain(row.label) == label for entry in shown for row in _snr_rows(entry)):
        return known[SNR]
    for measure in known.values():
        if label == measure.label.partition("@")[0] or label.partition("@")[0] == measure.label:
            return measure
    raise OptionError(f"metric {label!r} was not measured; expected one of {', '.join(known)}")


def full_label(shown: Sequence[Entry], entry: Entry) -> str:
    """Return the name of a working point among others, with its model where there are several."""
    is_one_model = len({other.model for other in shown}) == 1
    has_series = entry.series and any(
        (entry.model, entry.series) != (o.model, o.series) for o in shown
    )
    parts = ["" if is_one_model else entry.model, entry.series if has_series else "", entry.label]
    return ", ".join(part for part in parts if part)


def reading(entry: Entry, label: str) -> MetricRow | None:
    """Return the figures of an entry under a measure's label; None where it was not measured."""
    if label == SNR:
        return min(_snr_rows(entry), key=_rank, default=_checked(entry))
    return next((row for row in entry.point.metrics if plain(row.label) == label), None)


def _snr_rows(entry: Entry) -> list[MetricRow]:
    return [row for row in entry.point.metrics if row.name == SNR]


def _rank(row: MetricRow) -> float:
    value = finite(row.candidate.value)
    return value if value is not None else math.inf if row.is_equal else -math.inf


def _checked(entry: Entry) -> MetricRow | None:
    """Return the SNR of an entry's check as a metric."""
    check = entry.point.check
    if check is None or check.status != "ok":
        return None
    return MetricRow(
        name=SNR,
        output=None,
        kind="fidelity",
        better="higher",
        unit="dB",
        samples=check.samples,
        candidate=Estimate(value=finite(check.worst_snr_db)),
        is_equal=check.is_equal,
    )


def _drawn(report: AnyReport | SweepReport) -> DrawnReport:
    if isinstance(report, Report | ValidateReport | SweepReport):
        return report
    raise InputError(
        f"report: found one of {report.command}, expected one of convert, validate or sweep"
    )


def _entries_of(report: DrawnReport, model: str) -> list[Entry]:
    found = _named_entries(report, model)
    return [replace(entry, point=_without_single_outputs(entry.point)) for entry in found]


def _without_single_outputs(point: WorkingPoint) -> WorkingPoint:
    """Return a point whose metrics of one output go by their name alone.

    Outputs of two models rarely share a name; the metrics of both belong on one axis all the same.
    """
    counts = Counter(row.name for row in point.metrics)
    rows = (replace(row, output=None) if counts[row.name] == 1 else row for row in point.metrics)
    return replace(point, metrics=tuple(rows))


def _named_entries(report: DrawnReport, model: str) -> list[Entry]:
    size = original(report).file_bytes
    if isinstance(report, SweepReport):
        return [
            Entry(
                model=model,
                model_bytes=size,
                origin="sweep",
                series=one_line(point.series),
                label=_bits(point.settings) or f"point {number}",
                point=point,
            )
            for number, point in enumerate(report.points, 1)
        ]
    if isinstance(report, Report):
        point = _converted(report)
        label = _bits(point.settings) or _file_name(report.output)
        series = "converted"
    else:
        point, label, series = _validated(report), _file_name(report.candidate), "validated"
    return [
        Entry(
            model=model,
            model_bytes=size,
            origin=report.command,
            series=series,
            label=label,
            point=point,
        )
    ]


def _converted(report: Report) -> WorkingPoint:
    return WorkingPoint(
        key="",
        settings=report.options,
        command="",
        file_bytes=report.predicted_bytes if report.output is None else report.output.file_bytes,
        ratio=None if report.output is None else report.output.ratio,
        ce2_bytes=report.ce2_bytes,
        bits_per_weight=report.bits_per_weight,
        check=report.check,
        ledger=report.ledger,
        tensors=report.tensors,
        seconds=report.seconds,
    )


def _validated(report: ValidateReport) -> WorkingPoint:
    return WorkingPoint(
        key="",
        settings={},
        command="",
        file_bytes=report.candidate.file_bytes,
        ratio=report.candidate.ratio,
        check=report.check,
        metrics=report.metrics,
        seconds=report.seconds,
    )


def _bits(settings: Mapping[str, object]) -> str:
    bits = settings.get("bits")
    if isinstance(bits, bool) or not isinstance(bits, int):
        return ""
    return f"{bits} bit" if bits == 1 else f"{bits} bits"


def _file_name(file: FileSize | None) -> str:
    if file is None or not file.path:
        return "in memory"
    return one_line(file.path.replace("\\", "/").rstrip("/").rpartition("/")[2])


def _model_names(files: Sequence[FileSize]) -> list[str]:
    """Return a name for each file; two of one name and different sizes are told apart by size."""
    sizes: dict[str, set[int]] = {}
    for file in files:
        sizes.setdefault(_file_name(file), set()).add(file.file_bytes)
    return [
        name if len(sizes[name]) == 1 else f"{name} ({size_text(file.file_bytes)})"
        for file in files
        for name in [_file_name(file)]
    ]


def _title(row: MetricRow, *, has_output: bool) -> str:
    title = _TITLES.get(row.name, one_line(short_name(row.name)))
    return title if row.output is None or not has_output else f"{title}, {one_line(row.output)}"
