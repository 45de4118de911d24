"""Finished rows, a file for each, so that a run that was cut goes on where it was.

A row is valid as long as its key is the same: the bytes of the model and of the data, the method
and its words, and the version of onnxq.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxq import files
from tools.ce2.results import rounded

Row = dict[str, Any]


def path_of(folder: Path, task: str, method: str, setting: str) -> Path:
    """Return the file of a row.

    >>> path_of(Path("rows"), "dcase", "optimal", "4 bits").name
    'dcase--optimal--4-bits.json'
    """
    name = "--".join((task, method, setting))
    return folder / (re.sub(r"[^a-zA-Z0-9.-]+", "-", name) + ".json")


def load(path: Path, key: Mapping[str, Any]) -> Row | None:
    """Return the row of a file, None if there is none or it was measured under another key."""
    if not path.exists():
        return None
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    return row if row["key"] == dict(key) else None


def save(path: Path, row: Row) -> None:
    """Write a finished row, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, (json.dumps(rounded(row), indent=1, allow_nan=False) + "\n").encode())


def read_all(folder: Path) -> Iterator[Row]:
    """Yield all rows of a folder, in the order of their files' names."""
    for path in sorted(folder.glob("*.json")):
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        yield row
