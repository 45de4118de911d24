"""A sweep as text: what stands in it, at eighty columns and in a pipe."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from onnxq.console import sweep_tables
from onnxq.sweeps.working_points import SweepReport
from tests import sweeps


def text(report: SweepReport = sweeps.SWEPT, *, width: int = 200, verbose: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, emoji=False, highlight=False)
    sweep_tables.render(report, console, verbose=verbose)
    return file.getvalue()


def line(start: str, width: int = 200) -> str:
    return next(line for line in text(width=width).splitlines() if line.startswith(start))


def test_the_headline_says_what_was_swept() -> None:
    lines = text().splitlines()
    assert lines[0] == "my digits.onnx: 5 points, 2 from an earlier sweep, 1 failed, 7.5 s"
    assert lines[1] == "measured on 200 samples of 1,000 of val.npz"


def test_the_float_model_stands_above_the_points() -> None:
    cells = ["float", "-", "320,000", "1.00", "-", "-", "-", "0.9", "±0.042", "-"]
    assert line("float").split() == cells


def test_a_point_has_its_figures_in_a_row() -> None:
    cells = "optimal 2 20,000 16.00 2.25 18,000 8.50 0.7 ±0.05 0.99"
    assert " ".join(line("optimal").split()) == cells


def test_what_is_within_noise_is_marked_and_explained() -> None:
    assert sum(" ~" in line for line in text().splitlines()) == 2
    assert "~ within noise of the float model" in text()


def test_equal_outputs_and_those_without_a_ratio_are_words() -> None:
    rows = [line.split() for line in text().splitlines() if line.startswith("uniform")]
    assert [row[6] for row in rows] == ["none", "equal"]
    assert rows[1][-1] == "equal"


def test_failed_points_and_notes_are_told_below() -> None:
    assert "[uniform], 16 bits failed: x: the reference runs, the candidate does not" in text()
    assert "note: one line of the state file was damaged" in text()


def test_metrics_of_fidelity_step_back_unless_asked_for() -> None:
    unasked = dataclasses.replace(sweeps.SWEPT, options={"metrics": []})
    assert "top1" in text(unasked)
    assert "cosine" not in text(unasked)
    assert "cosine" in text(unasked, verbose=True)
    alone = [dataclasses.replace(p, metrics=p.metrics[1:]) for p in unasked.points]
    assert "cosine" in text(dataclasses.replace(unasked, points=tuple(alone)))


def test_verbose_lists_the_commands() -> None:
    assert sweeps.SWEPT.points[0].command in text(verbose=True)
    assert sweeps.SWEPT.points[0].command not in text()


def test_all_is_there_at_eighty_columns() -> None:
    narrow = text(width=80)
    assert all(len(line) <= 80 for line in narrow.splitlines()[2:10])
    assert "38.25" in narrow


@pytest.mark.parametrize("points", [0, 1])
def test_one_curve_has_no_column_of_series(points: int) -> None:
    kept = [dataclasses.replace(p, series="") for p in sweeps.SWEPT.points[:points]]
    made = text(dataclasses.replace(sweeps.SWEPT, points=tuple(kept), reused=0, notes=()))
    assert "series" not in made
    assert f"{points} point{'' if points == 1 else 's'}, 7.5 s" in made


def test_random_inputs_are_called_that() -> None:
    data = dataclasses.replace(sweeps.DATA, kind="random", path=None, samples=1, available=None)
    assert "measured on 1 random input" in text(dataclasses.replace(sweeps.SWEPT, data=data))
