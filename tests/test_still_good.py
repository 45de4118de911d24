"""The walk-through is run: what it shows is what the commands print."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onnxq.cli import app

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "still-good.md").read_text(encoding="utf-8")


def steps() -> list[tuple[str, str]]:
    """Return the page's commands in order, each with the lines it is said to print."""
    found: list[tuple[str, str]] = []
    pattern = r"^    (onnxq [^\n]*)$|^```\n(.*?)^```$"
    for match in re.finditer(pattern, PAGE, flags=re.MULTILINE | re.DOTALL):
        if match[1]:
            found.append((match[1], ""))
        else:
            command, shown = found.pop()
            found.append((command, shown + match[2]))
    return found


def lines_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def is_same(shown: list[str], printed: list[str]) -> bool:
    """Tell whether two lines agree, their figures within what processors round differently."""
    return len(shown) == len(printed) and all(map(is_same_word, shown, printed))


def is_same_word(shown: str, printed: str) -> bool:
    figures = [re.sub(r"[±(),%]", "", word) for word in (shown, printed)]
    try:
        return float(figures[0]) == pytest.approx(float(figures[1]), rel=0.01, abs=0.011)
    except ValueError:
        return shown == printed


def test_the_page_shows_what_the_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    commands = steps()
    assert len(commands) == 8
    for command, shown in commands:
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == (6 if shown.startswith("error:") else 0), result.output
        printed = lines_of(result.output)
        for line in lines_of(shown):
            assert any(is_same(line, other) for other in printed), (line, command, result.output)
    assert (tmp_path / "curve.html").stat().st_size > 1_000_000
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
