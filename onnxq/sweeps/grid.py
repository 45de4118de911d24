"""The grid of a sweep: bit widths times values of convert options, as points to be made.

Owns how widths and values are written, their product, which points are the same, and what sets one
curve apart from another. `ConvertOptions` checks every value, before any work is done.
"""

from __future__ import annotations

import itertools
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxq.errors import OptionError
from onnxq.options import ConvertOptions, make_options, parse_tensor_bits

MAX_POINTS = 10_000
"""More points than this are taken for a slip of the pen."""

_WIDTHS = range(1, 17)
_NOT_IN_A_GRID = ("bits", "jobs")
_AXES = tuple(
    sorted(field.name for field in fields(ConvertOptions) if field.name not in _NOT_IN_A_GRID)
)
_LISTS = ("include", "exclude", "op_types", "tensor_bits")
_LIST_MARK = "|"
_SEVERAL = (list, tuple, range, set, frozenset)
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_NONE = ("none", "")


@dataclass(frozen=True, kw_only=True)
class GridPoint:
    """Hold one combination of settings.

    `settings` are the convert options that were asked for, by Python name and JSON-ready; `options`
    are all of them. `series` names what sets the point's curve apart; "" if there is one curve.
    """

    settings: Mapping[str, Any]
    options: ConvertOptions
    series: str = ""

    @property
    def bits(self) -> int:
        """The bit width."""
        return self.options.bits

    @property
    def label(self) -> str:
        """The series and the width, as people speak of the point."""
        width = f"{self.bits} bit{'' if self.bits == 1 else 's'}"
        return f"{self.series}, {width}" if self.series else width


def parse_bits(text: str) -> tuple[int, ...]:
    """Return the widths of a text such as "2-8", "2,4,6" or "2-4,8", rising, each once.

    Raises:
        OptionError: it is no such text, or a width is outside 1..16.

    >>> parse_bits("2-4,8"), parse_bits("6")
    ((2, 3, 4, 8), (6,))
    """
    widths: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,2})\s*(?:-\s*(\d{1,2})\s*)?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not (first in _WIDTHS and last in _WIDTHS and first <= last):
            raise OptionError(
                f"--bits: found {text!r}, expected widths from 1 to 16 such as 2-8, 2,4,6 or 2-4,8"
            )
        widths.update(range(first, last + 1))
    return tuple(sorted(widths))


def parse_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    """Return (option, values) of a NAME=V1,V2 argument; NAME is a convert option, '-' for '_'.

    Values have the option's type: yes and no, numbers, words. Several patterns that make one value
    are joined by '|'; "none" is an empty list, or no preset.

    Raises:
        OptionError: there is no such option, or a value is none of its type.

    >>> parse_axis("init=optimal,uniform")
    ('init', ('optimal', 'uniform'))
    >>> parse_axis("exclude=none,a*|b*")
    ('exclude', ((), ('a*', 'b*')))
    """
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise OptionError(
            f"--grid: found {text!r}, expected NAME=V1,V2 such as layout=portable,native"
        )
    _check_name(name)
    return name, tuple(_parse(name, value.strip()) for value in values.split(","))


def make_grid(bits: str | int | Iterable[int], axes: Mapping[str, Any]) -> tuple[GridPoint, ...]:
    """Return every point of a grid once: series by series, widths rising within each.

    Args:
        bits: widths, or their text for `parse_bits`.
        axes: values by the Python name of a convert option; a list, tuple, range or set holds
            several values, anything else is one value.

    Raises:
        OptionError: an option is unknown, a value is outside its range, or there is no point, or
            more than MAX_POINTS.
    """
    widths = _widths(bits)
    values = {name: _values(name, given) for name, given in axes.items()}
    count = math.prod(map(len, values.values())) * len(widths)
    if count > MAX_POINTS:
        raise OptionError(f"--grid: found {count:,} points, expected at most {MAX_POINTS:,}")
    points: dict[ConvertOptions, GridPoint] = {}
    for combination in itertools.product(*values.values()):
        for width in widths:
            settings = {**dict(zip(values, combination, strict=True)), "bits": width}
            options = make_options(settings)
            # A preset is but the options it stands for, and jobs never change the bytes.
            same = replace(options, preset=None, jobs=0)
            points.setdefault(same, GridPoint(settings=_plain(settings), options=options))
    return _with_series(tuple(points.values()))


