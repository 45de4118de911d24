"""The closed table of ONNX forms that an encoded tensor can take, as expressions.

Owns which operators decode which layout and bit width; `docs/format.md` is the normative text.
`trees` has the vocabulary of expressions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeAlias

from onnxq.bitpack import PACKINGS
from onnxq.pools import Pool, member_indices
from onnxq.radixpack import RADIXES
from onnxq.trees import (
    FLOAT16,
    INT32,
    INT64,
    ITEM_BITS,
    UINT2,
    UINT4,
    UINT8,
    UINT16,
    Const,
    Expr,
    Op,
    Part,
    Value,
    cast,
    gather,
    reshape,
    scalar,
)

StoredLayout: TypeAlias = Literal["portable", "native", "bytes", "radix", "half"]
"""Every layout that a tensor may be stored in; the first three are those a user can ask for."""

MAX_NODE_BYTES = 2**30
"""onnxruntime folds a node at load only when its output is at most this large."""

RANGE_OPSET = 11
SCATTER_OPSET = 11
SLICE_INPUTS_OPSET = 10
NATIVE_OPSETS = {2: (UINT2, 25), 4: (UINT4, 21)}
"""Bit width -> (element type, least opset) of the native layout."""
PLACES, KEPT = "places", "kept"
"""Roles of the two stored parts of kept values: where they stand, and what they are."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """Say how one tensor is stored: everything that its expression depends on.

    `centroids` are those really used; `codebook_type` is the stored element type (`data_type` or
    FLOAT16 followed by a Cast). Where the indices stand in a `pool`, this is its tensor number
    `member`. With a `scale_axis` each position on that axis has a scale of `scale_type`, which may
    be FLOAT16 as well. As many values as `kept` says stand beside the codebook, of `kept_type`,
    which may be FLOAT16 too. Layout `half` stores the values as float16 and has no centroids.
    """

    layout: StoredLayout
    bit_width: int
    data_type: int
    codebook_type: int
    shape: tuple[int, ...]
    centroids: int
    opset: int
    pool: Pool | None = None
    member: int = 0
    scale_axis: int | None = None
    scale_type: int | None = None
    kept: int = 0
    kept_type: int | None = None

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def is_full(self) -> bool:
        """Whether all centroids are stored however few are used, as a group table needs them."""
        if self.layout == "radix":
            return True
        is_packed = self.layout == "portable" and self.pool is None
        return is_packed and PACKINGS[self.bit_width].group > 1

    @property
    def is_plain(self) -> bool:
        """Whether the indices stand unpacked in the tensor's own shape."""
        return self.pool is None and is_plain(self.layout, self.bit_width)

    @property
    def codebook_length(self) -> int:
        """The centroids stored: all of a full codebook, 2^b or the radix, else those used."""
        if self.layout == "half":
            return 0
        if self.layout == "radix":
            return RADIXES[self.bit_width].base
        return 1 << self.bit_width if self.is_full else self.centroids

    @property
    def codebook_bytes(self) -> int:
        """The bytes of the stored codebook, scales and kept values with their places included."""
        bits = self.codebook_length * ITEM_BITS[self.codebook_type]
        if self.scale_axis is not None:
            bits += self.shape[self.scale_axis] * ITEM_BITS[self.scale_type or self.data_type]
        bits += self.kept * (ITEM_BITS[INT32] + ITEM_BITS[self.kept_type or self.data_type])
        return bits // 8


def is_plain(layout: StoredLayout, bit_width: int) -> bool:
    """Tell whether the indices stand unpacked in the tensor's own shape."""
    return layout == "bytes" or (layout in ("portable", "native") and bit_width in (8, 16))


