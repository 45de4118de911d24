"""Write a model, and its data file where it has one, so that a failure changes nothing.

Owns output. Everything is written to temporary files in the target folder, synced and renamed; the
data file first, under a name that holds a digest of its content, the model last. A crash leaves
the previous pair whole. A store takes the values of tensors: inline, or streamed to the data file.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import EncodeError
from onnx import ModelProto, TensorProto

from onnxq import tensors
from onnxq.errors import OutputError
from onnxq.graphs import Document, initializers
from onnxq.leftovers import unmentioned
from onnxq.model import external_tensors
from onnxq.rate import EXTERNAL_THRESHOLD, Placement

if sys.platform != "win32":
    import fcntl

Array = np.ndarray[Any, np.dtype[Any]]
_CHUNK = 16 << 20
_DIGEST_CHARS = 8


class InlineStore:
    """Keep tensor values inside the model's own message."""

    placement: Placement | None

    def __init__(self) -> None:
        self.placement = None
        self.tensors: list[TensorProto] = []

    def put(self, tensor: TensorProto, values: Array) -> None:
        """Give a tensor the raw bytes of `values`."""
        tensor.raw_data = values.tobytes()

    def copy(self, tensor: TensorProto, source: Path, offset: int, length: int) -> None:
        """Give a tensor the bytes of a file's range."""
        with source.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        del tensor.external_data[:]
        tensor.ClearField("data_location")


class PlacingStore:
    """Give tensors of EXTERNAL_THRESHOLD bytes and more their places in a data file, unwritten."""

    def __init__(self, output: Path) -> None:
        if _is_no_text(output.name):
            raise OutputError(
                f"{output}: is no UTF-8 name, which a model needs that names its data file; "
                "choose another name or --external-data never"
            )
        self._output = output
        self.placement = Placement(data_name(output, "0" * _DIGEST_CHARS))
        self.tensors: list[TensorProto] = []
        self._written = 0

    def put(self, tensor: TensorProto, values: Array) -> None:
        """Give a tensor its values: inline when short, else in the data file."""
        if values.nbytes < EXTERNAL_THRESHOLD:
            tensor.raw_data = values.tobytes()
            return
        self._refer(tensor, values.nbytes)
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        for start in range(0, flat.size, _CHUNK):
            self._write(flat[start : start + _CHUNK].data)

    def copy(self, tensor: TensorProto, source: Path, offset: int, length: int) -> None:
        """Give a tensor the bytes of another file's range, streamed."""
        if length < EXTERNAL_THRESHOLD:
            InlineStore().copy(tensor, source, offset, length)
            return
        self._refer(tensor, length)
        self._stream(source, offset, length)

    def move(self, tensor: TensorProto) -> None:
        """Move a tensor's inline bytes to the data file, unless they are short."""
        if len(tensor.raw_data) >= EXTERNAL_THRESHOLD:
            values = np.frombuffer(tensor.raw_data, np.uint8)
            tensor.ClearField("raw_data")
            self.put(tensor, values)

    def _refer(self, tensor: TensorProto, length: int) -> None:
        offset = self.placement.place(length)
        self._write(memoryview(bytes(offset - self._written)))
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": self.placement.location, "offset": offset, "length": length}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)

    def _stream(self, source: Path, offset: int, length: int) -> None:
        """Write a range of another file; here only its length is of interest."""
        self._written += length

    def _write(self, data: memoryview) -> None:
        """Write the next bytes of the data file."""
        self._written += len(data)


