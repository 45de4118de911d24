"""Which weights are linear maps, against what onnxruntime makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto

from onnxq import model
from onnxq.calibration import maps
from onnxq.calibration.maps import LinearMap
from tests import graphs, runs

Array = np.ndarray[Any, np.dtype[Any]]


def found(proto: ModelProto) -> dict[str, LinearMap]:
    document = model.wrap(proto)
    made = maps.linear_maps(document, model.weights(document))
    return {name: one for (_, name), one in made.items()}


def axes(proto: ModelProto) -> dict[str, int]:
    document = model.wrap(proto)
    made = maps.output_axes(document, model.weights(document))
    return {name: axis for (_, name), axis in made.items()}


def small(nodes: Sequence[NodeProto], inputs: Any, held: dict[str, Array]) -> ModelProto:
    outputs = [graphs.value("y", *(f"d{axis}" for axis in range(inputs[-1])))]
    body = graphs.graph(nodes, [graphs.value("x", *inputs[:-1])], outputs, graphs.tensors(**held))
    return graphs.model(body)


def product(op_type: str, inputs: str, weight: Sequence[int], x: Sequence[int], **more: Any) -> Any:
    held = {"w": graphs.normal(weight, 1)}
    rank = max(len(weight), len(x))
    return small([graphs.node(op_type, inputs, "y", **more)], (*x, rank), held), held["w"]


PRODUCTS: dict[str, Any] = {
    "matmul": (product("MatMul", "x,w", (5, 7), (3, 5)), lambda w, x: x @ w.T),
    "matmul-left": (product("MatMul", "w,x", (7, 5), (5, 3)), lambda w, x: w @ x),
    "gemm": (product("Gemm", "x,w", (5, 7), (3, 5)), lambda w, x: x @ w.T),
    "gemm, transB": (product("Gemm", "x,w", (7, 5), (3, 5), transB=1), lambda w, x: x @ w.T),
    "gemm, transA": (product("Gemm", "x,w", (5, 7), (5, 3), transA=1), lambda w, x: x.T @ w.T),
    "gemm-left": (product("Gemm", "w,x", (7, 5), (5, 3)), lambda w, x: w @ x),
    "gemm-left, transA": (product("Gemm", "w,x", (5, 7), (5, 3), transA=1), lambda w, x: w @ x),
    "matmul, batch": (
        product("MatMul", "x,w", (2, 4, 5, 7), (2, 4, 3, 5)),
        lambda w, x: (x.reshape(8, 3, 5) @ w.transpose(0, 2, 1)).reshape(2, 4, 3, 7),
    ),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_rows_of_a_product_times_features_are_its_outputs(case: str) -> None:
    (proto, values), expected = PRODUCTS[case]
    (one,) = found(proto).values()
    assert one.kind == case.partition(",")[0]
    rows = one.rows(values)
    assert rows.shape == (one.groups, one.outputs, one.inputs)
    shape = [item.dim_value for item in proto.graph.input[0].type.tensor_type.shape.dim]
    x = graphs.normal(shape, 2)
    (y,) = runs.run(proto, {"x": x}).values()
    by_rows = expected(rows if one.groups > 1 else rows[0], x)
    np.testing.assert_allclose(by_rows, y, rtol=1e-4, atol=1e-5)
    assert values.shape[one.output_axis] == one.outputs


@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("kernel", [(3,), (3, 2), (2, 1, 3)])
def test_rows_of_a_convolution_are_channels_with_their_kernel(
    group: int, kernel: tuple[int, ...]
) -> None:
    shape = (12, 6 // group, *kernel)
    node = graphs.node("Conv", "x,w", "y", group=group)
    values = graphs.normal(shape, 1)
    rank = 2 + len(kernel)
    one = found(small([node], (1, 6, *kernel, rank), {"w": values}))["w"]
    assert (one.kind, one.groups, one.outputs, one.output_axis) == ("conv", group, 12 // group, 0)
    np.testing.assert_array_equal(one.rows(values).reshape(shape), values)
    assert one.kernel == kernel


def test_rows_of_a_transposed_convolution_gather_what_makes_an_output() -> None:
    values = graphs.normal((4, 3, 2, 5), 1)
    node = graphs.node("ConvTranspose", "x,w", "y", group=2)
    one = found(small([node], (1, 4, 6, 6, 4), {"w": values}))["w"]
    assert (one.kind, one.groups, one.outputs, one.inputs) == ("conv-transpose", 2, 3, 20)
    assert one.output_axis == 1
    rows = one.rows(values).reshape(2, 3, 2, 2, 5)
    for group, output, channel in np.ndindex(2, 3, 2):
        expected = values[2 * group + channel, output]
        np.testing.assert_array_equal(rows[group, output, channel], expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_rows_of_a_gather_count_what_can_be_gathered_as_inputs(axis: int) -> None:
    values = graphs.normal((4, 5, 6), 1)
    body = graphs.graph(
        [graphs.node("Gather", "w,x", "y", axis=axis)],
        [graphs.value("x", 2, dtype=graphs.INT64)],
        [graphs.value("y", "a", "b", "c")],
        graphs.tensors(w=values),
    )
    one = found(graphs.model(body))["w"]
    rows = one.rows(values)
    assert rows.shape == (1, 120 // values.shape[axis], values.shape[axis])
    np.testing.assert_array_equal(rows[0, :, 2], np.take(values, 2, axis).reshape(-1))
    assert one.output_axis == axis % 3


ALL = {
    "conv": graphs.conv_bn_relu,
    "grouped": graphs.grouped_conv,
    "transposed": graphs.conv_transpose,
    "gemm": graphs.gemm,
    "embedding": graphs.embedding,
    "attention": graphs.attention,
}


@pytest.mark.parametrize("case", ALL)
def test_shaped_undoes_rows(case: str) -> None:
    document = model.wrap(ALL[case]())
    weights = model.weights(document)
    made = maps.linear_maps(document, weights)
    assert made
    for one in made.values():
        values = model.read(document, one.weight)
        np.testing.assert_array_equal(one.shaped(one.rows(values)), values)


def test_a_weight_is_seen_through_what_turns_its_axes() -> None:
    nodes = [
        graphs.node("Identity", "w", "v"),
        graphs.node("Transpose", "v", "t"),
        graphs.node("MatMul", "x,t", "y"),
    ]
    values = graphs.normal((7, 5), 1)
    one = found(small(nodes, (3, 5, 2), {"w": values}))["w"]
    assert one.output_axis == 0
    np.testing.assert_array_equal(one.rows(values)[0], values)
    np.testing.assert_array_equal(one.shaped(one.rows(values)), values)
    assert [use.node.op_type for use in one.uses] == ["MatMul"]


def test_a_convolution_is_seen_through_a_turn_of_three_axes() -> None:
    nodes = [
        graphs.node("Transpose", "w", "t", perm=[2, 0, 1]),
        graphs.node("Conv", "x,t", "y"),
    ]
    values = graphs.normal((3, 2, 5), 1)  # seen as [5 outputs, 3 channels, 2]
    one = found(small(nodes, (1, 3, 4, 3), {"w": values}))["w"]
    assert (one.output_axis, one.outputs, one.kernel) == (2, 5, (2,))
    np.testing.assert_array_equal(one.shaped(one.rows(values)), values)


def test_uses_that_differ_make_no_map_and_no_axis() -> None:
    assert found(graphs.tied()) == {}
    assert axes(graphs.tied()) == {}


def test_a_weight_that_two_nodes_use_alike_is_one_map() -> None:
    one = found(graphs.weight_aliases())["a"]
    assert [use.node.name for use in one.uses] == ["", ""]
    assert len(one.uses) == 2


def test_what_is_reshaped_or_leaves_the_graph_is_no_map() -> None:
    assert set(found(graphs.weight_aliases())) == {"a"}
    proto = graphs.matmul_add()
    proto.graph.node.append(graphs.node("Mul", "w,w", "w2"))
    proto.graph.output.append(graphs.value("w2", 64, 96))
    assert "w" not in found(proto)


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_weights_have_their_gates_on_axis_one(op_type: str, gates: int) -> None:
    proto = graphs.recurrent(op_type, gates)()
    assert axes(proto) == {"w": 1, "r": 1}
    assert found(proto) == {}


def recurrent_of_parts(opset: int) -> ModelProto:
    """Return a model whose recurrent weights are cut, reordered, joined and made one direction."""
    hidden, width = 8, 5
    held = {
        "w": graphs.normal((4 * hidden, width), 1),
        "r": graphs.normal((4 * hidden, hidden), 2),
        "zero": np.array([0], np.int64),
        "half": np.array([2 * hidden], np.int64),
        "all": np.array([4 * hidden], np.int64),
    }
    nodes = []
    for name in "wr":
        nodes += [
            graphs.node("Slice", f"{name},zero,half,zero", f"{name}0"),
            graphs.node("Slice", f"{name},half,all,zero", f"{name}1"),
            graphs.node("Concat", f"{name}1,{name}0", f"{name}2", axis=0),
        ]
        if opset >= 13:
            nodes.append(graphs.node("Unsqueeze", f"{name}2,zero", f"{name}3"))
        else:
            nodes.append(graphs.node("Unsqueeze", f"{name}2", f"{name}3", axes=[0]))
    nodes.append(graphs.node("LSTM", "x,w3,r3", "y", hidden_size=hidden))
    shapes = [graphs.value("x", 3, 2, width)], [graphs.value("y", 3, 1, 2, hidden)]
    return graphs.model(graphs.graph(nodes, *shapes, graphs.tensors(**held)), opset)


@pytest.mark.parametrize("opset", [11, 13])
def test_recurrent_weights_put_together_of_parts_have_their_gates_on_axis_zero(opset: int) -> None:
    proto = recurrent_of_parts(opset)
    runs.run(proto, {"x": graphs.normal((3, 2, 5), 3)})
    assert axes(proto) == {"w": 0, "r": 0}
    assert found(proto) == {}


def test_an_axis_that_was_put_in_is_no_axis_of_the_weight() -> None:
    nodes = [
        graphs.node("Unsqueeze", "w,last", "v"),  # [5] features, one output
        graphs.node("MatMul", "x,v", "y"),
    ]
    held = {"w": graphs.normal((1, 5), 1), "last": np.array([-1], np.int64)}
    assert axes(small(nodes, (3, 5, 3), held)) == {}


def test_one_weight_tells_the_same_axis_as_all_together() -> None:
    for build in (
        *ALL.values(),
        graphs.tied,
        graphs.recurrent("LSTM", 4),
        lambda: recurrent_of_parts(13),
    ):
        document = model.wrap(build())
        weights = model.weights(document)
        together = maps.output_axes(document, weights)
        for weight in weights:
            assert maps.output_axis(weight) == together.get((weight.graph, weight.name))


def test_biases_and_norms_have_no_axis() -> None:
    assert axes(graphs.conv_bn_relu()) == {"w": 0}
    assert axes(graphs.attention()) == dict.fromkeys("qkvo", 1)
