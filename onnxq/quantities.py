"""Bytes and seconds as text: the unit that suits a figure, and how many digits it has.

Owns the units of the terminal, pictures and pages; bytes go by powers of 1000. What is read may
have units of powers of 1024 too.
"""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))

_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]*)\s*", re.ASCII | re.IGNORECASE)
_FACTORS = {
    "": 1,
    "b": 1,
    "bytes": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}


def parse_bytes(text: str) -> int:
    """Return the bytes that a text says, parts of a byte left out; units in any case.

    >>> parse_bytes("5MB"), parse_bytes("5 MiB"), parse_bytes("0.29kB"), parse_bytes("999")
    (5000000, 5242880, 290, 999)

    Raises:
        ValueError: it is no decimal number with one of these units or none.
    """
    found = _SIZE.fullmatch(text)
    if found is None or found[2].lower() not in _FACTORS:
        raise ValueError(f"found {text!r}, expected bytes such as 123456, 5MB or 5MiB")
    return int(Fraction(found[1]) * _FACTORS[found[2].lower()])


def unit_of(largest: float) -> tuple[float, str]:
    """Return what to divide bytes by, and the name of that unit, where the largest is given.

    >>> unit_of(75097)
    (1000.0, 'kB')
    """
    return next((unit for unit in _UNITS if largest >= unit[0]), _UNITS[-1])


def size_text(size: float | None) -> str:
    """Return bytes with a unit of powers of 1000 and three digits or more.

    >>> size_text(75097), size_text(999), size_text(None)
    ('75.1 kB', '999 bytes', '-')
    """
    if size is None:
        return "-"
    scale, unit = unit_of(size)
    return f"{size:,.0f} bytes" if scale == 1 else f"{size / scale:,.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a time with three digits, in the unit that suits it.

    >>> duration(0.0000123), duration(0.00123), duration(0.123), duration(12.3)
    ('12.3 us', '1.23 ms', '123 ms', '12.3 s')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds * 1e6)} us"


def _digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{decimals}f}"
