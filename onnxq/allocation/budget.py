"""Picks of ways within a number of bytes: as little loss as they allow, by size and by joint error.

Owns the search, not what a byte or a loss is: `ways` has the arithmetic, callers say how large a
file would be and how large its error. The path of one Lagrange multiplier gives picks for every
size; the bytes that its steps leave over are spent by single moves and exchanges. Where the exact
size of a file is asked for, which is not the sum of its tensors' bytes (they share tables, names,
pools), the sums lead the search and few sizes are looked at.

Ties go to the tensor that comes first; the same arguments give the same picks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import ndtr

from onnxq.allocation.ways import (
    Floats,
    Fronts,
    Moves,
    Path,
    Picks,
    Tensors,
    exchanged,
    filled,
    lowered,
    make_fronts,
    make_path,
    moved,
    moves,
    total_bytes,
)

SizeOf = Callable[[Picks], int]
"""The exact bytes that picks take."""

TOLERANCE = 0.005
"""Share of the bytes asked for that may stay unused where something fits there."""

_CLOSE = 0.0002
"""Share of the bytes asked for at which the path has been followed far enough."""

_PATH_SIZES = 40
_FILL_SIZES = 10
_SINGLE_SIZES = 24
_EXCHANGES = 200


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Hold picks and what they take.

    Attributes:
        picks: The way of each tensor.
        bytes: The exact size.
        is_within: Whether that is within the bytes asked for. If not, the picks are the smallest.
        sizes: How many sizes were looked at.
    """

    picks: Picks
    bytes: int
    is_within: bool
    sizes: int


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Hold picks that were measured jointly.

    Attributes:
        picks: Those of the least error found.
        error: Their error.
        bytes: Their exact size.
        first_error: The error that the search started at.
        runs: How many errors were measured.
        swaps: How many of them were the least so far, the first not counted.
    """

    picks: Picks
    error: float
    bytes: int
    first_error: float
    runs: int
    swaps: int


def allocate(tensors: Tensors, budget_bytes: int) -> Picks:
    """Return picks of little loss whose bytes, added up, are within a budget.

    They lose no more than the best of all picks and one step of the path. Where not even the
    smallest picks are within the budget, those are returned.

    >>> from onnxq.allocation.ways import Way
    >>> small, large = Way(bytes=1, loss=4.0), Way(bytes=3, loss=0.0)
    >>> allocate([[large, small], [large, Way(bytes=1, loss=5.0)]], 5)
    (1, 0)

    Raises:
        ValueError: a tensor has no way of finite loss.
    """
    fronts = make_fronts(tensors)
    path = make_path(fronts)
    picks = path.picks(max(path.reach(budget_bytes), 0))
    return _improved(fronts, picks, budget_bytes - total_bytes(tensors, picks))


def within(tensors: Tensors, size_of: SizeOf, target_bytes: int) -> Allocation:
    """Return picks of little loss whose exact size is within a target.

    The size is at most `TOLERANCE` below the target unless all picks that lose less are larger,
    as far as single moves tell. Where the smallest picks are above the target, those are returned.
    Looks at 74 sizes at most, at a dozen where sizes grow about as the ways' bytes do.

    Args:
        tensors: the ways of each.
        size_of: the exact size of picks; asked once for the same picks.
        target_bytes: the most bytes.

    Raises:
        ValueError: a tensor has no way of finite loss.
    """
    fronts = make_fronts(tensors)
    scale = _Scale(size_of=size_of)
    picks = _on_path(make_path(fronts), scale, target_bytes)
    picks = _settled(fronts, picks, scale, target_bytes)
    picks = _single_moves(fronts, picks, scale, target_bytes)
    size = scale.weigh(picks)
    return Allocation(
        picks=picks, bytes=size, is_within=size <= target_bytes, sizes=len(scale.known)
    )


def topped(tensors: Tensors, picks: Picks, size_of: SizeOf, target_bytes: int) -> Picks:
    """Return picks with what still fits within a target, their losses being told by the ways.

    Args:
        tensors: the ways of each.
        picks: where to start.
        size_of: the exact size of picks.
        target_bytes: the most bytes.

    Raises:
        ValueError: a tensor has no way of finite loss.
    """
    return _single_moves(make_fronts(tensors), picks, _Scale(size_of=size_of), target_bytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scale:
    """Weigh picks, each only once."""

    size_of: SizeOf
    known: dict[Picks, int] = field(default_factory=dict)

    def weigh(self, picks: Picks) -> int:
        if picks not in self.known:
            self.known[picks] = self.size_of(picks)
        return self.known[picks]


def _on_path(path: Path, scale: _Scale, target: int) -> Picks:
    """Return picks on the path within the target by exact size, or the smallest.

    Three guesses take turns: from the lower end as if only ways had bytes, between both ends by
    their sizes, and the middle.
    """
    low, high = 0, len(path.steps)
    at_low, at_high = scale.weigh(path.picks(low)), scale.weigh(path.picks(high))
    if at_high <= target:
        return path.picks(high)
    for turn in range(_PATH_SIZES - 2):
        room = target - at_low
        if room <= _CLOSE * target or high - low < 2:
            break
        bytes_low, bytes_high = int(path.bytes[low]), int(path.bytes[high])
        share = room / (at_high - at_low)
        guesses = (
            path.reach(bytes_low + room),
            path.reach(bytes_low + share * (bytes_high - bytes_low)),
            (low + high) // 2,
        )
        middle = min(max(guesses[turn % 3], low + 1), high - 1)
        size = scale.weigh(path.picks(middle))
        if size <= target:
            low, at_low = middle, size
        else:
            high, at_high = middle, size
    return path.picks(low)


def _improved(fronts: Fronts, picks: Picks, left: int) -> Picks:
    """Return picks after spending bytes by moves, then exchanges; sums of bytes, not sizes."""
    for _ in range(_EXCHANGES):
        before = total_bytes(fronts.tensors, picks)
        picks = filled(fronts, picks, left)
        left -= total_bytes(fronts.tensors, picks) - before
        found = exchanged(fronts, picks, left)
        if found == picks:
            break
        left -= total_bytes(fronts.tensors, found) - total_bytes(fronts.tensors, picks)
        picks = found
    return picks


def _settled(fronts: Fronts, picks: Picks, scale: _Scale, target: int) -> Picks:
    """Return picks after spending what their exact size leaves, each attempt being weighed."""
    room = target - scale.weigh(picks)
    for _ in range(_FILL_SIZES):
        if room <= 0:
            break
        found = _improved(fronts, picks, room)
        if found == picks:
            break
        spare = target - scale.weigh(found)
        if spare >= 0:
            picks, room = found, spare
        else:
            # Sizes grow faster than the ways' bytes here: aim as much lower.
            room += spare
    return picks


def _single_moves(fronts: Fronts, picks: Picks, scale: _Scale, target: int) -> Picks:
    """Return picks after single moves by exact size, where too much is left for no reason."""
    tried = 0
    while 0 <= TOLERANCE * target < target - scale.weigh(picks):
        found = picks
        for candidate in _rising(fronts, picks, target - scale.weigh(picks)):
            if found != picks or tried == _SINGLE_SIZES:
                break
            tried += 1
            if scale.weigh(candidate) <= target:
                found = candidate
        if found == picks:
            break
        picks = found
    return picks


def _rising(fronts: Fronts, picks: Picks, left: int) -> list[Picks]:
    """Return the single moves that fit by the ways' bytes, the greatest gain first."""
    now = moves(fronts, picks)
    able = np.flatnonzero((now.gain > 0) & (now.cost <= left))
    order = able[np.argsort(-now.gain[able], kind="stable")]
    return [moved(fronts, picks, int(at)) for at in order[:_SINGLE_SIZES]]


