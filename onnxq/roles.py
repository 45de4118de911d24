"""What a tensor is for, judged by the operators that it ends up in.

Owns one closed table: which inputs of which operators are parameters (values the operator is
configured by), normalisation scales and statistics, biases, or parts of an existing quantization.
Everything else is a weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from onnxq.graphs import DEFAULT_DOMAINS, Consumer
from onnxq.model import Weight

Role = Literal["weight", "bias", "norm", "variance", "parameter", "quantization"]

_ALL = frozenset(range(64))
_PARAMETERS: Mapping[str, frozenset[int]] = {
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
    "Pad": frozenset({1, 2, 3}),
    "Clip": frozenset({1, 2}),
    "Dropout": frozenset({1, 2}),
    "OneHot": frozenset({1, 2}),
    "NonMaxSuppression": frozenset({2, 3, 4}),
    "Range": _ALL,
    "ConstantOfShape": _ALL,
    "MelWeightMatrix": _ALL,
    "HannWindow": _ALL,
    "HammingWindow": _ALL,
    "BlackmanWindow": _ALL,
    "Loop": frozenset({0, 1}),
    "If": frozenset({0}),
}
_QUANTIZATION: Mapping[str, frozenset[int]] = {
    "QuantizeLinear": frozenset({1, 2}),
    "DequantizeLinear": frozenset({0, 1, 2}),
    "QLinearConv": frozenset(range(8)),
    "QLinearMatMul": frozenset(range(8)),
    "QLinearAdd": frozenset(range(8)),
    "QGemm": frozenset(range(9)),
    "QAttention": frozenset(range(9)),
    "MatMulNBits": frozenset({1, 2, 3}),
    "MatMulBnb4": frozenset({1, 2}),
    "GatherBlockQuantized": frozenset({0, 2, 3}),
    "DynamicQuantizeMatMul": frozenset({1, 2, 3}),
    "MatMulIntegerToFloat": frozenset(range(6)),
    "DynamicQuantizeLSTM": frozenset({1, 2, 8, 9, 10, 11}),
}
_NORM: Mapping[str, frozenset[int]] = {
    "BatchNormalization": frozenset({1, 2, 3}),
    "InstanceNormalization": frozenset({1, 2}),
    "GroupNormalization": frozenset({1, 2}),
    "LayerNormalization": frozenset({1, 2}),
    "RMSNormalization": frozenset({1}),
    "SimplifiedLayerNormalization": frozenset({1}),
    "SkipLayerNormalization": frozenset({2, 3}),
    "SkipSimplifiedLayerNormalization": frozenset({2}),
}
_BIAS: Mapping[str, frozenset[int]] = {
    "Conv": frozenset({2}),
    "ConvTranspose": frozenset({2}),
    "DeformConv": frozenset({3}),
    "Gemm": frozenset({2}),
    "LSTM": frozenset({3}),
    "GRU": frozenset({3}),
    "RNN": frozenset({3}),
    "FusedConv": frozenset({2}),
    "FusedGemm": frozenset({2}),
    "Attention": frozenset({2}),
    "BiasGelu": frozenset({1}),
    "FastGelu": frozenset({1}),
}
_PRECEDENCE: tuple[Role, ...] = ("quantization", "parameter", "variance")


def role(weight: Weight) -> Role:
    """Return what a tensor is for; with several consumers the most careful reading wins.

    A per-channel vector (all dims but one are 1) that is added is a bias, one that multiplies is
    a normalisation scale. What counts is where the values end up, behind nodes that only hand them
    on and inside functions; a direct consumer can but ask for more care.
    """
    found = {_use(consumer, weight.shape) for consumer in weight.purposes}
    direct = {_use(consumer, weight.shape) for consumer in weight.consumers}
    for careful in _PRECEDENCE:
        if careful in found | direct:
            return careful
    if not found or "weight" in found:
        return "weight"
    return "norm" if "norm" in found else "bias"


def told_by(weight: Weight, use: Role) -> tuple[str, ...]:
    """Return the operators that give a tensor a role, sorted; what is direct counts last."""
    for consumers in (weight.purposes, weight.consumers):
        found = {item.op_type for item in consumers if _use(item, weight.shape) == use}
        if found:
            return tuple(sorted(found))
    return ()


def _use(consumer: Consumer, shape: Sequence[int]) -> Role:
    op_type, index = consumer.op_type, consumer.index
    if index in _QUANTIZATION.get(op_type, ()):
        return "quantization"
    if consumer.domain not in (*DEFAULT_DOMAINS, "com.microsoft"):
        return "weight"
    if index in _PARAMETERS.get(op_type, ()):
        return "parameter"
    if op_type == "BatchNormalization" and index == 4:
        return "variance"
    if index in _NORM.get(op_type, ()):
        return "norm"
    if index in _BIAS.get(op_type, ()) and (op_type != "Attention" or consumer.domain):
        return "bias"
    if sum(dim != 1 for dim in shape) <= 1:
        if op_type in ("Add", "Sub"):
            return "bias"
        if op_type in ("Mul", "Div"):
            return "norm"
    return "weight"
