"""One TensorProto to numpy and back, external data included.

Owns what a tensor's bytes mean and every check that stands between a hostile file and memory:
a tensor is measured before it is read, and an external location is read only when it stays inside
the model's folder. Does not know graphs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from onnxq.errors import InputError
from onnxq.wire import varint_bytes

Array = np.ndarray[Any, np.dtype[Any]]

FLOAT_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.DOUBLE: np.dtype("<f8"),
}
"""ONNX element types that we may encode, with their little-endian numpy dtypes."""

INTEGER_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.UINT16: np.dtype("<u2"),
    TensorProto.INT32: np.dtype("<i4"),
    TensorProto.INT64: np.dtype("<i8"),
}
"""ONNX element types that our own decode forms use."""

_BITS = {
    **dict.fromkeys(("UINT2", "INT2"), 2),
    **dict.fromkeys(("UINT4", "INT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("FLOAT6E2M3", "FLOAT6E3M2"), 6),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "UINT16", "INT16"), 16),
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64"), 64),
    "COMPLEX128": 128,
}
_MAX_DIGITS = 100
"""Digits of an offset or length in a file; int() refuses thousands of them."""
_MAX_ELEMENTS = 1 << 256
_QUANTIZED_PREFIXES = ("FLOAT8", "FLOAT4", "FLOAT6E", "INT4", "UINT4", "INT2", "UINT2")


def type_name(data_type: int) -> str:
    """Return the lower-case name of an ONNX element type, `"type 99"` for an unknown number.

    >>> type_name(1), type_name(16), type_name(99)
    ('float32', 'bfloat16', 'type 99')
    """
    if data_type not in TensorProto.DataType.values():
        return f"type {data_type}"
    name = str(TensorProto.DataType.Name(data_type))
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())


def is_quantized_type(data_type: int) -> bool:
    """Tell whether the element type only exists for quantized values (4 and 8 bit floats, ...)."""
    return type_name(data_type).upper().startswith(_QUANTIZED_PREFIXES)


def count_elements(dims: Sequence[int], where: str) -> int:
    """Return the product of dims (1 for a scalar).

    Raises:
        InputError: a dimension is negative.
    """
    if any(dim < 0 for dim in dims):
        raise InputError(
            f"{where}: found a negative dimension in {list(dims)}; the file is damaged"
        )
    elements = math.prod(dims)
    if elements > _MAX_ELEMENTS:
        raise InputError(f"{where}: claims more than 2^256 elements; the file is damaged")
    return elements


def nominal_bytes(data_type: int, elements: int) -> int:
    """Return the bytes that `elements` values of a type take when packed; 0 for strings."""
    name = type_name(data_type).upper()
    if name in ("STRING", "UNDEFINED") or name.startswith("TYPE "):
        return 0
    bits = _BITS.get({"FLOAT32": "FLOAT", "FLOAT64": "DOUBLE"}.get(name, name), 8)
    return (elements * bits + 7) // 8


def is_external(tensor: TensorProto) -> bool:
    """Tell whether the tensor's values stand in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def stored_bytes(tensor: TensorProto) -> int:
    """Return the bytes of values that the message itself carries, whatever field they are in."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    packed = (
        4 * len(tensor.float_data)
        + 8 * len(tensor.double_data)
        + sum(len(text) for text in tensor.string_data)
    )
    fields = (tensor.int32_data, tensor.int64_data, tensor.uint64_data)
    return packed + sum(varint_bytes(value) for values in fields for value in values)


def external_entries(tensor: TensorProto, where: str) -> tuple[str, int, int | None]:
    """Return (location, offset, length or None) of an external tensor.

    Raises:
        InputError: the location is missing or offset or length is no whole number >= 0.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if any(isinstance(text, bytes) for text in (*entries, *entries.values())):
        raise InputError(f"{where}: external data entries are no text; the file is damaged")
    if not entries.get("location"):
        raise InputError(f"{where}: external data without a location; the file is damaged")
    numbers: dict[str, int | None] = {"offset": 0, "length": None}
    for key in numbers:
        text = entries.get(key)
        if text is None:
            continue
        if not text.strip().isdecimal() or len(text) > _MAX_DIGITS:
            raise InputError(f"{where}: found external {key} {text[:80]!r}, expected a number >= 0")
        numbers[key] = int(text)
    return entries["location"], numbers["offset"] or 0, numbers["length"]


def external_path(location: str, folder: Path | None, where: str) -> Path:
    """Return the real path of an external data file, which must lie inside `folder`.

    Raises:
        InputError: no folder is known, the path leaves it (absolute, `..`, symlink), or there is
            no regular file.
    """
    if folder is None:
        raise InputError(
            f"{where}: has external data in {location!r} but the model was not given as a path; "
            "pass the path of the .onnx file"
        )
    root = folder.resolve()
    if "\0" in location or Path(location).is_absolute() or location.startswith("\\"):
        raise InputError(f"{where}: external data location {location!r} must be relative")
    path = Path(os.path.realpath(root / location))
    if not path.is_relative_to(root):
        raise InputError(
            f"{where}: external data location {location!r} leaves the model's folder {root}; "
            "refused for safety, move the data file beside the model"
        )
    if not os.path.isfile(path):  # which, unlike Path.is_file, is False for a name too long
        raise InputError(f"{where}: external data file {str(path)!r} is missing")
    return path


