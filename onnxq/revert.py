"""Put plain weights back in the place of encoded ones.

Owns decoding a model: values bit for bit as a runtime computes them, and the removal of the nodes
and constants that only decoding needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from onnxq import tensors
from onnxq.encode import decode
from onnxq.graphs import Document, consumers, scopes, value_names
from onnxq.layout import Store, add_input, remove_inputs
from onnxq.recognise import Found
from onnxq.trees import INT32, UINT8, UINT16

Array = np.ndarray[Any, np.dtype[Any]]


def payloads(document: Document, found: Found) -> dict[str, Array]:
    """Return the raw arrays of an encoded tensor by role; native planes stay packed bytes.

    Raises:
        InputError: a constant's bytes do not fit its dims.
    """
    read: dict[str, Array] = {}
    for role, tensor in found.parts.items():
        where = f"{document.label}: tensor {found.name!r}"
        if tensor.data_type in (UINT8, UINT16, INT32) or tensor.data_type in tensors.FLOAT_TYPES:
            read[role] = tensors.read(tensor, document.folder, where)
        else:
            read[role] = tensors.read_packed(tensor, document.folder, where)
    return read


def decoded(document: Document, found: Found) -> Array:
    """Return the values of an encoded tensor in its shape and type."""
    storage = found.storage
    dtype = tensors.FLOAT_TYPES[storage.form.data_type]
    return decode(payloads(document, storage), storage.form, dtype).reshape(found.shape)


def replace_all(document: Document, found: Sequence[Found], store: Store) -> None:
    """Put decoded weights in the place of every encoded tensor, the decode nodes removed.

    Values go to `store` one tensor at a time. Functions get `Constant` nodes, graphs
    initializers.
    """
    for item in found:
        graph = item.scope.proto
        values = decoded(document, item)
        is_bound = document.proto.ir_version < 4 and item.scope.parent is not None
        if isinstance(graph, FunctionProto) or is_bound:  # no initializers may stand there
            tensor = tensors.make_tensor("", item.storage.form.data_type, item.shape)
            tensor.raw_data = values.tobytes()
            _document(tensor, item)
            node = NodeProto(op_type="Constant", output=[item.name])
            node.attribute.add(name="value", type=AttributeProto.TENSOR, t=tensor)
            graph.node.insert(0, node)
        else:
            tensor = graph.initializer.add(name=item.name, data_type=item.storage.form.data_type)
            tensor.dims.extend(item.shape)
            _document(tensor, item)
            store.put(tensor, values)
            if document.proto.ir_version < 4:
                add_input(graph, tensor)
    remove_all(document, found)


def _document(tensor: TensorProto, item: Found) -> None:
    """Give a tensor the doc string that the node of its name kept for it."""
    for node in item.nodes:
        if item.name in node.output and node.doc_string:
            tensor.doc_string = node.doc_string


def remove_all(document: Document, found: Sequence[Found]) -> None:
    """Remove the nodes of encoded tensors and the constants that nothing else consumes."""
    nodes = _unneeded(document, found)
    doomed = _consumed(document, nodes)
    _remove_nodes(document, nodes)
    _remove_unused(document, doomed)


def _unneeded(document: Document, found: Sequence[Found]) -> set[int]:
    """Return the nodes of encoded tensors that nothing else needs.

    Tables and pools may serve a tensor that another tool has changed beyond recognition.
    """
    finals = {item.name for item in found}
    nodes = {id(node): node for item in found for node in item.nodes}
    needed = {
        name
        for scope in scopes(document)
        for node in scope.proto.node
        if id(node) not in nodes
        for name in node.input
    }
    needed.update(name for scope in scopes(document) for name in value_names(scope.proto.output))
    needed -= finals
    while True:
        kept = [key for key, node in nodes.items() if needed.intersection(node.output)]
        if not kept:
            return set(nodes)
        for key in kept:
            needed.update(set(nodes.pop(key).input) - finals)


def _consumed(document: Document, nodes: set[int]) -> set[str]:
    """Return the names that some nodes take in."""
    return {
        name
        for scope in scopes(document)
        for node in scope.proto.node
        if id(node) in nodes
        for name in node.input
    }


def _remove_nodes(document: Document, nodes: set[int]) -> None:
    for scope in scopes(document):
        container = scope.proto.node
        for index in reversed(range(len(container))):
            if id(container[index]) in nodes:
                del container[index]


def _remove_unused(document: Document, names: set[str]) -> None:
    """Remove the constants among `names` that nothing consumes any more."""
    all_scopes = scopes(document)
    uses = consumers(all_scopes)
    for scope in all_scopes:
        graph = scope.proto
        kept = {name for path, name in uses if path == scope.path}
        kept |= set(value_names(graph.output))
        if isinstance(graph, GraphProto):
            for index in reversed(range(len(graph.initializer))):
                name = graph.initializer[index].name
                if name in names and name not in kept:
                    del graph.initializer[index]
                    remove_inputs(graph, {name})
        for index in reversed(range(len(graph.node))):
            node = graph.node[index]
            if node.op_type == "Constant" and set(node.output) <= names - kept:
                del graph.node[index]
