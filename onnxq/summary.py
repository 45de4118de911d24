"""Turn what the stages did into the rows and the ledger of a report.

Owns the accounting: every byte of the output is in one part of the ledger, and every tensor of the
model is in exactly one row.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata

import numpy as np

from onnxq import revert, tensors
from onnxq.encode import Encoded, decode_indices
from onnxq.forms import MAX_NODE_BYTES, NATIVE_OPSETS, Form, largest_node_bytes
from onnxq.graphs import Consumer, Document
from onnxq.model import Weight
from onnxq.plans import Plan, TensorPlan
from onnxq.rate import ce2_bytes
from onnxq.recognise import Found
from onnxq.report import (
    NO_WEIGHTS,
    ConsumerRow,
    Ledger,
    SkipRow,
    TensorRow,
    WeightRow,
)
from onnxq.selection import Skip

if sys.platform != "win32":
    import resource

_PACKAGES = ("onnx", "numpy", "numba", "onnxruntime-gpu", "onnxruntime")


def tensor_rows(plan: Plan, encoded: Mapping[tuple[str, str], Encoded]) -> tuple[TensorRow, ...]:
    """Return a row for each encoded tensor, in plan order."""
    rows = []
    for planned in plan.tensors:
        lead = encoded[planned.same_as or planned.key]
        rows.append(_tensor_row(planned, lead))
    return tuple(rows)


def _tensor_row(planned: TensorPlan, lead: Encoded) -> TensorRow:
    is_shared = planned.same_as is not None
    codebook_bytes = lead.form.codebook_bytes
    index_bytes = sum(lead.payload_bytes.values()) - codebook_bytes
    return TensorRow(
        name=planned.name,
        graph=planned.graph,
        shape=planned.shape,
        dtype=planned.dtype,
        elements=planned.elements,
        bit_width=lead.form.bit_width,
        centroids=lead.form.centroids,
        index_bytes=0 if is_shared else index_bytes,
        codebook_bytes=0 if is_shared else codebook_bytes,
        snr_db=lead.snr_db,
        scheme=lead.scheme,
        layout=lead.form.layout,
        distortion=lead.distortion if math.isfinite(lead.distortion) else None,
        gap=lead.gap,
        iterations=lead.iterations,
        is_lossless=lead.is_lossless,
        original_bytes=planned.original_bytes,
        same_as=planned.same_as[1] if planned.same_as else None,
        scale_axis=None if is_shared else lead.planned.scale_axis,
        kept_values=0 if is_shared else lead.planned.kept_values,
    )


def skip_rows(skips: Iterable[Skip]) -> tuple[SkipRow, ...]:
    """Return a row for each tensor that is kept."""
    return tuple(SkipRow(**skip.to_json()) for skip in skips)


def kept_floats(weights: Sequence[Weight], plan: Plan) -> list[Weight]:
    """Return the float weights that a plan keeps as they are; parameters are none."""
    kept = {(s.graph, s.name) for s in plan.skips if s.reason not in NO_WEIGHTS}
    return [weight for weight in weights if (weight.graph, weight.name) in kept]


def kept_bytes(weights: Sequence[Weight], plan: Plan) -> int:
    """Return the bytes of the float tensors that a plan keeps."""
    return sum(weight.data_bytes for weight in kept_floats(weights, plan))


def external_bytes(kept: Sequence[Weight]) -> int:
    """Return the bytes of those tensors that stand in a data file."""
    return sum(weight.data_bytes for weight in kept if _is_external(weight))


def ledger(
    total: int, rows: Sequence[TensorRow], kept: Sequence[Weight], skeleton_bytes: int, moved: int
) -> Ledger:
    """Return where the bytes of an output went; the parts sum to `total`.

    Args:
        total: bytes of the output and its data file.
        rows: the encoded tensors.
        kept: the float tensors kept.
        skeleton_bytes: the model after the encoded weights were taken out, before anything came.
        moved: bytes of tensors other than floats that stand in the data file.
    """
    indices = sum(row.index_bytes for row in rows)
    codebooks = sum(row.codebook_bytes for row in rows)
    stored = sum(weight.data_bytes for weight in kept)
    original = skeleton_bytes - (stored - external_bytes(kept)) + moved
    return Ledger(
        indices=indices,
        codebooks=codebooks,
        added_graph=total - indices - codebooks - stored - original,
        kept_weights=stored,
        original_graph=original,
    )


def _is_external(weight: Weight) -> bool:
    return weight.tensor is not None and tensors.is_external(weight.tensor)


def published_bytes(
    plan: Plan, encoded: Mapping[tuple[str, str], Encoded], kept: Sequence[Weight]
) -> int:
    """Return the CE2 bytes of a conversion at the planned widths (spec: size accounting).

    It knows neither scales nor kept values; each scale counts as a float, each kept value as two.
    """
    own = [planned for planned in plan.tensors if planned.same_as is None]
    counted = [(p.ce2_bits or p.bit_width, p.elements, encoded[p.key].form.centroids) for p in own]
    scales = sum(0 if p.scale_axis is None else p.shape[p.scale_axis] for p in own)
    scales += sum(2 * p.kept_values for p in own)
    return ce2_bytes(counted, 4 * (scales + sum(weight.elements for weight in kept)))


def form_notes(forms: Sequence[tuple[str, Form]], layout: str) -> list[str]:
    """Return what a user should know of forms: tensors too large to fold, gaps in a layout."""
    notes = [
        f"tensor {name!r}: decodes to {largest_node_bytes(form):,} bytes; onnxruntime folds nodes "
        f"up to {MAX_NODE_BYTES:,} at load, so it is put together again at every run"
        for name, form in forms
        if largest_node_bytes(form) > MAX_NODE_BYTES
    ]
    if layout == "native":
        replaced = {(form.bit_width, form.opset) for _, form in forms if form.layout == "portable"}
        notes += (_native_note(*pair) for pair in sorted(replaced) if pair[0] not in (8, 16))
    return notes


def _native_note(bit_width: int, opset: int) -> str:
    if bit_width not in NATIVE_OPSETS:
        return f"layout native has no form for {bit_width} bits; portable was used"
    least = NATIVE_OPSETS[bit_width][1]
    return (
        f"layout native needs opset {least} for {bit_width} bits and this model has {opset}; "
        "portable was used"
    )


def weight_row(
    weight: Weight,
    planned: TensorPlan | None = None,
    kept: Skip | None = None,
    cost: int | None = None,
) -> WeightRow:
    """Return what a plan does with one tensor: it is kept, and nothing known of why, by default."""
    return WeightRow(
        name=weight.name,
        graph=weight.graph,
        kind=weight.kind,
        shape=weight.shape,
        dtype=weight.dtype,
        elements=weight.elements,
        bytes=weight.data_bytes,
        consumers=_consumer_rows(weight.consumers),
        action="convert" if planned else "keep",
        bit_width=planned.bit_width if planned else None,
        reason=kept.reason if kept else None,
        detail=kept.detail if kept else "",
        predicted_bytes=cost,
    )


def _consumer_rows(uses: Iterable[Consumer]) -> tuple[ConsumerRow, ...]:
    return tuple(ConsumerRow(op_type=u.op_type, node=u.node, input=u.index) for u in uses)


def encoded_row(row: TensorRow, found: Found, uses: Iterable[Consumer]) -> WeightRow:
    """Return an encoded tensor as one of all tensors; its bytes are those that are stored."""
    return WeightRow(
        name=row.name,
        graph=row.graph,
        kind="constant" if found.scope.is_function else "initializer",
        shape=row.shape,
        dtype=row.dtype,
        elements=row.elements,
        bytes=row.stored_bytes,
        consumers=_consumer_rows(uses),
        action="encoded",
        bit_width=row.bit_width,
    )


def found_row(document: Document, found: Found) -> TensorRow:
    """Return the row of an encoded tensor of a converted model; its loss is not known."""
    storage = found.storage
    read = revert.payloads(document, storage)
    form = storage.form
    used = 0 if form.layout == "half" else int(np.unique(decode_indices(read, form)).size)
    index_bytes = sum(values.nbytes for values in read.values()) - form.codebook_bytes
    if form.pool is not None:
        index_bytes = form.pool.share_bytes(form.member)
    is_shared = found.same_as is not None
    elements = storage.form.elements
    return TensorRow(
        name=found.name,
        graph=found.scope.path,
        shape=found.shape,
        dtype=tensors.type_name(storage.form.data_type),
        elements=elements,
        bit_width=storage.form.bit_width,
        centroids=used,
        index_bytes=0 if is_shared else index_bytes,
        codebook_bytes=0 if is_shared else storage.form.codebook_bytes,
        snr_db=None,
        scheme="unknown",
        layout=storage.form.layout,
        gap=None,
        is_lossless=False,
        original_bytes=tensors.nominal_bytes(storage.form.data_type, elements),
        same_as=storage.name if is_shared else None,
        scale_axis=None if is_shared else form.scale_axis,
        kept_values=0 if is_shared else form.kept,
    )


def peak_memory_bytes() -> int | None:
    """Return the largest resident size this process has had, in bytes; None where unknown."""
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@cache
def versions() -> Mapping[str, str]:
    """Return the versions of what the bytes and figures depend on."""
    # A checkout that is run as it is has no metadata.
    found = {"onnxq": str(sys.modules["onnxq"].__version__)}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