def refine(
    tensors: Tensors,
    picks: Picks,
    error: Callable[[Picks], float],
    size_of: SizeOf,
    target_bytes: int,
    runs: int,
) -> Refinement:
    """Return picks of less joint error within the same bytes, found by swaps of bytes.

    One tensor at a time is moved to another way; what that takes or gives is taken from or given
    to others, where their losses say that it matters least or most. What lowers the error is
    kept. What does not teaches that this tensor's losses were misjudged, which counts from then
    on. The move tried next is the one that promises most if a loss is known but for a factor.

    Args:
        tensors: the ways of each.
        picks: where to start; the picks of `within`.
        error: the joint error of picks, asked once for the same picks; NaN is the worst.
        size_of: the exact size of picks.
        target_bytes: the most bytes.
        runs: the most errors to measure, that of the start among them.

    Raises:
        ValueError: the start is above the target, or a tensor has no way of finite loss.
    """
    fronts, scale = make_fronts(tensors), _Scale(size_of=size_of)
    start = scale.weigh(picks)
    if start > target_bytes:
        raise ValueError(f"picks take {start} bytes, expected {target_bytes} or fewer")
    price = _price_at(make_path(fronts), total_bytes(tensors, picks))
    search = _Search(fronts=fronts, scale=scale, target=target_bytes, price=price)
    first = error(picks)
    best = Refinement(picks=picks, error=first, bytes=start, first_error=first, runs=1, swaps=0)
    tried, worth = {picks}, np.ones(len(tensors))
    while len(tried) < runs:
        found = search.next_swap(best.picks, worth, tried)
        if found is None:
            break
        tensor, is_larger, candidate = found
        tried.add(candidate)
        value = error(candidate)
        is_better = value < best.error or (math.isnan(best.error) and not math.isnan(value))
        if is_better:
            best = replace(best, picks=candidate, error=value, swaps=best.swaps + 1)
        # A tensor that should have more bytes is worth more than its losses say.
        worth[tensor] *= _LESSON if is_better == is_larger else 1 / _LESSON
    return replace(best, bytes=scale.weigh(best.picks), runs=len(tried))


