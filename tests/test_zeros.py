"""Sparse tensors keep their zeros: 0.0 decodes to exactly 0.0."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxq.clustering import survey
from onnxq.clustering.cluster import Clustering, ClusterOptions, fit, halved
from onnxq.clustering.codebook import decode
from onnxq.clustering.family import fit_family
from onnxq.clustering.feedback import (
    ascending,
    assign_with_feedback,
    output_error,
    refit_centroids,
)
from onnxq.clustering.zeros import are_kept, share
from tests.test_cluster import check, least_cost, same_bytes
from tests.test_feedback import layer
from tests.test_weighted import weighted_cost

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
SHARES = (0.3, 0.5, 0.75, 0.9, 0.99)


def pruned(n: int, zeros: float, dtype: Any = np.float32, seed: int = 0) -> Array:
    """Return lopsided values of which a share is 0: 0.0 and -0.0 in turn."""
    random = np.random.default_rng(seed)
    values = random.standard_t(4, n) + 0.2
    picks = random.permutation(n)[: round(zeros * n)]
    values[picks] = 0.0
    values[picks[::2]] *= -1.0
    return values.astype(dtype)


def keeps_zeros(values: Array, found: Clustering) -> None:
    decoded = decode(found.indices, found.centroids)[values == 0]
    assert decoded.size
    unsigned = np.zeros(decoded.shape, decoded.dtype)
    assert decoded.tobytes() == unsigned.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", SHARES)
def test_zeros_of_pruned_tensors_decode_to_zero_at_every_width(zeros: float, dtype: Any) -> None:
    values = pruned(8000, zeros, dtype).reshape(80, 100)
    weights = np.exp(np.random.default_rng(1).standard_normal(100))
    for bits in range(1, 13):
        for found in (fit(values, 1 << bits), fit(values, 1 << bits, weights=weights)):
            if not found.is_lossless:
                check(values, 1 << bits, found)
                keeps_zeros(values, found)
                keeps_zeros(values, halved(values, found))


@pytest.mark.parametrize("zeros", SHARES)
def test_zeros_of_large_tensors_decode_to_zero(zeros: float) -> None:
    values = pruned(400_000, zeros)
    weights = np.exp(np.random.default_rng(1).standard_normal(values.size))
    for k in (2, 3, 16, 256, 1000, 5000):
        found = fit(values, k)
        check(values, k, found)
        if not found.is_lossless:
            keeps_zeros(values, found)
        if k <= 256:
            keeps_zeros(values, fit(values, k, weights=weights))


def test_the_other_centroids_are_the_best_beside_zero() -> None:
    for seed in range(8):
        values = pruned(50, 0.4, np.float64, seed)
        for k in (2, 3, 5, 9):
            found = fit(values, k)
            best = least_cost(values, k, keeps_zero=True)
            assert found.distortion == pytest.approx(best, rel=1e-9)
            assert best >= least_cost(values, k) * (1 - 1e-12)


def test_weighted_centroids_are_the_best_beside_zero() -> None:
    values = pruned(4000, 0.5, np.float64)
    weights = np.random.default_rng(1).integers(1, 4, values.size).astype(np.float64)
    repeated = np.repeat(values, weights.astype(int))
    for k in (2, 5, 16, 64):
        cost = weighted_cost(values, weights, fit(values, k, weights=weights).centroids)
        assert cost == pytest.approx(fit(repeated, k).distortion, rel=1e-4)


@pytest.mark.parametrize("zeros", [0.3, 0.9])
def test_a_histogram_costs_next_to_nothing(zeros: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = pruned(100_000, zeros)
    exact = {k: fit(values, k).distortion for k in (2, 4, 16, 256)}
    monkeypatch.setattr(survey, "_SMALL", 0)
    monkeypatch.setattr(survey, "_FEW", 4)
    monkeypatch.setattr(survey, "_STEADY", 1 << 20)
    for k, reference in exact.items():
        found = fit(values, k)
        keeps_zeros(values, found)
        assert found.gap is not None
        assert reference * (1 - 1e-9) <= found.distortion <= reference * (1 + 5e-5)


@pytest.mark.parametrize("n", [5000, 300_000])
@pytest.mark.parametrize("zeros", [0.3, 0.99])
def test_families_keep_zeros_like_fits(zeros: float, n: int) -> None:
    values = pruned(n, zeros)
    for point in fit_family(values, (1, 2, 3, 6, 16, 40, 256, 1000)):
        alone = fit(values, point.k)
        np.testing.assert_array_equal(point.centroids, alone.centroids)
        assert point.k == 1 or (point.centroids == 0).any()
        assert point.distortion == pytest.approx(alone.distortion, rel=1e-4)


def test_few_zeros_and_other_starts_change_nothing() -> None:
    values = pruned(10_000, 0.01)
    assert not (fit(values, 16).centroids == 0).any()
    values = pruned(10_000, 0.5)
    found = fit(values, 16, ClusterOptions(init="bounded-pdf"))
    assert not (found.centroids == 0).any()


def test_one_centroid_is_the_mean_whatever_is_zero() -> None:
    values = pruned(1000, 0.9, np.float64)
    assert fit(values, 1).centroids == pytest.approx(values.mean(), rel=1e-12)


def test_zeros_keep_theirs_beside_infinities() -> None:
    values = pruned(1000, 0.6)
    values[values > 5] = np.inf
    for k in (3, 8):
        found = fit(values, k)
        keeps_zeros(values, found)
        assert found.centroids[-1] == np.inf


def test_threads_do_not_change_sparse_fits() -> None:
    values = pruned(3_000_000, 0.5)
    same_bytes(fit(values, 16), fit(values, 16, jobs=4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_zeros_count_and_subnormals_do_not(dtype: Any) -> None:
    tiny = np.array([1], np.dtype(f"u{np.dtype(dtype).itemsize}")).view(dtype)[0]
    values = np.array([0.0, -0.0, 1.0, tiny, np.inf, -2.0, 3.0, -tiny], dtype)
    assert share(values) == 0.25
    assert share(values[:0]) == 0.0
    assert [are_kept(0.25, k) for k in (1, 2, 3)] == [False, True, True]


@pytest.mark.parametrize("sweeps", [0, 2])
def test_feedback_keeps_zeros(sweeps: int) -> None:
    rows, moments = layer(2, 12, 40)
    rows[np.abs(rows) < 0.5] = 0.0
    book: Array = fit(rows, 8).centroids.astype(np.float64)
    for _ in range(3):
        indices = assign_with_feedback(rows, moments, book, sweeps=sweeps)
        before = output_error(rows, book[indices], moments)
        moved = refit_centroids(rows, moments, indices, book, damping=0.0)
        assert output_error(rows, moved[indices], moments) < before
        indices, book = ascending(indices, moved)
        assert not book[indices][rows == 0].any()


def test_feedback_without_a_zero_centroid_may_move_zeros() -> None:
    rows, moments = layer(1, 12, 40)
    rows[np.abs(rows) < 0.5] = 0.0
    book: Array = np.array([-1.0, -0.25, 0.25, 1.0])
    indices = assign_with_feedback(rows, moments, book)
    assert np.unique(indices[rows == 0]).size > 1
    moved = refit_centroids(rows, moments, indices, book)
    assert not np.isin(book, moved).any()


def test_centroids_that_ascend_hold_no_negative_zero() -> None:
    indices, book = ascending(np.uint8([0, 1, 2]), np.array([1.0, -0.0, 0.0]))
    assert (indices.tolist(), book.tolist()) == ([1, 0, 0], [0.0, 1.0])
    assert not np.signbit(book).any()
