"""The mean error of a linear map's outputs, and the bias that can take it.

Owns where biases stand: the third input of a Conv, ConvTranspose or Gemm; a constant that an Add
behind the map adds; the mean that a BatchNormalization behind it takes off. A bias counts if it is
used there alone, so that a change of it is a change of that map's outputs. A map with outputs W x
that is stored as V gives W E[x] - V E[x] less on average, which is added to its bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxq import graphs
from onnxq.calibration.attributes import read_attributes
from onnxq.calibration.ends import Use
from onnxq.calibration.maps import LinearMap
from onnxq.graphs import DEFAULT_DOMAINS, Document, Key
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
    nor have embeddings and batches of matrices. Reads no values.
    """
    held = {(weight.graph, weight.name): weight for weight in weights}
    uses = graphs.uses(graphs.scopes(document))
    found: dict[Key, BiasPlace] = {}
    for key, one in maps.items():
        if len(one.uses) == 1 and (one.groups == 1 or one.kernel) and one.kind != "gather":
            place = _place(one, one.uses[0], held, uses)
            if place is not None:
                found[key] = place
    return found


def _place(
    one: LinearMap, use: Use, held: Mapping[Key, Weight], uses: Mapping[Key, Sequence[graphs.Use]]
) -> BiasPlace | None:
    """Return the bias behind the only use of a map."""
    node, path = use.node, use.scope.path
    is_left = one.kind in ("gemm-left", "matmul-left")
    if node.op_type in _THIRD_INPUT and len(node.input) > 2 and node.input[2]:
        scale, share = _scales(node)
        name, behind, factor = node.input[2], int(is_left), scale / share if share else 0.0
    else:
        after = _only_use(use, uses)
        if after is None or node.domain not in DEFAULT_DOMAINS:
            return None  # what other domains fuse into a map may come before the bias
        scale, _ = _scales(node)
        if after.node is not None and after.node.op_type == "Add":
            name, factor = after.node.input[1 - after.index], scale
            behind = len(one.kernel) or int(is_left)
        elif after.node is not None and _is_norm(after.node, after.index) and one.kernel:
            name, behind, factor = after.node.input[3], 0, -1.0
        else:
            return None
    weight = held.get((path, name))
    if weight is None or not factor or not _takes(weight, one.groups * one.outputs, behind):
        return None
    return BiasPlace(weight=weight, factor=factor)


def _scales(node: NodeProto) -> tuple[float, float]:
    """Return what a Gemm multiplies its product and its third input with; 1 for others."""
    if not node.op_type.endswith("Gemm"):
        return 1.0, 1.0
    given = read_attributes(node).by_name
    scale, share = (float(given[name].f) if name in given else 1.0 for name in ("alpha", "beta"))
    return scale, share


def _only_use(use: Use, uses: Mapping[Key, Sequence[graphs.Use]]) -> graphs.Use | None:
    """Return the one place where a node's output goes in, in the same graph; None if not one."""
    found = uses.get((use.scope.path, use.node.output[0]), ())
    outputs = graphs.value_names(use.scope.proto.output)
    if len(found) != 1 or use.node.output[0] in outputs or found[0].scope.path != use.scope.path:
        return None
    is_known = found[0].node is not None and found[0].node.domain in DEFAULT_DOMAINS
    return found[0] if is_known else None


def _is_norm(node: NodeProto, index: int) -> bool:
    is_norm = node.op_type == "BatchNormalization" and index == 0
    return is_norm and not read_attributes(node).integer("training_mode", 0)


def _takes(weight: Weight, outputs: int, behind: int) -> bool:
    """Tell whether a tensor holds one value for each output, before `behind` axes of size 1."""
    if not weight.is_float or weight.kind not in ("initializer", "constant"):
        return False
    if weight.is_ambiguous or weight.is_graph_input or weight.is_graph_output:
        return False
    shape = weight.shape
    fits = len(shape) > behind and shape[-1 - behind] == outputs == weight.elements
    return fits and len(weight.consumers) == 1
