"""Condense the values of a tensor into positions with weights, without sorting large tensors.

Owns the choice between distinct values (exact) and a histogram with exact sums, and between one
spectrum and a stream, which is read in windows. Distinct values serve all 16-bit tensors, all small
ones, those that a fine histogram would not condense, and those that hold few kinds of values. The
histogram's cells are a power of two wide and start at a multiple of it, so that 0 and other round
values keep their exact place, and they cover the range of a sample; what lies outside is kept
value by value, so that one huge outlier cannot spoil the cells.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxq.clustering.grids import SAMPLE, Grid, core, grid_over, power_scale, sample
from onnxq.clustering.kernels import (
    CELL_BITS,
    COUNT_SHIFT,
    HEAVY,
    compiled,
    fill_cells,
    is_worthwhile,
    spill_cells,
    tally,
)
from onnxq.clustering.spectrum import Spectrum, spectrum
from onnxq.clustering.windows import WHOLE, CellStream, Heavy, Outer, SortedStream, Stream
from onnxq.errors import InputError
from onnxq.parallel import blocks, ordered_map

Array: TypeAlias = NDArray[Any]

FINE = 4096
"""Centroids beyond which the histogram is coarser, so that memory stays in bounds."""

_SMALL = WHOLE
"""Values that are always sorted; more than the next are only from `_STEADY` centroids on.

A run of many positions takes a long window to solve, and memory with it.
"""
_SORTED = 1 << 18
_STEADY = 256
_FEW = 1 << 17
_MANY = 1024


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Hold what the solvers need to know of a tensor.

    Attributes:
        points: The finite values, or None if there are none.
        infinities: The infinite values present, ascending: none, one or both.
        is_exact: Whether `points` are the distinct values, not histogram cells.
    """

    points: Spectrum | Stream | None
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
    if flat.size <= _SMALL:
        return _of_table(*np.unique(_wide(flat), return_counts=True))
    if 2 * np.unique(sample(flat)).size < SAMPLE:
        patterns, counts = distinct(flat, _FEW)
        if patterns.size:
            return _of_table(patterns, counts)
    if flat.size <= sorted_for(k):
        return _of_sorted(flat)
    return _of_cells(flat, cells_for(k), jobs)


def sorted_for(k: int) -> int:
    """Return the number of values up to which they are sorted for k centroids.

    As long as a histogram has as many cells, sorting costs no more and is exact. Beyond `FINE`
    centroids it also takes less memory, up to three times as many values as cells.
    """
    if k < _STEADY:
        return _SMALL
    return max(_SORTED, cells_for(k) * (3 if k > FINE else 1))


def cells_for(k: int) -> int:
    """Return the number of histogram cells for k centroids, within a factor 1.5.

    256 cells a centroid keep the loss near 1e-5, 128 near 5e-5 in half the memory; beyond
    `FINE` centroids 64 keep it near 1e-4, which rounds on the values themselves then halve.
    """
    share = 256 if k <= _MANY else 128 if k <= FINE else 64
    return max(share * k, 1 << 16)


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
    scale = power_scale(max(-positions[0], positions[-1]))
    points = spectrum(*_merged(positions / scale, weights), scale=scale)
    return Survey(points=points, infinities=infinities, is_exact=True)


def _of_sorted(flat: Array) -> Survey:
    """Survey more distinct values than one spectrum should hold, on a sorted copy."""
    ordered = np.sort(flat)
    if np.isnan(ordered[-1]):
        raise InputError("values: found NaN, expected numbers")
    ends = np.array([-np.inf, np.inf], flat.dtype)
    low = int(np.searchsorted(ordered, ends[0], side="right"))
    high = int(np.searchsorted(ordered, ends[1], side="left"))
    infinities = ends[[low > 0, high < flat.size]]
    if low == high:
        return Survey(points=None, infinities=infinities, is_exact=True)
    ordered = ordered[low:high]
    stream = SortedStream(ordered, power_scale(max(-float(ordered[0]), float(ordered[-1]))))
    return Survey(points=_held(stream), infinities=infinities, is_exact=True)


def _held(stream: Stream) -> Spectrum | Stream:
    """Return a stream as one spectrum where that is small."""
    return stream.whole() if stream.count <= WHOLE else stream


def _merged(positions: Array, weights: Array) -> tuple[Array, Array]:
    """Return positions in ascending order, each once, with their total weights."""
    if (positions[1:] > positions[:-1]).all():
        return positions, weights.astype(np.float64)
    once, inverse = np.unique(positions, return_inverse=True)
    return once, np.bincount(inverse, weights=weights, minlength=once.size)


