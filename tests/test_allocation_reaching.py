"""The smallest picks of enough quality."""

from __future__ import annotations

import math

import pytest

from onnxq.allocation.reaching import least_bytes
from onnxq.allocation.ways import Picks, Way, make_fronts, make_path, total_bytes, total_loss
from tests.test_allocation_budget import Case, JointError, network


def decibels(error: float) -> float:
    return math.inf if error == 0 else -10 * math.log10(error)


@pytest.mark.parametrize("enough", [10.0, 20.0, 30.0, 40.0])
def test_a_quality_is_reached_in_few_runs_with_the_bytes_it_needs(enough: float) -> None:
    case = network(60, seed=4)
    error = JointError(case, seed=4)
    found = least_bytes(case, lambda picks: decibels(error(picks)), enough, runs=16)
    assert found.is_enough
    assert found.quality == decibels(error(found.picks)) >= enough
    assert found.runs <= 12
    path = make_path(make_fronts(case))
    points = [path.picks(count) for count in range(len(path.steps) + 1)]
    least = min(total_bytes(case, p) for p in points if decibels(error(p)) >= enough)
    assert total_bytes(case, found.picks) <= 1.005 * least


def test_the_runs_end_where_they_are_told_to() -> None:
    case = network(60, seed=4)
    asked: list[Picks] = []

    def quality(picks: Picks) -> float:
        asked.append(picks)
        return decibels(total_loss(case, picks))

    found = least_bytes(case, quality, 30.0, runs=4)
    assert found.runs == len(asked) == len(set(asked)) == 4
    assert found.quality >= 30.0


def test_a_quality_that_no_picks_have_gives_the_best() -> None:
    case = [[Way(bytes=1, loss=4.0), Way(bytes=2, loss=1.0)]] * 3
    found = least_bytes(case, lambda picks: -total_loss(case, picks), 0.0, runs=9)
    assert (found.picks, found.quality, found.is_enough, found.runs) == ((1,) * 3, -3.0, False, 1)


def test_an_undefined_quality_is_not_enough() -> None:
    case = [[Way(bytes=1, loss=4.0), Way(bytes=2, loss=1.0)]] * 3
    found = least_bytes(case, lambda picks: math.nan, 0.0, runs=9)
    assert (found.is_enough, found.runs) == (False, 1)


def test_the_smallest_picks_are_taken_where_they_are_enough() -> None:
    case = [[Way(bytes=1, loss=4.0), Way(bytes=2, loss=1.0)]] * 3
    found = least_bytes(case, lambda picks: 1.0, 0.0, runs=9)
    assert (found.picks, found.is_enough, found.runs) == ((0,) * 3, True, 2)


def test_a_step_that_decides_everything_is_found() -> None:
    ways = [Way(bytes=size, loss=4.0**-size) for size in range(1, 9)]
    case: Case = [ways, ways]
    found = least_bytes(case, lambda picks: float(picks[1] >= 5), 1.0, runs=20)
    assert found.picks[1] == 5


def test_a_model_without_tensors_has_one_quality() -> None:
    found = least_bytes([], lambda picks: 5.0, 5.0, runs=3)
    assert (found.picks, found.is_enough, found.runs) == ((), True, 1)
