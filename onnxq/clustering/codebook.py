"""Codebooks: nearest-centroid assignment, decoding and distortion.

Owns the rule that turns a value into an index; does not choose centroids. The idea: for ascending
centroids the nearest one is found by counting the *thresholds* below a value, where threshold i is
the largest number of the working precision that is not nearer to centroid i + 1 than to centroid
i. float16, bfloat16 and float32 work in float32, where the thresholds are derived without rounding
error, so the assignment equals brute force in exact arithmetic; float64 works in float64, with the
rounded midpoint `c[i] / 2 + c[i + 1] / 2` as its definition.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxq.clustering.kernels import compiled, is_worthwhile, nearest, squared_residuals
from onnxq.errors import InputError
from onnxq.parallel import blocks, ordered_map

Array: TypeAlias = NDArray[Any]
Indices: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]

BLOCK = 1 << 20
"""Values per block: sums are taken within blocks and then over blocks in order."""

MAX_CENTROIDS = 1 << 16
"""The most centroids that 16-bit indices can address."""

PATTERNS = 1 << 16
"""Bit patterns of a 16-bit float."""

FLOATS: tuple[np.dtype[Any], ...] = (
    np.dtype(np.float32),
    np.dtype(np.float16),
    np.dtype(ml_dtypes.bfloat16),
    np.dtype(np.float64),
)
"""The dtypes of values and centroids."""


def assign(values: Array, centroids: Array, *, jobs: int = 1) -> Indices:
    """Return the index of the nearest centroid of every value, ties to the lowest index.

    Args:
        values: float16, bfloat16, float32 or float64, any shape. An infinite value goes to an
            infinite centroid of its sign where there is one, else to the outermost centroid.
        centroids: 1-D, ascending, at most 65,536; equal neighbours are allowed.
        jobs: Threads; the result is the same for every number.

    Returns:
        Indices in the shape of `values`: uint8 for up to 256 centroids, else uint16.

    Raises:
        InputError: NaN, an unsupported dtype, or centroids that are empty or not ascending.

    >>> assign(np.float32([0.1, 0.5, 9.0]), np.float32([0.0, 1.0])).tolist()
    [0, 0, 1]
    """
    return _Assigner(values, centroids).run(values, jobs, is_measured=False)[0]


def assign_measured(values: Array, centroids: Array, *, jobs: int = 1) -> tuple[Indices, float]:
    """Return `assign(values, centroids)` and the distortion of that assignment, in one pass."""
    return _Assigner(values, centroids).run(values, jobs, is_measured=True)


def decode(indices: Indices, centroids: Array) -> Array:
    """Return `centroids[indices]`: the values that the indices stand for, in the indices' shape.

    Raises:
        InputError: an index is not below the number of centroids.
    """
    if indices.size and int(indices.max()) >= centroids.size:
        found = int(indices.max())
        raise InputError(f"indices: found {found}, expected less than {centroids.size}")
    return np.take(centroids, indices)


def distortion(values: Array, indices: Indices, centroids: Array) -> float:
    """Return the sum of squared residuals of the finite values, in float64.

    Residuals are taken one by one in float64 (never from sums of squares, which cancel) and summed
    in blocks, blocks in order.
    """
    book = centroids.astype(np.float64)
    flat, picks = values.reshape(-1), indices.reshape(-1)
    dtype = working_dtype(values)
    total = 0.0
    for start, stop in blocks(flat.size, BLOCK):
        part = flat[start:stop].astype(dtype, copy=False)
        total += _squared(part, picks[start:stop], book)
    return total


def signal_power(values: Array) -> float:
    """Return the sum of squares of the finite values, in float64.

    The signal-to-noise ratio in dB is `10 * log10(signal_power(values) / distortion(...))`.
    """
    flat = values.reshape(-1)
    total = 0.0
    for start, stop in blocks(flat.size, BLOCK):
        part = flat[start:stop].astype(np.float64)
        with np.errstate(over="ignore"):
            np.copyto(part, 0.0, where=~np.isfinite(part))
            total += float(np.sum(part * part))
    return total


def index_dtype(centroids: int) -> np.dtype[Any]:
    """Return the dtype of indices into so many centroids: uint8 up to 256, else uint16."""
    return np.dtype(np.uint8 if centroids <= 256 else np.uint16)


def working_dtype(*arrays: Array) -> np.dtype[Any]:
    """Return float64 if any array is float64, else float32, which holds all others exactly.

    Raises:
        InputError: a dtype is none of `FLOATS`.
    """
    for array in arrays:
        if array.dtype not in FLOATS:
            names = ", ".join(str(dtype) for dtype in FLOATS)
            raise InputError(f"values: found dtype {array.dtype}, expected one of {names}")
    return np.dtype(np.float64 if any(a.dtype == np.float64 for a in arrays) else np.float32)


def thresholds(centroids: Array, dtype: np.dtype[Any]) -> Array:
    """Return t, ascending, such that the index of a value v is the number of t below v.

    Args:
        centroids: 1-D, ascending, at least one, no NaN.
        dtype: float32 (exact for centroids of up to 32 bits) or float64 (rounded midpoints).

    Returns:
        `centroids.size - 1` thresholds of the dtype.

    Raises:
        InputError: the centroids are not as described.
    """
    book = centroids.astype(np.float64)
    if book.ndim != 1 or not 1 <= book.size <= MAX_CENTROIDS:
        raise InputError(f"centroids: found shape {book.shape}, expected 1-D with 1 to 65536")
    if not (book[1:] >= book[:-1]).all() or np.isnan(book[0]):
        raise InputError("centroids: found NaN or descending values, expected ascending numbers")
    low, high = book[:-1], book[1:]
    with np.errstate(invalid="ignore", over="ignore"):
        limits = _exact32(low, high) if dtype == np.float32 else low / 2 + high / 2
        # The midpoint of neighbours may round onto the upper one, which is its own nearest.
        limits = np.where(low < high, np.minimum(limits, np.nextafter(high, -np.inf)), limits)
    # Nothing finite is nearer to an infinite centroid, and +inf is nearest to +inf.
    limits[high == np.inf] = np.finfo(dtype).max
    limits[low == -np.inf] = -np.inf
    both = (low == -np.inf) & (high == np.inf)
    limits[both | (low == np.inf)] = np.finfo(dtype).max
    # Of equal centroids only the first is ever chosen: the others share the next threshold.
    own = np.where(low < high, np.arange(low.size), low.size)
    following = np.minimum.accumulate(own[::-1])[::-1]
    return np.append(limits, np.inf)[following].astype(dtype, copy=False)


class _Assigner:
    """Hold the lookup tables of one codebook for one array of values.

    Cells of equal width cover the range of a sample of the values; each knows how many thresholds
    lie below it, so that a value costs one lookup and one comparison unless its own cell holds
    thresholds. Large 16-bit tensors look up all 65,536 bit patterns instead.
    """

    def __init__(self, values: Array, centroids: Array) -> None:
        dtype = working_dtype(values, centroids)
        self._limits = thresholds(centroids, dtype)
        self._book = centroids.astype(np.float64)
        self._index = index_dtype(centroids.size)
        self._table: Indices | None = None
        self._is_compiled = is_worthwhile(values.size)
        if values.dtype.itemsize == 2 and values.size > PATTERNS:
            every = np.arange(PATTERNS, dtype=np.uint16).view(values.dtype).astype(dtype)
            self._table = self._search(every)
        elif self._is_compiled:
            self._grid, self._first = _cells(values.reshape(-1), self._limits)
            self._padded = np.append(self._limits, dtype.type(np.inf))

    def run(self, values: Array, jobs: int, *, is_measured: bool) -> tuple[Indices, float]:
        """Return the indices of all values and, if asked for, the distortion (else 0)."""
        flat = values.reshape(-1)
        out = np.empty(flat.size, self._index)

        def block(span: tuple[int, int]) -> float:
            return self._block(flat[span[0] : span[1]], out[span[0] : span[1]], is_measured)

        total = 0.0
        for part in ordered_map(block, blocks(flat.size, BLOCK), jobs=jobs):
            total += part
        return out.reshape(values.shape), total

    def _block(self, part: Array, out: Indices, is_measured: bool) -> float:
        wide = part.astype(self._limits.dtype, copy=False)
        if self._is_compiled and self._table is None:
            tables = (self._grid, self._first, self._padded, self._book)
            total, nans = compiled(nearest)(wide, *tables, out)
            _refuse_nan(nans > 0)
            return float(total)
        _refuse_nan(bool(np.isnan(wide).any()))
        if self._table is not None:
            np.take(self._table, part.view(np.uint16), out=out)
        else:
            out[:] = self._search(wide)
        return _squared(wide, out, self._book) if is_measured else 0.0

    def _search(self, wide: Array) -> Indices:
        return np.searchsorted(self._limits, wide, side="left").astype(self._index)


def _refuse_nan(found: bool) -> None:
    if found:
        raise InputError("values: found NaN, expected numbers")


def _cells(flat: Array, limits: Array) -> tuple[tuple[Any, Any], Array]:
    """Return the grid (low, scale) of the assignment cells, and the thresholds below each cell."""
    dtype = limits.dtype
    few = flat[:: max(1, flat.size // 4096)].astype(dtype)
    few = few[np.isfinite(few)]
    cells = min(max(64 * (limits.size + 1), 1 << 12), 1 << 16)
    low, scale = np.finfo(dtype).max, dtype.type(1)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
        if few.size:
            wanted = dtype.type(cells) / (few.max() - few.min())
            if np.isfinite(wanted) and wanted > 0:
                low, scale = few.min(), wanted
        places = (limits - low) * scale
        spots = np.where(places >= 0, np.minimum(places, dtype.type(cells)), dtype.type(-1))
    spots = np.where(places >= 0, np.floor(spots), spots).astype(np.int64)
    first = np.searchsorted(spots, np.arange(cells + 1), side="left")
    return (low, scale), first.astype(index_dtype(limits.size + 1))


def _squared(part: Array, picks: Indices, book: NDArray[np.float64]) -> float:
    """Return the sum of squared residuals of finite values, added one after the other."""
    if is_worthwhile(part.size):
        return float(compiled(squared_residuals)(part, picks, book))
    if not part.size:
        return 0.0
    wide = part.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        residuals = wide - book[picks]
        np.copyto(residuals, 0.0, where=~np.isfinite(wide))
        return float(np.cumsum(residuals * residuals)[-1])


def _exact32(low: Array, high: Array) -> Array:
    """Return the largest float32 not above each exact midpoint of two float32 numbers.

    2t against low + high decides; the sum is exact as `total + rest` (two-sum in float64).
    """
    total = low + high
    part = total - low
    rest = (low - (total - part)) + (high - part)
    limits = (total / 2).astype(np.float32)
    twice = 2 * limits.astype(np.float64)
    is_above = (twice > total) | ((twice == total) & (rest < 0))
    below: Array = np.nextafter(limits, np.float32(-np.inf), dtype=np.float32)
    return np.where(is_above, below, limits)
