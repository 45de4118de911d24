"""Recognise encoded tensors in a model, and put plain weights back in their place.

Owns the way back from the closed table: the part of the graph that ends in a decoded tensor is
compared, node by node and constant by constant, with the expression that the table would build.
Names play no part, so a model renamed by other tools is still recognised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper

from onnxq import tensors
from onnxq.bitpack import PACKINGS
from onnxq.encode import decode
from onnxq.forms import (
    FLOAT16,
    NATIVE_OPSETS,
    UINT8,
    UINT16,
    Const,
    Expr,
    Form,
    Op,
    Part,
    Value,
    expression,
    is_plain,
)
from onnxq.layout import Store
from onnxq.model import DEFAULT_DOMAINS, Document, Scope, consumers, scopes

Array = np.ndarray[Any, np.dtype[Any]]
_ROOTS = ("Reshape", "Slice", "Gather", "Concat")
_INNER = (*_ROOTS, "Cast", "Add", "Range", "Div", "Mod")
_PLANE_TYPES = (UINT8, UINT16, *(data_type for data_type, _ in NATIVE_OPSETS.values()))
_MAX_NODES = 100_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Hold one encoded tensor of a model: its form, and the constants and nodes it stands on.

    `same_as` is the tensor whose storage this one shares; its own parts are then empty.
    """

    name: str
    scope: Scope
    form: Form
    shape: tuple[int, ...]
    parts: Mapping[str, TensorProto]
    nodes: tuple[NodeProto, ...]
    same_as: Found | None = None

    @property
    def storage(self) -> Found:
        """The tensor that holds the bytes: itself, or the one it equals."""
        return self.same_as or self


@dataclass(kw_only=True)
class _Sight:
    """Hold what is visible from a scope: the producers and the constants by name."""

    scope: Scope
    producers: dict[str, NodeProto] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    outer: _Sight | None = None

    def producer(self, name: str) -> NodeProto | None:
        """Return the node that makes a value, in this graph or one around it."""
        if name in self.producers:
            return self.producers[name]
        return self.outer.producer(name) if self.outer and name not in self.constants else None

    def constant(self, name: str) -> TensorProto | None:
        """Return the constant of a name, in this graph or one around it."""
        if name in self.constants:
            return self.constants[name]
        return self.outer.constant(name) if self.outer and name not in self.producers else None


@dataclass(kw_only=True)
class _Match:
    """Collect what a comparison binds."""

    parts: dict[str, TensorProto] = field(default_factory=dict)
    nodes: dict[int, NodeProto] = field(default_factory=dict)
    done: set[tuple[int, str]] = field(default_factory=set)


def find(document: Document) -> list[Found]:
    """Return the encoded tensors of a model, scope by scope in file order."""
    found: list[Found] = []
    sights: dict[str, _Sight] = {}
    for scope in scopes(document):
        outer = sights.get(scope.parent.path) if scope.parent else None
        sight = _look(scope, outer)
        sights[scope.path] = sight
        here = list(_find_in(sight, document))
        found += reversed(here)
    aliases = [alias for sight in sights.values() for alias in _aliases(sight, found)]
    return _without_internal(document, found, aliases)


def _without_internal(document: Document, found: list[Found], aliases: list[Found]) -> list[Found]:
    """Return all tensors; storage that only aliases use passes to the first of them.

    Equal tensors of two branches have their storage in the graph around both, under a name that no
    original node knows.
    """
    uses = consumers(scopes(document))
    leads: dict[int, Found] = {}
    for alias in aliases:
        storage = alias.storage
        users = uses.get((storage.scope.path, storage.name), ())
        copies = sum(other.same_as is storage for other in aliases)
        if len(users) == copies and not _is_output(storage):
            leads.setdefault(id(storage), alias)
    plain = [item for item in found if id(item) not in leads]
    for alias in aliases:
        storage = alias.storage
        lead = leads.get(id(storage))
        if lead is None:
            plain.append(alias)
        elif lead is alias:
            owner = replace(storage, name=alias.name, scope=alias.scope, shape=alias.shape)
            owner = replace(owner, nodes=(*storage.nodes, *alias.nodes))
            plain.append(owner)
            leads[id(alias)] = owner
        else:
            plain.append(replace(alias, same_as=leads[id(lead)]))
    return plain


