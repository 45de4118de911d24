"""`onnxq` as a child process: its report, its time, its memory, and the command to show.

Every figure comes from a command of `onnxq` and its published report. A process of its own for each
keeps the memory of one out of the next.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench import record
from tools.ce2 import networks

Words = list[str | Path]
"""A command's words; paths are shown from the repository's root."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Hold what one command reported and cost; `command` is for a person."""

    command: str
    report: dict[str, Any]
    seconds: float
    peak_bytes: int

    @property
    def cost(self) -> dict[str, Any]:
        """The command, its wall time and the most memory that it held."""
        return {
            "command": self.command,
            "seconds": round(self.seconds, 2),
            "peak_bytes": self.peak_bytes,
        }


def run(words: Sequence[str | Path]) -> Done:
    """Run one command of onnxq to its end; say on stderr which.

    Raises:
        RuntimeError: it failed; its own message went to stderr.
    """
    texts = [str(word) for word in words]
    print(shown(words), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        line = [sys.executable, "-m", "onnxq", *texts, "--json", str(path), "-q"]
        finished = record.run(line)
        report = json.loads(path.read_text(encoding="utf-8"))
    return Done(
        command=shown(words),
        report=report,
        seconds=finished.seconds,
        peak_bytes=finished.peak_rss_bytes,
    )


def shown(words: Sequence[str | Path]) -> str:
    """Return a command with paths as documents show them.

    >>> shown(["convert", Path("/tmp/x/out.onnx"), "--bits", "3"])
    'onnxq convert out.onnx --bits 3'
    """
    return shlex.join(["onnxq", *(_word(word) for word in words)])


def _word(word: str | Path) -> str:
    is_path = isinstance(word, Path) or Path(word).is_absolute()
    return networks.shown(Path(word)) if is_path else str(word)
