"""Pack indices of 1 to 16 bits into planes of bytes, and unpack them.

Owns the bit order and the padding of packed indices; knows nothing of tensors or codebooks. The
idea: `group` consecutive indices make one little-endian word of `group * bit_width` bits, the word
is cut from bit 0 upwards into fields of the plane widths (8, 4, 2, 1 or 16 bits), and every plane
stores its field of all groups, fields below 8 bits sharing a byte, first group in the lowest bits.
All planes are whole bytes because the indices are padded with 0 to a multiple of `Packing.block`.

Both directions run on cache-sized chunks: packing merges neighbouring lanes of a wider integer
with shifts, unpacking looks bytes up in a table of at most 2**14 groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import InputError, OptionError

Words: TypeAlias = NDArray[Any]

_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Describe how indices of one bit width are stored.

    Attributes:
        bit_width: Bits of one index, 1 to 16.
        group: Consecutive indices in one word.
        planes: Width in bits of each plane, from the word's bit 0 upwards.
    """

    bit_width: int
    group: int
    planes: tuple[int, ...]

    @property
    def block(self) -> int:
        """Return the elements that fill whole bytes in every plane: the unit of padding."""
        narrow = min(self.planes)
        return self.group * (8 // narrow if narrow < 8 else 1)


_TABLE: dict[int, tuple[int, tuple[int, ...]]] = {
    1: (8, (8,)),
    2: (4, (8,)),
    3: (4, (8, 4)),
    4: (2, (8,)),
    5: (2, (8, 2)),
    6: (2, (8, 4)),
    7: (2, (8, 4, 2)),
    8: (1, (8,)),
    9: (1, (8, 1)),
    10: (1, (8, 2)),
    11: (1, (8, 2, 1)),
    12: (1, (8, 4)),
    13: (1, (8, 4, 1)),
    14: (1, (8, 4, 2)),
    15: (1, (8, 4, 2, 1)),
    16: (1, (16,)),
}

PACKINGS: Mapping[int, Packing] = MappingProxyType(
    {b: Packing(bit_width=b, group=g, planes=p) for b, (g, p) in _TABLE.items()}
)
"""The packing of every bit width from 1 to 16."""


def plane_bytes(n: int, bit_width: int) -> tuple[int, ...]:
    """Return the size in bytes of each plane that holds `n` indices, padding included.

    >>> plane_bytes(5, 3)
    (2, 1)
    """
    packing = _packing(bit_width)
    padded = _round_up(n, packing.block)
    return tuple(padded // packing.group * width // 8 for width in packing.planes)


def packed_bytes(n: int, bit_width: int) -> int:
    """Return the bytes of all planes together for `n` indices, padding included.

    >>> packed_bytes(1000, 5)
    625
    """
    return sum(plane_bytes(n, bit_width))


def pack(
    indices: NDArray[np.integer[Any]], bit_width: int
) -> tuple[NDArray[np.unsignedinteger[Any]], ...]:
    """Return the planes that hold `indices`, read in C order.

    Args:
        indices: Integers in `0 .. 2**bit_width - 1`, any shape.
        bit_width: 1 to 16.

    Returns:
        One 1-D array per plane: uint8, or uint16 for 16 bits. Sizes are those of `plane_bytes`.

    Raises:
        InputError: an index does not fit in `bit_width` bits.
        OptionError: `bit_width` is not 1 to 16.

    >>> [p.tolist() for p in pack(np.array([1, 2, 3, 0, 5]), 3)]
    [[209, 5], [0]]
    """
    packing = _packing(bit_width)
    flat = np.asarray(indices).reshape(-1)
    if flat.dtype.kind not in "iu":
        raise InputError(f"indices: found dtype {flat.dtype}, expected integers")
    if bit_width == 16:
        _check_range(flat, bit_width)
        return (flat.astype(np.uint16),)
    planes = tuple(np.empty(size, np.uint8) for size in plane_bytes(flat.size, bit_width))
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        _check_range(part, bit_width)
        first = start // packing.group
        for plane, width, packed in zip(
            planes, packing.planes, _pack_chunk(part, packing), strict=True
        ):
            at = first * width // 8
            plane[at : at + packed.size] = packed
    return planes


def unpack(
    planes: Sequence[NDArray[np.unsignedinteger[Any]]], bit_width: int, n: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the first `n` indices held by `planes`; the inverse of `pack`.

    Padding is not read beyond what completes the last block, and is not checked.

    Returns:
        1-D array of `n` indices: uint8 for up to 8 bits, uint16 above.

    Raises:
        InputError: number, sizes or dtypes of the planes are not those of `plane_bytes`.
        OptionError: `bit_width` is not 1 to 16.

    >>> unpack(pack(np.array([1, 2, 3, 0, 5]), 3), 3, 5).tolist()
    [1, 2, 3, 0, 5]
    """
    packing = _packing(bit_width)
    _check_planes(planes, packing, n)
    if bit_width == 16:
        return planes[0].astype(np.uint16)
    out: Words = np.empty(n, np.uint8 if bit_width <= 8 else np.uint16)
    for start in range(0, n, _CHUNK):
        count = min(_CHUNK, n - start)
        groups = _round_up(count, packing.block) // packing.group
        first = start // packing.group
        parts = [
            plane[first * width // 8 : (first + groups) * width // 8]
            for plane, width in zip(planes, packing.planes, strict=True)
        ]
        out[start : start + count] = _unpack_chunk(parts, packing)[:count]
    return out


def pack_stream(indices: NDArray[np.integer[Any]], bit_width: int) -> NDArray[np.uint8]:
    """Return indices back to back, lowest bits first, filled with 0 to whole bytes and indices.

    >>> pack_stream(np.array([1, 2, 3, 0, 5]), 3).tolist()
    [209, 80, 0]
    """
    _packing(bit_width)
    _check_range(indices, bit_width)
    block = 8 // math.gcd(bit_width, 8)
    padded = np.zeros(_round_up(indices.size, block), "<u2")
    padded[: indices.size] = indices
    pieces = [
        np.packbits(_bits(padded[start : start + _CHUNK], bit_width), bitorder="little")
        for start in range(0, padded.size, _CHUNK)
    ]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)


def _bits(indices: Words, bit_width: int) -> Words:
    """Return the bits of uint16 indices, one a byte, lowest first."""
    every = np.unpackbits(indices.view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    return every[:, :bit_width].reshape(-1)


def unpack_stream(
    stream: NDArray[np.uint8], bit_width: int, start: int, count: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return `count` indices of a stream from number `start` on; the inverse of `pack_stream`.

    Returns:
        1-D array: uint8 for up to 8 bits, uint16 above.

    Raises:
        InputError: the stream is too short.

    >>> unpack_stream(pack_stream(np.array([1, 2, 3, 0, 5]), 3), 3, 1, 4).tolist()
    [2, 3, 0, 5]
    """
    _packing(bit_width)
    if (start + count) * bit_width > 8 * stream.size:
        raise InputError(
            f"stream of {bit_width}-bit indices: found {stream.size} bytes, expected "
            f"{-(-(start + count) * bit_width // 8)} at least"
        )
    first = start * bit_width
    held = stream[first // 8 : -(-(first + count * bit_width) // 8)]
    bits = np.unpackbits(held, bitorder="little")[first % 8 :][: count * bit_width]
    wide = np.zeros((count, 16), np.uint8)
    wide[:, :bit_width] = bits.reshape(count, bit_width)
    found = np.packbits(wide, axis=1, bitorder="little").view("<u2").reshape(-1)
    return found.astype(np.uint8) if bit_width <= 8 else found.astype(np.uint16)


def _packing(bit_width: int) -> Packing:
    if bit_width not in PACKINGS:
        raise OptionError(f"bit_width: found {bit_width}, expected 1 to 16")
    return PACKINGS[bit_width]


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _check_range(part: NDArray[np.integer[Any]], bit_width: int) -> None:
    if part.size and (int(part.max()) >> bit_width or int(part.min()) < 0):
        worst = int(part.min()) if int(part.min()) < 0 else int(part.max())
        raise InputError(f"indices: found {worst}, expected 0 to {(1 << bit_width) - 1}")


def _check_planes(
    planes: Sequence[NDArray[np.unsignedinteger[Any]]], packing: Packing, n: int
) -> None:
    dtype = np.uint16 if packing.bit_width == 16 else np.uint8
    found = tuple(int(plane.nbytes) for plane in planes)
    expected = plane_bytes(n, packing.bit_width)
    if found != expected or any(plane.dtype != dtype or plane.ndim != 1 for plane in planes):
        raise InputError(
            f"planes of {n} {packing.bit_width}-bit indices: found sizes {found}, "
            f"expected {expected} in 1-D {np.dtype(dtype)} arrays"
        )


def _pack_chunk(part: Words, packing: Packing) -> list[Words]:
    """Pack one chunk, padded here; all but the last chunk of an array are whole blocks."""
    wide = np.dtype("<u2") if packing.bit_width > 8 else np.dtype("u1")
    lanes = np.zeros(_round_up(part.size, packing.block), wide)
    lanes[: part.size] = part
    words = _merge(lanes, packing.bit_width, packing.group)
    packed = []
    low = 0
    for width in packing.planes:
        field = words if low == 0 else words >> low
        if width == 8:
            packed.append(field.astype(np.uint8))
        else:
            narrow = (field & ((1 << width) - 1)).astype(np.uint8)
            packed.append(_merge(narrow, width, 8 // width).astype(np.uint8))
        low += width
    return packed


def _merge(lanes: Words, bits: int, count: int) -> Words:
    """Return words of `count` neighbouring lanes of `bits` bits each, first lane lowest.

    Neighbours are merged in pairs inside a wider integer, so every step is contiguous.
    """
    while count > 1:
        size = lanes.dtype.itemsize
        pairs = lanes.view(np.dtype(f"<u{2 * size}"))
        low = pairs & pairs.dtype.type((1 << bits) - 1)
        low |= (pairs >> (8 * size - bits)) & pairs.dtype.type(((1 << bits) - 1) << bits)
        bits *= 2
        count //= 2
        # Narrowing keeps the intermediate arrays small; the merged word always fits.
        lanes = low.astype(f"<u{size}") if bits <= 8 * size else low
    return lanes


def _unpack_chunk(parts: Sequence[Words], packing: Packing) -> Words:
    word_type = np.dtype("u1" if packing.planes == (8,) else "<u2")
    words: Words = parts[0].astype(word_type)
    low = packing.planes[0]
    for part, width in zip(parts[1:], packing.planes[1:], strict=True):
        fields = _split_table(width, 8 // width)[part].view(np.uint8)
        words |= fields.astype(word_type) << low
        low += width
    if packing.group == 1:
        return words
    split: Words = _split_table(packing.bit_width, packing.group)[words].view(np.uint8)
    return split


@cache
def _split_table(bits: int, count: int) -> Words:
    """Return, for every word of `count` fields, its fields as the bytes of one integer."""
    words = np.arange(1 << (bits * count), dtype=np.uint32)[:, None]
    shifts = np.arange(count, dtype=np.uint32) * np.uint32(bits)
    fields = ((words >> shifts) & np.uint32((1 << bits) - 1)).astype(np.uint8)
    table: Words = fields.view(np.dtype(f"<u{count}")).reshape(-1)
    table.flags.writeable = False
    return table
