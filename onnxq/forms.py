"""The closed table of ONNX forms that an encoded tensor can take, as expressions.

Owns which operators decode which layout and bit width; `docs/format.md` is the normative text.
An expression is a tree of `Op`, `Const` (fixed values) and `Part` (a tensor's own planes and
codebook). `layout` builds nodes from a tree and recognises a tree in a graph; `rate` measures it.
Nothing here knows protobuf: element types are the numbers of onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property

from onnxq.bitpack import PACKINGS
from onnxq.options import LayoutName

FLOAT, UINT8, UINT16, INT32, INT64, FLOAT16, DOUBLE, BFLOAT16 = 1, 2, 4, 6, 7, 10, 11, 16
UINT4, UINT2 = 21, 25
ITEM_BITS = {
    FLOAT: 32, UINT8: 8, UINT16: 16, INT32: 32, INT64: 64, FLOAT16: 16, DOUBLE: 64,
    BFLOAT16: 16, UINT4: 4, UINT2: 2,
}  # fmt: skip

MAX_NODE_BYTES = 2**30
"""onnxruntime folds a node at load only when its output is at most this large."""

RANGE_OPSET = 11
SLICE_INPUTS_OPSET = 10
NATIVE_OPSETS = {2: (UINT2, 25), 4: (UINT4, 21)}
"""Bit width -> (element type, least opset) of the native layout."""


@dataclass(frozen=True, eq=False)
class _Tree:
    """Compare like a dataclass but hash only once: trees are looked up often, tables are long."""

    @cached_property
    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self._key == other._key)


@dataclass(frozen=True, eq=False)
class Const(_Tree):
    """Hold fixed integer values; equal constants are stored once per main graph or function."""

    data_type: int
    dims: tuple[int, ...]
    values: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Part(_Tree):
    """Name a constant of the tensor's own: `plane0.1` (tile, plane) or `codebook`."""

    role: str
    data_type: int
    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Op(_Tree):
    """Hold one operator; `is_shared` ones are emitted once per main graph or function."""

    op_type: str
    inputs: tuple[Expr, ...]
    attributes: tuple[tuple[str, int | tuple[int, ...]], ...] = ()
    is_shared: bool = False


@dataclass(frozen=True, eq=False)
class Value(_Tree):
    """Name a value that already stands in the graph (the storage that an equal tensor shares)."""

    name: str


Expr = Const | Part | Op | Value


@dataclass(frozen=True, kw_only=True)
class Form:
    """Say how one tensor is stored: everything that its expression depends on.

    `centroids` are those really used; `codebook_type` is the stored element type (`data_type` or
    FLOAT16 followed by a Cast).
    """

    layout: LayoutName
    bit_width: int
    data_type: int
    codebook_type: int
    shape: tuple[int, ...]
    centroids: int
    opset: int

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def is_full(self) -> bool:
        """Whether 2^b centroids are stored however few are used, as a group table needs them."""
        return self.layout == "portable" and PACKINGS[self.bit_width].group > 1

    @property
    def codebook_length(self) -> int:
        """The centroids stored: all 2^b of a full codebook, else those used."""
        return 1 << self.bit_width if self.is_full else self.centroids

    @property
    def codebook_bytes(self) -> int:
        """The bytes of the stored codebook."""
        return self.codebook_length * ITEM_BITS[self.codebook_type] // 8


def is_plain(layout: LayoutName, bit_width: int) -> bool:
    """Tell whether the indices stand unpacked in the tensor's own shape."""
    return layout == "bytes" or bit_width in (8, 16)


def canonical(
    layout: LayoutName, bit_width: int, centroids: int, opset: int
) -> tuple[LayoutName, int]:
    """Return the (layout, bit_width) that name a form, so that one form has one name.

    Unpacked indices are called portable when 8 or 16 bits are needed and bytes, at the bits that
    the centroids need, when fewer would do. A width that native lacks is stored as portable.

    >>> canonical("native", 3, 8, 21), canonical("portable", 8, 100, 21)
    (('portable', 3), ('bytes', 7))
    """
    if is_plain(layout, bit_width):
        needed = max(1, (centroids - 1).bit_length())
        return ("portable", needed) if needed in (8, 16) else ("bytes", needed)
    if layout == "native" and opset < NATIVE_OPSETS.get(bit_width, (0, 1 << 30))[1]:
        return "portable", bit_width
    return layout, bit_width


