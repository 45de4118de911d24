"""The smallest picks whose measured quality is enough: a search along the path, in few runs.

Owns the search, not what quality is: output SNR in dB, a metric's score, anything that rises about
as losses fall. Where it does not, the picks found are enough all the same, but others may be
smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxq.allocation.ways import Floats, Path, Picks, Tensors, make_fronts, make_path

_CLOSE = 0.002
"""Share of the bytes at which the search ends: a run more would save no more."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Hold picks and their measured quality.

    Attributes:
        picks: The way of each tensor.
        quality: As measured.
        is_enough: Whether that is as much as was asked for. If not, the picks lose least of all.
        runs: How many qualities were measured.
    """

    picks: Picks
    quality: float
    is_enough: bool
    runs: int


def least_bytes(
    tensors: Tensors, quality: Callable[[Picks], float], enough: float, runs: int
) -> Reached:
    """Return the smallest picks of the path that are found to be good enough.

    Args:
        tensors: the ways of each.
        quality: what to measure of picks, asked once for the same picks; NaN is not enough.
        enough: the least quality.
        runs: the most qualities to measure; 2 or more, a dozen is plenty.

    Raises:
        ValueError: a tensor has no way of finite loss.
    """
    path = make_path(make_fronts(tensors))
    measured = _Measured(path=path, quality=quality, found={})
    end = len(path.steps)
    if measured.at(end) >= enough:
        end = (
            0 if measured.at(0) >= enough else _first(measured, _noise(tensors, path), enough, runs)
        )
    return Reached(
        picks=path.picks(end),
        quality=measured.at(end),
        is_enough=measured.at(end) >= enough,
        runs=len(measured.found),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    """Measure points of the path, each only once."""

    path: Path
    quality: Callable[[Picks], float]
    found: dict[int, float]

    def at(self, count: int) -> float:
        if count not in self.found:
            self.found[count] = self.quality(self.path.picks(count))
        return self.found[count]


def _first(measured: _Measured, noise: Floats, enough: float, runs: int) -> int:
    """Return the lowest point found to be good enough; the first is not, the last is."""
    sizes = measured.path.bytes
    low, high = 0, sizes.size - 1
    while len(measured.found) < runs and high - low > 1:
        if sizes[high] - sizes[low] <= _CLOSE * sizes[high]:
            break
        middle = _guess(measured, noise, (low, high), enough)
        if measured.at(middle) >= enough:
            high = middle
        else:
            low = middle
    return high


def _noise(tensors: Tensors, path: Path) -> Floats:
    """Return the logarithm of the loss at every point of the path; never rises.

    No loss counts as the least that there is.
    """
    picks = list(path.start)
    falls = []
    for tensor, way in path.steps:
        falls.append(tensors[tensor][picks[tensor]].loss - tensors[tensor][way].loss)
        picks[tensor] = way
    # Summed from the end, where losses are small: no difference of large figures.
    rest = sum(tensors[tensor][way].loss for tensor, way in enumerate(picks))
    total = np.cumsum([rest, *reversed(falls)])[::-1]
    positive = total[total > 0]
    floor = float(positive.min()) if positive.size else 1.0
    found: Floats = np.log(np.maximum(total, floor))
    return found


def _guess(measured: _Measured, noise: Floats, ends: tuple[int, int], enough: float) -> int:
    """Return a point between two ends, of which only the upper one is good enough.

    Guesses take turns: where the quality is enough if it is linear in the logarithm of the loss,
    as decibels are, and the middle of these logarithms.
    """
    low, high = ends
    below, above = measured.at(low), measured.at(high)
    share = 0.5
    if len(measured.found) % 2 == 0 and np.isfinite([below, above]).all():
        share = (enough - below) / (above - below)
    aim = noise[low] + share * (noise[high] - noise[low])
    middle = int(np.searchsorted(-noise, -aim))
    return min(max(middle, low + 1), high - 1)
