"""Figures as the text of a table's cells, and tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NONE = "-"
LABELS = {
    "psnr": "PSNR",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "accuracy": "accuracy",
}
_PRECISE = {"psnr": ".2f", "top1": ".3f", "top5": ".3f", "accuracy": ".3f"}


def count(value: float | None) -> str:
    """Return a whole number with separators; others keep their fraction.

    >>> count(51885095), count(12.5), count(None)
    ('51,885,095', '12.5', '-')
    """
    return NONE if value is None else f"{value:,.10g}" if value % 1 else f"{int(value):,}"


def signed(value: float) -> str:
    """Return a whole number with its sign.

    >>> signed(1200), signed(-3), signed(0)
    ('+1,200', '-3', '0')
    """
    return f"{int(value):+,}" if value else "0"


def number(value: float | None, form: str = ".2f") -> str:
    """Return a number in a format, or a dash."""
    return NONE if value is None else format(value, form)


def megabytes(value: float | None) -> str:
    """Return bytes in millions."""
    return NONE if value is None else f"{value / 1e6:,.1f}"


def plain_score(name: str, value: float | None) -> str:
    """Return a published score: PSNR in dB or a share."""
    return number(value, _PRECISE[name])


def score(name: str, estimate: Mapping[str, Any] | None, *, is_signed: bool = False) -> str:
    """Return an estimate with half the width of its 95 % interval, where there is one.

    >>> score("psnr", {"value": 30.1234, "low": 29.5, "high": 30.7})
    '30.12 ±0.60'
    """
    if estimate is None or estimate["value"] is None:
        return NONE
    form = _PRECISE[name]
    text = format(estimate["value"], f"+{form}" if is_signed else form)
    if estimate.get("low") is None or estimate.get("high") is None:
        return text
    return f"{text} ±{format((estimate['high'] - estimate['low']) / 2, form)}"


def decibels(found: Mapping[str, Any]) -> str:
    """Return an output SNR; equal outputs have none."""
    return "equal" if found["is_equal"] else number(found["output_snr_db"], ".1f")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns but the first are aligned to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
