"""Options of the commands that decide where bits go: names, limits, help.

Owns what stands in `--help` for them, and how they become keywords of `api`; the meaning of each is
that of the field in `planning_options.PlanningOptions`, whose defaults these are, or of the target
in `targets`. Nothing here is heavy to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxq.allocation import planning_options as p
from onnxq.console.cli_options import flag, option
from onnxq.validation.measure_options import parse_carry

DEFAULTS = p.PlanningOptions()

_TARGET = "Target (one at a time; exit code 7 where it is out of reach)"
_GO_BY = "What a target goes by"

TargetSize = Annotated[
    str | None,
    option(
        "--target-size",
        metavar="SIZE",
        panel=_TARGET,
        help="Bytes of the file, met or just below: 5MB, 5MiB, 123456.",
    ),
]
TargetRatio = Annotated[
    float | None,
    option("--target-ratio", metavar="R", panel=_TARGET, help="Output file through input file."),
]
TargetBpw = Annotated[
    float | None,
    option(
        "--target-bpw",
        metavar="B",
        panel=_TARGET,
        help="Bits a float weight, all counted but what else the input holds.",
    ),
]
TargetSnr = Annotated[
    float | None,
    option(
        "--target-snr",
        metavar="DB",
        panel=_TARGET,
        help="Smallest file whose outputs have this signal-to-noise ratio against the float model.",
    ),
]
MaxDrop = Annotated[
    str | None,
    option(
        "--max-drop",
        metavar="METRIC=X",
        panel=_TARGET,
        help="Smallest file that keeps a metric on --data: top1=1% or top1=0.005 at most worse. "
        "Half of the data decide, the other half validate.",
    ),
]
Auto = Annotated[
    bool,
    flag(
        "--auto",
        panel=_TARGET,
        help="Smallest file without measurable loss: an output SNR of 30 dB for classifiers, 40 dB "
        "for others (docs/planning.md).",
    ),
]
Data = Annotated[
    Path | None,
    option(
        "--data",
        metavar="PATH",
        panel=_TARGET,
        help="Labelled data for --max-drop; inputs for --auto.",
    ),
]
Calibration = Annotated[
    Path | None,
    option(
        "--calibration",
        metavar="PATH",
        panel=_GO_BY,
        help="Unlabelled inputs: an .npz by input name, or a folder as for validate --data. "
        "With --bits or a plan they only make codebooks better.",
    ),
]
CalibrationSamples = Annotated[
    int,
    option(
        "--calibration-samples",
        metavar="N",
        min=1,
        panel=_GO_BY,
        help="Samples to look at, spread over the data.",
    ),
]
Preprocess = Annotated[
    str | None,
    option(
        "--preprocess",
        metavar="FILE",
        panel=_GO_BY,
        help="How images and sounds become arrays, as for validate.",
    ),
]
Limit = Annotated[
    int | None,
    option("--limit", metavar="N", min=1, panel=_GO_BY, help="Use the first N samples only."),
]
Carry = Annotated[
    list[str] | None,
    option(
        "--carry",
        metavar="OUT=IN",
        panel=_GO_BY,
        help="Feed an output to an input of the next sample: state (repeatable).",
    ),
]
Sensitivity = Annotated[
    p.Sensitivity,
    option(
        "--sensitivity",
        metavar="NAME",
        panel=_GO_BY,
        help="What losses are told by: weights, outputs (runs with one tensor exchanged at a time, "
        "on random inputs without data), or auto: outputs with --calibration or --data.",
    ),
]
Importance = Annotated[
    bool,
    flag(
        "--importance/--no-importance",
        panel=_GO_BY,
        help="Count values by the inputs that they meet, in clustering?",
    ),
]
Feedback = Annotated[
    bool,
    flag(
        "--feedback/--no-feedback",
        panel=_GO_BY,
        help="Make good with later values of a row what earlier ones got wrong?",
    ),
]
CorrectBias = Annotated[
    bool,
    flag(
        "--correct-bias/--no-correct-bias",
        panel=_GO_BY,
        help="Put the mean error of a layer's outputs into its bias?",
    ),
]
Refine = Annotated[
    int,
    option(
        "--refine",
        metavar="N",
        min=0,
        panel=_GO_BY,
        help="Runs with all tensors exchanged that a refinement takes; 0 for none.",
    ),
]

_NAMES: Mapping[str, str] = {
    "target_size": "target_size",
    "target_ratio": "target_ratio",
    "target_bpw": "target_bpw",
    "target_snr": "target_snr",
    "auto": "auto",
    "data": "data",
    "calibration": "calibration",
    "calibration_samples": "samples",
    "preprocess": "preprocess",
    "limit": "limit",
    "sensitivity": "sensitivity",
    "importance": "is_weighted",
    "feedback": "has_feedback",
    "correct_bias": "corrects_bias",
    "refine": "refine_runs",
}
"""The keyword of `api` for each option that is handed on as it is."""


def given(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords for the options among a command's values that were given.

    Raises:
        OptionError: a text is not of the form that it should have.
    """
    chosen = {
        keyword: values[name]
        for name, keyword in _NAMES.items()
        if name in values and getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"
    }
    if values.get("max_drop") is not None:
        from onnxq.validation.gates import parse_drop

        chosen["max_drop"] = dict([parse_drop(values["max_drop"])])
    if values.get("carry"):
        chosen["carry"] = dict(parse_carry(text) for text in values["carry"])
    return chosen
