"""Reports as named working points, and the measures that they have."""

from __future__ import annotations

import dataclasses

import pytest

from onnxq.errors import InputError, OptionError
from onnxq.pages import overlay
from onnxq.report import FileSize
from onnxq.validation.measurements import Estimate, MetricRow
from tests import reports
from tests.digits_sweep import digits_sweep


def test_points_are_named_by_their_bits_and_files() -> None:
    shown = overlay.entries([digits_sweep(), reports.CONVERTED, reports.VALIDATED])
    assert [entry.label for entry in shown][:2] == ["2 bits", "3 bits"]
    assert [entry.label for entry in shown][-2:] == ["6 bits", "out.onnx"]
    assert [entry.origin for entry in shown][-3:] == ["sweep", "convert", "validate"]
    assert overlay.full_label(shown, shown[0]) == "digits.onnx, optimal, 2 bits"


def test_a_lone_curve_needs_no_name() -> None:
    shown = overlay.entries([digits_sweep(("optimal",), (2, 4))])
    assert overlay.full_label(shown, shown[0]) == "2 bits"


def test_models_of_one_name_are_told_apart_by_size() -> None:
    other = dataclasses.replace(
        reports.CONVERTED, input=FileSize(path="C:\\old\\in.onnx", file_bytes=20_000)
    )
    shown = overlay.entries([reports.CONVERTED, other, reports.VALIDATED])
    names = ["in.onnx (10.0 kB)", "in.onnx (20.0 kB)", "in.onnx (10.0 kB)"]
    assert [entry.model for entry in shown] == names


def test_other_reports_are_refused() -> None:
    with pytest.raises(InputError, match="found one of inspect, expected one of convert"):
        overlay.entries([reports.INSPECTED])
    with pytest.raises(InputError, match="found none"):
        overlay.entries([])


def test_measures_of_the_task_stand_first() -> None:
    labels = [measure.label for measure in overlay.measures(overlay.entries([digits_sweep()]))]
    assert labels == ["top1", "snr", "top1-agreement"]


def test_models_whose_outputs_have_other_names_share_their_measures() -> None:
    sweep = digits_sweep()
    points = [
        dataclasses.replace(
            point,
            metrics=tuple(dataclasses.replace(row, output="scores") for row in point.metrics),
        )
        for point in sweep.points
    ]
    other = dataclasses.replace(
        sweep,
        model=dataclasses.replace(sweep.model, path="other.onnx"),
        points=tuple(points),
    )
    shown = overlay.entries([sweep, other])
    assert next(iter(overlay.measures(shown))).label == "top1"
    assert all(overlay.reading(entry, "top1") is not None for entry in shown)


def test_a_measure_is_chosen_by_label_or_name() -> None:
    shown = overlay.entries([digits_sweep()])
    for label in (None, "top1", "top1@probabilities"):
        assert overlay.choose_measure(shown, label).title == "Top-1 accuracy"
    with pytest.raises(OptionError, match="'f1' was not measured; expected one of top1,"):
        overlay.choose_measure(shown, "f1")
    with pytest.raises(OptionError, match="no measured figure"):
        overlay.choose_measure(overlay.entries([reports.NOTHING_GAINED]), None)


def test_the_snr_of_checks_and_of_metrics_is_one_measure() -> None:
    row = MetricRow(
        name="snr",
        output="y",
        kind="fidelity",
        better="higher",
        unit="dB",
        samples=9,
        candidate=Estimate(value=28.5, low=27.0, high=30.0),
    )
    validated = dataclasses.replace(reports.VALIDATED, metrics=(row,))
    shown = overlay.entries([validated, reports.CONVERTED])
    assert [measure.label for measure in overlay.measures(shown)] == ["snr"]
    assert overlay.choose_measure(shown, "snr@y").label == "snr"
    assert overlay.reading(shown[0], "snr") == dataclasses.replace(row, output=None)
    assert overlay.reading(shown[1], "snr").candidate.value == 28.5
    other = dataclasses.replace(row, output="z", candidate=Estimate(value=3.0))
    shown = overlay.entries([dataclasses.replace(validated, metrics=(row, other))])
    assert [measure.label for measure in overlay.measures(shown)] == ["snr", "snr@y", "snr@z"]
    assert overlay.reading(shown[0], "snr") == other


def test_names_lose_their_control_characters() -> None:
    report = dataclasses.replace(
        reports.CONVERTED, input=FileSize(path="a/\x1b[2J\u202e.onnx", file_bytes=10)
    )
    assert overlay.entries([report])[0].model == "\\x1b[2J\\u202e.onnx"


def test_without_a_task_the_snr_is_drawn_whatever_was_measured_first() -> None:
    cosine = MetricRow(
        name="cosine",
        output="y",
        kind="fidelity",
        better="higher",
        samples=9,
        candidate=Estimate(value=0.9),
    )
    snr = dataclasses.replace(cosine, name="snr", unit="dB")
    for rows in ((snr, cosine), (cosine, snr), (cosine,)):
        report = dataclasses.replace(reports.VALIDATED, metrics=rows)
        assert overlay.choose_measure(overlay.entries([report]), None).label == "snr"
