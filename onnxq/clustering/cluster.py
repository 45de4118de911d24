"""Fit a codebook to the values of one tensor.

Owns the choice of centroids: what is lossless, what infinities cost, which solver runs. The
arithmetic lives below: `spectrum` condenses values, `lloyd` and `optimal` place centroids,
`codebook` assigns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from onnxq.clustering.codebook import (
    BLOCK,
    MAX_CENTROIDS,
    Array,
    Indices,
    assign,
    assign_measured,
    distortion,
    working_dtype,
)
from onnxq.clustering.grids import sample
from onnxq.clustering.kernels import compiled, is_worthwhile, least_weight_path
from onnxq.clustering.ladder import Ladder
from onnxq.clustering.lloyd import lloyd, start
from onnxq.clustering.optimal import solve
from onnxq.clustering.survey import FINE, Survey, distinct, survey
from onnxq.clustering.weighted import Importance, Weighted, weighted
from onnxq.clustering.windows import Stream
from onnxq.clustering.zeros import COUNTED, WEIGHTED, anchored, are_kept, share, snapped
from onnxq.errors import InputError, OptionError
from onnxq.parallel import blocks

Init: TypeAlias = Literal["optimal", "bounded-pdf", "quantile", "uniform"]

_EXACT = 1e-10
_CLOSE = 1e-7
"""Excess over the bound at which the search may stop: on distinct values, elsewhere."""

_POLISH = 2
"""Rounds on the values themselves after a coarse histogram: they halve what it lost."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Say how centroids are chosen.

    Attributes:
        init: `optimal` solves the one-dimensional problem; the others are starts for Lloyd.
        pdf_factor: Half width of the band around the mean density, for `bounded-pdf`; at least 0.
        max_iterations: Most Lloyd rounds, at least 0.

    Raises:
        OptionError: a field is out of range.
    """

    init: Init = "optimal"
    pdf_factor: float = 0.5
    max_iterations: int = 300

    def __post_init__(self) -> None:
        if self.init not in get_args(Init):
            expected = ", ".join(get_args(Init))
            raise OptionError(f"init: found {self.init!r}, expected one of {expected}")
        if not (math.isfinite(self.pdf_factor) and self.pdf_factor >= 0):
            raise OptionError(f"pdf_factor: found {self.pdf_factor}, expected a number >= 0")
        if self.max_iterations < 0:
            raise OptionError(f"max_iterations: found {self.max_iterations}, expected >= 0")


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Hold a fitted codebook and the indices of the values it was fitted to.

    Attributes:
        centroids: 1-D, ascending, in the dtype of the values; every one is used.
        indices: Nearest centroid of each value, in the values' shape.
        distortion: Sum of squared residuals over finite values (float64).
        gap: Upper bound on distortion / optimum - 1, proven up to rounding by `optimal`, else
            None. The optimum is over all codebooks of as many centroids, in float64; for tensors
            so large that they are solved on a histogram, over those whose clusters do not split
            a cell; for sparse ones, over those that hold 0.0.
        iterations: Lloyd rounds, or multiplier steps of the optimal solver.
        is_lossless: Whether decoding gives back every bit.
    """

    centroids: Array
    indices: Indices
    distortion: float
    gap: float | None
    iterations: int
    is_lossless: bool

    def without_indices(self) -> Clustering:
        """Return the codebook alone, for `indexed`."""
        return replace(self, indices=np.empty(0, self.indices.dtype))


def fit(
    values: Array,
    k: int,
    options: ClusterOptions | None = None,
    *,
    weights: Array | None = None,
    jobs: int = 1,
) -> Clustering:
    """Return a codebook of at most `k` centroids for `values`, and their indices.

    `optimal` keeps a centroid of exactly 0.0 in sparse tensors: `zeros` says when.

    Args:
        values: float16, bfloat16, float32 or float64, any shape; no NaN. Infinities get exact
            centroids of their own, which count toward `k`.
        k: Most centroids, 1 to 65,536.
        options: Defaults to `ClusterOptions()`.
        weights: How much each value's squared residual counts while centroids are chosen, at least
            0, in a shape that broadcasts to that of `values`; see `weighted.Importance`. Values go
            to their nearest centroids all the same, `distortion` is that of plain squares, and
            there is no `gap`.
        jobs: Threads; the result is the same for every number.

    Raises:
        InputError: NaN, an unsupported dtype, more kinds of infinity than `k` leaves room for, or
            weights that are none.
        OptionError: `k` is out of range.
    """
    options = options or ClusterOptions()
    if not 1 <= k <= MAX_CENTROIDS:
        raise OptionError(f"k: found {k}, expected 1 to {MAX_CENTROIDS}")
    working_dtype(values)
    values = np.asarray(values, order="C")
    importance = None if weights is None else Importance(weights, values.shape)
    few = kinds(values, k)
    if few is not None:
        return _lossless(values, few, jobs)
    seen = condense(values, importance, k, jobs)
    room = k - seen.infinities.size
    if room < 1:
        raise InputError(f"values: found finite and infinite ones, which {k} centroids cannot hold")
    if seen.points is None:
        return _finish(values, seen.infinities, Placed(np.empty(0), 0, 0.0), jobs)
    placed = place(seen, room, options, share(values))
    book = np.concatenate((placed.book(seen), seen.infinities))
    is_rough = isinstance(seen, Survey) and not seen.is_exact and room > FINE
    del seen  # its positions may take as much memory as the tensor
    for _ in range(_POLISH if is_rough and options.init == "optimal" else 0):
        book = _polished(values, book, jobs, has_zero=placed.has_zero)
    return _finish(values, book, placed, jobs)


