"""Propose the forms that a node of a graph could be the last node of.

Owns a quick, generous reading of what a node stands on: shapes and widths that fit the constants
below it. `recognise` then compares each proposal with the graph exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnx import NodeProto, TensorProto

from onnxq import tensors
from onnxq.bitpack import PACKINGS
from onnxq.forms import ALIAS_NAME, NATIVE_OPSETS, Form, StoredLayout, is_plain
from onnxq.graphs import DEFAULT_DOMAINS, Consumer, value_names
from onnxq.pools import Pool
from onnxq.radixpack import RADIXES
from onnxq.sights import Sight
from onnxq.trees import DOUBLE, FLOAT, FLOAT16, UINT8, UINT16

ROOTS = ("Reshape", "Gather", "Concat")
"""Operators that can end a form."""
_MARKED_ROOTS = ("Mul", "Cast")
"""Operators that can end a form if they are marked by their name."""
_INNER = (*ROOTS, *_MARKED_ROOTS, "Slice", "Add", "Range", "Div", "Mod", "MatMul", "Split")
Uses = Mapping[tuple[str, str], Sequence[Consumer]]
_PLANE_TYPES = (UINT8, UINT16, *(data_type for data_type, _ in NATIVE_OPSETS.values()))
_FORM_NODES = 64
_MAX_DEPTH = 16
_MAX_ELEMENTS = 1 << 36
"""A hostile file may claim more; no form of that many elements is looked for."""


def stands_alone(sight: Sight, node: NodeProto, uses: Uses) -> bool:
    """Tell whether the values between a form's lookup and its last node serve nothing else.

    A model's own Reshape or Slice behind a decoded tensor can look like a part of a larger form;
    then the tensor is used there as well.
    """
    taken = set(value_names(sight.scope.proto.output))
    pending, seen = [node], {id(node)}
    while pending:
        current = pending.pop()
        if current.op_type in ("Gather", "Cast"):
            continue
        for name in current.input if current.op_type == "Concat" else current.input[:1]:
            below = sight.producer(name)
            users = uses.get((sight.scope.path, name), ())
            if below is None or len(users) != 1 or name in taken or id(below) in seen:
                return False
            seen.add(id(below))
            pending.append(below)
    return True


def is_root(node: NodeProto) -> bool:
    """Tell whether a node could be the last one of a form."""
    is_marked = node.op_type in _MARKED_ROOTS and node.name.startswith(ALIAS_NAME)
    is_standard = (node.op_type in ROOTS or is_marked) and node.domain in DEFAULT_DOMAINS
    return is_standard and len(node.output) == 1 and len(node.input) > 0


def _leaves(sight: Sight, node: NodeProto) -> list[tuple[TensorProto, NodeProto]] | None:
    """Return (constant, consumer) of all a node stands on; None if it is no decode at all.

    Scales are left out. Kept values are not part of it: they are read before, by `_kept`.
    """
    found: list[tuple[TensorProto, NodeProto]] = []
    stack, seen = [node], {id(node)}
    limit = _FORM_NODES * (len(node.input) if node.op_type == "Concat" else 1)
    while stack:
        current = stack.pop()
        if current.op_type not in _INNER or len(seen) > limit:
            return None
        for name in current.input[:1] if current.op_type == "Mul" else current.input:
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


def proposals(sight: Sight, node: NodeProto, uses: Uses) -> Iterator[Form]:
    """Yield the forms that a node could be the end of, judged by the constants it stands on."""
    if node.op_type == "Reshape" and node.name.startswith(ALIAS_NAME):
        yield from _kept(sight, node, uses)
    yield from _coded(sight, node, uses)


def _coded(sight: Sight, node: NodeProto, uses: Uses) -> Iterator[Form]:
    """Yield the forms without kept values that a node could be the end of."""
    leaves = _leaves(sight, node)
    if leaves is None:
        return
    half = _half(sight, node)
    if half is not None:
        yield half
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
    axis, scale_type = _scales(sight, node) or (None, None)
    seen = Form(
        layout="portable",
        bit_width=1,
        data_type=data_type,
        codebook_type=book.data_type,
        shape=(),
        centroids=book.dims[0],
        opset=sight.scope.opset,
        scale_axis=axis,
        scale_type=scale_type,
    )
    for form in _shaped(sight, node, uses, seen):
        if axis is None or axis < len(form.shape):
            yield form


def _kept(sight: Sight, node: NodeProto, uses: Uses) -> Iterator[Form]:
    """Yield the forms with kept values that a marked Reshape could be the end of."""
    scatter, shape = sight.producer(node.input[0]), reshaped(sight, node)
    if scatter is None or scatter.op_type != "ScatterElements" or len(scatter.input) != 3:
        return
    flat, places = sight.producer(scatter.input[0]), sight.constant(scatter.input[1])
    name, cast = scatter.input[2], sight.producer(scatter.input[2])
    values = sight.constant(cast.input[0] if cast is not None and cast.input else name)
    if flat is None or not is_root(flat) or shape is None or places is None or values is None:
        return
    is_sound = len(places.dims) == 1 and places.dims[0] > 0
    if not is_sound or values.data_type not in tensors.FLOAT_TYPES:
        return
    for form in _coded(sight, flat, uses):
        full = form.shape if shape == (-1,) else shape
        is_inner = form.layout != "half" and form.scale_axis is None and len(form.shape) == 1
        if is_inner and min(full, default=0) > 0 and math.prod(full) == form.elements:
            kept_type = values.data_type
            yield replace(form, shape=full, kept=places.dims[0], kept_type=kept_type)


def _half(sight: Sight, node: NodeProto) -> Form | None:
    """Return the form of values stored as float16 that a node, or a joining of such, ends."""
    tiles = [sight.producer(name) for name in node.input] if node.op_type == "Concat" else [node]
    rows, data_type = 0, 0
    shape: tuple[int, ...] = (0,)
    for tile in tiles:
        if tile is None or tile.op_type != "Cast" or len(tile.input) != 1:
            return None
        values = sight.constant(tile.input[0])
        if values is None or values.data_type != FLOAT16 or not values.dims:
            return None
        rows, shape = rows + values.dims[0], tuple(values.dims)
        data_type = _decoded_type(values, tile) or 0
    if min(shape) <= 0 or math.prod(shape) > _MAX_ELEMENTS or data_type not in (FLOAT, DOUBLE):
        return None
    return Form(
        layout="half",
        bit_width=16,
        data_type=data_type,
        codebook_type=FLOAT16,
        shape=(rows, *shape[1:]),
        centroids=0,
        opset=sight.scope.opset,
    )


def _shaped(sight: Sight, node: NodeProto, uses: Uses, seen: Form) -> Iterator[Form]:
    """Yield the forms of all layouts, widths and shapes that fit, all else as it is seen."""
    pooled = _pooled(sight, _unscaled(sight, node), uses)
    if pooled is not None:
        pool, member, dims = pooled
        yield replace(seen, bit_width=pool.bit_width, shape=dims, pool=pool, member=member)
        return
    for layout, bit_width in _widths(seen.centroids):
        shape = _shape(sight, node, layout, bit_width)
        if shape and min(shape) > 0 and math.prod(shape) <= _MAX_ELEMENTS:
            yield replace(seen, layout=layout, bit_width=bit_width, shape=shape)


def _unscaled(sight: Sight, node: NodeProto) -> NodeProto:
    """Return the node whose values a product scales; a node that scales nothing itself."""
    below = sight.producer(node.input[0]) if node.op_type == "Mul" else None
    return node if below is None else below


def _scales(sight: Sight, node: NodeProto) -> tuple[int, int] | None:
    """Return the axis and the element type of the scales of a node; None where it has none.

    The tiles of a tensor share one constant, or have their own where the first axis is scaled.
    """
    held: dict[int, TensorProto] = {}
    tiles = [sight.producer(name) for name in node.input] if node.op_type == "Concat" else [node]
    for tile in tiles:
        if tile is None or tile.op_type != "Mul" or len(tile.input) != 2:
            return None
        name, cast = tile.input[1], sight.producer(tile.input[1])
        if cast is not None and cast.op_type == "Cast" and cast.input:
            name = cast.input[0]
        scales = sight.constant(name)
        if scales is None:
            return None
        held[id(scales)] = scales
    first = next(iter(held.values()), None)
    if first is None or first.data_type not in tensors.FLOAT_TYPES:
        return None
    axes = [axis for axis, dim in enumerate(first.dims) if dim > 1]
    if len(held) > 1:
        return 0, first.data_type
    return (axes[0], first.data_type) if axes else None


def _pooled(sight: Sight, node: NodeProto, uses: Uses) -> tuple[Pool, int, tuple[int, ...]] | None:
    """Return the pool that a lookup's indices seem to come from, which tensor, and its shape."""
    if node.op_type != "Gather" or len(node.input) != 2:
        return None
    name, shape = node.input[1], None
    below = sight.producer(name)
    if below is not None and below.op_type == "Reshape":
        shape = reshaped(sight, below)
        name = below.input[0]
        below = sight.producer(name)
    if below is None or below.op_type != "Split":
        return None
    pool = _pool(sight, below, uses)
    member = list(below.output).index(name)
    if pool is None or member >= len(pool.lengths):
        return None
    shape = shape or (pool.lengths[member],)
    if min(shape) <= 0 or math.prod(shape) != pool.lengths[member]:
        return None
    return pool, member, shape


