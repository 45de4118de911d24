"""The memory that this process may still take.

Owns the question only; what to do about the answer is the caller's. Limits of a container count
(Linux control groups, version 2), since the machine's own memory is out of its reach.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """Return how much memory can be taken without swapping; None where the system does not tell."""
    known = [size for size in (_of_machine(), *_of_groups()) if size is not None]
    return max(min(known), 0) if known else None


def _of_machine() -> int | None:
    for line in _text(_MEMINFO).splitlines():
        name, _, value = line.partition(":")
        number = value.strip().removesuffix(" kB")
        if name == "MemAvailable" and number.isdecimal():
            return int(number) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return None


def _of_groups() -> Iterator[int]:
    """Yield what each control group that this process is in still allows."""
    for line in _text(_OWN_GROUP).splitlines():
        if not line.startswith("0::"):
            continue
        group = _GROUPS / line[3:].lstrip("/")
        while group != _GROUPS.parent:
            limit, used = _text(group / "memory.max"), _text(group / "memory.current")
            if limit.strip().isdecimal() and used.strip().isdecimal():
                yield int(limit) - int(used)
            group = group.parent


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
