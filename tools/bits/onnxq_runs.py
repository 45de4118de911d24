"""`onnxq` as a child process: its report where it wrote one, its exit status, its cost."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bits import child

UNREACHABLE = 7
FAILED = 6
"""Exit codes: a target that cannot be met; a candidate that does not run or compare."""


class Broken(Exception):
    """Say that a command failed in a way that says nothing of a model."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Hold how a command ended and the report that it wrote, if any."""

    ended: child.Ended
    report: dict[str, Any] | None


def run(words: Sequence[str], allowed: Sequence[int] = ()) -> Done:
    """Run a command of onnxq with a report.

    Args:
        words: the command and its arguments.
        allowed: exit codes beside 0 that are findings.

    Raises:
        Broken: it ended otherwise, such as for an option that this version does not know.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        line = [sys.executable, "-m", "onnxq", *words, "--json", str(path), "-q"]
        ended = child.run(line)
        report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if ended.exit_status and ended.exit_status not in allowed:
        raise Broken(f"onnxq {words[0]} ended with {ended.exit_status}: {ended.said}")
    return Done(ended=ended, report=report)
