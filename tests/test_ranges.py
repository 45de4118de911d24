from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxq import draws, model, ranges, runtime
from tests.real_models import path_of
from tests.tiny_models import from_text

TABLE = "float[10, 4] w"


def found(text: str, opset: int = 17) -> dict[str, tuple[int, int]]:
    """Return the ranges of a model, which is written in ONNX's text form."""
    proto = onnx.ModelProto()
    proto.ParseFromString(from_text(text, opset=opset))
    return dict(ranges.integer_ranges(model.wrap(proto)))


def looked_up(nodes: str, declared: str = "int64[N] i") -> dict[str, tuple[int, int]]:
    """Return the ranges of a model with a table `w` of 10 x 4 that nodes make `y` of."""
    proto = onnx.ModelProto()
    proto.ParseFromString(from_text(f"g ({declared}) => (float[a, b] y) {{ {nodes} }}"))
    table = numpy_helper.from_array(np.ones((10, 4), np.float32), "w")
    proto.graph.initializer.append(table)
    return dict(ranges.integer_ranges(model.wrap(proto)))


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Gather(w, i)",
        "y = Gather<axis = -2>(w, i)",
        "c = Cast<to = 7>(i) y = Gather(w, c)",
        "c = Identity(i) s = Shape(c) r = Reshape(c, s) y = Gather(w, r)",
        "z = Constant<value_ints = [0]>() u = Unsqueeze(i, z) y = Gather(w, u)",
        "z = Constant<value_ints = [0]>() o = Constant<value_ints = [1]>()"
        "s = Slice(i, z, o) y = Gather(w, s)",
        "z = Constant<value_ints = [0]>() c = Concat<axis = 0>(z, i) y = Gather(w, c)",
        "v = Identity(w) y = Gather(v, i)",
        "t = Transpose(w) v = Transpose(t) y = Gather(v, i)",
        "v = Cast<to = 10>(w) y = Gather(v, i)",
    ],
)
def test_a_lookup_takes_0_to_the_size_of_its_table(nodes: str) -> None:
    assert looked_up(nodes) == {"i": (0, 10)}


def test_the_axis_tells_the_size() -> None:
    assert looked_up("y = Gather<axis = 1>(w, i)") == {"i": (0, 4)}


def test_several_consumers_restrict_together() -> None:
    assert looked_up("a = Gather(w, i) b = Gather<axis = 1>(w, i) y = MatMul(a, b)") == {
        "i": (0, 4)
    }


@pytest.mark.parametrize(
    ("nodes", "high"),
    [
        ("y = GatherElements<axis = 0>(w, i)", 10),
        ("y = GatherElements<axis = 1>(w, i)", 4),
        ("y = GatherND(w, i)", 4),
        ("y = ScatterElements<axis = 0>(w, i, x)", 10),
    ],
)
def test_other_lookups(nodes: str, high: int) -> None:
    declared = "int64[N, 2] i, float[N, 2] x"
    assert looked_up(nodes, declared) == {"i": (0, high)}


def test_nd_lookups_of_one_axis_take_its_size() -> None:
    assert looked_up("y = GatherND(w, i)", "int64[N, 1] i") == {"i": (0, 10)}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_range_stays_within_the_dtype(dtype: str) -> None:
    text = "g (%s[N] i) => (float[N] y) <float[300] w> { j = Cast<to = 7>(i) y = Gather(w, j) }"
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>' + text.replace("<float[300] w>", "") % dtype
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(300, np.float32), "w"))
    expected = {"i": (0, int(np.iinfo(dtype).max) + 1)}
    assert ranges.integer_ranges(model.wrap(proto)) == expected


def test_one_hot_takes_0_to_its_depth() -> None:
    text = (
        "g (int64[N] i) => (float[N, D] y) <float[2] v = {0.0, 1.0}, int64 d = {7}>"
        "{ y = OneHot(i, d, v) }"
    )
    assert found(text) == {"i": (0, 7)}


@pytest.mark.parametrize(
    "steps",
    [
        "c = Constant<value = int64[4] {2, 3, 4, 5}>()",
        "b = Constant<value_ints = [5, 3, 2, 4]>() s = Shape(e) c = Expand(b, s)",
        "l = Constant<value_int = 2>() h = Constant<value_int = 6>()"
        "o = Constant<value_int = 1>() c = Range(l, h, o)",
    ],
)
def test_a_comparison_with_a_run_of_integers_is_a_one_hot(steps: str) -> None:
    text = (
        "g (int64[N, 1] i) => (bool[N, 4] y) <int64[1] s0 = {4}>"
        f"{{ e = Identity(i) {steps} y = Equal(e, c) }}"
    )
    assert found(text) == {"i": (2, 6)}


BRANCH = (
    "g (int64 rate) => (float[1] y) <int64 k = {16000}, float[1] w = {1.0}>"
    "{ e = Equal(%s) b = %s(e)"
    "  y = If (b) <then_branch = t () => (float[1] p) { p = Identity(w) },"
    "              else_branch = f () => (float[1] q) { q = Neg(w) }> }"
)


