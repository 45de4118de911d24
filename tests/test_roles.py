"""What a tensor is for, as its consumers tell."""

from __future__ import annotations

import pytest
from onnx import ModelProto, NodeProto, helper

from onnxq import model
from onnxq.options import ConvertOptions
from onnxq.roles import role
from onnxq.selection import reason_to_keep
from tests import graphs


def consumed(*uses: tuple[str, int], shape: tuple[int, ...] = (8, 8), domain: str = "") -> str:
    """Return the role of a weight that goes into these inputs."""
    nodes = [
        graphs.node(op_type, "," * index + "w", f"y{number}", domain=domain)
        for number, (op_type, index) in enumerate(uses)
    ]
    return roles(graphs.model(graphs.graph(nodes, [], [], graphs.tensors(w=_zeros(shape)))))["w"]


def _zeros(shape: tuple[int, ...]) -> graphs.Array:
    return graphs.normal(shape, 0) * 0


def roles(proto: ModelProto) -> dict[str, str]:
    return {weight.name: role(weight) for weight in model.weights(model.wrap(proto))}


def test_roles_of_a_convolution_with_normalisation() -> None:
    assert roles(graphs.conv_bn_relu()) == {
        "w": "weight", "b": "bias",
        "scale": "norm", "bias": "norm", "mean": "norm", "var": "variance",
    }  # fmt: skip


def test_roles_of_parameters() -> None:
    found = roles(graphs.parameters())
    del found["w"], found["channel_zeros"], found["flat"], found["u.value"]
    quantization = {"qs", "qz", "channel_scales"}
    assert {name for name, use in found.items() if use == "quantization"} == quantization
    assert {use for name, use in found.items() if name not in quantization} == {"parameter"}


@pytest.mark.parametrize(
    ("op_type", "index", "expected"),
    [
        ("Conv", 1, "weight"),
        ("Conv", 2, "bias"),
        ("ConvTranspose", 2, "bias"),
        ("DeformConv", 2, "weight"),
        ("DeformConv", 3, "bias"),
        ("Gemm", 0, "weight"),
        ("Gemm", 1, "weight"),
        ("Gemm", 2, "bias"),
        ("LSTM", 2, "weight"),
        ("LSTM", 3, "bias"),
        ("LSTM", 5, "weight"),
        ("GRU", 3, "bias"),
        ("RNN", 3, "bias"),
        ("BatchNormalization", 0, "weight"),
        ("BatchNormalization", 1, "norm"),
        ("BatchNormalization", 3, "norm"),
        ("BatchNormalization", 4, "variance"),
        ("LayerNormalization", 2, "norm"),
        ("InstanceNormalization", 1, "norm"),
        ("GroupNormalization", 2, "norm"),
        ("RMSNormalization", 1, "norm"),
        ("Resize", 0, "weight"),
        ("Resize", 2, "parameter"),
        ("Upsample", 1, "parameter"),
        ("Pad", 0, "weight"),
        ("Pad", 2, "parameter"),
        ("Clip", 1, "parameter"),
        ("Clip", 2, "parameter"),
        ("Dropout", 1, "parameter"),
        ("OneHot", 2, "parameter"),
        ("Range", 0, "parameter"),
        ("ConstantOfShape", 0, "parameter"),
        ("NonMaxSuppression", 3, "parameter"),
        ("NonMaxSuppression", 1, "weight"),
        ("QuantizeLinear", 0, "weight"),
        ("QuantizeLinear", 1, "quantization"),
        ("DequantizeLinear", 0, "quantization"),
        ("QLinearConv", 7, "quantization"),
        ("MatMul", 0, "weight"),
        ("Gather", 0, "weight"),
        ("Add", 1, "weight"),
        ("Attention", 2, "weight"),
    ],
)
def test_role_is_told_by_operator_and_input(op_type: str, index: int, expected: str) -> None:
    assert consumed((op_type, index)) == expected


@pytest.mark.parametrize(
    ("shape", "added", "multiplied"),
    [
        ((64,), "bias", "norm"),
        ((64, 1, 1), "bias", "norm"),
        ((1, 1, 64), "bias", "norm"),
        ((1, 1), "bias", "norm"),
        ((1, 4, 64), "weight", "weight"),
        ((64, 64), "weight", "weight"),
    ],
)
def test_vector_that_is_added_is_a_bias_and_one_that_multiplies_a_scale(
    shape: tuple[int, ...], added: str, multiplied: str
) -> None:
    assert [consumed((op, 1), shape=shape) for op in ("Add", "Sub")] == [added] * 2
    assert [consumed((op, 0), shape=shape) for op in ("Mul", "Div")] == [multiplied] * 2
    assert consumed(("MatMul", 1), shape=shape) == "weight"