def _with_series(points: Sequence[GridPoint]) -> tuple[GridPoint, ...]:
    """Return the points with their series: the settings beside the width that vary."""
    names = [name for name in points[0].settings if name != "bits"]
    first = points[0].settings
    varying = [n for n in names if any(point.settings[n] != first[n] for point in points)]
    return tuple(
        replace(point, series=", ".join(describe(n, point.settings[n]) for n in varying))
        for point in points
    )


def spell(value: Any) -> str:
    """Return a JSON-ready setting as `parse_axis` reads it.

    >>> spell([["a*", 4], ["b", 8]]), spell(True), spell(None), spell(0.5)
    ('a*=4|b=8', 'true', 'none', '0.5')
    """
    if isinstance(value, list):
        items = (f"{item[0]}={item[1]}" if isinstance(item, list) else item for item in value)
        return _LIST_MARK.join(items) or _NONE[0]
    if isinstance(value, bool):
        return str(value).lower()
    return _NONE[0] if value is None else str(value)


def describe(name: str, value: Any) -> str:
    """Return a setting in a few words.

    >>> describe("init", "optimal"), describe("quantize_norm", False), describe("min_elements", 9)
    ('optimal', 'no quantize norm', 'min elements 9')
    """
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if value is None or value == []:
        return f"no {words}"
    if name in ("init", "layout", "preset"):
        return str(value)
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {spell(value)}"


def _widths(bits: str | int | Iterable[int]) -> tuple[int, ...]:
    if isinstance(bits, str):
        return parse_bits(bits)
    given = bits if isinstance(bits, Iterable) else (bits,)
    try:
        # True would pass for 1; ConvertOptions refuses it by its own message.
        widths = {value if isinstance(value, bool) else index(value) for value in given}
    except TypeError as err:
        raise OptionError(f"--bits: found {bits!r}, expected whole numbers from 1 to 16") from err
    if not widths:
        raise OptionError("--bits: found no width, expected widths such as 2-8")
    return tuple(sorted(widths))


def _check_name(name: str) -> None:
    if name == "bits":
        raise OptionError("--grid: found bits, whose widths are given by --bits")
    if name not in _AXES:
        raise OptionError(f"--grid: found {name!r}, expected a convert option: {', '.join(_AXES)}")


def _values(name: str, given: Any) -> tuple[Any, ...]:
    """Return the values of an axis."""
    _check_name(name)
    values = tuple(given) if isinstance(given, _SEVERAL) else (given,)
    if isinstance(given, (set, frozenset)):
        values = tuple(sorted(values, key=repr))
    if not values:
        raise OptionError(f"--grid {name}: found no value, expected at least one")
    for value in values:
        if value is None and name != "preset":  # to make_options it would mean "not given"
            raise OptionError(f"--grid {name}: found None, expected a value")
    return tuple(_hashable(name, value) for value in values)


def _hashable(name: str, value: Any) -> Any:
    """Return a list of patterns as a tuple, so that equal options are found to be equal."""
    if name == "tensor_bits" and isinstance(value, Mapping):
        return tuple(value.items())
    if name in _LISTS and isinstance(value, list):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    if name in _LISTS and isinstance(value, str):
        return (value,)
    return value


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as values that JSON gives back the same."""
    return {name: _listed(value) for name, value in settings.items()}


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _parse(name: str, text: str) -> Any:
    """Return the value of an option that a text stands for."""
    kind = get_type_hints(ConvertOptions)[name]
    if name in _LISTS:
        items = () if text in _NONE else tuple(item.strip() for item in text.split(_LIST_MARK))
        return tuple(map(parse_tensor_bits, items)) if name == "tensor_bits" else items
    if kind is bool and text.lower() in _YES + _NO:
        return text.lower() in _YES
    is_optional = get_origin(kind) in (Union, types.UnionType)
    if is_optional and text in _NONE:
        return None
    if is_optional or get_origin(kind) is Literal:
        return text  # the options know the choices
    try:
        return kind(text) if kind in (int, float) else _refuse(name, text, kind)
    except ValueError:
        return _refuse(name, text, kind)


def _refuse(name: str, text: str, kind: Any) -> Any:
    expected = {bool: "yes or no", int: "a whole number", float: "a number"}.get(kind)
    raise OptionError(f"--grid {name}: found {text!r}, expected {expected or get_args(kind)}")