def _pool(sight: Sight, split: NodeProto, uses: Uses) -> Pool | None:
    """Return the pool that a Split node hands out, if it can be one."""
    if id(split) in sight.pools:
        return sight.pools[id(split)]
    sight.pools[id(split)] = None
    pieces = _split_lengths(sight, split)
    stream = _first_plane(sight, split)
    if not pieces or min(pieces) <= 0 or len(pieces) != len(split.output) or stream is None:
        return None
    bits, rest = divmod(8 * math.prod(stream.dims), sum(pieces))
    if rest or not 1 <= bits <= 16 or sum(pieces) > _MAX_ELEMENTS:
        return None
    pool = Pool(bit_width=bits, lengths=pieces, opset=sight.scope.opset)
    without = Pool(bit_width=bits, lengths=pieces[:-1], opset=sight.scope.opset)
    if without.lengths and without.pieces == pieces and not _is_used(sight, split.output[-1], uses):
        pool = without
    sight.pools[id(split)] = pool
    return pool


def _is_used(sight: Sight, name: str, uses: Uses) -> bool:
    """Tell whether a node consumes a value, wherever it is made."""
    owner: Sight | None = sight
    while owner is not None and name not in owner.producers:
        owner = owner.outer
    return owner is not None and bool(uses.get((owner.scope.path, name)))


