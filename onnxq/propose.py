"""Propose the forms that a node of a graph could be the last node of.

Owns a quick, generous reading of what a node stands on: shapes and widths that fit the constants
below it. `recognise` then compares each proposal with the graph exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from onnx import GraphProto, NodeProto, TensorProto

from onnxq import tensors
from onnxq.bitpack import PACKINGS
from onnxq.forms import FLOAT16, NATIVE_OPSETS, UINT8, UINT16, Form, is_plain
from onnxq.graphs import DEFAULT_DOMAINS, Scope
from onnxq.options import LayoutName

ROOTS = ("Reshape", "Slice", "Gather", "Concat")
"""Operators that can end a form."""
_INNER = (*ROOTS, "Cast", "Add", "Range", "Div", "Mod")
_PLANE_TYPES = (UINT8, UINT16, *(data_type for data_type, _ in NATIVE_OPSETS.values()))
_MAX_NODES = 100_000
_MAX_ELEMENTS = 1 << 36
"""A hostile file may claim more; no form of that many elements is looked for."""


def is_root(node: NodeProto) -> bool:
    """Tell whether a node could be the last one of a form."""
    is_standard = node.op_type in ROOTS and node.domain in DEFAULT_DOMAINS
    return is_standard and len(node.output) == 1 and len(node.input) > 0


@dataclass(kw_only=True)
class Sight:
    """Hold what is visible from a scope: the producers and the constants by name."""

    scope: Scope
    producers: dict[str, NodeProto] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    outer: Sight | None = None

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


def look(scope: Scope, outer: Sight | None) -> Sight:
    """Return what is visible from a scope whose surrounding graph sees `outer`."""
    sight = Sight(scope=scope, outer=outer)
    if isinstance(scope.proto, GraphProto):
        sight.constants.update((tensor.name, tensor) for tensor in scope.proto.initializer)
    for node in scope.proto.node:
        is_constant = node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS
        if is_constant and node.output and node.attribute and node.attribute[0].HasField("t"):
            sight.constants[node.output[0]] = node.attribute[0].t
        else:
            sight.producers.update((name, node) for name in node.output)
    return sight


def _leaves(sight: Sight, node: NodeProto) -> list[tuple[TensorProto, NodeProto]] | None:
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


def proposals(sight: Sight, node: NodeProto) -> Iterator[Form]:
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
        for shape in _shapes(sight, node, layout, bit_width, indices):
            if min(shape, default=0) <= 0 or math.prod(shape) > _MAX_ELEMENTS:
                continue
            yield Form(
                layout=layout,
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


def _widths(length: int) -> Iterator[tuple[LayoutName, int]]:
    """Yield (layout, bit_width) that a codebook of some length can belong to."""
    least = max(1, (length - 1).bit_length())
    for bit_width in range(1, 17):
        exact = PACKINGS[bit_width].group > 1
        if is_plain("portable", bit_width):
            fits = least == bit_width
        else:
            fits = length == 1 << bit_width if exact else least <= bit_width
        if fits:
            yield "portable", bit_width
    for bit_width in NATIVE_OPSETS:
        if least <= bit_width:
            yield "native", bit_width
    yield "bytes", least


def _shapes(
    sight: Sight,
    node: NodeProto,
    layout: LayoutName,
    bit_width: int,
    planes: Sequence[TensorProto],
) -> Iterator[tuple[int, ...]]:
    """Yield the shapes that a decoded tensor can have, as its last node tells them."""
    if node.op_type == "Concat":
        yield from _joined_shapes(sight, node, layout, bit_width)
    elif node.op_type == "Gather":
        if layout == "native" or is_plain(layout, bit_width):
            yield from sorted({tuple(plane.dims) for plane in planes if math.prod(plane.dims)})
    elif node.op_type == "Slice":
        ends = _ends(sight, node)
        if ends:
            yield ends
    else:
        shape = reshaped(sight, node)
        if shape == (-1,):
            group = PACKINGS[bit_width].group
            yield from sorted({(math.prod(plane.dims) * group,) for plane in planes})
        elif shape and math.prod(shape) > 0:
            yield shape


def reshaped(sight: Sight, node: NodeProto) -> tuple[int, ...] | None:
    """Return the constant that a Reshape node takes as its shape."""
    constant = sight.constant(node.input[1]) if len(node.input) == 2 else None
    if constant is None or constant.data_type != TensorProto.INT64:
        return None
    return tuple(int(dim) for dim in tensors.read(constant, None, "shape").reshape(-1))


def _joined_shapes(
    sight: Sight, node: NodeProto, layout: LayoutName, bit_width: int
) -> Iterator[tuple[int, ...]]:
    """Yield the shape of tiles joined along the first axis."""
    rows, rest = 0, None
    for name in node.input:
        producer = sight.producer(name)
        leaves = _leaves(sight, producer) if producer is not None else None
        if producer is None or leaves is None or producer.op_type == "Concat":
            return
        planes = [tensor for tensor, _ in leaves if tensor.data_type in _PLANE_TYPES]
        shape = next(_shapes(sight, producer, layout, bit_width, planes), None)
        if shape is None or (rest is not None and shape[1:] != rest):
            return
        rows, rest = rows + shape[0], shape[1:]
    if rest is not None:
        yield (rows, *rest)


def _ends(sight: Sight, node: NodeProto) -> tuple[int, ...] | None:
    for attribute in node.attribute:
        if attribute.name == "ends":
            return tuple(attribute.ints)
    constant = sight.constant(node.input[2]) if len(node.input) == 3 else None
    if constant is None or constant.data_type != TensorProto.INT64:
        return None
    return tuple(int(end) for end in tensors.read(constant, None, "ends").reshape(-1))
