"""What a plan is asked to meet: a size of the file, or a quality of its outputs.

Owns the meaning and the limits of `--target-bpw`, `--target-size`, `--target-ratio`,
`--target-snr`, `--auto` and, of a conversion, `--max-drop`; knows nothing of models or of how a
target is met.

Sizes are those of files as they are written, a data file beside a model counted in. All three ways
to say a size come down to bytes:

- size: the bytes themselves.
- ratio: output file through input file.
- bpw, bits a weight: what the file takes beside the bytes that the input has for anything but its
  float weights, in bits, through the number of these weights. So nodes that decode, codebooks,
  padding and weights that stay float count; an unchanged model of float32 has 32. The
  `bits_per_weight` of reports is another figure: that of the encoded weights alone, without nodes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import index
from typing import Any, Literal, TypedDict

from onnxq.errors import BudgetError, OptionError
from onnxq.quantities import parse_bytes
from onnxq.validation.gates import Drop, make_gates

SizeKind = Literal["bpw", "size", "ratio"]

_EXPECTED_SIZE = "bytes >= 1 such as 123456, 5MB or 5MiB"


@dataclass(frozen=True, kw_only=True)
class ModelBytes:
    """Count what a target is relative to.

    Attributes:
        file_bytes: Of the input, its data file counted in.
        weight_bytes: Of its float weights.
        weights: Their number of values.
    """

    file_bytes: int
    weight_bytes: int
    weights: int


@dataclass(frozen=True, kw_only=True)
class SizeTarget:
    """Ask for a file of at most a size: bytes, a ratio, or bits a weight.

    Raises:
        OptionError: the value is outside its range.
    """

    kind: SizeKind
    value: int | float

    def __post_init__(self) -> None:
        number = _number(self.value)
        if self.kind == "bpw" and not number > 0:
            raise _refused(self.name, self.value, "bits a weight above 0, such as 4.0")
        if self.kind == "ratio" and not 0 < number < 1:
            raise _refused(self.name, self.value, "a number above 0 and below 1, such as 0.12")
        if self.kind == "size" and not (isinstance(self.value, int) and number >= 1):
            raise _refused(self.name, self.value, _EXPECTED_SIZE)

    @property
    def name(self) -> str:
        """The option that asks for it."""
        return f"--target-{self.kind}"

    @property
    def option(self) -> str:
        """The option with its value, as on a command line."""
        return f"{self.name} {self.value if self.kind == 'size' else repr(float(self.value))}"

    def bytes(self, model: ModelBytes) -> int:
        """Return the most bytes that the file may have; a value counts as the decimal it shows.

        >>> model = ModelBytes(file_bytes=4100, weight_bytes=4000, weights=1000)
        >>> SizeTarget(kind="bpw", value=4.0).bytes(model)
        600
        >>> SizeTarget(kind="ratio", value=0.29).bytes(model)
        1189
        """
        if self.kind == "size":
            return int(self.value)
        value = Fraction(repr(float(self.value)))
        if self.kind == "ratio":
            return math.floor(value * model.file_bytes)
        return model.file_bytes - model.weight_bytes + math.floor(value * model.weights / 8)

    def figure(self, file_bytes: int, model: ModelBytes) -> Fraction:
        """Return what a size of the file is in the unit of this target; 0 of an empty model.

        >>> model = ModelBytes(file_bytes=4100, weight_bytes=4000, weights=1000)
        >>> float(SizeTarget(kind="bpw", value=4.0).figure(600, model))
        4.0
        """
        if self.kind == "size":
            return Fraction(file_bytes)
        if self.kind == "ratio":
            return Fraction(file_bytes, model.file_bytes) if model.file_bytes else Fraction(0)
        coded = file_bytes - (model.file_bytes - model.weight_bytes)
        return Fraction(8 * coded, model.weights) if model.weights else Fraction(0)


@dataclass(frozen=True, kw_only=True)
class SnrTarget:
    """Ask for the smallest file whose outputs have a signal-to-noise ratio against the input's.

    Raises:
        OptionError: that is no number of decibels above 0.
    """

    decibels: float

    def __post_init__(self) -> None:
        if not _number(self.decibels) > 0:
            raise _refused("--target-snr", self.decibels, "decibels above 0, such as 30")

    @property
    def option(self) -> str:
        """The option with its value, as on a command line."""
        return f"--target-snr {float(self.decibels)!r}"


@dataclass(frozen=True, kw_only=True)
class DropTarget:
    """Ask for the smallest file that keeps a metric: it gets worse by the drop at most."""

    drop: Drop

    @property
    def option(self) -> str:
        """The option with its value, as on a command line."""
        return self.drop.gate


@dataclass(frozen=True, kw_only=True)
class AutoTarget:
    """Ask for the smallest file without measurable loss, by the ratios in `bars`."""

    @property
    def option(self) -> str:
        """The option, as on a command line."""
        return "--auto"


QualityTarget = SnrTarget | DropTarget | AutoTarget
Target = SizeTarget | QualityTarget


class TargetValues(TypedDict, total=False):
    """Name the targets of a call for type checkers and editors; see `make_target`."""

    target_bpw: float | None
    target_size: int | str | None
    target_ratio: float | None
    target_snr: float | None
    max_drop: Mapping[str, float | str] | None
    auto: bool


KEYS = tuple(TargetValues.__annotations__)
"""The names of all targets."""


def make_target(
    target_bpw: float | None = None,
    target_size: int | str | None = None,
    target_ratio: float | None = None,
    target_snr: float | None = None,
    max_drop: Mapping[str, float | str] | None = None,
    auto: bool | None = None,
) -> Target | None:
    """Return the target of a call; None where none is given.

    Args:
        target_bpw: bits a weight.
        target_size: bytes, or a text such as "5MB".
        target_ratio: output file through input file.
        target_snr: decibels.
        max_drop: one metric with its limit, as in `gates.make_gates`.
        auto: whether to ask for no measurable loss.

    Raises:
        OptionError: a value is outside its range, or targets exclude each other.

    >>> make_target(target_size="5MB")
    SizeTarget(kind='size', value=5000000)
    >>> make_target(max_drop={"top1": "0.5%"}).option
    '--max-drop top1=0.5%'
    """
    _check_one(
        {
            "--target-bpw": target_bpw,
            "--target-size": target_size,
            "--target-ratio": target_ratio,
            "--target-snr": target_snr,
            "--max-drop": max_drop,
            "--auto": _asked_auto(auto),
        }
    )
    if target_bpw is not None:
        return SizeTarget(kind="bpw", value=target_bpw)
    if target_size is not None:
        return SizeTarget(kind="size", value=_whole_bytes(target_size))
    if target_ratio is not None:
        return SizeTarget(kind="ratio", value=target_ratio)
    if target_snr is not None:
        return SnrTarget(decibels=target_snr)
    if max_drop is not None:
        return _drop_target(max_drop)
    return AutoTarget() if auto else None


def check_data(target: Target | None, *, has_data: bool) -> None:
    """Check that there are data with labels where a target goes by them, and only there.

    Raises:
        OptionError: they are missing, or nothing looks at them.
    """
    if isinstance(target, DropTarget) and not has_data:
        raise OptionError(
            f"{target.option}: goes by data with labels or targets, which are not given; give "
            "--data, or ask for --target-snr or --auto"
        )
    if has_data and not isinstance(target, (DropTarget, AutoTarget)):
        raise OptionError(
            "--data goes with --max-drop or --auto; give unlabelled inputs as --calibration"
        )


def parse_target_size(text: str) -> int:
    """Return the bytes of a `--target-size` argument; parts of a byte are left out.

    kB, MB and GB are powers of 1000; KiB, MiB and GiB are powers of 1024.

    Raises:
        OptionError: it is no such size, or below a byte.

    >>> parse_target_size("5MB"), parse_target_size("1.5 KiB"), parse_target_size("123456")
    (5000000, 1536, 123456)
    """
    try:
        found = parse_bytes(text)
    except ValueError as err:
        raise _refused("--target-size", text, _EXPECTED_SIZE) from err
    if found < 1:
        raise _refused("--target-size", text, _EXPECTED_SIZE)
    return found


def below_reach(target: SizeTarget, least_bytes: int, model: ModelBytes, label: str) -> BudgetError:
    """Return the refusal of a size that is below the smallest file; its figure is rounded up.

    >>> model = ModelBytes(file_bytes=4100, weight_bytes=4000, weights=1000)
    >>> target = SizeTarget(kind="ratio", value=0.05)
    >>> print(below_reach(target, 300, model, "m.onnx"))  # doctest: +NORMALIZE_WHITESPACE
    --target-ratio 0.05: m.onnx cannot get as small; the least is 0.0732 (300 bytes); give that or
    more, or leave out what keeps tensors from becoming smaller
    """
    figure = math.ceil(target.figure(least_bytes, model) * 10_000) / 10_000
    least = f"{least_bytes} bytes"
    if target.kind != "size":
        least = f"{figure:.4f} ({least})"
    # A file that is no smaller than the input is nothing to ask for.
    more = "" if target.kind == "ratio" and figure >= 1 else "give that or more, or "
    return BudgetError(
        f"{target.option}: {label} cannot get as small; the least is {least}; {more}leave out "
        "what keeps tensors from becoming smaller"
    )


def above_reach(target: QualityTarget, best: str, label: str) -> BudgetError:
    """Return the refusal of a quality that no plan has; `best` says what the best one has.

    >>> print(above_reach(SnrTarget(decibels=200), "149.2 dB", "m.onnx"))
    --target-snr 200.0: no plan keeps m.onnx as good; the best has 149.2 dB; ask for less
    """
    return BudgetError(
        f"{target.option}: no plan keeps {label} as good; the best has {best}; ask for less"
    )


def _check_one(given: Mapping[str, object]) -> None:
    asked = [option for option, value in given.items() if value is not None]
    if len(asked) > 1:
        raise OptionError(f"{asked[0]} and {asked[1]} exclude each other; give one")


def _asked_auto(value: object) -> bool | None:
    """Return True where it is asked for; None where it is not."""
    if value is not None and not isinstance(value, bool):
        raise _refused("--auto", value, "True or False")
    return value or None


def _whole_bytes(value: object) -> int:
    """Return a size as an int, whatever counts as a whole number."""
    if isinstance(value, str):
        return parse_target_size(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise _refused("--target-size", value, _EXPECTED_SIZE)
    return index(value)


def _drop_target(max_drop: Mapping[str, Any]) -> DropTarget:
    drops = make_gates(max_drop=max_drop).max_drops
    if len(drops) != 1:
        found = ", ".join(drop.metric for drop in drops) or "none"
        raise OptionError(f"--max-drop: found {found}, expected one metric such as top1=0.5%")
    return DropTarget(drop=drops[0])


def _number(value: object) -> float:
    """Return a finite number; NaN, which is in no range, for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return value if abs(value) <= sys.float_info.max else math.nan


def _refused(option: str, value: object, expected: str) -> OptionError:
    return OptionError(f"{option}: found {value!r}, expected {expected}")
