"""Means of what goes into convolutions and products, known without data.

Owns what a BatchNormalization tells of its outputs: with the statistics that it was trained with,
output c has the mean B_c and the deviation |scale_c|. Behind a Relu or Clip the mean is that of a
clipped normal distribution (Nagel et al. 2019, arXiv 1906.04721, 4.2.1 and appendix C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto
from scipy.special import ndtr

from onnxq import model
from onnxq.calibration.attributes import read_attributes
from onnxq.calibration.maps import LinearMap
from onnxq.graphs import DEFAULT_DOMAINS, Document, Key, Scope
from onnxq.model import Weight

Array = np.ndarray[Any, np.dtype[Any]]
_SAME = frozenset({"Identity", "Dropout"})


def expected_means(
    document: Document, weights: Sequence[Weight], maps: Mapping[Key, LinearMap]
) -> dict[Key, Array]:
    """Return E[x] of the inputs of maps that a BatchNormalization precedes, [groups, inputs].

    Between them may stand a Relu or a Clip. They are convolutions, and products (Gemm) whose
    features are the normalised channels, each used once. What a patch has in the padding is not
    counted, so that the mean is that of patches inside.

    Raises:
        InputError: a value cannot be read.
    """
    held = {(weight.graph, weight.name): weight for weight in weights}
    found: dict[Key, Array] = {}
    producers: dict[int, dict[str, NodeProto]] = {}
    for key, one in maps.items():
        if len(one.uses) != 1 or one.kind not in ("conv", "gemm") or not one.form.inputs_left:
            continue
        scope = one.uses[0].scope
        if id(scope.proto) not in producers:
            made = {name: node for node in scope.proto.node for name in node.output[:1]}
            producers[id(scope.proto)] = made
        graph = _Graph(document=document, scope=scope, held=held, made=producers[id(scope.proto)])
        channels = graph.mean(one.uses[0].activation)
        spread = math.prod(one.kernel)
        if channels is not None and channels.size * spread == one.groups * one.inputs:
            found[key] = np.repeat(channels, spread).reshape(one.groups, one.inputs)
    return found


def clipped_mean(mean: Array, deviation: Array, low: float, high: float) -> Array:
    """Return the means of normal variables clipped to [low, high], float64.

    >>> clipped_mean(np.array([0.0, 3.0]), np.array([1.0, 0.0]), 0.0, math.inf).round(4).tolist()
    [0.3989, 3.0]
    """
    is_spread = deviation > 0
    wide = np.where(is_spread, deviation, 1.0)
    below, above = (low - mean) / wide, (high - mean) / wide
    inside = ndtr(above) - ndtr(below)
    found = mean * inside + wide * (_density(below) - _density(above))
    found += low * ndtr(below) if math.isfinite(low) else 0.0
    found += high * ndtr(-above) if math.isfinite(high) else 0.0
    return np.where(is_spread, found, np.clip(mean, low, high))


def _density(values: Array) -> Array:
    return np.asarray(np.exp(-0.5 * values**2) / math.sqrt(2 * math.pi))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Graph:
    """Look back from a value to what made it, within one graph."""

    document: Document
    scope: Scope
    held: Mapping[Key, Weight]
    made: Mapping[str, NodeProto]

    def mean(self, name: str) -> Array | None:
        """Return the mean of each channel of a value, None where nothing tells it."""
        low, high = -math.inf, math.inf
        while (node := self.made.get(name)) is not None and node.domain in DEFAULT_DOMAINS:
            if node.op_type == "BatchNormalization":
                return self._normal(node, low, high)
            bounds = self._bounds(node)
            if bounds is None:
                return None
            # The outer of two clips is applied to what the inner one leaves.
            low, high = (min(max(bound, low), high) for bound in bounds)
            name = node.input[0]
        return None

    def _normal(self, node: NodeProto, low: float, high: float) -> Array | None:
        scale, shift = (self._values(node.input[place]) for place in (1, 2))
        is_trained = read_attributes(node).integer("training_mode", 0) == 0
        if scale is None or shift is None or not is_trained:
            return None
        found = clipped_mean(shift, np.abs(scale), low, high)
        return found if np.isfinite(found).all() else None

    def _bounds(self, node: NodeProto) -> tuple[float, float] | None:
        """Return the range that a node clips to; None for any other node."""
        if node.op_type in _SAME:
            return -math.inf, math.inf
        if node.op_type == "Relu":
            return 0.0, math.inf
        if node.op_type != "Clip":
            return None
        given = read_attributes(node).by_name
        bounds = []
        for place, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
            if len(node.input) > place and node.input[place]:
                values = self._values(node.input[place])
                if values is None or values.size != 1:
                    return None
                default = float(values.reshape(()))
            elif name in given:
                default = float(given[name].f)
            bounds.append(default)
        return bounds[0], bounds[1]

    def _values(self, name: str) -> Array | None:
        weight = self.held.get((self.scope.path, name))
        if weight is None or not weight.is_float or weight.is_graph_input:
            return None
        return model.read(self.document, weight).astype(np.float64)