def used_form(form: Form, centroids: int) -> Form:
    """Return the form with the centroids really used; unpacked indices take the name that fits."""
    layout, bit_width = form.layout, form.bit_width
    if is_plain(layout, bit_width):
        layout, bit_width = canonical(layout, bit_width, centroids, form.opset)
    return replace(form, layout=layout, bit_width=bit_width, centroids=centroids)


def tile_rows(form: Form, limit: int = MAX_NODE_BYTES) -> list[int]:
    """Return how many rows (first axis) each tile has, so that no tile's node exceeds `limit`.

    One tile means no tiling. A single row larger than the limit cannot be split further.
    """
    per_weight = max(ITEM_BITS[form.data_type] / 8, 4 / _group(form))
    rows = form.shape[0] if form.shape else 1
    row_elements = form.elements // rows
    fit = max(1, int(limit / per_weight) // max(1, row_elements))
    return [min(fit, rows - start) for start in range(0, rows, fit)]


def largest_node_bytes(form: Form, limit: int = MAX_NODE_BYTES) -> int:
    """Return the output bytes of the largest decode node, the joining of tiles included."""
    item = ITEM_BITS[form.data_type] // 8
    rows = tile_rows(form, limit)
    tile_elements = max(rows) * (form.elements // sum(rows))
    return max(tile_elements * max(item, -(-4 // _group(form))), form.elements * item)


def _group(form: Form) -> int:
    """Return how many weights one int32 word stands for while a tensor is decoded."""
    if form.layout == "native" or is_plain(form.layout, form.bit_width):
        return 1
    return PACKINGS[form.bit_width].group


def expression(form: Form, limit: int = MAX_NODE_BYTES) -> Expr:
    """Return the tree whose value is the decoded tensor, in the form's shape and type."""
    rows = tile_rows(form, limit)
    if len(rows) == 1:
        return _tile(form, 0)
    tiles = tuple(
        _tile(replace(form, shape=(count, *form.shape[1:])), number)
        for number, count in enumerate(rows)
    )
    return Op("Concat", tiles, (("axis", 0),))


def _tile(form: Form, tile: int) -> Expr:
    codebook: Expr = Part("codebook", form.codebook_type, (form.codebook_length,))
    if form.codebook_type != form.data_type:
        codebook = _cast(codebook, form.data_type)
    if form.layout == "native":
        plane = Part(f"plane{tile}.0", NATIVE_OPSETS[form.bit_width][0], form.shape)
        return _gather(codebook, _cast(plane, INT32))
    if is_plain(form.layout, form.bit_width):
        plane = Part(f"plane{tile}.0", UINT8 if form.bit_width <= 8 else UINT16, form.shape)
        return _gather(codebook, _cast(plane, INT32))
    packing = PACKINGS[form.bit_width]
    table = codebook
    if packing.group > 1:
        table = _gather(codebook, _digits(form.bit_width, (packing.group,), form.opset))
    return _trimmed(_gather(table, _words(form, tile)), form, packing.block)


def _words(form: Form, tile: int) -> Expr:
    """Return the int32 group words: the planes' bytes, each looked up in place, added up.

    Plane i covers f_i = 8/k_i groups a byte. With r_i = f_i / f_(i-1), plane i has dims
    [M, r_last .. r_(i+1)] and its table [256, r_i .. r_1], so every term is [M, r_last .. r_1].
    """
    packing = PACKINGS[form.bit_width]
    fields = [8 // width for width in packing.planes]
    ratios = [1, *(fields[i] // fields[i - 1] for i in range(1, len(fields)))]
    blocks = -(-form.elements // packing.block)
    words: Expr | None = None
    shift = 0
    for i, width in enumerate(packing.planes):
        outer = tuple(reversed(ratios[i + 1 :]))
        plane = _cast(Part(f"plane{tile}.{i}", UINT8, (blocks, *outer)), INT32)
        if i == 0:
            words = plane
        else:
            inner = tuple(reversed(ratios[1 : i + 1]))
            lookup = _fields(width, shift, inner, form.opset)
            words = Op("Add", (words or plane, _gather(lookup, plane)))
        shift += width
    if words is None:
        raise AssertionError("a packing has at least one plane")
    return words


@cache
def _fields(width: int, shift: int, dims: tuple[int, ...], opset: int) -> Expr:
    """Return the shared int32 table [256, *dims] of a byte's fields, shifted to their place."""
    values = tuple(value << shift for value in range(1 << width))
    shifted = Const(INT32, (len(values),), values)
    return _gather(shifted, _digits(width, dims, opset), is_shared=True)


def _trimmed(value: Expr, form: Form, block: int) -> Expr:
    """Return the value in the tensor's shape, padding cut off."""
    shape = (-1,) if len(form.shape) == 1 else form.shape
    if form.elements % block == 0:
        return _reshape(value, shape)
    flat = _reshape(value, (-1,))
    if form.opset >= SLICE_INPUTS_OPSET:
        ends = Const(INT64, (1,), (form.elements,))
        cut = Op("Slice", (flat, Const(INT64, (1,), (0,)), ends))
    else:
        cut = Op("Slice", (flat,), (("starts", (0,)), ("ends", (form.elements,))))
    # A Slice at the end would make the model's own Reshape behind it look like part of the form.
    return _reshape(cut, shape)


@cache
def _digits(bits: int, dims: tuple[int, ...], opset: int) -> Expr:
    """Return the shared int32 table [2^(bits*count), *dims] of the digits of every word.

    Digit j (row-major in dims) of word w is (w >> bits*j) & (2^bits - 1), little end first.
    """
    count = math.prod(dims)
    words = 1 << (bits * count)
    if opset < RANGE_OPSET:
        mask = (1 << bits) - 1
        values = tuple((w >> (bits * j)) & mask for w in range(words) for j in range(count))
        return _cast(Const(UINT8, (words, *dims), values), INT32, is_shared=True)
    limits = tuple(_scalar(value) for value in (0, words, 1))
    counted = Op("Range", limits, is_shared=True)
    column = _reshape(counted, (-1, *(1 for _ in dims)), is_shared=True)
    powers = Const(INT32, dims, tuple(1 << (bits * j) for j in range(count)))
    shifted = Op("Div", (column, powers), is_shared=True)
    return Op("Mod", (shifted, _scalar(1 << bits)), is_shared=True)


ALIAS_NAME = "onnxq_"
"""How the names of alias nodes begin, which tells them from the Identity nodes of exporters."""


def alias(storage: str, shape: Sequence[int], stored_shape: Sequence[int]) -> Op:
    """Return the node of a tensor that equals a stored value, whatever the two shapes."""
    if tuple(shape) == tuple(stored_shape):
        return Op("Identity", (Value(storage),))
    return _reshape(Value(storage), tuple(shape))


def parts(expr: Expr) -> Iterator[Part]:
    """Yield each Part of a tree once, in the order of first use."""
    seen: set[Part] = set()
    stack: list[Expr] = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Part) and node not in seen:
            seen.add(node)
            yield node
        elif isinstance(node, Op):
            stack.extend(reversed(node.inputs))


def shared_expressions(expr: Expr) -> set[Expr]:
    """Return the parts of a tree that are emitted once per root: shared nodes and fixed values."""
    found: set[Expr] = set()
    stack: list[Expr] = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Const) or (isinstance(node, Op) and node.is_shared):
            found.add(node)
        if isinstance(node, Op):
            stack.extend(node.inputs)
    return found


def part_bytes(part: Part) -> int:
    """Return the raw bytes of a part; elements below 8 bits are packed."""
    return (math.prod(part.dims) * ITEM_BITS[part.data_type] + 7) // 8


def _scalar(value: int) -> Const:
    return Const(INT32, (), (value,))


def _cast(value: Expr, data_type: int, *, is_shared: bool = False) -> Op:
    return Op("Cast", (value,), (("to", data_type),), is_shared)


def _gather(table: Expr, indices: Expr, *, is_shared: bool = False) -> Op:
    return Op("Gather", (table, indices), (), is_shared)


def _reshape(value: Expr, shape: tuple[int, ...], *, is_shared: bool = False) -> Op:
    return Op("Reshape", (value, Const(INT64, (len(shape),), shape)), (), is_shared)
