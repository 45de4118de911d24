"""Models of one factorised layer, and what factorising them does, computed without onnxq's code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from onnxq import graphs as scopes
from onnxq import model
from onnxq.files import InlineStore
from onnxq.graphs import Document
from onnxq.low_rank import factors, layers, rewrite
from onnxq.low_rank.factors import Factors, Statistics
from onnxq.low_rank.layers import Layer, Split
from tests import graphs, runs

Array = np.ndarray[Any, np.dtype[Any]]


def found(proto: ModelProto) -> tuple[Document, dict[str, Layer], dict[str, str]]:
    """Return a model's document, its layers by name, and the reasons of all others by name."""
    document = model.wrap(proto)
    ones, skips = layers.find(document, model.weights(document))
    named = {layer.weight.name: layer for layer in ones}
    return document, named, {skip.name: skip.reason for skip in skips}


def only_layer(proto: ModelProto) -> tuple[Document, Layer, Array]:
    """Return the document, the layer and the values of a model with one layer."""
    document, named, _ = found(proto)
    (layer,) = named.values()
    return document, layer, model.read(document, layer.weight)


def rewritten(proto: ModelProto, split: str | None = None, rank: int | None = None) -> ModelProto:
    """Return a model with every layer factorised: by a split, else its first, at full rank."""
    document, named, _ = found_everywhere(proto)
    names = rewrite.Names(scopes.taken_names(document))
    for layer in named:
        chosen = next((one for one in layer.splits if one == split), layer.splits[0])
        values = model.read(document, layer.weight)
        made = factors.factorise(values, layer, chosen, rank or layer.full_rank(chosen))
        rewrite.apply(document, layer, made, InlineStore(), names)
    return document.proto


def found_everywhere(proto: ModelProto) -> tuple[Document, list[Layer], list[str]]:
    """Return a model's document, all its layers, and the names of the rest."""
    document = model.wrap(proto)
    ones, skips = layers.find(document, model.weights(document))
    return document, ones, [skip.name for skip in skips]


def assert_equivalent(proto: ModelProto, changed: ModelProto, seed: int = 0) -> None:
    """Assert that two models of one layer agree but for the rounding of their sums.

    A sum of n products errs by at most n u times the sum of their absolute values (Higham 2002,
    section 3.1), u the unit roundoff; two layers by what both sum up. The absolute values are what
    the models make of absolute weights and inputs. Factors are rounded once, which is one more.
    """
    feeds = graphs.feeds(proto, seed)
    # onnxruntime has no convolution of float64 on the CPU.
    run = runs.run_reference if feeds["x"].dtype == np.float64 else runs.run
    expected, got = run(proto, feeds)["y"], run(changed, feeds)["y"]
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    sizes = [
        (_terms(one), run(_absolute(one), {key: np.abs(x) for key, x in feeds.items()})["y"])
        for one in (proto, changed)
    ]
    unit = np.finfo(expected.dtype).eps / 2
    bound = sum(terms * size.astype(np.float64) for terms, size in sizes) * unit
    assert (np.abs(got.astype(np.float64) - expected.astype(np.float64)) <= bound).all()


def assert_close(proto: ModelProto, changed: ModelProto, seed: int = 0) -> None:
    """Assert that models of any make agree to 1e-5 of their outputs' size, 1e-2 with float16."""
    types = {tensor.data_type for tensor in proto.graph.initializer}
    share = 1e-2 if TensorProto.FLOAT16 in types else 1e-5
    feeds = graphs.feeds(proto, seed)
    expected, got = runs.run(proto, feeds), runs.run(changed, feeds)
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        error = np.abs(got[name].astype(np.float64) - value.astype(np.float64)).max()
        assert error <= share * np.abs(value).max(), name


def _terms(proto: ModelProto) -> int:
    """Return how many roundings an output has behind it at most: terms of sums, two a layer."""
    shapes = [tuple(tensor.dims) for tensor in proto.graph.initializer]
    longest = [max(np.prod(shape[1:]), np.prod(shape[:-1])) for shape in shapes if len(shape) > 1]
    return int(sum(longest)) + 2 * len(shapes) + 4


