"""Follow a saved plan on a model, after checking that it is a plan for that model.

Owns the checks: a plan file is input like any other, and a tensor that was equal to another when
the plan was made need not be so in the next version of the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from onnxq import halves
from onnxq.errors import InputError
from onnxq.forms import MAX_NODE_BYTES, SCATTER_OPSET, canonical
from onnxq.graphs import Document, Scope
from onnxq.model import Weight, read
from onnxq.plans import Plan, TensorPlan, places
from onnxq.pools import POOL_OPSET, node_bytes
from onnxq.selection import reason_by_kind, skip

Key = tuple[str, str]


def match_plan(document: Document, plan: Plan, weights: Sequence[Weight]) -> Plan:
    """Return a saved plan for the weights of a model, tensors it does not name as skips.

    Raises:
        InputError: the plan names a tensor that the model lacks, or with another shape or type;
            a tensor twice; storage that cannot be seen; or equal tensors that are not equal.
    """
    label = document.label
    by_key = {(weight.graph, weight.name): weight for weight in weights}
    done: dict[Key, TensorPlan] = {}
    for planned in plan.tensors:
        weight = _weight_of(planned, by_key, label)
        if planned.key in done:
            raise InputError(f"{label}: the plan names tensor {planned.name!r} twice")
        named = canonical(planned.layout, planned.bit_width, planned.centroids, weight.scope.opset)
        is_pooled = (done.get(planned.same_as or planned.key) or planned).is_pooled
        if not is_pooled and named != (planned.layout, planned.bit_width):
            raise InputError(
                f"{label}: tensor {planned.name!r}: layout {planned.layout} has no form for "
                f"{planned.bit_width} bits and {planned.centroids} centroids here"
            )
        if planned.same_as is not None:
            _check_equal(document, planned, done.get(planned.same_as), by_key)
        _check_storage(planned, weight.scope, label)
        is_half = planned.layout == "half" or planned.kept_dtype == "float16"
        if is_half and not halves.fits(read(document, weight)):
            where = "layout half" if planned.layout == "half" else "values kept as float16"
            raise InputError(
                f"{label}: tensor {planned.name!r}: holds values beyond the range of float16, "
                f"expected none in {where}; change layout or kept_dtype in the plan"
            )
        if planned.kept_values:
            _check_kept(planned, weight, label)
        if planned.is_pooled and weight.scope.opset < POOL_OPSET:
            raise InputError(
                f"{label}: tensor {planned.name!r}: a pool needs opset {POOL_OPSET}, found "
                f"{weight.scope.opset}; make a new plan for this model"
            )
        done[planned.key] = planned
    _check_pools(plan, weights, label)
    reasons = {(record.graph, record.name): record for record in plan.skips}
    skips = [
        reasons.get(key) or skip(weight, "not-in-plan", "the plan does not name it")
        for key, weight in by_key.items()
        if key not in done
    ]
    return dataclasses.replace(plan, skips=tuple(skips))


def _check_kept(planned: TensorPlan, weight: Weight, label: str) -> None:
    """Check that the model and the tensor's size allow of kept values."""
    if weight.scope.opset < SCATTER_OPSET:
        raise InputError(
            f"{label}: tensor {planned.name!r}: kept values need opset {SCATTER_OPSET}, found "
            f"{weight.scope.opset}; set kept_values to 0 and kept_dtype to null in the plan"
        )
    if weight.data_bytes > MAX_NODE_BYTES:
        raise InputError(
            f"{label}: tensor {planned.name!r}: {weight.data_bytes:,} bytes with kept values, "
            f"expected {MAX_NODE_BYTES:,} at most; set kept_values to 0 and kept_dtype to null"
        )


def _check_pools(plan: Plan, weights: Sequence[Weight], label: str) -> None:
    for pool, member in places(plan, weights).values():
        if member == 0 and node_bytes(pool) > MAX_NODE_BYTES:
            raise InputError(
                f"{label}: the plan pools {sum(pool.lengths):,} weights of {pool.bit_width} bits, "
                f"which would take {node_bytes(pool):,} bytes to decode, {MAX_NODE_BYTES:,} at "
                "most; set is_pooled to false for the largest of them"
            )


def _weight_of(planned: TensorPlan, by_key: Mapping[Key, Weight], label: str) -> Weight:
    weight = by_key.get(planned.key)
    if weight is None or reason_by_kind(weight):
        raise InputError(f"{label}: has no tensor {planned.name!r} in {planned.graph} to encode")
    if (weight.shape, weight.dtype) != (planned.shape, planned.dtype):
        raise InputError(
            f"{label}: tensor {planned.name!r} is {weight.dtype}{list(weight.shape)}, the plan "
            f"expects {planned.dtype}{list(planned.shape)}; make a new plan for this model"
        )
    return weight


def _check_storage(planned: TensorPlan, scope: Scope, label: str) -> None:
    around: Scope | None = scope
    while around is not None and around.path != planned.storage_graph:
        around = around.parent
    if around is None:
        raise InputError(
            f"{label}: tensor {planned.name!r} cannot be stored in {planned.storage_graph!r}, "
            f"which is not around {scope.path}"
        )


def _check_equal(
    document: Document, planned: TensorPlan, lead: TensorPlan | None, by_key: Mapping[Key, Weight]
) -> None:
    """Check that a tensor really holds the values whose storage it is to share."""
    if lead is None or lead.same_as is not None or lead.storage_graph != planned.storage_graph:
        raise InputError(
            f"{document.label}: the plan stores tensor {planned.name!r} as {planned.same_as}, "
            "which is no tensor planned before it with storage of its own"
        )
    first, second = by_key[lead.key], by_key[planned.key]
    is_alike = (first.data_type, first.elements) == (second.data_type, second.elements)
    if is_alike:
        left, right = (read(document, w).reshape(-1).view(np.uint8) for w in (first, second))
        is_alike = bool(np.array_equal(left, right))
    if not is_alike:
        raise InputError(
            f"{document.label}: tensors {lead.name!r} and {planned.name!r} were equal when the "
            "plan was made and are not in this model; make a new plan"
        )
