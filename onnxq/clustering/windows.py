"""The positions of a large tensor, read a window at a time.

Owns what stands between a large tensor and the solver, so that running sums exist for one window
only. A *stream* numbers its contents by slots: the places of a sorted copy, or the cells of a
histogram with the values outside them. A position is one distinct value or one cell in use; it is
named by its first slot, because that is known without counting what lies before. Edges of a cut of
a stream are slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.clustering.kernels import (
    CELL_BITS,
    COUNT_SHIFT,
    compiled,
    sum_cells,
    sum_sorted,
    unpack_cells,
)
from onnxq.clustering.spectrum import Floats, Spectrum, compensated, spectrum

Slots = NDArray[np.int64]

WINDOW = 1 << 16
"""Positions that a window has, about; less where the tensor ends."""

WHOLE = 1 << 17
"""Positions up to which a tensor is held as one spectrum."""

STEP = 64
"""Slots between two places where running sums are kept."""

Sums = tuple[Floats, Floats, Floats]
"""Running weight, running sum of weight * (position - centre), and its rounding errors."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Hold neighbouring positions with weights, and the slots where each starts and all end."""

    positions: Floats
    weights: Floats
    slots: Slots

    @property
    def points(self) -> Spectrum:
        """Return the part as a spectrum, from its running sums anew."""
        return spectrum(self.positions, self.weights)


