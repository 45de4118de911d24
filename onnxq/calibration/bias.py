"""The mean error of a linear map's outputs, and the bias that can take it.

Owns where biases stand: the third input of a Conv, ConvTranspose or Gemm; a constant, maybe
reshaped, that an Add behind the map adds; the mean that a BatchNormalization behind it takes off. A
bias counts if it is used there alone, so that a change of it is a change of that map's outputs. A
map with outputs W x that is stored as V gives W E[x] - V E[x] less on average, which is added to
its bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxq import graphs, model
from onnxq.calibration.attributes import read_attributes
from onnxq.calibration.ends import Use
from onnxq.calibration.maps import LinearMap
from onnxq.graphs import DEFAULT_DOMAINS, Document, Key, Scope
from onnxq.model import Weight

Array = np.ndarray[Any, np.dtype[Any]]

_THIRD_INPUT = frozenset({"Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm"})
_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True, kw_only=True, eq=False)
class BiasPlace:
    """Hold the tensor that takes a map's mean error: it changes by `factor` times the error."""

    weight: Weight
    factor: float

    @property
    def key(self) -> Key:
        """What names the tensor."""
        return self.weight.graph, self.weight.name


def correction(rows: Array, decoded: Array, mean: Array) -> Array:
    """Return what a map's outputs lack on average once decoded, float64 [groups x outputs].

    That is (W - V) E[x], in the order of output channels. A row whose error is NaN or infinite,
    as of values that are, gets 0.

    Args:
        rows: the values, [groups, outputs, inputs].
        decoded: the values as they will be decoded, the same shape.
        mean: E[x] of the inputs, [groups, inputs].
    """
    found = np.zeros(rows.shape[:2])
    block = max(1, _BLOCK_ELEMENTS // max(1, rows.shape[2]))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        for group in range(rows.shape[0]):
            for start in range(0, rows.shape[1], block):
                part = slice(start, start + block)
                error = rows[group, part].astype(np.float64) - decoded[group, part]
                found[group, part] = error @ mean[group]
    return np.where(np.isfinite(found), found, 0.0).reshape(-1)


def corrected(values: Array, place: BiasPlace, lacking: Array) -> Array:
    """Return a bias with a correction in it, in its shape and dtype; sums are float64."""
    wide = values.astype(np.float64) + place.factor * lacking.reshape(values.shape)
    return np.asarray(wide.astype(values.dtype))


def bias_places(
    document: Document, weights: Sequence[Weight], maps: Mapping[Key, LinearMap]
) -> dict[Key, BiasPlace]:
    """Return the bias that can take the mean error of each map, of those that have one.

    Maps that several nodes use have none, since one correction would have to suit all of them;
    nor have embeddings and batches of matrices. Of values only the shapes are read that biases
    are brought into.

    Raises:
        InputError: one cannot be read.
    """
    graph = _Graph(document, weights)
    found: dict[Key, BiasPlace] = {}
    for key, one in maps.items():
        if len(one.uses) == 1 and (one.groups == 1 or one.kernel) and one.kind != "gather":
            place = graph.place(one, one.uses[0])
            if place is not None:
                found[key] = place
    return found


class _Graph:
    """Look for biases in a model."""

    def __init__(self, document: Document, weights: Sequence[Weight]) -> None:
        self._document = document
        self._held = {(weight.graph, weight.name): weight for weight in weights}
        scopes = graphs.scopes(document)
        self._uses = graphs.uses(scopes)
        self._reshapes = {
            (scope.path, node.output[0]): node
            for scope in scopes
            for node in scope.proto.node
            if node.op_type == "Reshape" and node.domain in DEFAULT_DOMAINS
        }

    def place(self, one: LinearMap, use: Use) -> BiasPlace | None:
        """Return the bias behind the only use of a map."""
        node = use.node
        scale, share = _scales(node)
        is_left = one.kind in ("gemm-left", "matmul-left")
        if node.op_type in _THIRD_INPUT and len(node.input) > 2 and node.input[2]:
            name, behind, factor = node.input[2], int(is_left), scale / share if share else 0.0
        else:
            after = self._only_use((use.scope.path, node.output[0]), use.scope)
            if after is None or after.node is None or node.domain not in DEFAULT_DOMAINS:
                return None  # what other domains fuse into a map may come before the bias
            if after.node.op_type == "Add":
                name, factor = after.node.input[1 - after.index], scale
                behind = len(one.kernel) or int(is_left)
            elif one.kernel and _is_norm(after.node, after.index):
                name, behind, factor = after.node.input[3], 0, -1.0
            else:
                return None
        weight = self._bias(use.scope, name, one.groups * one.outputs, behind)
        return BiasPlace(weight=weight, factor=factor) if weight is not None and factor else None

    def _bias(self, scope: Scope, name: str, outputs: int, behind: int) -> Weight | None:
        """Return the tensor that a value is, if it holds one value for each output.

        These stand before `behind` axes of size 1, maybe only once it is reshaped.
        """
        weight = self._held.get((scope.path, name))
        reshape = self._reshapes.get((scope.path, name))
        if weight is None and reshape is not None:
            weight = self._held.get((scope.path, reshape.input[0]))
            shape = self._held.get((scope.path, reshape.input[1]))
            if weight is None or shape is None or not self._only_use((scope.path, name), scope):
                return None
            sizes = tuple(map(int, model.read(self._document, shape).reshape(-1)))
            seen = _reshaped(weight.shape, sizes)
        else:
            seen = () if weight is None else weight.shape
        fits = len(seen) > behind and seen[-1 - behind] == outputs
        return weight if weight is not None and fits and _is_free(weight, outputs) else None

    def _only_use(self, key: Key, scope: Scope) -> graphs.Use | None:
        """Return the one node that a value goes into, in the same graph; None if not one."""
        found = self._uses.get(key, ())
        if len(found) != 1 or key[1] in graphs.value_names(scope.proto.output):
            return None
        node = found[0].node
        is_near = found[0].scope.path == scope.path
        return found[0] if node and is_near and node.domain in DEFAULT_DOMAINS else None


def _scales(node: NodeProto) -> tuple[float, float]:
    """Return what a Gemm multiplies its product and its third input with; 1 for others."""
    if not node.op_type.endswith("Gemm"):
        return 1.0, 1.0
    given = read_attributes(node).by_name
    scale, share = (float(given[name].f) if name in given else 1.0 for name in ("alpha", "beta"))
    return scale, share


def _is_norm(node: NodeProto, index: int) -> bool:
    is_norm = node.op_type == "BatchNormalization" and index == 0
    return is_norm and not read_attributes(node).integer("training_mode", 0)


def _is_free(weight: Weight, outputs: int) -> bool:
    """Tell whether a tensor holds one value for each output, and is used in one place alone."""
    if not weight.is_float or weight.kind not in ("initializer", "constant"):
        return False
    if weight.is_ambiguous or weight.is_graph_input or weight.is_graph_output:
        return False
    return weight.elements == outputs and len(weight.consumers) == 1


def _reshaped(shape: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    """Return what Reshape makes of a shape with sizes of which 0 keeps one and -1 is the rest.

    >>> _reshaped((1, 8), (0, -1, 1, 1))
    (1, 8, 1, 1)
    """
    kept = [
        shape[place] if size == 0 and place < len(shape) else size
        for place, size in enumerate(sizes)
    ]
    known = math.prod(size for size in kept if size != -1)
    return tuple(math.prod(shape) // max(1, known) if size == -1 else size for size in kept)
