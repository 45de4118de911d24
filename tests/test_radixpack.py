"""Digits of bases that are no powers of two, and the words they make."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from onnxq.errors import InputError
from onnxq.radixpack import RADIXES, pack, unpack

each_width = pytest.mark.parametrize("bits", RADIXES)


@each_width
def test_words_use_their_type_as_far_as_the_base_allows(bits: int) -> None:
    radix = RADIXES[bits]
    limit = 256**radix.word_bytes
    assert radix.words <= limit < radix.words * radix.base
    assert 8 * radix.word_bytes / radix.group < bits
    assert (radix.base - 1).bit_length() == bits or log2(radix.base) < bits


@each_width
@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 7, 15, 1000])
def test_indices_come_back(bits: int, size: int) -> None:
    radix = RADIXES[bits]
    drawn = np.random.default_rng((bits, size)).integers(0, radix.base, size).astype(np.uint8)
    words = pack(drawn, bits)
    assert words.dtype == np.dtype(f"<u{radix.word_bytes}")
    assert words.size == -(-size // radix.group)
    np.testing.assert_array_equal(unpack(words, bits, size), drawn)


@each_width
def test_every_word_is_its_digits_little_end_first(bits: int) -> None:
    radix = RADIXES[bits]
    words = np.arange(radix.words).astype(f"<u{radix.word_bytes}")
    digits = unpack(words, bits, radix.words * radix.group).reshape(-1, radix.group)
    powers = radix.base ** np.arange(radix.group)
    np.testing.assert_array_equal(digits @ powers, np.arange(radix.words))
    np.testing.assert_array_equal(pack(digits, bits), words)


@each_width
def test_what_is_out_of_range_is_refused(bits: int) -> None:
    radix = RADIXES[bits]
    with pytest.raises(InputError, match=f"found {radix.base}, expected less than {radix.base}"):
        pack(np.array([0, radix.base]), bits)
    word = np.array([radix.words], f"<u{radix.word_bytes}")
    with pytest.raises(InputError, match=f"found {radix.words}, expected less than"):
        unpack(word, bits, 1)