class Stream(ABC):
    """Give the positions of a tensor part by part.

    Attributes:
        size: Number of slots.
        count: Number of positions.
        ends: The range of the positions, not too wide.
        origin: Value of position 0.
        scale: Value of one step of 1; a power of two.
        length: Positions of a window, about.
        longest: Positions of a window, about, that is not made longer if it can be helped.
    """

    length = WINDOW

    def __init__(
        self, size: int, ends: tuple[float, float], *, origin: float = 0.0, scale: float = 1.0
    ) -> None:
        self.size, self.ends, self.origin, self.scale = size, ends, origin, scale
        self.count = 0
        # 68 bytes each, so at most 1.4 bytes a value where there are many.
        self.longest = max(2 * WINDOW, size // 48)

    @abstractmethod
    def part(self, start: int, stop: int) -> Part:
        """Return the positions that start in the slots `start .. stop`, the last one entire."""

    @abstractmethod
    def after(self, limits: Floats) -> Slots:
        """Return for each limit a slot: the positions before it are those up to the limit."""

    @abstractmethod
    def positions(self, slots: Slots) -> Floats:
        """Return the positions in the slots; of an empty one, what lies between its neighbours."""

    @abstractmethod
    def rungs(self, centre: float) -> Sums:
        """Return running sums at every `STEP`-th slot, for `sums`."""

    @abstractmethod
    def sums(self, slots: Slots, centre: float, rungs: Sums) -> Sums:
        """Return the running sums of all positions before each slot."""

    def window(self, start: int, want: int) -> Part:
        """Return about `want` positions from the slot `start` on, fewer only at the end."""
        parts: list[Part] = []
        found = 0
        while start < self.size and found < want:
            parts.append(self.part(start, min(start + max(want - found, want // 4), self.size)))
            found += parts[-1].positions.size
            start = int(parts[-1].slots[-1])
        return _joined(parts)

    def whole(self) -> Spectrum:
        """Return all positions as one spectrum: 48 bytes each, and more while it is made."""
        part = self.window(0, self.size)
        return spectrum(part.positions, part.weights, origin=self.origin, scale=self.scale)

    def every(self) -> Slots:
        """Return the edges of the cut with one position a run."""
        return self.window(0, self.size).slots

    def means(self, edges: Slots) -> Floats:
        """Return the mean of every run of slots `edges[i] .. edges[i + 1]`."""
        return self._measured(edges)[0]

    def cost(self, edges: Slots) -> float:
        """Return the sum of squared deviations of all runs from their means."""
        return self._measured(edges)[1]

    def condensed(self, limit: int) -> Spectrum:
        """Return about `limit` groups of neighbours, spread half over ranks, half over range."""
        means, weights = [], []
        grid = np.linspace(*self.ends, limit // 2 + 1)
        start = 0
        while start < self.size:
            part = self.window(start, self.length)
            start = int(part.slots[-1])
            points, n = part.points, part.positions.size
            ranks = np.linspace(0, n, 1 + max(1, n * (limit // 2) // self.count)).astype(np.intp)
            inside = grid[(grid > points.positions[0]) & (grid <= points.positions[-1])]
            edges = np.union1d(ranks, np.searchsorted(points.positions, inside))
            means.append(points.means(edges))
            weights.append(np.diff(points.weight[edges]))
        return spectrum(np.concatenate(means), np.concatenate(weights))

    def _measured(self, edges: Slots) -> tuple[Floats, float]:
        """Return the means of all runs, and their cost."""
        means, cost, at = [], 0.0, 0
        while at < edges.size - 1:
            last = int(np.searchsorted(edges, edges[at] + self.length, side="right")) - 1
            if last > at:
                part = self.part(int(edges[at]), int(edges[last]))
                points, local = part.points, np.searchsorted(part.slots, edges[at : last + 1])
                means.append(points.means(local))
                cost += points.cost(local)
            else:
                last = at + 1
                mean, deviation = self._large(int(edges[at]), int(edges[last]))
                means.append(mean)
                cost += deviation
            at = last
        return np.concatenate(means), cost

    def _large(self, start: int, stop: int) -> tuple[Floats, float]:
        """Return the mean and the cost of one run that is longer than a window."""
        means, weights, cost = [], [], 0.0
        while start < stop:
            part = self.part(start, min(start + self.length, stop))
            start = int(part.slots[-1])
            if part.positions.size:
                points, local = part.points, np.array([0, part.positions.size])
                means.append(points.means(local))
                weights.append(points.weight[-1:].copy())
                cost += points.cost(local)
        pieces = spectrum(np.concatenate(means), np.concatenate(weights))
        local = np.array([0, pieces.positions.size])
        return pieces.means(local), cost + pieces.cost(local)


class SortedStream(Stream):
    """Stream the distinct values of an ascending array of finite values; its slots are places."""

    def __init__(self, ordered: NDArray[Any], scale: float) -> None:
        ends = float(ordered[0]) / scale, float(ordered[-1]) / scale
        super().__init__(ordered.size, ends, scale=scale)
        self._ordered = ordered
        self.count = 1
        for start in range(0, ordered.size - 1, WINDOW):
            some = ordered[start : start + WINDOW + 1]
            self.count += int(np.count_nonzero(some[1:] != some[:-1]))

    def part(self, start: int, stop: int) -> Part:
        """Return the distinct values of places `start .. stop` with all their repeats."""
        some = self._ordered[start:stop]
        firsts = np.flatnonzero(np.concatenate(([True], some[1:] != some[:-1])))
        end = np.searchsorted(self._ordered, some[-1], side="right")
        slots = np.append(firsts + start, end)
        positions = some[firsts].astype(np.float64) / self.scale + 0.0
        return Part(positions=positions, weights=np.diff(slots).astype(np.float64), slots=slots)

    def after(self, limits: Floats) -> Slots:
        """Return the number of values up to each limit."""
        exact = limits * self.scale
        with np.errstate(over="ignore", under="ignore"):
            lower = exact.astype(self._ordered.dtype)
        # Sought in its own type, so that the array is not copied into a wider one.
        least = self._ordered.dtype.type(-np.inf)
        lower = np.where(lower > exact, np.nextafter(lower, least), lower)
        return np.searchsorted(self._ordered, lower, side="right")

    def positions(self, slots: Slots) -> Floats:
        """Return the values in their places."""
        found: Floats = self._ordered[slots].astype(np.float64) / self.scale + 0.0
        return found

    def rungs(self, centre: float) -> Sums:
        """Return running sums at every `STEP`-th place."""
        starts, stops = _steps(self.size)
        sums = np.zeros(stops.size), np.zeros(stops.size)
        units = self.scale, centre
        compiled(sum_sorted)(self._ordered, units, (starts, stops), sums, True)
        return stops.astype(np.float64), *sums

    def sums(self, slots: Slots, centre: float, rungs: Sums) -> Sums:
        """Return the running sums of the values before each place."""
        steps = slots // STEP
        sums = rungs[1][steps], rungs[2][steps]
        units = self.scale, centre
        compiled(sum_sorted)(self._ordered, units, (steps * STEP, slots), sums, False)
        return slots.astype(np.float64), *sums


@dataclass(frozen=True, kw_only=True)
class Heavy:
    """Hold what full cells have given up: cells, ascending, with counts and sums."""

    cells: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Hold values outside the cells, in cells from the first one's edge, and how many of each."""

    places: Floats
    counts: NDArray[np.int64]


class CellStream(Stream):
    """Stream the means of the cells in use and the values outside; slots are cells and values."""

    def __init__(
        self, packed: NDArray[np.uint64], heavy: Heavy, outer: Outer, grid: tuple[float, float]
    ) -> None:
        self._packed, self._heavy, self._outer = packed, heavy, outer
        self._below = int(np.searchsorted(outer.places, 0.0))
        low, high = 0.0, float(packed.size)
        if outer.places.size:
            low, high = min(low, float(outer.places[0])), max(high, float(outer.places[-1]))
        size = packed.size + outer.places.size
        super().__init__(size, (low, high), origin=grid[0], scale=grid[1])
        if self._below == outer.places.size:
            # The last slot holds a position, so that no window is without any.
            unused = int(np.argmax(packed[::-1] != 0)) if packed.any() else packed.size
            last = max(packed.size - unused, int(heavy.cells[-1]) + 1 if heavy.cells.size else 0)
            self._packed = packed = packed[:last]
            self.size = last + self._below
        only_heavy = np.count_nonzero(packed[heavy.cells] == 0)
        self.count = int(np.count_nonzero(packed) + only_heavy) + outer.places.size

    def part(self, start: int, stop: int) -> Part:
        """Return the means of the cells in use and the outer values in the slots."""
        first, last = self._below, self._below + self._packed.size
        pieces = [
            self._outside(start, min(stop, first), 0),
            self._inside(max(start, first), min(stop, last)),
            self._outside(max(start, last), stop, self._packed.size),
        ]
        part = _joined([piece for piece in pieces if piece is not None])
        return Part(
            positions=part.positions,
            weights=part.weights,
            slots=np.append(part.slots[:-1], stop),
        )

    def after(self, limits: Floats) -> Slots:
        """Return the cells and outer values up to each limit, cells by their means."""
        cells = np.clip(np.floor(limits), 0, self._packed.size - 1).astype(np.int64)
        inside = cells + (self._means(cells) <= limits)
        inside = np.where(
            limits < 0, 0, np.where(limits >= self._packed.size, self._packed.size, inside)
        )
        return inside + np.searchsorted(self._outer.places, limits, side="right")

    def positions(self, slots: Slots) -> Floats:
        """Return means of cells and outer values; of an empty cell its lower edge."""
        cells = slots - self._below
        found = self._means(np.clip(cells, 0, self._packed.size - 1))
        is_outer = (cells < 0) | (cells >= self._packed.size)
        found[is_outer] = self._outer.places[self._outer_before(slots[is_outer])]
        return found

    def rungs(self, centre: float) -> Sums:
        """Return running sums at every `STEP`-th cell."""
        spans = _steps(self._packed.size)
        sums = np.zeros(spans[1].size), np.zeros(spans[1].size), np.zeros(spans[1].size)
        compiled(sum_cells)(self._packed, self._more, centre, spans, sums, True)
        return sums

    def sums(self, slots: Slots, centre: float, rungs: Sums) -> Sums:
        """Return the running sums of cells and outer values before each slot."""
        cells = np.clip(slots - self._below, 0, self._packed.size)
        steps = cells // STEP
        sums = rungs[0][steps], rungs[1][steps], rungs[2][steps]
        compiled(sum_cells)(self._packed, self._more, centre, (steps * STEP, cells), sums, False)
        outer = self._outer_before(slots)
        counts = self._outer.counts.astype(np.float64)
        high, low = compensated(counts * (self._outer.places - centre))
        weight, high, low = (np.append(0.0, run)[outer] for run in (np.cumsum(counts), high, low))
        total = sums[1] + high
        part = total - sums[1]
        error = (sums[1] - (total - part)) + (high - part)
        return sums[0] + weight, total, sums[2] + low + error

    @property
    def _more(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        return self._heavy.cells, self._heavy.counts, self._heavy.sums

    def _outer_before(self, slots: Slots) -> Slots:
        """Return how many outer values stand before each slot."""
        return np.minimum(slots, self._below) + np.maximum(
            slots - self._below - self._packed.size, 0
        )

    def _means(self, cells: Slots) -> Floats:
        """Return the means of cells; of an empty one its lower edge."""
        words = self._packed[cells]
        counts = (words >> np.uint64(COUNT_SHIFT)).astype(np.int64)
        totals = (words & np.uint64((1 << COUNT_SHIFT) - 1)).astype(np.int64)
        heavy = self._heavy
        if heavy.cells.size:
            found = np.minimum(np.searchsorted(heavy.cells, cells), heavy.cells.size - 1)
            is_heavy = heavy.cells[found] == cells
            counts += np.where(is_heavy, heavy.counts[found], 0)
            totals += np.where(is_heavy, heavy.sums[found], 0)
        return cells + totals / np.maximum(counts, 1) * 2.0**-CELL_BITS

    def _outside(self, start: int, stop: int, skipped: int) -> Part | None:
        if start >= stop:
            return None
        which = slice(start - skipped, stop - skipped)
        return Part(
            positions=self._outer.places[which],
            weights=self._outer.counts[which].astype(np.float64),
            slots=np.arange(start, stop + 1),
        )

    def _inside(self, start: int, stop: int) -> Part | None:
        if start >= stop:
            return None
        base = start - self._below
        words = self._packed[base : stop - self._below]
        heavy = self._heavy
        some = slice(*np.searchsorted(heavy.cells, (base, base + words.size)))
        more = heavy.cells[some], heavy.counts[some], heavy.sums[some]
        found = np.empty(words.size), np.empty(words.size)
        cells = np.empty(words.size + 1, np.int64)
        used = int(compiled(unpack_cells)(words, base, more, found, cells))
        cells[used] = base + words.size
        slots = cells[: used + 1] + self._below
        return Part(positions=found[0][:used], weights=found[1][:used], slots=slots)


def _steps(size: int) -> tuple[Slots, Slots]:
    """Return spans that end at every `STEP`-th slot, an empty one first."""
    stops = np.arange(0, size + 1, STEP)
    return np.maximum(stops - STEP, 0), stops


def _joined(parts: list[Part]) -> Part:
    """Return neighbouring parts as one."""
    if len(parts) == 1:
        return parts[0]
    return Part(
        positions=np.concatenate([part.positions for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
        slots=np.concatenate([*(part.slots[:-1] for part in parts), parts[-1].slots[-1:]]),
    )
