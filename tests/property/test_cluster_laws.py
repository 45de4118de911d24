"""Laws of clustering and assignment."""

from fractions import Fraction

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.clustering.cluster import ClusterOptions, Init, count_distinct, fit
from onnxq.clustering.codebook import assign, decode
from onnxq.clustering.zeros import are_kept, share
from tests.property.strategies import FLOAT_DTYPES, Array, finite_values, flat_weights
from tests.test_cluster import INITS, check, least_cost, same_bytes

few_values = hnp.arrays(np.float32, st.integers(1, 24), elements=finite_values(32))


@given(flat_weights(), st.integers(1, 40), st.sampled_from(INITS), st.sampled_from(FLOAT_DTYPES))
def test_a_clustering_keeps_its_promises(
    values: Array, k: int, init: Init, dtype: np.dtype[np.generic]
) -> None:
    with np.errstate(over="ignore", under="ignore"):
        values = values.astype(dtype)
    assume(np.isfinite(values).all())
    found = fit(values, k, ClusterOptions(init=init))
    check(values, k, found)
    assert found.is_lossless == (count_distinct(values, k) <= k)
    if found.is_lossless:
        assert decode(found.indices, found.centroids).tobytes() == values.tobytes()


@given(few_values, few_values)
def test_assignment_is_the_nearest_centroid_exactly(values: Array, centroids: Array) -> None:
    book = np.sort(centroids)
    exact = [Fraction(float(c)) for c in book]
    for value, index in zip(values, assign(values, book), strict=True):
        distances = [abs(Fraction(float(value)) - c) for c in exact]
        assert int(index) == distances.index(min(distances))


@given(few_values, st.integers(1, 8))
def test_the_optimal_fit_is_optimal(values: Array, k: int) -> None:
    wide = values.astype(np.float64)
    found = fit(wide, k)
    # Residuals are rounded at the scale of the values: that much even the optimum may lose.
    rounding = values.size * (float(np.abs(wide).max()) * 2.0**-50) ** 2
    best = least_cost(wide, k, keeps_zero=are_kept(share(wide), k))
    assert found.distortion <= best * (1 + 1e-9) + rounding


@given(flat_weights(), st.integers(1, 30))
def test_optimal_is_never_worse_than_another_start(values: Array, k: int) -> None:
    wide = values.astype(np.float64)
    assume(not are_kept(share(wide), k))  # a start does not keep zeros
    best = fit(wide, k).distortion
    rounding = values.size * (float(np.abs(wide).max()) * 2.0**-50) ** 2
    for init in INITS[1:]:
        assert best <= fit(wide, k, ClusterOptions(init=init)).distortion * (1 + 1e-9) + rounding


@given(flat_weights(), st.integers(1, 30), st.integers(1, 10))
def test_more_centroids_never_raise_the_distortion(values: Array, k: int, more: int) -> None:
    wide = values.astype(np.float64)
    rounding = values.size * (float(np.abs(wide).max()) * 2.0**-50) ** 2
    assert fit(wide, k + more).distortion <= fit(wide, k).distortion * (1 + 1e-9) + rounding


@given(flat_weights(allow_infinity=True), st.integers(3, 20), st.sampled_from(INITS))
def test_repeats_and_threads_give_the_same_bytes(values: Array, k: int, init: Init) -> None:
    options = ClusterOptions(init=init)
    once = fit(values, k, options)
    same_bytes(once, fit(values.copy(), k, options))
    same_bytes(once, fit(values, k, options, jobs=4))


@given(flat_weights(), st.integers(1, 20))
def test_order_of_the_values_does_not_matter(values: Array, k: int) -> None:
    one, two = fit(values, k), fit(values[::-1], k)
    assert one.centroids.tobytes() == two.centroids.tobytes()
    np.testing.assert_array_equal(one.indices, two.indices[::-1])


@given(flat_weights(), st.integers(1, 20), st.integers(-20, 20))
def test_scaling_by_a_power_of_two_scales_the_codebook(
    values: Array, k: int, exponent: int
) -> None:
    wide = values.astype(np.float64)
    one, two = fit(wide, k), fit(wide * 2.0**exponent, k)
    np.testing.assert_array_equal(one.indices, two.indices)
    np.testing.assert_array_equal(one.centroids * 2.0**exponent, two.centroids)


@given(few_values, st.integers(1, 8))
def test_the_gap_bounds_what_is_lost(values: Array, k: int) -> None:
    found = fit(values, k)
    if found.gap is None:
        return
    wide = values.astype(np.float64)
    rounding = values.size * (float(np.abs(wide).max()) * 2.0**-50) ** 2
    best = least_cost(wide, k, keeps_zero=are_kept(share(values), k))
    assert found.distortion <= best * (1 + found.gap) * (1 + 1e-9) + rounding
