"""Codebooks of many sizes from one look at the values."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxq.clustering.cluster import fit
from onnxq.clustering.family import Point, fit_family
from onnxq.errors import InputError, OptionError
from tests.test_cluster import KINDS, named
from tests.test_weighted import weighted_cost

Array = np.ndarray[Any, np.dtype[Any]]
KS = (1, 2, 3, 4, 6, 8, 9, 16, 32, 40, 64, 128, 256)
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]


def same(point: Point, values: Array, rel: float) -> None:
    """Hold a point to the codebook that is fitted alone."""
    alone = fit(values, point.k)
    assert point.centroids.size == alone.centroids.size
    assert point.centroids.dtype == values.dtype
    assert point.is_lossless == alone.is_lossless
    assert point.distortion == pytest.approx(alone.distortion, rel=rel, abs=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_point_is_the_codebook_fitted_alone(kind: str, dtype: Any) -> None:
    with np.errstate(over="ignore"):
        values = named(kind, 600).astype(dtype).reshape(20, 30)
    for point in fit_family(values, KS):
        same(point, values, 1e-6)
        np.testing.assert_array_equal(point.centroids, fit(values, point.k).centroids)


@pytest.mark.parametrize("kind", ["normal", "heavy", "outlier 1e9", "zeros", "discrete"])
def test_points_of_a_histogram_tell_the_distortion(kind: str) -> None:
    values = named(kind, 300_000)
    for point in fit_family(values, (2, 3, 9, 40, 256, 300)):
        same(point, values, 1e-4)


def test_points_beyond_256_centroids() -> None:
    for values in (named("heavy", 20_000), named("normal", 700_000)):
        for point in fit_family(values, (257, 1000, 4096)):
            same(point, values, 1e-4)


@pytest.mark.parametrize("n", [500, 200_000])
def test_weighted_points_tell_the_weighted_distortion(n: int) -> None:
    random = np.random.default_rng(0)
    values = random.standard_t(4, (n // 50, 50)).astype(np.float32)
    weights = 3.0 * np.exp(random.standard_normal(50))
    for point in fit_family(values, (2, 6, 16, 40, 100), weights=weights):
        alone = fit(values, point.k, weights=weights)
        assert point.centroids.size == alone.centroids.size
        expected = weighted_cost(values, weights, alone.centroids)
        assert point.distortion == pytest.approx(expected, rel=1e-4)


def test_lossless_sizes_hold_every_pattern() -> None:
    values = np.array([0.0, -0.0, 1.0, np.inf] * 9, np.float32)
    points = fit_family(values, (4096, 4, 3, 2, 1))
    assert [(point.k, point.centroids.size) for point in points] == [
        (4096, 4), (4, 4), (3, 3), (2, 2),
    ]  # fmt: skip
    assert [point.is_lossless for point in points] == [True, True, False, False]
    assert points[0].centroids.tobytes() == fit(values, 4).centroids.tobytes()


def test_sizes_keep_their_order_and_may_repeat() -> None:
    values = named("normal", 300)
    points = fit_family(values, (9, 2, 9))
    assert [point.k for point in points] == [9, 2, 9]
    assert points[0].distortion == points[2].distortion < points[1].distortion
    assert fit_family(values, ()) == ()
    assert fit_family(values[:0], (2,))[0].is_lossless


def test_sizes_without_room_beside_infinities_have_no_point() -> None:
    values = np.append(named("normal", 200), np.float32([np.inf, -np.inf]))
    points = fit_family(values, (1, 2, 3, 5))
    assert [point.k for point in points] == [3, 5]
    for point in points:
        same(point, values, 1e-6)
        assert point.centroids[[0, -1]].tolist() == [-np.inf, np.inf]


def test_threads_do_not_change_the_points() -> None:
    values = named("laplace", 400_000)
    for one, four in zip(
        fit_family(values, (6, 300)), fit_family(values, (6, 300), jobs=4), strict=True
    ):
        assert one.centroids.tobytes() == four.centroids.tobytes()
        assert one.distortion == four.distortion


def test_what_cannot_be_is_refused() -> None:
    values = named("normal", 100)
    for k in (0, 4097):
        with pytest.raises(OptionError, match=f"ks: found {k}, expected 1 to 4096"):
            fit_family(values, (2, k))
    values[3] = np.nan
    for ks in ((2, 3), (256,)):
        with pytest.raises(InputError, match="NaN"):
            fit_family(values, ks)
    with pytest.raises(InputError, match="weights"):
        fit_family(values[:3], (2,), weights=np.array(-1.0))
