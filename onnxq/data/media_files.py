"""What lies in a folder of data: files and class folders, in a fixed order.

Owns the walk over folders. Nothing is opened. Names are compared as the bytes that they are, so
that the order is the same in every locale; what the system leaves lying about is passed over,
anything else that does not belong there is refused by name.
"""

from __future__ import annotations

import itertools
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

PAIR = ("input", "target")
"""Folders of images that belong together, by their names."""

_SHOWN_CLASSES = 12
_LITTER = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Name the files of one sample: its input, its target if there is one; and its class."""

    path: Path
    target: Path | None = None
    label: int | None = None


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Hold the samples of class folders and the number of classes."""

    samples: tuple[Sample, ...]
    classes: int


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


def labelled(folder: Path, suffixes: Sequence[str], names: Sequence[str], offset: int) -> Labelled:
    """Return the files of class folders, the first ones of all classes before the second ones.

    So the first n samples hold every class about as often as the others.

    Args:
        folder: holds a folder for each class.
        suffixes: endings of the files.
        names: the classes in the model's order, of which some may be missing; empty for the
            folders that there are, in the order of their names.
        offset: number of the first class.

    Raises:
        InputError: something is no folder, is no class, or is empty.
    """
    folders = listing(folder)
    expected = "class folders with files ending in " + ", ".join(suffixes)
    if not folders:
        raise InputError(f"{plain(str(folder))}: is an empty folder, expected {expected}")
    numbers = {name: index for index, name in enumerate(names or [path.name for path in folders])}
    columns: list[list[Sample]] = []
    for path in folders:
        if not path.is_dir():
            raise InputError(f"{plain(str(path))}: found {_describe(path)}, expected {expected}")
        if path.name not in numbers:
            raise InputError(
                f"{plain(str(path))}: found a class that is none of the {len(names)} of the "
                f"preprocessing's 'classes' ({_listed(names)}); add it there or move the folder "
                "elsewhere"
            )
        label = numbers[path.name] + offset
        files = entries(path, suffixes, "files ending in " + ", ".join(suffixes))
        columns.append([Sample(path=file, label=label) for file in files])
    columns.sort(key=lambda column: column[0].label or 0)
    rows = itertools.zip_longest(*columns)
    samples = tuple(item for row in rows for item in row if item is not None)
    return Labelled(samples=samples, classes=len(numbers))


def paired(folder: Path, suffixes: Sequence[str]) -> tuple[Sample, ...]:
    """Return the files of "input" with those of equal names in "target".

    Raises:
        InputError: a file has no counterpart, or either folder is empty or holds something else.
    """
    expected = "files ending in " + ", ".join(suffixes)
    first, second = (entries(folder / name, suffixes, expected) for name in PAIR)
    for paths, other in ((first, second), (second, first)):
        known = {path.name for path in other}
        for path in paths:
            if path.name not in known:
                raise InputError(
                    f"{plain(str(path))}: has no counterpart of this name in "
                    f"{plain(str(other[0].parent))}; input and target need the same names"
                )
    return tuple(Sample(path=a, target=b) for a, b in zip(first, second, strict=True))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(plain, names[:_SHOWN_CLASSES]))
    return f"{shown}, ..." if len(names) > _SHOWN_CLASSES else shown


def _describe(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.is_file():
        return f"a file ending in {plain(path.suffix)!r}" if path.suffix else "a file of no ending"
    return "a broken link" if path.is_symlink() and not path.exists() else "a device or pipe"