def _is_output(item: Found) -> bool:
    outputs = item.scope.proto.output
    names = [output if isinstance(output, str) else output.name for output in outputs]
    return item.name in names


def _look(scope: Scope, outer: _Sight | None) -> _Sight:
    sight = _Sight(scope=scope, outer=outer)
    if isinstance(scope.proto, GraphProto):
        sight.constants.update((tensor.name, tensor) for tensor in scope.proto.initializer)
    for node in scope.proto.node:
        is_constant = node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS
        if is_constant and node.output and node.attribute and node.attribute[0].HasField("t"):
            sight.constants[node.output[0]] = node.attribute[0].t
        else:
            sight.producers.update((name, node) for name in node.output)
    return sight


def _find_in(sight: _Sight, document: Document) -> Iterator[Found]:
    """Yield the encoded tensors of one scope, last first, so that none is a part of another."""
    inner: set[int] = set()
    for node in reversed(sight.scope.proto.node):
        if node.op_type not in _ROOTS or node.domain not in DEFAULT_DOMAINS or id(node) in inner:
            continue
        for form in _proposals(sight, node):
            match = _Match()
            if _compare(expression(form), node.output[0], sight, match, document):
                inner.update(match.nodes)
                yield Found(
                    name=node.output[0],
                    scope=sight.scope,
                    form=form,
                    shape=form.shape,
                    parts=match.parts,
                    nodes=tuple(match.nodes.values()),
                )
                break


def _leaves(sight: _Sight, node: NodeProto) -> list[tuple[TensorProto, NodeProto]] | None:
    """Return (constant, consumer) of all a node stands on; None if it is no decode at all."""
    found: list[tuple[TensorProto, NodeProto]] = []
    stack, seen = [node], {id(node)}
    while stack:
        current = stack.pop()
        if current.op_type not in _INNER or len(seen) > _MAX_NODES:
            return None
        for name in current.input:
            constant = sight.constant(name)
            if constant is not None:
                found.append((constant, current))
                continue
            producer = sight.producer(name)
            if producer is None:
                return None
            if id(producer) not in seen:
                seen.add(id(producer))
                stack.append(producer)
    return found


def _proposals(sight: _Sight, node: NodeProto) -> Iterator[Form]:
    """Yield the forms that a node could be the end of, judged by the constants it stands on."""
    leaves = _leaves(sight, node)
    if leaves is None:
        return
    books = {
        id(tensor): (tensor, user)
        for tensor, user in leaves
        if tensor.data_type in tensors.FLOAT_TYPES
    }
    indices = [tensor for tensor, _ in leaves if tensor.data_type in _PLANE_TYPES]
    if len(books) != 1 or not indices:
        return
    book, user = next(iter(books.values()))
    data_type = _decoded_type(book, user)
    if len(book.dims) != 1 or data_type is None or not book.dims[0]:
        return
    for layout, bit_width in _widths(book.dims[0]):
        shape = _shape(sight, node, layout, bit_width, indices)
        if shape and math.prod(shape) > 0:
            yield Form(
                layout=layout,  # type: ignore[arg-type]
                bit_width=bit_width,
                data_type=data_type,
                codebook_type=book.data_type,
                shape=shape,
                centroids=book.dims[0],
                opset=sight.scope.opset,
            )


def _decoded_type(book: TensorProto, user: NodeProto) -> int | None:
    if user.op_type != "Cast":
        return book.data_type
    target = next((a.i for a in user.attribute if a.name == "to"), None)
    return target if book.data_type == FLOAT16 and target in tensors.FLOAT_TYPES else None