def test_most_careful_reading_of_several_wins() -> None:
    uses = [
        ("QuantizeLinear", 1), ("Clip", 1), ("BatchNormalization", 4),
        ("MatMul", 1), ("BatchNormalization", 1), ("Conv", 2),
    ]  # fmt: skip
    expected = ["quantization", "parameter", "variance", "weight", "norm", "bias"]
    for first in range(len(uses)):
        assert consumed(*uses[first:]) == expected[first]
        assert consumed(*reversed(uses[first:])) == expected[first]


def test_unused_tensor_is_a_weight() -> None:
    assert roles(graphs.unused())["orphan"] == "weight"


def test_operators_of_foreign_domains_tell_nothing() -> None:
    for domain, expected in (("com.microsoft", "bias"), ("com.example", "weight")):
        assert consumed(("FusedConv", 2), domain=domain) == expected
        assert consumed(("Attention", 2), domain=domain) == expected
        assert consumed(("Add", 1), shape=(8,), domain=domain) == expected
    assert consumed(("Clip", 1), domain="ai.onnx") == "parameter"


def test_quantization_is_known_in_every_domain() -> None:
    for domain in ("", "com.microsoft", "com.example"):
        assert consumed(("QGemm", 4), domain=domain) == "quantization"
        assert consumed(("MatMulNBits", 2), domain=domain) == "quantization"


def test_role_of_a_captured_weight_is_told_by_the_branch() -> None:
    made = graphs.branches()
    for branch in made.graph.node[1].attribute:
        branch.g.node[1].op_type = "Clip"
    del made.graph.node[0]
    assert roles(made)["outer"] == "parameter"


# Roles at a distance


def kept(*nodes: NodeProto, inside: NodeProto | None = None) -> dict[str, str]:
    """Return why tensors w and v are kept; a node inside stands in function local:F of a and b."""
    floats = graphs.tensors(w=graphs.normal((512,), 1), v=graphs.normal((512,), 2))
    made = graphs.model(graphs.graph(list(nodes), [graphs.value("x", 1)], [], floats))
    if inside is not None:
        imports = [helper.make_opsetid("", 17)]
        made.functions.append(
            helper.make_function("local", "F", ["a", "b"], list(inside.output), [inside], imports)
        )
    reasons = {
        weight.name: reason_to_keep(weight, ConvertOptions(quantize_bias=False))
        for weight in model.weights(model.wrap(made))
    }
    return {name: found[0] for name, found in reasons.items() if found is not None}


def test_scale_of_a_quantization_inside_a_function_is_kept() -> None:
    inside = graphs.node("DequantizeLinear", "a,b", "c", axis=0)
    assert kept(graphs.node("F", "x,w", "y", domain="local"), inside=inside) == {
        "w": "already-quantized"
    }
    both = [graphs.node("Identity", "w", "i"), graphs.node("F", "x,i", "y", domain="local")]
    assert kept(*both, inside=inside) == {"w": "already-quantized"}


def test_scale_behind_an_identity_is_kept() -> None:
    nodes = [graphs.node("Identity", "w", "i"), graphs.node("DequantizeLinear", "x,i", "y")]
    assert kept(*nodes) == {"w": "already-quantized"}


def test_variance_inside_a_function_is_kept() -> None:
    inside = graphs.node("BatchNormalization", "a,a,a,a,b", "c")
    assert kept(graphs.node("F", "v,w", "y", domain="local"), inside=inside) == {"w": "variance"}


def test_scales_of_a_resize_behind_a_cast_are_kept() -> None:
    nodes = [graphs.node("Cast", "w", "i", to=1), graphs.node("Resize", "x,,i", "y")]
    assert kept(*nodes) == {"w": "parameter"}


def test_bias_behind_a_reshape_is_a_bias() -> None:
    nodes = [graphs.node("Reshape", "w,shape", "i"), graphs.node("Add", "x,i", "y")]
    assert kept(*nodes) == {"w": "bias-kept"}


def test_weight_that_is_handed_on_to_a_matmul_stays_a_weight() -> None:
    nodes = [graphs.node("Transpose", "w", "i"), graphs.node("MatMul", "x,i", "y")]
    assert kept(*nodes) == {}


def test_function_named_like_a_quantization_still_is_one() -> None:
    made = graphs.node("MatMulNBits", "x,v,w", "y", domain="local")
    assert kept(made) == {"v": "already-quantized", "w": "already-quantized"}
