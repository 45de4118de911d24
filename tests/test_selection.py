"""Which tensors are candidates, and the reason of each other one."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import ModelProto, NodeProto

from onnxq import model
from onnxq.errors import OptionError
from onnxq.model import Weight
from onnxq.options import make_options
from onnxq.selection import (
    Skip,
    check_patterns,
    matches,
    reason_by_kind,
    reason_to_keep,
    skip,
    width_for,
)
from tests import graphs


def weights(proto: ModelProto) -> dict[str, Weight]:
    return {weight.name: weight for weight in model.weights(model.wrap(proto))}


def reasons(proto: ModelProto, **options: Any) -> dict[str, str]:
    """Return the reasons of the tensors that are no candidates."""
    chosen = make_options(options)
    found = {name: reason_to_keep(weight, chosen) for name, weight in weights(proto).items()}
    return {name: kept[0] for name, kept in found.items() if kept is not None}


CONV = {"w", "b", "scale", "bias", "mean", "var"}


def detail(*nodes: NodeProto, shape: tuple[int, ...] = (512,)) -> str:
    """Return why tensor w is kept, in words."""
    floats = graphs.tensors(w=graphs.normal(shape, 1))
    made = graphs.model(graphs.graph(list(nodes), [graphs.value("x", 1)], [], floats))
    kept = reason_to_keep(weights(made)["w"], make_options({}))
    return "" if kept is None else kept[1]


def test_detail_names_the_operators_that_tell_the_role() -> None:
    plain, clip = graphs.node("MatMul", "x,w", "m"), graphs.node("Clip", "x,w", "c")
    assert detail(plain, clip) == "configures Clip"
    identity = graphs.node("Identity", "w", "i")
    assert detail(identity, graphs.node("Resize", "x,,i", "y")) == "configures Resize"
    assert detail(graphs.node("Pad", "x,p,w", "y"), clip, plain) == "configures Clip, Pad"
    scale = graphs.node("DequantizeLinear", "x,i", "y")
    assert detail(identity, scale) == "part of an existing quantization (DequantizeLinear)"


# By kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sparse", {"s": "sparse"}),
        ("int8_qdq", {"wq": "not-float", "ws": "already-quantized", "wz": "not-float",
                      "xs": "scalar", "xz": "not-float"}),
        ("integers_only", {"w": "not-float"}),
        ("empty_and_scalar", {"none": "empty", "one": "scalar"}),
        ("initializer_is_input", {"w": "graph-input"}),
        ("initializer_is_output", {}),
        ("ir3", {"var": "variance"}),
        ("float64", {}),
        ("float16", {}),
        ("bfloat16", {}),
        ("constants", {"one": "scalar"}),
    ],
)  # fmt: skip
def test_reason_of_a_kind(name: str, expected: dict[str, str]) -> None:
    assert reasons(graphs.BY_NAME[name].build()) == expected


def test_tensor_in_an_attribute_is_kept() -> None:
    held = graphs.tensor("t", graphs.normal((64, 64), 1))
    made = graphs.model(
        graphs.graph([graphs.node("Odd", "", "y", name="n", t=held, domain="x")], [], [])
    )
    assert reasons(made) == {"n.t": "attribute"}


def test_ambiguous_name_is_kept() -> None:
    made = graphs.tiny()
    made.graph.initializer[0].name = ""
    assert reasons(made) == {"": "ambiguous-name"}


@pytest.mark.parametrize("name", ["FLOAT8E4M3FN", "UINT4", "FLOAT4E2M1", "INT2"])
def test_narrow_types_are_quantized_already(name: str) -> None:
    made = graphs.tiny()
    made.graph.initializer[0].data_type = graphs.TensorProto.DataType.Value(name)
    assert reasons(made) == {"w": "already-quantized"}


@pytest.mark.parametrize("opset", [6, 7, 8, 9])
def test_least_opset_is_7_and_9_in_functions(opset: int) -> None:
    made = graphs.functions()
    made.opset_import[0].version = opset
    for function in made.functions:
        function.opset_import[0].version = opset
    found = {w.graph: reason_by_kind(w) for w in model.weights(model.wrap(made))}
    assert (found["main"] is None) == (opset >= 7)
    for path in ("function local:Outer", "function local:Layer/If(y).then_branch"):
        assert (found[path] is None) == (opset >= 9)


@pytest.mark.parametrize(("opset", "is_kept"), [(12, True), (13, False)])
def test_bfloat16_needs_opset_13(opset: int, is_kept: bool) -> None:
    made = graphs.BY_NAME["bfloat16"].build()
    made.opset_import[0].version = opset
    assert reasons(made) == ({"w": "opset"} if is_kept else {})


# By role


def test_biases_and_normalisation_are_kept_on_request() -> None:
    made = graphs.conv_bn_relu()
    assert reasons(made) == {"var": "variance"}
    assert reasons(made, quantize_variance=True) == {}
    assert reasons(made, quantize_bias=False) == {"b": "bias-kept", "var": "variance"}
    norm = dict.fromkeys(("scale", "bias", "mean"), "norm-kept")
    assert reasons(made, quantize_norm=False) == {**norm, "var": "variance"}


# By options


def test_include_keeps_what_no_pattern_names() -> None:
    made = graphs.conv_bn_relu()
    kept = dict.fromkeys(CONV - {"w", "b", "var"}, "excluded") | {"var": "variance"}
    assert reasons(made, include=["w", "b"]) == kept
    assert reasons(made, include=["conv"]) == kept
    # A pattern names tensors and nodes alike: b* would match the node bn and all it consumes.
    assert reasons(made, include=["w", "bi*"]).keys() == CONV - {"w", "bias"}


def test_exclude_beats_include() -> None:
    found = reasons(graphs.conv_bn_relu(), include="*", exclude=["b*"])
    assert found == {
        **dict.fromkeys(("b", "bias", "scale", "mean"), "excluded"), "var": "variance",
    }  # fmt: skip


def test_op_types_name_consumers() -> None:
    found = reasons(graphs.conv_bn_relu(), op_types=["Conv"])
    assert found == {**dict.fromkeys(("scale", "bias", "mean"), "op-type"), "var": "variance"}
    assert reasons(graphs.tied(), op_types=["Gemm"]) == {}
    assert reasons(graphs.unused(), op_types="MatMul") == {"b": "op-type", "orphan": "op-type"}


def test_min_elements_is_the_least_that_is_encoded() -> None:
    made = graphs.conv_bn_relu()
    assert reasons(made, min_elements=64) == {"var": "variance"}
    found = reasons(made, min_elements=65)
    assert found == {
        **dict.fromkeys(CONV - {"w", "var"}, "too-few-elements"), "var": "variance",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "is_kept"), [(1, False), (4, False), (5, False), (6, True), (11, True)]
)
def test_published_scheme_wants_elements_for_each_centroid(bits: int, is_kept: bool) -> None:
    """64 elements are enough for 1.6 * 2^5 = 51.2 and too few for 102.4."""
    found = reasons(graphs.conv_bn_relu(), preset="ce2", bits=bits)
    assert (found.get("b") == "too-few-elements") == is_kept
    assert (found.get("scale") == "too-few-elements") == is_kept
    assert found["var"] == "variance"
    assert "w" not in found  # 4608 elements


def test_width_of_a_tensor_counts_for_its_least_elements() -> None:
    found = reasons(graphs.conv_bn_relu(), preset="ce2", bits=4, tensor_bits={"b": 6, "scale": 5})
    assert found == {"b": "too-few-elements", "var": "variance"}


def test_record_of_a_skip_names_the_tensor_and_its_size() -> None:
    weight = weights(graphs.conv_bn_relu())["b"]
    record = skip(weight, "excluded", "--exclude b")
    assert record == Skip(
        name="b", graph="main", elements=64, bytes=256, reason="excluded", detail="--exclude b"
    )
    assert record.to_json() == {
        "name": "b", "graph": "main", "elements": 64, "bytes": 256,
        "reason": "excluded", "detail": "--exclude b",
    }  # fmt: skip


# Patterns


def test_last_matching_pattern_gives_the_width() -> None:
    weight = weights(graphs.conv_bn_relu())["w"]
    for pairs, expected in (
        ([("w", 3)], 3),
        ([("conv", 3)], 3),
        ([("*", 3), ("w", 8)], 8),
        ([("w", 8), ("*", 3)], 3),
        ([("b", 8)], 5),
    ):
        assert width_for(weight, make_options({"bits": 5, "tensor_bits": pairs})) == expected


def test_patterns_are_globs_or_the_very_name() -> None:
    odd = weights(graphs.odd_names())
    assert matches(odd["x[0]"], "x[0]")  # literally, although as a glob it means x0
    assert matches(odd["x[0]"], "x[[]0]")
    assert matches(odd["layer/0/kernel:0"], "layer/*")
    assert matches(odd["layer/0/kernel:0"], "*kernel:?")
    assert not matches(odd["layer/0/kernel:0"], "LAYER/*")
    assert not matches(odd["layer/0/kernel:0"], "kernel")
    assert matches(odd["[!a]?"], "[!a]?")
    assert matches(odd["a b"], "q0")  # the node's name
    assert not matches(odd["_"], "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ["w", "nothing*"]}, r"--include 'nothing\*': matches no float tensor"),
        ({"exclude": "x"}, "--exclude 'x': matches no float tensor or node of m.onnx"),
        ({"tensor_bits": {"nope": 4}}, "--tensor 'nope': .*largest tensors are 'w', 'b', 'scale'"),
        ({"op_types": ["Gemm"]}, "--op-types 'Gemm': .*these do: BatchNormalization, Conv"),
        ({"op_types": ["conv"]}, "--op-types 'conv'"),
    ],
)
def test_pattern_that_matches_nothing_is_an_error(options: Any, message: str) -> None:
    found = weights(graphs.conv_bn_relu()).values()
    with pytest.raises(OptionError, match=message) as caught:
        check_patterns(found, make_options(options), "m.onnx")
    assert caught.value.exit_code == 2


def test_patterns_of_a_model_without_floats_match_nothing() -> None:
    found = weights(graphs.integers_only()).values()
    for options in ({"include": "w"}, {"op_types": "Add"}):
        with pytest.raises(OptionError, match="none"):
            check_patterns(found, make_options(options), "m.onnx")


def test_patterns_that_match_are_no_error() -> None:
    found = weights(graphs.conv_bn_relu()).values()
    given = {"include": ["w", "bn"], "exclude": "va*", "op_types": ["Conv"]}
    check_patterns(found, make_options({**given, "tensor_bits": {"b": 1}}), "m.onnx")
