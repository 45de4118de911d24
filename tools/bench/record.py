"""What every benchmark writes beside its numbers: commit, machine, versions, and spreads.

Imports the standard library only and stays small, because the peak memory that the system reports
for a child process is at least that of the process that started it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("onnxq", "numpy", "scipy", "numba", "onnx", "onnx-ir", "onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What one child process cost and printed."""

    seconds: float
    peak_rss_bytes: int
    stdout: str


def environment() -> dict[str, Any]:
    """Return the commit, the machine and the versions of this run."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, the extremes and the values themselves, to six significant digits."""
    rounded = [float(f"{value:.6g}") for value in values]
    return {
        "median": float(f"{statistics.median(values):.6g}"),
        "min": min(rounded),
        "max": max(rounded),
        "all": rounded,
    }


def run(command: Sequence[str]) -> Finished:
    """Run a command to its end and measure it; its stderr goes to ours.

    The peak is never below that of the calling process, which the system counts as the child's
    past; a benchmark that loads little itself is not concerned.

    Raises:
        RuntimeError: the command's exit status is not 0.
    """
    read, write = os.pipe()
    start = time.perf_counter()
    child = os.posix_spawnp(
        command[0], list(command), os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
    )
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as output:
        text = output.read()
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        raise RuntimeError(f"exit status {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(seconds=seconds, peak_rss_bytes=usage.ru_maxrss * unit, stdout=text)


def write(result: dict[str, Any], path: Path | None) -> None:
    """Write the result as JSON to the file, or to stdout without one."""
    text = json.dumps(result, indent=1) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
