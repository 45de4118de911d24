"""`ConvertOptions`: every choice a caller of `convert` can make, checked before a file is touched.

Owns the meaning and the limits of the options; knows nothing of models. Presets are complete
option sets: an explicit option beside a preset wins.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Literal, TypedDict, get_args

from onnxq.errors import OptionError

Init = Literal["optimal", "bounded-pdf", "quantile", "uniform"]
LayoutName = Literal["portable", "native", "bytes"]
CodebookDtype = Literal["float32", "float16"]
ExternalData = Literal["auto", "always", "never"]
Preset = Literal["ce2"]

_MAX_DIGITS = 100
CE2_RHO = 1.6
"""Least elements per centroid in the published scheme (spec: size accounting, rho about 1.6)."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ce2": {
        "init": "bounded-pdf",
        "min_elements_per_centroid": CE2_RHO,
        "only_smaller": False,
        "fewer_bits": False,
        "share_equal": False,
    },
}


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Hold the choices that decide the bytes of a converted model.

    `tensor_bits` holds (pattern, bits) pairs, the last match wins. Patterns are shell globs over
    tensor names and the names of the nodes that consume them. `jobs` never changes the bytes.
    `only_smaller=False`, `fewer_bits=False` and `share_equal=False` belong to the published
    scheme (`preset="ce2"`), which encodes every tensor with `min_elements_per_centroid`.
    `pool_indices=False` keeps the indices of every tensor apart.

    Raises:
        OptionError: a value is outside its range; the message names the option.
    """

    bits: int = 6
    init: Init = "optimal"
    pdf_factor: float = 0.5
    max_iterations: int = 100_000
    preset: Preset | None = None
    layout: LayoutName = "portable"
    codebook_dtype: CodebookDtype = "float32"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()
    tensor_bits: tuple[tuple[str, int], ...] = ()
    min_elements: int = 0
    min_elements_per_centroid: float = 0.0
    quantize_bias: bool = True
    quantize_norm: bool = True
    quantize_variance: bool = False
    only_smaller: bool = True
    fewer_bits: bool = True
    share_equal: bool = True
    pool_indices: bool = True
    external_data: ExternalData = "auto"
    jobs: int = 0

    def __post_init__(self) -> None:
        _check_width("--bits", self.bits)
        self._check_lists()
        _check_choice("--init", self.init, get_args(Init))
        _check_choice("--layout", self.layout, get_args(LayoutName))
        _check_choice("--codebook-dtype", self.codebook_dtype, get_args(CodebookDtype))
        _check_choice("--external-data", self.external_data, get_args(ExternalData))
        if self.preset is not None:
            _check_choice("--preset", self.preset, tuple(PRESETS))
        _check_number("--pdf-factor", self.pdf_factor)
        _check_number("min_elements_per_centroid", self.min_elements_per_centroid)
        _check_least("--max-iterations", self.max_iterations, 1)
        _check_least("--min-elements", self.min_elements, 0)
        _check_least("--jobs", self.jobs, 0)
        for key in ("quantize_bias", "quantize_norm", "quantize_variance"):
            _check_bool(key, getattr(self, key))
        for key in ("only_smaller", "fewer_bits", "share_equal", "pool_indices"):
            _check_bool(key, getattr(self, key))

    def _check_lists(self) -> None:
        for key in ("include", "exclude", "op_types"):
            if not isinstance(getattr(self, key), tuple):
                raise _no_strings(key, getattr(self, key))
            _strings(key, getattr(self, key))
        if not isinstance(self.tensor_bits, tuple):
            raise _no_pairs(self.tensor_bits, "--tensor", "bits")
        for pattern, bits in pattern_pairs(self.tensor_bits, "--tensor", "bits"):
            _check_width(f"--tensor {pattern!r}", bits)

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON-ready values, in field order."""
        record = dataclasses.asdict(self)
        record["tensor_bits"] = [list(pair) for pair in self.tensor_bits]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in record.items()}


class OptionValues(TypedDict, total=False):
    """Name the options of `onnxq.convert` and `onnxq.inspect` for type checkers and editors."""

    bits: int
    init: Init
    pdf_factor: float
    max_iterations: int
    preset: Preset | None
    layout: LayoutName
    codebook_dtype: CodebookDtype
    include: str | Sequence[str]
    exclude: str | Sequence[str]
    op_types: str | Sequence[str]
    tensor_bits: Mapping[str, int] | Sequence[tuple[str, int]]
    min_elements: int
    min_elements_per_centroid: float
    quantize_bias: bool
    quantize_norm: bool
    quantize_variance: bool
    only_smaller: bool
    fewer_bits: bool
    share_equal: bool
    pool_indices: bool
    external_data: ExternalData
    jobs: int


