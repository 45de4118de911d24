"""The smallest picks that keep a quality, found by carrying candidates out.

Owns the search, not what is measured of a candidate. Losses, whatever they come from, only say in
which order bytes are spent; how many, the measured candidates say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.allocation import losses
from onnxq.allocation.candidates import Unit
from onnxq.allocation.reaching import Reached, least_bytes
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
        margin: asked up to `RUNS` + `MORE_RUNS` times; the same picks may be asked for twice.
        decibels: about the output SNR of what is searched for.
        tell: told of each tensor that was tried.
    """
    if trials is None:
        found = losses.by_weights(units)
        ways = losses.as_ways(units, found)
        return _found(least_bytes(ways, margin, 0.0, RUNS), ways, found)
    measured = losses.Measured(units, trials)
    measured.settle(lambda ways: expected(ways, decibels), tell)
    found = measured.losses()
    ways = losses.as_ways(units, found)
    first = _found(least_bytes(ways, margin, 0.0, RUNS), ways, found)
    if not first.is_enough or not measured.measure(enumerate(first.picks), tell):
        return first
    again = measured.losses()
    ways = losses.as_ways(units, again)
    second = _found(least_bytes(ways, margin, 0.0, MORE_RUNS), ways, again)
    is_smaller = total_bytes(ways, second.picks) < total_bytes(ways, first.picks)
    return second if second.is_enough and is_smaller else first


def _found(reached: Reached, ways: Ways, found: Sequence[Sequence[float]]) -> Found:
    return Found(picks=reached.picks, ways=ways, losses=found, is_enough=reached.is_enough)


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
