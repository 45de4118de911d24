"""Arrays of an `.npz` file, read a few rows at a time.

Owns the container: what arrays a file holds, without reading them, and their rows in order, without
holding more than what is asked for. What the arrays mean is not known here. A file may come from
anywhere, so nothing in it is unpickled and no size in it is believed.
"""

from __future__ import annotations

import contextlib
import lzma
import math
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxq.errors import InputError
from onnxq.plaintext import dtype_text, one_line, plain
from onnxq.quiet import silent_warnings

Array = np.ndarray[Any, np.dtype[Any]]

MAX_READ_BYTES = 1 << 31
"""Most that is read of one array at a time; a compressed file may claim any size."""

_CHUNK = 1 << 20
_NO_DTYPE = np.dtype(np.void)
_SUFFIX = ".npy"
_NO_ARCHIVE = "is not an .npz file of plain arrays; numpy.savez writes one"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True, kw_only=True)
class ArrayHead:
    """Describe one array of a file.

    Attributes:
        name: Its key.
        dtype: As stored, byte order included.
        shape: Its shape.
        is_fortran: Whether the first index changes fastest in the file.
        problem: Why it cannot be read; None where it can.
    """

    name: str
    dtype: np.dtype[Any] = _NO_DTYPE
    shape: tuple[int, ...] = ()
    is_fortran: bool = False
    problem: str | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry of the first axis; of the whole array where it has rank 0."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def __str__(self) -> str:
        """Return name, dtype and shape for a message."""
        if self.problem:
            return f"{plain(self.name)!r} (which {self.problem})"
        return f"{plain(self.name)!r} ({dtype_text(self.dtype)} {list(self.shape)})"


class Rows:
    """Read one array from its first row to its last."""

    def __init__(self, head: ArrayHead, where: str, file: IO[bytes]) -> None:
        self._head, self._where, self._file = head, where, file
        self._next = 0
        self._unpacked: Array | None = None

    def read(self, count: int) -> Array:
        """Return the next `count` rows, in the machine's byte order.

        Raises:
            InputError: they are larger than `MAX_READ_BYTES`, or the file ends before.
        """
        head, start = self._head, self._next
        assert start + count <= head.shape[0]
        _check_size(head, count * head.row_bytes, self._where)
        self._next += count
        with _array_errors(self._where, head.name):
            if head.is_fortran:
                rows = np.array(self._whole()[start : self._next], order="C")
            else:
                rows = self._take((count, *head.shape[1:]))
                if self._next == head.shape[0]:
                    self._finish()
        return rows.astype(head.dtype.newbyteorder("="), copy=False)

    def read_all(self) -> Array:
        """Return the whole array, of any rank; raise as `read`."""
        if self._head.shape:
            return self.read(self._head.shape[0])
        _check_size(self._head, self._head.row_bytes, self._where)
        with _array_errors(self._where, self._head.name):
            value = self._take(())
            self._finish()
        return value.astype(self._head.dtype.newbyteorder("="), copy=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _take(self, shape: tuple[int, ...]) -> Array:
        length = math.prod(shape) * self._head.dtype.itemsize
        if length == 0:
            return np.empty(shape, self._head.dtype)
        data = bytearray()
        while len(data) < length:  # in steps, so that a false size costs no memory
            chunk = self._file.read(min(length - len(data), _CHUNK))
            if not chunk:
                raise EOFError("the file ends too early")
            data += chunk
        return np.frombuffer(data, self._head.dtype).reshape(shape)

    def _finish(self) -> None:
        """Read beyond the end, where the archive's checksum is compared."""
        if self._file.read(1):
            raise EOFError("the array is longer than it says")

    def _whole(self) -> Array:
        """Return a Fortran-ordered array from a temporary file: its rows lie all over it."""
        if self._unpacked is None:
            head = self._head
            if math.prod(head.shape) * head.dtype.itemsize == 0:
                return np.empty(head.shape, head.dtype)
            scratch = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as it is mapped
            with scratch:
                shutil.copyfileobj(self._file, scratch, _CHUNK)
                scratch.flush()
                self._unpacked = np.memmap(scratch, head.dtype, "r", 0, head.shape, "F")
        return self._unpacked


class Archive:
    """Hold an open `.npz` file; `heads` says what is in it."""

    def __init__(self, path: Path, inner: zipfile.ZipFile) -> None:
        self.where = plain(str(path))
        self._inner = inner
        members = [item for item in inner.infolist() if item.filename.endswith(_SUFFIX)]
        self._members = {item.filename.removesuffix(_SUFFIX): item for item in members}
        self.heads = {name: self._head(name) for name in self._members}
        if not self.heads:
            raise InputError(f"{self.where}: {_NO_ARCHIVE}; there is none in it")

    def _head(self, name: str) -> ArrayHead:
        member = self._members[name]
        try:
            with self._inner.open(member) as file:
                shape, is_fortran, dtype = _read_header(file)
                held = member.file_size - file.tell()
        except Exception as err:  # numpy evaluates a header from anywhere; any error means damage
            return ArrayHead(name=name, problem=f"cannot be read: {one_line(str(err))[:120]}")
        head = ArrayHead(
            name=name, dtype=dtype, shape=shape, is_fortran=is_fortran and len(shape) > 1
        )
        problem = None
        if dtype.hasobject:
            problem = "holds pickled objects, expected plain numbers or text"
        elif min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held:
            problem = f"says {dtype_text(dtype)} {list(shape)} and holds {held} bytes"
        return head if problem is None else ArrayHead(name=name, problem=problem)

    @contextlib.contextmanager
    def rows(self, name: str) -> Iterator[Rows]:
        """Open an array that has no problem for reading; several may be open at a time."""
        with _array_errors(self.where, name):
            file = self._inner.open(self._members[name])
            _read_header(file)
        reader = Rows(self.heads[name], self.where, file)
        try:
            yield reader
        finally:
            reader.close()


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an `.npz` file and read what its arrays are called, their dtypes and shapes.

    Raises:
        InputError: the file is missing or no `.npz`.
    """
    where = plain(str(path))
    with contextlib.ExitStack() as stack:
        try:
            if path.exists() and not path.is_file():
                raise InputError(f"{where}: is no file; {_NO_ARCHIVE}")
            inner = stack.enter_context(zipfile.ZipFile(path))
        except OSError as err:
            raise InputError(f"{where}: cannot be read: {err.strerror or err}") from err
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as err:
            raise InputError(f"{where}: {_NO_ARCHIVE}") from err
        yield Archive(path, inner)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of .npy is not known")
    with silent_warnings():  # of a header of Python 2, which numpy reads all the same
        return _HEADERS[version](file)


def _check_size(head: ArrayHead, length: int, where: str) -> None:
    if length > MAX_READ_BYTES:
        raise InputError(
            f"{where}: array {head} needs {length} bytes at a time, expected at most "
            f"{MAX_READ_BYTES}; use a smaller batch"
        )


@contextlib.contextmanager
def _array_errors(where: str, name: str) -> Iterator[None]:
    what = f"{where}: array {plain(name)!r}"
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as err:
        raise InputError(f"{what} is damaged: {one_line(str(err))[:120]}") from err
    except (ValueError, RuntimeError) as err:  # such as encrypted, or a method of no Python
        raise InputError(f"{what} is damaged: {one_line(str(err))[:120]}") from err
    except OSError as err:  # also what bz2 raises for damage
        raise InputError(f"{what} cannot be read: {err.strerror or one_line(str(err))}") from err
    except MemoryError as err:
        raise InputError(f"{what} does not fit the memory; use a smaller batch") from err
