from typing import Any

import numpy as np
import pytest

from onnxq.differences import OutputSums
from onnxq.errors import InputError
from onnxq.validation import metrics
from onnxq.validation.aggregates import MEAN
from onnxq.validation.measurements import MetricRow
from onnxq.validation.metrics import Metric
from onnxq.validation.plugins import Plugin
from onnxq.validation.tallies import Step, Tally


def step(reference: Any, candidate: Any, samples: int = 2, **sample: Any) -> Step:
    return Step(
        where="here",
        samples=samples,
        sample=sample,
        reference={"y": reference},
        candidate={"y": candidate},
    )


def row_of(metric: Metric, *steps: Step) -> MetricRow:
    tally, sums = Tally(metric), OutputSums()
    for item in steps:
        tally.add(item)
        sums.add(item.reference["y"], item.candidate["y"])
    (row,) = tally.figures({"y": sums.difference("y")})
    return row


def own() -> Metric:
    plugin = Plugin(
        name="m:f",
        function=lambda outputs, sample: outputs["y"],
        aggregate=MEAN,
        better="lower",
        unit="px",
    )
    return Metric(name="m:f", kind="task", better="lower", unit="px", aggregate=MEAN, plugin=plugin)


def test_a_plugin_has_both_models_and_no_output() -> None:
    row = row_of(own(), step(np.array([1.0, 3]), np.array([2.0, 4])))
    assert row.reference is not None
    assert row.difference is not None
    assert (row.reference.value, row.candidate.value, row.difference.value) == (2, 3, 1)
    assert (row.output, row.better, row.unit) == (None, "lower", "px")
    assert row.relative_change == pytest.approx(-1 / 3)
    assert row.is_within_noise is False


def test_rows_of_nan_are_left_out_where_both_have_them() -> None:
    left, right = np.array([1.0, np.nan]), np.array([2.0, np.nan])
    row = row_of(own(), step(left, right), step(left + 2, right))
    assert (row.samples, row.candidate.value) == (2, 2)
    assert row.detail == "2 samples left out"


def test_nan_of_one_model_leaves_that_one_without_figure() -> None:
    row = row_of(own(), step(np.array([1.0, np.nan]), np.array([2.0, 3])))
    assert row.reference is not None
    assert row.difference is not None
    assert (row.reference.value, row.candidate.value) == (None, 2.5)
    assert (row.difference.value, row.relative_change, row.is_within_noise) == (None, None, None)
    assert row.detail == "NaN in 1 samples of the reference"


def test_nothing_left_is_no_figure() -> None:
    nothing = np.full(2, np.nan)
    row = row_of(own(), step(nothing, nothing))
    assert (row.samples, row.candidate.value, row.is_equal) == (0, None, False)


def test_models_must_give_as_many_columns() -> None:
    with pytest.raises(InputError, match="m:f: found 1 and 2 columns"):
        row_of(own(), step(np.zeros((2, 1)), np.zeros((2, 2))))


def test_a_change_relative_to_nothing_is_undefined() -> None:
    row = row_of(own(), step(np.ones(2), np.zeros(2)))
    assert row.relative_change is None


def test_a_shape_that_changes_on_the_way_is_told() -> None:
    (metric,) = metrics.resolve(["top1"])
    scores, label = np.eye(2, dtype=np.float32), np.array([0, 1])
    good = step(scores, scores, label=label)
    with pytest.raises(InputError, match=r"metric top1: here: output 'y' has shape \[2, 3, 3\]"):
        row_of(metric, good, step(scores, np.zeros((2, 3, 3)), label=label))


def test_an_exact_psnr_is_infinite_and_says_so() -> None:
    (metric,) = metrics.resolve(["psnr"])
    target = np.array([[0.0, 1], [2, 3]])
    row = row_of(metric, step(target + 0.1, target, target=target))
    assert (row.candidate.value, row.is_equal) == (None, True)
    assert row.detail.startswith("peak 3, the range of the targets; too few samples")


def test_a_given_peak_is_told() -> None:
    (metric,) = metrics.resolve(["psnr:255"])
    target = np.zeros((2, 2))
    row = row_of(metric, step(target + 1, target + 1, target=target))
    assert row.candidate.value == pytest.approx(20 * np.log10(255))
    assert row.name == "psnr:255"
    assert row.detail == ("peak 255, as given; too few samples for an interval: 2, at least 10")


@pytest.mark.parametrize("name", ["snr", "cosine", "max-abs", "top1-agreement", "top1", "f1"])
def test_a_figure_over_nothing_finite_is_undefined(name: str) -> None:
    (metric,) = metrics.resolve([name])
    nothing = np.full((2, 3), np.nan, np.float32)
    row = row_of(metric, step(nothing, nothing, label=np.array([0, 1])))
    assert (row.candidate.value, row.is_equal, row.samples) == (None, False, 0)
    assert row.detail == "no finite value to compare: both models gave only NaN"


def test_scores_with_nan_are_told() -> None:
    (metric,) = metrics.resolve(["top1"])
    label, some = np.array([0, 1]), np.array([[1, 0], [np.nan, 0]], np.float32)
    row = row_of(metric, step(some, some, label=label))
    assert (row.candidate.value, row.detail.split("; ")[0]) == (0.5, "1 of 2 samples are NaN")
    row = row_of(metric, step(np.nan_to_num(some), some, label=label))
    assert row.detail.startswith("of 2 samples, 0 of the reference and 1 of the candidate are NaN")
    worst = np.full((2, 2), np.nan, np.float32)
    assert row_of(metric, step(some, worst, label=label)).candidate.value == 0
