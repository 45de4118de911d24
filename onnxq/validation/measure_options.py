"""`MeasureOptions`: every choice of what models are measured on and how, checked completely.

Owns the meaning and limits of the options that `validate` and `sweep` share, and their texts on the
command line (NAME=VALUE and the like); knows nothing of models, files or metrics.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, get_args

from onnxq.errors import OptionError

Provider = Literal["auto", "cpu", "cuda"]
_Value = TypeVar("_Value")
_SEED_LIMIT = 1 << 64
SESSION_OPTION_EXAMPLE = "session.disable_prepacking=1"
"""What a session option looks like in a message."""

_MAX_DIGITS = 18  # of a whole number in a text: sizes fit 64 bits


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Hold the choices that decide what a measurement finds.

    Attributes:
        data: An .npz, or a folder; without it random inputs are drawn.
        preprocess: A preset's name or a YAML or JSON file, for images and sounds.
        metrics: Names, `NAME@OUTPUT` or `package.module:function`; empty for the default ones.
        dims: Sizes of named open dimensions of random inputs.
        ranges: (low, high) by input, of random values low <= value < high.
        carry: Output to the input that the next batch gets it as, for models with state.
        samples: Number of random inputs.
        batch: Samples of a batch; None for 32, or 1 where the model or the data allow no more.
        limit: Most samples of the data to use; None for all.
        seed: Of the random inputs.
        provider: Where models run; "auto" takes CUDA only where it works.
        threads: Within an operator; 0 is onnxruntime's choice.
        session_options: Session configuration entries of onnxruntime.
        is_packed: Whether the candidate's weights stay packed, constant folding being off.
        layers: Whether to rank the encoded tensors by what they do to the outputs.
        performance: Whether to measure times and memory.

    Raises:
        OptionError: a value is outside its range; the message names the option.
    """

    data: Path | None = None
    preprocess: str | None = None
    metrics: tuple[str, ...] = ()
    dims: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    carry: Mapping[str, str] = field(default_factory=dict)
    samples: int = 1
    batch: int | None = None
    limit: int | None = None
    seed: int = 0
    provider: Provider = "cpu"
    threads: int = 0
    session_options: Mapping[str, str] = field(default_factory=dict)
    is_packed: bool = False
    layers: bool = False
    performance: bool = True

    def __post_init__(self) -> None:
        _check_optional("--preprocess", self.preprocess, str, "a preset or a file")
        _check_optional("--data", self.data, Path, "a path")
        self._check_names()
        self._check_counts()
        if self.provider not in get_args(Provider):
            expected = ", ".join(get_args(Provider))
            raise OptionError(f"--provider: found {self.provider!r}, expected one of {expected}")
        for key in ("is_packed", "layers", "performance"):
            if not isinstance(getattr(self, key), bool):
                raise OptionError(f"{key}: found {getattr(self, key)!r}, expected True or False")
        self._check_together()

    def _check_names(self) -> None:
        if not isinstance(self.metrics, tuple) or not all(_is_name(name) for name in self.metrics):
            raise OptionError(f"--metric: found {self.metrics!r}, expected names, none empty")
        _check_mapping("--dim", self.dims, _is_size, "a size >= 1 for each name")
        _check_mapping("--input", self.ranges, _is_range, "finite bounds low < high for each name")
        _check_mapping("--carry", self.carry, _is_name, "an input for each output")
        twice = sorted({name for name in self.carry.values() if _times(self.carry, name) > 1})
        if twice:
            raise OptionError(f"--carry: found input {twice[0]!r} twice, expected it once")
        _check_mapping("--session-option", self.session_options, _is_text, "a text for each name")

    def _check_counts(self) -> None:
        _check_whole("--samples", self.samples, 1)
        for option, value in (("--batch", self.batch), ("--limit", self.limit)):
            if value is not None:
                _check_whole(option, value, 1)
        _check_whole("--threads", self.threads, 0)
        if self.threads > most_threads():
            raise OptionError(
                f"--threads: found {self.threads}, expected at most {most_threads()} on this "
                "machine; 0 is onnxruntime's choice"
            )
        _check_whole("seed", self.seed, 0)
        if self.seed >= _SEED_LIMIT:
            raise OptionError(f"seed: found {self.seed}, expected less than 2**64")

    def _check_together(self) -> None:
        """Refuse options that say nothing of the inputs there are: the user expects otherwise."""
        random = {"--samples": self.samples != 1, "--dim": self.dims, "--input": self.ranges}
        stored = {
            "--preprocess": self.preprocess,
            "--batch": self.batch,
            "--limit": self.limit,
        }
        if self.data is not None:
            for option in (option for option, value in random.items() if value):
                hint = "use --limit" if option == "--samples" else "leave one out"
                raise OptionError(f"{option} is for random inputs, and --data is given; {hint}")
        else:
            for option in (option for option, value in stored.items() if value is not None):
                raise OptionError(f"{option} is for inputs of --data, which is not given")

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON-ready values, in field order."""
        record = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        record["data"] = None if self.data is None else os.fspath(self.data)
        record["metrics"] = list(self.metrics)
        record["ranges"] = {name: list(bounds) for name, bounds in self.ranges.items()}
        for key in ("dims", "carry", "session_options"):
            record[key] = dict(record[key])
        return record


def most_threads() -> int:
    """Return how many threads may be asked for: more than any machine gains from."""
    return max(64, 4 * (os.cpu_count() or 1))


class MeasureValues(TypedDict, total=False):
    """Name the options of `onnxq.validate` and `onnxq.sweep` for type checkers and editors."""

    data: str | os.PathLike[str] | None
    preprocess: str | os.PathLike[str] | None
    metrics: str | Sequence[str]
    dims: Mapping[str, int]
    ranges: Mapping[str, tuple[float, float]]
    carry: Mapping[str, str]
    samples: int
    batch: int | None
    limit: int | None
    seed: int
    provider: Provider
    threads: int
    session_options: Mapping[str, str]
    is_packed: bool
    layers: bool
    performance: bool


def make_measure_options(given: Mapping[str, Any]) -> MeasureOptions:
    """Return the options of a call: the defaults, then what was given (not None).

    Paths may be texts, `metrics` one name, whole numbers numpy's, the bounds of ranges any pair.

    Raises:
        OptionError: a key is unknown or a value is outside its range.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    known = {item.name for item in dataclasses.fields(MeasureOptions)}
    for key in chosen:
        if key not in known:
            raise OptionError(f"unknown option {key!r}; expected one of {', '.join(sorted(known))}")
    for key, convert in _CONVERSIONS.items():
        if key in chosen:
            chosen[key] = convert(chosen[key])
    return MeasureOptions(**chosen)


