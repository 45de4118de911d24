"""Condense the values of a tensor into a spectrum, without sorting large tensors.

Owns the choice between distinct values (exact) and a histogram with exact sums. Distinct values
serve all 16-bit tensors, all small ones, and large ones that hold few kinds of values. The
histogram's cells are a power of two wide and start at a multiple of it, so that 0 and other round
values keep their exact place, and they cover the range of a sample; what lies outside is kept
value by value, so that one huge outlier cannot spoil the cells.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import InputError
from onnxq.kernels import CELL_BITS, compiled, drain_cells, fill_cells, is_worthwhile, tally
from onnxq.parallel import blocks, ordered_map
from onnxq.spectrum import Spectrum, spectrum

Array: TypeAlias = NDArray[Any]

SAMPLE = 1 << 16
"""Values looked at before a pass over all of them is chosen."""

FINE = 4096
"""Centroids beyond which the histogram is coarser, so that memory stays in bounds."""

_SMALL = 1 << 18
_FEW = 1 << 17
_MANY = 1024
_TRIMS = (2.0**-12, 2.0**-10, 2.0**-8)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Hold what the solvers need to know of a tensor.

    Attributes:
        points: The finite values, or None if there are none.
        infinities: The infinite values present, ascending: none, one or both.
        is_exact: Whether `points` are the distinct values, not histogram cells.
    """

    points: Spectrum | None
    infinities: Array
    is_exact: bool


