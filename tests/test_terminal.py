import io
import sys
from dataclasses import dataclass

import pytest
from rich.console import Console

from onnxq import terminal


@dataclass(frozen=True, kw_only=True)
class Event:
    tensor: str
    stage: str
    done_bytes: int
    total_bytes: int


def test_no_bar_where_none_is_shown() -> None:
    out = io.StringIO()
    with terminal.progress(Console(file=out), is_shown=False) as tell:
        assert tell is None
    assert out.getvalue() == ""


@pytest.mark.parametrize("width", [80, 140])
def test_the_bar_shows_stage_bytes_and_tensor_on_one_line(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with terminal.progress(console, is_shown=True) as tell:
        assert tell is not None
        tell(
            Event(
                tensor="a[b]\x1b[2J" + "x" * 200,
                stage="encoding",
                done_bytes=2_000_000,
                total_bytes=8_000_000,
            )
        )
    drawn = out.getvalue()
    for text in ("encoding", "25%", "2.0/8.0 MB", "a[b]\\x1b[2J"):
        assert text in drawn
    assert max(map(len, drawn.replace("\r", "\n").splitlines())) < width + 40


def test_the_console_is_on_stderr_and_takes_nothing_for_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal.make_console().print("[bold]x[/bold] :smile:")
    assert capsys.readouterr() == ("", "[bold]x[/bold] :smile:\n")


def test_a_terminal_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not terminal.is_watched()
    monkeypatch.setattr(sys, "stderr", None)
    assert not terminal.is_watched()