def canonical(
    layout: StoredLayout, bit_width: int, centroids: int, opset: int
) -> tuple[StoredLayout, int]:
    """Return the (layout, bit_width) that name a form, so that one form has one name.

    Unpacked indices are called portable when 8 or 16 bits are needed and bytes, at the bits that
    the centroids need, when fewer would do. A width that native or radix lacks is stored as
    portable.

    >>> canonical("native", 3, 8, 21), canonical("portable", 8, 100, 21)
    (('portable', 3), ('bytes', 7))
    """
    if layout == "half":
        return layout, 16
    if layout == "radix":
        radix = RADIXES.get(bit_width)
        if radix is not None and centroids <= radix.base and opset >= RANGE_OPSET:
            return layout, bit_width
        layout = "portable"
    if is_plain(layout, bit_width):
        needed = max(1, (centroids - 1).bit_length())
        return ("portable", needed) if needed in (8, 16) else ("bytes", needed)
    if layout == "native" and opset < NATIVE_OPSETS.get(bit_width, (0, 1 << 30))[1]:
        return "portable", bit_width
    return layout, bit_width


def used_form(form: Form, centroids: int) -> Form:
    """Return the form with the centroids really used; unpacked indices take the name that fits."""
    layout, bit_width = form.layout, form.bit_width
    if form.is_plain:
        layout, bit_width = canonical(layout, bit_width, centroids, form.opset)
    return replace(form, layout=layout, bit_width=bit_width, centroids=centroids)


def tile_rows(form: Form, limit: int = MAX_NODE_BYTES) -> list[int]:
    """Return how many rows (first axis) each tile has, so that no tile's node exceeds `limit`.

    One tile means no tiling; a pooled tensor and one with kept values have no more. A single row
    larger than the limit cannot be split further.
    """
    if form.pool is not None or form.kept:
        return [form.shape[0]]
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
    if form.layout == "native" or form.is_plain or form.pool is not None:
        return 1
    if form.layout == "radix":
        return RADIXES[form.bit_width].group
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


def scales_role(form: Form, tile: int) -> str:
    """Return the role of a tile's scales: tiles are cut along the first axis and share all others.

    >>> scales_role(Form(
    ...     layout="portable", bit_width=4, data_type=1, codebook_type=1, shape=(2, 3),
    ...     centroids=16, opset=17, scale_axis=0, scale_type=10,
    ... ), 1)
    'scales1'
    """
    return f"scales{tile}" if form.scale_axis == 0 else "scales"


def _tile(form: Form, tile: int) -> Expr:
    if form.layout == "half":
        stored = Part(f"values{tile}", FLOAT16, form.shape)
        return Op("Cast", (stored,), (("to", form.data_type),), is_marked=True)
    if form.kept:
        return _with_kept(form)
    decoded = _looked_up(form, tile)
    if form.scale_axis is None:
        return decoded
    dims = [1] * len(form.shape)
    dims[form.scale_axis] = form.shape[form.scale_axis]
    stored_type = form.scale_type or form.data_type
    scales: Expr = Part(scales_role(form, tile), stored_type, tuple(dims))
    if stored_type != form.data_type:
        scales = cast(scales, form.data_type)
    return Op("Mul", (decoded, scales), is_marked=True)


def _with_kept(form: Form) -> Expr:
    """Return the centroids of a tensor, flat, with the kept values put at their places.

    The last node is marked, so that a model's own ScatterElements is not taken for ours.
    """
    flat = _looked_up(replace(form, shape=(form.elements,)), 0)
    stored_type = form.kept_type or form.data_type
    kept: Expr = Part(KEPT, stored_type, (form.kept,))
    if stored_type != form.data_type:
        kept = cast(kept, form.data_type)
    scattered = Op("ScatterElements", (flat, Part(PLACES, INT32, (form.kept,)), kept))
    shape = (-1,) if len(form.shape) == 1 else form.shape
    return replace(reshape(scattered, shape), is_marked=True)


def _looked_up(form: Form, tile: int) -> Expr:
    """Return the centroids of a tile's indices."""
    codebook: Expr = Part("codebook", form.codebook_type, (form.codebook_length,))
    if form.codebook_type != form.data_type:
        codebook = cast(codebook, form.data_type)
    if form.pool is not None:
        return gather(codebook, _pooled(form, form.pool))
    if form.layout == "native":
        plane = Part(f"plane{tile}.0", NATIVE_OPSETS[form.bit_width][0], form.shape)
        return gather(codebook, cast(plane, INT32))
    if form.is_plain:
        plane = Part(f"plane{tile}.0", UINT8 if form.bit_width <= 8 else UINT16, form.shape)
        return gather(codebook, cast(plane, INT32))
    if form.layout == "radix":
        return _radix(form, tile, codebook)
    packing = PACKINGS[form.bit_width]
    table = codebook
    if packing.group > 1:
        table = gather(codebook, _digits(1 << form.bit_width, (packing.group,), form.opset))
    return _trimmed(gather(table, _words(form, tile)), form, packing.block)


