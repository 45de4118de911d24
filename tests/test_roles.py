"""What a tensor is for, as its consumers tell."""

from __future__ import annotations

import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, helper

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


ROLES = {
    "Conv": {"B": "bias"},
    "ConvTranspose": {"B": "bias"},
    "DeformConv": {"B": "bias"},
    "Gemm": {"C": "bias"},
    "LSTM": {"B": "bias"},
    "GRU": {"B": "bias"},
    "RNN": {"B": "bias"},
    "BatchNormalization": {
        "scale": "norm", "B": "norm", "input_mean": "norm", "input_var": "variance",
    },
    "InstanceNormalization": {"scale": "norm", "B": "norm"},
    "GroupNormalization": {"scale": "norm", "bias": "norm"},
    "LayerNormalization": {"Scale": "norm", "B": "norm"},
    "RMSNormalization": {"scale": "norm"},
    "Resize": dict.fromkeys(("roi", "scales", "sizes"), "parameter"),
    "Upsample": {"scales": "parameter"},
    "Pad": dict.fromkeys(("pads", "constant_value", "axes"), "parameter"),
    "Clip": dict.fromkeys(("min", "max"), "parameter"),
    "Dropout": dict.fromkeys(("ratio", "training_mode"), "parameter"),
    "OneHot": dict.fromkeys(("depth", "values"), "parameter"),
    "NonMaxSuppression": dict.fromkeys(
        ("max_output_boxes_per_class", "iou_threshold", "score_threshold"), "parameter"
    ),
    "Range": dict.fromkeys(("start", "limit", "delta"), "parameter"),
    "ConstantOfShape": {"input": "parameter"},
    "MelWeightMatrix": dict.fromkeys(
        ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz"),
        "parameter",
    ),
    "HannWindow": {"size": "parameter"},
    "HammingWindow": {"size": "parameter"},
    "BlackmanWindow": {"size": "parameter"},
    "Loop": {"M": "parameter", "cond": "parameter"},
    "If": {"cond": "parameter"},
    "QuantizeLinear": dict.fromkeys(("y_scale", "y_zero_point"), "quantization"),
    "DequantizeLinear": dict.fromkeys(("x", "x_scale", "x_zero_point"), "quantization"),
    "QLinearConv": dict.fromkeys(
        ("x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point", "y_scale",
         "y_zero_point"), "quantization",
    ),
    "QLinearMatMul": dict.fromkeys(
        ("a", "a_scale", "a_zero_point", "b", "b_scale", "b_zero_point", "y_scale",
         "y_zero_point"), "quantization",
    ),
    "MatMul": {}, "Gather": {}, "Add": {}, "Attention": {}, "Einsum": {}, "Where": {},
}  # fmt: skip
"""Operator -> input by its name in the specification -> role; every other input is a weight."""


@pytest.mark.parametrize("op_type", ROLES)
def test_role_is_told_by_operator_and_input(op_type: str) -> None:
    expected = ROLES[op_type]
    inputs = [item.name for item in onnx.defs.get_schema(op_type, 23).inputs]
    assert expected.keys() <= set(inputs)
    found = {name: consumed((op_type, index)) for index, name in enumerate(inputs)}
    assert found == {name: expected.get(name, "weight") for name in inputs}


@pytest.mark.parametrize(
    ("op_type", "index", "expected"),
    [
        ("FusedConv", 2, "bias"), ("FusedGemm", 2, "bias"), ("Attention", 2, "bias"),
        ("BiasGelu", 1, "bias"), ("FastGelu", 1, "bias"), ("FusedConv", 1, "weight"),
        ("SimplifiedLayerNormalization", 1, "norm"),
        ("SkipLayerNormalization", 1, "weight"), ("SkipLayerNormalization", 2, "norm"),
        ("SkipLayerNormalization", 3, "norm"), ("SkipSimplifiedLayerNormalization", 2, "norm"),
        ("MatMulNBits", 0, "weight"), ("MatMulNBits", 1, "quantization"),
        ("MatMulNBits", 3, "quantization"), ("QLinearAdd", 4, "quantization"),
        ("QAttention", 8, "quantization"), ("QGemm", 8, "quantization"),
        ("MatMulBnb4", 2, "quantization"), ("GatherBlockQuantized", 2, "quantization"),
        ("DynamicQuantizeMatMul", 3, "quantization"), ("DynamicQuantizeMatMul", 0, "weight"),
        ("MatMulIntegerToFloat", 5, "quantization"), ("DynamicQuantizeLSTM", 8, "quantization"),
        ("DynamicQuantizeLSTM", 3, "weight"),
    ],
)  # fmt: skip
def test_role_is_told_by_the_operators_of_onnxruntime(
    op_type: str, index: int, expected: str
) -> None:
    assert consumed((op_type, index), domain="com.microsoft") == expected


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


