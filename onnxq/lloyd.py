"""Lloyd's iteration on a spectrum, and the starting centroids it is given.

Owns the published method (spec: bounded probability density, quantiles, uniform grid). A round
costs O(K log n): thresholds are found in the sorted positions, sums come from running sums.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxq.spectrum import Spectrum

Floats = NDArray[np.float64]

_BINS = 4096
"""Most bins of the histogram that is clipped; small tensors take fewer, 16 values to a bin."""


def lloyd(spectrum: Spectrum, centroids: Floats, max_iterations: int) -> tuple[Floats, int]:
    """Return the centroids after Lloyd's iteration and the number of rounds taken.

    A round assigns every position to its nearest centroid (a tie goes to the lower one), drops
    centroids without any and moves the others to the mean. It ends when the assignment repeats.

    Args:
        spectrum: The values.
        centroids: float64, ascending.
        max_iterations: Most rounds; 0 returns the centroids as they are.
    """
    previous: NDArray[np.intp] | None = None
    for rounds in range(max_iterations):
        edges = partition(spectrum, centroids)
        if previous is not None and np.array_equal(edges, previous):
            return centroids, rounds
        centroids = spectrum.means(edges)
        previous = edges
    return centroids, max_iterations


def partition(spectrum: Spectrum, centroids: Floats) -> NDArray[np.intp]:
    """Return the edges `0 = e[0] < .. < e[m] = n` of the clusters that own any position."""
    middles = centroids[:-1] / 2 + centroids[1:] / 2
    inner = np.searchsorted(spectrum.positions, middles, side="right")
    edges = np.concatenate(([0], inner, [spectrum.positions.size]))
    return edges[np.concatenate(([True], edges[1:] > edges[:-1]))]


def start(
    spectrum: Spectrum, k: int, init: Literal["bounded-pdf", "quantile", "uniform"], factor: float
) -> Floats:
    """Return up to `k` ascending starting centroids.

    - bounded-pdf: the histogram's density is clipped to mean * (1 - factor) .. mean * (1 + factor)
      and renormalised; centroid i is the quantile (i + 1/2) / k of the result. A factor of 0 is
      the uniform grid.
    - quantile: centroid i is the value of rank (i + 1/2) / k.
    - uniform: centroid i is the centre of part i of k equal parts of the range.
    """
    low, high = float(spectrum.positions[0]), float(spectrum.positions[-1])
    shares = (np.arange(k) + 0.5) / k
    if init == "quantile":
        ranks = shares * spectrum.weight[-1]
        picks = np.searchsorted(spectrum.weight[1:], ranks, side="left")
        return np.unique(spectrum.positions[np.minimum(picks, spectrum.positions.size - 1)])
    if init == "uniform" or factor == 0 or low == high:
        return np.unique(low * (1 - shares) + high * shares)
    return np.unique(_bounded(spectrum, shares, factor))


def _bounded(spectrum: Spectrum, shares: Floats, factor: float) -> Floats:
    """Return the quantiles `shares` of the clipped density over equal bins."""
    low, high = float(spectrum.positions[0]), float(spectrum.positions[-1])
    bins = int(min(max(spectrum.weight[-1] / 16, 32), _BINS))
    parts = np.arange(bins + 1) / bins
    grid = low * (1 - parts) + high * parts
    cuts = np.searchsorted(spectrum.positions, grid[1:-1], side="left")
    edges = np.concatenate(([0], cuts, [spectrum.positions.size]))
    mass = np.diff(spectrum.weight[edges])
    mean = mass.mean()
    clipped = np.clip(mass, mean * (1 - factor), mean * (1 + factor))
    running = np.concatenate(([0.0], np.cumsum(clipped)))
    return np.interp(shares, running / running[-1], grid)
