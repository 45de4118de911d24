"""Make models of the four networks: of weights given, or of synthetic ones.

>>> NETWORKS
('vgg16', 'resnet50', 'imagecomp', 'dcase')
>>> [(slot.name, slot.shape) for slot in tensors("dcase")][:2]
[('conv1.weight', (32, 1, 7, 7)), ('conv1.bias', (32,))]
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, checker, helper

from tools.networks import architectures
from tools.networks.graph import FloatArray, Graph, Slot, Source
from tools.networks.random_weights import values

_DRAWINGS = {
    "vgg16": architectures.vgg16,
    "resnet50": architectures.resnet50,
    "imagecomp": architectures.imagecomp,
    "dcase": architectures.dcase,
}
NETWORKS = tuple(_DRAWINGS)
Weights = Mapping[str, FloatArray]
Metadata = Mapping[str, str]


def tensors(network: str) -> list[Slot]:
    """Return the tensors that a network has, in their order in the file."""
    graph = Graph(network, None)
    _DRAWINGS[network](graph)
    return graph.slots


def synthetic(network: str, seed: int = 0) -> ModelProto:
    """Return a network with synthetic weights, and metadata that say so."""
    metadata = {
        "weights": "synthetic",
        "seed": str(seed),
        "generator": f"tools/build_networks.py {network}",
        "note": "Random weights, drawn to look like trained ones; nothing was trained.",
    }
    return _draw(network, lambda slot: values(slot, seed), metadata)


def vgg16(weights: Weights, metadata: Metadata) -> ModelProto:
    """Return VGG16 with the weights given; see `imagecomp`."""
    return _given("vgg16", weights, metadata)


def resnet50(weights: Weights, metadata: Metadata) -> ModelProto:
    """Return ResNet50 with the weights given; see `imagecomp`."""
    return _given("resnet50", weights, metadata)


def imagecomp(weights: Weights, metadata: Metadata) -> ModelProto:
    """Return the image network with the weights given, as a checked model.

    Args:
        weights: float32 arrays by name, of exactly the names and shapes of `tensors("imagecomp")`.
        metadata: stored as key-value pairs; say there where the weights come from.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or type, or not finite.
    """
    return _given("imagecomp", weights, metadata)


def dcase(weights: Weights, metadata: Metadata) -> ModelProto:
    """Return the audio network with the weights given; see `imagecomp`."""
    return _given("dcase", weights, metadata)


def _given(network: str, weights: Weights, metadata: Metadata) -> ModelProto:
    expected = {slot.name for slot in tensors(network)}
    missing, unknown = sorted(expected - weights.keys()), sorted(weights.keys() - expected)
    if missing or unknown:
        raise ValueError(
            f"{network}: tensors missing: {missing}; not of this network: {unknown}; "
            f"expected exactly the {len(expected)} that tensors({network!r}) lists"
        )
    return _draw(network, lambda slot: _checked(network, slot, weights[slot.name]), metadata)


def _checked(network: str, slot: Slot, array: FloatArray) -> FloatArray:
    if array.shape != slot.shape or array.dtype != np.float32:
        raise ValueError(
            f"{network}: tensor {slot.name!r} is {array.dtype} {list(array.shape)}; "
            f"expected float32 {list(slot.shape)}"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{network}: tensor {slot.name!r} has values that are not finite; expected finite ones"
        )
    return array


def _draw(network: str, source: Source, metadata: Metadata) -> ModelProto:
    graph = Graph(network, source)
    _DRAWINGS[network](graph)
    helper.set_model_props(graph.model, dict(metadata))
    checker.check_model(graph.model)
    return graph.model
