"""Assignment, decoding, distortion: exactness, ties, infinities, refusals."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxq.clustering import codebook, kernels
from onnxq.clustering.codebook import (
    assign,
    assign_measured,
    decode,
    distortion,
    signal_power,
    thresholds,
)
from onnxq.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
F32 = np.dtype(np.float32)
MAX = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).smallest_subnormal)
EXACT_DTYPES = [F32, np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def nearest_exactly(values: Array, centroids: Array) -> list[int]:
    """Assign finite values by brute force in rational arithmetic; the lowest index wins ties."""
    book = [Fraction(float(c)) for c in centroids]
    found = []
    for value in values.reshape(-1):
        exact = Fraction(float(value))
        found.append(min(range(len(book)), key=lambda i: (abs(exact - book[i]), i)))
    return found


def hard_values(dtype: np.dtype[Any], seed: int) -> tuple[Array, Array]:
    """Return values at, beside and far from the midpoints of awkward centroids."""
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal(12) * 10.0 ** rng.integers(-6, 4, 12)
    centroids = np.sort(np.concatenate((spread, [0.0, 1.0, 3.0])).astype(dtype))
    wide = centroids.astype(np.float64)
    middles = ((wide[1:] + wide[:-1]) / 2).astype(dtype)
    bits = np.dtype(f"i{dtype.itemsize}")
    beside = [(middles.view(bits) + step).view(dtype) for step in (-1, 0, 1)]
    values = np.concatenate([*beside, centroids, rng.standard_normal(50).astype(dtype)])
    return values[np.isfinite(values)], centroids


@pytest.fixture(params=["numpy", "compiled"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one of the two implementations, whatever the size."""
    is_compiled = request.param == "compiled"
    choose: Callable[[int], bool] = lambda _: is_compiled  # noqa: E731
    monkeypatch.setattr(codebook, "is_worthwhile", choose)
    return str(request.param)