BESIDE_A_PLAN = frozenset({"external_data", "jobs", "only_smaller"})
"""The options that a saved plan leaves open; it decides all others."""


def check_beside_plan(given: Mapping[str, Any]) -> None:
    """Check that no option contradicts a saved plan.

    Raises:
        OptionError: an option is given that the plan decides.
    """
    for key, value in given.items():
        if value is not None and key not in BESIDE_A_PLAN:
            option = "tensor" if key == "tensor_bits" else key.replace("_", "-")
            raise OptionError(
                f"--plan decides every tensor; leave out --{option}, or make a new plan"
            )


def make_options(given: Mapping[str, Any]) -> ConvertOptions:
    """Return the options of a call: defaults, then the preset, then what was given (not None).

    Raises:
        OptionError: a key is unknown or a value is outside its range.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    preset = chosen.get("preset")
    if preset is not None:
        _check_choice("--preset", preset, tuple(PRESETS))
        chosen = {**PRESETS[preset], **chosen}
    known = {field.name for field in dataclasses.fields(ConvertOptions)}
    for key in chosen:
        if key not in known:
            raise OptionError(f"unknown option {key!r}; expected one of {', '.join(sorted(known))}")
    for key in ("include", "exclude", "op_types"):
        if key in chosen:
            chosen[key] = _strings(key, chosen[key])
    if "tensor_bits" in chosen:
        chosen["tensor_bits"] = _widths(chosen["tensor_bits"])
    return ConvertOptions(**chosen)


def parse_tensor_bits(text: str) -> tuple[str, int]:
    """Return (pattern, bits) of a `PATTERN=BITS` argument; the pattern may hold '='.

    Raises:
        OptionError: there is no '=' or what follows it is no whole number.

    >>> parse_tensor_bits("conv*.weight=4")
    ('conv*.weight', 4)
    """
    return parse_pair(text, "--tensor", "PATTERN=BITS such as 'conv1.*=8'", _MAX_DIGITS)


def parse_pair(text: str, option: str, expected: str, most_digits: int) -> tuple[str, int]:
    """Return the pattern and the number of an argument; see `parse_tensor_bits`."""
    pattern, equals, number = text.rpartition("=")
    if not equals or not pattern or not number.strip().isdecimal() or len(number) > most_digits:
        raise OptionError(f"{option}: found {text!r}, expected {expected}")
    return pattern, int(number)


def _strings(key: str, value: object) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else value
    if isinstance(items, (list, tuple)) and all(isinstance(i, str) and i.strip() for i in items):
        return tuple(items)
    raise _no_strings(key, value)


def _no_strings(key: str, value: object) -> OptionError:
    option = f"--{key.replace('_', '-')}"
    return OptionError(f"{option}: found {value!r}, expected strings, none empty")


def _widths(value: object) -> tuple[tuple[str, int], ...]:
    found = pattern_pairs(value, "--tensor", "bits")
    if not all(isinstance(bits, int) for _, bits in found):
        raise _no_pairs(value, "--tensor", "bits")
    return found


def pattern_pairs(value: object, option: str, number: str) -> tuple[tuple[str, Any], ...]:
    """Return pairs of a pattern and a number, whatever holds them.

    What counts as a whole number elsewhere (numpy's) becomes an int; all else stays as it is.

    Args:
        value: a mapping, or pairs.
        option: its name, for messages.
        number: what the number is, for messages.

    Raises:
        OptionError: the value holds no such pairs.
    """
    items = value.items() if isinstance(value, Mapping) else value
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise _no_pairs(value, option, number)
    found: list[tuple[str, Any]] = []
    for item in items:
        if not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[0], str):
            raise _no_pairs(value, option, number)
        is_whole = hasattr(item[1], "__index__") and not isinstance(item[1], bool)
        found.append((item[0], index(item[1]) if is_whole else item[1]))
    return tuple(found)


def _no_pairs(value: object, option: str, number: str) -> OptionError:
    return OptionError(
        f"{option}: found {value!r}, expected a mapping or pairs of pattern and {number}"
    )


def _check_width(option: str, bits: object) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise OptionError(f"{option}: found {bits!r}, expected a whole number of bits from 1 to 16")


def _check_number(option: str, value: object) -> None:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else -1
    if not 0 <= number <= sys.float_info.max:
        raise OptionError(f"{option}: found {value!r}, expected a number >= 0")


def _check_bool(key: str, value: object) -> None:
    if not isinstance(value, bool):
        raise OptionError(f"{key}: found {value!r}, expected True or False")


def _check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{option}: found {value!r}, expected one of {', '.join(choices)}")


def _check_least(option: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{option}: found {value!r}, expected a whole number >= {least}")
