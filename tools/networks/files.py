"""Write a model so that the file appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx import ModelProto


def check_target(path: Path, *, force: bool) -> None:
    """Raise FileExistsError or NotADirectoryError where `pending` could not put a file."""
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path}: {path.parent} is not a folder; make it first")
    if path.is_dir():
        raise FileExistsError(f"{path}: is a folder; give the name of a file")
    if path.exists() and not force:
        raise FileExistsError(f"{path}: exists; give another name, or --force to overwrite it")


@contextmanager
def pending(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside the target; give it the target's name at the end.

    What stands under that name is replaced. After an exception nothing has changed.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write(model: ModelProto, path: Path) -> None:
    """Write a model of less than 2 GiB; the same model gives the same bytes."""
    with pending(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
