"""Quality against size as data of a picture: series, the float model's line, the Pareto front.

Owns what stands in one picture and in which units, and which points no other beats; not how it is
drawn (`plots`, `page`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxq.pages.overlay import Entry, Measure, full_label, reading
from onnxq.plaintext import one_line
from onnxq.quantities import unit_of
from onnxq.validation.measurements import finite


@dataclass(frozen=True, kw_only=True)
class Dot:
    """Hold one drawn point: its entry by position, its place, its 95 % interval if there is one.

    `is_upper` says that the nearest point of another series lies below: its name goes above.
    """

    entry: int
    size: float
    value: float
    low: float | None = None
    high: float | None = None
    is_front: bool = False
    is_upper: bool = True


@dataclass(frozen=True, kw_only=True)
class Series:
    """Hold the points of one curve by rising size; no line joins those of a validation."""

    name: str
    model: str
    is_line: bool
    dots: tuple[Dot, ...]


@dataclass(frozen=True, kw_only=True)
class FloatLine:
    """Hold the float model's own figure, which the curves approach."""

    name: str
    model: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Hold one picture: quality against size; `undrawn` says which points have no place in it."""

    measure: Measure
    size_axis: str
    series: tuple[Series, ...]
    float_lines: tuple[FloatLine, ...]
    undrawn: tuple[str, ...]


SIZES: Mapping[str, str] = {
    "file": "File size",
    "share": "Share of the float model's size (%)",
    "rate": "Bits per encoded weight",
    "ce2": "CE2 size",
}
"""The horizontal axes, by name. The unit of the sizes in bytes depends on the chart."""


def chart(shown: Sequence[Entry], measure: Measure, size: str | None = None) -> Chart:
    """Return the picture of a measure against a size of `SIZES`; see `default_size` for None."""
    size = size or default_size(shown)
    scale, axis = _axis(shown, size)
    is_one_model = len({entry.model for entry in shown}) == 1
    groups: dict[tuple[str, str], list[Dot]] = {}
    undrawn = []
    for position, entry in enumerate(shown):
        dot = _dot(entry, position, measure, size, scale)
        if isinstance(dot, Dot):
            groups.setdefault((entry.model, entry.series), []).append(dot)
        elif dot:
            undrawn.append(f"{full_label(shown, entry)}: {dot}")
    fronts = _fronts(groups, measure.better)
    series = tuple(
        Series(
            name=_series_name(model, name, is_one_model=is_one_model),
            model=model,
            is_line=all(shown[dot.entry].origin != "validate" for dot in dots),
            dots=tuple(
                dataclasses.replace(
                    dot, is_front=dot.entry in fronts, is_upper=_is_upper(dot, dots, groups)
                )
                for dot in sorted(dots, key=lambda dot: (dot.size, dot.entry))
            ),
        )
        for (model, name), dots in groups.items()
    )
    return Chart(
        measure=measure,
        size_axis=axis,
        series=series,
        float_lines=_float_lines(shown, measure, is_one_model=is_one_model),
        undrawn=tuple(undrawn),
    )


def size_of(entry: Entry, size: str) -> float | None:
    """Return an entry's place on an axis of `SIZES`, in bytes, percent or bits."""
    return _SIZE_OF[size](entry)


def default_size(shown: Sequence[Entry]) -> str:
    """Return "file" for one model; sizes of several are told as shares of their own originals."""
    return "file" if len({entry.model for entry in shown}) == 1 else "share"


def pareto(
    places: Sequence[tuple[float, float]], better: Literal["higher", "lower"]
) -> frozenset[int]:
    """Return the positions of the (size, value) pairs that no other pair beats.

    A pair beats another if it is no larger and no worse, and better in one of the two; so equal
    pairs are on the front together.

    >>> sorted(pareto([(1, 5), (2, 4), (2, 6), (1, 5)], "higher"))
    [0, 2, 3]
    """
    sign = 1.0 if better == "higher" else -1.0
    order = sorted(range(len(places)), key=lambda i: (places[i][0], -sign * places[i][1]))
    front: set[int] = set()
    best, best_size = -math.inf, math.nan
    for position in order:
        size, value = places[position][0], sign * places[position][1]
        if value > best or (value == best and size == best_size):
            front.add(position)
            best, best_size = value, size
    return frozenset(front)


