"""What a command found and did, as records that become the published JSON and come back from it.

Owns the fields and their meaning (docs/report.md, schema/report.schema.json), not their wording on
a terminal (`render`) and not their computation (`api`). Every byte of an output file is in the
ledger, and every tensor of the model is in exactly one of `tensors` and `skipped`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from onnxq import record_json
from onnxq.checks import Check
from onnxq.errors import InputError
from onnxq.validation.measurements import DataUsed, GateRow, LayerRow, MetricRow, Performance

SCHEMA_VERSION = 1
"""Version of the JSON; it changes when a field goes or changes its meaning, not when one comes."""

NO_WEIGHTS = frozenset(
    {"already-quantized", "attribute", "empty", "not-float", "parameter", "sparse"}
)
"""Reasons of skipped tensors that are no float weights, and so have no share of the weights."""


@dataclass(frozen=True, kw_only=True)
class FileSize:
    """Name a model file and its size, external data files included; no path in memory.

    `ratio` is how many times smaller an output is than its input; a report fills it in.
    `data_files` are the names of the files beside an output that hold its values.
    """

    path: str | None
    file_bytes: int
    ratio: float | None = None
    data_files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values; `ratio` only where there is one."""
        fields = record_json.fields_to_json(self)
        if self.ratio is None:
            del fields["ratio"]
        if not self.data_files:
            del fields["data_files"]
        return fields

    def compared_to(self, original: FileSize) -> FileSize:
        """Return the record with its `ratio` to an original."""
        is_known = self.file_bytes > 0
        ratio = original.file_bytes / self.file_bytes if is_known else None
        return dataclasses.replace(self, ratio=ratio)


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """Describe one encoded tensor.

    `same_as` names the tensor whose indices and codebook it shares; its own bytes are then 0.
    `snr_db` is None where decoding is exact. `gap` is the distortion over the proven optimum,
    minus 1; None where that is not known. `distortion` is the sum of squared errors. `iterations`
    are rounds of Lloyd or steps of the solver; None where they are not known.
    """

    name: str
    graph: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    bit_width: int
    centroids: int
    index_bytes: int
    codebook_bytes: int
    snr_db: float | None
    scheme: Literal["optimal", "bounded-pdf", "quantile", "uniform", "lossless", "unknown"]
    layout: Literal["portable", "native", "bytes"]
    distortion: float | None = None
    gap: float | None = None
    iterations: int | None = None
    is_lossless: bool | None
    original_bytes: int
    same_as: str | None = None

    @property
    def stored_bytes(self) -> int:
        """Indices and codebook together."""
        return self.index_bytes + self.codebook_bytes


@dataclass(frozen=True, kw_only=True)
class SkipRow:
    """Describe one tensor that is kept as it is; `reason` is a stable word, `detail` a sentence."""

    name: str
    graph: str
    elements: int
    bytes: int
    reason: str
    detail: str = ""

    @property
    def is_weight(self) -> bool:
        """Whether the tensor is a float weight that could have been encoded."""
        return self.reason not in NO_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Account for every byte of a converted model; the parts sum to its file or files."""

    indices: int
    codebooks: int
    added_graph: int
    kept_weights: int
    original_graph: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return (
            self.indices
            + self.codebooks
            + self.added_graph
            + self.kept_weights
            + self.original_graph
        )

    def to_json(self) -> dict[str, Any]:
        """Return the parts and their `total`."""
        return {**record_json.fields_to_json(self), "total": self.total}


@dataclass(frozen=True, kw_only=True)
class WidthRow:
    """Sum up the weights of one bit width, or those kept as they are (`bit_width` None)."""

    bit_width: int | None
    tensors: int
    elements: int
    original_bytes: int
    stored_bytes: int


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
class ConsumerRow:
    """Name one use of a weight: the input of a node, by operator, node name and position."""

    op_type: str
    node: str
    input: int


@dataclass(frozen=True, kw_only=True)
class WeightRow:
    """Describe one tensor of an inspected model and what `convert` would do with it.

    `action` is "convert" with the `bit_width` and the `predicted_bytes`, "keep" with the `reason`
    and its `detail`, or, in a converted model, "encoded" with the `bit_width`; `bytes` are then
    those of indices and codebook. Why a tensor was kept is not always known in a converted model.
    """

    name: str
    graph: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    bytes: int
    consumers: tuple[ConsumerRow, ...]
    action: Literal["convert", "keep", "encoded"]
    bit_width: int | None = None
    reason: str | None = None
    detail: str = ""
    predicted_bytes: int | None = None


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


AnyReport = Report | InspectReport | RestoreReport | ValidateReport
_KINDS: Mapping[str, type[AnyReport]] = {
    "convert": Report,
    "inspect": InspectReport,
    "restore": RestoreReport,
    "validate": ValidateReport,
}


def sum_by_width(tensors: Iterable[TensorRow], skipped: Iterable[SkipRow]) -> tuple[WidthRow, ...]:
    """Return a row for each bit width in use, rising, then one for kept weights if there are any.

    Tensors that are no weights (integers, parameters) are in no row.
    """
    encoded: dict[int, list[TensorRow]] = {}
    for tensor in tensors:
        encoded.setdefault(tensor.bit_width, []).append(tensor)
    rows = [
        WidthRow(
            bit_width=bit_width,
            tensors=len(group),
            elements=sum(tensor.elements for tensor in group),
            original_bytes=sum(tensor.original_bytes for tensor in group),
            stored_bytes=sum(tensor.stored_bytes for tensor in group),
        )
        for bit_width, group in sorted(encoded.items())
    ]
    kept = [row for row in skipped if row.is_weight]
    kept_bytes = sum(row.bytes for row in kept)
    if kept:
        rows.append(
            WidthRow(
                bit_width=None,
                tensors=len(kept),
                elements=sum(row.elements for row in kept),
                original_bytes=kept_bytes,
                stored_bytes=kept_bytes,
            )
        )
    return tuple(rows)


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
