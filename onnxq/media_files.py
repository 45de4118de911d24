"""What lies in a folder of data: files and class folders, in a fixed order.

Owns the walk over folders. Nothing is opened. Names are compared as the bytes that they are, so
that the order is the same in every locale; what the system leaves lying about is passed over,
anything else that does not belong there is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxq.errors import InputError
from onnxq.plaintext import plain

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""Endings of image files, in capitals too."""

SOUNDS = (".wav", ".wave")
"""Endings of sound files, in capitals too."""

_LITTER = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Name the files of one sample: its input, its target if there is one; and its class."""

    path: Path
    target: Path | None = None
    label: int | None = None


def listing(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted by the bytes of the names, hidden files left out.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        found = [Path(entry) for entry in os.scandir(folder)]
    except OSError as err:
        raise InputError(f"{plain(str(folder))}: cannot be read: {err.strerror or err}") from err
    shown = [
        path for path in found if not path.name.startswith(".") and path.name.lower() not in _LITTER
    ]
    return sorted(shown, key=lambda path: os.fsencode(path.name))


def entries(folder: Path, suffixes: Sequence[str], expected: str) -> list[Path]:
    """Return the files of a folder that holds nothing else, at least one.

    Raises:
        InputError: it is empty, or something in it is no regular file of these endings.
    """
    paths = listing(folder)
    for path in paths:
        if path.suffix.lower() not in suffixes or not path.is_file():
            raise InputError(
                f"{plain(str(path))}: found {_describe(path)}, expected {expected}; "
                "move elsewhere what is no data"
            )
    if not paths:
        raise InputError(f"{plain(str(folder))}: is an empty folder, expected {expected}")
    return paths


def _describe(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.is_file():
        return f"a file ending in {plain(path.suffix)!r}" if path.suffix else "a file of no ending"
    return "a broken link" if path.is_symlink() and not path.exists() else "a device or pipe"
