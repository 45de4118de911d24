"""Sequential loops of clustering, as plain functions that run interpreted or compiled.

Owns the inner loops and their compilation; knows nothing of options or records. Every kernel is
ordinary Python over indexable sequences, so that small inputs need no compiler and tests can hold
both ways to the same bytes. numba is imported by the first `compiled` call, because the import
costs more than clustering a small model; its disk cache is used where some folder is writable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

WORTHWHILE = 50_000
"""Elements from which importing the compiler is cheaper than interpreting a kernel."""

CELL_BITS = 19
"""Binary places of a value's position inside its histogram cell."""

COUNT_SHIFT = 41
"""Lowest bit of the count in a packed cell: sums of 2**22 values of CELL_BITS bits lie below."""

HEAVY = 1 << 21
"""Values from which a packed cell is emptied, so that as many again may be added to any."""


def is_worthwhile(elements: int, *, is_loop: bool = False) -> bool:
    """Return whether a kernel over so many elements should run compiled; never changes bytes.

    A loop that numpy cannot express gains from 64 elements on once the compiler is there; for a
    kernel that numpy could replace, loading its machine code costs more than a small tensor gains.
    """
    return elements >= WORTHWHILE or (is_loop and elements >= 64 and "numba" in sys.modules)


@cache
def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return the machine-code form of a kernel of this module; it releases the interpreter lock.

    Compiled code is kept beside this file or, if that is read-only, in the user's cache folder; if
    neither can be written, or what is kept there cannot be loaded, it is compiled in memory.
    """
    import numba

    try:
        kept = numba.njit(cache=True, nogil=True)(kernel)
    except RuntimeError:  # numba's word for "no writable cache folder"
        return _fresh(kernel)

    def run(*args: Any) -> Any:
        try:
            return kept(*args)
        except (RuntimeError, OSError, EOFError):  # a cache file cut short, by a full disk say
            return _fresh(kernel)(*args)

    return run


@cache
def _fresh(kernel: Callable[..., Any]) -> Callable[..., Any]:
    import numba

    machine_code: Callable[..., Any] = numba.njit(nogil=True)(kernel)
    return machine_code


def least_weight_path(runs: Any, penalty: float, best: Any, parent: Any, queue: Any) -> None:
    """Find the cheapest cut of n points into runs, each run costing `penalty` more.

    A later start, once better than an earlier one, stays better: the queue holds the starts that
    win ahead, with the first stop each wins at. Near O(n); of equal starts the lowest wins.

    Args:
        runs: Running weight, sum, sum's error, square and square's error; n + 1 entries each.
        penalty: Added once per run.
        best: Output, n + 1 floats: least total up to each stop.
        parent: Output, n + 1 integers: start of the last run of that least total.
        queue: Workspace, two sequences of n + 1 integers.
    """
    weight, total, total_error, square, square_error = runs
    starts, since = queue
    count, head, tail = len(weight) - 1, 0, 0
    best[0], starts[0], since[0] = 0.0, 0, 1
    for stop in range(1, count + 1):
        while head < tail and since[head + 1] <= stop:
            head += 1
        last = starts[head]
        value = best[last] + penalty
        if stop - last > 1:
            t = (total[stop] - total[last]) + (total_error[stop] - total_error[last])
            s = (square[stop] - square[last]) + (square_error[stop] - square_error[last])
            value += s - t * t / (weight[stop] - weight[last])
        best[stop], parent[stop] = value, last
        is_beaten = True
        while is_beaten:
            last, low = starts[tail], max(since[tail] - 1, stop)
            first, high, step = low + 1, count + 1, 1
            while high - low > 1:
                probe = (low + high) >> 1 if step == 0 else min(low + step, count)
                t = (total[probe] - total[last]) + (total_error[probe] - total_error[last])
                s = (square[probe] - square[last]) + (square_error[probe] - square_error[last])
                rival = best[last] + (s - t * t / (weight[probe] - weight[last]))
                own = value
                if probe - stop > 1:
                    t = (total[probe] - total[stop]) + (total_error[probe] - total_error[stop])
                    s = (square[probe] - square[stop]) + (square_error[probe] - square_error[stop])
                    own += s - t * t / (weight[probe] - weight[stop])
                if own < rival:
                    high, step = probe, 0
                else:
                    low, step = probe, step * 2
            is_beaten = high == first and tail > head
            tail -= is_beaten
        if high <= count:
            tail += high > first
            starts[tail], since[tail] = stop, high


def fill_cells(values: Any, low: float, scale: float, packed: Any, tail: Any) -> int:
    """Add values to packed cells; return how many lie outside all cells (NaN and Inf among them).

    A cell packs a count (from COUNT_SHIFT up) and a sum of positions inside the cell in units of
    2**-CELL_BITS cells, so integers make the result independent of the order.

    Args:
        values: Floats, at most HEAVY between two spills.
        low: Lower edge of cell 0.
        scale: Units per 1.0: 2**CELL_BITS over the cell width.
        packed: uint64, one per cell.
        tail: Output: the outside values, as far as they fit.
    """
    limit = np.float64(packed.size << CELL_BITS)
    mask, one = np.uint64((1 << CELL_BITS) - 1), np.uint64(1 << COUNT_SHIFT)
    shift = np.uint64(CELL_BITS)
    outside = 0
    for value in values:
        place = (np.float64(value) - low) * scale
        if place >= 0.0 and place < limit:
            units = np.uint64(place)
            packed[units >> shift] += (units & mask) | one
        else:
            if outside < tail.size:
                tail[outside] = value
            outside += 1
    return outside


def spill_cells(packed: Any, cells: Any, words: Any) -> int:
    """Empty the packed cells that hold HEAVY values or more; return how many.

    Args:
        packed: uint64, one per cell.
        cells: Output: the emptied cells.
        words: Output: what they held.
    """
    limit = np.uint64(HEAVY << COUNT_SHIFT)
    spilled = 0
    for cell in range(packed.size):
        if packed[cell] >= limit:
            cells[spilled], words[spilled] = cell, packed[cell]
            packed[cell] = 0
            spilled += 1
    return spilled


def unpack_cells(words: Any, base: int, heavy: Any, positions: Any, cells: Any) -> int:
    """Write cell, count and mean of every packed cell in use; return how many there are.

    Args:
        words: uint64, packed cells `base`, `base + 1` and so on.
        base: Number of the first cell.
        heavy: Cells, ascending, with the counts and the sums that they hold besides.
        positions: Output, a pair: means, in cells from the edge of cell 0, and counts as floats.
        cells: Output: numbers of cells.
    """
    mask, shift = np.uint64((1 << COUNT_SHIFT) - 1), np.uint64(COUNT_SHIFT)
    heavy_cells, heavy_counts, heavy_sums = heavy
    means, weights = positions
    used, ahead = 0, 0
    for at in range(words.size):
        count, total = np.int64(words[at] >> shift), np.int64(words[at] & mask)
        if ahead < heavy_cells.size and heavy_cells[ahead] == base + at:
            count += heavy_counts[ahead]
            total += heavy_sums[ahead]
            ahead += 1
        if count > 0:
            cells[used], weights[used] = base + at, count
            means[used] = (base + at) + total / count * 2.0**-CELL_BITS
            used += 1
    return used


def sum_outward(positions: Any, weights: Any, middle: int, sums: Any, squares: Any) -> None:
    """Write running moments about the middle position, 0 there, with the errors they dropped.

    Args:
        positions: Ascending floats, n of them.
        weights: As many.
        middle: Index of the position where sums begin.
        sums: Output, a pair of n + 1 floats: weight * offset, and its rounding errors (two-sum).
        squares: Output: the same of weight * offset**2.
    """
    centre = positions[middle]
    for step in (1, -1):
        at = middle if step > 0 else middle - 1
        high, low, high2, low2 = 0.0, 0.0, 0.0, 0.0
        sums[0][middle] = sums[1][middle] = squares[0][middle] = squares[1][middle] = 0.0
        while 0 <= at < positions.size:
            offset = positions[at] - centre
            term = weights[at] * offset
            total = high + term
            part = total - high
            low += (high - (total - part)) + (term - part)
            high = total
            term = term * offset
            total = high2 + term
            part = total - high2
            low2 += (high2 - (total - part)) + (term - part)
            high2 = total
            stop = at + 1 if step > 0 else at
            sums[0][stop], sums[1][stop] = step * high, step * low
            squares[0][stop], squares[1][stop] = step * high2, step * low2
            at += step


def sum_sorted(ordered: Any, units: Any, spans: Any, sums: Any, is_chained: bool) -> None:
    """Add up the values of spans of a sorted array, each addition's rounding error in a second sum.

    Args:
        ordered: Floats.
        units: (scale, centre): value / scale - centre is added.
        spans: First places, and places behind the last.
        sums: A pair of float arrays, one entry a span: the sum so far, replaced, and its errors.
        is_chained: Whether every span but the first goes on with the sum of the one before.
    """
    scale, centre = units
    starts, stops = spans
    highs, lows = sums
    for span in range(starts.size):
        before = span - 1 if is_chained and span > 0 else span
        high, low = highs[before], lows[before]
        for at in range(starts[span], stops[span]):
            term = np.float64(ordered[at]) / scale - centre
            total = high + term
            part = total - high
            low += (high - (total - part)) + (term - part)
            high = total
        highs[span], lows[span] = high, low


def sum_cells(
    packed: Any, heavy: Any, centre: float, spans: Any, sums: Any, is_chained: bool
) -> None:
    """Add up spans of packed cells like `sum_sorted`.

    Args:
        packed: uint64.
        heavy: Cells, ascending, with the counts and the sums that they hold besides.
        centre: In cells; (mean - centre) * count is added.
        spans: First cells, and cells behind the last.
        sums: Three float arrays, one entry a span: weight, sum and its errors so far, replaced.
        is_chained: As in `sum_sorted`.
    """
    mask, shift = np.uint64((1 << COUNT_SHIFT) - 1), np.uint64(COUNT_SHIFT)
    heavy_cells, heavy_counts, heavy_sums = heavy
    starts, stops = spans
    weights, highs, lows = sums
    for span in range(starts.size):
        before = span - 1 if is_chained and span > 0 else span
        weight, high, low = weights[before], highs[before], lows[before]
        ahead = np.searchsorted(heavy_cells, starts[span])
        for at in range(starts[span], stops[span]):
            count, held = np.int64(packed[at] >> shift), np.int64(packed[at] & mask)
            if ahead < heavy_cells.size and heavy_cells[ahead] == at:
                count += heavy_counts[ahead]
                held += heavy_sums[ahead]
                ahead += 1
            if count > 0:
                term = count * ((at + held / count * 2.0**-CELL_BITS) - centre)
                total = high + term
                part = total - high
                low += (high - (total - part)) + (term - part)
                high = total
                weight += count
        weights[span], highs[span], lows[span] = weight, high, low


def nearest(values: Any, grid: Any, first: Any, limits: Any, book: Any, out: Any) -> Any:
    """Write the number of limits below each value; return (sum of squared residuals, NaNs).

    Args:
        values: Floats of the working precision.
        grid: (low, scale) of that precision; cell c holds values with floor((v - low) * scale) c.
        first: Unsigned, cells + 1: number of limits that lie in lower cells.
        limits: Ascending, padded with +inf.
        book: float64 centroids, as many as limits.
        out: Output indices.
    """
    low, scale = grid
    zero, top = values.dtype.type(0), values.dtype.type(first.size - 1)
    total, nans = 0.0, 0
    for at in range(values.size):
        value = values[at]
        place = (value - low) * scale
        if place >= zero and place < top:
            cell = np.uint32(place)
            index = np.uint32(first[cell])
            if value > limits[index]:
                inside = limits[index + 1 : first[cell + 1]]
                index = np.uint32(index + 1 + np.searchsorted(inside, value))
            residual = np.float64(value) - book[index]
            total += residual * residual
        elif value == value:
            index = np.uint32(np.searchsorted(limits[:-1], value))
            if value - value == 0:
                residual = np.float64(value) - book[index]
                total += residual * residual
        else:
            index, nans = np.uint32(0), nans + 1
        out[at] = index
    return total, nans


def squared_residuals(values: Any, indices: Any, book: Any) -> float:
    """Return the sum of squared residuals of finite values, added in order in float64."""
    total = 0.0
    for at in range(values.size):
        value = np.float64(values[at])
        if value - value == 0:
            residual = value - book[indices[at]]
            total += residual * residual
    return total


def tally(patterns: Any, shift: int, keys: Any, counts: Any, used: int) -> int:
    """Count distinct integers in a hash table; return how many it holds now, -1 if too many.

    Args:
        patterns: Unsigned integers.
        shift: 64 minus the binary logarithm of the table's size.
        keys: The table's integers, of the patterns' type.
        counts: int64; 0 marks an empty slot.
        used: How many slots are taken on entry; half the table may be.
    """
    last = np.int64(keys.size - 1)
    for pattern in patterns:
        slot = np.int64((np.uint64(pattern) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(shift))
        while counts[slot] > 0 and keys[slot] != pattern:
            slot = (slot + 1) & last
        if counts[slot] == 0:
            if 2 * used > last:
                return -1
            keys[slot] = pattern
            used += 1
        counts[slot] += 1
    return used


def fill_weighted(values: Any, weights: Any, grid: Any, cells: Any, outside: Any) -> int:
    """Add weighted values to cells, in order; return how many lie outside all (NaN among them).

    Args:
        values: Floats.
        weights: float64, as many.
        grid: (low, width) of the cells.
        cells: Three float64 arrays, one entry a cell: the weight, the weighted sum of places from
            the cell's middle, in cells, and of their squares.
        outside: Output, a pair of arrays: outside values and their weights, as far as they fit.
    """
    low, width = grid
    mass, sums, squares = cells
    tail, tail_weights = outside
    top = np.float64(mass.size)
    count = 0
    for at in range(values.size):
        place = (np.float64(values[at]) - low) / width
        if place >= 0.0 and place < top:
            cell = np.int64(place)
            inside = place - cell - 0.5
            term = weights[at] * inside
            mass[cell] += weights[at]
            sums[cell] += term
            squares[cell] += term * inside
        else:
            if count < tail.size:
                tail[count], tail_weights[count] = values[at], weights[at]
            count += 1
    return count
