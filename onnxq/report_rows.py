"""The rows of reports: files, tensors, bytes, as records of the published JSON.

Owns the fields and their meaning, and sums over rows; `report` has the reports made of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from onnxq import record_json

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
    are rounds of Lloyd or steps of the solver; None where they are not known. `scale_axis` is the
    axis whose positions have a scale each; their bytes count as those of the codebook, and so do
    those of `kept_values` and their places. Layout `half` has no codebook: its values are its
    indices of 16 bits, its `centroids` are 0.
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
    scheme: Literal[
        "optimal", "bounded-pdf", "quantile", "uniform", "lossless", "float16", "unknown"
    ]
    layout: Literal["portable", "native", "bytes", "radix", "half"]
    distortion: float | None = None
    gap: float | None = None
    iterations: int | None = None
    is_lossless: bool | None
    original_bytes: int
    same_as: str | None = None
    scale_axis: int | None = None
    kept_values: int = 0

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
class FactorRow:
    """Describe one weight that two factors replaced.

    `nodes` are those that used it. `energy` is the share of its sum of squares that the factors
    keep, `snr_db` the same in decibels; `output_snr_db` is that of the layer's outputs on the
    data, None where these did not tell (`statistics` is "none").
    """

    name: str
    graph: str
    nodes: tuple[str, ...]
    kind: Literal["conv", "gemm", "gemm-left", "matmul", "matmul-left"]
    shape: tuple[int, ...]
    dtype: str
    split: Literal["spatial-hw", "spatial-wh", "channel", "matrix"]
    rank: int
    full_rank: int
    elements: int
    factor_elements: int
    original_bytes: int
    stored_bytes: int
    energy: float
    snr_db: float | None
    output_snr_db: float | None = None
    statistics: Literal["inputs", "none"] = "none"


@dataclass(frozen=True, kw_only=True)
class FactorLedger:
    """Account for every byte of a model with factors; the parts sum to its file or files."""

    factors: int
    added_graph: int
    kept_weights: int
    original_graph: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return self.factors + self.added_graph + self.kept_weights + self.original_graph

    def to_json(self) -> dict[str, Any]:
        """Return the parts and their `total`."""
        return {**record_json.fields_to_json(self), "total": self.total}


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
