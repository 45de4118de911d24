"""Spectra: weighted positions in ascending order, with running sums that survive cancellation.

Owns how many values become few numbers: distinct values with their counts. Everything the solvers
ask (weight, sum and squared deviation of a run of positions) is a difference of running sums. The
sums start at the middle position and run outwards, about that position, and carry their rounding
errors in a second array, so that an outlier a billion deviations away costs the middle nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxq.clustering.kernels import compiled, is_worthwhile, sum_outward

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Hold n positions and their running sums.

    Attributes:
        positions: float64, strictly ascending, n of them, in units of `scale` from `origin`.
        centre: The position about which the sums are taken.
        weight: Running weight, n + 1 entries from 0 to the total.
        sums: Running sum of weight * (position - centre) and its rounding errors.
        squares: Running sum of weight * (position - centre)**2 and its rounding errors.
        origin: Value of position 0.
        scale: Value of one step of 1; a power of two.
    """

    positions: Floats
    centre: float
    weight: Floats
    sums: tuple[Floats, Floats]
    squares: tuple[Floats, Floats]
    origin: float = 0.0
    scale: float = 1.0

    def means(self, edges: NDArray[np.intp]) -> Floats:
        """Return the mean of every run `edges[i] .. edges[i + 1]`; runs are not empty."""
        weight = _rises(self.weight[edges])
        sums = _rises(self.sums[0][edges]) + _rises(self.sums[1][edges])
        means = self.centre + sums / weight
        # A mean lies between its ends whatever the rounding, and one position is its own mean.
        return np.clip(means, self.positions[edges[:-1]], self.positions[edges[1:] - 1])

    @property
    def total(self) -> float:
        """The weight of all positions."""
        return float(self.weight[-1])

    def split(self, limits: Floats) -> tuple[Floats, Floats]:
        """Return the weight up to each of the runs between ascending limits, and their means.

        A run goes up to and including its upper limit. Runs without any position are left out.
        """
        inner = np.searchsorted(self.positions, limits, side="right")
        edges = np.concatenate(([0], inner, [self.positions.size]))
        edges = edges[np.concatenate(([True], edges[1:] > edges[:-1]))]
        return self.weight[edges[1:]], self.means(edges)

    def below(self, limits: Floats) -> Floats:
        """Return the weight of the positions below each limit."""
        return self.weight[np.searchsorted(self.positions, limits, side="left")]

    def at(self, ranks: Floats) -> Floats:
        """Return the first position up to which each weight lies."""
        picks = np.searchsorted(self.weight[1:], ranks, side="left")
        return self.positions[np.minimum(picks, self.positions.size - 1)]

    def cost(self, edges: NDArray[np.intp]) -> float:
        """Return the sum of squared deviations of all runs from their means."""
        weight = _rises(self.weight[edges])
        sums = _rises(self.sums[0][edges]) + _rises(self.sums[1][edges])
        squares = _rises(self.squares[0][edges]) + _rises(self.squares[1][edges])
        costs = np.maximum(squares - sums * sums / weight, 0.0)
        costs[edges[1:] - edges[:-1] == 1] = 0.0
        return float(np.sum(costs))


def _rises(running: Floats) -> Floats:
    """Return `np.diff(running)`, several times faster where there are few."""
    return running[1:] - running[:-1]


def condensed(points: Spectrum, limit: int) -> Spectrum:
    """Return about `limit` groups of neighbours, each at its mean with its weight.

    Half of the groups' edges are spread evenly over the ranks, half over the range.
    """
    n = points.positions.size
    ranks = np.linspace(0, n, limit // 2 + 1).astype(np.intp)
    grid = np.linspace(points.positions[0], points.positions[-1], limit // 2 + 1)[1:-1]
    edges = np.union1d(ranks, np.searchsorted(points.positions, grid))
    return spectrum(points.means(edges), np.diff(points.weight[edges]))


def spectrum(
    positions: Floats, weights: Floats, *, origin: float = 0.0, scale: float = 1.0
) -> Spectrum:
    """Return the spectrum of strictly ascending positions with positive weights."""
    running = np.zeros(weights.size + 1)
    np.cumsum(weights, out=running[1:])
    middle = int(np.searchsorted(running, running[-1] / 2, side="right")) - 1
    middle = min(middle, positions.size - 1)
    centre = float(positions[middle])
    sums, squares = _moments(positions, weights, middle)
    return Spectrum(
        positions=positions,
        centre=centre,
        weight=running,
        sums=sums,
        squares=squares,
        origin=origin,
        scale=scale,
    )


def _moments(
    positions: Floats, weights: Floats, middle: int
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Return the running sums of offsets and of their squares, with their rounding errors."""
    if is_worthwhile(positions.size):
        n = positions.size + 1
        sums, squares = (np.empty(n), np.empty(n)), (np.empty(n), np.empty(n))
        compiled(sum_outward)(positions, weights, middle, sums, squares)
        return sums, squares
    offsets = positions - positions[middle]
    moments = weights * offsets
    return _outward(moments, middle), _outward(moments * offsets, middle)


def _outward(terms: Floats, middle: int) -> tuple[Floats, Floats]:
    """Return running sums with their value at `middle` 0, and the errors they have dropped."""
    high, low = np.zeros(terms.size + 1), np.zeros(terms.size + 1)
    high[middle + 1 :], low[middle + 1 :] = compensated(terms[middle:])
    down_high, down_low = compensated(terms[:middle][::-1])
    high[:middle], low[:middle] = -down_high[::-1], -down_low[::-1]
    return high, low


def compensated(terms: Floats) -> tuple[Floats, Floats]:
    """Return the running sum of terms, and the running sum of its rounding errors (two-sum)."""
    total = np.cumsum(terms)
    before = np.concatenate(([0.0], total[:-1])) if terms.size else total
    part = total - before
    errors = (before - (total - part)) + (terms - part)
    return total, np.cumsum(errors)
