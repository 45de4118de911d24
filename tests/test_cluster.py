"""Fitting codebooks: optimality, losslessness, edge cases, determinism."""

import subprocess
import sys
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxq.clustering import kernels, lloyd, optimal, survey
from onnxq.clustering.cluster import Clustering, ClusterOptions, Init, count_distinct, fit
from onnxq.clustering.codebook import assign, decode, distortion
from onnxq.clustering.spectrum import Spectrum, condensed, spectrum
from onnxq.errors import InputError, OptionError

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
INITS: tuple[Init, ...] = ("optimal", "bounded-pdf", "quantile", "uniform")
MAX = float(np.finfo(np.float32).max)


def least_cost(values: Array, k: int, *, keeps_zero: bool = False) -> float:
    """Return the optimum by dynamic programming over all sorted values.

    With `keeps_zero` a cluster that holds a zero has its centroid there.
    """
    x = np.sort(values.astype(np.float64).reshape(-1))
    n = x.size
    costs = np.full((n + 1, n + 1), np.inf)
    for i in range(n):
        for j in range(i + 1, n + 1):
            is_fixed = keeps_zero and not x[i:j].all()
            costs[i, j] = np.sum((x[i:j] - (0.0 if is_fixed else x[i:j].mean())) ** 2)
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    for _ in range(min(k, n)):
        best = np.min(best[:, None] + costs, axis=0)
    return float(best[n])


def check(values: Array, k: int, found: Clustering) -> None:
    """Hold a clustering to what its record promises."""
    assert found.centroids.dtype == values.dtype
    assert found.centroids.ndim == 1
    assert 1 <= found.centroids.size <= k
    assert found.indices.shape == values.shape
    assert found.indices.dtype == (np.uint8 if found.centroids.size <= 256 else np.uint16)
    assert set(np.unique(found.indices)) == set(range(found.centroids.size))
    if not found.is_lossless:
        np.testing.assert_array_equal(found.indices, assign(values, found.centroids))
        assert all(a < b for a, b in pairwise(found.centroids))
    assert found.distortion == distortion(values, found.indices, found.centroids)
    assert found.gap is None or found.gap >= 0


def same_bytes(one: Clustering, two: Clustering) -> None:
    assert one.centroids.tobytes() == two.centroids.tobytes()
    assert one.indices.tobytes() == two.indices.tobytes()
    assert (one.distortion, one.gap, one.iterations) == (two.distortion, two.gap, two.iterations)


