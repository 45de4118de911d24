"""Ways to store tensors: what each costs and loses, and single moves from one way to another.

Owns the arithmetic on lists of ways; which picks to make of them is `budget`'s. Losses of tensors
add up, as noise that adds up on its way through a network.

Only the front of a tensor matters: the ways of which no other takes as few bytes and loses as
little. Those of all tensors lie in flat arrays, so that a move is looked for in one go. On the
lower convex hull of a front each further byte takes away less loss than the one before. Steps of
all hulls in order of what a byte takes away are the path of one Lagrange multiplier: no picks
lose less in the bytes of a point on it (Shoham and Gersho 1988).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

Picks = tuple[int, ...]
"""The way taken of each tensor, as an index into its ways."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Hold one way to store a tensor.

    Attributes:
        bytes: What it takes in a file, as far as that can be said of one tensor alone.
        loss: What it loses; of any unit, the same for all tensors. One that is not finite is
            never taken.
        what: The caller's own, not looked at.
    """

    bytes: int
    loss: float
    what: object = None


Tensors = Sequence[Sequence[Way]]
"""The ways of each tensor, in an order that is the caller's; it only breaks ties."""


class Move(NamedTuple):
    """Name a way that a tensor may be moved to."""

    tensor: int
    way: int


def total_bytes(tensors: Tensors, picks: Picks) -> int:
    """Return the bytes of the ways that are taken."""
    return sum(ways[pick].bytes for ways, pick in zip(tensors, picks, strict=True))


def total_loss(tensors: Tensors, picks: Picks) -> float:
    """Return the loss of the ways that are taken, rounded once."""
    return math.fsum(ways[pick].loss for ways, pick in zip(tensors, picks, strict=True))


def front(ways: Sequence[Way]) -> list[int]:
    """Return the ways that lose less than all that take as few bytes, by rising bytes.

    Of equal ones the first is taken.

    >>> front([Way(bytes=8, loss=1.0), Way(bytes=4, loss=2.0), Way(bytes=6, loss=2.5)])
    [1, 0]

    Raises:
        ValueError: no way has a finite loss.
    """
    usable = [at for at, way in enumerate(ways) if math.isfinite(way.loss)]
    found: list[int] = []
    for at in sorted(usable, key=lambda at: (ways[at].bytes, ways[at].loss, at)):
        if not found or ways[at].loss < ways[found[-1]].loss:
            found.append(at)
    if not found:
        raise ValueError(f"found {len(ways)} ways, expected one of finite loss or more")
    return found


def hull(ways: Sequence[Way], of: Sequence[int]) -> list[int]:
    """Return those of a front that lie on its lower convex hull, on its edges too.

    >>> ways = [Way(bytes=0, loss=9.0), Way(bytes=1, loss=8.0), Way(bytes=2, loss=1.0)]
    >>> hull(ways, [0, 1, 2])
    [0, 2]
    """
    found: list[int] = []
    for at in of:
        while len(found) > 1 and price(ways[found[-2]], ways[found[-1]]) < price(
            ways[found[-1]], ways[at]
        ):
            found.pop()
        found.append(at)
    return found


