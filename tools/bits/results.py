"""The results file: all rows in the order of tasks, methods and points, with their circumstances.

Rows share their circumstances: each names one of `environments` by its position.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from onnxq import files
from tools.bits.methods import METHODS, Subject
from tools.bits.rows import Row
from tools.bits.tasks import TASKS
from tools.ce2.results import rounded

NAME = "bits.json"
VERSION = 1


def read(folder: Path) -> list[Row]:
    """Return the rows of a folder's results, each with its own environment; none without a file.

    Raises:
        ValueError: the file is of another version.
    """
    path = folder / NAME
    if not path.exists():
        return []
    loaded = json.loads(path.read_text(encoding="utf-8"))
    if loaded.get("version") != VERSION:
        raise ValueError(
            f"{path}: found version {loaded.get('version')!r}, expected {VERSION}; "
            "move it away and draw again"
        )
    found = loaded["environments"]
    return [{**row, "environment": found[row["environment"]]} for row in loaded["rows"]]


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Return old rows with new ones in the place of their former selves, in order.

    Rows of methods or settings that there are no more are left out.
    """
    found = {_identity(row): row for row in (*old, *new)}
    return [found[identity] for identity in _order(found.values()) if identity in found]


def write(folder: Path, rows: Iterable[Row]) -> None:
    """Write the results file, a line for each row."""
    environments: list[dict[str, Any]] = []
    lines = []
    for row in rows:
        if row["environment"] not in environments:
            environments.append(row["environment"])
        numbered = {**row, "environment": environments.index(row["environment"])}
        lines.append(json.dumps(rounded(numbered), allow_nan=False))
    text = ",\n".join(lines)
    shared = json.dumps(environments, indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    whole = f'{{"version": {VERSION},\n"environments": {shared},\n"rows": [\n{text}\n]}}\n'
    files.write_bytes(folder / NAME, whole.encode())


def _identity(row: Row) -> tuple[str, str, str]:
    return row["task"], row["method"], row["setting"]


def _order(rows: Iterable[Row]) -> Iterator[tuple[str, str, str]]:
    """Yield every task, method and setting that there can be, tasks without rows left out."""
    subjects = {
        row["task"]: Subject(
            task=TASKS[row["task"]],
            file_bytes=row["original_bytes"],
            weight_bytes=row["weight_bytes"],
        )
        for row in rows
        if row["task"] in TASKS
    }
    for name in TASKS:
        for method in METHODS.values():
            for point in method.points(subjects[name]) if name in subjects else ():
                yield name, method.name, point.setting
