"""At full rank a rewritten model computes what it did, wherever its weights stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto

from onnxq import graphs as scopes
from onnxq import model
from onnxq.files import DataFileStore, InlineStore, move_kept, serialize
from onnxq.low_rank import factors, layers, rewrite
from tests import graphs, low_rank, reading, runs
from tests.low_rank import (
    SPLITS,
    assert_close,
    assert_equivalent,
    convolution,
    layer_model,
    rewritten,
)

each_split = pytest.mark.parametrize("split", SPLITS)


def nodes_by_output(proto: ModelProto) -> dict[str, NodeProto]:
    return {node.output[0]: node for node in proto.graph.node}


def attributes(node: NodeProto) -> dict[str, Any]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def assert_split(proto: ModelProto, split: str | None = None) -> ModelProto:
    """Assert that a model rewritten at full rank is valid and computes the same; return it."""
    changed = rewritten(proto, split)
    assert len(changed.graph.node) > len(proto.graph.node)
    onnx.checker.check_model(changed)
    assert_equivalent(proto, changed)
    return changed


# Convolutions


@each_split
@pytest.mark.parametrize("opset", graphs.OPSETS)
def test_a_convolution_becomes_two_in_every_opset(opset: int, split: str) -> None:
    attributes = {"strides": [2, 1], "pads": [1, 0, 2, 1], "kernel_shape": [3, 5]}
    assert_split(convolution((24, 16, 3, 5), (9, 11), opset=opset, **attributes), split)


@each_split
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_and_biases_stay(groups: int, bias: bool, split: str) -> None:
    proto = convolution((32, 12, 3, 3), (7, 6), bias=bias, group=groups, pads=[1, 1, 1, 1])
    changed = assert_split(proto, split)
    first, second = changed.graph.node
    assert attributes(first)["group"] == attributes(second)["group"] == groups
    assert [name for name in first.input if name.startswith("b")] == []
    assert ("b" in second.input) is bias


@each_split
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("strides", [[1, 1], [2, 1], [1, 3], [2, 2]])
@pytest.mark.parametrize("size", [(8, 9), (9, 8)])
def test_automatic_pads_stay(
    auto_pad: str, strides: list[int], size: tuple[int, int], split: str
) -> None:
    proto = convolution((24, 16, 3, 4), size, auto_pad=auto_pad, strides=strides)
    assert_split(proto, split)


@given(
    split=st.sampled_from(SPLITS),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    groups=st.sampled_from([1, 2]),
)
def test_strides_dilations_and_pads_are_divided_by_axis(
    split: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, ...],
    groups: int,
) -> None:
    size = (13, 14)
    for axis in (0, 1):
        padded = size[axis] + pads[axis] + pads[axis + 2]
        assume(dilations[axis] * (kernel[axis] - 1) < padded)
    proto = convolution(
        (32, 16, *kernel),
        size,
        group=groups,
        strides=list(strides),
        dilations=list(dilations),
        pads=list(pads),
    )
    assert_split(proto, split)


@pytest.mark.parametrize(
    ("weight", "size", "extra"),
    [
        ((32, 24, 5), (20,), {"strides": [2], "pads": [3, 1], "dilations": [2]}),
        ((32, 24, 1), (20,), {}),
        ((32, 8, 3), (20,), {"group": 4, "auto_pad": "SAME_UPPER"}),
        ((32, 24, 3, 2, 2), (5, 6, 4), {"strides": [1, 2, 1], "pads": [1, 0, 1, 0, 1, 1]}),
    ],
)
def test_kernels_of_one_and_three_axes_are_split_by_channel(
    weight: tuple[int, ...], size: tuple[int, ...], extra: Mapping[str, Any]
) -> None:
    changed = assert_split(convolution(weight, size, **extra))
    held = {tensor.name: tuple(tensor.dims) for tensor in changed.graph.initializer}
    assert held["w.lowrank_a"][1:] == weight[1:]
    assert set(held["w.lowrank_b"][2:]) == {1}


def test_the_second_node_keeps_name_outputs_and_texts() -> None:
    proto = convolution((24, 16, 3, 3), (6, 6))
    proto.graph.node[0].doc_string = "important"
    changed = assert_split(proto, "spatial-hw")
    first, second = changed.graph.node
    assert (second.name, list(second.output), second.doc_string) == ("conv", ["y"], "important")
    assert (first.name, list(first.output)) == ("conv.lowrank", ["y.lowrank"])
    assert list(first.input) == ["x", "w.lowrank_a"]
    assert list(second.input) == ["y.lowrank", "w.lowrank_b", "b"]


def test_attributes_that_hold_defaults_are_not_written() -> None:
    changed = rewritten(convolution((24, 16, 3, 3), (6, 6), strides=[1, 2], pads=[1, 1, 1, 1]))
    first, second = changed.graph.node
    assert attributes(first) == {"pads": [1, 0, 1, 0]}
    assert attributes(second) == {"strides": [1, 2], "pads": [0, 1, 0, 1]}


# Products


@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("opset", [7, 9, 10, 11, 17, 26])
def test_gemm_keeps_its_attributes_on_either_side(
    opset: int, side: int, turned: tuple[int, int]
) -> None:
    weight, given_shape = [(40, 24), (24, 40)][turned[side]], [(24, 9), (9, 24)][turned[1 - side]]
    if side == 1:
        weight, given_shape = weight[::-1], given_shape[::-1]
    held = {"w": graphs.normal(weight, 1), "c": graphs.normal((1, 1), 2)}
    names = "w,x,c" if side == 0 else "x,w,c"
    options = {"transA": turned[0], "transB": turned[1], "alpha": 0.5, "beta": -2.0}
    nodes = [graphs.node("Gemm", names, "y", name="gemm", **options)]
    changed = assert_split(layer_model(nodes, given_shape, 2, held, opset))
    kept = nodes_by_output(changed)["y"]
    assert kept.op_type == "Gemm"
    assert attributes(kept) == options


def test_gemm_without_bias_is_split() -> None:
    nodes = [graphs.node("Gemm", "x,w", "y")]
    assert_split(layer_model(nodes, (5, 48), 2, {"w": graphs.normal((48, 40), 1)}))


@pytest.mark.parametrize("opset", [7, 9, 13, 26])
@pytest.mark.parametrize("shape", [(48,), (5, 48), (2, 5, 48), (2, 1, 3, 48)])
def test_matmul_takes_a_weight_on_the_right_of_any_rank(shape: tuple[int, ...], opset: int) -> None:
    nodes = [graphs.node("MatMul", "x,w", "y")]
    held = {"w": graphs.normal((48, 40), 1)}
    assert_split(layer_model(nodes, shape, len(shape), held, opset))


@pytest.mark.parametrize("shape", [(48,), (48, 5), (2, 48, 5), (2, 1, 48, 3)])
def test_matmul_takes_a_weight_on_the_left_of_any_rank(shape: tuple[int, ...]) -> None:
    nodes = [graphs.node("MatMul", "w,x", "y")]
    held = {"w": graphs.normal((40, 48), 1)}
    assert_split(layer_model(nodes, shape, len(shape), held))


@pytest.mark.parametrize("order", ["x,w", "w,x"])
@pytest.mark.parametrize("shape", [(48,), (48, 48), (2, 48, 48)])
@pytest.mark.parametrize("ones", [1, 2])
def test_axes_of_one_before_a_matrix_stay(shape: tuple[int, ...], order: str, ones: int) -> None:
    nodes = [graphs.node("MatMul", order, "y")]
    held = {"w": graphs.normal((*(1,) * ones, 48, 48), 1)}
    rank = max(ones + len(shape[:1]) + (len(shape) > 1), len(shape))
    proto = layer_model(nodes, shape, rank, held)
    changed = assert_split(proto)
    assert {len(tensor.dims) for tensor in changed.graph.initializer} == {2, 2 + ones}


# Types and places


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@each_split
def test_factors_have_the_type_of_the_weight(dtype: Any, split: str) -> None:
    held = {"w": graphs.normal((24, 16, 3, 3), 1).astype(dtype)}
    nodes = [graphs.node("Conv", "x,w", "y", pads=[1, 1, 1, 1])]
    changed = assert_split(layer_model(nodes, (2, 16, 6, 5), 4, held), split)
    assert {tensor.data_type for tensor in changed.graph.initializer} == {
        graphs.DATA_TYPES[np.dtype(dtype)]
    }


def test_bfloat16_products_are_split() -> None:
    held = {"w": graphs.normal((48, 40), 1).astype(ml_dtypes.bfloat16)}
    nodes = [graphs.node("MatMul", "x,w", "y")]
    changed = rewritten(layer_model(nodes, (5, 48), 2, held))
    a, b = (tensor for tensor in changed.graph.initializer)
    product = _numbers(a) @ _numbers(b)
    # Rounding both factors errs by 2^-9 of each of up to 40 terms.
    assert np.abs(product - held["w"].astype(np.float64)).max() < 2**-8
    assert {a.data_type, b.data_type} == {TensorProto.BFLOAT16}


def _numbers(tensor: TensorProto) -> np.ndarray[Any, Any]:
    return np.asarray(onnx.numpy_helper.to_array(tensor)).astype(np.float64)


RUNNABLE = [
    case for case in graphs.CASES if case.is_runnable and low_rank.found_everywhere(case.build())[1]
]


@pytest.mark.parametrize("case", RUNNABLE, ids=lambda case: case.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_construct_computes_the_same_at_full_rank(case: graphs.Case, seed: int) -> None:
    proto = case.build()
    changed = rewritten(proto)
    onnx.checker.check_model(changed)
    assert_close(proto, changed, seed)


@pytest.mark.parametrize("case", RUNNABLE, ids=lambda case: case.name)
def test_weights_are_replaced_and_nothing_else(case: graphs.Case) -> None:
    proto = case.build()
    _, ones, _ = low_rank.found_everywhere(proto)
    before, after = reading.floats(proto), reading.floats(rewritten(proto))
    gone = [name for key, name in before if (key, name) not in after]
    assert sorted(gone) == sorted(layer.weight.name for layer in ones)
    for key, values in after.items():
        if key in before:
            runs.assert_equal(values, before[key], key[1])
    assert len(after) == len(before) + len(ones)


def test_weights_of_functions_stay_in_them() -> None:
    proto = graphs.BY_NAME["functions"].build()
    changed = rewritten(proto)
    for old, new in zip(proto.functions, changed.functions, strict=True):
        held = [node for node in new.node if node.op_type == "Constant"]
        assert len(held) >= len([node for node in old.node if node.op_type == "Constant"])
    assert_close(proto, changed)


def test_before_ir_4_factors_are_inputs_and_the_weight_is_none() -> None:
    proto = graphs.BY_NAME["ir3"].build()
    changed = rewritten(proto)
    names = {value.name for value in changed.graph.input}
    assert {"w.lowrank_a", "w.lowrank_b"} <= names
    assert "w" not in names


def test_a_branch_before_ir_4_has_its_factors_in_the_main_graph() -> None:
    inner = [
        graphs.node("Constant", "", "v", value=graphs.tensor("", graphs.normal((64, 64), 3))),
        graphs.node("MatMul", "x,v", "then"),
    ]
    then = graphs.graph(inner, [], [graphs.value("then", 2, 64)])
    other = graphs.graph([graphs.node("Neg", "x", "else")], [], [graphs.value("else", 2, 64)])
    nodes = [graphs.node("If", "flag", "y", then_branch=then, else_branch=other)]
    inputs = [graphs.value("x", 2, 64), graphs.value("flag", dtype=graphs.BOOL)]
    proto = graphs.model(graphs.graph(nodes, inputs, [graphs.value("y", 2, 64)]), opset=8)
    changed = assert_branch(proto)
    assert [tensor.name for tensor in changed.graph.initializer] == ["v.lowrank_a", "v.lowrank_b"]


def assert_branch(proto: ModelProto) -> ModelProto:
    changed = rewritten(proto)
    for seed in (0, 1):
        assert_close(proto, changed, seed)
    return changed


def test_two_uses_share_one_pair_of_factors() -> None:
    held = {"w": graphs.normal((16, 16, 3, 3), 1), "b": graphs.normal((16,), 2)}
    nodes = [
        graphs.node("Conv", "x,w,b", "h", pads=[1, 1, 1, 1]),
        graphs.node("Conv", "h,w", "y", strides=[2, 1], dilations=[1, 2]),
    ]
    changed = assert_split(layer_model(nodes, (2, 16, 9, 9), 4, held), "spatial-hw")
    assert [tensor.name for tensor in changed.graph.initializer] == [
        "b",
        "w.lowrank_a",
        "w.lowrank_b",
    ]
    assert [node.output[0] for node in changed.graph.node] == ["h.lowrank", "h", "y.lowrank", "y"]


def test_names_that_are_taken_get_a_number() -> None:
    held = {"w": graphs.normal((48, 48), 1), "w.lowrank_a": graphs.normal((48, 48), 2)}
    nodes = [
        graphs.node("MatMul", "x,w", "y.lowrank", name="n"),
        graphs.node("MatMul", "y.lowrank,w.lowrank_a", "y", name="n.lowrank"),
    ]
    changed = assert_split(layer_model(nodes, (5, 48), 2, held))
    names = [tensor.name for tensor in changed.graph.initializer]
    assert names == [
        "w.lowrank_a_2",
        "w.lowrank_b",
        "w.lowrank_a.lowrank_a",
        "w.lowrank_a.lowrank_b",
    ]
    assert [node.name for node in changed.graph.node][:2] == ["n.lowrank_2", "n"]


def test_names_come_in_order() -> None:
    names = rewrite.Names(["a", "a_2"])
    assert [names.free("a"), names.free("b"), names.free("b")] == ["a_3", "b", "b_2"]


def test_what_the_graph_said_of_the_weight_goes() -> None:
    proto = convolution((24, 16, 3, 3), (6, 6))
    proto.graph.value_info.append(graphs.value("w", 24, 16, 3, 3))
    assert not assert_split(proto, "channel").graph.value_info


def test_external_values_are_factorised_and_written_outside(tmp_path: Path) -> None:
    proto = graphs.BY_NAME["branches"].build()
    graphs.save_external(proto, tmp_path / "in.onnx")
    document = model.load(tmp_path / "in.onnx")
    store = DataFileStore(tmp_path / "out.onnx")
    ones, _ = layers.find(document, model.weights(document))
    names = rewrite.Names(scopes.taken_names(document))
    for layer in ones:
        made = factors.factorise(model.read(document, layer.weight), layer, "matrix", 64)
        rewrite.apply(document, layer, made, store, names)
    move_kept(document, store)
    store.finish()
    (tmp_path / "out.onnx").write_bytes(serialize(document.proto, "out"))
    (tmp_path / "w0.bin").unlink()
    for seed in (0, 1):
        feeds = graphs.feeds(proto, seed)
        expected, got = runs.run(proto, feeds), runs.run(tmp_path / "out.onnx", feeds)
        assert np.allclose(got["y"], expected["y"], rtol=0, atol=1e-5)
    external = [tensor for tensor in document.proto.graph.initializer if tensor.external_data]
    assert len(external) == 2


# Size


@pytest.mark.parametrize("case", RUNNABLE, ids=lambda case: case.name)
def test_the_largest_rank_makes_the_model_smaller(case: graphs.Case) -> None:
    proto = case.build()
    document, ones, _ = low_rank.found_everywhere(proto)
    names = rewrite.Names(scopes.taken_names(document))
    for layer in ones:
        before = document.proto.ByteSize()
        split = layer.splits[-1]
        values = model.read(document, layer.weight)
        made = factors.factorise(values, layer, split, layer.max_rank(split))
        rewrite.apply(document, layer, made, InlineStore(), names)
        assert document.proto.ByteSize() < before


@given(
    outputs=st.integers(1, 24),
    channels=st.integers(1, 24),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    name=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40),
)
def test_no_split_makes_a_model_larger(
    outputs: int, channels: int, kernel: tuple[int, int], name: str
) -> None:
    attributes = {"pads": [1, 2, 1, 2], "strides": [2, 1], "kernel_shape": list(kernel)}
    proto = convolution((outputs, channels, *kernel), (9, 9), **attributes)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = name
    assume(name not in ("x", "y", "b"))
    _, ones, _ = low_rank.found_everywhere(proto)
    for layer in ones:
        for split in layer.splits:
            changed = rewritten(proto, split, layer.max_rank(split))
            assert changed.ByteSize() < proto.ByteSize()
