"""Folders for a while: gone afterwards, also those of a process that was killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from onnxq import scratch

WAITING = (
    "import sys, tempfile; from onnxq import scratch; tempfile.tempdir = sys.argv[1]\n"
    "with scratch.folder() as path:\n"
    "    (path / 'large.onnx').write_bytes(b'x')\n"
    "    print(path, flush=True); input()"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_gone_afterwards(place: Path) -> None:
    with scratch.folder() as path:
        (path / "a").write_bytes(b"x")
        assert path.parent == place
    assert list(place.iterdir()) == []


def test_folders_in_use_do_not_disturb_each_other(place: Path) -> None:
    with scratch.folder() as one, scratch.folder() as other:
        (one / "a").write_bytes(b"x")
        assert one != other
        with scratch.folder():
            assert (one / "a").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="abandoned folders stay there")
def test_what_a_killed_process_left_is_removed_and_nothing_else(place: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as running:  # type: ignore[call-overload]
        left = Path(running.stdout.readline().strip())
        (place / "onnxq-sweep-without-a-lock").mkdir()
        with scratch.folder():
            assert (left / "large.onnx").exists()
        running.kill()
    with scratch.folder():
        assert not left.exists()
    assert [path.name for path in place.iterdir()] == ["onnxq-sweep-without-a-lock"]
