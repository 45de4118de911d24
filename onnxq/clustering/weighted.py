"""Condense values that do not all matter alike into positions with weights.

Owns importance: what weights may be, and spectra in which each value counts with its weight. Small
tensors and 16-bit types give their distinct values, others a histogram with the exact weighted mean
of each cell. Sums run over the values in order, on one thread, so they are the same every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxq.clustering.grids import SAMPLE, Array, Grid, core, grid_over, power_scale, sample
from onnxq.clustering.kernels import compiled, fill_weighted
from onnxq.clustering.spectrum import Floats, Spectrum, spectrum
from onnxq.clustering.windows import WHOLE
from onnxq.errors import InputError
from onnxq.parallel import blocks

_BLOCK = 1 << 20
_CELLS = 1 << 18
"""Most cells: their running sums take 56 bytes each."""

_LEAST = 2.0**-20
"""Least weight of a value, as a share of the mean: what no sample showed may still occur."""


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Hold what the solvers need to know of a weighted tensor.

    Attributes:
        points: The finite values, their weights 1 on average, or None if there are none.
        infinities: The infinite values present, ascending: none, one or both.
        is_exact: Whether `points` are the distinct values, not histogram cells.
        inner: Weighted squared deviation of the values from their positions, in the points' units;
            0 where they are exact.
        mean: What one unit of weight stands for.
    """

    points: Spectrum | None
    infinities: Array
    is_exact: bool
    inner: float
    mean: float


class Importance:
    """Hold the weights of a tensor's values and read them in blocks, 1 on average.

    Args:
        weights: Numbers of at least 0, in a shape that broadcasts to `shape`. A weight below a
            millionth of the mean counts as that; if all are 0, all values count alike.
        shape: Shape of the values.

    Raises:
        InputError: a weight is negative, NaN or infinite, or the shape does not broadcast.
    """

    def __init__(self, weights: Array, shape: tuple[int, ...]) -> None:
        wide = np.asarray(weights, np.float64)
        if not (np.isfinite(wide).all() and (wide >= 0).all()):
            raise InputError("weights: found NaN, infinite or negative ones, expected >= 0")
        try:
            self._all = np.broadcast_to(wide, shape)
        except ValueError as error:
            found = f"found shape {list(wide.shape)}, expected one that broadcasts to {list(shape)}"
            raise InputError(f"weights: {found}") from error
        # Every weight stands for equally many values; the largest keeps the sum within range.
        largest = float(wide.max(initial=0.0)) or 1.0
        share = float((wide / largest).mean()) if wide.size else 0.0
        self.mean = share * largest if share else 0.0
        self._unit = largest, share

    def part(self, start: int, stop: int) -> Floats:
        """Return the weights of values `start` to `stop`, in C order."""
        largest, share = self._unit
        if not share:
            return np.ones(stop - start)
        if self._all.flags.c_contiguous:
            found = self._all.reshape(-1)[start:stop]
        else:
            found = self._all.flat[start:stop]
        return np.maximum(found / largest / share, _LEAST)


def weighted(values: Array, importance: Importance, k: int) -> Weighted:
    """Return the spectrum of weighted values, fine enough for `k` centroids.

    Raises:
        InputError: `values` holds NaN.
    """
    flat = values.reshape(-1)
    if flat.dtype.itemsize == 2 and flat.size > SAMPLE:
        return _of_patterns(flat, importance)
    filled = _of_cells(flat, importance, k) if flat.size > WHOLE else None
    return filled or _of_values(flat, importance.part(0, flat.size), importance.mean)


def _of_values(flat: Array, weights: Floats, mean: float) -> Weighted:
    """Condense values to the distinct ones."""
    wide = flat.astype(np.float64) + 0.0
    finite = np.isfinite(wide)
    infinities = np.unique(wide[~finite])
    if np.isnan(infinities).any():
        raise InputError("values: found NaN, expected numbers")
    if not finite.all():
        wide, weights = wide[finite], weights[finite]
    points = None
    if wide.size:
        scale = power_scale(float(np.abs(wide).max()))
        points = spectrum(*_merged(wide / scale, weights), scale=scale)
    return Weighted(points=points, infinities=infinities, is_exact=True, inner=0.0, mean=mean)


