"""Laws of picks within bytes, held against all picks of small cases.

Losses are whole numbers, so that their sums are exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.allocation.budget import TOLERANCE, allocate, refine, within
from onnxq.allocation.ways import (
    Picks,
    Way,
    exchanged,
    filled,
    front,
    hull,
    make_fronts,
    make_path,
    moves,
    total_bytes,
    total_loss,
)

Case = list[list[Way]]

ways = st.builds(Way, bytes=st.integers(0, 12), loss=st.integers(0, 12).map(float))


def falling(sizes: list[int], losses: list[int]) -> list[Way]:
    """Return ways of which the larger loses less, as real ones do."""
    pairs = zip(sorted(sizes), sorted(losses, reverse=True), strict=False)
    return [Way(bytes=size, loss=float(loss)) for size, loss in pairs]


numbers = st.lists(st.integers(0, 12), min_size=2, max_size=5, unique=True)
tensors = st.lists(ways, min_size=1, max_size=5) | st.builds(falling, numbers, numbers)
cases: st.SearchStrategy[Case] = st.lists(tensors, min_size=1, max_size=4)
budgets = st.integers(0, 50)


def all_picks(case: Case) -> Iterator[Picks]:
    return itertools.product(*(range(len(own)) for own in case))


def least_loss(case: Case, budget: int) -> float:
    fitting = [picks for picks in all_picks(case) if total_bytes(case, picks) <= budget]
    return min((total_loss(case, picks) for picks in fitting), default=float("inf"))


def taken(case: Case, picks: Picks) -> list[tuple[int, float]]:
    return [(own[pick].bytes, own[pick].loss) for own, pick in zip(case, picks, strict=True)]


@given(cases)
def test_no_picks_lose_less_in_the_bytes_of_a_point_on_the_path(case: Case) -> None:
    path = make_path(make_fronts(case))
    for count in range(len(path.steps) + 1):
        picks = path.picks(count)
        assert total_bytes(case, picks) == path.bytes[count]
        assert total_loss(case, picks) == least_loss(case, int(path.bytes[count]))


@given(cases)
def test_the_path_leads_from_the_least_bytes_to_the_least_loss(case: Case) -> None:
    path = make_path(make_fronts(case))
    assert path.bytes[0] == sum(min(way.bytes for way in own) for own in case)
    last = path.picks(len(path.steps))
    assert total_loss(case, last) == sum(min(way.loss for way in own) for own in case)
    assert (np.diff(path.prices) <= 0).all()
    assert (np.diff(path.bytes) > 0).all()


@given(st.lists(ways, min_size=1, max_size=8))
def test_a_hull_is_convex_and_below_all_ways(own: list[Way]) -> None:
    found = [own[at] for at in hull(own, front(own))]
    for left, middle, right in zip(found, found[1:], found[2:], strict=False):
        first = (left.loss - middle.loss) * (right.bytes - middle.bytes)
        assert first >= (middle.loss - right.loss) * (middle.bytes - left.bytes)
    for left, right in itertools.pairwise(found):
        for way in own:
            above = (way.loss - left.loss) * (right.bytes - left.bytes)
            assert above >= (right.loss - left.loss) * (way.bytes - left.bytes)


@given(cases, budgets)
def test_an_allocation_is_within_its_budget_and_a_step_from_the_best(
    case: Case, budget: int
) -> None:
    picks = allocate(case, budget)
    best = least_loss(case, budget)
    if best == float("inf"):
        assert picks == make_path(make_fronts(case)).start
        return
    assert total_bytes(case, picks) <= budget
    path = make_path(make_fronts(case))
    reached = path.reach(budget)
    after = path.picks(min(reached + 1, len(path.steps)))
    step = total_loss(case, path.picks(reached)) - total_loss(case, after)
    assert best <= total_loss(case, picks) <= best + step


@given(cases, budgets)
def test_no_single_move_and_no_exchange_betters_an_allocation(case: Case, budget: int) -> None:
    picks = allocate(case, budget)
    if total_bytes(case, picks) > budget:
        return
    for other in all_picks(case):
        changed = [at for at in range(len(case)) if other[at] != picks[at]]
        if len(changed) <= 2 and total_bytes(case, other) <= budget:
            assert total_loss(case, other) >= total_loss(case, picks)


@given(cases, st.data())
def test_an_exchange_is_the_best_of_all_pairs(case: Case, data: st.DataObject) -> None:
    fronts = make_fronts(case)
    picks = tuple(data.draw(st.sampled_from(front(own))) for own in case)
    left = data.draw(st.integers(0, 10))
    now = moves(fronts, picks)
    best = 0.0
    for down, up in itertools.product(range(now.cost.size), repeat=2):
        fits = now.cost[down] < 0 < now.cost[up] and now.cost[down] + now.cost[up] <= left
        if fits and fronts.owner[down] != fronts.owner[up]:
            best = max(best, float(now.gain[down] + now.gain[up]))
    found = exchanged(fronts, picks, left)
    assert total_loss(case, picks) - total_loss(case, found) == best
    assert total_bytes(case, found) - total_bytes(case, picks) <= left


@given(cases, st.data())
def test_filling_spends_no_more_than_is_left_until_nothing_fits(
    case: Case, data: st.DataObject
) -> None:
    fronts = make_fronts(case)
    picks = tuple(data.draw(st.integers(0, len(own) - 1)) for own in case)
    left = data.draw(st.integers(0, 20))
    found = filled(fronts, picks, left)
    spare = left - (total_bytes(case, found) - total_bytes(case, picks))
    assert spare >= 0
    now = moves(fronts, found)
    assert not ((now.gain > 0) & (now.cost <= spare)).any()


@given(cases, budgets, st.randoms())
def test_the_order_of_a_tensors_ways_does_not_matter(
    case: Case, budget: int, random: Random
) -> None:
    mixed = [random.sample(own, len(own)) for own in case]
    assert taken(mixed, allocate(mixed, budget)) == taken(case, allocate(case, budget))


class SharedSize:
    """Sizes as files have them: an overhead, and a table for every way that is in use."""

    def __init__(self, case: Case, overhead: int, table: int) -> None:
        self.case, self.overhead, self.table = case, overhead, table
        self.asked: list[Picks] = []

    def __call__(self, picks: Picks) -> int:
        self.asked.append(picks)
        tables = self.table * len(set(picks))
        return self.overhead + tables + total_bytes(self.case, picks)


@given(cases, st.integers(0, 100), st.integers(0, 20), st.integers(0, 5))
def test_an_exact_size_is_within_its_target_where_the_smallest_is(
    case: Case, target: int, overhead: int, table: int
) -> None:
    size_of = SharedSize(case, overhead, table)
    found = within(case, size_of, target)
    assert len(size_of.asked) == len(set(size_of.asked)) == found.sizes <= 74
    assert found.bytes == size_of(found.picks)
    assert found.is_within == (found.bytes <= target)
    smallest = make_path(make_fronts(case)).start
    assert found.is_within == (size_of(smallest) <= target)
    assert found.is_within or found.picks == smallest
    assert total_loss(case, found.picks) <= total_loss(case, smallest)


@given(cases, st.integers(0, 100), st.integers(0, 50))
def test_what_is_left_of_a_target_fits_no_single_move(
    case: Case, target: int, overhead: int
) -> None:
    found = within(case, SharedSize(case, overhead, 0), target)
    spare = target - found.bytes
    if found.is_within and spare > TOLERANCE * target:
        now = moves(make_fronts(case), found.picks)
        assert not ((now.gain > 0) & (now.cost <= spare)).any()


@given(cases, st.integers(0, 60), st.integers(1, 30), st.data())
def test_refining_never_raises_the_error_or_leaves_the_target(
    case: Case, target: int, runs: int, data: st.DataObject
) -> None:
    size_of = SharedSize(case, 5, 2)
    start = within(case, size_of, target)
    if not start.is_within:
        return
    drawn = st.floats(0, 100, allow_nan=False) | st.just(float("nan"))
    errors: dict[Picks, float] = {}

    def error(picks: Picks) -> float:
        assert picks not in errors
        errors[picks] = data.draw(drawn)
        return errors[picks]

    found = refine(case, start.picks, error, size_of, target, runs)
    assert found.bytes == size_of(found.picks) <= target
    assert found.runs == len(errors) <= runs
    np.testing.assert_equal(found.error, np.fmin.reduce([*errors.values()]))
    np.testing.assert_equal(found.error, errors[found.picks])
    np.testing.assert_equal(found.first_error, errors[start.picks])


@given(cases, st.integers(0, 60))
def test_the_same_case_gives_the_same_picks(case: Case, target: int) -> None:
    again = [list(own) for own in case]
    assert within(case, SharedSize(case, 3, 1), target) == within(
        again, SharedSize(again, 3, 1), target
    )
