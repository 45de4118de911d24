"""Put two nodes in the place of each that uses a weight.

Owns the model's change. The second node is the old one: it keeps its name, its outputs, its bias,
and gets the result of the first one. The first one stands just before it, so every graph stays
sorted. Factors stand where new constants of the weight's scope stand (`graphs.holder`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

from onnxq import tensors
from onnxq.calibration.ends import Use
from onnxq.graphs import Document, Scope, holder
from onnxq.layout import Store, add_input, remove_inputs
from onnxq.low_rank.attributes import along
from onnxq.low_rank.factors import Factors
from onnxq.low_rank.layers import Layer
from onnxq.model import Weight

Array = np.ndarray[Any, np.dtype[Any]]


class Names:
    """Give out names that nothing in a model bears."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def free(self, wanted: str) -> str:
        """Return the wanted name, or where it is taken, with the first free number behind it."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """Name the two weights that a layer now has."""

    first: str
    second: str


def apply(
    document: Document, layer: Layer, factors: Factors, store: Store, names: Names
) -> Replacement:
    """Replace a layer's weight, and each node that uses it, by two."""
    weight = layer.weight
    made = Replacement(
        first=names.free(f"{weight.name}.lowrank_a"), second=names.free(f"{weight.name}.lowrank_b")
    )
    _remove(document, weight)
    _add(document, weight.scope, made.first, factors.first, store)
    _add(document, weight.scope, made.second, factors.second, store)
    for use in layer.uses:
        _divide(layer, use, factors, made, names)
    return made


def _divide(layer: Layer, use: Use, factors: Factors, made: Replacement, names: Names) -> None:
    """Put a first node before the one that uses the weight, and make that the second."""
    node, between = use.node, names.free(f"{use.node.output[0]}.lowrank")
    first = NodeProto(op_type="MatMul", domain=node.domain, output=[between])
    if node.name:
        first.name = names.free(f"{node.name}.lowrank")
    is_left = layer.kind == "conv" or layer.form.inputs_left
    inputs = [use.activation, made.first]
    first.input.extend(inputs if is_left else inputs[::-1])
    if layer.kind == "conv":
        first.op_type = "Conv"
        axes = layer.first_axes(factors.split)
        others = set(range(len(layer.kernel))) - set(axes)
        first.attribute.extend(along(node, axes))
        second = along(node, others)
        del node.attribute[:]
        node.attribute.extend(second)
    container = use.scope.proto.node
    position = next(index for index, item in enumerate(container) if item is node)
    node.input[1 - use.index] = between
    node.input[use.index] = made.second
    container.insert(position, first)


def _remove(document: Document, weight: Weight) -> None:
    """Remove the container of a weight, and what the graph says of its type."""
    graph = weight.scope.proto
    if weight.kind == "initializer" and isinstance(graph, GraphProto):
        _delete(graph.initializer, [item.name == weight.name for item in graph.initializer])
        if document.proto.ir_version < 4:
            remove_inputs(graph, {weight.name})
    else:
        is_it = [item.op_type == "Constant" and weight.name in item.output for item in graph.node]
        _delete(graph.node, is_it)
    _delete(graph.value_info, [item.name == weight.name for item in graph.value_info])


def _delete(container: Any, chosen: list[bool]) -> None:
    for index in reversed(range(len(chosen))):
        if chosen[index]:
            del container[index]


def _add(document: Document, scope: Scope, name: str, values: Array, store: Store) -> None:
    """Add a constant for a scope, where such constants stand."""
    held = holder(document, scope)
    data_type = {dtype: key for key, dtype in tensors.FLOAT_TYPES.items()}[values.dtype]
    if held == "node":
        tensor = tensors.make_tensor("", data_type, values.shape)
        tensor.raw_data = values.tobytes()
        node = NodeProto(op_type="Constant", output=[name])
        node.attribute.add(name="value", type=AttributeProto.TENSOR, t=tensor)
        scope.proto.node.insert(0, node)
        return
    graph = scope.root.proto if held == "input" else scope.proto
    if isinstance(graph, FunctionProto):
        raise AssertionError("functions have no initializers")
    tensor = graph.initializer.add(name=name, data_type=data_type)
    tensor.dims.extend(values.shape)
    store.put(tensor, values)
    if held == "input":
        add_input(graph, tensor)
