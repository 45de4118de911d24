import io
import sys
from dataclasses import dataclass

import pytest
from rich.console import Console
from rich.table import Table

from onnxq.console import terminal


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


@dataclass(frozen=True, kw_only=True)
class Step:
    stage: str
    subject: str = ""
    done: int = 0
    total: int | None = None


def test_no_steps_where_none_are_shown() -> None:
    with terminal.steps(Console(file=io.StringIO()), is_shown=False) as tell:
        assert tell is None


def test_steps_are_counted_stage_by_stage() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    with terminal.steps(console, is_shown=True) as tell:
        assert tell is not None
        tell(Step(stage="reference", subject="v.npz\x1b[2J", done=32, total=128))
        tell(Step(stage="candidate", done=64))
        tell(Step(stage="timing"))
    drawn = out.getvalue()
    assert "timing" in drawn
    assert max(map(len, drawn.replace("\r", "\n").splitlines())) < 120


def test_a_stream_without_unicode_takes_every_character(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    terminal.make_console(to_stdout=True).print("0.5 ±0.1")
    sys.stdout.flush()
    assert raw.getvalue() == b"0.5 ?0.1\n"


def test_the_console_is_on_stderr_and_takes_nothing_for_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal.make_console().print("[bold]x[/bold] :smile:")
    assert capsys.readouterr() == ("", "[bold]x[/bold] :smile:\n")


def test_what_is_no_terminal_is_never_wrapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("name")
    table.add_row("x" * 500)
    terminal.make_console(to_stdout=True).print(table)
    assert "x" * 500 in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert terminal.make_console().width == 80


def test_a_terminal_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not terminal.is_watched()
    monkeypatch.setattr(sys, "stderr", None)
    assert not terminal.is_watched()