def _merged(positions: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return positions in ascending order, each once, with the sums of their weights."""
    once, inverse = np.unique(positions, return_inverse=True)
    sums: NDArray[np.float64] = np.zeros(once.size)
    sums += np.bincount(inverse, weights=weights, minlength=once.size)
    return once, sums


def _of_patterns(flat: Array, importance: Importance) -> Weighted:
    """Condense 16-bit floats by bit pattern."""
    patterns, table = flat.view(np.uint16), np.zeros(SAMPLE)
    for start, stop in blocks(flat.size, _BLOCK):
        part = importance.part(start, stop)
        table += np.bincount(patterns[start:stop], weights=part, minlength=SAMPLE)
    found = np.flatnonzero(table)
    values: Array = found.astype(np.uint16).view(flat.dtype)
    return _of_values(values, table[found], importance.mean)


def _of_cells(flat: Array, importance: Importance, k: int) -> Weighted | None:
    """Condense many values by histogram; None where their range defeats one."""
    cells = min(max(256 * k, 1 << 16), _CELLS)
    grids = _grids(flat, cells)
    for grid in grids:
        if grid is not None:
            filled = _fill(flat, importance, grid)
            if filled is not None:
                return filled
    return None


def _grids(flat: Array, cells: int) -> Iterator[Grid | None]:
    """Yield cells over the range of a sample, then over that of all finite values."""
    span = core(sample(flat))
    if span is not None:
        margin = (span[1] - span[0]) / 8
        yield grid_over(span[0] - margin, span[1] + margin, cells)
    finite = flat[np.isfinite(flat)]
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        yield grid_over(low, float(np.nextafter(high, np.inf)), cells)


def _fill(flat: Array, importance: Importance, grid: Grid) -> Weighted | None:
    """Lay weighted values into a grid; None if too many lie outside."""
    cells = np.zeros(grid.cells), np.zeros(grid.cells), np.zeros(grid.cells)
    tails: list[tuple[Array, Floats]] = []
    for start, stop in blocks(flat.size, _BLOCK):
        room = (stop - start) // 64 + 1
        tail = np.empty(room, flat.dtype), np.empty(room)
        part = flat[start:stop], importance.part(start, stop)
        outside = int(compiled(fill_weighted)(*part, (grid.low, grid.width), cells, tail))
        if outside > room:
            return None
        tails.append((tail[0][:outside].copy(), tail[1][:outside].copy()))
    outer = np.concatenate([tail for tail, _ in tails]).astype(np.float64)
    outer_weights = np.concatenate([weights for _, weights in tails])
    return _joined(grid, cells, (outer, outer_weights), importance.mean)


def _joined(
    grid: Grid,
    cells: tuple[Floats, Floats, Floats],
    outer: tuple[Floats, Floats],
    mean: float,
) -> Weighted:
    """Return the cells in use and the values outside as one spectrum, in cells."""
    used = np.flatnonzero(cells[0])
    mass, sums, squares = (array[used] for array in cells)
    places = used + 0.5 + sums / mass
    inner = float(np.sum(np.maximum(squares - sums * sums / mass, 0.0)))
    tail, tail_weights = outer
    if np.isnan(tail).any():
        raise InputError("values: found NaN, expected numbers")
    finite = np.isfinite(tail)
    positions = np.concatenate((places, (tail[finite] - grid.low) / grid.width))
    weights = np.concatenate((mass, tail_weights[finite]))
    points = spectrum(*_merged(positions, weights), origin=grid.low, scale=grid.width)
    return Weighted(
        points=points,
        infinities=np.unique(tail[~finite]),
        is_exact=False,
        inner=inner,
        mean=mean,
    )