def _widths(length: int) -> Iterator[tuple[str, int]]:
    """Yield (layout, bit_width) that a codebook of some length can belong to."""
    least = max(1, (length - 1).bit_length())
    for bit_width in range(1, 17):
        exact = PACKINGS[bit_width].group > 1
        if (length == 1 << bit_width) if exact else (least <= bit_width):
            yield "portable", bit_width
    for bit_width in NATIVE_OPSETS:
        if least <= bit_width:
            yield "native", bit_width
    yield "bytes", least


def _shape(
    sight: _Sight, node: NodeProto, layout: str, bit_width: int, planes: list[TensorProto]
) -> tuple[int, ...] | None:
    """Return the shape of a decoded tensor as its last node tells it."""
    if node.op_type == "Concat":
        return _joined_shape(sight, node, layout, bit_width)
    if node.op_type == "Gather":
        if layout == "native" or is_plain(layout, bit_width):  # type: ignore[arg-type]
            return tuple(planes[0].dims)
        return None
    if node.op_type == "Slice":
        return _ends(sight, node)
    constant = sight.constant(node.input[1]) if len(node.input) == 2 else None
    if constant is None or constant.data_type != TensorProto.INT64:
        return None
    shape = tuple(int(dim) for dim in tensors.read(constant, None, "shape").reshape(-1))
    if shape != (-1,):
        return shape
    packing = PACKINGS[bit_width]
    first = max(math.prod(plane.dims) for plane in planes)
    return (first * packing.group,)


def _joined_shape(
    sight: _Sight, node: NodeProto, layout: str, bit_width: int
) -> tuple[int, ...] | None:
    rows, rest = 0, None
    for name in node.input:
        producer = sight.producer(name)
        leaves = _leaves(sight, producer) if producer is not None else None
        if producer is None or leaves is None or producer.op_type == "Concat":
            return None
        planes = [tensor for tensor, _ in leaves if tensor.data_type in _PLANE_TYPES]
        shape = _shape(sight, producer, layout, bit_width, planes) if planes else None
        if not shape or (rest is not None and shape[1:] != rest):
            return None
        rows, rest = rows + shape[0], shape[1:]
    return (rows, *rest) if rest is not None else None


def _ends(sight: _Sight, node: NodeProto) -> tuple[int, ...] | None:
    for attribute in node.attribute:
        if attribute.name == "ends":
            return tuple(attribute.ints)
    constant = sight.constant(node.input[2]) if len(node.input) == 3 else None
    if constant is None or constant.data_type != TensorProto.INT64:
        return None
    return tuple(int(end) for end in tensors.read(constant, None, "ends").reshape(-1))


def _compare(expr: Expr, name: str, sight: _Sight, match: _Match, document: Document) -> bool:
    """Tell whether a value is what an expression would build; bind its parts."""
    key = (id(expr), name)
    if key in match.done:
        return True
    if isinstance(expr, Value):
        return expr.name == name
    if isinstance(expr, Op):
        node = sight.producer(name)
        if node is None or not _same_node(expr, node):
            return False
        inputs = zip(expr.inputs, node.input, strict=True)
        if not all(_compare(item, value, sight, match, document) for item, value in inputs):
            return False
        match.nodes[id(node)] = node
    elif not _same_constant(expr, sight.constant(name), match, document):
        return False
    match.done.add(key)
    return True


def _same_node(expr: Op, node: NodeProto) -> bool:
    if node.op_type != expr.op_type or node.domain not in DEFAULT_DOMAINS:
        return False
    if len(node.input) != len(expr.inputs) or len(node.output) != 1:
        return False
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    expected = {
        name: value if isinstance(value, int) else list(value) for name, value in expr.attributes
    }
    return found == expected


