"""Fronts, hulls and the path: cases that laws do not name."""

from __future__ import annotations

import math

import pytest

from onnxq.allocation.ways import (
    Move,
    Way,
    exchanged,
    filled,
    front,
    hull,
    lowered,
    make_fronts,
    make_path,
    total_bytes,
    total_loss,
)


def way(size: int, loss: float) -> Way:
    return Way(bytes=size, loss=loss)


def test_of_equal_ways_the_first_is_on_the_front() -> None:
    assert front([way(2, 1.0), way(2, 1.0), way(3, 1.0)]) == [0]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_way_without_a_finite_loss_is_never_taken(loss: float) -> None:
    assert front([way(1, loss), way(2, 1.0)]) == [1]
    with pytest.raises(ValueError, match="found 1 ways, expected one of finite loss or more"):
        front([way(1, loss)])


def test_ways_on_an_edge_of_the_hull_are_steps_of_their_own() -> None:
    ways = [way(0, 4.0), way(1, 2.0), way(2, 0.0)]
    assert hull(ways, [0, 1, 2]) == [0, 1, 2]


def test_steps_of_equal_price_go_by_tensor_and_then_by_size() -> None:
    ways = [way(0, 4.0), way(1, 2.0), way(2, 0.0)]
    path = make_path(make_fronts([ways, ways]))
    assert path.steps == (Move(0, 1), Move(0, 2), Move(1, 1), Move(1, 2))


def test_no_tensors_have_a_path_of_one_point() -> None:
    path = make_path(make_fronts([]))
    assert (path.picks(0), path.bytes.tolist(), path.reach(0), path.reach(-1)) == ((), [0], 0, -1)


def test_a_path_reaches_the_last_of_its_points_within_bytes() -> None:
    path = make_path(make_fronts([[way(2, 4.0), way(5, 0.0)]]))
    assert [path.reach(budget) for budget in (1, 2, 4, 5, 9)] == [-1, 0, 0, 1, 1]


def test_filling_starts_with_what_takes_away_most_loss_per_byte() -> None:
    tensors = [[way(0, 5.0), way(4, 0.0)], [way(0, 4.0), way(2, 0.0)]]
    assert filled(make_fronts(tensors), (0, 0), 4) == (0, 1)


def test_a_tensor_pays_only_the_difference_of_a_second_move() -> None:
    tensors = [[way(0, 9.0), way(2, 1.0), way(4, 0.0)]]
    assert filled(make_fronts(tensors), (0,), 4) == (2,)


def test_a_pick_that_another_betters_for_nothing_is_left() -> None:
    tensors = [[way(4, 5.0), way(4, 1.0), way(2, 2.0)]]
    assert filled(make_fronts(tensors), (0,), 0) == (1,)


def test_a_fixed_tensor_stays_as_it_is() -> None:
    tensors = [[way(0, 9.0), way(1, 0.0)], [way(0, 1.0), way(1, 0.0)]]
    fronts = make_fronts(tensors)
    assert filled(fronts, (0, 0), 5, fixed=0) == (0, 1)
    assert lowered(fronts, (1, 1), 1, fixed=1) == (0, 1)


def test_saving_takes_what_adds_least_loss_for_the_bytes_needed() -> None:
    tensors = [[way(0, 3.0), way(10, 0.0)], [way(0, 2.0), way(1, 0.0)]]
    assert lowered(make_fronts(tensors), (1, 1), 1, fixed=None) == (1, 0)
    assert lowered(make_fronts(tensors), (1, 1), 2, fixed=None) == (0, 1)


def test_saving_more_than_there_is_ends_at_the_smallest_ways() -> None:
    tensors = [[way(1, 3.0), way(10, 0.0)]]
    assert lowered(make_fronts(tensors), (1,), 99, fixed=None) == (0,)


def test_a_tensor_does_not_exchange_bytes_with_itself() -> None:
    ways = [way(0, 5.0), way(4, 4.0), way(6, 0.0)]
    assert exchanged(make_fronts([ways]), (1,), 0) == (1,)
    other = [way(0, 1.5), way(3, 0.0)]
    assert exchanged(make_fronts([ways, other]), (1, 0), 0) == (0, 1)


def test_a_partner_of_equal_gain_is_found_behind_the_tensors_own_ways() -> None:
    first = [way(0, 5.0), way(1, 0.0)]
    second = [way(0, 8.0), way(10, 7.0), way(12, 2.0), way(13, 0.0)]
    assert exchanged(make_fronts([first, second]), (0, 1), 0) == (1, 0)


def test_totals_are_those_of_the_ways_taken() -> None:
    tensors = [[way(1, 0.1), way(2, 0.0)]] * 10
    assert total_bytes(tensors, (0,) * 10) == 10
    assert total_loss(tensors, (0,) * 10) == 1.0
