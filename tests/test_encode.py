"""One tensor to planes and a codebook, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.encode import Encoded, decode, decode_indices, encode, planes
from onnxq.forms import Form, tile_rows
from onnxq.options import LayoutName
from onnxq.tensors import FLOAT_TYPES
from onnxq.trees import DOUBLE, FLOAT, FLOAT16
from tests import graphs
from tests.encoded import LAYOUTS, centroids, indices, make_form, payloads, planned, values
from tests.property.strategies import Array, bit_widths, forms, layouts, weights

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
TYPES = {dtype: number for number, dtype in FLOAT_TYPES.items()}


def form_for(array: Array, layout: LayoutName, bits: int, **changes: Any) -> Form:
    distinct = np.unique(array.reshape(-1).view(f"V{array.itemsize}")).size
    return make_form(
        layout, bits, array.shape, data_type=TYPES[array.dtype], opset=25,
        centroids=min(distinct, 1 << bits), **changes,
    )  # fmt: skip


def encoded(array: Array, layout: LayoutName, bits: int, **changes: Any) -> tuple[Encoded, Array]:
    """Return an encoded array and what it decodes to."""
    form = form_for(array, layout, bits, **changes)
    made = encode(array, planned(form), form)
    return made, decode(made.payloads, made.form, array.dtype)


# There and back


@given(weights(), layouts, bit_widths)
def test_decoded_value_is_the_nearest_centroid(array: Array, layout: LayoutName, bits: int) -> None:
    array = array.reshape(array.shape or (1,))
    made, decoded = encoded(array, layout, bits)
    assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
    book = made.payloads["codebook"][: made.form.centroids]
    assert set(decoded.reshape(-1).tolist()) == set(book.tolist())  # every centroid is used
    wide = array.reshape(-1, 1).astype(np.longdouble)
    nearest = np.abs(wide - book.astype(np.longdouble)).min(axis=1)
    found = np.abs(wide[:, 0] - decoded.reshape(-1).astype(np.longdouble))
    if array.dtype == np.float64:  # there the rounded midpoint decides
        assert np.all(found <= nearest * (1 + 1e-12))
    else:
        assert np.array_equal(found, nearest)


@given(weights(), layouts, st.integers(8, 16))
def test_tensor_of_few_values_comes_back_bit_for_bit(
    array: Array, layout: LayoutName, bits: int
) -> None:
    array = array.reshape(array.shape or (1,))
    made, decoded = encoded(array, layout, bits)
    assert decoded.tobytes() == array.tobytes()
    assert (made.is_lossless, made.scheme, made.snr_db) == (True, "lossless", None)
    assert (made.distortion, made.gap) == (0, 0)


@given(forms().filter(lambda form: form.layout != "half"), st.integers(1, 400))
def test_indices_come_back_from_any_tiles(form: Form, limit: int) -> None:
    stored = planes(indices(form), form, limit)
    assert len({role.split(".")[0] for role in stored}) == len(tile_rows(form, limit))
    found = decode_indices(stored, form, limit)
    np.testing.assert_array_equal(found, indices(form).reshape(-1))


@given(forms())
def test_decoding_looks_up_the_stored_centroids(form: Form) -> None:
    dtype = FLOAT_TYPES[form.data_type]
    found = decode(payloads(form), form, dtype)
    assert (found.dtype, found.shape) == (dtype, form.shape)
    assert found.tobytes() == values(form).tobytes()


# The record


@each_layout
@pytest.mark.parametrize("bits", [1, 3, 6, 8, 11])
def test_payload_bytes_are_those_of_the_payloads(layout: LayoutName, bits: int) -> None:
    made, _ = encoded(graphs.normal((37, 11), 1), layout, bits)
    assert made.payload_bytes == {role: array.nbytes for role, array in made.payloads.items()}
    bare = made.without_payloads()
    assert bare.payloads == {}
    assert bare.payload_bytes == made.payload_bytes
    assert bare.planned is made.planned


def test_group_table_is_padded_with_zeros() -> None:
    array = np.array([3, 1, 2, 3, 1] * 9, np.float32)
    made, _ = encoded(array, "portable", 4)
    assert made.payloads["codebook"].tolist() == [1, 2, 3] + [0] * 13
    assert made.form.centroids == 3
    made, _ = encoded(array, "portable", 12)
    assert made.payloads["codebook"].tolist() == [1, 2, 3]


def test_distortion_and_ratio_are_those_of_the_decoded_tensor() -> None:
    array = graphs.normal((50, 40), 1)
    made, decoded = encoded(array, "portable", 4)
    wide = array.astype(np.float64)
    error = float(np.sum((wide - decoded) ** 2))
    assert made.distortion == pytest.approx(error, rel=1e-12)
    assert made.snr_db == pytest.approx(10 * math.log10(float(np.sum(wide**2)) / error), abs=1e-9)
    assert (made.is_lossless, made.scheme) == (False, "optimal")
    assert made.gap is not None
    assert 0 <= made.gap < 1e-4


def test_ratio_of_the_largest_numbers_is_finite() -> None:
    big = np.finfo(np.float64).max
    for extra in ([], [np.inf]):
        array = np.array([big, -big, big / 2, 1.0] * 5 + extra)
        made, decoded = encoded(array, "portable", 2 if extra else 1)
        small, near = array[:20] / 2**1000, decoded[:20] / 2**1000
        expected = 10 * math.log10(np.sum(small**2) / np.sum((small - near) ** 2))
        assert made.snr_db == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("size", [1e-160, 1e-200, 1e-300])
def test_loss_whose_squares_underflow_is_not_taken_for_exact(size: float) -> None:
    array = np.random.default_rng(0).standard_normal(500)
    plain, _ = encoded(array, "portable", 4)
    small, _ = encoded(array * size, "portable", 4)
    assert plain.snr_db is not None
    assert small.snr_db == pytest.approx(plain.snr_db, abs=1e-6)


def test_loss_of_tiny_values_beside_large_ones_is_a_finite_ratio() -> None:
    array = np.append(np.linspace(1, 2, 100) * 1e-250, [1.0] * 5)
    made, decoded = encoded(array, "portable", 1)
    worst = np.abs(array - decoded).max()
    assert made.snr_db == pytest.approx(-20 * math.log10(worst), abs=1e-9)
    assert not made.is_lossless


def test_zeros_that_lose_their_sign_are_no_noise() -> None:
    array = np.array([0.0, -0.0, 2.0] * 9)
    made, _ = encoded(array, "portable", 1)
    assert (made.is_lossless, made.snr_db) == (False, None)


@pytest.mark.parametrize("init", ["optimal", "bounded-pdf", "quantile", "uniform"])
def test_centroids_are_found_as_planned(init: str) -> None:
    form = make_form("portable", 4, (50, 40))
    array = graphs.normal((50, 40), 1)
    made = encode(array, planned(form, init=init, max_iterations=3), form)
    assert made.scheme == init
    best = encode(array, planned(form), form)
    assert made.distortion >= best.distortion
    assert (made.gap is None) == (init != "optimal")


def test_planned_number_of_centroids_is_kept() -> None:
    form = make_form("portable", 6, (50, 40), centroids=20)
    made = encode(graphs.normal((50, 40), 1), planned(form), form)
    assert made.form.centroids == 20
    assert made.payloads["codebook"].size == 64


def test_infinities_are_exact() -> None:
    array = graphs.normal((30, 30), 1)
    array[0, 0], array[3, 4] = np.inf, -np.inf
    for layout in LAYOUTS:
        made, decoded = encoded(array, layout, 4)
        assert np.array_equal(np.isinf(array), np.isinf(decoded))
        assert made.snr_db is not None
        assert np.isfinite(made.snr_db)


@pytest.mark.parametrize("bits", [3, 9])
def test_jobs_do_not_change_the_bytes(bits: int) -> None:
    array = graphs.normal((90, 100), 1)
    form = make_form("portable", bits, array.shape)
    one, four = (encode(array, planned(form), form, jobs=jobs) for jobs in (1, 4))
    for role, stored in one.payloads.items():
        assert stored.tobytes() == four.payloads[role].tobytes()
    assert one.distortion == four.distortion


# Unpacked indices


def test_unpacked_tensor_is_named_by_the_centroids_in_use() -> None:
    """Planned at 8 bits, seven are enough once equal centroids have gone."""
    array = np.linspace(-1, 1, 3000).astype(np.float16).astype(np.float32)
    array += np.float32(1e-6)
    form = make_form("portable", 8, (3000,), codebook_type=FLOAT16, centroids=256)
    made = encode(array, planned(form), form)
    needed = max(1, (made.form.centroids - 1).bit_length())
    assert (made.form.layout, made.form.bit_width) == (
        ("portable", 8) if needed == 8 else ("bytes", needed)
    )


# Half codebooks


@pytest.mark.parametrize("data_type", [FLOAT, DOUBLE])
@pytest.mark.parametrize("bits", [3, 6, 8])
def test_half_codebook_is_stored_rounded_and_used_as_stored(data_type: int, bits: int) -> None:
    array = graphs.normal((60, 50), 1).astype(FLOAT_TYPES[data_type])
    made, decoded = encoded(array, "portable", bits, codebook_type=FLOAT16)
    book = made.payloads["codebook"][: made.form.centroids]
    assert book.dtype == np.float16
    assert np.array_equal(book, np.unique(book))
    assert np.array_equal(decoded, decoded.astype(np.float16).astype(array.dtype))
    # The indices are the nearest ones to the rounded centroids, not to the exact ones.
    wide = array.reshape(-1, 1).astype(np.float64)
    rounded = book.astype(array.dtype).astype(np.float64)
    nearest = np.abs(wide - rounded).min(axis=1)
    assert np.array_equal(np.abs(wide[:, 0] - decoded.reshape(-1).astype(np.float64)), nearest)
    assert made.distortion == pytest.approx(float(np.sum(nearest**2)), rel=1e-12)
    assert not made.is_lossless
    assert made.gap is None


def test_half_codebook_of_exact_values_loses_nothing() -> None:
    array = (np.arange(300) % 30 / 32).astype(np.float32)
    made, decoded = encoded(array, "portable", 5, codebook_type=FLOAT16)
    assert decoded.tobytes() == array.tobytes()
    assert made.is_lossless
    assert made.payloads["codebook"].dtype == np.float16


def test_centroids_that_round_to_one_are_stored_once() -> None:
    array = np.linspace(1, 1 + 2**-10, 1000).astype(np.float32)
    made, decoded = encoded(array, "portable", 6, codebook_type=FLOAT16)
    assert made.form.centroids == 2
    assert set(decoded.tolist()) == {1.0, 1 + 2**-10}


def test_half_tensor_has_a_half_codebook_of_its_own_type() -> None:
    form = make_form("portable", 6, data_type=FLOAT16)
    assert form.codebook_type == FLOAT16
    made = encode(graphs.normal((5, 7), 1).astype(np.float16), planned(form), form)
    assert made.is_lossless
    assert centroids(make_form("portable", 3, data_type=FLOAT)).dtype == np.float32