@pytest.mark.parametrize("dtype", EXACT_DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_assignment_equals_exact_brute_force(dtype: np.dtype[Any], seed: int, path: str) -> None:
    values, centroids = hard_values(dtype, seed)
    indices = assign(values, centroids)
    assert indices.dtype == np.uint8
    assert indices.tolist() == nearest_exactly(values, centroids)


@pytest.mark.parametrize(
    "centroids",
    [
        [0.0, TINY],
        [0.0, 3 * TINY],
        [-MAX, MAX],
        [-MAX, TINY, MAX],
        [1e30, 1.0000001e30],
        [-1e-30, 1e30],
        [1.0, 1.0, 1.0],
        [5.0],
    ],
)
def test_midpoints_that_round_are_still_exact(centroids: list[float], path: str) -> None:
    book = np.float32(centroids)
    middles = (book[1:].astype(np.float64) + book[:-1].astype(np.float64)) / 2
    near = middles.astype(np.float32)
    inf = np.float32(np.inf)
    values = np.concatenate((near, np.nextafter(near, inf), np.nextafter(near, -inf), book))
    values = values[np.isfinite(values)]
    assert assign(values, book).tolist() == nearest_exactly(values, book)


def test_float64_follows_its_rounded_midpoints(path: str) -> None:
    rng = np.random.default_rng(0)
    centroids = np.sort(rng.standard_normal(40))
    values = np.concatenate((rng.standard_normal(500), centroids))
    middles = centroids[:-1] / 2 + centroids[1:] / 2
    expected = (np.concatenate((values, middles))[:, None] > middles).sum(axis=1)
    assert assign(np.concatenate((values, middles)), centroids).tolist() == expected.tolist()


def test_ties_go_to_the_lowest_index(path: str) -> None:
    book = np.float32([-1.0, 0.0, 0.0, 1.0])
    assert assign(np.float32([-0.5, -0.0, 0.0, 0.5]), book).tolist() == [0, 1, 1, 1]


def test_infinities_go_to_their_own_centroids(path: str) -> None:
    inf = np.inf
    values = np.float32([-inf, -MAX, -1.0, 0.4, 2.0, MAX, inf])
    assert assign(values, np.float32([-inf, 0.0, 1.0, inf])).tolist() == [0, 1, 1, 1, 2, 2, 3]
    assert assign(values, np.float32([0.0, 1.0])).tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert assign(values, np.float32([-inf, inf])).tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert assign(values, np.float32([-inf])).tolist() == [0] * 7


def test_more_than_256_centroids_take_16_bits(path: str) -> None:
    book = np.arange(257, dtype=np.float32)
    found = assign(book, book)
    assert found.dtype == np.uint16
    assert found.tolist() == list(range(257))


def test_a_crowd_of_centroids_in_one_cell_is_told_apart(path: str) -> None:
    crowd = np.float32(1) + np.arange(300, dtype=np.float32) * np.float32(2**-20)
    book = np.concatenate((np.float32([-1e9]), crowd, np.float32([1e9])))
    rng = np.random.default_rng(0)
    values = np.concatenate((rng.choice(crowd, 200), rng.uniform(0.999, 1.001, 200), book))
    values = values.astype(np.float32)
    assert assign(values, book).tolist() == nearest_exactly(values, book)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_large_16_bit_tensors_use_the_table_of_patterns(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(70000).astype(dtype)
    values[:2] = [np.inf, -np.inf]
    book = np.sort(rng.standard_normal(20)).astype(dtype)
    expected = np.concatenate([assign(part, book) for part in np.array_split(values, 7)])
    np.testing.assert_array_equal(assign(values, book), expected)
    assert assign_measured(values, book)[1] == distortion(values, expected, book)
    values[5] = np.nan
    with pytest.raises(InputError, match="NaN"):
        assign(values, book)


def test_the_shape_is_kept_and_strides_do_not_matter(path: str) -> None:
    values = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)
    book = np.float32([-0.5, 0.5])
    np.testing.assert_array_equal(assign(values.T, book), assign(values, book).T)
    assert assign(np.empty((0, 3), np.float32), book).shape == (0, 3)
    assert assign(np.array(1.0, np.float32), book).shape == ()


def test_measured_assignment_equals_the_two_steps(path: str) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal(5000).astype(np.float32)
    values[:3] = [np.inf, -np.inf, 9.0]
    book = np.sort(rng.standard_normal(30)).astype(np.float32)
    indices, error = assign_measured(values, book)
    np.testing.assert_array_equal(indices, assign(values, book))
    assert error == distortion(values, indices, book)


def test_compiled_and_numpy_paths_have_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    values = (rng.standard_t(2, 4000) * 0.1).astype(np.float32)
    book = np.sort(rng.choice(values, 100))
    results = []
    for is_compiled in (False, True):
        monkeypatch.setattr(codebook, "is_worthwhile", lambda _, answer=is_compiled: answer)
        results.append(assign_measured(values, book))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_interpreted_kernels_equal_compiled_ones() -> None:
    rng = np.random.default_rng(5)
    values = np.append(rng.standard_normal(300), [np.inf, -np.inf, 1e30]).astype(np.float32)
    book = np.sort(rng.standard_normal(20)).astype(np.float32)
    limits = thresholds(book, F32)
    grid, first = codebook._cells(values, limits)
    padded, wide = np.append(limits, np.float32(np.inf)), book.astype(np.float64)
    found = []
    for kernel in (kernels.nearest, kernels.compiled(kernels.nearest)):
        out = np.empty(values.size, np.uint8)
        with np.errstate(all="ignore"):
            found.append((kernel(values, grid, first, padded, wide, out), out.tolist()))
    assert found[0] == found[1]
    indices = np.array(found[0][1], np.uint8)
    compiled = kernels.compiled(kernels.squared_residuals)
    with np.errstate(invalid="ignore"):
        plain = kernels.squared_residuals(values, indices, wide)
    assert plain == compiled(values, indices, wide) == found[0][0][0]


def test_blocks_and_threads_do_not_change_the_bytes(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(codebook, "BLOCK", 1000)
    rng = np.random.default_rng(6)
    values = rng.standard_normal(10500).astype(np.float32)
    book = np.sort(rng.standard_normal(16)).astype(np.float32)
    one, four = (assign_measured(values, book, jobs=jobs) for jobs in (1, 4))
    np.testing.assert_array_equal(one[0], four[0])
    assert one[1] == four[1]


def test_distortion_skips_infinities_and_survives_outliers() -> None:
    values = np.float32([np.inf, 1.0, 2.0, -np.inf, 1e9])
    book = np.float32([-np.inf, 1.5, 1e9, np.inf])
    assert distortion(values, assign(values, book), book) == 0.5
    assert signal_power(np.float32([3.0, np.inf, 4.0])) == 25.0
    assert distortion(values[:0], np.empty(0, np.uint8), book) == 0.0
    assert signal_power(np.float64([1e200])) == np.inf


def test_decode_looks_up_and_refuses_what_it_cannot() -> None:
    book = np.float16([0.0, 1.5])
    found = decode(np.uint8([[0, 1], [1, 1]]), book)
    assert found.dtype == np.float16
    assert found.tolist() == [[0.0, 1.5], [1.5, 1.5]]
    with pytest.raises(InputError, match="found 2, expected less than 2"):
        decode(np.uint8([2]), book)


def test_bad_input_is_refused(path: str) -> None:
    good, book = np.float32([1.0]), np.float32([0.0, 1.0])
    with pytest.raises(InputError, match="NaN"):
        assign(np.float32([0.0, np.nan]), book)
    for wrong in ([1.0, 0.0], [np.nan, 1.0], [0.0, np.nan], [], [[0.0]], [0.0] * 65537):
        with pytest.raises(InputError, match="centroids"):
            assign(good, np.float32(wrong))
    with pytest.raises(InputError, match="dtype int64"):
        assign(np.array([1]), book)
