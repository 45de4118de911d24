"""Pools: the indices of several tensors in one stream of bits, decoded once and split.

Owns the record of a pool, its stream's layout, and the expression that decodes it. Which tensors
share a pool is decided in `pooling`.

The stream holds all indices of b bits back to back, the lowest bit of the first byte first. A byte
is cut into digits of d = gcd(b, 8) bits, and b / d digits make an index: whole bytes hold whole
indices once their number is a multiple of 8 / d, so the stream is filled up to that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from onnxq.trees import (
    INT32,
    INT64,
    UINT8,
    Const,
    Expr,
    Op,
    Output,
    Part,
    Tree,
    cast,
    reshape,
    scalar,
)

POOL_OPSET = 11
"""The least opset of pools, as of all forms that compute their tables."""
SPLIT_INPUT_OPSET = 13
"""From this opset on Split takes the lengths as an input."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool(Tree):
    """Say how the indices of some tensors stand in one stream; `lengths` are their elements."""

    bit_width: int
    lengths: tuple[int, ...]
    opset: int

    @property
    def role(self) -> str:
        """The name of the stored stream, which no other pool of its root has."""
        return f"pool{self.bit_width}"

    @property
    def indices(self) -> int:
        """The indices stored, padding included."""
        block = 8 // _digit_bits(self.bit_width)
        return -(-sum(self.lengths) // block) * block

    @property
    def stream_bytes(self) -> int:
        """The bytes of the stored stream."""
        return self.indices * self.bit_width // 8

    @property
    def pieces(self) -> tuple[int, ...]:
        """The lengths that the decoded stream is split into: the padding is one more."""
        padding = self.indices - sum(self.lengths)
        return (*self.lengths, padding) if padding else self.lengths

    def start(self, member: int) -> int:
        """Return the position of a member's first index."""
        return sum(self.lengths[:member])

    def share_bytes(self, member: int) -> int:
        """Return a member's part of the stream in bytes; the parts of all add up to the stream.

        >>> pool = Pool(bit_width=3, lengths=(3, 3, 1), opset=17)
        >>> [pool.share_bytes(i) for i in range(3)], pool.stream_bytes
        ([1, 1, 1], 3)
        """
        start = self.start(member) * self.bit_width // 8
        if member == len(self.lengths) - 1:
            return self.stream_bytes - start
        return self.start(member + 1) * self.bit_width // 8 - start


def member_indices(pool: Pool, member: int) -> Expr:
    """Return the tree of a member's indices, int32, in one dimension."""
    return Output(_split(pool), member)


@cache
def _split(pool: Pool) -> Op:
    """Return the shared node that gives out the indices of each member."""
    pieces = pool.pieces
    if pool.opset >= SPLIT_INPUT_OPSET:
        lengths = Const(INT64, (len(pieces),), pieces)
        return Op("Split", (_decoded(pool), lengths), (), True, len(pieces))
    return Op("Split", (_decoded(pool),), (("split", pieces),), True, len(pieces))


def _decoded(pool: Pool) -> Expr:
    """Return the tree of all indices of a stream, padding included, in one dimension.

    Digit j of a byte is (byte / 2^(d*j)) mod 2^d, and index = sum over i of digit i * 2^(d*i).
    Nothing exceeds 16 bits, so any type that a runtime computes in is exact.
    """
    digit = _digit_bits(pool.bit_width)
    count = pool.bit_width // digit
    if digit == 8:
        dims = (pool.indices,) if count == 1 else (pool.indices, count)
        digits: Expr = cast(Part(pool.role, UINT8, dims, True), INT32, is_shared=True)
    else:
        stream = Part(pool.role, UINT8, (pool.stream_bytes, 1), True)
        column = cast(stream, INT32, is_shared=True)
        shifted = Op("Div", (column, _powers(digit, 8 // digit)), is_shared=True)
        cut = Op("Mod", (shifted, scalar(1 << digit)), is_shared=True)
        dims = (pool.indices,) if count == 1 else (pool.indices, count)
        digits = reshape(cut, dims, is_shared=True)
    if count == 1:
        return digits
    return Op("MatMul", (digits, _powers(digit, count)), is_shared=True)


def _powers(digit: int, count: int) -> Const:
    return Const(INT32, (count,), tuple(1 << (digit * i) for i in range(count)))


def _digit_bits(bit_width: int) -> int:
    return math.gcd(bit_width, 8)


def node_bytes(pool: Pool) -> int:
    """Return the memory that the decode of a stream takes at load: all node outputs, int32."""
    digits = pool.stream_bytes * 8 // _digit_bits(pool.bit_width)
    count = pool.bit_width // _digit_bits(pool.bit_width)
    rounds = 0 if _digit_bits(pool.bit_width) == 8 else 3
    return 4 * (pool.stream_bytes + rounds * digits + (pool.indices if count > 1 else 0))
