"""Running sums of a stream in little room: Lloyd's iteration as on the whole spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.clustering import lloyd
from onnxq.clustering.cluster import ClusterOptions, fit
from onnxq.clustering.ladder import Ladder
from onnxq.clustering.windows import SortedStream, Stream
from tests.test_windows import FIXED_BYTES, KINDS, extra_bytes, of_counts, ordered

STARTS: tuple[Any, ...] = ("bounded-pdf", "quantile", "uniform")


def check(stream: Stream, ks: tuple[int, ...]) -> None:
    """Check that starts and rounds are those of the whole spectrum."""
    whole, ladder = stream.whole(), Ladder(stream)
    assert ladder.total == whole.total
    for k in ks:
        for init in STARTS:
            first = lloyd.start(whole, k, init, 0.5)
            np.testing.assert_array_equal(lloyd.start(ladder, k, init, 0.5), first)
            for rounds in (1, 7, 60):
                expected, taken = lloyd.lloyd(whole, first, rounds)
                found, also_taken = lloyd.lloyd(ladder, first, rounds)
                assert also_taken == taken
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 700, 3000])
def test_sorted_values_are_clustered_like_their_spectrum(kind: str, n: int) -> None:
    check(SortedStream(ordered(kind, n), 1.0), (1, 2, 11, 400))


@pytest.mark.parametrize("outer", [0, 1, 50])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_cells_are_clustered_like_their_spectrum(outer: int, share: float) -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 9, 2000) * (rng.random(2000) < share)
    far = rng.choice([-1.0, 1.0], outer) * rng.integers(2001, 90_000, outer)
    check(
        of_counts(counts.tolist(), rng.integers(0, 2**18, 2000).tolist(), far.tolist()), (1, 3, 90)
    )


def test_float64_values_keep_their_scale() -> None:
    values = np.sort(np.random.default_rng(1).standard_normal(900)) * 2.0**300
    check(SortedStream(values, 2.0**302), (2, 30))


@pytest.mark.parametrize("outlier", [1e9, -1e30])
def test_an_outlier_costs_the_others_nothing(outlier: float) -> None:
    values = np.sort(np.append(np.random.default_rng(2).standard_normal(999), outlier))
    plain = np.delete(values, np.argmax(np.abs(values)))
    one, two = Ladder(SortedStream(values, 1.0)), Ladder(SortedStream(plain, 1.0))
    limits = np.linspace(-2, 2, 40)
    np.testing.assert_allclose(one.split(limits)[1][1:-1], two.split(limits)[1][1:-1], rtol=1e-12)


@pytest.mark.parametrize(("n", "k"), [(300_000, 1024), (1_000_000, 4096), (400_000, 65536)])
@pytest.mark.parametrize("init", STARTS)
def test_memory_beside_the_tensor_stays_in_bounds(n: int, k: int, init: Any) -> None:
    values = np.random.default_rng(n).standard_normal(n, dtype=np.float32)
    options = ClusterOptions(init=init, max_iterations=3)
    fit(values[:200_000], 600, options)  # compiling takes memory once
    assert extra_bytes(values, k, 2, options) <= 1.5 * values.nbytes + FIXED_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [256, 4096, 65536])
def test_memory_of_large_tensors_stays_in_bounds(kind: str, k: int) -> None:
    values = ordered(kind, 4_000_000)
    np.random.default_rng(1).shuffle(values)
    for init in STARTS:
        options = ClusterOptions(init=init, max_iterations=3)
        fit(values[:300_000], 600, options)
        assert extra_bytes(values, k, 2, options) <= 1.5 * values.nbytes + FIXED_BYTES


@pytest.mark.parametrize("init", STARTS)
def test_threads_do_not_change_the_codebook(init: Any) -> None:
    values = np.random.default_rng(4).standard_normal(400_000, dtype=np.float32)
    options = ClusterOptions(init=init, max_iterations=5)
    one, two = (fit(values, 2048, options, jobs=jobs) for jobs in (1, 3))
    assert one.centroids.tobytes() == two.centroids.tobytes()
    assert one.indices.tobytes() == two.indices.tobytes()