def _same_constant(
    expr: Const | Part, tensor: TensorProto | None, match: _Match, document: Document
) -> bool:
    if tensor is None or tensor.data_type != expr.data_type or tuple(tensor.dims) != expr.dims:
        return False
    if isinstance(expr, Part):
        known = match.parts.setdefault(expr.role, tensor)
        return known is tensor
    values = tensors.read(tensor, document.folder, f"{document.label}: decoding table")
    return bool(np.array_equal(values.reshape(-1), np.array(expr.values, values.dtype)))


def _aliases(sight: _Sight, found: list[Found]) -> Iterator[Found]:
    """Yield the equal tensors of a scope: unnamed nodes among those in front that copy a value."""
    storages = {(item.scope.path, item.name): item for item in found}
    ours = {id(node) for item in found for node in item.nodes}
    for node in sight.scope.proto.node:
        if node.op_type == "Constant" or id(node) in ours:
            continue
        lead = _visible(sight.scope, node.input[0], storages) if node.input else None
        if node.name or lead is None or node.op_type not in ("Identity", "Reshape"):
            return
        shape = _shape(sight, node, "bytes", 8, []) if node.op_type == "Reshape" else lead.shape
        if shape is None:
            return
        yield Found(
            name=node.output[0],
            scope=sight.scope,
            form=lead.form,
            shape=shape,
            parts={},
            nodes=(node,),
            same_as=lead,
        )


def _visible(
    scope: Scope | None, name: str, storages: Mapping[tuple[str, str], Found]
) -> Found | None:
    while scope is not None:
        if (scope.path, name) in storages:
            return storages[scope.path, name]
        scope = scope.parent
    return None


def payloads(document: Document, found: Found) -> dict[str, Array]:
    """Return the raw arrays of an encoded tensor by role; native planes stay packed bytes.

    Raises:
        InputError: a constant's bytes do not fit its dims.
    """
    read: dict[str, Array] = {}
    for role, tensor in found.parts.items():
        where = f"{document.label}: tensor {found.name!r}"
        if tensor.data_type in (UINT8, UINT16) or tensor.data_type in tensors.FLOAT_TYPES:
            read[role] = tensors.read(tensor, document.folder, where)
        else:
            read[role] = tensors.read_packed(tensor, document.folder, where)
    return read


def decoded(document: Document, found: Found) -> Array:
    """Return the values of an encoded tensor in its shape and type."""
    storage = found.storage
    dtype = tensors.FLOAT_TYPES[storage.form.data_type]
    return decode(payloads(document, storage), storage.form, dtype).reshape(found.shape)


def replace_all(document: Document, found: list[Found], store: Store) -> None:
    """Put decoded weights in the place of every encoded tensor, the decode nodes removed.

    Values go to `store` one tensor at a time. Functions and models before IR 4 get `Constant`
    nodes, all others initializers.
    """
    doomed = _consumed(document, {id(node) for item in found for node in item.nodes})
    for item in found:
        graph = item.scope.proto
        values = decoded(document, item)
        if isinstance(graph, FunctionProto) or document.proto.ir_version < 4:
            tensor = tensors.make_tensor("", item.storage.form.data_type, item.shape)
            tensor.raw_data = values.tobytes()
            node = NodeProto(op_type="Constant", output=[item.name])
            node.attribute.add(name="value", type=AttributeProto.TENSOR, t=tensor)
            graph.node.insert(0, node)
        else:
            tensor = graph.initializer.add(name=item.name, data_type=item.storage.form.data_type)
            tensor.dims.extend(item.shape)
            store.put(tensor, values)
    _remove_nodes(document, {id(node) for item in found for node in item.nodes})
    _remove_unused(document, doomed)


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
        kept |= {output if isinstance(output, str) else output.name for output in graph.output}
        if isinstance(graph, GraphProto):
            for index in reversed(range(len(graph.initializer))):
                name = graph.initializer[index].name
                if name in names and name not in kept:
                    del graph.initializer[index]
        for index in reversed(range(len(graph.node))):
            node = graph.node[index]
            if node.op_type == "Constant" and node.output[0] in names - kept:
                del graph.node[index]
