"""What ways lose: by the values alone, measured, and told from what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from onnxq import model
from onnxq.allocation.candidates import Unit, make_units
from onnxq.allocation.losses import ANCHORS, ROUNDS, WORST, Measured, as_ways, between, by_weights
from onnxq.allocation.ways import Picks, Way
from onnxq.options import ConvertOptions
from tests import graphs as g

Law = Callable[[Unit, int], float]


class Counted:
    """Stand for trials: errors follow a law, some units cannot be tried."""

    def __init__(self, units: Sequence[Unit], law: Law, closed: Sequence[int] = ()) -> None:
        self.units, self.law, self.closed = units, law, closed
        self.asked: list[tuple[int, int]] = []

    def can_try(self, number: int) -> bool:
        return number not in self.closed

    def alone(self, wanted: Sequence[tuple[int, int]], tell: Any = None) -> list[float]:
        assert all(self.can_try(number) for number, _ in wanted)
        self.asked += wanted
        return [self.law(self.units[number], pick) for number, pick in wanted]


def relative(unit: Unit, pick: int) -> float:
    return unit.candidates[pick].distortion / unit.power


def units_of(name: str = "attention") -> list[Unit]:
    document = model.wrap(g.BY_NAME[name].build())
    found = make_units(document, model.weights(document), ConvertOptions(jobs=1), 1)[0]
    return [unit for unit in found if unit.power > 0]


def measured(units: Sequence[Unit], law: Law, closed: Sequence[int] = ()) -> tuple[Any, Counted]:
    trials: Any = Counted(units, law, closed)
    return Measured(units, trials), trials


def test_losses_by_weights_are_relative_and_none_of_a_tensor_as_it_is() -> None:
    units = units_of()
    for unit, losses in zip(units, by_weights(units), strict=True):
        assert losses[-1] == 0
        assert losses == [item.distortion / unit.power for item in unit.candidates]
        assert 0.2 < max(losses) < 1  # one bit of bell-shaped values leaves 0.36 of the power


def test_a_tensor_of_zeros_loses_nothing_whatever_is_done_to_it() -> None:
    document = model.wrap(g.gemm(lambda shape, seed: 0 * g.normal(shape, seed)))
    units = make_units(document, model.weights(document), ConvertOptions(jobs=1), 1)[0]
    assert {loss for losses in by_weights(units) for loss in losses} == {0.0}


def test_ways_have_the_bytes_and_losses_in_the_order_of_the_candidates() -> None:
    units = units_of()
    losses = by_weights(units)
    for unit, own, ways in zip(units, losses, as_ways(units, losses), strict=True):
        assert [way.bytes for way in ways] == [item.bytes for item in unit.candidates]
        assert [way.loss for way in ways] == own


def test_what_was_measured_is_the_loss_and_is_measured_once() -> None:
    units = units_of()
    known, trials = measured(units, lambda unit, pick: 7 * relative(unit, pick))
    wanted = [(0, 1), (1, 2), (0, len(units[0].candidates) - 1)]
    assert known.measure(wanted) == 2  # a tensor as it is needs no run
    assert known.measure(wanted) == 0
    assert trials.asked == wanted[:2]
    losses = known.losses()
    assert losses[0][1] == 7 * relative(units[0], 1)
    assert losses[0][-1] == 0


def test_losses_in_proportion_are_told_from_the_first_widths() -> None:
    units = units_of()
    known, trials = measured(units, lambda unit, pick: 3 * relative(unit, pick))
    known.measure(known.anchors())
    forms = [units[number].candidates[pick].form for number, pick in trials.asked]
    assert {form.centroids for form in forms if form} == set(ANCHORS)
    for unit, losses in zip(units, known.losses(), strict=True):
        for pick in range(len(unit.candidates)):
            assert losses[pick] == pytest.approx(3 * relative(unit, pick), rel=1e-9, abs=1e-14)


def test_a_tensor_that_cannot_be_tried_is_told_from_the_others() -> None:
    units = units_of()
    factors = {unit.key: 2.0 + number for number, unit in enumerate(units)}

    def law(unit: Unit, pick: int) -> float:
        return factors[unit.key] * relative(unit, pick)

    known, trials = measured(units, law, closed=[1])
    known.measure(known.anchors())
    assert all(number != 1 for number, _ in trials.asked)
    others = sorted(factor for key, factor in factors.items() if key != units[1].key)
    usual = others[len(others) // 2]
    for pick, loss in enumerate(known.losses()[1]):
        assert loss == pytest.approx(usual * relative(units[1], pick), rel=1e-9)


def test_without_any_measurement_losses_are_those_of_the_weights() -> None:
    units = units_of()
    known, _ = measured(units, relative, closed=range(len(units)))
    known.measure(known.anchors())
    for found, expected in zip(known.losses(), by_weights(units), strict=True):
        assert found == pytest.approx(expected)


def test_errors_beyond_measure_count_as_the_worst() -> None:
    units = units_of()
    known, _ = measured(units, lambda _, __: math.inf)
    known.measure(known.anchors())
    losses = known.losses()
    assert max(loss for own in losses for loss in own) == WORST
    assert all(math.isfinite(loss) for own in losses for loss in own)


def test_tensors_that_no_output_depends_on_lose_nothing() -> None:
    units = units_of()
    known, _ = measured(units, lambda _, __: 0.0)
    known.measure(known.anchors())
    assert {loss for own in known.losses() for loss in own} == {0.0}


def test_picks_are_settled_once_all_of_them_were_measured() -> None:
    units = units_of()
    known, trials = measured(units, lambda unit, pick: relative(unit, pick) ** 1.2)
    seen: list[Picks] = []

    def pick(ways: Sequence[Sequence[Way]]) -> Picks:
        found = tuple(
            min(
                (at for at, way in enumerate(own) if way.loss <= 0.01),
                key=lambda at: own[at].bytes,
            )
            for own in ways
        )
        seen.append(found)
        return found

    picks = known.settle(pick)
    assert picks == seen[-1]
    floats = {(number, len(unit.candidates) - 1) for number, unit in enumerate(units)}
    if len(seen) <= ROUNDS:
        assert set(enumerate(picks)) <= {*trials.asked, *floats}
    for number, way in enumerate(picks):
        assert relative(units[number], way) ** 1.2 <= 0.01
    assert len(trials.asked) == len(set(trials.asked))


@pytest.mark.parametrize(
    ("points", "distortion", "expected"),
    [
        ([], 3.0, 0.0),
        ([(2.0, 8.0)], 1.0, 4.0),
        ([(2.0, 8.0)], 3.0, 12.0),
        ([(1.0, 10.0), (4.0, 1000.0)], 2.0, 100.0),
        ([(1.0, 10.0), (4.0, 1000.0)], 8.0, 2000.0),
        ([(1.0, 10.0), (4.0, 1000.0)], 0.5, 5.0),
        ([(1.0, 0.0), (4.0, 8.0)], 2.0, 0.0),
        ([(0.0, 3.0), (4.0, 8.0)], 2.0, 4.0),
        ([(1.0, 9e5)], 2.0, WORST),
    ],
)
def test_between_points_a_power_and_outside_in_proportion(
    points: list[tuple[float, float]], distortion: float, expected: float
) -> None:
    assert between(points, distortion) == pytest.approx(expected)