def halved(values: Array, found: Clustering, *, jobs: int = 1) -> Clustering:
    """Return a clustering of `values` on its centroids rounded to float16, in the values' dtype.

    Equal ones are merged and those that no value uses are dropped. Where rounding changes nothing
    the clustering comes back as it is; elsewhere it has no gap.
    """
    half = found.centroids.astype(np.float16)
    if np.array_equal(half.astype(values.dtype), found.centroids):
        return found
    half = np.unique(half + np.float16(0))  # never -0.0
    centroids, indices = _assigned(values, half.astype(values.dtype), jobs)
    return replace(
        found,
        centroids=centroids,
        indices=indices,
        distortion=distortion(values, indices, centroids),
        gap=None,
        is_lossless=False,
    )


def indexed(values: Array, found: Clustering, *, jobs: int = 1) -> Clustering:
    """Return a clustering of `values` that has lost its indices, with them."""
    if found.indices.size == values.size:
        return found
    if found.is_lossless:
        return _lossless(values, found.centroids, jobs)
    return replace(found, indices=assign(values, found.centroids, jobs=jobs))


def kinds(values: Array, limit: int) -> Array | None:
    """Return the distinct bit patterns of C-ordered values, ascending, or None beyond `limit`.

    -0.0 stands below 0.0.

    Raises:
        InputError: one of at most `limit` patterns is NaN.
    """
    if not _may_hold(values, limit):
        return None
    found = distinct(values.reshape(-1), limit)[0]
    if values.size and not found.size:
        return None
    patterns = _patterns(found)
    sign = patterns.dtype.type(1 << (8 * patterns.itemsize - 1))
    ordered: Array = found[np.argsort(np.where(patterns & sign, ~patterns, patterns | sign))]
    if np.isnan(ordered).any():
        raise InputError("values: found NaN, expected numbers")
    return ordered


def count_distinct(values: Array, limit: int) -> int:
    """Return the number of distinct bit patterns, or `limit + 1` as soon as there are more.

    0.0 and -0.0 differ, and so do NaNs of different payload. A sample is looked at first.

    >>> count_distinct(np.float32([0.0, -0.0, 1.0, 1.0]), 10)
    3
    """
    values = np.asarray(values, order="C")
    if not values.size:
        return 0
    if not _may_hold(values, limit):
        return limit + 1
    return distinct(values.reshape(-1), limit)[0].size or limit + 1


def prepare(total: int) -> None:
    """Load the compiled kernels if clustering `total` values altogether pays for it.

    `fit` decides tensor by tensor; call this first where many small tensors make a large model.
    """
    if is_worthwhile(total):
        compiled(least_weight_path)


@dataclass(frozen=True)
class Placed:
    """Hold centroids in the spectrum's units, rounds taken, and a bound on plain cost, if any.

    `has_zero` says that one of them stands for 0.0.
    """

    centroids: NDArray[np.float64]
    iterations: int
    bound: float | None
    has_zero: bool = False

    def book(self, seen: Survey | Weighted) -> NDArray[np.float64]:
        """Return the centroids in the values' units; the one that zeros keep is 0.0."""
        assert seen.points is not None
        found = self.centroids * seen.points.scale + seen.points.origin
        return snapped(found) if self.has_zero else found


def condense(values: Array, importance: Importance | None, k: int, jobs: int) -> Survey | Weighted:
    """Return what the solvers need of C-ordered values for `k` centroids, NaN refused."""
    if importance is None:
        return survey(values, k, jobs=jobs)
    return weighted(values, importance, k)


