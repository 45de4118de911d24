"""Read the structure of a large model file without its tensor values.

Owns a walk over the protobuf wire format that leaves long `raw_data` where it is: in the message
that comes back, such a tensor refers to its own bytes in the file, as external data does. A 500 MB
model then costs memory for one tensor at a time instead of for all of them, twice.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from onnx import TensorProto

DEFER_BYTES = 1 << 16
"""Values of at least this many bytes stay in the file."""

_MAX_DEPTH = 100
"""Messages in messages that protobuf reads; more are left to the parser to refuse."""
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_CHILDREN: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
"""Message kind -> field number -> kind of the child (onnx.proto)."""

Field = tuple[int, int, int, int]


class NotReadableError(ValueError):
    """Signal bytes that this walk does not follow; the ordinary parser is then asked."""


def read_skeleton(path: Path) -> bytes:
    """Return the bytes of a model whose long values refer to the file they stand in.

    Raises:
        NotReadableError: the file is damaged, nested too deeply, or uses a wire type that ONNX
            does not.
        OSError: it cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _slim(data, 0, len(data), "model", path.name)


def _slim(data: mmap.mmap, start: int, end: int, kind: str, location: str, depth: int = 0) -> bytes:
    """Return the message in data[start:end] with its long values deferred."""
    if depth > _MAX_DEPTH:
        raise NotReadableError(f"more than {_MAX_DEPTH} messages in each other at byte {start}")
    fields = list(_fields(data, start, end))
    numbers = {number for number, _, _, _ in fields}
    may_defer = kind == "tensor" and not numbers & {_EXTERNAL_DATA, _DATA_LOCATION}
    pieces: list[bytes] = []
    for number, begin, value, stop in fields:
        child = _CHILDREN[kind].get(number)
        is_long = stop - value >= DEFER_BYTES
        if is_long and may_defer and number == _RAW_DATA:
            pieces.append(_reference(location, value, stop - value))
        elif is_long and child is not None:
            body = _slim(data, value, stop, child, location, depth + 1)
            pieces += (_varint(number << 3 | _LENGTH), _varint(len(body)), body)
        else:
            pieces.append(data[begin:stop])
    return b"".join(pieces)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """Yield (number, start of the tag, start of the value, end) of each field."""
    at = start
    while at < end:
        begin = at
        tag, at = _read_varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        value = at
        if wire_type == _VARINT:
            _, at = _read_varint(data, at, end)
        elif wire_type == _LENGTH:
            length, value = _read_varint(data, at, end)
            at = value + length
        elif wire_type in (_FIXED32, _FIXED64):
            at += 4 if wire_type == _FIXED32 else 8
        else:
            raise NotReadableError(f"wire type {wire_type} at byte {begin}")
        if at > end:
            raise NotReadableError(f"field at byte {begin} ends beyond its message")
        yield number, begin, value, at


def _read_varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise NotReadableError(f"varint at byte {at} does not end")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _reference(location: str, offset: int, length: int) -> bytes:
    """Return the fields that make a tensor refer to bytes of the model file."""
    fields = TensorProto(data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        fields.external_data.add(key=key, value=str(value))
    return bytes(fields.SerializeToString())
