"""Grids: how widths and values are written, what is the same point, what sets curves apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.errors import OptionError
from onnxq.options import ConvertOptions
from onnxq.sweeps import grid

WIDTHS = st.sets(st.integers(1, 16), min_size=1)


def bits_and_series(points: tuple[grid.GridPoint, ...]) -> list[tuple[int, str]]:
    return [(point.bits, point.series) for point in points]


@given(WIDTHS)
def test_a_list_of_widths_comes_back_rising(widths: set[int]) -> None:
    assert grid.parse_bits(",".join(map(str, widths))) == tuple(sorted(widths))


@given(st.integers(1, 16), st.integers(0, 15))
def test_a_range_holds_both_of_its_ends(first: int, more: int) -> None:
    last = min(first + more, 16)
    assert grid.parse_bits(f"{first}-{last}") == tuple(range(first, last + 1))


@given(st.text(alphabet="0123456789,- x", max_size=12))
def test_any_text_gives_widths_or_an_option_error(text: str) -> None:
    try:
        widths = grid.parse_bits(text)
    except OptionError:
        return
    assert widths == tuple(sorted(set(widths)))
    assert all(1 <= width <= 16 for width in widths)


@pytest.mark.parametrize(
    "text", ["", "2-", "-2", "8-2", "0", "17", "2--4", "2,,4", "٢", "2.0", "x"]
)
def test_no_widths_are_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(OptionError, match=r"--bits: found .*expected widths from 1 to 16"):
        grid.parse_bits(text)


def test_overlapping_ranges_are_merged() -> None:
    assert grid.parse_bits("2-4, 4,3-5") == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layout=portable,native", ("layout", ("portable", "native"))),
        ("codebook-dtype=float16", ("codebook_dtype", ("float16",))),
        ("quantize_norm=yes,no", ("quantize_norm", (True, False))),
        ("quantize-bias=False", ("quantize_bias", (False,))),
        ("min-elements=0,100", ("min_elements", (0, 100))),
        ("pdf_factor=0.3,1", ("pdf_factor", (0.3, 1.0))),
        ("preset=none,ce2", ("preset", (None, "ce2"))),
        ("exclude=none,a*|b*", ("exclude", ((), ("a*", "b*")))),
        ("op_types=Conv|Gemm,Gemm", ("op_types", (("Conv", "Gemm"), ("Gemm",)))),
        ("tensor_bits=none,a=4|b=8", ("tensor_bits", ((), (("a", 4), ("b", 8))))),
    ],
)
def test_an_axis_has_values_of_its_options_type(text: str, expected: Any) -> None:
    assert grid.parse_axis(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layout", "expected NAME=V1,V2"),
        ("colour=red", "expected a convert option: codebook_dtype, exclude, .*tensor_bits"),
        ("bits=2,3", "widths are given by --bits"),
        ("jobs=1,2", "found 'jobs', expected a convert option"),
        ("quantize_norm=perhaps", "quantize_norm: found 'perhaps', expected yes or no"),
        ("min_elements=1.5", "min_elements: found '1.5', expected a whole number"),
        ("pdf_factor=wide", "pdf_factor: found 'wide', expected a number"),
        ("tensor_bits=head", "--tensor: found 'head'"),
    ],
)
def test_no_axis_is_refused_with_what_is_expected(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        grid.parse_axis(text)


def test_points_are_listed_series_by_series_with_rising_widths() -> None:
    points = grid.make_grid("4,2", {"init": ["optimal", "uniform"], "layout": ["portable"]})
    assert bits_and_series(points) == [
        (2, "optimal"),
        (4, "optimal"),
        (2, "uniform"),
        (4, "uniform"),
    ]
    assert [point.label for point in points][:2] == ["optimal, 2 bits", "optimal, 4 bits"]
    assert points[0].settings == {"init": "optimal", "layout": "portable", "bits": 2}


def test_one_curve_needs_no_name() -> None:
    points = grid.make_grid((1, 8), {"init": "uniform"})
    assert bits_and_series(points) == [(1, ""), (8, "")]
    assert [point.label for point in points] == ["1 bit", "8 bits"]


def test_a_series_is_named_by_all_that_varies() -> None:
    axes = {"quantize_norm": (True, False), "exclude": ([], ["a*", "b*"]), "min_elements": [0, 9]}
    names = {point.series for point in grid.make_grid(4, axes)}
    assert len(names) == 8
    assert "quantize norm, exclude a*|b*, min elements 9" in names
    assert "no quantize norm, no exclude, min elements 0" in names


def test_equal_points_are_made_once() -> None:
    assert len(grid.make_grid([2, 2, 3], {"layout": ["native", "native"]})) == 2
    spelled = {
        "init": "bounded-pdf",
        "min_elements_per_centroid": 1.6,
        "only_smaller": False,
        "fewer_bits": False,
        "share_equal": False,
    }
    assert len(grid.make_grid(4, {"preset": [None, "ce2"], **spelled})) == 1
    assert len(grid.make_grid(4, {"exclude": ["a*", ["a*"]]})) == 1


def test_settings_are_the_same_after_json() -> None:
    axes = {"tensor_bits": [{"a": 3}, {}], "exclude": [("a", "b"), "c"], "preset": "ce2"}
    for point in grid.make_grid("2-3", axes):
        assert json.loads(json.dumps(point.settings)) == point.settings


def test_numpy_widths_and_ranges_are_widths() -> None:
    points = grid.make_grid(np.arange(2, 4), {})
    assert [point.bits for point in points] == [point.bits for point in grid.make_grid("2-3", {})]
    assert points[0].options == ConvertOptions(bits=2)


@pytest.mark.parametrize(
    ("bits", "axes", "message"),
    [
        ((), {}, "--bits: found no width"),
        ((17,), {}, "--bits: found 17"),
        ((True,), {}, "--bits: found True"),
        ((2.5,), {}, "--bits: found .*2.5"),
        ((4,), {"init": ["optimal", "best"]}, "--init: found 'best'"),
        ((4,), {"init": []}, "--grid init: found no value"),
        ((4,), {"colour": ["red"]}, "found 'colour', expected a convert option"),
        ((4,), {"bits": [2]}, "widths are given by --bits"),
        ((4,), {"min_elements": [None]}, "--grid min_elements: found None"),
        ((4,), {"quantize_bias": ["yes"]}, "quantize_bias: found 'yes'"),
        (range(1, 17), {"min_elements": range(1000)}, "found 16,000 points"),
    ],
)
def test_no_grid_is_refused_before_any_work(bits: Any, axes: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        grid.make_grid(bits, axes)
