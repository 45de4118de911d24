"""`PlanningOptions`: every choice of what an allocation of bits goes by, checked completely.

Owns the meaning and limits of the options, not of the target (`targets`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from onnxq.errors import OptionError
from onnxq.validation.measure_options import MeasureOptions, make_measure_options

Sensitivity = Literal["auto", "weights", "outputs"]
"""Where losses come from: the weights alone, or runs with one tensor exchanged at a time."""

SAMPLES = 64
"""Samples that layers' inputs are looked at in."""
REFINE_RUNS = 64
"""Joint errors that a refinement measures at most."""
_MEASURED = ("preprocess", "carry", "limit")
_PATHS = ("calibration", "data")


@dataclass(frozen=True, kw_only=True)
class PlanningOptions:
    """Hold the choices that decide where bits go.

    Attributes:
        calibration: Unlabelled inputs; None for none.
        data: Inputs with labels or targets, of targets that go by them. Where no calibration data
            are given, the inputs of one half of them calibrate (`judging.halves`).
        preprocess: How images and sounds become inputs.
        carry: Output to the input that the next sample gets it as, for models with state.
        limit: Most samples of the data to use; None for all.
        samples: Samples to look at, spread over the data, or consecutive ones where state is
            carried; the number of random inputs, where no data are given.
        sensitivity: Where losses come from; "auto" is "outputs" with data.
        is_weighted: Count values by the inputs that they meet, in clustering.
        has_feedback: Make good what earlier indices of a row got wrong.
        corrects_bias: Put the mean error of outputs into biases.
        refine_runs: Joint errors to measure in the refinement; 0 for none.

    Raises:
        OptionError: a value is outside its range, or options contradict each other.
    """

    calibration: Path | None = None
    data: Path | None = None
    preprocess: str | None = None
    carry: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    samples: int = SAMPLES
    sensitivity: Sensitivity = "auto"
    is_weighted: bool = False
    has_feedback: bool = True
    corrects_bias: bool = True
    refine_runs: int = REFINE_RUNS

    def __post_init__(self) -> None:
        if self.sensitivity not in get_args(Sensitivity):
            expected = ", ".join(get_args(Sensitivity))
            raise OptionError(
                f"--sensitivity: found {self.sensitivity!r}, expected one of {expected}"
            )
        for option, key, least in (
            ("--calibration-samples", "samples", 1),
            ("--refine", "refine_runs", 0),
        ):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{option}: found {value!r}, expected a whole number >= {least}")
        for key in ("is_weighted", "has_feedback", "corrects_bias"):
            if not isinstance(getattr(self, key), bool):
                raise OptionError(f"{key}: found {getattr(self, key)!r}, expected True or False")
        self.measured()

    @property
    def needs_runs(self) -> bool:
        """Whether losses are measured at the outputs."""
        if self.sensitivity == "auto":
            return self.inputs is not None
        return self.sensitivity == "outputs"

    @property
    def inputs(self) -> Path | None:
        """Where the inputs that calibrate come from; None where there are none."""
        return self.calibration or self.data

    @property
    def is_split(self) -> bool:
        """Whether one half of data with labels calibrates."""
        return self.calibration is None and self.data is not None

    @property
    def looks_at_inputs(self) -> bool:
        """Whether anything goes by what is known of layers' inputs."""
        return self.is_weighted or self.has_feedback or self.corrects_bias

    def measured(self) -> MeasureOptions:
        """Return how the data are read and run; with no data, what random inputs are drawn."""
        chosen = {key: getattr(self, key) for key in _MEASURED}
        if self.inputs is None:
            chosen["samples"] = self.samples
        return MeasureOptions(data=self.inputs, performance=False, **chosen)

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON-ready values, in field order."""
        record = dataclasses.asdict(self)
        for key in _PATHS:
            if record[key] is not None:
                record[key] = os.fspath(record[key])
        return record


class PlanningValues(TypedDict, total=False):
    """Name the options of `onnxq.plan` for type checkers and editors."""

    calibration: str | os.PathLike[str] | None
    data: str | os.PathLike[str] | None
    preprocess: str | os.PathLike[str] | None
    carry: Mapping[str, str]
    limit: int | None
    samples: int
    sensitivity: Sensitivity
    is_weighted: bool
    has_feedback: bool
    corrects_bias: bool
    refine_runs: int


KEYS = tuple(PlanningValues.__annotations__)
"""The names of all options."""
_OWN_NAMES = {
    "samples": "--calibration-samples",
    "is_weighted": "--importance",
    "has_feedback": "--feedback",
    "corrects_bias": "--correct-bias",
    "refine_runs": "--refine",
}
OPTIONS: Mapping[str, str] = {key: _OWN_NAMES.get(key, f"--{key}") for key in KEYS}
"""What each is called on the command line."""


def make_planning_options(given: Mapping[str, Any]) -> PlanningOptions:
    """Return the options of a call: the defaults, then what was given (not None).

    Raises:
        OptionError: a key is unknown or a value is outside its range.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    known = {item.name for item in dataclasses.fields(PlanningOptions)}
    for key in chosen:
        if key not in known:
            raise OptionError(f"unknown option {key!r}; expected one of {', '.join(sorted(known))}")
    for key in _PATHS:
        if key in chosen:
            chosen[key] = Path(chosen[key])
    measured = make_measure_options({key: chosen[key] for key in _MEASURED if key in chosen})
    chosen |= {key: getattr(measured, key) for key in _MEASURED}
    return PlanningOptions(**chosen)
