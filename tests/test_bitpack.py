"""Bit planes: the normative definition, sizes, refusals."""

from typing import Any

import numpy as np
import pytest

from onnxq.bitpack import PACKINGS, pack, packed_bytes, plane_bytes, unpack
from onnxq.errors import InputError, OptionError

WIDTHS = range(1, 17)


def defined_planes(indices: list[int], bit_width: int) -> list[list[int]]:
    """Pack by the letter of the definition, with Python integers."""
    packing = PACKINGS[bit_width]
    padded = indices + [0] * (-len(indices) % packing.block)
    words = [
        sum(padded[at + j] << (bit_width * j) for j in range(packing.group))
        for at in range(0, len(padded), packing.group)
    ]
    planes, low = [], 0
    for width in packing.planes:
        fields = [(word >> low) & ((1 << width) - 1) for word in words]
        share = max(8 // width, 1)
        planes.append(
            [
                sum(fields[at + j] << (width * j) for j in range(share))
                for at in range(0, len(fields), share)
            ]
        )
        low += width
    return planes


@pytest.mark.parametrize("bit_width", WIDTHS)
def test_planes_hold_exactly_the_bits_of_a_group(bit_width: int) -> None:
    packing = PACKINGS[bit_width]
    assert packing.bit_width == bit_width
    assert sum(packing.planes) == packing.group * bit_width


@pytest.mark.parametrize("bit_width", WIDTHS)
def test_packing_follows_the_definition(bit_width: int) -> None:
    rng = np.random.default_rng(bit_width)
    for n in [*range(41), 1000]:
        indices = rng.integers(0, 1 << bit_width, n)
        planes = pack(indices, bit_width)
        assert [plane.tolist() for plane in planes] == defined_planes(indices.tolist(), bit_width)
        assert tuple(plane.nbytes for plane in planes) == plane_bytes(n, bit_width)
        assert sum(plane.nbytes for plane in planes) == packed_bytes(n, bit_width)
        np.testing.assert_array_equal(unpack(planes, bit_width, n), indices)


@pytest.mark.parametrize("bit_width", WIDTHS)
def test_many_chunks_equal_one_definition(bit_width: int) -> None:
    n = 3 * (1 << 16) + 77
    indices = np.random.default_rng(1).integers(0, 1 << bit_width, n, dtype=np.uint16)
    planes = pack(indices, bit_width)
    for plane, expected in zip(planes, defined_planes(indices.tolist(), bit_width), strict=True):
        np.testing.assert_array_equal(plane, expected)
    out = unpack(planes, bit_width, n)
    assert out.dtype == (np.uint8 if bit_width <= 8 else np.uint16)
    np.testing.assert_array_equal(out, indices)


def test_blocks_are_those_of_the_definition() -> None:
    found = [PACKINGS[b].block for b in WIDTHS]
    assert found == [8, 4, 8, 2, 8, 4, 8, 1, 8, 4, 8, 2, 8, 4, 8, 1]


def test_shapes_and_strides_are_read_in_c_order() -> None:
    indices = np.arange(24, dtype=np.uint8).reshape(4, 6).T
    np.testing.assert_array_equal(unpack(pack(indices, 5), 5, 24), indices.reshape(-1))


def test_the_result_is_writable_and_separate() -> None:
    for bit_width in (8, 16):
        indices = np.zeros(4, np.uint8 if bit_width == 8 else np.uint16)
        plane = pack(indices, bit_width)[0]
        plane[0] = 1
        assert indices[0] == 0


@pytest.mark.parametrize("worst", [4, -1, 70000])
def test_indices_that_do_not_fit_are_refused(worst: int) -> None:
    with pytest.raises(InputError, match=str(worst)):
        pack(np.array([0, worst]), 2)
    with pytest.raises(InputError, match="dtype"):
        pack(np.array([0.5]), 2)


@pytest.mark.parametrize("bit_width", [0, 17, -1])
def test_widths_beyond_the_table_are_refused(bit_width: int) -> None:
    with pytest.raises(OptionError, match="bit_width"):
        pack(np.array([0]), bit_width)
    with pytest.raises(OptionError, match="bit_width"):
        plane_bytes(1, bit_width)


def test_planes_of_the_wrong_size_or_dtype_are_refused() -> None:
    planes: list[tuple[Any, ...]] = [
        (),
        (np.zeros(2, np.uint8),),
        (np.zeros(2, np.uint8), np.zeros(2, np.uint8)),
        (np.zeros(2, np.uint8), np.zeros(1, np.int8)),
    ]
    for wrong in planes:
        with pytest.raises(InputError, match="planes of 8 3-bit"):
            unpack(wrong, 3, 8)
