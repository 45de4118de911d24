"""What a plan learns from the values of a tensor."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from onnxq import model
from onnxq.facts import Facts, gather_facts
from onnxq.options import make_options
from tests import graphs
from tests.property.strategies import Array, weights

FLOATS = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)
each_float = pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: np.dtype(dtype).name)


def facts(*arrays: Array, jobs: int = 1, **options: Any) -> list[Facts]:
    """Return the facts of arrays that stand in one model."""
    held = graphs.tensors(**{f"w{number}": array for number, array in enumerate(arrays)})
    made = graphs.model(graphs.graph([], [], [graphs.value("w0")], held))
    document = model.wrap(made)
    return list(gather_facts(document, model.weights(document), make_options(options), jobs))


def fact(array: Array, **options: Any) -> Facts:
    return facts(array, **options)[0]


@each_float
@pytest.mark.parametrize("place", [0, 50, 99])
def test_nan_is_seen_wherever_it_stands(dtype: Any, place: int) -> None:
    values = np.linspace(-1, 1, 100).astype(dtype)
    assert not fact(values).has_nan
    values[place] = np.nan
    found = fact(values)
    assert found.has_nan
    values[0] = np.inf
    values[1] = np.nan
    assert fact(values).has_nan


@each_float
def test_kinds_of_infinity_are_counted(dtype: Any) -> None:
    values = np.linspace(-1, 1, 9).astype(dtype)
    counts = [fact(values).infinities]
    values[3] = np.inf
    counts.append(fact(values).infinities)
    values[4] = np.inf
    values[5] = -np.inf
    counts.append(fact(values).infinities)
    assert counts == [0, 1, 2]
    for only in (np.inf, -np.inf):
        found = fact(np.full(5, only, np.float64).astype(dtype))
        assert (found.infinities, found.distinct) == (1, 1)


def test_distinct_values_are_counted_up_to_one_more_than_the_width_holds() -> None:
    values = np.arange(100, dtype=np.float32)
    assert fact(values, bits=7).distinct == 100
    assert fact(values[:64], bits=6).distinct == 64
    assert fact(values, bits=6).distinct == 65
    assert fact(values, bits=6, tensor_bits={"w0": 7}).distinct == 100
    assert fact(np.array([0.0, -0.0], np.float32)).distinct == 2


def test_digest_is_taken_where_another_tensor_may_be_equal() -> None:
    values = np.arange(12, dtype=np.float32)
    same, other, turned, half = facts(
        values, values + 1, values.reshape(3, 4), values.astype(np.float16)
    )
    assert same.digest == turned.digest
    assert None not in (same.digest, other.digest)
    assert other.digest != same.digest
    assert half.digest is None
    assert facts(values, values, share_equal=False)[0].digest is None
    assert facts(values, values[:11])[0].digest is None


def test_zeros_of_both_signs_are_not_equal_tensors() -> None:
    first, second = facts(np.zeros(4, np.float32), -np.zeros(4, np.float32))
    assert first.digest != second.digest


def test_half_codebook_fits_where_it_loses_no_range_and_no_exactness() -> None:
    def fits(values: list[float], bits: int = 1) -> bool:
        array = np.array(values, np.float32)
        return fact(array, bits=bits, codebook_dtype="float16").fits_half

    assert fits([0.1, 0.2, 0.3])  # lossy anyway
    assert not fits([0.1, 0.2])  # lossless in float32 only
    assert fits([0.5, 0.25])
    assert fits([65504.0, 1.0, 2.0])
    assert not fits([65505.0, 1.0, 2.0])
    assert not fits([-1e9, 1.0, 2.0])
    assert fits([np.inf, 1.0, 2.0], 2)
    assert not fact(np.array([0.5, 0.25], np.float32)).fits_half  # not asked for


def test_half_codebook_is_refused_where_float16_is_too_coarse_for_the_values() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for scale, is_fit in ((1e-8, False), (1e-6, False), (1e-2, True), (1.0, True)):
        found = fact(values * np.float32(scale), bits=4, codebook_dtype="float16")
        assert found.fits_half is is_fit, scale


def test_rare_zeros_and_infinities_do_not_hide_small_values() -> None:
    small = np.random.default_rng(0).standard_normal(100).astype(np.float32) * np.float32(1e-8)
    for extra in (np.zeros(10_000, np.float32), np.array([np.inf], np.float32)):
        array = np.concatenate((small, extra))
        assert not fact(array, bits=4, codebook_dtype="float16").fits_half


@pytest.mark.parametrize("jobs", [1, 4])
def test_facts_come_in_order_for_any_jobs(jobs: int) -> None:
    arrays = [np.arange(count, dtype=np.float32) for count in range(1, 30)]
    assert [found.distinct for found in facts(*arrays, jobs=jobs)] == list(range(1, 30))


@given(weights())
def test_facts_are_those_of_brute_force(values: Array) -> None:
    if not values.shape:
        values = values.reshape(1)
    found = fact(values, bits=3)
    bits = {value.tobytes() for value in values.reshape(-1)}
    assert found.distinct == min(len(bits), 9)
    assert (found.has_nan, found.infinities) == (False, 0)
