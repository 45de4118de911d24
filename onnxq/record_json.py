"""Frozen records to JSON-ready values and back, by their type hints.

Owns the one rule for both directions: field names are keys, tuples are lists, a number JSON cannot
hold (infinity, NaN) is null. Keys that are no fields are ignored on reading, so that derived values
may be written and later versions may add fields. Writing files is not done here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from onnxq.errors import InputError

_T = TypeVar("_T")


def to_json(value: Any) -> Any:
    """Return a record, or plain values holding records, as JSON-ready values.

    A record's own `to_json` is used where it has one.

    >>> to_json({"a": (1, float("inf"))})
    {'a': [1, None]}
    """
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return fields_to_json(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def fields_to_json(record: Any) -> dict[str, Any]:
    """Return the fields of a record as JSON-ready values, in field order."""
    return {
        field.name: to_json(getattr(record, field.name)) for field in dataclasses.fields(record)
    }


def from_json(kind: type[_T], data: object, where: str = "record") -> _T:
    """Return the record of a type that JSON values describe.

    Args:
        kind: a dataclass whose fields are plain values, records, tuples and mappings of them.
        data: what `json.loads` returned.
        where: what to call the value in a message.

    Raises:
        InputError: a field is missing or of another type; the message gives its path.
    """
    if not isinstance(data, Mapping):
        raise _wrong(where, data, "an object")
    read = getattr(kind, "from_json", None)
    if read is not None:
        return read(data, where)  # type: ignore[no-any-return]
    return fields_from_json(kind, data, where)


def fields_from_json(kind: type[_T], data: Mapping[str, Any], where: str) -> _T:
    """Return a record from its fields alone, past its own `from_json`; raise as `from_json`."""
    values: dict[str, Any] = {}
    hints = _hints(kind)  # type: ignore[arg-type]
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in data:
            values[field.name] = _value(
                hints[field.name], data[field.name], f"{where}.{field.name}"
            )
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}: {field.name!r} is missing")
    return kind(**values)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _optional(args, data, where)
    if origin is Literal:
        if data not in args:
            raise _wrong(where, data, "one of " + ", ".join(map(repr, args)))
        return data
    if origin is tuple:
        if not isinstance(data, list):
            raise _wrong(where, data, "a list")
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is not None:  # a mapping
        if not isinstance(data, Mapping):
            raise _wrong(where, data, "an object")
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(hint, data, where)  # type: ignore[arg-type]
    return _plain(hint, data, where)


def _optional(args: tuple[Any, ...], data: Any, where: str) -> Any:
    """Return the value of a union of plain types, or of one type and None."""
    if data is None and type(None) in args:
        return None
    kinds = [arg for arg in args if arg is not type(None)]
    if len(kinds) > 1:
        if any(kind is type(data) for kind in kinds):
            return data
        raise _wrong(where, data, " or ".join(kind.__name__ for kind in kinds))
    return _value(kinds[0], data, where)


def _plain(hint: Any, data: Any, where: str) -> Any:
    if hint is Any:
        return data
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
        raise _wrong(where, data, hint.__name__)
    return data


def _wrong(where: str, data: object, expected: str) -> InputError:
    found = type(data).__name__ if isinstance(data, (list, Mapping)) else repr(data)
    return InputError(f"{where}: found {found[:80]}, expected {expected}")