def place(seen: Survey | Weighted, k: int, options: ClusterOptions, zeros: float = 0.0) -> Placed:
    """Choose up to `k` centroids for the finite values, of which a share of `zeros` is 0."""
    points = seen.points
    assert points is not None
    if options.init == "optimal":
        is_plain, has_zero = isinstance(seen, Survey), are_kept(zeros, k)
        if has_zero and not isinstance(points, Stream):
            points = anchored(points, COUNTED if is_plain else WEIGHTED * points.total)
        is_close = isinstance(points, Stream) or not seen.is_exact
        cut = solve(points, k, _CLOSE if is_close else _EXACT)
        bound = cut.bound * points.scale * points.scale
        means = points.means(cut.edges)
        return Placed(means, cut.steps, bound if is_plain else None, has_zero)
    held = Ladder(points) if isinstance(points, Stream) else points
    first = start(held, k, options.init, options.pdf_factor)
    centroids, rounds = lloyd(held, first, options.max_iterations)
    return Placed(centroids, rounds, None)


def _may_hold(values: Array, limit: int) -> bool:
    """Return False if a sample alone holds more than `limit` bit patterns."""
    few = sample(values.reshape(-1))
    return limit >= few.size or np.unique(_patterns(few)).size <= limit


def _patterns(values: Array) -> Array:
    patterns: Array = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    return patterns


def _lossless(values: Array, centroids: Array, jobs: int) -> Clustering:
    """Return the codebook of all bit patterns `centroids`."""
    if not centroids.size:
        indices: Indices = np.empty(values.shape, np.uint8)
    else:
        indices = assign(values, centroids, jobs=jobs)
    zeros = np.flatnonzero(centroids == 0)
    if zeros.size == 2:
        is_positive = _patterns(values) == 0
        indices[is_positive] = zeros[1]
    return Clustering(
        centroids=centroids,
        indices=indices,
        distortion=0.0,
        gap=0.0,
        iterations=0,
        is_lossless=True,
    )


def rounded(book: NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
    """Return centroids in the dtype, -0.0 as 0.0, duplicates merged."""
    with np.errstate(over="ignore", under="ignore"):
        return np.unique(book.astype(dtype) + dtype.type(0))


def _finish(values: Array, book: NDArray[np.float64], placed: Placed, jobs: int) -> Clustering:
    """Round, assign, drop centroids that no value uses, and measure."""
    centroids = rounded(book, values.dtype)
    indices, error = assign_measured(values, centroids, jobs=jobs)
    used = _used(indices, centroids.size)
    if not used.all():
        del indices  # room for the next
        centroids = centroids[used]
        indices, error = assign_measured(values, centroids, jobs=jobs)
    gap = None
    if placed.bound is not None and (placed.bound > 0 or error == 0):
        gap = max(error / placed.bound - 1.0, 0.0) if error else 0.0
        gap = gap if math.isfinite(gap) else None  # squares beyond float64 prove nothing
    return Clustering(
        centroids=centroids,
        indices=indices,
        distortion=error,
        gap=gap,
        iterations=placed.iterations,
        is_lossless=False,
    )


def _polished(
    values: Array, book: NDArray[np.float64], jobs: int, *, has_zero: bool
) -> NDArray[np.float64]:
    """Return every centroid but one for zeros moved to the mean of the values nearest to it."""
    centroids = rounded(book, values.dtype)
    exact = centroids.astype(np.float64)
    flat, picks = values.reshape(-1), assign(values, centroids, jobs=jobs).reshape(-1)
    shifts, counts = np.zeros(exact.size), np.zeros(exact.size)
    for begin, end in blocks(flat.size, BLOCK // 4):
        part, pick = flat[begin:end], picks[begin:end]
        finite = np.isfinite(part)
        part, pick = part[finite], pick[finite]
        counts += np.bincount(pick, minlength=exact.size)
        shifts += np.bincount(pick, weights=part - exact[pick], minlength=exact.size)
    moved = exact + np.where(np.isfinite(shifts), shifts, 0.0) / np.maximum(counts, 1.0)
    return snapped(moved) if has_zero else moved


def _assigned(values: Array, centroids: Array, jobs: int) -> tuple[Array, Indices]:
    """Return the centroids that values use, and the index of the nearest for each value."""
    indices = assign(values, centroids, jobs=jobs)
    used = _used(indices, centroids.size)
    if not used.all():
        centroids = centroids[used]
        indices = assign(values, centroids, jobs=jobs)
    return centroids, indices


def _used(indices: Indices, centroids: int) -> NDArray[np.bool_]:
    """Return which of the centroids any index names."""
    used = np.zeros(centroids, np.bool_)
    flat = indices.reshape(-1)
    for begin, end in blocks(flat.size, BLOCK):
        used[flat[begin:end]] = True
        if used.all():
            break
    return used
