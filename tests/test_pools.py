"""Pools: what a stream holds, how it is decoded, and what each tensor's part of it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq import bitpack
from onnxq.errors import InputError
from onnxq.forms import Form, expression, largest_node_bytes, tile_rows, used_form
from onnxq.pools import Pool, member_indices, node_bytes
from onnxq.rate import load_bytes
from onnxq.tensors import FLOAT_TYPES
from onnxq.trees import FLOAT, FLOAT16, Op, parts
from tests.encoded import Array, Evaluator

each_width = pytest.mark.parametrize("bits", range(1, 17))
bit_widths = st.integers(1, 16)
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=6).map(tuple)


def drawn(pool: Pool, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, 1 << pool.bit_width, length) for length in pool.lengths]
    found[0][0] = (1 << pool.bit_width) - 1
    return found


def stream_of(pool: Pool, members: list[Array]) -> Array:
    return bitpack.pack_stream(np.concatenate(members), pool.bit_width)


@given(bit_widths, lengths, st.sampled_from((11, 12, 13, 18, 21)))
def test_decoded_stream_gives_every_tensor_its_indices(
    bits: int, sizes: tuple[int, ...], opset: int
) -> None:
    pool = Pool(bit_width=bits, lengths=sizes, opset=opset)
    members = drawn(pool)
    stream = stream_of(pool, members)
    assert stream.size == pool.stream_bytes
    evaluator = Evaluator({pool.role: stream})
    for number, member in enumerate(members):
        found = evaluator.value(member_indices(pool, number))
        assert found.dtype == np.int32
        assert found.tolist() == member.tolist()


@given(bit_widths, lengths)
def test_unpacked_range_of_a_stream_is_what_was_packed(bits: int, sizes: tuple[int, ...]) -> None:
    pool = Pool(bit_width=bits, lengths=sizes, opset=17)
    members = drawn(pool)
    stream = stream_of(pool, members)
    for number, member in enumerate(members):
        found = bitpack.unpack_stream(stream, bits, pool.start(number), member.size)
        assert found.dtype == (np.uint8 if bits <= 8 else np.uint16)
        assert found.tolist() == member.tolist()


def test_long_stream_is_packed_in_pieces() -> None:
    values = np.arange(200_001) % 2048
    stream = bitpack.pack_stream(values, 11)
    assert stream.size == (200_001 + 7) * 11 // 8
    assert bitpack.unpack_stream(stream, 11, 0, values.size).tolist() == values.tolist()


def test_short_stream_and_large_index_are_refused() -> None:
    with pytest.raises(InputError, match="found 3 bytes, expected 4"):
        bitpack.unpack_stream(np.zeros(3, np.uint8), 3, 0, 9)
    with pytest.raises(InputError, match="found 8, expected 0 to 7"):
        bitpack.pack_stream(np.array([7, 8]), 3)


@given(bit_widths, lengths)
def test_parts_of_all_tensors_add_up_to_the_stream(bits: int, sizes: tuple[int, ...]) -> None:
    pool = Pool(bit_width=bits, lengths=sizes, opset=17)
    shares = [pool.share_bytes(number) for number in range(len(sizes))]
    assert sum(shares) == pool.stream_bytes
    assert min(shares) >= 0
    for share, size in zip(shares[:-1], sizes, strict=False):
        assert abs(share - size * bits / 8) <= 1


@given(bit_widths, lengths)
def test_padding_is_less_than_the_indices_of_whole_bytes(bits: int, sizes: tuple[int, ...]) -> None:
    pool = Pool(bit_width=bits, lengths=sizes, opset=17)
    assert 0 <= pool.indices - sum(sizes) < 8 // np.gcd(bits, 8)
    assert sum(pool.pieces) == pool.indices
    assert pool.pieces[: len(sizes)] == sizes
    assert 8 * pool.stream_bytes == pool.indices * bits


@each_width
def test_decode_is_shared_and_uses_few_operators(bits: int) -> None:
    pool = Pool(bit_width=bits, lengths=(8, 16), opset=17)
    output = member_indices(pool, 1)
    found, stack = [], [output]
    while stack:
        expr = stack.pop()
        if isinstance(expr, Op):
            assert expr.is_shared
            found.append(expr.op_type)
            stack += expr.inputs
        elif hasattr(expr, "op"):
            stack.append(expr.op)
    product = ["MatMul"] if bits not in (1, 2, 4, 8) else []
    digits = [] if bits in (8, 16) else ["Reshape", "Mod", "Div"]
    assert found == ["Split", *product, *digits, "Cast"]
    assert [part.is_shared for part in parts(output)] == [True]


def form(pool: Pool, member: int, shape: tuple[int, ...], **changes: int) -> Form:
    given = {"data_type": FLOAT, "codebook_type": FLOAT, "centroids": 3, **changes}
    return Form(
        layout="portable",
        bit_width=pool.bit_width,
        shape=shape,
        opset=pool.opset,
        pool=pool,
        member=member,
        **given,
    )


@each_width
def test_pooled_tensor_is_looked_up_in_its_own_codebook(bits: int) -> None:
    pool = Pool(bit_width=bits, lengths=(6, 5, 3), opset=17)
    rng = np.random.default_rng(bits)
    members = [rng.integers(0, min(3, 1 << bits), length) for length in pool.lengths]
    stream = stream_of(pool, members)
    for number, shape in enumerate(((2, 3), (5,), (1, 3, 1))):
        book = np.array([-1, 0.5, 2], np.float16)
        one = form(pool, number, shape, codebook_type=FLOAT16)
        found = Evaluator({pool.role: stream, "codebook": book}).value(expression(one))
        expected = book.astype(FLOAT_TYPES[FLOAT])[members[number]].reshape(shape)
        assert found.dtype == np.float32
        assert found.tobytes() == expected.tobytes()


@each_width
def test_pooled_codebook_is_never_filled_up_and_never_renamed(bits: int) -> None:
    one = form(Pool(bit_width=bits, lengths=(9,), opset=17), 0, (9,), centroids=2)
    assert (one.codebook_length, one.is_full, one.is_plain) == (2, False, False)
    assert used_form(one, 1) == replace(one, centroids=1)
    assert tile_rows(one) == [9]
    assert largest_node_bytes(one) == 36


@each_width
def test_memory_at_load_counts_the_stream_once(bits: int) -> None:
    pool = Pool(bit_width=bits, lengths=(40, 24), opset=17)
    both = [form(pool, 0, (40,)), form(pool, 1, (4, 6))]
    members = [np.zeros(40, int), np.zeros(24, int)]
    payloads = {pool.role: stream_of(pool, members), "codebook": np.zeros(3, np.float32)}
    evaluator = Evaluator(payloads)
    for one in both:
        evaluator.value(expression(one))
    held = sum(array.nbytes for array in evaluator.outputs.values())
    # The two expressions have equal codebooks here; each tensor stores its own.
    assert load_bytes(*both) == held + pool.stream_bytes + 2 * 12
    decoded = sum(
        array.nbytes
        for expr, array in evaluator.outputs.items()
        if isinstance(expr, Op) and expr.is_shared
    )
    assert decoded == node_bytes(pool)
