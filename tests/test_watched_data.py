from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.data.batches import Batch
from onnxq.data.drawn_data import GivenData
from onnxq.data.watched_data import (
    FirstSamples,
    HalfOfSamples,
    MeasureEvent,
    NotedData,
    SpreadSamples,
    Told,
    WatchedData,
    spread,
)


def data(*samples: int) -> GivenData:
    return GivenData([{"x": np.zeros((count, 3), np.float32)} for count in samples])


def test_the_first_walk_is_the_reference_and_all_others_the_candidate() -> None:
    events: list[MeasureEvent] = []
    watched = WatchedData(data(2, 3), Told(events.append))
    for _ in range(3):
        assert [batch.samples for batch in watched.batches()] == [2, 3]
    assert [(event.stage, event.done, event.total) for event in events] == [
        ("reference", 0, 5),
        ("reference", 2, 5),
        ("reference", 5, 5),
        *[("candidate", 0, 5), ("candidate", 2, 5), ("candidate", 5, 5)] * 2,
    ]


@pytest.mark.parametrize(("limit", "total"), [(None, 5), (4, 4), (9, 5)])
def test_the_total_is_what_will_be_read(limit: int | None, total: int) -> None:
    events: list[MeasureEvent] = []
    list(WatchedData(data(2, 3), Told(events.append), limit).batches())
    assert events[0].total == total


def test_nobody_needs_to_be_told() -> None:
    told = Told(None)
    told.stage("timing")
    told.tensor_done("w", 1, 2)
    assert len(list(WatchedData(data(1), told).batches())) == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 20))
def test_the_first_samples_are_whole_batches(sizes: list[int], wanted: int) -> None:
    first = [batch.samples for batch in FirstSamples(data(*sizes), wanted).batches()]
    assert first == sizes[: len(first)]
    assert sum(first[:-1]) < wanted
    assert sum(first) >= wanted or first == sizes


def test_the_data_are_described_as_they_are() -> None:
    inner = data(4)
    for seen in (WatchedData(inner, Told(None)), FirstSamples(inner, 1)):
        assert (seen.kind, seen.path, seen.truths) == ("inputs", None, ())
        assert (seen.available, seen.classes) == (4, None)


def labelled(*labels: int) -> GivenData:
    class Labelled(GivenData):
        def batches(self) -> Iterator[Batch]:
            for batch, label in zip(super().batches(), labels, strict=True):
                yield replace(batch, truth={"label": np.array([label] * batch.samples)})

    return Labelled([{"x": np.zeros((2, 3), np.float32)} for _ in labels])


@pytest.mark.parametrize(
    ("labels", "limit", "notes"),
    [
        ((3, 3), None, ("every sample is of class 3",)),
        ((3, 3), 4, ("every sample is of class 3; --limit 4 leaves no other",)),
        ((3, 4), 4, ()),
    ],
)
def test_samples_of_one_class_are_noted(
    labels: tuple[int, ...], limit: int | None, notes: tuple[str, ...]
) -> None:
    noted = NotedData(labelled(*labels), limit)
    assert [len(list(noted.batches())) for _ in range(2)] == [2, 2]
    assert noted.notes == notes


def test_nan_in_an_input_is_noted_with_its_place() -> None:
    feeds = [{"x": np.float32([[value, 0]]), "i": np.array([1])} for value in (0, np.nan, np.nan)]
    noted = NotedData(GivenData(feeds))
    list(noted.batches())
    assert noted.notes == ("input 'x' holds NaN, first in given inputs 1",)


def numbers(count: int) -> GivenData:
    return GivenData([{"x": np.full((1, 1), number)} for number in range(count)])


def halves(count: int) -> list[list[int]]:
    return [
        [int(batch.feeds["x"][0, 0]) for batch in HalfOfSamples(numbers(count), half).batches()]
        for half in range(2)
    ]


@given(st.integers(0, 70))
def test_two_halves_are_all_batches_each_once(count: int) -> None:
    first, second = halves(count)
    assert sorted(first + second) == list(range(count))
    assert abs(len(first) - len(second)) <= 1


def test_labels_that_take_turns_are_in_both_halves() -> None:
    for period in (2, 4, 8):
        for half in halves(64):
            assert {number % period for number in half} == set(range(period))


def test_half_of_the_sequences_stay_whole() -> None:
    class Sequences(GivenData):
        def batches(self) -> Iterator[Batch]:
            for number, batch in enumerate(super().batches()):
                yield replace(batch, is_start=number % 3 == 0)

    data = Sequences([{"x": np.full((1, 1), number)} for number in range(9)])
    first, second = (
        [int(b.feeds["x"][0, 0]) for b in HalfOfSamples(data, half, by_sequence=True).batches()]
        for half in range(2)
    )
    assert first == [0, 1, 2]
    assert second == [3, 4, 5, 6, 7, 8]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 60))
def test_spread_samples_are_whole_batches_from_all_over_the_data(
    sizes: list[int], wanted: int
) -> None:
    places = sorted(spread(sizes, wanted))
    assert places[0] == 0
    gaps = np.diff([*places, len(sizes)])
    assert gaps.max() - gaps.min() <= 1
    seen = SpreadSamples(data(*sizes), wanted)
    for _ in range(2):
        assert [batch.samples for batch in seen.batches()] == [sizes[place] for place in places]


def test_spread_samples_are_about_as_many_as_asked_for_and_all_where_there_are_fewer() -> None:
    assert sorted(spread([8] * 12, 24)) == [0, 4, 8]
    assert sorted(spread([8] * 12, 25)) == [0, 3, 6, 9]
    assert sorted(spread([8, 8, 8], 1000)) == [0, 1, 2]
    assert spread([], 5) == frozenset()
    assert list(SpreadSamples(GivenData([]), 5).batches()) == []