def _of_cells(flat: Array, cells: int, jobs: int) -> Survey:
    """Survey a large array by histogram; by sorting where its range defeats one."""
    filled = None
    span = core(sample(flat))
    if span is not None:
        low, high = span
        margin = (high - low) / 8 or abs(low) * 2.0**-20 or 2.0**-60
        filled = _fill(flat, grid_over(low - margin, high + margin, cells), jobs)
    if filled is None or filled.outside > filled.tail.size:
        low, high, infinities = _range(flat)
        filled = _fill(flat, grid_over(low, math.nextafter(high, math.inf), cells), jobs)
        if filled is None:
            return _of_sorted(flat)
        filled = replace(filled, tail=infinities)
    return _condense(filled)


@dataclass(frozen=True, kw_only=True)
class _Filled:
    """Hold a grid's counts and sums, and the values outside as far as they were kept."""

    grid: Grid
    packed: NDArray[np.uint64]
    heavy: Heavy
    tail: Array
    outside: int


def _fill(flat: Array, grid: Grid | None, jobs: int) -> _Filled | None:
    """Lay all values into the grid; integer sums make the result independent of `jobs`."""
    if grid is None:
        return None
    fill = compiled(fill_cells)
    size = HEAVY if grid.cells > 1 << 17 else (1 << 20)
    # All threads' cells together take at most half of what the tensor takes.
    threads = max(1, min(jobs, flat.nbytes // (16 * grid.cells)))
    pool = _Pool(grid.cells, flat.size)

    def run(span: tuple[int, int]) -> tuple[Array, int]:
        part = flat[span[0] : span[1]]
        tail = np.empty(part.size // 64 + 1, part.dtype)
        with pool.borrowed() as cells:
            outside = int(fill(part, grid.low, 2.0**CELL_BITS / grid.width, cells.packed, tail))
            cells.spill()
        return tail[:outside].copy(), outside

    found = list(ordered_map(run, blocks(flat.size, size), jobs=threads))
    packed, heavy = pool.total()
    return _Filled(
        grid=grid,
        packed=packed,
        heavy=heavy,
        tail=np.concatenate([tail for tail, _ in found]),
        outside=sum(outside for _, outside in found),
    )


class _Cells:
    """Hold packed cells, and in lists what the heavy ones have given up."""

    def __init__(self, cells: int, values: int) -> None:
        self.packed = np.zeros(cells, np.uint64)
        self.spilled: list[tuple[NDArray[np.int64], NDArray[np.uint64]]] = []
        self._most = values // HEAVY + 1

    def spill(self) -> None:
        """Empty the heavy cells."""
        cells, words = np.empty(self._most, np.int64), np.empty(self._most, np.uint64)
        count = int(compiled(spill_cells)(self.packed, cells, words))
        if count:
            self.spilled.append((cells[:count], words[:count]))

    def add(self, other: _Cells) -> None:
        """Take over the contents of other cells."""
        self.packed += other.packed
        self.spilled += other.spilled
        self.spill()


class _Pool:
    """Lend accumulators to threads; as many exist as threads ever ran at once."""

    def __init__(self, cells: int, values: int) -> None:
        self._shape = cells, values
        self._free: queue.SimpleQueue[_Cells] = queue.SimpleQueue()

    @contextmanager
    def borrowed(self) -> Iterator[_Cells]:
        """Lend one accumulator."""
        try:
            cells = self._free.get_nowait()
        except queue.Empty:
            cells = _Cells(*self._shape)
        yield cells
        self._free.put(cells)

    def total(self) -> tuple[NDArray[np.uint64], Heavy]:
        """Return the contents of all accumulators together."""
        total = self._free.get_nowait()
        while not self._free.empty():
            total.add(self._free.get_nowait())
        spilled = [*total.spilled, (np.empty(0, np.int64), np.empty(0, np.uint64))]
        cells, places = np.unique(
            np.concatenate([part for part, _ in spilled]), return_inverse=True
        )
        words = np.concatenate([part for _, part in spilled])
        counts, sums = np.zeros(cells.size, np.int64), np.zeros(cells.size, np.int64)
        np.add.at(counts, places, (words >> np.uint64(COUNT_SHIFT)).astype(np.int64))
        np.add.at(sums, places, (words & np.uint64((1 << COUNT_SHIFT) - 1)).astype(np.int64))
        return total.packed, Heavy(cells=cells, counts=counts, sums=sums)


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
    places, first = np.unique((ends - grid.low) / grid.width, return_index=True)
    if places.size:
        end_counts = np.add.reduceat(end_counts, first)
    outer = Outer(places=places, counts=end_counts)
    points = _held(CellStream(filled.packed, filled.heavy, outer, (grid.low, grid.width)))
    return Survey(points=points, infinities=infinities, is_exact=False)
