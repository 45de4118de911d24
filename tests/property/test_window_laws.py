"""Laws of streams: what is read window by window is solved as if it were held whole."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.clustering import lloyd, optimal
from onnxq.clustering.ladder import Ladder
from onnxq.clustering.windows import SortedStream, Stream
from tests.property.strategies import Array
from tests.test_windows import of_counts

windows = st.integers(2, 60)
counts = st.integers(1, 60)


@st.composite
def ascending(draw: st.DrawFn) -> Array:
    """Draw 2..300 ascending float64 values: bells, repeats, zeros, outliers, grids, any."""
    size = draw(st.integers(2, 300))
    kind = draw(st.sampled_from(("normal", "repeats", "zeros", "outliers", "grid", "heavy", "any")))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = rng.standard_normal(size)
    if kind == "repeats":
        values = np.round(values * draw(st.integers(1, 30)))
    elif kind == "zeros":
        values[rng.random(size) < 0.8] = draw(st.sampled_from((0.0, -0.0)))
    elif kind == "outliers":
        values[: draw(st.integers(1, 5))] *= 10.0 ** draw(st.integers(1, 9))
    elif kind == "grid":
        values = np.arange(size) * 2.0 ** draw(st.integers(-9, 9)) + draw(st.integers(-300, 300))
    elif kind == "heavy":
        values = rng.standard_cauchy(size)
    elif kind == "any":
        values = draw(hnp.arrays(np.float64, size, elements=st.floats(-1e6, 1e6, width=32)))
    return np.sort(values)


@st.composite
def cells(draw: st.DrawFn) -> Stream:
    """Draw a stream of 3..300 cells, many empty, some overflowing, and a few values outside."""
    size = draw(st.integers(3, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    held = rng.integers(1, 9, size) * (rng.random(size) < draw(st.sampled_from((0.05, 0.5, 1.0))))
    held[rng.integers(size)] = 3
    far = rng.choice([-1.0, 1.0], draw(st.integers(0, 9)))
    places = far * rng.integers(size + 1, 100 * size, far.size)
    return of_counts(held.tolist(), rng.integers(0, 2**18, size).tolist(), places.tolist())


streams = st.one_of(st.builds(SortedStream, ascending(), st.just(1.0)), cells())


def spread(stream: Stream, edges: Array) -> float:
    """Return the squared deviation of runs of slots from their means, from residuals."""
    part = stream.part(0, stream.size)
    at = np.searchsorted(part.slots, edges)
    total = 0.0
    for start, stop in pairwise(at):
        values, weights = part.positions[start:stop], part.weights[start:stop]
        total += float(np.sum(weights * (values - np.average(values, weights=weights)) ** 2))
    return total


def rounding(stream: Stream) -> float:
    """Return what sums of squares over all positions may lose."""
    part = stream.part(0, stream.size)
    return float(np.sum(part.weights * part.positions**2)) * 2.0**-44


@given(streams, counts, windows)
def test_windows_reach_the_whole_optimum(stream: Stream, k: int, length: int) -> None:
    whole = optimal.solve(stream.whole(), k)
    every, loss = stream.every(), rounding(stream)
    stream.length = length
    cut = optimal.solve(stream, k)
    assert cut.runs == whole.runs == min(k, stream.count)
    if cut.edges.size:
        assert set(cut.edges[1:]) <= set(every)
        best = spread(stream, every[whole.edges])
        assert abs(spread(stream, cut.edges) - best) <= best * 1e-9 + loss
        assert abs(cut.cost - whole.cost) <= whole.cost * 1e-9 + loss
        assert cut.bound <= whole.cost * (1 + 1e-9) + loss


@given(streams, counts, windows, windows)
def test_windows_that_may_not_grow_keep_the_bound_true(
    stream: Stream, k: int, length: int, longest: int
) -> None:
    whole = optimal.solve(stream.whole(), k)
    stream.length, stream.longest = length, longest
    cut = optimal.solve(stream, k)
    loss = rounding(stream)
    assert cut.runs == min(k, stream.count)
    assert cut.bound <= whole.cost * (1 + 1e-9) + loss
    assert cut.cost >= whole.cost * (1 - 1e-9) - loss


@given(streams, counts, windows)
def test_runs_of_a_stream_are_measured_like_those_of_its_spectrum(
    stream: Stream, runs: int, length: int
) -> None:
    points, every = stream.whole(), stream.every()
    stream.length = length
    local = np.unique(np.linspace(0, every.size - 1, runs + 1).astype(np.int64))
    scale = float(np.abs(points.positions).max())
    np.testing.assert_allclose(
        stream.means(every[local]), points.means(local), rtol=1e-12, atol=scale * 2.0**-44
    )
    assert abs(stream.cost(every[local]) - points.cost(local)) <= rounding(stream)
    assert stream.condensed(max(2, runs)).weight[-1] == points.total


@given(streams, st.lists(st.floats(-1.5, 1.5), max_size=30), st.integers(1, 99))
def test_a_ladder_answers_like_the_spectrum(stream: Stream, limits: list[float], k: int) -> None:
    points, ladder = stream.whole(), Ladder(stream)
    scale = float(np.abs(points.positions).max())
    given_limits = np.sort(np.append(np.array(limits) * scale, points.positions[:: k + 1]))
    assert ladder.total == points.total
    np.testing.assert_array_equal(ladder.below(given_limits), points.below(given_limits))
    ranks = np.arange(k + 1) / k * points.total
    np.testing.assert_array_equal(ladder.at(ranks), points.at(ranks))
    found, expected = ladder.split(given_limits), points.split(given_limits)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12, atol=scale * 2.0**-44)


@given(streams, counts, st.sampled_from(("bounded-pdf", "quantile", "uniform")))
def test_starts_on_a_ladder_are_those_on_the_spectrum(stream: Stream, k: int, init: str) -> None:
    whole = lloyd.start(stream.whole(), k, init, 0.5)  # type: ignore[arg-type]
    np.testing.assert_array_equal(lloyd.start(Ladder(stream), k, init, 0.5), whole)  # type: ignore[arg-type]
