"""Where the cells of a histogram stand: a core range of values, cut at round places.

Owns the sample that is looked at before any pass over all values, and the grid: its cells are a
power of two wide and start at a multiple of it, so that 0 and other round values keep their exact
place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

SAMPLE = 1 << 16
"""Values looked at before a pass over all of them is chosen."""

_TRIMS = (2.0**-12, 2.0**-10, 2.0**-8)


def sample(flat: Array) -> Array:
    """Return at most 65,536 values spread over the array, off any regular stride."""
    if flat.size <= SAMPLE:
        return flat
    steps = np.arange(SAMPLE)
    # The golden ratio's multiples are spread evenly: no row length of a matrix is in step.
    places = (steps + (steps * 0.6180339887498949) % 1.0) * (flat.size / SAMPLE)
    picked: Array = flat[np.minimum(places.astype(np.intp), flat.size - 1)]
    return picked


def core(few: Array) -> tuple[float, float] | None:
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
class Grid:
    """Hold cells of width `width` (a power of two) from `low` (a multiple of it) upwards."""

    low: float
    width: float
    cells: int


def grid_over(low: float, high: float, cells: int) -> Grid | None:
    """Return 0.75 to 1.5 times `cells` cells over a range, or None where float64 cannot."""
    spread = high - low
    if not (math.isfinite(spread) and spread > 2.0**-900):
        return None
    width = math.ldexp(1.0, math.floor(math.log2(spread / (0.75 * cells))))
    bottom = math.floor(low / width)
    if abs(bottom) > 2**52:
        return None
    return Grid(low=bottom * width, width=width, cells=math.floor(high / width) - bottom + 1)


def power_scale(largest: float) -> float:
    """Return the power of two that keeps squares of float64 values within range."""
    exponent = math.frexp(largest)[1]
    return math.ldexp(1.0, min(max(exponent, -1000), 1000)) if abs(exponent) > 200 else 1.0
