"""`LowRankOptions`: every choice a caller of `lowrank` can make, checked before a file is touched.

Owns the options that decide ranks; those that `convert` and `validate` have too are checked where
they belong, in `options` and `measure_options`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from onnxq.errors import OptionError
from onnxq.options import (
    ConvertOptions,
    ExternalData,
    make_options,
    parse_pair,
    pattern_pairs,
)
from onnxq.validation.measure_options import MeasureOptions, make_measure_options

SplitName = Literal["auto", "spatial", "channel"]
Goal = Literal["ratio", "energy", "max_snr_loss"]

_SHARED = ("include", "exclude", "external_data", "jobs")
_MEASURED = ("data", "preprocess", "batch", "limit")
_MAX_DIGITS = 18


@dataclass(frozen=True, kw_only=True)
class LowRankOptions:
    """Hold the choices that decide the ranks and the bytes of a model of low rank.

    At most one of `ratio`, `energy` and `max_snr_loss` is given, and `ranks` where none is.

    Attributes:
        ratio: Float parameters to keep, of all that the model has; above 0, below 1.
        energy: Share of each layer's energy to keep: of its weights', with data of its output's.
        max_snr_loss: Most that the outputs may lose, in dB: 10 log10(1 + noise / signal).
        ranks: (pattern, rank) pairs, the last match wins; patterns as those of `convert`.
        split: How convolutions with a kernel are split; "auto" takes what loses less.
        include: Patterns of the only layers to split; none for all.
        exclude: Patterns of layers to keep.
        data: Inputs that the layers' own are taken from; None for the weights alone.
        preprocess: How images and sounds become inputs.
        batch: Samples of a run; None for what fits.
        limit: Most samples of the data to use; None for all.
        external_data: Whether large tensors go to a file beside the output.
        jobs: Threads, 0 for one per core; never changes the bytes.

    Raises:
        OptionError: a value is outside its range, or options contradict each other.
    """

    ratio: float | None = None
    energy: float | None = None
    max_snr_loss: float | None = None
    ranks: tuple[tuple[str, int], ...] = ()
    split: SplitName = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    data: Path | None = None
    preprocess: str | None = None
    batch: int | None = None
    limit: int | None = None
    external_data: ExternalData = "auto"
    jobs: int = 0

    def __post_init__(self) -> None:
        _check_between("--ratio", self.ratio, 1, "a number above 0 and below 1, such as 0.7")
        _check_between("--energy", self.energy, 1, "a number above 0 and below 1, such as 0.99")
        _check_between("--max-snr-loss", self.max_snr_loss, math.inf, "decibels above 0, as 0.1")
        for pattern, rank in self.ranks:
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise OptionError(
                    f"--rank {pattern!r}: found {rank!r}, expected a whole number >= 1"
                )
        if self.split not in get_args(SplitName):
            expected = ", ".join(get_args(SplitName))
            raise OptionError(f"--split: found {self.split!r}, expected one of {expected}")
        self._check_goals()
        ConvertOptions(**{key: getattr(self, key) for key in _SHARED})
        self.measured()

    def _check_goals(self) -> None:
        """Check that one thing is asked for."""
        goals: tuple[Goal, ...] = get_args(Goal)
        asked = [f"--{key.replace('_', '-')}" for key in goals if getattr(self, key) is not None]
        if len(asked) > 1:
            raise OptionError(f"{asked[0]} and {asked[1]} exclude each other; give one")
        if not asked and not self.ranks:
            raise OptionError(
                "nothing says how small the model shall be; give --ratio, --energy, "
                "--max-snr-loss or --rank"
            )

    def measured(self) -> MeasureOptions:
        """Return how the data are read and run."""
        return MeasureOptions(**{key: getattr(self, key) for key in _MEASURED})

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON-ready values, in field order."""
        record = dataclasses.asdict(self)
        record["ranks"] = [list(pair) for pair in self.ranks]
        record["data"] = None if self.data is None else os.fspath(self.data)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in record.items()}


class LowRankValues(TypedDict, total=False):
    """Name the options of `onnxq.lowrank` for type checkers and editors."""

    ratio: float | None
    energy: float | None
    max_snr_loss: float | None
    ranks: Mapping[str, int] | Sequence[tuple[str, int]]
    split: SplitName
    include: str | Sequence[str]
    exclude: str | Sequence[str]
    data: str | os.PathLike[str] | None
    preprocess: str | os.PathLike[str] | None
    batch: int | None
    limit: int | None
    external_data: ExternalData
    jobs: int


def make_low_rank_options(given: Mapping[str, Any]) -> LowRankOptions:
    """Return the options of a call: the defaults, then what was given (not None).

    Raises:
        OptionError: a key is unknown or a value is outside its range.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    known = {field.name for field in dataclasses.fields(LowRankOptions)}
    for key in chosen:
        if key not in known:
            raise OptionError(f"unknown option {key!r}; expected one of {', '.join(sorted(known))}")
    shared = make_options({key: chosen[key] for key in _SHARED if key in chosen})
    measured = make_measure_options({key: chosen[key] for key in _MEASURED if key in chosen})
    chosen |= {key: getattr(shared, key) for key in _SHARED}
    chosen |= {key: getattr(measured, key) for key in _MEASURED}
    if "ranks" in chosen:
        chosen["ranks"] = pattern_pairs(chosen["ranks"], "--rank", "rank")
    return LowRankOptions(**chosen)


def parse_rank(text: str) -> tuple[str, int]:
    """Return (pattern, rank) of a `PATTERN=R` argument; the pattern may hold '='.

    Raises:
        OptionError: there is no '=' or what follows it is no whole number.

    >>> parse_rank("conv*.weight=16")
    ('conv*.weight', 16)
    """
    return parse_pair(text, "--rank", "PATTERN=R such as 'conv1.*=16'", _MAX_DIGITS)


def _check_between(option: str, value: object, end: float, expected: str) -> None:
    """Check that an option is left out or is a number above 0 and below its end."""
    if value is None:
        return
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
    if not 0 < number < end:
        raise OptionError(f"{option}: found {value!r}, expected {expected}")