def named(kind: str, n: int, seed: int = 0) -> Array:
    """Return one of the awkward families of float32 values."""
    rng = np.random.default_rng(seed)
    bell = rng.standard_normal(n)
    match kind:
        case "outlier 1e6":
            bell[n // 2] = 1e6
        case "outlier 1e9":
            bell[n // 3] = -1e9
        case "zeros":
            bell[rng.random(n) < 0.9] = 0.0
        case "discrete":
            bell = np.round(bell * 40) / 40
        case "half":
            bell = bell.astype(np.float16)
        case "heavy":
            bell = rng.standard_t(3, n)
        case "laplace":
            bell = rng.laplace(size=n)
        case "huge":
            bell = bell / np.abs(bell).max() * MAX
        case "subnormal":
            bell = bell * 1e-42
        case "offset":
            bell = bell * 1e-3 + 1000.0
    return bell.astype(np.float32)


KINDS = ("normal", "outlier 1e6", "outlier 1e9", "zeros", "discrete", "half")
KINDS = (*KINDS, "heavy", "laplace", "huge", "subnormal", "offset")


@pytest.mark.parametrize("kind", KINDS)
def test_small_fits_reach_the_optimum(kind: str) -> None:
    values = named(kind, 60).astype(np.float64)
    for k in (1, 2, 3, 7, 20):
        found = fit(values, k)
        check(values, k, found)
        best = least_cost(values, k, keeps_zero=kind == "zeros" and k > 1)
        assert found.distortion <= best * (1 + 1e-9)
        assert found.gap is not None
        assert found.gap <= 1e-9


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_gives_a_sound_codebook(kind: str, dtype: Any, init: Init) -> None:
    with np.errstate(over="ignore"):
        values = named(kind, 600).astype(dtype).reshape(20, 30)
    for k in (2, 16, 300):
        check(values, k, fit(values, k, ClusterOptions(init=init)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_histogram_is_as_good_as_the_exact_solver(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = named(kind, 60_000)
    exact = {k: fit(values, k) for k in (16, 256)}
    monkeypatch.setattr(survey, "_SMALL", 0)
    for k, reference in exact.items():
        monkeypatch.setattr(survey, "cells_for", lambda k: 256 * k)
        found = fit(values, k)
        check(values, k, found)
        assert found.distortion <= reference.distortion * (1 + 5e-5)
        # Rounding the centroids to float32 is what is left where values crowd.
        assert reference.gap is not None
        assert reference.gap <= 1e-6 or kind in ("subnormal", "offset")


@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_many_centroids_on_a_histogram_stay_near_the_optimum(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    values = getattr(random, kind)(size=400_000).astype(np.float32)
    values[:3] = np.inf, 0.0, -0.0
    found = fit(values, 5000)
    check(values, 5000, found)
    monkeypatch.setattr(survey, "_SMALL", values.size)
    assert found.distortion <= fit(values, 5000).distortion * (1 + 1e-4)
    assert found.centroids.tobytes() == fit_on_cells(values, monkeypatch).tobytes()


def fit_on_cells(values: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(survey, "_SMALL", 1 << 18)
    return fit(values, 5000, jobs=3).centroids


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_patterns_are_kept_bit_for_bit(dtype: Any) -> None:
    kinds = np.array([0.0, -0.0, 1.5, -2.0, 1e-7, np.inf, -np.inf]).astype(dtype)
    kinds[4] = np.finfo(dtype).smallest_subnormal if dtype != ml_dtypes.bfloat16 else kinds[4]
    for n in (7, 50, 80_000):
        values = np.resize(kinds, n)
        found = fit(values, 7)
        assert found.is_lossless
        assert (found.distortion, found.gap) == (0.0, 0.0)
        assert decode(found.indices, found.centroids).tobytes() == values.tobytes()
        assert found.centroids.size == 7
        assert not fit(values, 6).is_lossless
        check(values, 6, fit(values, 6))


def test_as_many_centroids_as_patterns_up_to_65536() -> None:
    values = np.arange(65536, dtype=np.uint16).view(np.float16)
    values = values[~np.isnan(values)]
    found = fit(values, 65536)
    assert found.is_lossless
    assert decode(found.indices, found.centroids).tobytes() == values.tobytes()


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -MAX, 1e-45, np.inf])
def test_constant_tensors_and_single_elements_are_lossless(value: float) -> None:
    for shape in ((), (1,), (3, 4), (0,)):
        values = np.full(shape, value, np.float32)
        found = fit(values, 1)
        assert found.is_lossless
        assert decode(found.indices, found.centroids).tobytes() == values.tobytes()
        assert found.indices.shape == shape


def test_infinities_count_toward_k() -> None:
    values = np.append(np.random.default_rng(0).standard_normal(99), [np.inf, -np.inf])
    found = fit(values.astype(np.float32), 5)
    assert found.centroids[[0, -1]].tolist() == [-np.inf, np.inf]
    assert found.centroids.size == 5
    assert np.isfinite(found.distortion)
    assert fit(np.float32([np.inf, -np.inf] * 3), 2).is_lossless
    with pytest.raises(InputError, match="infinite"):
        fit(values, 2)


@pytest.mark.parametrize("n", [3, 80_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_refused(dtype: Any, n: int) -> None:
    values = np.random.default_rng(0).standard_normal(n).astype(dtype)
    values[n // 2] = np.nan
    for k in (2, 16, 65536):
        with pytest.raises(InputError, match="NaN"):
            fit(values, k)


def test_nan_and_infinities_are_found_in_a_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_SMALL", 0)
    values = named("normal", 200_000)
    values[77:5000] = np.inf
    found = fit(values, 16)
    check(values, 16, found)
    assert found.centroids[-1] == np.inf
    values[9] = np.nan
    with pytest.raises(InputError, match="NaN"):
        fit(values, 16)


def test_a_range_that_the_sample_misses_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_SMALL", 0)
    values = named("normal", 200_000)
    exact = fit(values, 16).distortion
    monkeypatch.setattr(survey, "sample", lambda flat: flat[:100] * np.float32(1e-3))
    assert fit(values, 16).distortion <= exact * 1.001


def test_options_are_checked() -> None:
    for wrong in ({"init": "best"}, {"pdf_factor": -1.0}, {"max_iterations": -1}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            ClusterOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="pdf_factor"):
        ClusterOptions(pdf_factor=float("nan"))
    for k in (0, 65537):
        with pytest.raises(OptionError, match="k: found"):
            fit(np.float32([1.0]), k)
    with pytest.raises(InputError, match="dtype"):
        fit(np.array([1, 2]), 2)


@pytest.mark.parametrize("n", [1000, 100_000])
def test_distinct_counts_stop_at_the_limit(n: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.choice(np.float32([0.0, -0.0, 1.0, np.nan, np.inf]), n)
    assert count_distinct(values, 10) == 5
    assert count_distinct(values, 5) == 5
    assert count_distinct(values, 4) == 5
    assert count_distinct(values, 2) == 3
    assert count_distinct(rng.standard_normal(n), 50) == 51
    assert count_distinct(values[:0], 3) == 0
    assert count_distinct(rng.standard_normal(n).astype(np.float16), 65536) <= 65536


def plain_lloyd(values: Array, centroids: Array, rounds: int) -> Array:
    """Run Lloyd's iteration as the textbook has it, over every value."""
    for _ in range(rounds):
        nearest = np.argmin(np.abs(values[:, None] - centroids), axis=1)
        moved = [values[nearest == i].mean() for i in range(centroids.size) if (nearest == i).any()]
        if np.array_equal(moved, centroids):
            break
        centroids = np.array(moved)
    return centroids


@pytest.mark.parametrize("kind", ["normal", "discrete", "zeros", "heavy"])
def test_lloyd_on_sums_equals_plain_lloyd(kind: str) -> None:
    values = np.sort(named(kind, 300).astype(np.float64))
    positions, weights = np.unique(values, return_counts=True)
    points = spectrum(positions, weights.astype(np.float64))
    for k in (2, 9, 40):
        first = lloyd.start(points, k, "bounded-pdf", 0.5)
        for rounds in (0, 1, 5, 300):
            found, _ = lloyd.lloyd(points, first, rounds)
            np.testing.assert_allclose(found, plain_lloyd(values, first, rounds), rtol=1e-9)


def test_distortion_never_rises_over_lloyd_rounds() -> None:
    values = named("heavy", 5000)
    for init in INITS[1:]:
        errors = [
            fit(values, 24, ClusterOptions(init=init, max_iterations=rounds)).distortion
            for rounds in range(0, 40, 3)
        ]
        assert all(b <= a * (1 + 1e-6) for a, b in pairwise(errors))


def test_starts_follow_their_definitions() -> None:
    points = spectrum(np.arange(101.0), np.ones(101))
    uniform = lloyd.start(points, 4, "uniform", 0.5)
    assert uniform.tolist() == [12.5, 37.5, 62.5, 87.5]
    assert lloyd.start(points, 4, "bounded-pdf", 0.0).tolist() == uniform.tolist()
    assert lloyd.start(points, 4, "quantile", 0.5).tolist() == [12.0, 37.0, 63.0, 88.0]
    positions = np.arange(100_000) / 1000
    skewed = spectrum(positions, np.where(positions < 50, 1000.0, 1.0))
    # Clipped to 1.5 and 0.5 times the mean density, 3/4 of the centroids serve the dense half.
    assert (lloyd.start(skewed, 100, "bounded-pdf", 0.5) < 50).sum() == pytest.approx(75, abs=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [500, 300_000])
def test_threads_and_repeats_do_not_change_the_bytes(dtype: Any, n: int) -> None:
    values = named("laplace", n).astype(dtype)
    for init in ("optimal", "bounded-pdf"):
        options = ClusterOptions(init=init, max_iterations=20)  # type: ignore[arg-type]
        once = fit(values, 32, options)
        same_bytes(once, fit(values, 32, options))
        same_bytes(once, fit(values, 32, options, jobs=4))


def test_strided_values_give_the_same_codebook() -> None:
    values = named("normal", 6000).reshape(60, 100)
    same_bytes(fit(values.T, 8), fit(np.ascontiguousarray(values.T), 8))
    same_bytes(fit(values[::2], 8), fit(values[::2].copy(), 8))


def test_compiled_solver_equals_the_interpreted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("normal", "zeros", "outlier 1e9", "discrete"):
        values = named(kind, 2000)
        found = []
        for answer in (False, True):
            monkeypatch.setattr(optimal, "is_worthwhile", lambda _, answer=answer, **__: answer)
            found.append(fit(values, 20))
        same_bytes(*found)


def test_interpreted_counting_equals_compiled_counting() -> None:
    values = np.append(named("normal", 500), [9e9, -9e9, np.nan]).astype(np.float32)
    results = []
    for wrap in (lambda kernel: kernel, kernels.compiled):
        packed, tail = np.zeros(64, np.uint64), np.empty(9, np.float32)
        outside = wrap(kernels.fill_cells)(values, -2.0, 16.0 * 2**19, packed, tail)
        assert (packed >> np.uint64(kernels.COUNT_SHIFT)).sum() + outside == values.size
        packed[[3, 9]] = np.uint64(kernels.HEAVY << kernels.COUNT_SHIFT) + np.uint64([7, 11])
        spilled, words = np.zeros(5, np.int64), np.zeros(5, np.uint64)
        heavy = wrap(kernels.spill_cells)(packed, spilled, words)
        assert (heavy, spilled[:2].tolist(), packed[[3, 9]].tolist()) == (2, [3, 9], [0, 0])
        more = np.array([3, 9]), np.array([5, 6]), np.array([100, 200])
        means, counts, cells = np.zeros(64), np.zeros(64), np.zeros(64, np.int64)
        used = wrap(kernels.unpack_cells)(packed, 0, more, (means, counts), cells)
        assert means[cells == 9] == 9 + 200 / 6 * 2.0**-kernels.CELL_BITS
        keys, slots = np.zeros(2048, np.uint32), np.zeros(2048, np.int64)
        with np.errstate(over="ignore"):
            used += wrap(kernels.tally)(values.view(np.uint32), 53, keys, slots, 0)
        arrays = (packed, words, tail[: min(outside, 9)], means, counts, cells, keys, slots)
        results.append((outside, used, *(array.tobytes() for array in arrays)))
    assert results[0] == results[1]


def brute_runs(points: Spectrum, edges: Array) -> float:
    """Return the cost of a cut from residuals."""
    weights = np.diff(points.weight)
    total = 0.0
    for low, high in pairwise(edges):
        x, w = points.positions[low:high], weights[low:high]
        total += float(np.sum(w * (x - np.average(x, weights=w)) ** 2))
    return total


@pytest.mark.parametrize("outlier", [0.0, 1e6, 1e9])
def test_running_sums_survive_an_outlier(outlier: float) -> None:
    x = np.sort(np.random.default_rng(0).standard_normal(3000))
    x[-1] += outlier
    points = spectrum(x, np.ones(3000))
    edges = np.array([0, 10, 700, 1500, 1503, 2990, 2999, 3000])
    assert points.cost(edges) == pytest.approx(brute_runs(points, edges), rel=1e-9)
    assert condensed(points, 100).weight[-1] == 3000


def test_equal_costs_are_joined_into_k_runs() -> None:
    # On a uniform grid most k share their penalty with a neighbour: no penalty gives them alone.
    points = spectrum(np.arange(60.0), np.ones(60))
    for k in range(1, 61):
        cut = optimal.solve(points, k)
        assert cut.runs == k
        sizes = np.full(k, 60 // k) + (np.arange(k) < 60 % k)
        assert cut.cost == pytest.approx(np.sum((sizes**3 - sizes) / 12), rel=1e-12)
        assert cut.bound == pytest.approx(cut.cost, rel=1e-9)


def test_a_small_model_never_imports_the_compiler() -> None:
    code = (
        "import sys, numpy as np; from onnxq.clustering.cluster import fit\n"
        "rng = np.random.default_rng(0)\n"
        "for _ in range(10): fit(rng.standard_normal(4000).astype('f4'), 16)\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_compiling_survives_folders_that_cannot_be_written() -> None:
    code = (
        "import numba.core.caching as c\n"
        "def refuse(*a, **k): raise OSError('read-only')\n"
        "c._CacheLocator.ensure_cache_path = refuse\n"
        "import numpy as np; from onnxq.clustering.kernels import compiled, squared_residuals\n"
        "a = np.ones(4, 'f4'); i = np.zeros(4, 'u1')\n"
        "assert compiled(squared_residuals)(a, i, np.zeros(1)) == 4.0"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[:-2])  # In the last two, rounding to float32 dominates.
@pytest.mark.parametrize(("k", "excess"), [(16, 5e-5), (256, 5e-5), (1024, 5e-5), (4096, 1e-4)])
def test_a_million_values_stay_within_the_goal(kind: str, k: int, excess: float) -> None:
    values = named(kind, 2_000_000)
    x, w = np.unique(values.astype(np.float64), return_counts=True)
    scale = float(np.abs(x).max())
    best = optimal.solve(spectrum(x / scale, w.astype(np.float64)), k).bound * scale**2
    assert fit(values, k).distortion <= best * (1 + excess)
