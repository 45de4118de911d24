"""How far a sweep is, by a clock that the test holds."""

from __future__ import annotations

import pytest

from onnxq.sweeps import sweep_pace
from onnxq.sweeps.sweep_pace import Meter, SweepEvent


def test_the_pace_is_that_of_the_points_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, events = [100.0], list[SweepEvent]()
    monkeypatch.setattr(sweep_pace.time, "monotonic", lambda: clock[0])
    meter = Meter(5, 2, events.append)
    clock[0] += 60  # the reference is run
    meter.begin()
    for point in "abc":
        clock[0] += 2
        meter.step(point)
    assert [(event.point, event.done, event.eta_seconds) for event in events] == [
        ("", 2, None),
        ("a", 3, 4.0),
        ("b", 4, 2.0),
        ("c", 5, 0.0),
    ]
    assert [event.seconds for event in events] == [0.0, 62.0, 64.0, 66.0]
    assert {(event.total, event.reused) for event in events} == {(5, 2)}


def test_nothing_is_left_of_a_finished_sweep() -> None:
    events = list[SweepEvent]()
    Meter(3, 3, events.append)
    assert [event.eta_seconds for event in events] == [0.0]
    Meter(3, 0, None).step("a")
