"""Means of what goes into convolutions and products, known without data.

Owns what a BatchNormalization tells of its outputs: with the statistics that it was trained with,
output c has the mean B_c and the deviation |scale_c|. Behind a Relu or Clip the mean is that of a
clipped normal distribution (Nagel et al. 2019, arXiv 1906.04721, 4.2.1 and appendix C); behind
other functions of single values it is a mean over many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto
from scipy.special import expit, ndtr, ndtri

from onnxq import model
from onnxq.calibration.attributes import read_attributes
from onnxq.calibration.maps import LinearMap
from onnxq.graphs import DEFAULT_DOMAINS, Document, Key
from onnxq.model import Weight

Array = np.ndarray[Any, np.dtype[Any]]
_SAME = frozenset({"Identity", "Dropout"})
_DEEPEST = 40
"""Most sums in sums, and functions of functions, that are looked through."""
_QUANTILES = ndtri((np.arange(250) + 0.5) / 250)[:, np.newaxis]
"""Values of a normal variable, each for a 250th of all."""
_FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "Add": lambda given, first, second: first + second,
    "Sub": lambda given, first, second: first - second,
    "Mul": lambda given, first, second: first * second,
    "Div": lambda given, first, second: first / second,
    "Sigmoid": lambda given, values: expit(values),
    "Tanh": lambda given, values: np.tanh(values),
    "LeakyRelu": lambda given, values: np.where(
        values < 0, given.get("alpha", 0.01) * values, values
    ),
    "HardSigmoid": lambda given, values: np.clip(
        given.get("alpha", 0.2) * values + given.get("beta", 0.5), 0, 1
    ),
    "HardSwish": lambda given, values: values * np.clip(values / 6 + 0.5, 0, 1),
}
"""Operators that work value by value (ONNX), by their attributes and operands."""
_OPERANDS: Mapping[str, int] = {
    name: 2 if name in ("Add", "Sub", "Mul", "Div") else 1 for name in _FUNCTIONS
}


def expected_means(
    document: Document, weights: Sequence[Weight], maps: Mapping[Key, LinearMap]
) -> dict[Key, Array]:
    """Return E[x] of the inputs of maps that a BatchNormalization precedes, [groups, inputs].

    Between them may stand functions of single values, such as Relu, or x Sigmoid(x). The maps are
    convolutions, and products (Gemm) whose features are the normalised channels, each used once.
    Sums and averages over all positions of such values have means as well.
    What a patch has in the padding is not counted, so that the mean is that of patches inside.

    Raises:
        InputError: a value cannot be read.
    """
    held = {(weight.graph, weight.name): weight for weight in weights}
    found: dict[Key, Array] = {}
    looking: dict[str, _Graph] = {}
    for key, one in maps.items():
        if len(one.uses) != 1 or one.kind not in ("conv", "gemm") or not one.form.inputs_left:
            continue
        scope = one.uses[0].scope
        if scope.path not in looking:
            made = {name: node for node in scope.proto.node for name in node.output[:1]}
            looking[scope.path] = _Graph(document, scope.path, held, made)
        graph = looking[scope.path]
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


class _Graph:
    """Look back from a value to the normalisation that it is made of, within one graph."""

    def __init__(
        self,
        document: Document,
        path: str,
        held: Mapping[Key, Weight],
        made: Mapping[str, NodeProto],
    ) -> None:
        self._document, self._path, self._held, self._made = document, path, held, made
        self._means: dict[str, Array | None] = {}
        self._depth = 0

    def mean(self, name: str) -> Array | None:
        """Return the mean of each channel of a value, None where nothing tells it."""
        if name not in self._means:
            self._depth += 1
            self._means[name] = self._mean(name) if self._depth < _DEEPEST else None
            self._depth -= 1
        return self._means[name]

    def _mean(self, name: str) -> Array | None:
        low, high = -math.inf, math.inf
        last = name
        while (node := self._node(last)) is not None:
            if node.op_type == "BatchNormalization":
                normal = self._normal(node)
                return None if normal is None else _finite(clipped_mean(*normal, low, high))
            bounds = self._bounds(node)
            if node.op_type in ("Add", "GlobalAveragePool") and last == name:
                return self._mean_of_sum(name, node)
            if bounds is None:
                break
            # The outer of two clips is applied to what the inner one leaves.
            low, high = (min(max(bound, low), high) for bound in bounds)
            last = node.input[0]
        return self._mean_of_many(name)

    def _mean_of_sum(self, name: str, node: NodeProto) -> Array | None:
        """Return the mean of a sum, that of its terms; they need not vary independently."""
        terms = [self.mean(term) for term in node.input]
        known = [term for term in terms if term is not None]
        if len(known) == len(terms) and len({term.shape for term in known}) == 1:
            return np.asarray(np.sum(known, axis=0))
        return self._mean_of_many(name)

    def _mean_of_many(self, name: str) -> Array | None:
        """Return the mean over values of the normalised channel, evenly spread by probability."""
        seen: dict[str, Array | None] = {}
        sources: set[str] = set()
        with np.errstate(all="ignore"):  # what is no number is told by its mean
            found = self._spread(name, seen, sources)
            if found is None or len(sources) != 1 or found.ndim != 2:
                return None
            return _finite(found.mean(axis=0))

    def _spread(self, name: str, seen: dict[str, Array | None], sources: set[str]) -> Array | None:
        """Return what a value is for each of many, [values, channels], or a constant's one value.

        `sources` takes in the normalisations that it is made of: of two, nothing tells how they
        vary together.
        """
        if name not in seen:
            node = self._node(name)
            self._depth += 1
            if node is None:
                seen[name] = self._number(name)
            elif node.op_type == "BatchNormalization":
                normal = self._normal(node)
                sources.add(name)
                seen[name] = None if normal is None else normal[0] + normal[1] * _QUANTILES
            else:
                is_near = self._depth < _DEEPEST
                seen[name] = self._computed(node, seen, sources) if is_near else None
            self._depth -= 1
        return seen[name]

    def _computed(
        self, node: NodeProto, seen: dict[str, Array | None], sources: set[str]
    ) -> Array | None:
        bounds = self._bounds(node)
        wanted = 1 if bounds else _OPERANDS.get(node.op_type, 0)
        inputs = [self._spread(name, seen, sources) for name in node.input[:wanted]]
        known = [values for values in inputs if values is not None]
        if not wanted or len(known) != wanted:
            return None
        if bounds:
            return np.asarray(np.clip(known[0], *bounds))
        given = read_attributes(node).by_name
        numbers = {name: float(item.f) for name, item in given.items()}
        return np.asarray(_FUNCTIONS[node.op_type](numbers, *known))

    def _node(self, name: str) -> NodeProto | None:
        node = self._made.get(name)
        is_made = node is not None and node.op_type != "Constant"
        return node if is_made and node is not None and node.domain in DEFAULT_DOMAINS else None

    def _normal(self, node: NodeProto) -> tuple[Array, Array] | None:
        """Return the means and deviations of what a normalisation gives."""
        scale, shift = (self._values(node.input[place]) for place in (1, 2))
        is_trained = read_attributes(node).integer("training_mode", 0) == 0
        if scale is None or shift is None or not is_trained:
            return None
        return shift, np.abs(scale)

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
                value = self._number(node.input[place])
                if value is None:
                    return None
                default = float(value.reshape(()))
            elif name in given:
                default = float(given[name].f)
            bounds.append(default)
        return bounds[0], bounds[1]

    def _number(self, name: str) -> Array | None:
        """Return a constant of one value."""
        values = self._values(name)
        return values.reshape(()) if values is not None and values.size == 1 else None

    def _values(self, name: str) -> Array | None:
        weight = self._held.get((self._path, name))
        if weight is None or not weight.is_float or weight.is_graph_input:
            return None
        return model.read(self._document, weight).astype(np.float64)


def _finite(values: Array) -> Array | None:
    return values if np.isfinite(values).all() else None