def price(smaller: Way, larger: Way) -> float:
    """Return the loss that a byte takes away on the step from one way to a larger one."""
    return (smaller.loss - larger.loss) / (larger.bytes - smaller.bytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fronts:
    """Hold the fronts of all tensors in flat arrays, by tensor and rising bytes.

    Attributes:
        tensors: The ways they are taken from.
        starts: [tensors + 1], where each tensor's ways begin in the other arrays.
        owner: [ways], the tensor.
        way: [ways], its way.
        bytes: [ways].
        loss: [ways].
    """

    tensors: Tensors
    starts: Integers
    owner: Integers
    way: Integers
    bytes: Integers
    loss: Floats


def make_fronts(tensors: Tensors) -> Fronts:
    """Return the fronts of tensors.

    Raises:
        ValueError: a tensor has no way of finite loss.
    """
    found = [front(ways) for ways in tensors]
    flat = [tensors[tensor][way] for tensor, ways in enumerate(found) for way in ways]
    counts = [len(ways) for ways in found]
    return Fronts(
        tensors=tensors,
        starts=_integers([0, *counts]).cumsum(),
        owner=_integers(range(len(found))).repeat(counts),
        way=_integers([way for ways in found for way in ways]),
        bytes=_integers([way.bytes for way in flat]),
        loss=np.array([way.loss for way in flat], np.float64),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """Hold picks of falling loss: the smallest ways, and steps up by what a byte takes away.

    Attributes:
        start: The smallest way of each tensor.
        steps: Single moves; of equal prices that of the first tensor comes first.
        prices: [steps], the loss that a byte of a step takes away; never rises.
        bytes: [steps + 1], after that many steps.
    """

    start: Picks
    steps: tuple[Move, ...]
    prices: Floats
    bytes: Integers

    def picks(self, count: int) -> Picks:
        """Return the picks after so many steps."""
        found = list(self.start)
        for tensor, way in self.steps[:count]:
            found[tensor] = way
        return tuple(found)

    def reach(self, budget_bytes: float) -> int:
        """Return the most steps that stay within bytes; -1 where even the start does not."""
        return int(np.searchsorted(self.bytes, budget_bytes, side="right")) - 1


def make_path(fronts: Fronts) -> Path:
    """Return the path through all tensors; costs a sort of all steps."""
    found: list[tuple[float, int, int, int, int]] = []
    for tensor, ways in enumerate(fronts.tensors):
        own = fronts.way[fronts.starts[tensor] : fronts.starts[tensor + 1]].tolist()
        for order, (less, more) in enumerate(pairwise(hull(ways, own))):
            grown = ways[more].bytes - ways[less].bytes
            found.append((-price(ways[less], ways[more]), tensor, order, more, grown))
    found.sort()
    start = tuple(fronts.way[fronts.starts[:-1]].tolist())
    smallest = total_bytes(fronts.tensors, start)
    return Path(
        start=start,
        steps=tuple(Move(tensor, way) for _, tensor, _, way, _ in found),
        prices=-np.array([item[0] for item in found], np.float64),
        bytes=_integers([smallest, *(item[4] for item in found)]).cumsum(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Moves:
    """Hold what moving a tensor to each way of its front would change, all else being left.

    Attributes:
        cost: [ways], bytes added; negative where it saves some.
        gain: [ways], loss taken away; negative where it adds some.
    """

    cost: Integers
    gain: Floats


def moves(fronts: Fronts, picks: Picks, worth: Floats | None = None) -> Moves:
    """Return all single moves from picks.

    Args:
        fronts: where they may lead.
        picks: where they start; on the fronts or not.
        worth: [tensors], what losses are multiplied with; 1 without it.
    """
    taken = [ways[pick] for ways, pick in zip(fronts.tensors, picks, strict=True)]
    sizes = _integers([way.bytes for way in taken])
    losses = np.array([way.loss for way in taken], np.float64)
    gain = losses[fronts.owner] - fronts.loss
    if worth is not None:
        gain = gain * worth[fronts.owner]
    return Moves(cost=fronts.bytes - sizes[fronts.owner], gain=gain)


def moved(fronts: Fronts, picks: Picks, *chosen: int) -> Picks:
    """Return picks after moves, each given by its place in the fronts."""
    found = list(picks)
    for at in chosen:
        found[int(fronts.owner[at])] = int(fronts.way[at])
    return tuple(found)


def filled(
    fronts: Fronts,
    picks: Picks,
    left: int,
    *,
    fixed: int | None = None,
    worth: Floats | None = None,
) -> Picks:
    """Return picks after spending bytes where each takes away most loss, until nothing fits.

    Args:
        fronts: where tensors may be moved.
        picks: where they are.
        left: bytes to spend.
        fixed: a tensor to leave as it is.
        worth: as in `moves`.
    """
    now = moves(fronts, picks, worth)
    # A move that does not fit now fits later only by what moves of picks off the fronts save: what
    # its own tensor has taken by then, it took from the same bytes.
    wanted = (now.gain > 0) & (fronts.owner != _tensor(fixed))
    saved = -int(now.cost[wanted & (now.cost < 0)].sum())
    able = np.flatnonzero(wanted & (now.cost <= left + saved))
    cost, gain, owner = now.cost[able], now.gain[able], fronts.owner[able]
    taken: list[int] = []
    while True:
        rates = np.where((gain > 0) & (cost <= left), gain / np.maximum(cost, _NOTHING), 0.0)
        best = int(rates.argmax()) if rates.size else 0
        if not rates.size or rates[best] <= 0:
            return moved(fronts, picks, *taken)
        taken.append(int(able[best]))
        left -= int(cost[best])
        own = owner == owner[best]
        gain = np.where(own, gain - gain[best], gain)
        cost = np.where(own, cost - cost[best], cost)


def lowered(
    fronts: Fronts, picks: Picks, over: int, *, fixed: int | None, worth: Floats | None = None
) -> Picks:
    """Return picks after saving bytes where each adds least loss, until enough are saved.

    Args:
        fronts: where tensors may be moved.
        picks: where they are.
        over: bytes to save; as many as can be are saved where they are too many.
        fixed: a tensor to leave as it is.
        worth: as in `moves`.
    """
    while over > 0:
        now = moves(fronts, picks, worth)
        able = (now.cost < 0) & (fronts.owner != _tensor(fixed))
        if not able.any():
            break
        # What is saved beyond the need counts nothing.
        saved = np.minimum(-now.cost, over)
        best = int(np.where(able, -now.gain / np.maximum(saved, 1), np.inf).argmin())
        picks = moved(fronts, picks, best)
        over += int(now.cost[best])
    return picks


def exchanged(fronts: Fronts, picks: Picks, left: int) -> Picks:
    """Return picks after the one exchange of bytes between two tensors that takes away most loss.

    One tensor is moved to a smaller way, another to a larger one that fits then. Without such an
    exchange the picks are returned as they are.
    """
    now = moves(fronts, picks)
    down = np.flatnonzero(now.cost < 0)
    up = np.flatnonzero((now.cost > 0) & (now.gain > 0))
    up = up[np.argsort(now.cost[up], kind="stable")]
    if not down.size or not up.size:
        return picks
    first, second = _two_best(now.gain[up], fronts.owner[up])
    reach = np.searchsorted(now.cost[up], left - now.cost[down], side="right") - 1
    down, reach = down[reach >= 0], reach[reach >= 0]
    if not down.size:
        return picks
    clash = fronts.owner[up[first[reach]]] == fronts.owner[down]
    partner = np.where(clash, second[reach], first[reach])
    total = np.where(partner >= 0, now.gain[up[partner]] + now.gain[down], -np.inf)
    best = int(total.argmax())
    if not total[best] > _ROUNDING * np.abs(now.gain[down[best]]):
        return picks
    return moved(fronts, picks, int(down[best]), int(up[partner[best]]))


def _two_best(gain: Floats, owner: Integers) -> tuple[Integers, Integers]:
    """Return by place the best of all up to it, and the best of those of another owner; -1: none.

    Of equal ones the first is the best.
    """
    places = np.arange(gain.size)
    top = np.maximum.accumulate(gain)
    first = np.maximum.accumulate(np.where(_rises(top), places, 0))
    # What another owner's best displaces is the best of all others from there on.
    before = np.concatenate((first[:1], first[:-1]))
    is_displaced = owner[before] != owner[first]
    others = np.where(is_displaced, before, np.where(owner != owner[first], places, -1))
    top = np.maximum.accumulate(np.where(others >= 0, gain[others], -np.inf))
    second = np.maximum.accumulate(np.where(_rises(top) | is_displaced, places, 0))
    return first, others[second]


def _rises(top: Floats) -> NDArray[np.bool_]:
    """Return where a running maximum is above what it was, and at the start."""
    return np.concatenate((np.ones(1, np.bool_), top[1:] > top[:-1]))


def _integers(values: Any) -> Integers:
    return np.array(values, np.int64)


def _tensor(fixed: int | None) -> int:
    return -1 if fixed is None else fixed


_NOTHING = 1e-9
"""Bytes that a move for nothing is taken to cost, so that it comes first."""

_ROUNDING = 1e-12
"""Share of a loss below which a sum of two is rounding; an exchange must win more."""
