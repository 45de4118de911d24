"""Pack indices below a base that is no power of two: several digits make one word.

Owns the bases and the order of digits. A power of two wastes part of its bits on a codebook of 3 or
9 centroids; five digits of base 3 fit a byte, so an index takes 1.6 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxq.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Radix:
    """Say how indices below a base are stored: `group` of them in a word of `word_bytes`."""

    base: int
    group: int
    word_bytes: int

    @property
    def words(self) -> int:
        """The number of words that stand for a group."""
        return int(self.base**self.group)


RADIXES: Mapping[int, Radix] = MappingProxyType(
    {
        2: Radix(base=3, group=5, word_bytes=1),
        3: Radix(base=6, group=3, word_bytes=1),
        4: Radix(base=9, group=5, word_bytes=2),
        6: Radix(base=40, group=3, word_bytes=2),
    }
)
"""By the bits that an index would take alone: 1.6, 2.67, 3.2 and 5.33 bits an index."""


def pack(indices: Array, bit_width: int) -> Array:
    """Return the words of indices, flat: the first index of a group is the lowest digit.

    The last group is filled up with 0.

    Args:
        indices: whole numbers from 0 to below the base, any shape.
        bit_width: a key of `RADIXES`.

    Raises:
        InputError: an index is not below the base.

    >>> pack(np.array([2, 1, 0, 0, 2, 1]), 2).tolist()
    [167, 1]
    """
    radix = RADIXES[bit_width]
    flat = indices.reshape(-1)
    if flat.size and int(flat.max()) >= radix.base:
        raise InputError(f"indices: found {int(flat.max())}, expected less than {radix.base}")
    digits = np.zeros((-(-flat.size // radix.group), radix.group), f"<u{radix.word_bytes}")
    digits.reshape(-1)[: flat.size] = flat
    words = digits[:, -1].copy()
    for place in reversed(range(radix.group - 1)):
        words *= words.dtype.type(radix.base)
        words += digits[:, place]
    return words


def unpack(words: Array, bit_width: int, count: int) -> Array:
    """Return the first `count` indices of words, flat, uint8; the inverse of `pack`.

    Raises:
        InputError: a word stands for no group.
    """
    radix = RADIXES[bit_width]
    flat = words.reshape(-1)
    if flat.size and int(flat.max()) >= radix.words:
        raise InputError(f"words: found {int(flat.max())}, expected less than {radix.words}")
    digits = np.empty((flat.size, radix.group), np.uint8)
    rest = flat.copy()
    for place in range(radix.group):
        digits[:, place] = rest % radix.base
        rest //= rest.dtype.type(radix.base)
    return digits.reshape(-1)[:count]
