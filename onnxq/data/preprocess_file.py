"""Preprocessing by the name of a preset, or from a small YAML or JSON file.

Owns the notation: which keys there are, what may be written shorter, and the message for what is
none. The keys are the fields of the records in `preprocess`, which check the values.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import types
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxq.data.preprocess import PRESETS, AudioPreprocess, ImagePreprocess, Log, Preprocess, Resize
from onnxq.errors import InputError, MissingDependencyError, OptionError
from onnxq.plaintext import one_line, plain

MAX_FILE_BYTES = 1 << 20
"""Largest file that is read."""

_KINDS: Mapping[str, type[Preprocess]] = {"image": ImagePreprocess, "audio": AudioPreprocess}


def load_preprocess(given: str | Path) -> Preprocess:
    """Return the preset of a name, or what a file says, by its ending YAML or JSON.

    Raises:
        OptionError: there is no such preset, or the file has an unknown key or a wrong value.
        InputError: the file cannot be read or parsed.
        MissingDependencyError: YAML needs PyYAML.
    """
    if str(given) in PRESETS:
        return PRESETS[str(given)]
    path = Path(given)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise OptionError(
            f"preprocess: found {plain(str(given))!r}, expected one of {', '.join(PRESETS)}, or a "
            "file ending in .yaml, .yml or .json"
        )
    return read_mapping(_parse(path), plain(str(path)))


def read_mapping(values: object, where: str = "preprocess") -> Preprocess:
    """Return the preprocessing that keys and values describe.

    Args:
        values: what a parser returned. The key "preset" gives the values that other keys replace.
        where: what to call them in a message.

    Raises:
        OptionError: a key is unknown or missing, or a value is none that it can have.

    >>> read_mapping({"kind": "image", "crop": 8, "channels": "L"}).crop
    (8, 8)
    """
    try:
        if not isinstance(values, Mapping):
            raise OptionError(f"found {_type(values)}, expected keys and values")
        start, kind = _start(values)
        given = {key: value for key, value in values.items() if key != "preset"}
        changes = _fields(kind, given, "")
        return dataclasses.replace(start, **changes) if start else kind(**changes)
    except OptionError as err:
        raise OptionError(f"{where}: {err}") from err


def _start(values: Mapping[Any, Any]) -> tuple[Preprocess | None, type[Preprocess]]:
    """Return the preset to start from, if one is named, and the kind of the result."""
    if "preset" in values:
        name = values["preset"]
        if not isinstance(name, str) or name not in PRESETS:
            known = ", ".join(PRESETS)
            raise OptionError(f"preset: found {_type(name)}, expected one of {known}")
        return PRESETS[name], type(PRESETS[name])
    found = values.get("kind")
    if not isinstance(found, str) or found not in _KINDS:
        known = " or ".join(_KINDS)
        raise OptionError(f"kind: found {_type(found)}, expected {known}, or a key 'preset'")
    kind = _KINDS[found]
    for item in dataclasses.fields(kind):
        has_default = {item.default, item.default_factory} != {dataclasses.MISSING}
        if not has_default and item.name not in values:
            raise OptionError(f"key {item.name!r} is missing")
    return None, kind


def _fields(kind: type[Any], given: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """Return the values of a record's fields, converted."""
    hints = get_type_hints(kind)
    for key in given:
        if key not in hints:
            shown = plain(key[:40]) if isinstance(key, str) else _type(key)
            known = ", ".join(sorted(hints))
            raise OptionError(f"unknown key {prefix + shown!r}; the keys are {known}")
    return {key: _value(hints[key], value, prefix + key) for key, value in given.items()}


def _value(hint: Any, found: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if found is None:
            return None
        hint = next(item for item in args if item is not type(None))
        return _value(hint, found, where)
    if origin is Literal:
        hint = str
    elif origin is tuple:
        return _list(args, found, where)
    elif dataclasses.is_dataclass(hint):
        return _record(hint, found, where)  # type: ignore[arg-type]
    return _PLAIN[hint](found, where)


def _record(kind: type[Any], found: Any, where: str) -> Any:
    """Return a resize or a log; a log may be just its kind, a resize just the size."""
    if kind is Log and isinstance(found, str):
        found = {"kind": found}
    elif kind is Resize and not isinstance(found, Mapping):
        found = {"size": found}
    if not isinstance(found, Mapping):
        raise OptionError(f"{where}: found {_type(found)}, expected keys and values")
    return kind(**_fields(kind, found, where + "."))


def _list(args: tuple[Any, ...], found: Any, where: str) -> tuple[Any, ...]:
    """Return a pair, of which one number gives both, or any number of values."""
    item, is_pair = args[0], len(args) == 2 and args[1] is not Ellipsis
    if not isinstance(found, list):
        return (_PLAIN[item](found, where),) * (2 if is_pair else 1)
    if is_pair and len(found) != 2:
        raise OptionError(f"{where}: found {len(found)} numbers, expected height and width")
    return tuple(_PLAIN[item](value, f"{where}[{i}]") for i, value in enumerate(found))


def _number(found: Any, where: str) -> float:
    """Return a number; "1/255" and "1e-6", which YAML takes for text, are numbers."""
    try:
        if isinstance(found, str) and len(found) < 40:
            value = float(Fraction(found)) if "/" in found else float(found)
        elif isinstance(found, int | float) and not isinstance(found, bool):
            value = float(found)
        else:
            raise ValueError
        if not math.isfinite(value):
            raise ValueError
    except (ValueError, ZeroDivisionError, OverflowError):
        raise OptionError(f"{where}: found {_type(found)}, expected a number") from None
    return value


def _integer(found: Any, where: str) -> int:
    if not isinstance(found, int) or isinstance(found, bool):
        raise OptionError(f"{where}: found {_type(found)}, expected an integer")
    return found


def _text(found: Any, where: str) -> str:
    if not isinstance(found, str):
        raise OptionError(f"{where}: found {_type(found)}, expected text")
    return found


def _truth(found: Any, where: str) -> bool:
    if not isinstance(found, bool):
        raise OptionError(f"{where}: found {_type(found)}, expected true or false")
    return found


_PLAIN: Mapping[type, Callable[[Any, str], Any]] = {
    float: _number,
    int: _integer,
    str: _text,
    bool: _truth,
}


def _type(found: object) -> str:
    """Return a value for a message, short whatever it is."""
    if found is None:
        return "nothing"
    if isinstance(found, str):
        return repr(plain(found[:40]))
    is_number = isinstance(found, bool | float) or (isinstance(found, int) and abs(found) < 1 << 64)
    return str(found) if is_number else type(found).__name__


def _parse(path: Path) -> Any:
    where = plain(str(path))
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{where}: is no regular file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as err:
        raise InputError(f"{where}: cannot be read: {err.strerror or err}") from err
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{where}: expected at most {MAX_FILE_BYTES} bytes of keys and values")
    try:
        text = data.decode("utf-8")
        return json.loads(text) if path.suffix.lower() == ".json" else _yaml(text)
    except (ValueError, RecursionError) as err:
        reason = one_line(str(err))[:160]
        raise InputError(f"{where}: cannot be parsed: {reason}") from err


def _yaml(text: str) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as err:
        raise MissingDependencyError(
            "reading YAML needs PyYAML; pip install pyyaml, or onnxq[data], or use JSON"
        ) from err
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ValueError(place + (err.problem or err.context or "")) from err
    except yaml.YAMLError as err:
        raise ValueError(str(err)) from err
