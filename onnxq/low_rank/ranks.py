"""Ranks for all layers together: the least loss that a number of parameters allows.

Owns the arithmetic of the choice, not what a loss is: a layer comes as its possible sizes with
their losses. Losses of layers add up, as noise that adds up on its way through a network, each
with a weight that says how much of it arrives.

The choice is greedy. On the lower convex hull of a layer's (parameters, loss) points each step
down saves parameters at a price, loss per parameter saved, that only rises (Shoham and Gersho
1988: no choice on the hulls is better at its size). Steps of all layers are taken by price until
the budget is met; what the last step saved too much is then spent again.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

Key = tuple[str, str]
"""The path of the scope that holds a layer's weight, and the weight's name."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Hold one way to factorise a layer: parameters of both factors, share of energy lost."""

    split: str
    rank: int
    parameters: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Hold a layer's possible sizes.

    Attributes:
        key: The layer.
        parameters: Of the layer as it is, which loses nothing.
        choices: Those with fewer parameters; any number, in any order.
        gain: How much of the loss arrives at the outputs.
    """

    key: Key
    parameters: int
    choices: tuple[Choice, ...]
    gain: float = 1.0


Chosen = Mapping[Key, Choice]
"""What becomes of the layers; one that is not in it stays as it is."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Hold a step down a layer's hull: its price, its place, and what is chosen after it."""

    price: float
    order: tuple[int, int]
    key: Key
    choice: Choice
    saved: int


def smallest(curves: Sequence[Curve]) -> int:
    """Return the fewest parameters that the layers can have together."""
    return sum(
        min([curve.parameters, *(choice.parameters for choice in curve.choices)])
        for curve in curves
    )


def parameters(curves: Sequence[Curve], chosen: Chosen) -> int:
    """Return the parameters of the layers under a choice."""
    return sum(
        chosen[curve.key].parameters if curve.key in chosen else curve.parameters
        for curve in curves
    )


def total_loss(curves: Sequence[Curve], chosen: Chosen) -> float:
    """Return the weighted loss of all layers under a choice."""
    return sum(curve.gain * chosen[curve.key].loss for curve in curves if curve.key in chosen)


def within(curves: Sequence[Curve], budget: int) -> dict[Key, Choice]:
    """Return what loses least, as far as a greedy choice tells, with at most `budget` parameters.

    Ties go to the layer that comes first. Where even the smallest choice is above the budget, it
    is returned.

    >>> halves = (Choice(split="matrix", rank=1, parameters=5, loss=0.5),)
    >>> first = Curve(key=("main", "a"), parameters=10, choices=halves)
    >>> second = Curve(key=("main", "b"), parameters=10, choices=halves, gain=0.1)
    >>> [name for _, name in within([first, second], 15)]
    ['b']
    """
    chosen: dict[Key, Choice] = {}
    left = sum(curve.parameters for curve in curves)
    for step in _steps(curves):
        if left <= budget:
            break
        chosen[step.key] = step.choice
        left -= step.saved
    _spend(curves, chosen, budget - left)
    return chosen


def keeping(curves: Sequence[Curve], energy: float) -> dict[Key, Choice]:
    """Return for each layer the smallest choice that keeps a share of its energy.

    Layers without one stay as they are; of equal sizes the one that loses less is taken.

    >>> halves = (Choice(split="matrix", rank=1, parameters=5, loss=0.5),)
    >>> curve = Curve(key=("main", "a"), parameters=10, choices=halves)
    >>> len(keeping([curve], 0.5)), len(keeping([curve], 0.6))
    (1, 0)
    """
    chosen = {}
    for curve in curves:
        enough = [choice for choice in curve.choices if choice.loss <= 1 - energy]
        if enough:
            chosen[curve.key] = min(enough, key=lambda choice: (choice.parameters, choice.loss))
    return chosen


def of_rank(curve: Curve, rank: int) -> Choice | None:
    """Return the choice of a rank that loses least; None where no split of it is smaller."""
    found = [choice for choice in curve.choices if choice.rank == rank]
    return min(found, key=lambda choice: (choice.loss, choice.parameters), default=None)


def spread(curve: Curve, count: int) -> list[Choice]:
    """Return about so many choices of a layer's hull, its ends among them, falling in size."""
    points = hull(curve)
    if len(points) <= count:
        return points
    places = {round(at * (len(points) - 1) / (count - 1)) for at in range(count)}
    return [points[place] for place in sorted(places)]


