"""Programs run to their end, with what they cost and said.

Imports the standard library only: the peak memory that the system reports for a child is at least
that of the process that started it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

LAST_LINES = 3


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Hold what one program cost and said; `exit_status` 0 is success, below 0 a signal."""

    exit_status: int
    seconds: float
    peak_bytes: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """The last lines that it wrote to stderr, as one."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return "; ".join(lines[-LAST_LINES:])


def run(line: Sequence[str]) -> Ended:
    """Run a program and wait for its end; whatever that is, it is no error here."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(list(line), stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    unit = 1 if sys.platform == "darwin" else 1024
    return Ended(
        exit_status=process.returncode,
        seconds=round(seconds, 2),
        peak_bytes=usage.ru_maxrss * unit,
        stdout=texts[0],
        stderr=texts[1],
    )
