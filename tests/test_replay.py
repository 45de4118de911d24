"""A saved plan fits the model it is followed on, or is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxq
from onnxq import model
from onnxq.errors import InputError, OnnxqError
from onnxq.options import make_options
from onnxq.plans import Plan, make_plan
from onnxq.replay import match_plan
from tests import graphs, runs


def made(proto: ModelProto, **options: Any) -> Plan:
    document = model.wrap(proto)
    return make_plan(document, model.weights(document), make_options(options), 1)


def matched(plan: Plan, proto: ModelProto) -> Plan:
    document = model.wrap(proto)
    return match_plan(document, plan, model.weights(document))


WRONG: dict[str, tuple[Any, ...]] = {
    "name": (3, None, "other", ""),
    "graph": (3, None, "elsewhere"),
    "shape": ([6144], [64, -96], "64", None, [64.0, 96], 7),
    "dtype": ("float16", "complex64", 1, None),
    "elements": (1, -1, 0, "many", 2**60),
    "bit_width": (0, 17, -1, "4", 4.5, None, 5, 2, True),
    "centroids": (0, -1, 17, 65_537, "16", None, 16.0, 1),
    "layout": ("native", "bytes", "radix", "half", "zip", None, 3),
    "codebook_dtype": ("float16", "float64", "int8", None),
    "init": ("best", None, 0),
    "pdf_factor": (-1.0, "1", None, float("nan"), float("inf")),
    "max_iterations": (-5, "1", None, 1.5),
    "storage_graph": ("elsewhere", None, 3, "main/If(y).then_branch"),
    "ce2_bits": (0, 17, -1, "4", None, 4.5),
    "is_pooled": (True, None, 1, "yes"),
    "scale_axis": (0, 1, -1, 2, "0", True),
    "scale_dtype": ("float16", "float32", "int8", 1),
    "kept_values": (1, -1, 122, 123, "1", True, 2.0),
    "kept_dtype": ("float16", "float32", "int8", 1),
    "is_weighted": (True, None, 1),
    "has_feedback": (True, None, "yes"),
    "same_as": (["main", "w"], ["main", "b"], ["main", "none"], ["main"], "w", 5, [1, 2]),
}


@pytest.mark.parametrize("field", sorted(WRONG))
def test_damaged_plan_is_refused_or_harmless(field: str) -> None:
    """A plan is input like any other: it ends in a model that works, or in an OnnxqError."""
    proto = graphs.matmul_add()
    record = json.loads(made(proto, bits=4, only_smaller=False).dumps())
    assert record["tensors"][0].keys() == WRONG.keys() | {"original_bytes", "ce2_bits"}
    for tensor in (0, 1):
        for value in WRONG[field]:
            damaged = copy.deepcopy(record)
            damaged["tensors"][tensor][field] = value
            try:
                plan = Plan.from_json(damaged, "plan.json")
                _, converted = onnxq.convert(proto, plan=plan, check=0)
            except OnnxqError:
                continue
            _, restored = onnxq.restore(converted)
            assert [t.name for t in restored.graph.initializer] == ["w", "b"], value
            assert [list(t.dims) for t in restored.graph.initializer] == [[64, 96], [96]], value


@pytest.mark.parametrize("axis", [0, 1, -1, 2, None, "0"])
@pytest.mark.parametrize("layout", ["portable", "radix", "half", "bytes"])
def test_damaged_plan_of_scales_is_refused_or_harmless(axis: Any, layout: str) -> None:
    proto = graphs.matmul_add()
    record = json.loads(made(proto, bits=4, only_smaller=False).dumps())
    for tensor, centroids, dtype in product((0, 1), (0, 9, 16), ("float16", "float64", None)):
        damaged = copy.deepcopy(record)
        damaged["tensors"][tensor] |= {
            "layout": layout, "centroids": centroids, "scale_axis": axis, "scale_dtype": dtype,
            "is_pooled": False,
        }  # fmt: skip
        try:
            plan = Plan.from_json(damaged, "plan.json")
            _, converted = onnxq.convert(proto, plan=plan, check=0)
        except OnnxqError:
            continue
        _, restored = onnxq.restore(converted)
        assert [t.name for t in restored.graph.initializer] == ["w", "b"]


@pytest.mark.parametrize("count", [1, 122, 123, -1, 2**40, "1"])
@pytest.mark.parametrize("layout", ["portable", "radix", "half", "bytes"])
def test_damaged_plan_of_kept_values_is_refused_or_harmless(count: Any, layout: str) -> None:
    proto = graphs.matmul_add()
    record = json.loads(made(proto, bits=4, only_smaller=False).dumps())
    for centroids, dtype in product((0, 9, 16), ("float16", "float64", None)):
        damaged = copy.deepcopy(record)
        damaged["tensors"][0] |= {
            "layout": layout, "centroids": centroids, "kept_values": count, "kept_dtype": dtype,
            "is_pooled": False,
        }  # fmt: skip
        try:
            plan = Plan.from_json(damaged, "plan.json")
            _, converted = onnxq.convert(proto, plan=plan, check=0)
        except OnnxqError:
            continue
        _, restored = onnxq.restore(converted)
        assert [t.name for t in restored.graph.initializer] == ["w", "b"]


def test_tensor_planned_twice_is_refused() -> None:
    plan = made(graphs.matmul_add(), bits=4)
    with pytest.raises(InputError):
        onnxq.convert(graphs.matmul_add(), plan=Plan(tensors=plan.tensors * 2, skips=()), check=0)


# Fitting to a model


def test_plan_of_another_model_is_refused() -> None:
    plan = made(graphs.attention(), bits=4)
    with pytest.raises(InputError, match="model: has no tensor 'q' in main to encode"):
        matched(plan, graphs.tiny())


def test_plan_of_another_shape_or_type_is_refused() -> None:
    plan = made(graphs.matmul_add(), bits=4)
    with pytest.raises(
        InputError, match=r"tensor 'w' is float32\[32, 96\], the plan expects float32\[64, 96\]"
    ):
        matched(plan, graphs.matmul_add(size=32))
    other = graphs.matmul_add()
    other.graph.initializer[0].data_type = graphs.TensorProto.INT32
    with pytest.raises(InputError, match="has no tensor 'w' in main to encode"):
        matched(plan, other)


def test_plan_for_what_must_not_be_encoded_is_refused() -> None:
    plan = made(graphs.initializer_is_output(), bits=4)
    overridable = graphs.initializer_is_output()
    overridable.graph.input.append(graphs.value("w", 64, 64))
    with pytest.raises(InputError, match="has no tensor 'w'"):
        matched(plan, overridable)


def test_plan_may_encode_what_options_would_not() -> None:
    plan = made(graphs.conv_bn_relu(), bits=4, quantize_variance=True, only_smaller=False)
    report, _ = onnxq.convert(graphs.conv_bn_relu(), plan=plan, check=0)
    assert "var" in {row.name for row in report.tensors} | {row.name for row in report.skipped}


def test_tensor_that_the_plan_does_not_name_is_skipped() -> None:
    proto = graphs.conv_bn_relu()
    plan = made(proto, bits=4)
    (w,) = [tensor for tensor in plan.tensors if tensor.name == "w"]
    variance = [record for record in plan.skips if record.name == "var"]
    found = matched(Plan(tensors=(w,), skips=tuple(variance)), proto)
    assert found.tensors == (w,)
    assert {record.name: record.reason for record in found.skips} == {
        **dict.fromkeys(("b", "scale", "bias", "mean"), "not-in-plan"), "var": "variance",
    }  # fmt: skip


def test_plan_is_refused_where_tensors_are_not_equal_any_more() -> None:
    plan = made(graphs.equal_tensors(), bits=4)
    tuned = graphs.equal_tensors()
    tuned.graph.initializer[1].raw_data = (graphs.normal((64, 64), 1) + 1).tobytes()
    with pytest.raises(InputError, match="second"):
        onnxq.convert(tuned, plan=plan, check=0)


def test_plan_is_followed_where_equal_tensors_changed_together() -> None:
    plan = made(graphs.equal_tensors(), bits=4)
    tuned = graphs.equal_tensors(lambda shape, seed: graphs.normal(shape, 9))
    report, converted = onnxq.convert(tuned, plan=plan, check=0)
    assert [row.same_as for row in report.tensors] == [None, "first", "first"]
    _, plain = onnxq.restore(converted)
    arrays = [numpy_helper.to_array(tensor) for tensor in plain.graph.initializer]
    runs.assert_equal(arrays[1], arrays[0])
    values = graphs.normal((64, 64), 9)
    assert np.sum((arrays[0] - values) ** 2) < 0.02 * np.sum(values**2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same_as": ("main", "third")}, "no tensor planned before it"),
        ({"same_as": ("main", "second")}, "no tensor planned before it"),
        ({"storage_graph": "main/If(u).then_branch"}, "which is no|cannot be stored"),
    ],
)
def test_storage_that_cannot_be_shared_is_refused(change: dict[str, Any], message: str) -> None:
    plan = made(graphs.equal_tensors(), bits=4)
    first, second, third = plan.tensors
    changed = dataclasses.replace(second, **change)
    with pytest.raises(InputError, match=message):
        matched(Plan(tensors=(first, changed, third), skips=()), graphs.equal_tensors())


def test_storage_in_a_graph_that_is_not_around_is_refused() -> None:
    plan = made(graphs.branches(), bits=4)
    wrong = dataclasses.replace(plan.tensors[0], storage_graph="main/If(u).then_branch")
    with pytest.raises(InputError, match=r"'outer' cannot be stored in 'main/If\(u\).then_branch'"):
        matched(Plan(tensors=(wrong,), skips=()), graphs.branches())


def test_layout_that_the_opset_lacks_is_refused() -> None:
    plan = made(graphs.matmul_add(opset=21), bits=4, layout="native")
    assert plan.tensors[0].layout == "native"
    with pytest.raises(InputError, match="layout native has no form for 4 bits"):
        matched(plan, graphs.matmul_add(opset=13))
