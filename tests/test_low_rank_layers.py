"""Which weights can be factorised, how, and the reason of each other one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper

from onnxq.low_rank.layers import Layer
from tests import graphs
from tests.low_rank import (
    assert_close,
    convolution,
    found,
    layer_model,
    only_layer,
    rewritten,
)

node = graphs.node


def reasons(proto: ModelProto) -> dict[str, str]:
    return found(proto)[2]


def product(*held: Any, order: str = "x,w", inputs: tuple[int, ...] = (5, 48)) -> ModelProto:
    """Return a model of one MatMul of x and w, of this shape."""
    values = {"w": graphs.normal(held, 1)}
    return layer_model([node("MatMul", order, "y")], inputs, len(inputs), values)


# What is a layer


@pytest.mark.parametrize(
    ("kernel", "splits"),
    [
        ((3, 3), ("spatial-hw", "spatial-wh", "channel")),
        ((1, 1), ("channel",)),
        ((1, 7), ("spatial-hw", "channel")),
        ((7, 1), ("spatial-wh", "channel")),
        ((5,), ("channel",)),
        ((3, 3, 3), ("channel",)),
    ],
)
def test_a_convolution_has_the_splits_that_differ(
    kernel: tuple[int, ...], splits: tuple[str, ...]
) -> None:
    _, layer, _ = only_layer(convolution((48, 32, *kernel), (9,) * len(kernel)))
    assert (layer.kind, layer.splits) == ("conv", splits)


@pytest.mark.parametrize(
    ("split", "rows", "columns"),
    [("spatial-hw", 24 * 5, 16 * 3), ("spatial-wh", 24 * 3, 16 * 5), ("channel", 24, 16 * 3 * 5)],
)
def test_ranks_and_parameters_follow_from_the_matrix(split: Any, rows: int, columns: int) -> None:
    _, layer, _ = only_layer(convolution((24, 16, 3, 5), (9, 9)))
    assert layer.matrix_shape(split) == (rows, columns)
    assert layer.full_rank(split) == min(rows, columns)
    assert layer.split_parameters(split, 7) == 7 * (rows + columns)
    assert (layer.outputs, layer.channels, layer.inputs) == (24, 16, 16 * 3 * 5)


def test_each_group_has_the_rank() -> None:
    _, layer, _ = only_layer(convolution((48, 16, 3, 3), (9, 9), group=3))
    assert (layer.groups, layer.outputs, layer.inputs) == (3, 16, 16 * 9)
    assert layer.matrix_shape("spatial-hw") == (16 * 3, 16 * 3)
    assert layer.split_parameters("spatial-hw", 2) == 2 * 3 * (48 + 48)


def test_the_largest_rank_takes_less_than_the_weight_and_the_next_does_not() -> None:
    _, layer, _ = only_layer(product(48, 40))
    largest = layer.max_rank("matrix")
    assert 4 * layer.split_parameters("matrix", largest) + layer.overhead_bytes < 4 * 48 * 40
    assert 4 * layer.split_parameters("matrix", largest + 1) + layer.overhead_bytes >= 4 * 48 * 40


@pytest.mark.parametrize(
    ("op", "order", "turned", "outputs", "kind"),
    [
        ("Gemm", "x,w,c", {}, 40, "gemm"),
        ("Gemm", "x,w,c", {"transB": 1}, 48, "gemm"),
        ("Gemm", "w,x,c", {}, 48, "gemm-left"),
        ("Gemm", "w,x,c", {"transA": 1}, 40, "gemm-left"),
        ("MatMul", "x,w", {}, 40, "matmul"),
        ("MatMul", "w,x", {}, 48, "matmul-left"),
    ],
)
def test_products_tell_inputs_from_outputs(
    op: str, order: str, turned: dict[str, int], outputs: int, kind: str
) -> None:
    held = {"w": graphs.normal((48, 40), 1), "c": graphs.normal((1,), 2)}
    if op == "MatMul":
        del held["c"]
    _, layer, _ = only_layer(layer_model([node(op, order, "y", **turned)], (40, 48), 2, held))
    assert (layer.kind, layer.outputs, layer.inputs) == (kind, outputs, 88 - outputs)
    assert layer.uses[0].activation == "x"


def test_one_weight_of_several_equal_uses_is_one_layer() -> None:
    held = {"w": graphs.normal((48, 48), 1)}
    nodes = [node("MatMul", "x,w", "h"), node("MatMul", "h,w", "y")]
    _, layer, _ = only_layer(layer_model(nodes, (5, 48), 2, held))
    assert [use.activation for use in layer.uses] == ["x", "h"]


def test_uses_inside_of_branches_count() -> None:
    _, named, _ = found(graphs.BY_NAME["branches"].build())
    assert {use.scope.path for use in named["outer"].uses} == {
        "main",
        "main/If(u).then_branch",
        "main/If(u).else_branch",
    }


# What is none


def gemm_with(**held: Any) -> ModelProto:
    return layer_model([node("Gemm", "x," + ",".join(held), "y")], (48, 48), 2, held)


def two(second: str, **attributes: Any) -> ModelProto:
    """Return a model that uses one weight twice."""
    first, op = node("MatMul", "x,w", "h"), second.split()[0]
    nodes = [first, node(op, second.split()[1], "y", **attributes)]
    return layer_model(nodes, (48, 48), 2, {"w": graphs.normal((48, 48), 1)})


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_of_two_weights_multiplied_only_the_first_becomes_factors(op: str) -> None:
    weights = {name: graphs.normal((48, 48), seed) for seed, name in enumerate("vw")}
    nodes = [node(op, "v,w", "h"), node("MatMul", "x,h", "y")]
    proto = layer_model(nodes, (5, 48), 2, weights)
    _, layers, reasons = found(proto)
    assert list(layers) == ["v"]
    assert reasons["w"] == "constant-operand"
    assert_close(proto, rewritten(proto))


CASES: dict[str, tuple[ModelProto, str]] = {
    "depthwise": (convolution((32, 1, 5, 5), (9, 9), group=32), "depthwise"),
    "depthwise-multiplied": (convolution((64, 1, 5, 5), (9, 9), group=32), "depthwise"),
    "transposed": (graphs.conv_transpose(), "operator"),
    "recurrent": (graphs.recurrent("LSTM", 4)(), "operator"),
    "looked up": (
        layer_model([node("Gather", "w,i", "g"), node("Add", "x,g", "y")], (2, 48), 2,
                    {"w": graphs.normal((48, 48), 1), "i": np.array([0, 1])}),
        "operator",
    ),
    "summand of Gemm": (
        layer_model([node("Gemm", "x,x,w", "y")], (48, 48), 2, {"w": graphs.normal((48, 48), 1)}),
        "operator",
    ),
    "used otherwise too": (two("Add h,w"), "operator"),
    "used turned too": (two("Gemm h,w", transB=1), "different-uses"),
    "squared": (
        layer_model([node("MatMul", "w,w", "h"), node("Add", "h,x", "y")], (48, 48), 2,
                    {"w": graphs.normal((48, 48), 1)}),
        "different-uses",
    ),
    "batched": (product(3, 48, 48, inputs=(3, 5, 48)), "batched"),
    "vector": (product(48), "vector"),
    "too small": (product(6, 6, inputs=(5, 6)), "too-small"),
    "one row": (product(1, 48, inputs=(5, 1)), "too-small"),
    "graph output": (graphs.initializer_is_output(), "graph-output"),
    "graph input": (graphs.initializer_is_input(), "graph-input"),
    "behind an Identity": (
        layer_model([node("Identity", "w", "v"), node("MatMul", "x,v", "y")], (5, 48), 2,
                    {"w": graphs.normal((48, 48), 1)}),
        "handed-on",
    ),
    "two of one name": (
        layer_model([node("MatMul", "x,w", "y")], (5, 48), 2, {"w": graphs.normal((48, 48), 1)}),
        "ambiguous-name",
    ),
    "NaN": (gemm_with(w=np.where(np.eye(48), np.nan, 1).astype(np.float32)), "not-finite"),
    "infinity": (gemm_with(w=np.full((48, 48), -np.inf, np.float32)), "not-finite"),
    "huge": (gemm_with(w=np.full((48, 48), 1e200)), "extreme-values"),
    "minute": (gemm_with(w=np.full((48, 48), -1e-200)), "extreme-values"),
    "wrong kernel": (convolution((32, 16, 5, 5), (9, 9), kernel_shape=[3, 3]), "malformed"),
    "wrong pads": (convolution((32, 16, 5, 5), (9, 9), pads=[1, 1]), "malformed"),
    "wrong groups": (convolution((32, 16, 5, 5), (9, 9), group=3), "malformed"),
    "no groups": (convolution((32, 16, 5, 5), (9, 9), group=0), "malformed"),
    "wrong rank": (convolution((32, 160), ()), "malformed"),
    "old operators": (convolution((32, 16, 3, 3), (9, 9), opset=7), "opset"),
    "sparse": (graphs.BY_NAME["sparse"].build(), "sparse"),
}  # fmt: skip
CASES["old operators"][0].opset_import[0].version = 6
CASES["two of one name"][0].graph.initializer.append(graphs.tensor("w", graphs.normal((48, 48), 2)))


@pytest.mark.parametrize("case", CASES)
def test_every_other_weight_has_its_reason(case: str) -> None:
    proto, reason = CASES[case]
    skipped = reasons(proto)
    assert skipped["s" if case == "sparse" else "w"] == reason


def test_every_float_is_a_layer_or_skipped_with_a_detail() -> None:
    for case in graphs.CASES:
        document, layers, skipped = found(case.build())
        floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
        held = {tensor.name for tensor in document.proto.graph.initializer}
        names = {t.name for t in document.proto.graph.initializer if t.data_type in floats}
        assert names <= {*layers, *skipped}
        assert not (held - names) & {*layers, *skipped}


def test_operators_of_other_domains_are_left_alone() -> None:
    proto = product(48, 40)
    proto.graph.node[0].domain = "com.example"
    assert reasons(proto) == {"w": "operator"}


def test_attributes_that_a_caller_gives_are_left_alone() -> None:
    held = node("Constant", "", "w", value=graphs.tensor("", graphs.normal((32, 16, 3, 3), 1)))
    conv = node("Conv", "x,w", "y")
    conv.attribute.append(
        AttributeProto(name="strides", type=AttributeProto.INTS, ref_attr_name="steps")
    )
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "F", ["x"], ["y"], [held, conv], opsets, ["steps"])
    body = graphs.graph(
        [node("F", "x", "y", domain="local", steps=[1, 2])],
        [graphs.value("x", 1, 16, 9, 9)],
        [graphs.value("y", 1, 32, 7, 4)],
    )
    proto = graphs.model(body, functions=[function], imports={"local": 1})
    assert reasons(proto) == {"w": "attribute-reference"}


def test_zeros_are_a_layer() -> None:
    _, layer, _ = only_layer(gemm_with(w=np.zeros((48, 48), np.float32)))
    assert isinstance(layer, Layer)