def _series_name(model: str, series: str, *, is_one_model: bool) -> str:
    return series or model if is_one_model else f"{model}, {series}" if series else model


_SIZE_OF: Mapping[str, Callable[[Entry], float | None]] = {
    "file": lambda entry: entry.point.file_bytes,
    "share": lambda entry: _share(entry),
    "rate": lambda entry: entry.point.bits_per_weight,
    "ce2": lambda entry: entry.point.ce2_bytes,
}


def _share(entry: Entry) -> float | None:
    size = entry.point.file_bytes
    return None if size is None or not entry.model_bytes else 100 * size / entry.model_bytes


def _axis(shown: Sequence[Entry], size: str) -> tuple[float, str]:
    """Return what to divide sizes by, and the title of their axis."""
    if size not in ("file", "ce2"):
        return 1.0, SIZES[size]
    scale, unit = unit_of(max((size_of(entry, size) or 0 for entry in shown), default=0))
    return scale, f"{SIZES[size]} ({unit})"


def _dot(entry: Entry, position: int, measure: Measure, size: str, scale: float) -> Dot | str:
    """Return the point in the picture, or why it has no place there; "" if it was not measured."""
    if entry.point.error is not None:
        return one_line(entry.point.error)
    row, place = reading(entry, measure.label), size_of(entry, size)
    if row is None:
        return _why_unmeasured(entry)
    if place is None:
        return ""
    value = finite(row.candidate.value)
    if value is None:
        is_exact = row.is_equal
        return "the outputs are equal, so the figure is infinite" if is_exact else "undefined"
    return Dot(
        entry=position,
        size=place / scale,
        value=value,
        low=finite(row.candidate.low),
        high=finite(row.candidate.high),
    )


def _why_unmeasured(entry: Entry) -> str:
    check = entry.point.check
    if check is None or check.status == "ok":
        return ""
    return one_line(check.reason or "the outputs cannot be compared")


def _fronts(
    groups: Mapping[tuple[str, str], Sequence[Dot]], better: Literal["higher", "lower"]
) -> frozenset[int]:
    """Return the entries on the front of their model, over all its series."""
    models: dict[str, list[Dot]] = {}
    for (model, _), dots in groups.items():
        models.setdefault(model, []).extend(dots)
    return frozenset(
        dots[position].entry
        for dots in models.values()
        for position in pareto([(dot.size, dot.value) for dot in dots], better)
    )


def _is_upper(
    dot: Dot, own: Sequence[Dot], groups: Mapping[tuple[str, str], Sequence[Dot]]
) -> bool:
    others = [other for dots in groups.values() if dots is not own for other in dots]
    if not others:
        return True
    nearest = min(others, key=lambda other: abs(other.size - dot.size))
    return (dot.value, nearest.entry) > (nearest.value, dot.entry)


def _float_lines(
    shown: Sequence[Entry], measure: Measure, *, is_one_model: bool
) -> tuple[FloatLine, ...]:
    lines: dict[tuple[str, float], FloatLine] = {}
    for entry in shown:
        row = reading(entry, measure.label)
        value = None if row is None or row.reference is None else finite(row.reference.value)
        if row is None or row.reference is None or value is None:
            continue
        name = "float model" if is_one_model else f"{entry.model}, float"
        line = FloatLine(
            name=name,
            model=entry.model,
            value=value,
            low=finite(row.reference.low),
            high=finite(row.reference.high),
        )
        lines.setdefault((entry.model, value), line)
    return tuple(lines.values())
