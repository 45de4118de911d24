"""What each way to store each tensor loses: from the weights alone, or measured at the outputs.

Owns the estimates that an allocation goes by. Measured ones start at a few widths of each tensor;
what lies between is interpolated, and the ways that are picked are measured until all of them are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from onnxq.allocation.candidates import Candidate, Unit
from onnxq.allocation.trials import Trials
from onnxq.allocation.ways import Picks, Way

Pick = Callable[[Sequence[Sequence[Way]]], Picks]
Tell = Callable[[str], None]

ROUNDS = 4
"""Rounds of picking and measuring; most picks are settled after two."""
ANCHORS = (4, 16)
"""Centroids of the ways of each tensor that are measured first."""
SMALL = 0.001
"""Share of all bytes below which only the last of them is, unscaled: there is little to win."""
WORST = 1e6
"""Noise through signal that stands for outputs that cannot be compared, and for all above it."""


def by_weights(units: Sequence[Unit]) -> list[list[float]]:
    """Return losses that nothing but the values tells: distortion through power of each tensor.

    It is the relative squared error, the same for a tensor of any size and scale, as if each
    tensor's outputs mattered alike.
    """
    return [
        [item.distortion / unit.power if unit.power > 0 else 0.0 for item in unit.candidates]
        for unit in units
    ]


def as_ways(units: Sequence[Unit], losses: Sequence[Sequence[float]]) -> list[list[Way]]:
    """Return what `budget` picks from."""
    return [
        [
            Way(bytes=item.bytes, loss=loss, what=item)
            for item, loss in zip(unit.candidates, own, strict=True)
        ]
        for unit, own in zip(units, losses, strict=True)
    ]


class Measured:
    """Hold what was measured of single ways, and tell the losses of all from it.

    Args:
        units: the tensors.
        trials: runs the model.
    """

    def __init__(self, units: Sequence[Unit], trials: Trials) -> None:
        self._units, self._trials = units, trials
        self._seen: list[dict[int, float]] = [{} for _ in units]

    def measure(self, wanted: Iterable[tuple[int, int]], tell: Tell | None = None) -> int:
        """Measure ways that were not; return how many those were."""
        missing = [
            (number, pick)
            for number, pick in wanted
            if pick not in self._seen[number]
            and self._units[number].candidates[pick].form is not None
            and self._trials.can_try(number)
        ]
        for (number, pick), error in zip(missing, self._trials.alone(missing, tell), strict=True):
            self._seen[number][pick] = min(error, WORST)
        return len(missing)

    def anchors(self) -> list[tuple[int, int]]:
        """Return the ways to measure first: `ANCHORS` of each kind that a tensor has."""
        total = sum(unit.lead.data_bytes for unit in self._units)
        return [
            (number, pick)
            for number, unit in enumerate(self._units)
            for pick, item in enumerate(unit.candidates)
            if _is_anchor(item, is_small=unit.lead.data_bytes < SMALL * total)
        ]

    def losses(self) -> list[list[float]]:
        """Return the loss of each way, measured or told from those that are."""
        shares = [self._share(number) for number in range(len(self._units))]
        known = sorted(share for share in shares if share is not None)
        usual = known[len(known) // 2] if known else 1.0
        return [
            [
                self._loss(number, pick, usual if shares[number] is None else None)
                for pick in range(len(unit.candidates))
            ]
            for number, unit in enumerate(self._units)
        ]

    def settle(self, pick: Pick, tell: Tell | None = None) -> Picks:
        """Return picks all of which were measured, or as many as ROUNDS rounds allow."""
        self.measure(self.anchors(), tell)
        picks = pick(as_ways(self._units, self.losses()))
        for _ in range(ROUNDS):
            if not self.measure(enumerate(picks), tell):
                break
            picks = pick(as_ways(self._units, self.losses()))
        return picks

    def _share(self, number: int) -> float | None:
        """Return a tensor's loss through its relative error, at the finest way measured."""
        unit, seen = self._units[number], self._seen[number]
        ratios = [
            (item.distortion, seen[pick] * unit.power / item.distortion)
            for pick, item in enumerate(unit.candidates)
            if pick in seen and item.distortion > 0
        ]
        return min(ratios)[1] if ratios else None

    def _loss(self, number: int, pick: int, usual: float | None) -> float:
        unit, seen = self._units[number], self._seen[number]
        item = unit.candidates[pick]
        if pick in seen:
            return seen[pick]
        if item.distortion <= 0:
            return 0.0
        if usual is not None:
            return usual * item.distortion / unit.power
        points = [
            (unit.candidates[other].distortion, loss)
            for other, loss in seen.items()
            if _is_alike(item, unit.candidates[other]) and loss > 0
        ] or [(unit.candidates[other].distortion, max(loss, 0.0)) for other, loss in seen.items()]
        return between(sorted(points), item.distortion)


def _is_anchor(item: Candidate, *, is_small: bool) -> bool:
    """Tell whether a way is measured before any is picked."""
    if item.form is None or item.form.layout == "half":
        return False
    if is_small:
        return item.form.centroids == ANCHORS[-1] and not item.is_scaled
    return item.form.centroids in ANCHORS


def _is_alike(one: Candidate, other: Candidate) -> bool:
    return one.is_scaled == other.is_scaled


def between(points: Sequence[tuple[float, float]], distortion: float) -> float:
    """Return the loss at a distortion, from (distortion, loss) pairs in rising order.

    Between two points it is a power of the distortion; outside it is in proportion to it, as a
    small error is.

    >>> round(between([(1.0, 10.0), (4.0, 1000.0)], 2.0), 6), between([(1.0, 10.0)], 0.5)
    (100.0, 5.0)
    """
    usable = [(x, y) for x, y in points if x > 0]
    if not usable:
        return 0.0
    below = [point for point in usable if point[0] <= distortion]
    above = [point for point in usable if point[0] > distortion]
    if below and above and below[-1][1] > 0 and above[0][1] > 0:
        (x0, y0), (x1, y1) = below[-1], above[0]
        share = math.log(distortion / x0) / math.log(x1 / x0)
        return math.exp(math.log(y0) + share * math.log(y1 / y0))
    x, y = below[-1] if below else above[0]
    return min(y * distortion / x, WORST)