def parse_dim(text: str) -> tuple[str, int]:
    """Return (name, size) of a `NAME=VALUE` argument; the name may hold '='.

    Raises:
        OptionError: it is no such text.

    >>> parse_dim("batch=2")
    ('batch', 2)
    """
    name, _, size = text.rpartition("=")
    if not name or not size.strip().isdecimal() or len(size) > _MAX_DIGITS:
        raise OptionError(f"--dim: found {text!r}, expected NAME=SIZE such as 'sequence=128'")
    if int(size) < 1:
        raise OptionError(f"--dim: found {text!r}, expected a size >= 1")
    return name, int(size)


def parse_range(text: str) -> tuple[str, tuple[float, float]]:
    """Return (input, (low, high)) of a `NAME=LOW:HIGH` argument; the name may hold '=' and ':'.

    Raises:
        OptionError: it is no such text.

    >>> parse_range("ids:0=0:1000")
    ('ids:0', (0.0, 1000.0))
    """
    name, _, bounds = text.rpartition("=")
    low, _, high = bounds.partition(":")
    try:
        found = name, (float(low), float(high))
    except ValueError:
        found = "", (0.0, 0.0)
    if not name or not found[0]:
        raise OptionError(f"--input: found {text!r}, expected NAME=LOW:HIGH such as 'ids=0:1000'")
    if not _is_range(found[1]):
        raise OptionError(f"--input: found {text!r}, expected finite bounds LOW < HIGH")
    return found


def parse_carry(text: str) -> tuple[str, str]:
    """Return (output, input) of an `OUT=IN` argument.

    Raises:
        OptionError: it is no such text.
    """
    return _parse_pair("--carry", text, "OUTPUT=INPUT such as 'state_out=state_in'")


def parse_session_option(text: str) -> tuple[str, str]:
    """Return (key, value) of a `K=V` argument; the value may hold '='.

    Raises:
        OptionError: it is no such text.
    """
    return _parse_pair("--session-option", text, f"KEY=VALUE such as '{SESSION_OPTION_EXAMPLE}'")


def parse_all(
    option: str, texts: Sequence[str] | None, parse: Callable[[str], tuple[str, _Value]]
) -> dict[str, _Value]:
    """Return the mapping that an option's arguments make together.

    Raises:
        OptionError: an argument cannot be read, or a name comes twice.
    """
    found: dict[str, _Value] = {}
    for text in texts or ():
        name, value = parse(text)
        if name in found:
            raise OptionError(f"{option}: found {name!r} twice, expected it once")
        found[name] = value
    return found


def _parse_pair(option: str, text: str, expected: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name.strip() or not value.strip():
        raise OptionError(f"{option}: found {text!r}, expected {expected}")
    return name, value


def _as_path(value: Any) -> Any:
    return Path(value) if isinstance(value, (str, os.PathLike)) else value


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if _is_list(value) else value


def _as_whole(value: Any) -> Any:
    """Return what counts as a whole number elsewhere (numpy's) as an int."""
    try:
        return value if isinstance(value, bool) else index(value)
    except TypeError:
        return value


def _as_sizes(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _as_whole(size) for name, size in value.items()}


def _as_ranges(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: tuple(pair) if _is_list(pair) else pair for name, pair in value.items()}


_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "data": _as_path,
    "preprocess": _as_text,
    "metrics": _as_names,
    "dims": _as_sizes,
    "ranges": _as_ranges,
    **dict.fromkeys(("samples", "batch", "limit", "seed", "threads"), _as_whole),
}


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_range(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    is_number = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in value]
    return all(is_number) and all(map(math.isfinite, value)) and value[0] < value[1]


def _times(carry: Mapping[str, str], name: str) -> int:
    return list(carry.values()).count(name)


def _check_mapping(
    option: str, value: object, is_right: Callable[[object], bool], expected: str
) -> None:
    if not isinstance(value, Mapping):
        raise OptionError(f"{option}: found {value!r}, expected a mapping with {expected}")
    for name, item in value.items():
        if not _is_name(name) or not is_right(item):
            raise OptionError(f"{option}: found {name!r}: {item!r}, expected {expected}")


def _check_optional(option: str, value: object, kind: type, expected: str) -> None:
    if value is not None and (not isinstance(value, kind) or value in ("", Path(""))):
        raise OptionError(f"{option}: found {value!r}, expected {expected}")


def _check_whole(option: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{option}: found {value!r}, expected a whole number >= {least}")
