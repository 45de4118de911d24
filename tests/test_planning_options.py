from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxq.allocation.planning_options import PlanningOptions, make_planning_options
from onnxq.errors import OptionError


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sensitivity": "guess"}, "--sensitivity: found 'guess'"),
        ({"samples": 0}, "--calibration-samples: found 0"),
        ({"samples": True}, "--calibration-samples: found True"),
        ({"samples": 1.5}, "--calibration-samples: found 1.5"),
        ({"refine_runs": -1}, "--refine: found -1"),
        ({"is_weighted": 1}, "is_weighted: found 1"),
        ({"has_feedback": "no"}, "has_feedback: found 'no'"),
        ({"corrects_bias": 0}, "corrects_bias: found 0"),
        ({"limit": 0}, "limit"),
        ({"limit": 3}, "limit"),
        ({"nothing": 1}, "unknown option 'nothing'"),
    ],
)
def test_values_outside_their_range_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        make_planning_options(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"calibration": "x.npz"}, True),
        ({"calibration": "x.npz", "sensitivity": "weights"}, False),
        ({"sensitivity": "outputs"}, True),
    ],
)
def test_runs_are_needed_with_calibration_data_unless_said_otherwise(
    given: dict[str, Any], expected: bool
) -> None:
    assert make_planning_options(given).needs_runs is expected


def test_what_is_not_given_is_the_default_and_none_is_not_given() -> None:
    assert make_planning_options({}) == PlanningOptions()
    assert make_planning_options({"samples": None, "calibration": None}) == PlanningOptions()


def test_random_inputs_are_as_many_as_the_samples_and_data_are_read_whole() -> None:
    assert make_planning_options({"samples": 5}).measured().samples == 5
    measured = make_planning_options({"samples": 5, "calibration": "x.npz"}).measured()
    assert measured.data == Path("x.npz")
    assert not measured.performance


def test_options_can_be_written_as_json() -> None:
    options = make_planning_options({"calibration": Path("x.npz"), "carry": {"a": "b"}})
    record = json.loads(json.dumps(options.to_json()))
    assert record["calibration"] == "x.npz"
    assert record["carry"] == {"a": "b"}


def test_inputs_are_looked_at_for_any_of_the_methods() -> None:
    none = {"is_weighted": False, "has_feedback": False, "corrects_bias": False}
    assert not make_planning_options(none).looks_at_inputs
    for key in none:
        assert make_planning_options({**none, key: True}).looks_at_inputs
