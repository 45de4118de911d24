"""Read models without onnxq: scopes, held tensors, and a skeleton without weights.

A scope's key is the path of node outputs and attribute names that leads to it, which a conversion
must not change; a position in the node list would move.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]
Key = tuple[str, ...]
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def scopes(model: ModelProto) -> dict[Key, GraphProto | FunctionProto]:
    """Return every graph and function of a model by its key."""
    found = dict(_nested(("main",), model.graph))
    for function in model.functions:
        found.update(_nested((f"{function.domain}:{function.name}",), function))
    return found


def _nested(
    key: Key, scope: GraphProto | FunctionProto
) -> Iterator[tuple[Key, GraphProto | FunctionProto]]:
    yield key, scope
    for node in scope.node:
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else attribute.graphs
            for number, graph in enumerate(graphs):
                yield from _nested((*key, node.output[0], f"{attribute.name}{number}"), graph)


def held(scope: GraphProto | FunctionProto) -> dict[str, TensorProto]:
    """Return the dense tensors that a scope holds itself, Constants included."""
    found = {}
    if isinstance(scope, GraphProto):
        found = {tensor.name: tensor for tensor in scope.initializer}
    for node in scope.node:
        if node.op_type == "Constant" and node.domain == "":
            attribute = node.attribute[0]
            if attribute.name == "value":
                found[node.output[0]] = attribute.t
            elif attribute.name == "value_floats":
                array = np.array(list(attribute.floats), np.float32)
                found[node.output[0]] = numpy_helper.from_array(array)
            elif attribute.name == "value_float":
                array = np.array(attribute.f, np.float32)
                found[node.output[0]] = numpy_helper.from_array(array)
    return found


def floats(model: ModelProto) -> dict[tuple[Key, str], Array]:
    """Return every float tensor that a model holds, by scope and name."""
    return {
        (key, name): numpy_helper.to_array(tensor)
        for key, scope in scopes(model).items()
        for name, tensor in held(scope).items()
        if tensor.data_type in FLOATS
    }


def constant_names(scope: GraphProto | FunctionProto) -> set[str]:
    """Return the outputs of a scope's Constant nodes."""
    return {node.output[0] for node in scope.node if node.op_type == "Constant"}


def bare(node: NodeProto) -> bytes:
    """Return a node's bytes without the graphs it holds."""
    copy = NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        attribute.ClearField("g")
        del attribute.graphs[:]
    return copy.SerializeToString(deterministic=True)


def frame(model: ModelProto) -> bytes:
    """Return a model's bytes without its graph and functions."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.ClearField("graph")
    del copy.functions[:]
    return copy.SerializeToString(deterministic=True)


def without(model: ModelProto, gone: set[tuple[Key, str]]) -> ModelProto:
    """Return a copy without the named tensors, whether initializers or Constants."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for key, scope in reversed(scopes(copy).items()):  # inner graphs first: outer ones copy them
        names = {name for scope_key, name in gone if scope_key == key}
        kept = [n for n in scope.node if n.op_type != "Constant" or n.output[0] not in names]
        _replace(scope.node, kept)
        if isinstance(scope, GraphProto):
            _replace(scope.initializer, [t for t in scope.initializer if t.name not in names])
            if copy.ir_version < 4:  # where an initializer is an input as well
                _replace(scope.input, [v for v in scope.input if v.name not in names])
    return copy


def _replace(container: Any, messages: list[Any]) -> None:
    copies = []
    for message in messages:
        copies.append(type(message)())
        copies[-1].CopyFrom(message)
    del container[:]
    container.extend(copies)
