"""The whole command, killed with kill -9 in the middle, and run again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import onnxq

ROOT = Path(__file__).parent.parent
BITS = (2, 3, 4, 5, 6, 7, 8)
DIGITS, DATA = ROOT / "models" / "digits.onnx", ROOT / "models" / "digits_test.npz"


def command(out: Path) -> list[str]:
    options = ["--bits", "2-8", "--data", str(DATA), "--limit", "32", "--quiet", "--jobs", "1"]
    return [sys.executable, "-m", "onnxq", "sweep", str(DIGITS), *options, "--json", str(out)]


def figures(report: Any) -> list[dict[str, Any]]:
    """Return the points of a report without what differs from run to run."""
    points: list[dict[str, Any]] = report["points"]
    for point in points:
        del point["seconds"]
        del point["check"]["candidate_load_seconds"], point["check"]["reference_load_seconds"]
    return points


@pytest.mark.skipif(sys.platform == "win32", reason="nothing can be killed like that there")
def test_a_killed_command_goes_on_and_reports_what_a_whole_one_does(tmp_path: Path) -> None:
    out, state = tmp_path / "out.json", tmp_path / "out.json.sweep"
    running = subprocess.Popen(command(out), cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (state.exists() and state.read_bytes().count(b"\n") >= 3):
        assert running.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    assert not out.exists()
    left = state.read_bytes()
    finished = left.count(b"\n") - 1
    assert 2 <= finished < len(BITS)

    assert subprocess.run(command(out), cwd=ROOT, check=False).returncode == 0
    assert json.loads(out.read_text())["reused"] == finished
    assert state.read_bytes().startswith(left[: left.rfind(b"\n") + 1])
    assert state.read_bytes().count(b"\n") == 1 + len(BITS)

    whole = onnxq.sweep(DIGITS, bits=BITS, data=DATA, limit=32)
    assert whole.reused == 0
    assert figures(json.loads(out.read_text())) == figures(whole.to_json())
