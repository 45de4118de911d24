"""Data files that an earlier output of the same name left behind.

Owns the judgement which files may be removed. When in doubt a file stays: one that cannot be read
may be a model that needs it, and a folder of many or large files is not searched at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

MAX_FILES = 10_000
"""Most other files of a folder that are searched for a mention."""
MAX_BYTES = 4 << 30
"""Most bytes of them."""
_MAX_MODEL_BYTES = 2**31 - 1
"""No larger file is a model: protobuf cannot read it."""
_CHUNK = 1 << 20


def unmentioned(output: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the files beside an output whose name fits a pattern and that no other file names.

    A model that was renamed or copied still names its data. The output itself, temporary files and
    data files are not searched.
    """
    found: list[Path] = []
    others: list[os.DirEntry[str]] = []
    try:
        with os.scandir(output.parent) as entries:
            for entry in entries:
                if pattern.fullmatch(entry.name):
                    found += [Path(entry.path)] if entry.is_file() else []
                elif entry.name != output.name and not entry.name.endswith((".data", ".tmp")):
                    others.append(entry)
        others = _models(others) if found else []
    except OSError:  # a folder that may be written, yet not listed
        return []
    if len(others) > MAX_FILES or sum(entry.stat().st_size for entry in others) > MAX_BYTES:
        return []
    for entry in others:
        if not found:
            break
        mentioned = _mentioned(entry.path, [os.fsencode(path.name) for path in found])
        found = [path for path in found if os.fsencode(path.name) not in mentioned]
    return found


def _models(entries: Sequence[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    """Return the files that could be models, one more than allowed at most."""
    models: list[os.DirEntry[str]] = []
    for entry in entries:
        if entry.is_file() and 0 < entry.stat().st_size <= _MAX_MODEL_BYTES:
            models.append(entry)
            if len(models) > MAX_FILES:
                break
    return models


def _mentioned(path: str, names: Sequence[bytes]) -> set[bytes]:
    """Return which names a file holds; all of them if it cannot be read."""
    found: set[bytes] = set()
    overlap = max(map(len, names)) - 1
    tail = b""
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                seen = tail + chunk
                found.update(name for name in names if name in seen)
                tail = seen[-overlap:]
    except OSError:
        return set(names)
    return found
