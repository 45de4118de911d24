"""Codebooks of many sizes for the same values, from one look at them.

Owns what a choice between sizes needs: centroids and distortion for each, without indices. The
values are condensed once for all sizes up to 256, and once more for larger ones; distortions come
from running sums over what they were condensed to, so a further size costs no pass over the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.clustering.cluster import ClusterOptions, condense, kinds, place, rounded
from onnxq.clustering.codebook import Array, assign_measured, working_dtype
from onnxq.clustering.spectrum import Floats, Spectrum
from onnxq.clustering.survey import Survey
from onnxq.clustering.weighted import Importance, Weighted
from onnxq.clustering.windows import Stream
from onnxq.clustering.zeros import share
from onnxq.errors import OptionError

MOST = 4096
"""The most centroids of a point."""

_LOW = 255
"""Centroids for which values are condensed at first; for more, many are sorted, not condensed.

What they are condensed to is as fine for 256.
"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Hold what a codebook of a size makes of a tensor.

    Attributes:
        k: Most centroids, as asked for.
        centroids: 1-D, ascending, in the dtype of the values; as many as `cluster.fit` finds.
        distortion: Sum of squared residuals over finite values (float64), each times its weight if
            there are weights. On a histogram the residuals inside a cell are an estimate, which
            leaves the sum within 1 in 10,000 of the truth.
        is_lossless: Whether decoding gives back every bit.
    """

    k: int
    centroids: Array
    distortion: float
    is_lossless: bool


def fit_family(
    values: Array, ks: Sequence[int], *, weights: Array | None = None, jobs: int = 1
) -> tuple[Point, ...]:
    """Return optimal codebooks of at most k centroids, for each k, in the order of `ks`.

    Args:
        values: As in `cluster.fit`.
        ks: Sizes, 1 to 4096. One that leaves no room for finite values beside infinities has no
            point.
        weights: As in `cluster.fit`.
        jobs: Threads; the result is the same for every number.

    Raises:
        InputError: NaN, an unsupported dtype, or weights that are none.
        OptionError: a size is out of range.
    """
    for k in ks:
        if not 1 <= k <= MOST:
            raise OptionError(f"ks: found {k}, expected 1 to {MOST}")
    working_dtype(values)
    values = np.asarray(values, order="C")
    importance = None if weights is None else Importance(weights, values.shape)
    few = kinds(values, max(ks, default=1))
    points: dict[int, Point] = {}
    if few is not None:
        kept = [k for k in ks if k >= few.size]
        points = {k: Point(k=k, centroids=few, distortion=0.0, is_lossless=True) for k in kept}
    rest = sorted(set(ks) - set(points))
    zeros = share(values) if rest else 0.0
    small, large = [k for k in rest if k <= _LOW + 1], [k for k in rest if k > _LOW + 1]
    for some, most in ((small, _LOW), (large, max(large, default=0))):
        if some:
            seen = condense(values, importance, most, jobs)
            points.update((point.k, point) for point in _points(values, seen, some, zeros, jobs))
    return tuple(points[k] for k in ks if k in points)


def _points(
    values: Array, seen: Survey | Weighted, ks: list[int], zeros: float, jobs: int
) -> Iterator[Point]:
    """Yield the points of sizes that are not lossless, `zeros` being the share of 0 in values."""
    for k in ks:
        room = k - seen.infinities.size
        if room < 1 or seen.points is None:
            continue
        placed = place(seen, room, ClusterOptions(), zeros)
        book = rounded(placed.book(seen), values.dtype)
        if isinstance(seen.points, Stream):
            error = assign_measured(values, book, jobs=jobs)[1]
        else:
            book, error = _measured(seen.points, book)
            error = _in_values(seen, error + _inner(seen))
        book = np.concatenate((book, seen.infinities.astype(values.dtype)))
        yield Point(k=k, centroids=np.sort(book), distortion=error, is_lossless=False)


def _measured(points: Spectrum, book: Array) -> tuple[Array, float]:
    """Return the centroids that some position is nearest to, and the cost of the positions."""
    exact = (book.astype(np.float64) - points.origin) / points.scale
    edges = _edges(points, exact)
    is_used = edges[1:] > edges[:-1]
    if not is_used.all():
        book, exact = book[is_used], exact[is_used]
        edges = _edges(points, exact)
    shifts = points.means(edges) - exact
    return book, points.cost(edges) + float(np.sum(np.diff(points.weight[edges]) * shifts**2))


def _edges(points: Spectrum, centroids: Floats) -> Array:
    """Return where the positions nearest to each centroid begin, and their end."""
    limits = centroids[:-1] / 2 + centroids[1:] / 2
    inner = np.searchsorted(points.positions, limits, side="right")
    return np.concatenate(([0], inner, [points.positions.size]))


def _inner(seen: Survey | Weighted) -> float:
    """Return the squared deviation of the values inside cells, in the units of the points.

    Values that are spread evenly over a cell have a variance of a twelfth about their mean.
    """
    if isinstance(seen, Weighted):
        return seen.inner
    if seen.is_exact or not isinstance(seen.points, Spectrum):
        return 0.0
    return float(seen.points.total - seen.points.positions.size) / 12


def _in_values(seen: Survey | Weighted, cost: float) -> float:
    """Return a cost in the units of the values and their weights."""
    assert seen.points is not None
    scale = np.float64(seen.points.scale)
    mean = seen.mean if isinstance(seen, Weighted) else 1.0
    with np.errstate(over="ignore", under="ignore"):
        return float(cost * scale * scale * mean)