def relabelled(curve: Curve, seen: Sequence[tuple[float, float]]) -> Curve:
    """Return a layer whose losses are other figures, known of some of its losses.

    Between those that are known they are interpolated, from 0 at no loss, and they never fall as
    the loss rises.

    >>> halves = (Choice(split="matrix", rank=1, parameters=5, loss=0.25),)
    >>> curve = Curve(key=("main", "a"), parameters=10, choices=halves)
    >>> relabelled(curve, [(0.5, 8.0)]).choices[0].loss
    4.0
    """
    known = [(0.0, 0.0)]
    for loss, figure in sorted(seen):
        known.append((loss, max(figure, known[-1][1])))
    choices = (replace(choice, loss=_between(known, choice.loss)) for choice in curve.choices)
    return replace(curve, choices=tuple(choices))


def _between(known: Sequence[tuple[float, float]], loss: float) -> float:
    """Return the figure of a loss, on the line between its neighbours; beyond them, the last."""
    at = bisect.bisect_left(known, (loss,))
    if at in (0, len(known)):
        return known[min(at, len(known) - 1)][1]
    (low, first), (high, second) = known[at - 1], known[at]
    return first + (second - first) * (loss - low) / (high - low)


def _steps(curves: Sequence[Curve]) -> list[_Step]:
    """Return every step down every hull, the cheapest first; those of a layer in their order."""
    steps = [step for at, curve in enumerate(curves) for step in _down(curve, at)]
    return sorted(steps, key=lambda step: (step.price, step.order))


def _down(curve: Curve, at: int) -> Iterator[_Step]:
    before, loss, highest = curve.parameters, 0.0, 0.0
    for number, choice in enumerate(hull(curve)):
        saved = before - choice.parameters
        # Prices of a hull rise; rounding must not let a later step of a layer come first.
        highest = max(highest, curve.gain * (choice.loss - loss) / saved)
        yield _Step(price=highest, order=(at, number), key=curve.key, choice=choice, saved=saved)
        before, loss = choice.parameters, choice.loss


def hull(curve: Curve) -> list[Choice]:
    """Return the choices on the lower convex hull of a layer's sizes and losses, falling in size.

    The hull starts at the layer as it is; a choice is on it only if it is smaller than that, and
    nothing smaller loses as little.
    """
    best: list[Choice] = []
    for choice in sorted(curve.choices, key=lambda choice: (choice.parameters, choice.loss)):
        if choice.parameters < curve.parameters and (not best or choice.loss < best[-1].loss):
            best.append(choice)
    found: list[Choice] = []
    for choice in reversed(best):
        while found and _price(_start(curve, found[:-1]), found[-1]) >= _price(
            (found[-1].parameters, found[-1].loss), choice
        ):
            found.pop()
        found.append(choice)
    return found


def _start(curve: Curve, found: Sequence[Choice]) -> tuple[int, float]:
    """Return the size and the loss that the last step of a hull starts at."""
    return (found[-1].parameters, found[-1].loss) if found else (curve.parameters, 0.0)


def _price(start: tuple[int, float], choice: Choice) -> float:
    return (choice.loss - start[1]) / (start[0] - choice.parameters)


def _spend(curves: Sequence[Curve], chosen: dict[Key, Choice], left: int) -> None:
    """Spend what is left of a budget where a parameter takes away most loss, until none fits."""
    while left > 0:
        best: tuple[float, Curve, Choice | None, int] | None = None
        for curve in curves:
            current = chosen.get(curve.key)
            for larger, cost, less in _larger(curve, current, left):
                if best is None or less / cost > best[0]:
                    best = (less / cost, curve, larger, cost)
        if best is None:
            return
        _, curve, larger, cost = best
        left -= cost
        if larger is None:
            del chosen[curve.key]
        else:
            chosen[curve.key] = larger


def _larger(
    curve: Curve, current: Choice | None, left: int
) -> Iterator[tuple[Choice | None, int, float]]:
    """Yield larger choices that fit, None for the layer itself: what each costs and takes away."""
    if current is None:
        return
    for choice in curve.choices:
        cost, less = choice.parameters - current.parameters, current.loss - choice.loss
        if 0 < cost <= left and less > 0 and choice.parameters < curve.parameters:
            yield choice, cost, curve.gain * less
    cost = curve.parameters - current.parameters
    if cost <= left and current.loss > 0:
        yield None, cost, curve.gain * current.loss
