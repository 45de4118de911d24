"""The state file of a sweep: every finished point in a line, so that a sweep can go on.

Owns the file: JSON lines, each flushed to the disk before the next point is begun, a first line
that says what the file is. A line that was cut off by a crash is dropped. Only one sweep at a time
may write a file. What a key covers is the caller's.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from onnxq import record_json
from onnxq.errors import InputError, OnnxqError, OutputError
from onnxq.sweeps.working_points import WorkingPoint
from onnxq.validation.measurements import DataUsed

if sys.platform != "win32":
    import fcntl

_SUFFIX = ".sweep"
_HEADER = b'{"file": "onnxq sweep state", "version": 1}\n'


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Hold a finished point and the data that it was measured on."""

    point: WorkingPoint
    data: DataUsed


def beside(output: Path) -> Path:
    """Return the state file of an output.

    >>> beside(Path("curves/result.json")).name
    'result.json.sweep'
    """
    return output.with_name(output.name + _SUFFIX)


def is_state(start: bytes) -> bool:
    """Tell whether a file that starts so is the state of a sweep."""
    return start.startswith(_HEADER[: _HEADER.index(b",")])


class Journal:
    """Remember finished points, in a file or, without one, in memory; safe for threads.

    As a context manager it holds the file open and locked.

    Raises:
        InputError: the file is there and no state of a sweep; it is then unchanged.
        OutputError: it cannot be opened or written, or another sweep has it open.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._entries: dict[str, Entry] = {}
        self._guard = threading.Lock()
        self.dropped = 0
        """Lines that could not be read; their points are made anew."""

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = _open(self._path)
            try:
                self._load(self._path, self._file)
            except OSError as err:
                self._file.close()
                raise OutputError(f"{self._path}: {err.strerror or err}") from err
            except BaseException:
                self._file.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def get(self, key: str) -> Entry | None:
        """Return the finished point of a key."""
        return self._entries.get(key)

    def add(self, entry: Entry) -> None:
        """Remember a finished point; when this returns it is on the disk."""
        record = {
            "point": record_json.to_json(entry.point),
            "data": record_json.to_json(entry.data),
        }
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._guard:
            self._entries[entry.point.key] = entry
            self._write(line)

    def _load(self, path: Path, file: FileIO) -> None:
        """Read the file; cut off what a crash left of a line."""
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole and _HEADER.startswith(content):
            file.truncate(0)
            self._write(_HEADER)
            return
        if not whole.startswith(_HEADER):
            raise InputError(
                f"{path}: is no state file of a sweep of this version; choose another file with "
                "--state"
            )
        self.dropped = len(content) > len(whole)
        for line in whole[len(_HEADER) :].splitlines():
            entry = _entry(line)
            self.dropped += entry is None
            if entry is not None:
                self._entries[entry.point.key] = entry
        file.truncate(len(whole))

    def _write(self, line: bytes) -> None:
        if self._file is None:
            return
        end = self._file.seek(0, os.SEEK_END)
        try:
            while line:  # unbuffered, so that what failed once is not written later
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as err:
            with contextlib.suppress(OSError):  # of a full disk: no half line before the next
                os.truncate(self._file.fileno(), end)
            raise OutputError(f"{self._path}: cannot be written: {err.strerror or err}") from err


def _open(path: Path) -> FileIO:
    """Return the file, opened without changing it, and locked (not on Windows)."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as err:
        raise OutputError(f"{path}: cannot be opened: {err.strerror or err}") from err
    file = FileIO(handle, "r+")
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            file.close()
            raise OutputError(
                f"{path}: another sweep is writing it; wait for it, or choose another with --state"
            ) from err
    return file


def _entry(line: bytes) -> Entry | None:
    """Return the entry of a line; None where it holds none."""
    try:
        record: Any = json.loads(line)
        return record_json.from_json(Entry, record)
    except (ValueError, RecursionError, OnnxqError):
        return None
