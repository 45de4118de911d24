"""Reports of sweeps and their JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import jsonschema
import pytest

from onnxq import report
from onnxq.errors import InputError
from onnxq.sweeps import working_points
from onnxq.sweeps.working_points import load_report
from tests import reports, sweeps


def test_a_sweep_has_exactly_the_published_fields() -> None:
    data = json.loads(working_points.dumps(sweeps.SWEPT))
    jsonschema.Draft202012Validator(reports.closed(report.schema())).validate(data)


def test_the_schema_rejects_a_missing_field() -> None:
    checker = jsonschema.Draft202012Validator(report.schema())
    for place in ((), ("data",), ("points", 0), ("points", 0, "metrics", 0)):
        whole: Any = copy.deepcopy(sweeps.SWEPT.to_json())
        part = whole
        for key in place:
            part = part[key]
        for field in list(part):
            value = part.pop(field)
            with pytest.raises(jsonschema.ValidationError):
                checker.validate(whole)
            part[field] = value


def test_a_sweep_comes_back_from_its_json() -> None:
    assert load_report(json.loads(working_points.dumps(sweeps.SWEPT))) == sweeps.SWEPT


@pytest.mark.parametrize("made", reports.ALL.values(), ids=reports.ALL)
def test_any_other_report_comes_back_too(made: report.AnyReport) -> None:
    assert load_report(json.loads(working_points.dumps(made))) == made
    assert working_points.dumps(made) == report.dumps(made)


@pytest.mark.parametrize("data", [None, [], "x", {}, {"command": "frob"}])
def test_other_json_is_no_report(data: object) -> None:
    with pytest.raises(InputError, match="no report"):
        load_report(data)


def test_another_version_is_refused() -> None:
    with pytest.raises(InputError, match="schema version 2, expected 1"):
        load_report({**sweeps.SWEPT.to_json(), "schema_version": 2})


def test_a_damaged_sweep_is_an_input_error_with_the_place() -> None:
    data: Any = copy.deepcopy(sweeps.SWEPT.to_json())
    data["points"][1]["metrics"][0]["samples"] = "many"
    with pytest.raises(
        InputError, match=r"report\.points\[1\]\.metrics\[0\]\.samples: found 'many'"
    ):
        load_report(data)


def test_a_metric_is_found_by_label_and_by_name() -> None:
    point = sweeps.SWEPT.points[0]
    assert point.metric("top1") is point.metric("top1@y") is point.metrics[0]
    assert point.metric("top5") is None


def test_a_failed_point_has_no_figures() -> None:
    failed = sweeps.SWEPT.points[-1]
    assert failed.error
    values = [getattr(failed, field.name) for field in dataclasses.fields(failed)]
    assert sum(value is None for value in values) == 6
