from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.low_rank import ranks
from onnxq.low_rank.ranks import Choice, Curve


def choice(size: int, loss: float, split: str = "matrix", rank: int = 1) -> Choice:
    return Choice(split=split, rank=rank, parameters=size, loss=loss)


def curve(name: str, full: int, *points: tuple[int, float], gain: float = 1.0) -> Curve:
    choices = tuple(choice(size, loss, rank=at) for at, (size, loss) in enumerate(points, 1))
    return Curve(key=("main", name), parameters=full, choices=choices, gain=gain)


@st.composite
def curves(draw: st.DrawFn) -> list[Curve]:
    made = []
    for at in range(draw(st.integers(1, 3))):
        full = draw(st.integers(2, 30))
        sizes = draw(st.lists(st.integers(1, full - 1), max_size=4))
        points = [(size, draw(st.integers(0, 16)) / 16) for size in sizes]
        made.append(curve(str(at), full, *points, gain=draw(st.sampled_from([0.25, 1.0, 3.0]))))
    return made


def all_ways(made: Sequence[Curve]) -> Iterator[dict[ranks.Key, Choice]]:
    for taken in itertools.product(*([None, *item.choices] for item in made)):
        pairs = zip(made, taken, strict=True)
        yield {item.key: found for item, found in pairs if found is not None}


@given(curves(), st.floats(0, 1))
def test_the_budget_is_kept_where_any_choice_keeps_it(made: list[Curve], share: float) -> None:
    total = sum(item.parameters for item in made)
    budget = int(share * total)
    size = ranks.parameters(made, ranks.within(made, budget))
    assert size <= max(budget, ranks.smallest(made))


@given(curves(), st.floats(0, 1))
def test_nothing_that_still_fits_would_lose_less(made: list[Curve], share: float) -> None:
    total = sum(item.parameters for item in made)
    budget = int(share * total)
    chosen = ranks.within(made, budget)
    left = budget - ranks.parameters(made, chosen)
    for item in made:
        current = chosen.get(item.key)
        if current is None:
            continue
        for other in (*item.choices, choice(item.parameters, 0.0)):
            if 0 < other.parameters - current.parameters <= left:
                assert other.loss >= current.loss


@given(curves())
def test_what_is_on_the_way_down_the_hulls_is_the_best_of_its_size(made: list[Curve]) -> None:
    found: dict[ranks.Key, Choice] = {}
    for step in ranks._steps(made):
        found[step.key] = step.choice
        size, loss = ranks.parameters(made, found), ranks.total_loss(made, found)
        ways = [way for way in all_ways(made) if ranks.parameters(made, way) <= size]
        assert loss <= min(ranks.total_loss(made, way) for way in ways) + 1e-9
        assert ranks.total_loss(made, ranks.within(made, size)) <= loss + 1e-9


@given(curves())
def test_prices_of_a_hull_rise(made: list[Curve]) -> None:
    for item in made:
        size, loss, price = item.parameters, 0.0, 0.0
        for found in ranks.hull(item):
            now = (found.loss - loss) / (size - found.parameters)
            assert now >= price - 1e-12
            size, loss, price = found.parameters, found.loss, now


@given(curves(), st.floats(0.01, 0.99))
def test_every_kept_share_is_at_least_the_one_asked_for(made: list[Curve], energy: float) -> None:
    chosen = ranks.keeping(made, energy)
    for item in made:
        enough = [found.parameters for found in item.choices if found.loss <= 1 - energy]
        assert (item.key in chosen) == bool(enough)
        if enough:
            assert chosen[item.key].parameters == min(enough)


def test_a_layer_is_left_alone_where_the_budget_allows_all() -> None:
    assert ranks.within([curve("a", 10, (5, 0.1))], 10) == {}


def test_the_layer_whose_loss_is_cheapest_goes_first() -> None:
    made = [curve("a", 10, (5, 0.5)), curve("b", 100, (50, 0.5))]
    assert [key[1] for key in ranks.within(made, 109)] == ["b"]


def test_of_equal_layers_the_first_goes_first() -> None:
    made = [curve("a", 10, (5, 0.5)), curve("b", 10, (5, 0.5))]
    assert [key[1] for key in ranks.within(made, 19)] == ["a"]


def test_a_point_above_the_hull_is_taken_where_it_fits_better() -> None:
    made = [curve("a", 100, (10, 0.1), (60, 0.09))]
    assert [found.parameters for found in ranks.hull(made[0])] == [10]
    assert ranks.within(made, 70)["main", "a"].parameters == 60


def test_what_the_last_step_saved_too_much_is_spent_on_another_layer() -> None:
    made = [curve("a", 20, (10, 0.1)), curve("b", 100, (20, 0.9))]
    chosen = ranks.within(made, 115)
    assert [key[1] for key in chosen] == ["a"]
    chosen = ranks.within(made, 105)
    assert [key[1] for key in chosen] == ["b"]


def test_what_cannot_be_reached_is_as_small_as_can_be() -> None:
    made = [curve("a", 10, (5, 0.5), (3, 0.9))]
    assert ranks.smallest(made) == 3
    assert ranks.parameters(made, ranks.within(made, 1)) == 3


def test_of_a_rank_the_split_that_loses_less_is_taken() -> None:
    made = Curve(
        key=("main", "a"),
        parameters=10,
        choices=(choice(5, 0.4, "spatial", 2), choice(6, 0.3, "channel", 2)),
    )
    found = ranks.of_rank(made, 2)
    assert found is not None
    assert found.split == "channel"
    assert ranks.of_rank(made, 3) is None


def test_a_layer_that_gains_nothing_has_no_hull() -> None:
    assert ranks.hull(curve("a", 10, (10, 0.0), (12, 0.0))) == []


@pytest.mark.parametrize("loss", [0.0, 0.5])
def test_a_smaller_choice_that_loses_as_little_wins(loss: float) -> None:
    made = curve("a", 10, (8, loss), (4, loss))
    assert [found.parameters for found in ranks.hull(made)] == [4]
