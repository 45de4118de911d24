import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from onnxq.errors import InputError
from onnxq.record_json import from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Point:
    x: int
    y: float | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    name: str
    kind: Literal["solid", "dashed"]
    points: tuple[Point, ...]
    extra: Mapping[str, Any]
    size: int | str | None = None
    is_closed: bool = False


LINE = Line(
    name="a", kind="solid", points=(Point(x=1, y=0.5), Point(x=2)), extra={"k": [1, None]}, size="L"
)


def test_records_come_back() -> None:
    assert from_json(Line, to_json(LINE)) == LINE


def test_field_names_are_keys_and_tuples_are_lists() -> None:
    assert to_json(LINE) == {
        "name": "a",
        "kind": "solid",
        "points": [{"x": 1, "y": 0.5}, {"x": 2, "y": None}],
        "extra": {"k": [1, None]},
        "size": "L",
        "is_closed": False,
    }


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_cannot_hold_are_null(value: float) -> None:
    assert to_json(Point(x=1, y=value)) == {"x": 1, "y": None}


def test_a_whole_number_is_a_number() -> None:
    assert from_json(Point, {"x": 1, "y": 2}) == Point(x=1, y=2.0)


def test_unknown_keys_are_ignored() -> None:
    assert from_json(Point, {"x": 1, "z": 3}) == Point(x=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, r"line\.name: found 3, expected str"),
        ({"kind": "wavy"}, r"line\.kind: found 'wavy', expected one of 'solid', 'dashed'"),
        ({"points": {}}, r"line\.points: found dict, expected a list"),
        ({"points": [{"x": 1.5}]}, r"line\.points\[0\]\.x: found 1\.5, expected int"),
        ({"points": [{}]}, r"line\.points\[0\]: 'x' is missing"),
        ({"points": [7]}, r"line\.points\[0\]: found 7, expected an object"),
        ({"extra": None}, r"line\.extra: found None, expected an object"),
        ({"size": 1.5}, r"line\.size: found 1\.5, expected int or str"),
        ({"is_closed": 1}, r"line\.is_closed: found 1, expected bool"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_json(Line, {**to_json(LINE), **change}, "line")