class DataFileStore(PlacingStore):
    """Stream the values of long tensors to a temporary data file."""

    def __init__(self, output: Path) -> None:
        super().__init__(output)
        self._digest = hashlib.blake2b(digest_size=_DIGEST_CHARS // 2)
        self._final: Path | None = None
        self._is_new = False
        with _output_errors(output):
            self._path, self._file = _temporary(output)

    def _stream(self, source: Path, offset: int, length: int) -> None:
        with source.open("rb") as file:
            file.seek(offset)
            while length:
                chunk = file.read(min(length, _CHUNK))
                if not chunk:
                    raise OutputError(f"{source}: ended while it was being copied")
                self._write(memoryview(chunk))
                length -= len(chunk)

    def _write(self, data: memoryview) -> None:
        with _output_errors(self._output):
            self._file.write(data)
        self._digest.update(data)
        self._written += len(data)

    def finish(self) -> None:
        """Put the data file under its final name and point every tensor at it."""
        if not self.tensors:
            self.abandon()
            return
        name = data_name(self._output, self._digest.hexdigest())
        for tensor in self.tensors:
            tensor.external_data[0].value = name
        final = self._output.with_name(name)
        with _output_errors(self._output):
            _sync(self._file)
            self._is_new = not final.exists()
            os.replace(self._path, final)
        self._file.close()
        self._final = final

    @property
    def final(self) -> Path | None:
        """The data file under its final name; None before `finish` and where none was needed."""
        return self._final

    def abandon(self) -> None:
        """Remove what was written, as far as it was not there before."""
        with contextlib.suppress(OSError):  # what was not written yet cannot be, on a full disk
            self._file.close()
        self._path.unlink(missing_ok=True)
        if self._final is not None and self._is_new:
            self._final.unlink(missing_ok=True)


Store = InlineStore | PlacingStore


def move_kept(document: Document, store: Store) -> None:
    """Give every tensor that stays in the model its values in the store's place.

    Raises:
        InputError: an external tensor cannot be read.
    """
    held = {id(tensor) for tensor in store.tensors}
    for name, tensor in list(external_tensors(document)):
        if id(tensor) in held:
            continue
        where = f"{document.label}: tensor {name!r}"
        path, offset, length = tensors.check_external(tensor, document.folder, where)
        store.copy(tensor, path, offset, length)
    if isinstance(store, PlacingStore):
        for tensor in initializers(document):
            if not tensors.is_external(tensor) and tensor.HasField("raw_data"):
                store.move(tensor)


def move_out(document: Document, target: Path) -> None:
    """Move a model's values to a data file of a target, so that it can be written often in little.

    Raises:
        InputError: an external tensor cannot be read.
        OutputError: the file cannot be written; nothing is left of it.
    """
    store = DataFileStore(target)
    try:
        move_kept(document, store)
        store.finish()
    except BaseException:
        store.abandon()
        raise


def data_name(output: Path, digest: str) -> str:
    """Return the name of an output's data file with a digest of its content.

    >>> data_name(Path("folder/out.onnx"), "0123abcd")
    'out.onnx.0123abcd.data'
    """
    return f"{output.name}.{digest}.data"


def check_output(output: Path, *, force: bool, inputs: Collection[Path] = ()) -> None:
    """Check before any work that an output may be written.

    Raises:
        OutputError: it exists without `force`, is a folder or an input, or its folder is missing
            or cannot be written.
    """
    with _output_errors(output):
        output.exists()  # a name that the file system refuses shows here
    if output.is_dir():
        raise OutputError(f"{output}: is a folder, expected a file name")
    if output.exists() and not output.is_file():
        raise OutputError(f"{output}: is a device or pipe, expected a file name")
    folder = output.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"{output}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{output}: the folder {folder} cannot be written")
    if not output.exists():
        return
    for source in inputs:
        if source.exists() and os.path.samefile(source, output):
            raise OutputError(
                f"{output}: is the input itself or its data file; choose another name"
            )
    if not force:
        raise OutputError(f"{output}: exists already; pass --force to overwrite it")


@contextlib.contextmanager
def pending_model(
    output: Path, serialize: Callable[[], bytes], store: Store, inputs: Collection[Path] = ()
) -> Iterator[Path]:
    """Write a model beside its target, yield the temporary path, then put both files in place.

    When the body raises, the target keeps its previous content and nothing is left behind.
    `serialize` is called once the store has given every tensor its final location; `inputs` are
    resolved paths of files that are never removed.

    Raises:
        OutputError: the model cannot be written.
    """
    temporary: Path | None = None
    try:
        if isinstance(store, DataFileStore):
            store.finish()
        data = serialize()
        with _output_errors(output):
            temporary, file = _temporary(output)
            with file:
                file.write(data)
                del data
                _sync(file)
        yield temporary
        old = _own_data_files(output)
        with _output_errors(output):
            os.replace(temporary, output)
            _sync_folder(output.parent)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(store, DataFileStore):
            store.abandon()
        raise
    for path in old:
        is_ours = isinstance(store, DataFileStore) and path == store.final
        if not is_ours and path.resolve() not in inputs:
            path.unlink(missing_ok=True)


def message_bytes(proto: ModelProto, label: str) -> int:
    """Return the bytes of a model's message.

    Raises:
        OutputError: it is larger than protobuf can write.
    """
    try:
        return int(proto.ByteSize())
    except (EncodeError, ValueError) as err:
        raise OutputError(
            f"{label}: larger than an ONNX file can be; use --external-data always"
        ) from err


def serialize(proto: ModelProto, label: str) -> bytes:
    """Return a model's bytes, the same for the same content.

    Raises:
        OutputError: it is larger than protobuf can write.
    """
    try:
        return proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as err:
        raise OutputError(
            f"{label}: larger than an ONNX file can be; use --external-data always"
        ) from err


def write_bytes(output: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: it cannot be written; the previous file is intact.
    """
    temporary: Path | None = None
    try:
        with _output_errors(output):
            temporary, file = _temporary(output)
            with file:
                file.write(data)
                _sync(file)
            os.replace(temporary, output)
            _sync_folder(output.parent)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def _is_no_text(name: str) -> bool:
    """Tell whether a file name holds bytes that are not UTF-8, which Python keeps as surrogates."""
    return any("\ud800" <= char <= "\udfff" for char in name)


def _own_data_files(output: Path) -> list[Path]:
    """Return the data files of earlier outputs of this name, a crashed one's included."""
    pattern = re.compile(re.escape(output.name) + rf"\.[0-9a-f]{{{_DIGEST_CHARS}}}\.data")
    return unmentioned(output, pattern)


def _temporary(output: Path) -> tuple[Path, BinaryIO]:
    """Return a new locked temporary file beside an output, abandoned ones of the past removed."""
    prefix = f".{output.name}."
    for path in output.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        _remove_abandoned(path)
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=output.parent)
    file = os.fdopen(handle, "wb")
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    return Path(name), file


def _remove_abandoned(path: Path) -> None:
    """Remove a temporary file whose writer is gone: nobody holds its lock (not on Windows)."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _output_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise OutputError(
            f"{output}: cannot be written: {err.strerror or err}; nothing was changed"
        ) from err