def _absolute(proto: ModelProto) -> ModelProto:
    """Return a model with the absolute values of its initializers and float attributes."""
    made = ModelProto()
    made.CopyFrom(proto)
    for tensor in made.graph.initializer:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        tensor.raw_data = np.abs(np.frombuffer(tensor.raw_data, dtype)).tobytes()
    for item in (item for node in made.graph.node for item in node.attribute):
        if item.type == AttributeProto.FLOAT:
            item.f = abs(item.f)
    return made


def convolution(
    weight: Sequence[int],
    size: Sequence[int],
    opset: int = 17,
    bias: bool = True,
    **attributes: Any,
) -> ModelProto:
    """Return a model of one convolution with a weight of this shape on an image of this size."""
    groups = attributes.get("group", 1)
    held = {"w": graphs.normal(weight, 1)}
    if bias:
        held["b"] = graphs.normal(weight[:1], 2)
    nodes = [graphs.node("Conv", "x," + ",".join(held), "y", name="conv", **attributes)]
    return layer_model(nodes, (2, weight[1] * groups, *size), len(size) + 2, held, opset)


def layer_model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[int],
    rank: int,
    held: dict[str, Array],
    opset: int = 17,
) -> ModelProto:
    """Return a model from x of a shape to y of a rank."""
    element = graphs.DATA_TYPES[next(iter(held.values())).dtype]
    outputs = [graphs.value("y", *(f"d{axis}" for axis in range(rank)), dtype=element)]
    body = graphs.graph(
        nodes, [graphs.value("x", *inputs, dtype=element)], outputs, graphs.tensors(**held)
    )
    made = graphs.model(body, opset)
    for value in made.graph.input[1:]:  # before IR 4, weights are inputs of their own type
        value.type.tensor_type.elem_type = element
    return made


def correlated(inputs: int, groups: int = 1, seed: int = 0, vectors: int = 20000) -> Statistics:
    """Return statistics of vectors that vary together and have a mean."""
    rng = np.random.default_rng((seed, inputs))
    few = max(1, inputs // 6)
    moments = []
    for _ in range(groups):
        mixed = rng.standard_normal((vectors, few)) @ rng.standard_normal((few, inputs))
        x = mixed + 0.3 * rng.standard_normal((vectors, inputs)) + 0.5
        moments.append(x.T @ x / vectors)
    return Statistics(second_moment=np.array(moments), samples=vectors)


def effective(layer: Layer, made: Factors) -> Array:
    """Return the weight [groups, outputs, inputs] that factors stand for, in float64, by loops."""
    first, second = made.first.astype(np.float64), made.second.astype(np.float64)
    if layer.kind != "conv":
        right = first.T if layer.form.inputs_left else first
        left = second.reshape(second.shape[-2:])
        left = left if layer.form.outputs_first else left.T
        return (left @ right)[None]
    groups, rank = layer.groups, made.rank
    parts = []
    for group in range(groups):
        left = second[group * layer.outputs : (group + 1) * layer.outputs]
        right = first[group * rank : (group + 1) * rank]
        # An axis has extent 1 in one of both, so the product spans the kernel.
        product = np.zeros((layer.outputs, layer.channels, *layer.kernel))
        for one in range(rank):
            product += left[:, one, None] * right[None, one]
        parts.append(product.reshape(layer.outputs, -1))
    return np.array(parts)


def flat(layer: Layer, values: Array) -> Array:
    """Return a weight as [groups, outputs, inputs] in float64."""
    wide = values.astype(np.float64)
    if layer.kind != "conv":
        matrix = wide.reshape(wide.shape[-2:])
        return (matrix if layer.form.outputs_first else matrix.T)[None]
    return wide.reshape(layer.groups, layer.outputs, layer.inputs)


def weighted_loss(layer: Layer, values: Array, product: Array, moment: Array) -> float:
    """Return tr(D C D^T) / tr(W C W^T) over all groups; `moment` is dense or a diagonal."""
    whole = flat(layer, values)
    dense = moment if moment.ndim == 3 else np.array([np.diag(one) for one in moment])
    powers = [
        sum(np.trace(part @ c @ part.T) for part, c in zip(parts, dense, strict=True))
        for parts in (whole - product, whole)
    ]
    return float(powers[0] / powers[1])


SPLITS: tuple[Split, ...] = ("spatial-hw", "spatial-wh", "channel")