def survey(values: Array, k: int, *, jobs: int) -> Survey:
    """Return the spectrum of `values`, fine enough for `k` centroids.

    Raises:
        InputError: `values` holds NaN.
    """
    flat = values.reshape(-1)
    if flat.dtype.itemsize == 2 and flat.size > SAMPLE:
        return _of_table(*distinct(flat, SAMPLE))
    cells = cells_for(k)
    if flat.size <= max(_SMALL, cells // 4):
        return _of_table(*np.unique(_wide(flat), return_counts=True))
    if 2 * np.unique(sample(flat)).size < SAMPLE:
        patterns, counts = distinct(flat, _FEW)
        if patterns.size:
            return _of_table(patterns, counts)
    return _of_cells(flat, cells, jobs)


def cells_for(k: int) -> int:
    """Return the number of histogram cells for k centroids, within a factor 1.5.

    256 cells a centroid keep the loss near 1e-5, 128 near 5e-5 in half the memory; beyond
    `FINE` centroids 64 keep it near 1e-4, which rounds on the values themselves then halve.
    """
    share = 256 if k <= _MANY else 128 if k <= FINE else 64
    return max(share * k, 1 << 16)


def sample(flat: Array) -> Array:
    """Return at most 65,536 values spread over the array, off any regular stride."""
    if flat.size <= SAMPLE:
        return flat
    steps = np.arange(SAMPLE)
    # The golden ratio's multiples are spread evenly: no row length of a matrix is in step.
    places = (steps + (steps * 0.6180339887498949) % 1.0) * (flat.size / SAMPLE)
    picked: Array = flat[np.minimum(places.astype(np.intp), flat.size - 1)]
    return picked


def distinct(flat: Array, limit: int) -> tuple[Array, NDArray[np.int64]]:
    """Return the distinct values by bit pattern, in no order, and how often each occurs.

    Returns:
        Empty arrays if there are more than `limit` (for large arrays: a few more).
    """
    patterns = flat.view(np.dtype(f"u{flat.dtype.itemsize}"))
    if flat.dtype.itemsize == 2 and flat.size > SAMPLE:
        table = np.zeros(SAMPLE, np.int64)
        for start, stop in blocks(flat.size, 1 << 20):
            table += np.bincount(patterns[start:stop], minlength=SAMPLE)
        found = np.flatnonzero(table).astype(np.uint16)
        counts = table[found]
    elif is_worthwhile(flat.size):
        bits = (2 * limit).bit_length()
        keys, slots = np.zeros(1 << bits, patterns.dtype), np.zeros(1 << bits, np.int64)
        if compiled(tally)(patterns, 64 - bits, keys, slots, 0) < 0:
            return flat[:0], slots[:0]
        found, counts = keys[slots > 0], slots[slots > 0]
    else:
        found, counts = np.unique(patterns, return_counts=True)
    if found.size > limit:
        return flat[:0], counts[:0]
    return found.view(flat.dtype), counts


def _wide(values: Array) -> Array:
    """Return 16-bit floats as float32, which numpy sorts and compares without surprises."""
    return values.astype(np.float32) if values.dtype.itemsize == 2 else values


def _of_table(values: Array, counts: NDArray[np.int64]) -> Survey:
    """Survey distinct values in any order; both zeros become one position."""
    positions, weights = _merged(_wide(values).astype(np.float64), counts)
    if np.isnan(positions).any():
        raise InputError("values: found NaN, expected numbers")
    finite = np.isfinite(positions)
    infinities = positions[~finite]
    if not finite.any():
        return Survey(points=None, infinities=infinities, is_exact=True)
    positions, weights = positions[finite] + 0.0, weights[finite]
    # A power of two keeps squares of float64 values within range.
    exponent = math.frexp(float(np.abs(positions).max()))[1]
    scale = math.ldexp(1.0, min(max(exponent, -1000), 1000)) if abs(exponent) > 200 else 1.0
    points = spectrum(*_merged(positions / scale, weights), scale=scale)
    return Survey(points=points, infinities=infinities, is_exact=True)


def _merged(positions: Array, weights: Array) -> tuple[Array, Array]:
    """Return positions in ascending order, each once, with their total weights."""
    if (positions[1:] > positions[:-1]).all():
        return positions, weights.astype(np.float64)
    once, inverse = np.unique(positions, return_inverse=True)
    return once, np.bincount(inverse, weights=weights, minlength=once.size)


def _of_cells(flat: Array, cells: int, jobs: int) -> Survey:
    """Survey a large array by histogram; by sorting where its range defeats one."""
    filled = None
    core = _core(sample(flat))
    if core is not None:
        low, high = core
        margin = (high - low) / 8 or abs(low) * 2.0**-20 or 2.0**-60
        filled = _fill(flat, _grid(low - margin, high + margin, cells), jobs)
    if filled is None or filled.outside > filled.tail.size:
        low, high, infinities = _range(flat)
        filled = _fill(flat, _grid(low, math.nextafter(high, math.inf), cells), jobs)
        if filled is None:
            return _of_table(*np.unique(flat, return_counts=True))
        filled = replace(filled, tail=infinities)
    return _condense(filled)


def _core(few: Array) -> tuple[float, float] | None:
    """Return the range of a sample, without up to 0.4 % at each end where that halves it."""
    few = np.sort(few[np.isfinite(few)])
    if not few.size:
        return None
    low, high = float(few[0]), float(few[-1])
    for share in _TRIMS:
        skip = int(few.size * share)
        inner_low, inner_high = float(few[skip]), float(few[-1 - skip])
        if 0 < 2 * (inner_high - inner_low) < high - low:
            low, high = inner_low, inner_high
    return low, high


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Hold cells of width `width` (a power of two) from `low` (a multiple of it) upwards."""

    low: float
    width: float
    cells: int


@dataclass(frozen=True, kw_only=True)
class _Filled:
    """Hold a grid's counts and sums, and the values outside as far as they were kept."""

    grid: _Grid
    counts: NDArray[np.int64]
    sums: NDArray[np.int64]
    tail: Array
    outside: int


def _grid(low: float, high: float, cells: int) -> _Grid | None:
    """Return 0.75 to 1.5 times `cells` cells over a range, or None where float64 cannot."""
    spread = high - low
    if not (math.isfinite(spread) and spread > 2.0**-900):
        return None
    width = math.ldexp(1.0, math.floor(math.log2(spread / (0.75 * cells))))
    bottom = math.floor(low / width)
    if abs(bottom) > 2**52:
        return None
    return _Grid(low=bottom * width, width=width, cells=math.floor(high / width) - bottom + 1)


def _fill(flat: Array, grid: _Grid | None, jobs: int) -> _Filled | None:
    """Lay all values into the grid; integer sums make the result independent of `jobs`."""
    if grid is None:
        return None
    counts, sums = np.zeros(grid.cells, np.int64), np.zeros(grid.cells, np.int64)
    fill, drain = compiled(fill_cells), compiled(drain_cells)
    size = (1 << 22) if grid.cells > 1 << 17 else (1 << 20)
    pool = _Pool(grid.cells)

    def run(span: tuple[int, int]) -> tuple[Array, int]:
        part = flat[span[0] : span[1]]
        tail = np.empty(part.size // 64 + 1, part.dtype)
        with pool.borrowed() as packed:
            outside = int(fill(part, grid.low, 2.0**CELL_BITS / grid.width, packed, tail))
            with pool.lock:
                drain(packed, counts, sums)
        return tail[:outside].copy(), outside

    found = list(ordered_map(run, blocks(flat.size, size), jobs=jobs))
    return _Filled(
        grid=grid,
        counts=counts,
        sums=sums,
        tail=np.concatenate([tail for tail, _ in found]),
        outside=sum(outside for _, outside in found),
    )


class _Pool:
    """Lend zeroed accumulators to threads; as many exist as threads ever ran at once."""

    def __init__(self, cells: int) -> None:
        self.lock = threading.Lock()
        self._cells = cells
        self._free: queue.SimpleQueue[NDArray[np.uint64]] = queue.SimpleQueue()

    @contextmanager
    def borrowed(self) -> Iterator[NDArray[np.uint64]]:
        """Lend one accumulator; the borrower leaves it zeroed."""
        try:
            packed = self._free.get_nowait()
        except queue.Empty:
            packed = np.zeros(self._cells, np.uint64)
        yield packed
        self._free.put(packed)


def _range(flat: Array) -> tuple[float, float, Array]:
    """Return the least and the greatest finite value and the infinities present."""
    low, high = math.inf, -math.inf
    infinities: set[float] = set()
    for start, stop in blocks(flat.size, 1 << 20):
        part = flat[start:stop]
        if np.isnan(part).any():
            raise InputError("values: found NaN, expected numbers")
        infinities.update(part[np.isinf(part)].tolist())
        part = part[np.isfinite(part)]
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    return low, high, np.array(sorted(infinities), flat.dtype)


def _condense(filled: _Filled) -> Survey:
    """Return the spectrum of cell means and outside values, in cell units."""
    grid = filled.grid
    tail = filled.tail.astype(np.float64)
    if np.isnan(tail).any():
        raise InputError("values: found NaN, expected numbers")
    infinities = np.unique(tail[np.isinf(tail)])
    ends, end_counts = np.unique(tail[np.isfinite(tail)], return_counts=True)
    inside = np.flatnonzero(filled.counts)
    counts = filled.counts[inside].astype(np.float64)
    middles = inside + filled.sums[inside] / counts * 2.0**-CELL_BITS
    places, first = np.unique((ends - grid.low) / grid.width, return_index=True)
    if places.size:
        end_counts = np.add.reduceat(end_counts, first)
    cut = int(np.searchsorted(places, 0.0))
    points = spectrum(
        np.concatenate((places[:cut], middles, places[cut:])),
        np.concatenate((end_counts[:cut], counts, end_counts[cut:])).astype(np.float64),
        origin=grid.low,
        scale=grid.width,
    )
    return Survey(points=points, infinities=infinities, is_exact=False)
