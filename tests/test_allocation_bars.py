"""Bars: how far above or below one a measured candidate is."""

from __future__ import annotations

import math

import pytest

from onnxq.allocation.bars import DropBar, SnrBar, bar_of
from onnxq.allocation.targets import AutoTarget, DropTarget, SnrTarget
from onnxq.checks import Check
from onnxq.differences import OutputDifference
from onnxq.runtime import OutputSpec
from onnxq.validation.evaluation import Evaluation
from onnxq.validation.gates import Drop
from onnxq.validation.measurements import DataUsed, Estimate, MetricRow


def difference(decibels: float | None) -> OutputDifference:
    return OutputDifference(
        name=f"y{decibels}", snr_db=decibels, max_abs=0.0, cosine=1.0, is_equal=decibels is None
    )


def measured(*decibels: float | None) -> Evaluation:
    check = Check(status="ok", samples=8, outputs=tuple(map(difference, decibels)))
    return Evaluation(check=check, metrics=(), data=DataUsed(kind="npz", samples=8))


def scored(before: float, after: float | None) -> Evaluation:
    row = MetricRow(
        name="top1", output="y", kind="task", better="higher", unit="", samples=8,
        reference=Estimate(value=before), candidate=Estimate(value=after),
    )  # fmt: skip
    check = Check(status="ok", samples=8, outputs=(difference(20.0),))
    return Evaluation(check=check, metrics=(row,), data=DataUsed(kind="npz", samples=8))


def test_each_target_has_its_bar() -> None:
    drop = Drop(metric="top1", limit=0.1)
    assert bar_of(SnrTarget(decibels=12), ()) == SnrBar(decibels=12)
    assert bar_of(DropTarget(drop=drop), ()) == DropBar(drop=drop)


@pytest.mark.parametrize(
    ("shape", "decibels"),
    [(("n", 10), 30), (("n", 2), 30), (("n", 1), 40), (("n", 3, 32, 32), 40), ((), 40)],
)
def test_auto_asks_for_less_of_a_classifier(
    shape: tuple[int | str | None, ...], decibels: float
) -> None:
    output = OutputSpec(name="y", dtype="float32", shape=shape)
    assert bar_of(AutoTarget(), (output,)) == SnrBar(decibels=decibels)


def test_the_worst_output_counts() -> None:
    assert SnrBar(decibels=30).margin(measured(45.0, None, 32.5)) == 2.5
    assert SnrBar(decibels=30).margin(measured(None)) == math.inf
    assert SnrBar(decibels=30).margin(measured(40.0, -math.inf)) == -math.inf
    assert SnrBar(decibels=30).text(measured(45.0, 32.5)) == "32.50 dB"


@pytest.mark.parametrize(
    ("drop", "after", "is_enough"),
    [
        (Drop(metric="top1", limit=0.01), 0.79, True),
        (Drop(metric="top1", limit=0.01), 0.78, False),
        (Drop(metric="top1", limit=0.01, is_relative=True), 0.792, True),
        (Drop(metric="top1", limit=0.01, is_relative=True), 0.791, False),
        (Drop(metric="top1", limit=0.0), 0.8, True),
        (Drop(metric="top1", limit=0.0), 0.9, True),
        (Drop(metric="top1", limit=0.5), None, False),
    ],
)
def test_a_drop_is_judged_as_validate_judges_it(
    drop: Drop, after: float | None, is_enough: bool
) -> None:
    assert (DropBar(drop=drop).margin(scored(0.8, after)) >= 0) == is_enough
