"""Fit a codebook to the values of one tensor.

Owns the choice of centroids: what is lossless, what infinities cost, which solver runs. The
arithmetic lives below: `spectrum` condenses values, `lloyd` and `optimal` place centroids,
`codebook` assigns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from onnxq.codebook import (
    MAX_CENTROIDS,
    Array,
    Indices,
    assign,
    distortion,
    index_dtype,
    working_dtype,
)
from onnxq.errors import InputError, OptionError
from onnxq.lloyd import lloyd, start
from onnxq.spectrum import spectrum

Init: TypeAlias = Literal["optimal", "bounded-pdf", "quantile", "uniform"]

_SAMPLE = 1 << 16


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
        gap: Proven upper bound on distortion / optimum - 1, or None where none is known.
        iterations: Lloyd rounds, or multiplier steps of the optimal solver.
        is_lossless: Whether decoding gives back every bit.
    """

    centroids: Array
    indices: Indices
    distortion: float
    gap: float | None
    iterations: int
    is_lossless: bool


def fit(
    values: Array, k: int, options: ClusterOptions | None = None, *, jobs: int = 1
) -> Clustering:
    """Return a codebook of at most `k` centroids for `values`, and their indices.

    Args:
        values: float16, bfloat16, float32 or float64, any shape; no NaN. Infinities get exact
            centroids of their own, which count toward `k`.
        k: Most centroids, 1 to 65,536.
        options: Defaults to `ClusterOptions()`.
        jobs: Threads; the result is the same for every number.

    Raises:
        InputError: NaN, an unsupported dtype, or more kinds of infinity than `k` leaves room for.
        OptionError: `k` is out of range.
    """
    options = options or ClusterOptions()
    if not 1 <= k <= MAX_CENTROIDS:
        raise OptionError(f"k: found {k}, expected 1 to {MAX_CENTROIDS}")
    working_dtype(values)
    if np.isnan(values).any():
        raise InputError("values: found NaN, expected numbers")
    if count_distinct(values, k) <= k:
        return _lossless(values)
    infinite = np.unique(values[np.isinf(values)].astype(np.float64))
    room = k - infinite.size
    if room < 1:
        raise InputError(f"values: found finite and infinite ones, which {k} centroids cannot hold")
    finite = values[np.isfinite(values)].astype(np.float64)
    positions, counts = np.unique(finite, return_counts=True)
    points = spectrum(positions, counts.astype(np.float64))
    first = start(
        points,
        room,
        "quantile" if options.init == "optimal" else options.init,
        options.pdf_factor,
    )
    centroids, rounds = lloyd(points, first, options.max_iterations)
    book = np.sort(np.concatenate((centroids, infinite)))
    return _finish(values, _rounded(book, values.dtype), rounds, jobs)


def count_distinct(values: Array, limit: int) -> int:
    """Return the number of distinct bit patterns, or `limit + 1` as soon as there are more.

    0.0 and -0.0 differ, and so do NaNs of different payload.

    >>> count_distinct(np.float32([0.0, -0.0, 1.0, 1.0]), 10)
    3
    """
    patterns = _patterns(values)
    if patterns.size > _SAMPLE:
        stride = patterns.size // _SAMPLE
        if np.unique(patterns[::stride]).size > limit:
            return limit + 1
    return min(np.unique(patterns).size, limit + 1)


def _patterns(values: Array) -> NDArray[np.unsignedinteger[Any]]:
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.dtype(f"u{flat.dtype.itemsize}"))


def _ordered(patterns: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.unsignedinteger[Any]]:
    """Return bit patterns of floats as integers of the same order, -0.0 below 0.0."""
    sign = patterns.dtype.type(1 << (8 * patterns.itemsize - 1))
    return np.where(patterns & sign, ~patterns, patterns | sign)


def _lossless(values: Array) -> Clustering:
    """Return the codebook of all bit patterns."""
    keys, indices = np.unique(_ordered(_patterns(values)), return_inverse=True)
    sign = keys.dtype.type(1 << (8 * keys.itemsize - 1))
    centroids = np.where(keys & sign, keys ^ sign, ~keys).view(values.dtype)
    return Clustering(
        centroids=centroids,
        indices=indices.reshape(values.shape).astype(index_dtype(centroids.size)),
        distortion=0.0,
        gap=0.0,
        iterations=0,
        is_lossless=True,
    )


def _rounded(book: NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
    """Return centroids in the dtype, -0.0 as 0.0, duplicates merged."""
    with np.errstate(over="ignore", under="ignore"):
        return np.unique(book.astype(dtype) + dtype.type(0))


def _finish(values: Array, centroids: Array, iterations: int, jobs: int) -> Clustering:
    """Assign, drop centroids that no value uses, and measure."""
    indices = assign(values, centroids, jobs=jobs)
    used = np.bincount(indices.reshape(-1), minlength=centroids.size) > 0
    if not used.all():
        centroids = centroids[used]
        indices = assign(values, centroids, jobs=jobs)
    return Clustering(
        centroids=centroids,
        indices=indices,
        distortion=distortion(values, indices, centroids),
        gap=None,
        iterations=iterations,
        is_lossless=False,
    )
