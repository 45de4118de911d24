"""Working points: settings, what they cost in bytes, and what they do to the outputs.

Owns the records of a sweep, their place in the published JSON, and the reading of any report that
onnxq writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxq import record_json, report
from onnxq.checks import Check
from onnxq.errors import InputError
from onnxq.report import SCHEMA_VERSION, AnyReport, FileSize, Ledger, TensorRow
from onnxq.validation.measurements import DataUsed, MetricRow


@dataclass(frozen=True, kw_only=True)
class WorkingPoint:
    """Hold one point of a sweep; a point that failed has an `error` and no figures.

    Attributes:
        key: Digest of all that decides the figures: model, data, settings, metrics, versions.
        series: The settings that set its curve apart, such as "optimal, portable"; "" if there is
            one curve.
        settings: Convert options by Python name that were asked for, `bits` among them.
        command: Command that makes this file.
        file_bytes: Size of the converted model, external data included.
        ratio: Original size through that.
        ce2_bytes: Size by the accounting of the published method.
        bits_per_weight: Of the encoded weights.
        check: Output differences over all samples.
        metrics: Figures of both models.
        ledger: Every byte of the file.
        tensors: The encoded tensors.
        seconds: Time of conversion and evaluation.
        error: What went wrong, in one line.
    """

    key: str
    series: str = ""
    settings: Mapping[str, Any]
    command: str
    file_bytes: int | None = None
    ratio: float | None = None
    ce2_bytes: int | None = None
    bits_per_weight: float | None = None
    check: Check | None = None
    metrics: tuple[MetricRow, ...] = ()
    ledger: Ledger | None = None
    tensors: tuple[TensorRow, ...] = ()
    seconds: float = 0.0
    error: str | None = None

    def metric(self, label: str) -> MetricRow | None:
        """Return the metric of a label or a name, the first of several outputs."""
        return next((row for row in self.metrics if label in (row.label, row.name)), None)


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """Hold what `sweep` found of one model."""

    command: Literal["sweep"] = "sweep"
    model: FileSize
    data: DataUsed
    points: tuple[WorkingPoint, ...]
    reused: int = 0
    """Points that an earlier, interrupted sweep had finished."""
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Machine, system and providers that the figures come from."""
    command_line: str = ""
    """Command that makes this report again."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values of the published schema."""
        return {"schema_version": SCHEMA_VERSION, **record_json.fields_to_json(self)}


def dumps(found: AnyReport | SweepReport) -> str:
    """Return a report as JSON text in ASCII, which every terminal and locale can carry."""
    return json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n"


def load_report(data: object) -> AnyReport | SweepReport:
    """Return the report that JSON values describe: of a sweep, or of any other command.

    Raises:
        InputError: they are no report, or one of a schema version this onnxq does not know.
    """
    if not isinstance(data, Mapping) or data.get("command") != "sweep":
        return report.from_json(data)
    if data.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"report: found schema version {data.get('schema_version')!r}, expected "
            f"{SCHEMA_VERSION}; write it again with this version of onnxq"
        )
    return record_json.fields_from_json(SweepReport, data, "report")
