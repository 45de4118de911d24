"""What stands in a chart: series, units, the float model's line and the Pareto front."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.pages import figures, overlay
from onnxq.pages.figures import Chart, chart, pareto
from onnxq.report import FileSize
from onnxq.sweeps.working_points import SweepReport
from tests import reports
from tests.digits_sweep import digits_sweep

PLACES = st.lists(
    st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12
)


@pytest.fixture(scope="module")
def sweep() -> SweepReport:
    return digits_sweep()


def chart_of(*drawn, measure: str | None = None, size: str | None = None) -> Chart:
    shown = overlay.entries(drawn)
    return chart(shown, overlay.choose_measure(shown, measure), size)


def beats(one: tuple[float, float], other: tuple[float, float], better: str) -> bool:
    sign = 1 if better == "higher" else -1
    is_as_good = one[0] <= other[0] and sign * one[1] >= sign * other[1]
    return is_as_good and one != other


@given(PLACES, st.sampled_from(["higher", "lower"]))
def test_the_front_is_what_no_other_point_beats(places, better) -> None:
    expected = {
        position
        for position, place in enumerate(places)
        if not any(beats(other, place, better) for other in places)
    }
    assert pareto(places, better) == expected


def test_a_sweep_has_a_series_for_each_choice_of_options(sweep) -> None:
    drawn = chart_of(sweep)
    assert [series.name for series in drawn.series] == ["optimal", "bounded-pdf"]
    assert drawn.measure.axis == "Top-1 accuracy"
    assert drawn.size_axis == "File size (kB)"
    for series in drawn.series:
        assert series.is_line
        assert [dot.size for dot in series.dots] == sorted(dot.size for dot in series.dots)
        assert len(series.dots) == 7
        for dot in series.dots:
            assert dot.size == sweep.points[dot.entry].file_bytes / 1000
            assert dot.low < dot.value < dot.high


def test_the_float_line_is_the_reference_of_the_metric(sweep) -> None:
    (line,) = chart_of(sweep, measure="top1").float_lines
    assert line.name == "float model"
    assert line.value == sweep.points[0].metrics[0].reference.value
    assert line.low < line.value < line.high
    assert chart_of(sweep, measure="snr").float_lines == ()


def test_the_front_runs_over_all_series_of_a_model(sweep) -> None:
    drawn = chart_of(sweep, measure="snr")
    dots = [dot for series in drawn.series for dot in series.dots]
    front = pareto([(dot.size, dot.value) for dot in dots], "higher")
    assert [dot.is_front for dot in dots] == [position in front for position in range(len(dots))]
    assert 2 <= len(front) < len(dots)


def test_models_have_fronts_of_their_own_and_sizes_as_shares(sweep) -> None:
    other = dataclasses.replace(sweep, model=FileSize(path="b.onnx", file_bytes=10**9))
    alone, both = chart_of(sweep, size="share"), chart_of(sweep, other)
    assert both.size_axis == "Share of the float model's size (%)"
    assert [series.name for series in both.series] == [
        "digits.onnx, optimal",
        "digits.onnx, bounded-pdf",
        "b.onnx, optimal",
        "b.onnx, bounded-pdf",
    ]
    assert [line.name for line in both.float_lines] == ["digits.onnx, float", "b.onnx, float"]
    fronts = [[dot.is_front for dot in series.dots] for series in both.series]
    assert fronts[:2] == fronts[2:] == [[d.is_front for d in s.dots] for s in alone.series]


def test_of_two_near_points_the_higher_one_is_named_above(sweep) -> None:
    drawn = chart_of(sweep, measure="snr")
    upper = [[dot.is_upper for dot in series.dots] for series in drawn.series]
    for (one, is_above), (other, is_below) in zip(
        *[zip(s.dots, u, strict=True) for s, u in zip(drawn.series, upper, strict=True)],
        strict=True,
    ):
        assert is_above != is_below
        assert is_above == (one.value > other.value)


def test_points_without_a_place_are_told(sweep) -> None:
    failed = dataclasses.replace(sweep.points[0], error="no\nmemory", check=None, metrics=())
    exact = dataclasses.replace(
        sweep.points[1],
        metrics=(),
        check=dataclasses.replace(
            sweep.points[1].check,
            outputs=(reports.CHECK.outputs[1],),
        ),
    )
    drawn = chart_of(
        dataclasses.replace(sweep, points=(failed, exact, *sweep.points[2:])), measure="snr"
    )
    assert drawn.undrawn == (
        "optimal, 2 bits: no memory",
        "optimal, 3 bits: the outputs are equal, so the figure is infinite",
    )
    assert len(drawn.series[0].dots) == 5


def test_a_comparison_that_could_not_be_made_is_told() -> None:
    drawn = chart_of(reports.CONVERTED, reports.NOTHING_GAINED, reports.INVALID)
    assert "int8.onnx, converted, out.onnx: x: onnxruntime cannot load it: why" in drawn.undrawn
    assert "in.onnx, validated, in memory: the outputs cannot be compared" in drawn.undrawn


def test_conversions_and_validations_lie_over_a_sweep_of_their_model(sweep) -> None:
    converted = dataclasses.replace(reports.CONVERTED, input=sweep.model)
    validated = dataclasses.replace(reports.VALIDATED, reference=sweep.model)
    drawn = chart_of(sweep, converted, validated, measure="snr")
    assert [series.name for series in drawn.series][2:] == ["converted", "validated"]
    assert [series.is_line for series in drawn.series] == [True, True, True, False]
    assert drawn.size_axis == "File size (kB)"


@pytest.mark.parametrize("size", figures.SIZES)
def test_every_size_has_an_axis_with_a_unit(sweep, size) -> None:
    drawn = chart_of(sweep, size=size)
    assert drawn.size_axis.startswith(figures.SIZES[size].partition(" (")[0])
    assert "(" in drawn.size_axis or "Bits" in drawn.size_axis
    values = [dot.size for series in drawn.series for dot in series.dots]
    assert len(values) == 14
    if size == "rate":
        assert 2 <= min(values) <= max(values) < 9
    if size == "share":
        assert 0 < min(values) <= max(values) < 100
