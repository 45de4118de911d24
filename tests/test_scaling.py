"""Scales of channels: how they are chosen, and that nothing else of a tensor changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from onnxq.encode import decode, encode, fitted, tensor_scales
from onnxq.errors import InputError
from onnxq.scaling import channel_scales, joined_scales, normalised, rescaled, scale_parts
from onnxq.trees import DOUBLE, FLOAT, FLOAT16
from tests import graphs
from tests.encoded import make_form, planned

Array = np.ndarray[Any, np.dtype[Any]]
SINGLE, HALF = np.dtype(np.float32), np.dtype(np.float16)


def uneven(*shape: int, axis: int = 0) -> Array:
    """Return normal values whose channels differ by five orders of magnitude."""
    dims = [1] * len(shape)
    dims[axis] = shape[axis]
    return graphs.normal(shape, 1) * np.geomspace(1e-3, 1e2, shape[axis]).astype(SINGLE).reshape(
        dims
    )


# The scales


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scale_is_the_root_mean_square_of_its_channel(axis: int) -> None:
    array = uneven(4, 6, 5, axis=axis)
    found = channel_scales(array, axis, SINGLE)
    others = tuple(i for i in range(3) if i != axis)
    expected = np.sqrt(np.mean(array.astype(np.float64) ** 2, axis=others, keepdims=True))
    assert (found.dtype, found.shape) == (SINGLE, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=2**-23)


def test_channel_of_zeros_or_infinities_has_scale_1() -> None:
    array = np.array([[0, 0], [-0.0, 0], [np.inf, -np.inf], [3, np.inf]], SINGLE)
    assert channel_scales(array, 0, SINGLE).tolist() == [[1], [1], [1], [3]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_of_extreme_values_is_finite_and_positive(dtype: Any) -> None:
    limits = np.finfo(dtype)
    rows = [[limits.max] * 3, [limits.smallest_subnormal, 0, 0], [limits.tiny] * 3]
    array = np.array(rows, dtype)
    for stored in (np.dtype(dtype), HALF):
        found = channel_scales(array, 0, stored)
        assert np.isfinite(found).all()
        assert (found > 0).all()
    assert channel_scales(array, 0, np.dtype(dtype))[0, 0] == limits.max
    assert channel_scales(array, 0, HALF).reshape(-1).tolist() == [65504.0, 2**-24, 2**-24]


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="found NaN"):
        channel_scales(np.array([[1, np.nan]], SINGLE), 0, SINGLE)


def test_many_channels_are_scaled_alike_whatever_the_chunk() -> None:
    array = graphs.normal((1100, 1000), 3)
    found = channel_scales(array, 1, SINGLE)
    for column in (0, 523, 999):
        assert found[0, column] == channel_scales(array[:, [column]], 1, SINGLE)[0, 0]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("limit", [100, 10**6])
def test_scales_come_back_from_any_tiles(axis: int, limit: int) -> None:
    form = make_form("portable", 4, (12, 6), scale_axis=axis, scale_type=FLOAT)
    scales = channel_scales(uneven(12, 6), axis, SINGLE)
    parts = scale_parts(scales, form, limit)
    assert (len(parts) > 1) == (axis == 0 and limit == 100)
    np.testing.assert_array_equal(joined_scales(parts, form, limit), scales)


# Encoding


@pytest.mark.parametrize("data_type", [FLOAT, DOUBLE])
@pytest.mark.parametrize("scale_type", [None, FLOAT16])
def test_loss_is_that_of_the_decoded_tensor(data_type: int, scale_type: int | None) -> None:
    dtype = SINGLE if data_type == FLOAT else np.dtype(np.float64)
    array = uneven(20, 30, axis=1).astype(dtype)
    form = make_form(
        "portable", 4, array.shape, data_type=data_type,
        scale_axis=1, scale_type=scale_type or data_type,
    )  # fmt: skip
    made = encode(array, planned(form), form)
    decoded = decode(made.payloads, made.form, dtype)
    assert (decoded.dtype, decoded.shape) == (dtype, array.shape)
    wide = array.astype(np.float64)
    error = float(np.sum((wide - decoded) ** 2))
    assert made.distortion == pytest.approx(error, rel=1e-12)
    assert made.snr_db == pytest.approx(10 * math.log10(float(np.sum(wide**2)) / error), abs=1e-9)
    assert (made.is_lossless, made.gap, made.scheme) == (False, None, "optimal")
    assert made.form.codebook_bytes == sum(
        made.payload_bytes[role] for role in ("codebook", "scales")
    )


def test_decoded_value_is_its_centroid_times_its_scale() -> None:
    array = uneven(8, 50)
    form = make_form("portable", 3, array.shape, scale_axis=0, scale_type=FLOAT16)
    made = encode(array, planned(form), form)
    scales = made.payloads["scales0"]
    assert scales.dtype == np.float16
    over = normalised(array, scales)
    book = made.payloads["codebook"]
    nearest = book[np.abs(over[..., None].astype(np.float64) - book).argmin(axis=-1)]
    expected = nearest * scales.astype(SINGLE)
    np.testing.assert_array_equal(decode(made.payloads, made.form, SINGLE), expected)


def test_scales_help_where_channels_differ() -> None:
    array = uneven(32, 100)
    plain = make_form("portable", 4, array.shape)
    scaled = make_form("portable", 4, array.shape, scale_axis=0, scale_type=FLOAT16)
    small = array[:16].astype(np.float64)
    errors = []
    for form in (plain, scaled):
        made = encode(array, planned(form), form)
        errors.append(float(np.sum((small - decode(made.payloads, form, SINGLE)[:16]) ** 2)))
    assert errors[1] < errors[0] / 10


def test_exact_values_come_back_exactly_and_are_said_to() -> None:
    """Scales that are powers of two divide without rounding."""
    array = np.array([[2, -2] * 4, [8, -8] * 4, [0.5, -0.5] * 4], SINGLE)
    form = make_form("portable", 1, array.shape, scale_axis=0, scale_type=FLOAT16)
    made = encode(array, planned(form), form)
    np.testing.assert_array_equal(decode(made.payloads, made.form, SINGLE), array)
    assert (made.is_lossless, made.scheme, made.snr_db) == (True, "lossless", None)
    assert (made.distortion, made.gap) == (0.0, 0.0)


def test_infinities_are_exact() -> None:
    array = uneven(8, 50)
    array[0, 0], array[3, 4] = np.inf, -np.inf
    form = make_form("portable", 4, array.shape, scale_axis=0, scale_type=FLOAT16)
    made = encode(array, planned(form), form)
    decoded = decode(made.payloads, made.form, SINGLE)
    assert np.array_equal(np.isinf(decoded), np.isinf(array))
    assert math.isfinite(made.distortion)


@pytest.mark.parametrize("is_half", [False, True])
def test_what_is_fitted_ahead_gives_the_same_bytes(is_half: bool) -> None:
    array = uneven(40, 30)
    form = make_form(
        "portable", 5, array.shape, scale_axis=0, scale_type=FLOAT16,
        codebook_type=FLOAT16 if is_half else FLOAT,
    )  # fmt: skip
    plan = planned(form)
    known = fitted(array, plan)
    direct = encode(array, plan, form, jobs=3)
    for given in (known, known.without_indices()):
        made = encode(array, plan, form, known=given)
        assert made.payloads.keys() == direct.payloads.keys()
        for role, stored in made.payloads.items():
            assert stored.tobytes() == direct.payloads[role].tobytes()


# Codebooks that calibration data gave


@pytest.mark.parametrize("field", ["is_weighted", "has_feedback"])
@pytest.mark.parametrize("axis", [None, 0])
def test_codebook_of_calibration_is_not_fitted_without_it(field: str, axis: int | None) -> None:
    array = uneven(8, 50)
    form = make_form(
        "portable", 4, array.shape, scale_axis=axis, scale_type=None if axis is None else FLOAT
    )
    plan = planned(form, **{field: True})
    for attempt in (lambda: fitted(array, plan), lambda: encode(array, plan, form)):
        with pytest.raises(InputError, match=r"tensor 'w': .* calibration data.*is_weighted"):
            attempt()


def test_given_indices_are_kept_even_if_they_are_not_the_nearest() -> None:
    array = uneven(8, 50)
    form = make_form("portable", 4, array.shape, scale_axis=0, scale_type=FLOAT16)
    plan = planned(form)
    found = fitted(array, plan)
    shifted = type(found)(
        centroids=found.centroids, indices=(found.indices + 1) % 16, distortion=0.0, gap=None,
        iterations=1, is_lossless=False,
    )  # fmt: skip
    asked = planned(form, has_feedback=True)
    made = encode(array, asked, form, known=shifted)
    scales = tensor_scales(array, plan)
    assert scales is not None
    expected = rescaled(found.centroids[shifted.indices], scales)
    np.testing.assert_array_equal(decode(made.payloads, made.form, SINGLE), expected)
    wide = array.astype(np.float64)
    assert made.distortion == pytest.approx(float(np.sum((wide - expected) ** 2)), rel=1e-12)
    with pytest.raises(InputError, match="calibration data"):
        encode(array, asked, form, known=shifted.without_indices())
