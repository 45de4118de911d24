"""Values that do not all matter alike: weighted codebooks."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxq.clustering import kernels, weighted
from onnxq.clustering.cluster import ClusterOptions, Init, fit
from onnxq.clustering.codebook import assign, distortion
from onnxq.clustering.weighted import Importance
from onnxq.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


def weighted_cost(values: Array, weights: Array, centroids: Array) -> float:
    """Return the weighted distortion of nearest centroids."""
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    residuals = wide - centroids.astype(np.float64)[assign(values, centroids)]
    return float(np.sum((np.broadcast_to(weights, wide.shape) * residuals**2)[finite]))


def least_weighted_cost(values: Array, weights: Array, k: int) -> float:
    """Return the optimum by dynamic programming over all sorted values."""
    order = np.argsort(values)
    x, w = values[order].astype(np.float64), weights[order]
    costs = np.full((x.size + 1, x.size + 1), np.inf)
    for i in range(x.size):
        for j in range(i + 1, x.size + 1):
            mean = np.average(x[i:j], weights=w[i:j])
            costs[i, j] = np.sum(w[i:j] * (x[i:j] - mean) ** 2)
    best = np.full(x.size + 1, np.inf)
    best[0] = 0.0
    for _ in range(k):
        best = np.min(best[:, None] + costs, axis=0)
    return float(best[-1])


@pytest.mark.parametrize("k", [1, 2, 3, 7, 20])
def test_small_weighted_fits_reach_the_weighted_optimum(k: int) -> None:
    random = np.random.default_rng(k)
    values, weights = random.standard_t(4, 60), np.exp(2 * random.standard_normal(60))
    found = fit(values, k, weights=weights)
    best = least_weighted_cost(values, weights, k)
    assert weighted_cost(values, weights, found.centroids) <= best * (1 + 1e-9)
    assert found.gap is None
    assert found.distortion == distortion(values, found.indices, found.centroids)
    np.testing.assert_array_equal(found.indices, assign(values, found.centroids))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("n", [700, 200_000])
def test_equal_weights_change_nothing_that_matters(dtype: Any, n: int) -> None:
    values = np.random.default_rng(0).standard_t(5, n).astype(dtype)
    for k in (2, 40):
        plain, even = fit(values, k), fit(values, k, weights=np.array(7.5))
        assert even.centroids.size == plain.centroids.size
        assert even.distortion <= plain.distortion * (1 + 2e-5)


@pytest.mark.parametrize("shape", [(1, 40, 1, 1), (40, 3, 3), (50, 1, 1, 1), ()])
def test_weights_broadcast_like_arrays(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((50, 40, 3, 3)).astype(np.float32)
    weights = np.exp(random.standard_normal(shape))
    whole = np.ascontiguousarray(np.broadcast_to(weights, values.shape))
    few, all_ = fit(values, 16, weights=weights), fit(values, 16, weights=whole)
    np.testing.assert_allclose(few.centroids, all_.centroids, rtol=1e-5)
    assert weighted_cost(values, whole, few.centroids) <= weighted_cost(
        values, whole, fit(values, 16).centroids
    )


@pytest.mark.parametrize("kind", ["normal", "heavy", "outlier", "zeros", "offset"])
def test_the_weighted_histogram_is_as_good_as_distinct_values(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    values = random.standard_t(3 if kind == "heavy" else 50, 60_000)
    if kind == "outlier":
        values[77] = 1e9
    if kind == "zeros":
        values[random.random(values.size) < 0.9] = 0.0
    values = (values + (1000 if kind == "offset" else 0)).astype(np.float32)
    weights = np.exp(2 * random.standard_normal((300, 1)))
    values = values.reshape(300, 200)
    exact = {k: fit(values, k, weights=weights).centroids for k in (3, 16, 200)}
    monkeypatch.setattr(weighted, "WHOLE", 0)
    for k, reference in exact.items():
        found = fit(values, k, weights=weights)
        best = weighted_cost(values, weights, reference)
        assert weighted_cost(values, weights, found.centroids) <= best * (1 + 5e-5)


def test_what_does_not_count_keeps_the_centroids_where_they_were() -> None:
    values = np.append(np.random.default_rng(0).standard_normal(500), [50.0, 51.0, 52.0])
    weights = np.append(np.ones(500), np.zeros(3))
    found = fit(values, 8, weights=weights).centroids
    assert found.max() < 5
    assert fit(values, 8).centroids.max() > 40
    np.testing.assert_array_equal(
        fit(values, 8, weights=np.zeros(503)).centroids, fit(values, 8).centroids
    )


def test_as_many_centroids_as_without_weights() -> None:
    random = np.random.default_rng(0)
    values = np.round(random.standard_normal(4000) * 20).astype(np.float32)
    weights = random.random(4000) * (values > 0)
    for k in (3, 9, 40, 60):
        assert fit(values, k, weights=weights).centroids.size == fit(values, k).centroids.size


def test_few_patterns_are_lossless_whatever_the_weights() -> None:
    values = np.array([0.0, -0.0, np.inf, 3.0] * 5, np.float32)
    found = fit(values, 4, weights=np.zeros(20))
    assert found.is_lossless
    assert found.centroids.size == 4


@pytest.mark.parametrize("n", [500, 200_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_infinities_keep_centroids_of_their_own(dtype: Any, n: int) -> None:
    values = np.random.default_rng(0).standard_normal(n).astype(dtype)
    values[:3] = np.inf, -np.inf, np.inf
    weights = np.random.default_rng(1).random(n)
    found = fit(values, 6, weights=weights)
    assert found.centroids[[0, -1]].tolist() == [-np.inf, np.inf]
    assert found.centroids.size == 6
    with pytest.raises(InputError, match="infinite"):
        fit(values, 2, weights=weights)
    values[9] = np.nan
    with pytest.raises(InputError, match="NaN"):
        fit(values, 6, weights=weights)


def test_a_range_that_the_sample_misses_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    weights = np.random.default_rng(1).random(values.size)
    best = weighted_cost(values, weights, fit(values, 16, weights=weights).centroids)
    monkeypatch.setattr(weighted, "sample", lambda flat: flat[:100] * np.float32(1e-3))
    found = fit(values, 16, weights=weights)
    assert weighted_cost(values, weights, found.centroids) <= best * 1.001
    monkeypatch.setattr(weighted, "grid_over", lambda *_: None)
    found = fit(values, 16, weights=weights)
    assert weighted_cost(values, weights, found.centroids) <= best * 1.00001


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_no_weight_is_refused(bad: float) -> None:
    values = np.arange(6, dtype=np.float32)
    with pytest.raises(InputError, match="weights: found NaN, infinite or negative"):
        fit(values, 6, weights=np.array([1, 1, 1, 1, 1, bad]))
    with pytest.raises(InputError, match=r"weights: found shape \[5\], expected .* to \[6\]"):
        fit(values, 2, weights=np.ones(5))


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_only_the_ratios_of_weights_matter(scale: float) -> None:
    random = np.random.default_rng(0)
    values, weights = random.standard_normal(3000), random.random(3000)
    exact = fit(values, 16, weights=weights).centroids
    np.testing.assert_allclose(fit(values, 16, weights=weights * scale).centroids, exact)


def test_importance_is_read_in_blocks_as_a_whole() -> None:
    weights = np.arange(1.0, 13.0).reshape(1, 12, 1)
    importance = Importance(weights, (5, 12, 2))
    whole = np.broadcast_to(weights, (5, 12, 2)).reshape(-1) / 6.5
    parts = [importance.part(start, min(start + 7, 120)) for start in range(0, 120, 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-15)
    assert importance.mean == pytest.approx(6.5)


@pytest.mark.parametrize("init", ["bounded-pdf", "quantile", "uniform"])
def test_lloyd_runs_on_weights_as_well(init: Init) -> None:
    random = np.random.default_rng(0)
    values, weights = random.standard_normal(5000), np.exp(random.standard_normal(5000))
    plain = ClusterOptions(init=init, max_iterations=50)
    found = fit(values, 12, plain, weights=weights)
    best = fit(values, 12, weights=weights)
    costs = [weighted_cost(values, weights, fitted.centroids) for fitted in (best, found)]
    assert costs[0] <= costs[1] <= 2 * costs[0]


def test_threads_do_not_change_the_bytes() -> None:
    random = np.random.default_rng(0)
    values, weights = random.standard_normal(300_000).astype(np.float32), random.random(300_000)
    one, four = (fit(values, 32, weights=weights, jobs=jobs) for jobs in (1, 4))
    assert one.centroids.tobytes() == four.centroids.tobytes()
    assert one.indices.tobytes() == four.indices.tobytes()


def test_interpreted_weighted_counting_equals_compiled() -> None:
    random = np.random.default_rng(0)
    values = np.append(random.standard_normal(500), [9e9, np.nan, -np.inf]).astype(np.float32)
    weights = random.random(503)
    results = []
    for wrap in (lambda kernel: kernel, kernels.compiled):
        cells = np.zeros(64), np.zeros(64), np.zeros(64)
        outside = np.zeros(5, np.float32), np.zeros(5)
        count = wrap(kernels.fill_weighted)(values, weights, (-4.0, 0.125), cells, outside)
        results.append((count, *(array.tobytes() for array in (*cells, *outside))))
    assert results[0] == results[1]
    assert results[0][0] >= 3