_SPREAD = 1.0
"""Standard deviation of the natural logarithm of what a loss is wrong by (a factor of e)."""

_LESSON = 4.0
"""Factor that a measured error changes the worth of a tensor's losses by."""

_SWAPS = 200
_BALANCES = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """Find swaps of equal size, the loss that a byte takes away being the price."""

    fronts: Fronts
    scale: _Scale
    target: int
    price: float

    def next_swap(
        self, picks: Picks, worth: Floats, tried: set[Picks]
    ) -> tuple[int, bool, Picks] | None:
        """Return the tensor that is moved, whether to a larger way, and the picks, not yet tried.

        None where the most promising moves lead to none.
        """
        now = moves(self.fronts, picks, worth)
        promises = _promises(now, self.price)
        for at in np.argsort(-promises, kind="stable")[:_SWAPS]:
            if promises[at] <= 0:
                break
            found = self._balanced(picks, int(at), worth)
            if found is not None and found not in tried:
                return int(self.fronts.owner[at]), bool(now.cost[at] > 0), found
        return None

    def _balanced(self, picks: Picks, at: int, worth: Floats) -> Picks | None:
        """Return picks after a move, with others moved so that the size is within the target."""
        tensor = int(self.fronts.owner[at])
        changed = moved(self.fronts, picks, at)
        spare = self.target - self.scale.weigh(picks) - self._grown(picks, changed)
        for _ in range(_BALANCES):
            found = lowered(self.fronts, changed, -spare, fixed=tensor, worth=worth)
            left = spare - self._grown(changed, found)
            found = filled(self.fronts, found, left, fixed=tensor, worth=worth)
            over = self.scale.weigh(found) - self.target
            if over <= 0:
                return found
            # Sizes grow faster than the ways' bytes here: aim as much lower.
            spare -= over
        return None

    def _grown(self, before: Picks, after: Picks) -> int:
        tensors = self.fronts.tensors
        return total_bytes(tensors, after) - total_bytes(tensors, before)


def _promises(now: Moves, price: float) -> Floats:
    """Return what each move wins on average, none being made if it turns out to lose.

    The loss that a move changes is taken as known but for a factor whose logarithm is normal; its
    bytes are worth the price. That is the value of an option to exchange (Margrabe 1978), whose
    mean is not the median.
    """
    change = np.abs(now.gain)
    fee = np.abs(now.cost) * price
    is_swap = (now.gain * now.cost > 0) & (fee > 0)
    odds = np.log(np.where(is_swap, change, 1.0) / np.where(is_swap, fee, 1.0)) / _SPREAD
    mean = change * np.exp(_SPREAD**2 / 2)
    larger = mean * ndtr(odds + _SPREAD) - fee * ndtr(odds)
    smaller = fee * ndtr(-odds) - mean * ndtr(-odds - _SPREAD)
    return np.where(is_swap, np.where(now.cost > 0, larger, smaller), 0.0)


def _price_at(path: Path, size: int) -> float:
    """Return what a byte takes away at a size on the path; 0 where it has no steps."""
    if not path.steps:
        return 0.0
    step = min(max(path.reach(size), 0), len(path.steps) - 1)
    return float(path.prices[step])
