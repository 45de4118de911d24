"""The progress bar of a sweep."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from onnxq.console import sweep_progress
from onnxq.sweeps.sweep_pace import SweepEvent


def event(done: int, eta: float | None, point: str = "") -> SweepEvent:
    return SweepEvent(point=point, done=done, total=5, reused=1, seconds=2.0, eta_seconds=eta)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (event(1, None), "1/5 points"),
        (event(2, 0.4), "2/5 points, 0:00:00 left"),
        (event(2, 3725.0), "2/5 points, 1:02:05 left"),
        (event(5, 0.0), "5/5 points, finishing"),
    ],
)
def test_it_says_how_far_and_how_long(given: SweepEvent, expected: str) -> None:
    assert sweep_progress.describe(given) == expected


def test_a_watcher_sees_the_point_and_nothing_that_moves_a_cursor() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=90, legacy_windows=False)
    with sweep_progress.progress(console, is_shown=True) as tell:
        assert tell is not None
        tell(event(2, 9.0, "[bold]optimal\x1b[2J, 4 bits"))
    assert "2/5 points, 0:00:09 left" in file.getvalue()
    assert "[bold]optimal\\x1b[2J, 4 bits" in file.getvalue()


def test_nobody_watching_sees_nothing() -> None:
    file = io.StringIO()
    with sweep_progress.progress(Console(file=file), is_shown=False) as tell:
        assert tell is None
    assert file.getvalue() == ""
