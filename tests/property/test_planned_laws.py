"""Laws of models whose plan mixes scales, radix and float16 values with the usual forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import onnxq
from onnxq import halves, model
from onnxq.graphs import Document
from onnxq.model import Weight
from onnxq.options import make_options
from onnxq.plans import Plan, TensorPlan, make_plan
from onnxq.radixpack import RADIXES
from tests import reading
from tests.property.strategies import models

some = settings(max_examples=60)


def changed(draw: st.DrawFn, document: Document, weight: Weight, planned: TensorPlan) -> TensorPlan:
    """Draw another way to store a tensor, or none."""
    is_wide = planned.dtype in ("float32", "float64")
    fields: dict[str, Any] = {}
    kind = draw(st.sampled_from(("as it is", "radix", "half")))
    opset = weight.scope.opset
    is_base = planned.bit_width in RADIXES and opset >= 11 and not planned.is_pooled
    if kind == "half" and is_wide and halves.fits(model.read(document, weight)):
        return replace(
            planned, layout="half", bit_width=16, centroids=0, codebook_dtype="float16",
            is_pooled=False,
        )  # fmt: skip
    if kind == "radix" and is_base:
        base = RADIXES[planned.bit_width].base
        fields |= {"layout": "radix", "centroids": min(base, max(planned.centroids, 3))}
    axes = [axis for axis, dim in enumerate(planned.shape) if dim > 1]
    if is_wide and axes and planned.same_as is None and draw(st.booleans()):
        stored = draw(st.sampled_from((planned.dtype, "float16")))
        fields |= {"scale_axis": draw(st.sampled_from(axes)), "scale_dtype": stored}
    return replace(planned, **fields)


@st.composite
def planned_models(draw: st.DrawFn) -> tuple[ModelProto, Plan]:
    """Draw a model and a plan for it."""
    proto = draw(models(("normal", "few", "constant")))
    options = make_options({
        "bits": draw(st.sampled_from((2, 3, 4, 6, 9))), "only_smaller": False,
        "fewer_bits": False, "pool_indices": draw(st.booleans()),
    })  # fmt: skip
    document = model.wrap(proto)
    weights = model.weights(document)
    by_key = {(weight.graph, weight.name): weight for weight in weights}
    plan = make_plan(document, weights, options, 1)
    found: dict[Any, TensorPlan] = {}
    for one in plan.tensors:
        if one.same_as is None:
            found[one.key] = changed(draw, document, by_key[one.key], one)
        else:  # it is stored as its lead is
            lead = found[one.same_as]
            fields = ("layout", "bit_width", "centroids", "codebook_dtype")
            found[one.key] = replace(one, **{field: getattr(lead, field) for field in fields})
    return proto, replace(plan, tensors=tuple(found.values()))


@some
@given(planned_models())
def test_size_is_foreseen_and_every_tensor_is_found_again(drawn: tuple[ModelProto, Plan]) -> None:
    proto, plan = drawn
    report, converted = onnxq.convert(proto, plan=plan, check=0)
    assert report.predicted_bytes == report.output.file_bytes == converted.ByteSize()
    assert report.ledger.total == converted.ByteSize()
    if not plan.tensors:
        return
    found = onnxq.inspect(converted)

    def facts(row: Any) -> tuple[Any, ...]:
        return (row.graph, row.name, row.shape, row.dtype, row.layout, row.bit_width, row.centroids,
                row.index_bytes, row.codebook_bytes, row.scale_axis)  # fmt: skip

    assert {facts(row) for row in found.tensors} == {facts(row) for row in report.tensors}


@some
@given(planned_models())
def test_restored_model_has_every_weight_again(drawn: tuple[ModelProto, Plan]) -> None:
    proto, plan = drawn
    if not plan.tensors:
        return
    report, converted = onnxq.convert(proto, plan=plan, check=0)
    _, plain = onnxq.restore(converted)
    assert not onnxq.inspect(plain).is_converted
    before, after = reading.floats(proto), reading.floats(plain)
    assert before.keys() == after.keys()
    encoded = {row.name: row for row in report.tensors}
    for (_, name), array in before.items():
        twin = next(value for (_, other), value in after.items() if other == name)
        assert (twin.dtype, twin.shape) == (array.dtype, array.shape)
        row = encoded.get(name)
        if row is None or row.is_lossless:
            assert twin.tobytes() == array.tobytes(), name
        elif row.distortion is not None:
            error = float(np.sum((array.astype(np.float64) - twin.astype(np.float64)) ** 2))
            assert np.isclose(row.distortion, error, rtol=1e-9)
    gone = {key for key in before if key[1] in encoded}
    assert reading.without(plain, gone) == reading.without(proto, gone)


@some
@given(planned_models())
def test_any_jobs_give_the_same_bytes(drawn: tuple[ModelProto, Plan]) -> None:
    proto, plan = drawn
    one, four = (onnxq.convert(proto, plan=plan, check=0, jobs=jobs)[1] for jobs in (1, 4))
    assert one.SerializeToString() == four.SerializeToString()
