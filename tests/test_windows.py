"""Streams of positions: the same positions, sums and cuts as one spectrum, in little memory."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from onnxq.clustering import kernels, optimal, survey
from onnxq.clustering import spectrum as spectra
from onnxq.clustering.cluster import ClusterOptions, fit
from onnxq.clustering.spectrum import Spectrum, spectrum
from onnxq.clustering.windows import CellStream, Heavy, Outer, SortedStream, Stream

Array = np.ndarray[Any, np.dtype[Any]]
FIXED_BYTES = 16 << 20


def ordered(kind: str, n: int) -> Array:
    """Return sorted float32 values of an awkward family."""
    rng = np.random.default_rng(n)
    values = rng.standard_normal(n)
    match kind:
        case "repeats":
            values = np.round(values * 20) / 20
        case "zeros":
            values[rng.random(n) < 0.9] = -0.0
        case "outliers":
            values[:5] *= 1e6
        case "grid":
            values = np.arange(n) / 64
        case "heavy tails":
            values = rng.standard_cauchy(n)
    return np.sort(values.astype(np.float32))


def small_windows(stream: Stream, length: int) -> Stream:
    stream.length = length
    return stream


def of_counts(counts: list[int], sums: list[int], outer: list[float]) -> CellStream:
    """Return a stream of cells, every third of which has given up half of what it holds."""
    held, moments = np.array(counts, np.int64), np.array(sums, np.int64) * np.array(counts)
    cells = np.arange(0, held.size, 3)
    cells = cells[held[cells] > 0]
    heavy = Heavy(cells=cells, counts=(held[cells] + 1) // 2, sums=moments[cells] // 2)
    held[cells] -= heavy.counts
    moments[cells] -= heavy.sums
    packed = (held.astype(np.uint64) << np.uint64(kernels.COUNT_SHIFT)) + moments.astype(np.uint64)
    places = np.unique(outer)
    return CellStream(
        packed, heavy, Outer(places=places, counts=np.arange(places.size) + 1), (0, 1)
    )


def same_points(one: Spectrum, two: Spectrum) -> None:
    assert one.positions.tolist() == two.positions.tolist()
    assert one.weight.tolist() == two.weight.tolist()


KINDS = ("normal", "repeats", "zeros", "outliers", "grid", "heavy tails")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 7, 64, 5000])
def test_a_sorted_stream_gives_every_distinct_value_once(kind: str, length: int) -> None:
    values = ordered(kind, 900)
    positions, counts = np.unique(values.astype(np.float64) + 0.0, return_counts=True)
    expected = spectrum(positions, counts.astype(np.float64))
    stream = small_windows(SortedStream(values, 1.0), length)
    assert stream.count == positions.size
    same_points(stream.whole(), expected)
    start, seen = 0, []
    while start < stream.size:
        part = stream.window(start, length)
        assert part.slots[0] == start
        assert part.positions.size == part.slots.size - 1 > 0
        seen += part.positions.tolist()
        start = int(part.slots[-1])
    assert seen == positions.tolist()


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_a_stream_of_cells_gives_their_means_and_the_values_outside(length: int) -> None:
    counts = [0, 2, 0, 5, 1, 0, 0, 8, 3, 1, 0]
    sums = [0, 9, 0, 1000, 77, 0, 0, 3, 2**18, 5, 0]
    stream = of_counts(counts, sums, [-90.0, -3.5, 40.0])
    stream = small_windows(stream, length)
    inside = [i + s * 2.0**-kernels.CELL_BITS for i, s in enumerate(sums) if counts[i]]
    points = stream.whole()
    assert points.positions.tolist() == [-90.0, -3.5, *inside, 40.0]
    assert np.diff(points.weight).tolist() == [1, 2, *(c for c in counts if c), 3]
    assert stream.count == points.positions.size
    seen: list[float] = []
    start = 0
    while start < stream.size:
        part = stream.window(start, length)
        seen += part.positions.tolist()
        start = int(part.slots[-1])
    assert seen == points.positions.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [3, 40, 1000])
def test_means_and_costs_of_a_stream_are_those_of_its_spectrum(kind: str, length: int) -> None:
    stream = SortedStream(ordered(kind, 800), 1.0)
    points, slots = stream.whole(), stream.every()
    small_windows(stream, length)
    for runs in (1, 2, 9, slots.size - 1):
        local = np.unique(np.linspace(0, slots.size - 1, runs + 1).astype(np.int64))
        np.testing.assert_allclose(stream.means(slots[local]), points.means(local), rtol=1e-12)
        assert stream.cost(slots[local]) == pytest.approx(points.cost(local), rel=1e-9)
    assert stream.condensed(50).weight[-1] == stream.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [8, 40, 300])
def test_windows_do_not_change_the_optimum(kind: str, length: int) -> None:
    stream = SortedStream(ordered(kind, 700), 1.0)
    points = stream.whole()
    small_windows(stream, length)
    for k in (2, 11, 60):
        whole, cut = optimal.solve(points, k), optimal.solve(stream, k)
        assert cut.runs == whole.runs == cut.edges.size - 1
        assert cut.cost == pytest.approx(whole.cost, rel=1e-9)
        assert cut.bound == pytest.approx(whole.bound, rel=1e-9)
        assert set(cut.edges) <= set(stream.every())


@pytest.mark.parametrize("kind", KINDS)
def test_windows_that_do_not_settle_keep_the_bound_true(kind: str) -> None:
    stream = SortedStream(ordered(kind, 700), 1.0)
    points = stream.whole()
    stream.length, stream.longest = 10, 20
    for k in (2, 11, 60):
        whole, cut = optimal.solve(points, k), optimal.solve(stream, k)
        assert cut.runs == k
        assert cut.bound <= whole.cost * (1 + 1e-9)
        assert cut.cost >= whole.cost * (1 - 1e-9)
    stream.length, stream.longest = 60, 300
    for k in (60, 300):
        whole, cut = optimal.solve(points, k), optimal.solve(stream, k)
        assert cut.cost == pytest.approx(whole.cost, rel=1e-2)
        assert cut.bound <= whole.cost * (1 + 1e-9)


def test_a_stream_of_cells_is_cut_like_its_spectrum() -> None:
    rng = np.random.default_rng(5)
    counts, sums = rng.integers(0, 9, 3000), rng.integers(0, 2**18, 3000)
    stream = of_counts(counts.tolist(), sums.tolist(), rng.normal(0, 9000, 50).tolist())
    stream = small_windows(stream, 200)
    for k in (3, 50, 400):
        whole = optimal.solve(stream.whole(), k)
        assert optimal.solve(stream, k).cost == pytest.approx(whole.cost, rel=1e-9)


def test_empty_cells_at_the_end_make_no_window_of_their_own() -> None:
    counts = [1] * 64 + [0] * 40
    for length in range(1, 70):
        stream = small_windows(of_counts(counts, [0] * 104, []), length)
        points = stream.whole()
        assert stream.condensed(8).weight[-1] == points.weight[-1]
        whole = optimal.solve(points, 5)
        assert optimal.solve(stream, 5).cost == pytest.approx(whole.cost, rel=1e-9)


def test_summing_in_a_loop_equals_summing_in_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = np.sort(np.random.default_rng(1).standard_t(2, 400))
    weights = np.random.default_rng(2).integers(1, 99, 400).astype(np.float64)
    plain = spectrum(positions, weights)
    for wrap in (lambda kernel: kernel, kernels.compiled):
        monkeypatch.setattr(spectra, "is_worthwhile", lambda _: True)
        monkeypatch.setattr(spectra, "compiled", wrap)
        summed = spectrum(positions, weights)
        for ours, theirs in zip(
            (*summed.sums, *summed.squares), (*plain.sums, *plain.squares), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_a_cell_with_millions_of_values_keeps_its_count() -> None:
    values = np.random.default_rng(0).standard_normal(6_000_000, dtype=np.float32)
    values[: 5 << 20] = 0.0
    for k in (16, 1024):
        points = survey.survey(values, k, jobs=3).points
        assert points is not None
        points = points if isinstance(points, Spectrum) else points.whole()
        assert points.weight[-1] == values.size
        assert np.diff(points.weight).max() >= 5 << 20


def extra_bytes(values: Array, k: int, jobs: int, options: ClusterOptions | None = None) -> int:
    """Return the most that fitting holds beyond the values and the result, by tracemalloc."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        found = fit(values, k, options, jobs=jobs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak - before - found.indices.nbytes - found.centroids.nbytes


@pytest.mark.parametrize(
    ("n", "k"),
    [
        (1 << 17, 16),
        (1 << 17, 65536),
        (200_000, 16),
        (1 << 18, 256),
        (300_000, 65536),
        (600_000, 1024),
        (1_000_000, 4096),
        (1_000_000, 16384),
        (2_000_000, 65536),
    ],
)
def test_memory_beside_the_tensor_stays_in_bounds(n: int, k: int) -> None:
    values = np.random.default_rng(n).standard_normal(n, dtype=np.float32)
    fit(values[:60_000], 300)  # compiling takes memory once
    assert extra_bytes(values, k, 2) <= 1.5 * values.nbytes + FIXED_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(4_000_000, 8192), (4_000_000, 65536), (16_000_000, 65536)])
def test_memory_of_large_tensors_stays_in_bounds(kind: str, n: int, k: int) -> None:
    values = ordered(kind, n)
    np.random.default_rng(1).shuffle(values)
    fit(values[:300_000], 600)
    assert extra_bytes(values, k, 2) <= 1.5 * values.nbytes + FIXED_BYTES