def read(tensor: TensorProto, folder: Path | None, where: str) -> Array:
    """Return the values of a float or form tensor in its dims; memory grows by its size once.

    Args:
        tensor: a tensor whose type is in FLOAT_TYPES or INTEGER_TYPES.
        folder: the model's folder, for external data.
        where: how error messages name the tensor and its file.

    Raises:
        InputError: size, location or type do not fit what the tensor claims.
    """
    dtype = FLOAT_TYPES.get(tensor.data_type) or INTEGER_TYPES.get(tensor.data_type)
    if dtype is None:
        raise InputError(f"{where}: cannot read values of {type_name(tensor.data_type)}")
    elements = count_elements(tensor.dims, where)
    needed = elements * dtype.itemsize
    if is_external(tensor):
        flat = _read_external(tensor, folder, where, dtype, elements)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
        if len(raw) != needed:
            raise InputError(_size_message(where, tensor, len(raw), needed))
        flat = np.frombuffer(raw, dtype)
    else:
        flat = _read_typed(tensor, dtype)
        if flat.size != elements:
            raise InputError(_size_message(where, tensor, flat.nbytes, needed))
    try:
        return flat.reshape(tuple(tensor.dims))
    except ValueError as err:  # over 64 dims, or huge ones around a 0
        raise InputError(f"{where}: numpy cannot hold {len(tensor.dims)} such dims: {err}") from err


def read_packed(tensor: TensorProto, folder: Path | None, where: str) -> Array:
    """Return the raw bytes of a tensor whose elements are narrower than a byte, flat, as uint8.

    Raises:
        InputError: size or location do not fit what the tensor claims.
    """
    needed = nominal_bytes(tensor.data_type, count_elements(tensor.dims, where))
    if is_external(tensor):
        path, offset, length = check_external(tensor, folder, where)
        flat = np.fromfile(path, np.uint8, count=length, offset=offset)
    else:
        flat = np.frombuffer(tensor.raw_data, np.uint8)
    if flat.size != needed:
        raise InputError(_size_message(where, tensor, flat.size, needed))
    return flat


def _size_message(where: str, tensor: TensorProto, found: int, needed: int) -> str:
    return (
        f"{where}: found {found:,} bytes of values, expected {needed:,} for "
        f"{type_name(tensor.data_type)}{list(tensor.dims)}; the file is truncated or damaged"
    )


def _read_external(
    tensor: TensorProto, folder: Path | None, where: str, dtype: np.dtype[Any], elements: int
) -> Array:
    path, offset, length = check_external(tensor, folder, where)
    needed = elements * dtype.itemsize
    if length != needed:
        raise InputError(_size_message(where, tensor, length, needed))
    return np.fromfile(path, dtype, count=elements, offset=offset)


def check_external(tensor: TensorProto, folder: Path | None, where: str) -> tuple[Path, int, int]:
    """Return (path, offset, length) of an external tensor after checking it against the file.

    A missing length is the tensor's own size. Nothing is read.

    Raises:
        InputError: the location is unsafe or missing, or the file ends before the tensor does.
    """
    location, offset, length = external_entries(tensor, where)
    path = external_path(location, folder, where)
    if length is None:
        elements = count_elements(tensor.dims, where)
        length = nominal_bytes(tensor.data_type, elements)
    size = path.stat().st_size
    if offset + length > size:
        raise InputError(
            f"{where}: needs bytes {offset:,}..{offset + length:,} of {path.name!r}, which has "
            f"{size:,}; the data file is truncated or belongs to another model"
        )
    return path, offset, length


def _read_typed(tensor: TensorProto, dtype: np.dtype[Any]) -> Array:
    """Return values kept in float_data, double_data, int32_data or int64_data."""
    if tensor.data_type == TensorProto.FLOAT:
        return np.array(tensor.float_data, dtype)
    if tensor.data_type == TensorProto.DOUBLE:
        return np.array(tensor.double_data, dtype)
    if tensor.data_type == TensorProto.INT64:
        return np.array(tensor.int64_data, dtype)
    stored = np.array(tensor.int32_data, np.int64)
    if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        return (stored & 0xFFFF).astype("<u2").view(dtype)
    return stored.astype(dtype)


def make_tensor(name: str, data_type: int, dims: Sequence[int]) -> TensorProto:
    """Return a TensorProto with name, type and dims and no values yet."""
    tensor = TensorProto(data_type=data_type)
    if name:
        tensor.name = name
    tensor.dims.extend(dims)
    return tensor
