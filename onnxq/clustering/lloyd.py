"""Lloyd's iteration on a spectrum, and the starting centroids it is given.

Owns the published method (spec: bounded probability density, quantiles, uniform grid). A round
costs O(K log n): thresholds are found in the sorted positions, sums come from running sums, of a
whole `Spectrum` or of a stream's `Ladder`.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BINS = 4096
"""Most bins of the histogram that is clipped; small tensors take fewer, 16 values to a bin."""


class Points(Protocol):
    """Answer for weighted positions in ascending order: a `Spectrum` or a `Ladder`."""

    @property
    def total(self) -> float:
        """The weight of all positions."""

    def split(self, limits: Floats) -> tuple[Floats, Floats]:
        """Return the weight up to each nonempty run between limits, and the runs' means."""

    def below(self, limits: Floats) -> Floats:
        """Return the weight of the positions below each limit."""

    def at(self, ranks: Floats) -> Floats:
        """Return the first position up to which each weight lies."""


def lloyd(points: Points, centroids: Floats, max_iterations: int) -> tuple[Floats, int]:
    """Return the centroids after Lloyd's iteration and the number of rounds taken.

    A round assigns every position to its nearest centroid (a tie goes to the lower one), drops
    centroids without any and moves the others to the mean. It ends when the assignment repeats.

    Args:
        points: The values.
        centroids: float64, ascending.
        max_iterations: Most rounds; 0 returns the centroids as they are.
    """
    previous: Floats | None = None
    for rounds in range(max_iterations):
        marks, means = points.split(centroids[:-1] / 2 + centroids[1:] / 2)
        if previous is not None and np.array_equal(marks, previous):
            return centroids, rounds
        previous, centroids = marks, means
    return centroids, max_iterations


def start(
    points: Points, k: int, init: Literal["bounded-pdf", "quantile", "uniform"], factor: float
) -> Floats:
    """Return up to `k` ascending starting centroids.

    - bounded-pdf: the histogram's density is clipped to mean * (1 - factor) .. mean * (1 + factor)
      and renormalised; centroid i is the quantile (i + 1/2) / k of the result. A factor of 0 is
      the uniform grid.
    - quantile: centroid i is the value of rank (i + 1/2) / k.
    - uniform: centroid i is the centre of part i of k equal parts of the range.
    """
    low, high = points.at(np.array([0.0, points.total])).tolist()
    shares = (np.arange(k) + 0.5) / k
    if init == "quantile":
        return np.unique(points.at(shares * points.total))
    if init == "uniform" or factor == 0 or low == high:
        return np.unique(low * (1 - shares) + high * shares)
    return np.unique(_bounded(points, shares, factor, (low, high)))


def _bounded(points: Points, shares: Floats, factor: float, ends: tuple[float, float]) -> Floats:
    """Return the quantiles `shares` of the clipped density over equal bins."""
    bins = int(min(max(points.total / 16, 32), _BINS))
    parts = np.arange(bins + 1) / bins
    grid = ends[0] * (1 - parts) + ends[1] * parts
    mass = np.diff(np.concatenate(([0.0], points.below(grid[1:-1]), [points.total])))
    mean = mass.mean()
    clipped = np.clip(mass, mean * (1 - factor), mean * (1 + factor))
    running = np.concatenate(([0.0], np.cumsum(clipped)))
    return np.interp(shares, running / running[-1], grid)
