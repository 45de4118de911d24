"""Laws of the bit planes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.bitpack import PACKINGS, pack, packed_bytes, unpack
from tests.property.strategies import Array, bit_widths, packed_indices


@given(packed_indices())
def test_unpack_inverts_pack(drawn: tuple[int, Array]) -> None:
    bit_width, indices = drawn
    np.testing.assert_array_equal(
        unpack(pack(indices, bit_width), bit_width, indices.size), indices
    )


@given(packed_indices(), st.data())
def test_whole_blocks_pack_independently(drawn: tuple[int, Array], data: st.DataObject) -> None:
    bit_width, indices = drawn
    block = PACKINGS[bit_width].block
    cut = block * data.draw(st.integers(0, indices.size // block))
    halves = pack(indices[:cut], bit_width), pack(indices[cut:], bit_width)
    for whole, first, second in zip(pack(indices, bit_width), *halves, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate((first, second)))


@given(bit_widths, st.integers(0, 10**12))
def test_padding_costs_less_than_one_block(bit_width: int, n: int) -> None:
    ideal = n * bit_width / 8
    assert ideal <= packed_bytes(n, bit_width) < ideal + PACKINGS[bit_width].block * bit_width / 8