def _split_lengths(sight: Sight, split: NodeProto) -> tuple[int, ...] | None:
    for attribute in split.attribute:
        if attribute.name == "split":
            return tuple(attribute.ints)
    return _integers(sight, split.input[1], "split") if len(split.input) == 2 else None


def _decoded_type(book: TensorProto, user: NodeProto) -> int | None:
    if user.op_type != "Cast":
        return book.data_type
    target = next((a.i for a in user.attribute if a.name == "to"), None)
    return target if book.data_type == FLOAT16 and target in tensors.FLOAT_TYPES else None


def _widths(length: int) -> Iterator[tuple[StoredLayout, int]]:
    """Yield (layout, bit_width) that a codebook of some length can belong to."""
    least = max(1, (length - 1).bit_length())
    if least > 16:
        return
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
    yield from (("radix", bits) for bits, radix in RADIXES.items() if radix.base == length)


def _shape(
    sight: Sight, node: NodeProto, layout: StoredLayout, bit_width: int
) -> tuple[int, ...] | None:
    """Return the shape of a decoded tensor as its last node tells it; None if it is no decode."""
    if node.op_type == "Concat":
        return _joined_shape(sight, node, layout, bit_width)
    node = _unscaled(sight, node)
    plane = _first_plane(sight, node)
    if plane is None:
        return None
    if node.op_type == "Gather":
        is_unpacked = layout == "native" or is_plain(layout, bit_width)
        return tuple(plane.dims) if is_unpacked else None
    shape = reshaped(sight, node)
    if shape != (-1,):
        return shape
    below = sight.producer(node.input[0])
    if below is not None and below.op_type == "Slice":
        return _ends(sight, below)
    group = RADIXES[bit_width].group if layout == "radix" else PACKINGS[bit_width].group
    return (math.prod(plane.dims) * group,)


def _first_plane(sight: Sight, node: NodeProto) -> TensorProto | None:
    """Return the plane that holds the lowest bits, found down the way of the indices."""
    for _ in range(_MAX_DEPTH):
        position = 1 if node.op_type == "Gather" else 0
        if len(node.input) <= position:
            return None
        name = node.input[position]
        constant = sight.constant(name)
        below = sight.producer(name)
        if constant is not None or below is None:
            return constant
        node = below
    return None


def reshaped(sight: Sight, node: NodeProto) -> tuple[int, ...] | None:
    """Return the constant that a Reshape node takes as its shape."""
    return _integers(sight, node.input[1], "shape") if len(node.input) == 2 else None


def _integers(sight: Sight, name: str, what: str) -> tuple[int, ...] | None:
    """Return the values of an int64 constant; None where there is no such."""
    constant = sight.constant(name)
    if constant is None or constant.data_type != TensorProto.INT64:
        return None
    return tuple(int(value) for value in tensors.read(constant, sight.folder, what).reshape(-1))


def _joined_shape(
    sight: Sight, node: NodeProto, layout: StoredLayout, bit_width: int
) -> tuple[int, ...] | None:
    """Return the shape of tiles joined along the first axis."""
    rows, rest = 0, None
    for name in node.input:
        tile = sight.producer(name)
        if tile is None or tile.op_type == "Concat":
            return None
        shape = _shape(sight, tile, layout, bit_width)
        if not shape or (rest is not None and shape[1:] != rest):
            return None
        rows, rest = rows + shape[0], shape[1:]
    return (rows, *rest) if rest is not None else None


def _ends(sight: Sight, node: NodeProto) -> tuple[int, ...] | None:
    for attribute in node.attribute:
        if attribute.name == "ends":
            return tuple(attribute.ints)
    return _integers(sight, node.input[2], "ends") if len(node.input) == 3 else None
