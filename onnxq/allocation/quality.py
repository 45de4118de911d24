"""The smallest picks that keep a quality, found by carrying candidates out.

Owns the search, not what is measured of a candidate. Losses, whatever they come from, only say in
which order bytes are spent; how many, the measured candidates say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxq.allocation import losses
from onnxq.allocation.budget import within
from onnxq.allocation.candidates import Unit
from onnxq.allocation.reaching import least_bytes
from onnxq.allocation.trials import Trials
from onnxq.allocation.ways import Picks, Way, make_fronts, make_path, total_bytes

Ways = Sequence[Sequence[Way]]
Margin = Callable[[Picks], float]
"""Tell how far picks are above what is asked for, carried out and measured."""
Tell = Callable[[str], None]

RUNS = 10
"""Candidates that a first search measures."""
MORE_RUNS = 5
"""Those of a second one, once the ways that the first picked are measured."""
NARROWING_RUNS = 3
"""Those between the last two picks of the path, whose steps are large where tensors are few."""
NARROW = 0.003
"""Share of the bytes between them at which there is nothing more to win."""
GROWTH = (1.02, 1.05, 1.1, 1.2, 1.4, 2.0)
"""Steps up in size, where what was planned does not hold on other data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Hold the smallest picks found, the ways that they are of, and whether they are enough."""

    picks: Picks
    ways: Ways
    losses: Sequence[Sequence[float]]
    is_enough: bool


def smallest(
    units: Sequence[Unit],
    trials: Trials | None,
    margin: Margin,
    decibels: float,
    tell: Tell | None = None,
) -> Found:
    """Return the smallest picks whose margin is 0 or more; else those of least loss.

    Args:
        units: the tensors.
        trials: runs the model; None where losses are told by the weights alone.
        margin: asked up to `RUNS` + `MORE_RUNS` + `NARROWING_RUNS` times, and again for the same
            picks.
        decibels: about the output SNR of what is searched for.
        tell: told of each tensor that was tried.
    """
    found = _on_path(units, trials, margin, decibels, tell)
    return replace(found, picks=_narrowed(found, margin)) if found.is_enough else found


def _on_path(
    units: Sequence[Unit],
    trials: Trials | None,
    margin: Margin,
    decibels: float,
    tell: Tell | None,
) -> Found:
    if trials is None:
        return _reached(units, losses.by_weights(units), margin, RUNS)
    measured = losses.Measured(units, trials)
    measured.settle(lambda ways: expected(ways, decibels), tell)
    first = _reached(units, measured.losses(), margin, RUNS)
    if not first.is_enough or not measured.measure(enumerate(first.picks), tell):
        return first
    second = _reached(units, measured.losses(), margin, MORE_RUNS)
    is_smaller = total_bytes(second.ways, second.picks) < total_bytes(first.ways, first.picks)
    return second if second.is_enough and is_smaller else first


def _reached(
    units: Sequence[Unit], found: Sequence[Sequence[float]], margin: Margin, runs: int
) -> Found:
    ways = losses.as_ways(units, found)
    reached = least_bytes(ways, margin, 0.0, runs)
    return Found(picks=reached.picks, ways=ways, losses=found, is_enough=reached.is_enough)


def _narrowed(found: Found, margin: Margin) -> Picks:
    """Return the smallest picks that are enough of some between those found and the step below."""
    ways, best = found.ways, found.picks
    sizes, high = make_path(make_fronts(ways)).bytes, total_bytes(ways, best)
    below = int(np.searchsorted(sizes, high)) - 1
    low = int(sizes[below]) if below >= 0 else high
    for _ in range(NARROWING_RUNS):
        if high - low <= NARROW * high:
            break
        middle = (low + high) // 2
        picks = within(ways, lambda picks: total_bytes(ways, picks), middle).picks
        if margin(picks) >= 0:
            best, high = picks, total_bytes(ways, picks)
        else:
            low = middle
    return best


def expected(ways: Ways, decibels: float) -> Picks:
    """Return the smallest picks of the path whose losses add up to no more than a noise.

    >>> expected([[Way(bytes=1, loss=0.1), Way(bytes=2, loss=0.001)]], 20.0)
    (1,)
    """
    path = make_path(make_fronts(ways))
    picks = path.start
    most = 10 ** (-decibels / 10)
    noise = sum(own[pick].loss for own, pick in zip(ways, picks, strict=True))
    taken = list(picks)
    for count, (tensor, way) in enumerate(path.steps):
        if noise <= most:
            return path.picks(count)
        noise += ways[tensor][way].loss - ways[tensor][taken[tensor]].loss
        taken[tensor] = way
    return path.picks(len(path.steps))


def stepped_up(ways: Ways, picks: Picks, holds: Callable[[Picks], bool]) -> Picks | None:
    """Return picks that hold, by rising size from some that do not; None where none do.

    Args:
        ways: the ways of each tensor.
        picks: where to begin; on the path of the ways.
        holds: asked of sizes that are larger by `GROWTH`, and of the picks of least loss.
    """
    path = make_path(make_fronts(ways))
    start = total_bytes(ways, picks)
    wanted = [int(np.searchsorted(path.bytes, factor * start)) for factor in GROWTH]
    end = len(path.steps)
    for count in dict.fromkeys([*(at for at in wanted if at < end), end]):
        larger = path.picks(count)
        if holds(larger):
            return larger
    return None
