"""Digests of what a figure depends on: a model, data, a file of settings or code.

Owns what counts as the same. A model is the same if all its bytes are. Data of up to
CONTENT_BYTES too; larger data is the same if names, sizes and times of change are, for reading
hundreds of gigabytes to find out that nothing was done would take longer than many a point.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxq import model
from onnxq.errors import InputError
from onnxq.graphs import Document

CONTENT_BYTES = 256 << 20
"""Data up to this size is told apart by its content."""


def digest(values: Any) -> str:
    """Return the digest of JSON-ready values, whatever the order of their keys.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of_model(document: Document) -> str:
    """Return the digest of a model's file or message and of the data files it refers to.

    Raises:
        InputError: a file cannot be read.
    """
    if document.path is not None:
        own = _content(document.path)
    else:
        own = hashlib.sha256(document.proto.SerializeToString(deterministic=True)).hexdigest()
    return digest([own, *(_content(path) for path in sorted(model.data_files(document)))])


def of_data(path: Path) -> str:
    """Return the digest of a file or of every file below a folder, hidden ones left out.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        found = [(path, os.stat(path))] if not path.is_dir() else list(_files(path))
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror or err}") from err
    is_small = sum(state.st_size for _, state in found) <= CONTENT_BYTES
    return digest(
        [
            [
                file.relative_to(path).as_posix() if file != path else "",
                state.st_size,
                _content(file) if is_small else state.st_mtime_ns,
            ]
            for file, state in found
        ]
    )


def of_module(name: str) -> str | None:
    """Return the digest of a module's source; None where there is no such module or no source.

    The module itself is not run, but the packages that it is in are.
    """
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    origin = None if found is None else found.origin
    return _content(Path(origin)) if origin is not None and os.path.isfile(origin) else None


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every file below a folder with its state, by name."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path))
        else:
            yield Path(entry.path), entry.stat()


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror or err}") from err
