"""Write a model so that the file appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from onnx import ModelProto


def check_target(path: Path, *, force: bool) -> None:
    """Raise FileExistsError or NotADirectoryError where `write` could not put a file."""
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path}: {path.parent} is not a folder; make it first")
    if path.is_dir():
        raise FileExistsError(f"{path}: is a folder; give the name of a file")
    if path.exists() and not force:
        raise FileExistsError(f"{path}: exists; give another name, or --force to overwrite it")


def write(model: ModelProto, path: Path) -> None:
    """Write a model of less than 2 GiB beside its target, then give it its name.

    The same model gives the same bytes. A file of that name is replaced.
    """
    data = model.SerializeToString(deterministic=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
