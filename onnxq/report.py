"""What a command found and did, as records that become the published JSON and come back from it.

Owns the fields and their meaning (docs/report.md, schema/report.schema.json), not their wording on
a terminal (`render`) and not their computation (`api`); `report_rows` has the rows. Every byte of
an output file is in the ledger, and every tensor of the model is in exactly one of `tensors` and
`skipped`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from onnxq import record_json
from onnxq.checks import Check
from onnxq.errors import InputError
from onnxq.report_rows import NO_WEIGHTS as NO_WEIGHTS
from onnxq.report_rows import ConsumerRow as ConsumerRow
from onnxq.report_rows import FactorLedger as FactorLedger
from onnxq.report_rows import FactorRow as FactorRow
from onnxq.report_rows import FileSize as FileSize
from onnxq.report_rows import Ledger as Ledger
from onnxq.report_rows import SkipRow as SkipRow
from onnxq.report_rows import TensorRow as TensorRow
from onnxq.report_rows import WeightRow as WeightRow
from onnxq.report_rows import WidthRow as WidthRow
from onnxq.report_rows import sum_by_width as sum_by_width
from onnxq.validation.measurements import DataUsed, GateRow, LayerRow, MetricRow, Performance

SCHEMA_VERSION = 1
"""Version of the JSON; it changes when a field goes or changes its meaning, not when one comes."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Hold what `convert` did; `output.ratio` is filled in from the two sizes."""

    command: Literal["convert"] = "convert"
    input: FileSize
    output: FileSize | None
    predicted_bytes: int
    ce2_bytes: int
    bits_per_weight: float | None
    ledger: Ledger | None
    tensors: tuple[TensorRow, ...]
    skipped: tuple[SkipRow, ...]
    check: Check | None
    notes: tuple[str, ...]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: float
    peak_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.output is not None:
            object.__setattr__(self, "output", self.output.compared_to(self.input))

    @property
    def weights(self) -> int:
        """How many float weights the model has, encoded or kept."""
        return sum(row.elements for row in self.by_width())

    @property
    def is_smaller(self) -> bool:
        """Whether anything was gained."""
        return self.output is not None and self.output.file_bytes < self.input.file_bytes

    def by_width(self) -> tuple[WidthRow, ...]:
        """Return a row for each bit width in use, then one for the weights that were kept."""
        return sum_by_width(self.tensors, self.skipped)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values of the published schema."""
        return _versioned(self)


@dataclass(frozen=True, kw_only=True)
class InspectReport:
    """Hold what `inspect` found; `tensors` and `ledger` belong to a converted model."""

    command: Literal["inspect"] = "inspect"
    model: FileSize
    is_converted: bool
    weights: tuple[WeightRow, ...]
    tensors: tuple[TensorRow, ...] = ()
    ledger: Ledger | None = None
    predicted_file_bytes: int | None = None
    predicted_load_bytes: int | None = None
    bits_per_weight: float | None = None
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values of the published schema."""
        return _versioned(self)


@dataclass(frozen=True, kw_only=True)
class RestoreReport:
    """Hold what `restore` did; `tensors` are the ones that were decoded."""

    command: Literal["restore"] = "restore"
    input: FileSize
    output: FileSize | None
    tensors: tuple[TensorRow, ...]
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values of the published schema."""
        return _versioned(self)


@dataclass(frozen=True, kw_only=True)
class LowRankReport:
    """Hold what `lowrank` did; `layers` are the weights that factors replaced.

    `parameters_before` and `parameters_after` count all floats of the model's weights. `data` is
    what the layers' inputs were taken from, None where only the weights were looked at.
    """

    command: Literal["lowrank"] = "lowrank"
    input: FileSize
    output: FileSize | None
    parameters_before: int
    parameters_after: int
    ledger: FactorLedger | None
    layers: tuple[FactorRow, ...]
    skipped: tuple[SkipRow, ...]
    data: DataUsed | None = None
    check: Check | None
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.output is not None:
            object.__setattr__(self, "output", self.output.compared_to(self.input))

    @property
    def is_smaller(self) -> bool:
        """Whether anything was gained."""
        return self.output is not None and self.output.file_bytes < self.input.file_bytes

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values of the published schema."""
        return _versioned(self)


@dataclass(frozen=True, kw_only=True)
class ValidateReport:
    """Hold how a candidate compares with its reference, and whether it passed its gates.

    `failures` has a line for each output that cannot be compared and each gate that failed. `data`
    is None where the reference cannot be run, so that nothing is known, and in older reports.
    """

    command: Literal["validate"] = "validate"
    reference: FileSize
    candidate: FileSize
    data: DataUsed | None = None
    check: Check
    metrics: tuple[MetricRow, ...] = ()
    performance: Performance | None = None
    layers: tuple[LayerRow, ...] = ()
    gates: tuple[GateRow, ...] = ()
    min_snr: float | None
    passed: bool
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidate", self.candidate.compared_to(self.reference))

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values of the published schema."""
        return _versioned(self)


AnyReport = Report | InspectReport | RestoreReport | ValidateReport | LowRankReport
_KINDS: Mapping[str, type[AnyReport]] = {
    "convert": Report,
    "inspect": InspectReport,
    "restore": RestoreReport,
    "validate": ValidateReport,
    "lowrank": LowRankReport,
}


def dumps(report: AnyReport) -> str:
    """Return a report as JSON text in ASCII, which every terminal and locale can carry."""
    return json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n"


def from_json(data: object) -> AnyReport:
    """Return the report that JSON values describe.

    Raises:
        InputError: they are no report, or one of a schema version this onnxq does not know.
    """
    if not isinstance(data, Mapping) or data.get("command") not in _KINDS:
        raise InputError("report: found no report of onnxq, expected an object with a 'command'")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"report: found schema version {data.get('schema_version')!r}, expected "
            f"{SCHEMA_VERSION}; write it again with this version of onnxq"
        )
    return record_json.fields_from_json(_KINDS[data["command"]], data, "report")


def schema() -> dict[str, Any]:
    """Return the published JSON schema of all reports."""
    text = resources.files("onnxq").joinpath("schema/report.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _versioned(report: AnyReport) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, **record_json.fields_to_json(report)}