@pytest.mark.parametrize("order", ["rate, k", "k, rate"])
@pytest.mark.parametrize("step", ["Identity", "Not"])
def test_an_input_that_decides_an_if_is_what_it_is_compared_with(order: str, step: str) -> None:
    assert found(BRANCH % (order, step)) == {"rate": (16000, 16001)}


def test_a_comparison_that_decides_nothing_restricts_nothing() -> None:
    text = "g (int64[N] i) => (bool[N] y) <int64 pad = {0}> { y = Equal(i, pad) }"
    assert found(text) == {}


def test_an_input_is_followed_into_bodies() -> None:
    text = (
        "g (bool c, int64[N] i) => (float[N] y) <float[3] w = {1.0, 2.0, 3.0}>"
        "{ y = If (c) <then_branch = t () => (float[N] p) { p = Gather(w, i) },"
        "              else_branch = f () => (float[N] q) { q = Cast<to = 1>(i) }> }"
    )
    assert found(text) == {"i": (0, 3)}


def test_an_input_is_followed_out_of_bodies() -> None:
    text = (
        "g (bool c, int64[N] i) => (float[N] y) <float[3] w = {1.0, 2.0, 3.0}, int64[1] z = {0}>"
        "{ k = If (c) <then_branch = t () => (int64[N] p) { p = Identity(i) },"
        "              else_branch = f () => (int64[N] q) { q = Mul(i, z) }> y = Gather(w, k) }"
    )
    assert found(text) == {"i": (0, 3)}


def function_model(calls: str) -> onnx.ModelProto:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
        "g (int64[N] i) => (float[N, 4] y)"
        f"<float[3] v = {{1.0, 2.0, 3.0}}, float[5] w = {{1.0, 2.0, 3.0, 4.0, 5.0}}> {{ {calls} }}"
        '<domain: "own", opset_import: ["" : 17]>'
        "embed (table, ids) => (rows) { k = Identity(ids) rows = Gather(table, k) }"
    )
    return onnx.parser.parse_model(text)


def test_a_table_is_followed_out_of_a_function_called_once() -> None:
    proto = function_model("y = own.embed(v, i)")
    assert ranges.integer_ranges(model.wrap(proto)) == {"i": (0, 3)}


def test_a_function_called_with_several_tables_restricts_nothing() -> None:
    proto = function_model("a = own.embed(v, i) b = own.embed(w, i) y = Add(a, b)")
    assert ranges.integer_ranges(model.wrap(proto)) == {}


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N] i) => (float[N] y) <float[3] w = {1.0, 2.0, 3.0}>"
        "{ c = Cast<to = 7>(i) y = Gather(w, c) }",
        "g (int64[N] i, float[M] w) => (float[N] y) { y = Gather(w, i) }",
        "g (int64[N] i) => (int64[N] y) <int64[1] o = {1}> { y = Add(i, o) }",
        "g (int64[N] i) => (float[N] y) <float[3] w = {1.0, 2.0, 3.0}>"
        "{ y = Gather<axis = 5>(w, i) }",
        "g (int64[1] i) => (int64[1] y) { a = Identity(b) b = Identity(a) y = Equal(i, a) }",
    ],
)
def test_what_cannot_be_told_restricts_nothing(text: str) -> None:
    assert found(text) == {}


def test_an_initializer_listed_as_input_has_no_range() -> None:
    node = helper.make_node("Gather", ["w", "i"], ["y"])
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, [2]),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])]
    held = [
        numpy_helper.from_array(np.zeros(2, np.int64), "i"),
        numpy_helper.from_array(np.zeros(3, np.float32), "w"),
    ]
    graph = helper.make_graph([node], "g", inputs, outputs, held)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=3)
    assert ranges.integer_ranges(model.wrap(proto)) == {}


@settings(max_examples=25)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=3), st.data())
def test_indices_within_the_range_are_accepted(sides: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(sides), len(sides) - 1))
    dtype = data.draw(st.sampled_from([TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64]))
    nodes = [
        helper.make_node("Cast", ["i"], ["j"], to=TensorProto.INT64),
        helper.make_node("Gather", ["w", "j"], ["y"], axis=axis),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("i", dtype, [64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(sides, np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inferred = ranges.integer_ranges(model.wrap(proto))
    session = runtime.open_session(proto.SerializeToString(), runtime.SessionSettings(threads=1))
    session.run(draws.random_feeds(session, 0, 0, draws.Recipe(ranges=inferred)))
    assert inferred["i"][0] == 0
    assert inferred["i"][1] <= sides[axis]


@pytest.mark.shared_models
def test_bytes_of_a_jax_one_hot() -> None:
    document = model.load(path_of("magika_v3_3"))
    inferred = ranges.integer_ranges(document)
    assert inferred == {"bytes": (0, 257)}
    assert document.path is not None
    session = runtime.open_session(document.path)
    feeds = draws.accepted(session, 0, 0, draws.Recipe(ranges=inferred)).feeds
    assert feeds["bytes"].max() == 256