def _radix(form: Form, tile: int, codebook: Expr) -> Expr:
    """Return the centroids of indices that are digits of a base which is no power of two."""
    radix = RADIXES[form.bit_width]
    dims = (-(-form.elements // radix.group),)
    plane = Part(f"plane{tile}.0", UINT8 if radix.word_bytes == 1 else UINT16, dims)
    table = gather(codebook, _digits(radix.base, (radix.group,), form.opset))
    return _trimmed(gather(table, cast(plane, INT32)), form, radix.group)


def _pooled(form: Form, pool: Pool) -> Expr:
    """Return a member's indices in its shape.

    They are reshaped, not the weights: every pooled form ends in `Gather`, so that a model's own
    Reshape behind a decoded tensor is not taken for a part of it.
    """
    indices = member_indices(pool, form.member)
    return indices if len(form.shape) == 1 else reshape(indices, form.shape)


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
        plane = cast(Part(f"plane{tile}.{i}", UINT8, (blocks, *outer)), INT32)
        if i == 0:
            words = plane
        else:
            inner = tuple(reversed(ratios[1 : i + 1]))
            lookup = _fields(width, shift, inner, form.opset)
            words = Op("Add", (words or plane, gather(lookup, plane)))
        shift += width
    if words is None:
        raise AssertionError("a packing has at least one plane")
    return words


@cache
def _fields(width: int, shift: int, dims: tuple[int, ...], opset: int) -> Expr:
    """Return the shared int32 table [256, *dims] of a byte's fields, shifted to their place."""
    values = tuple(value << shift for value in range(1 << width))
    shifted = Const(INT32, (len(values),), values)
    return gather(shifted, _digits(1 << width, dims, opset), is_shared=True)


def _trimmed(value: Expr, form: Form, block: int) -> Expr:
    """Return the value in the tensor's shape, padding cut off."""
    shape = (-1,) if len(form.shape) == 1 else form.shape
    if form.elements % block == 0:
        return reshape(value, shape)
    flat = reshape(value, (-1,))
    if form.opset >= SLICE_INPUTS_OPSET:
        ends = Const(INT64, (1,), (form.elements,))
        cut = Op("Slice", (flat, Const(INT64, (1,), (0,)), ends))
    else:
        cut = Op("Slice", (flat,), (("starts", (0,)), ("ends", (form.elements,))))
    # A Slice at the end would make the model's own Reshape behind it look like part of the form.
    return reshape(cut, shape)


@cache
def _digits(base: int, dims: tuple[int, ...], opset: int) -> Expr:
    """Return the shared int32 table [base^count, *dims] of the digits of every word.

    Digit j (row-major in dims) of word w is w // base^j % base, little end first.
    """
    count = math.prod(dims)
    words = base**count
    if opset < RANGE_OPSET:
        values = tuple(w // base**j % base for w in range(words) for j in range(count))
        return cast(Const(UINT8, (words, *dims), values), INT32, is_shared=True)
    limits = tuple(scalar(value) for value in (0, words, 1))
    counted = Op("Range", limits, is_shared=True)
    column = reshape(counted, (-1, *(1 for _ in dims)), is_shared=True)
    powers = Const(INT32, dims, tuple(base**j for j in range(count)))
    shifted = Op("Div", (column, powers), is_shared=True)
    return Op("Mod", (shifted, scalar(base)), is_shared=True)


ALIAS_NAME = "onnxq_"
"""How the names of alias nodes and marked ones begin, which tells them from a model's own nodes."""


def alias(storage: str, shape: Sequence[int], stored_shape: Sequence[int]) -> Op:
    """Return the node of a tensor that equals a stored value, whatever the two shapes."""
    if tuple(shape) == tuple(stored_shape):
        return Op("Identity", (Value(storage),))
    return reshape(Value(storage), tuple(shape))
