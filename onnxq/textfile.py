"""The text files and pipes that a command writes beside its model: reports and plans.

Owns the difference between a file, which is replaced whole, and a device or pipe such as
/dev/stdout, which is written as it is. Files are written by `files`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from onnxq import files
from onnxq.errors import OptionError, OutputError


def check_distinct(written: Mapping[str, Path | None], read: Mapping[str, Path | None]) -> None:
    """Check that no file is written twice, or written and read; the keys name the options.

    That OUT is not IN is left to `files`, which knows that of every caller.

    Raises:
        OptionError: two options name the same file.
    """
    seen: dict[str, str] = {}
    for option, path in [*read.items(), *written.items()]:
        if path is None or is_stream(path):
            continue
        place = os.path.realpath(path)
        if place in seen and option in written and (option, seen[place]) != ("OUT", "IN"):
            raise OptionError(f"{option} {path}: is the same file as that of {seen[place]}")
        seen.setdefault(place, option)


def check_target(path: Path, *, force: bool) -> None:
    """Check that text may be written at a path, without touching it.

    Raises:
        OutputError: the path is a folder, its folder is missing or cannot be written, or it is a
            file and `force` is false.
    """
    if not is_stream(path):
        files.check_output(path, force=force)


def save(path: Path, text: str, *, force: bool) -> None:
    """Write text to a file, whole or not at all, or to a device or pipe.

    Raises:
        OutputError: it may not or cannot be written.
    """
    check_target(path, force=force)
    if not is_stream(path):
        try:
            files.write_bytes(Path(os.path.realpath(path)), text.encode("utf-8"))
        except OutputError as err:
            # `files` says that nothing was changed; of the model beside it that need not hold.
            reason = getattr(err.__cause__, "strerror", None) or err
            raise OutputError(f"{path}: cannot be written: {reason}") from err
        return
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as err:
        raise OutputError(f"{path}: cannot be written: {err.strerror or err}") from err


def is_stream(path: Path) -> bool:
    """Tell whether a path is a device or pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()