def branch(op_type: str, seed: int, *nodes: NodeProto) -> GraphProto:
    """Return a branch that gives out b<seed>: its own weight, or what its nodes make of it."""
    inner = graphs.tensors(**{f"b{seed}": graphs.normal((512,), seed)})
    out = nodes[-1].output[0] if nodes else f"b{seed}"
    return graphs.graph(nodes, [], [graphs.value(out, 512)], inner, name=f"{op_type}{seed}")


def chosen(*nodes: NodeProto) -> NodeProto:
    """Return an If whose branches give out b1 and b2 as "i", behind nodes from b1 to o1."""
    then, other = branch("then", 1, *nodes), branch("else", 2)
    return graphs.node("If", "flag", "i", then_branch=then, else_branch=other)


@pytest.mark.parametrize(
    ("outside", "reason"),
    [
        (graphs.node("Resize", "x,,i", "y"), "parameter"),
        (graphs.node("Clip", "x,i", "y"), "parameter"),
        (graphs.node("BatchNormalization", "x,v,v,v,i", "y"), "variance"),
        (graphs.node("DequantizeLinear", "x,i", "y"), "already-quantized"),
        (graphs.node("MatMul", "x,i", "y"), None),
        (graphs.node("Add", "x,i", "y"), "bias-kept"),
    ],
)
def test_role_follows_a_value_out_of_a_branch(outside: NodeProto, reason: str | None) -> None:
    expected = {} if reason is None else {"b1": reason, "b2": reason}
    for nodes in ((), (graphs.node("Identity", "b1", "o1"),)):
        found = kept(chosen(*nodes), outside)
        assert {name: why for name, why in found.items() if name != "v"} == expected
    assert kept(chosen(graphs.node("Neg", "b1", "o1")), outside).get("b1") is None


def test_branch_that_serves_nothing_holds_weights() -> None:
    assert kept(chosen()) == {}
    assert kept(chosen(graphs.node("Identity", "b1", "o1"))) == {}


def test_role_follows_a_value_out_of_nested_branches() -> None:
    inner = graphs.node("If", "flag", "o1", then_branch=branch("a", 3), else_branch=branch("b", 4))
    found = kept(chosen(inner), graphs.node("Clip", "x,i", "y"))
    assert found == dict.fromkeys(("b2", "b3", "b4"), "parameter")


def test_role_follows_a_value_out_of_a_function() -> None:
    constant = graphs.node("Constant", "", "c", value=graphs.tensor("", graphs.normal((512,), 3)))
    call = graphs.node("F", "x", "s", domain="local")
    assert kept(call, graphs.node("Resize", "x,,s", "y"), inside=constant)["c"] == "parameter"
    assert "c" not in kept(call, graphs.node("MatMul", "x,s", "y"), inside=constant)
    through = graphs.node("Identity", "a", "c")
    call = graphs.node("F", "w", "s", domain="local")
    assert kept(call, graphs.node("Resize", "x,,s", "y"), inside=through) == {"w": "parameter"}


def looped(op_type: str, inside: NodeProto) -> NodeProto:
    """Return a Loop or Scan over w; its body hands c on as d and gives out e."""
    head = [graphs.value("n", dtype=7), graphs.value("go", dtype=9)] if op_type == "Loop" else []
    outs = [graphs.value(name, 512) for name in ("d", "e")]
    condition = [graphs.node("Identity", "go", "on")] if head else []
    held = graphs.tensors(k=graphs.normal((512,), 4))
    nodes = [*condition, graphs.node("Identity", "k", "d"), inside]
    inputs = [*head, graphs.value("c", 512), *([] if head else [graphs.value("s", 512)])]
    body = graphs.graph(nodes, inputs, [*[graphs.value("on", dtype=9)][: len(head)], *outs], held)
    if head:
        return graphs.node("Loop", "m,go,w", "last,all", body=body)
    return graphs.node("Scan", "w,v", "last,all", body=body, num_scan_inputs=1)


@pytest.mark.parametrize("op_type", ["Loop", "Scan"])
def test_role_follows_a_value_round_a_loop(op_type: str) -> None:
    clip = graphs.node("Clip", "x,c", "e")
    assert kept(looped(op_type, clip)) == dict.fromkeys(("w", "k"), "parameter")
    plain = graphs.node("MatMul", "x,c", "e")
    assert kept(looped(op_type, plain)) == {}
    outside = graphs.node("Clip", "x,last", "y")
    assert kept(looped(op_type, plain), outside) == {"k": "parameter"}


def test_parts_of_a_scan_go_in_and_come_out() -> None:
    scanned = graphs.node("Clip", "x,s", "e")
    assert kept(looped("Scan", scanned)) == {"v": "parameter"}
    held = graphs.node("Identity", "k", "e")
    assert kept(looped("Scan", held), graphs.node("Clip", "x,all", "y")) == {"k": "parameter"}


def test_function_named_like_a_quantization_still_is_one() -> None:
    made = graphs.node("MatMulNBits", "x,v,w", "y", domain="local")
    assert kept(made) == {"v": "already-quantized", "w": "already-quantized"}
