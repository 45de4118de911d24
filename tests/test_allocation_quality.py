"""The search for the smallest picks of a quality, on made-up losses and margins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.allocation import quality
from onnxq.allocation.quality import Found, expected, stepped_up
from onnxq.allocation.ways import Picks, Way, make_fronts, make_path, total_bytes, total_loss

WAYS = [
    [Way(bytes=100 * 2**tensor * bits, loss=4.0**-bits) for bits in range(1, 9)]
    for tensor in range(5)
]


def sum_of_losses(picks: Picks) -> float:
    return total_loss(WAYS, picks)


@given(st.floats(1.0, 45.0))
def test_expected_picks_are_the_first_of_the_path_within_the_noise(decibels: float) -> None:
    most = 10 ** (-decibels / 10)
    path = make_path(make_fronts(WAYS))
    counts = range(len(path.steps) + 1)
    first = next((c for c in counts if sum_of_losses(path.picks(c)) <= most), counts[-1])
    assert expected(WAYS, decibels) == path.picks(first)


def test_a_step_up_is_larger_and_holds() -> None:
    start = make_path(make_fronts(WAYS)).picks(8)
    most = sum_of_losses(start) / 3
    found = stepped_up(WAYS, start, lambda picks: sum_of_losses(picks) <= most)
    assert found is not None
    assert sum_of_losses(found) <= most
    assert total_bytes(WAYS, start) < total_bytes(WAYS, found) < 2 * total_bytes(WAYS, start)


def test_steps_up_end_at_the_picks_of_least_loss() -> None:
    path = make_path(make_fronts(WAYS))
    asked: list[Picks] = []

    def fails(picks: Picks) -> bool:
        asked.append(picks)
        return False

    assert stepped_up(WAYS, path.picks(8), fails) is None
    assert asked[-1] == path.picks(len(path.steps))
    sizes = [total_bytes(WAYS, picks) for picks in asked]
    assert sizes == sorted(set(sizes))


def test_picks_between_two_of_the_path_are_found() -> None:
    # One step of the path is that of the first tensor; others of little use lie off the hull.
    ways = [
        [Way(bytes=100, loss=8.0), Way(bytes=199, loss=7.0), Way(bytes=300, loss=0.0)],
        [Way(bytes=50, loss=0.5)],
    ]
    found = Found(picks=(2, 0), ways=ways, losses=(), is_enough=True)
    best = quality._narrowed(found, lambda picks: 7.6 - total_loss(ways, picks))
    assert best == (1, 0)


@pytest.mark.parametrize("least", [0.2, 3.0])
def test_what_is_found_between_is_enough_and_no_larger(least: float) -> None:
    path = make_path(make_fronts(WAYS))
    counts = range(len(path.steps) + 1)
    first = next(c for c in counts if sum_of_losses(path.picks(c)) <= least)
    found = Found(picks=path.picks(first), ways=WAYS, losses=(), is_enough=True)
    best = quality._narrowed(found, lambda picks: least - sum_of_losses(picks))
    assert sum_of_losses(best) <= least
    assert total_bytes(WAYS, best) <= total_bytes(WAYS, found.picks)
