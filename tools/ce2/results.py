"""The results file: one section for each target, written whole, each with its own circumstances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxq import files

NAME = "ce2.json"
VERSION = 1
Section = dict[str, Any]


def read(folder: Path) -> dict[str, Section]:
    """Return the sections of a folder's results, none where nothing was measured yet.

    Raises:
        ValueError: the file is of another version.
    """
    path = folder / NAME
    if not path.exists():
        return {}
    loaded = json.loads(path.read_text(encoding="utf-8"))
    if loaded.get("version") != VERSION:
        raise ValueError(
            f"{path}: found version {loaded.get('version')!r}, expected {VERSION}; "
            "move it away and measure again"
        )
    sections: dict[str, Section] = loaded["sections"]
    return sections


def update(folder: Path, name: str, section: Section) -> None:
    """Put one section in the place of its former self and leave all others as they are."""
    sections = {**read(folder), name: rounded(section)}
    ordered = {key: sections[key] for key in sorted(sections)}
    text = json.dumps({"version": VERSION, "sections": ordered}, indent=1, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / NAME, text.encode())


def rounded(value: Any) -> Any:
    """Return JSON-ready values with floats of six significant digits.

    >>> rounded({"a": [0.123456789, 12345678]})
    {'a': [0.123457, 12345678]}
    """
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
