"""The arguments and options of the commands: names, limits, help.

Owns what stands in `--help`; the meaning of each is that of the field of the same name in
`options.ConvertOptions`, whose defaults these are. Nothing here is heavy to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from onnxq.errors import OptionError
from onnxq.options import (
    CodebookDtype,
    ConvertOptions,
    ExternalData,
    Init,
    LayoutName,
    Preset,
    parse_tensor_bits,
)

DEFAULTS = ConvertOptions()

_BITS = "Bit width"
_WHAT = "What is converted"
_KEPT = "What is kept in float"
_HOW = "Clustering"
_FORM = "Form of the output"
_FILES = "Files and work"


def without_type(option: Any) -> Any:
    """Return the option --help, if there is one, showing no type, as the other flags."""
    if option is not None:
        option.metavar = ""
    return option


class Command(typer.core.TyperCommand):
    """Show the help of a command like that of the program."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option."""
        return without_type(super().get_help_option(ctx))


def option(*names: str, panel: str | None = None, **settings: Any) -> Any:
    """Return an option in a panel of --help."""
    return typer.Option(*names, rich_help_panel=panel, **settings)


def flag(*names: str, panel: str, help: str) -> Any:
    """Return an option that takes no value, and so shows no type of one."""
    return option(*names, panel=panel, help=help, metavar="")


ModelIn = Annotated[Path, typer.Argument(metavar="IN", help="Model to read.")]
ModelOut = Annotated[Path, typer.Argument(metavar="OUT", help="Model to write.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Plain or converted model.")]
Reference = Annotated[Path, typer.Argument(metavar="REF", help="Model that is right.")]
Candidate = Annotated[Path, typer.Argument(metavar="CANDIDATE", help="Model to judge.")]

Bits = Annotated[
    int,
    option(
        "--bits", "-b", metavar="B", min=1, max=16, panel=_BITS, help="Bits per weight, 1 to 16."
    ),
]
Tensor = Annotated[
    list[str] | None,
    option(
        "--tensor",
        metavar="PATTERN=BITS",
        panel=_BITS,
        help="Width of tensors by name, or by the name of a node that uses them (repeatable; "
        "the last match wins; a pattern that matches nothing is an error).",
    ),
]
PresetName = Annotated[
    Preset | None,
    option(
        "--preset",
        panel=_BITS,
        help="Options as a set: ce2 is the published scheme exactly. Options beside it win.",
    ),
]
Include = Annotated[
    list[str] | None,
    option(
        "--include",
        metavar="PATTERN",
        panel=_WHAT,
        help="Only tensors of this name, or used by a node of this name (glob, repeatable).",
    ),
]
Exclude = Annotated[
    list[str] | None,
    option(
        "--exclude",
        metavar="PATTERN",
        panel=_WHAT,
        help="No tensors of this name, or used by a node of this name (glob, repeatable).",
    ),
]
OpTypes = Annotated[
    list[str] | None,
    option(
        "--op-types",
        metavar="TYPES",
        panel=_WHAT,
        help="Only tensors used by these operators (comma-separated, repeatable).",
    ),
]
MinElements = Annotated[
    int,
    option(
        "--min-elements", metavar="N", min=0, panel=_WHAT, help="Keep tensors of fewer elements."
    ),
]
QuantizeBias = Annotated[
    bool, flag("--quantize-bias/--keep-bias", panel=_KEPT, help="Convert biases?")
]
QuantizeNorm = Annotated[
    bool,
    flag(
        "--quantize-norm/--keep-norm",
        panel=_KEPT,
        help="Convert scales and offsets of normalisation?",
    ),
]
QuantizeVariance = Annotated[
    bool,
    flag(
        "--quantize-variance/--keep-variance",
        panel=_KEPT,
        help="Convert variances of BatchNormalization?",
    ),
]
Requantize = Annotated[
    bool,
    flag("--requantize", panel=_WHAT, help="Decode a converted model and convert it anew."),
]
InitName = Annotated[
    Init,
    option(
        "--init",
        metavar="NAME",
        panel=_HOW,
        help="Centroids: optimal (1-D k-means solved to its optimum), bounded-pdf (the published "
        "method), quantile or uniform.",
    ),
]
PdfFactor = Annotated[
    float,
    option(
        "--pdf-factor",
        metavar="F",
        min=0,
        panel=_HOW,
        help="Width of the band of bounded-pdf; 0 is uniform.",
    ),
]
MaxIterations = Annotated[
    int,
    option("--max-iterations", metavar="N", min=1, panel=_HOW, help="Bound of k-means' rounds."),
]
Layout = Annotated[
    LayoutName,
    option("--layout", panel=_FORM, help="How indices are stored and decoded: docs/format.md."),
]
Codebook = Annotated[
    CodebookDtype, option("--codebook-dtype", panel=_FORM, help="Type of stored centroids.")
]
External = Annotated[
    ExternalData,
    option("--external-data", panel=_FORM, help="Large tensors in a file beside the model?"),
]
Check = Annotated[
    int | None,
    option(
        "--check",
        metavar="N",
        min=0,
        panel=_FILES,
        help="Run both models on N random inputs and report the output SNR. "
        "Default: 1; above 1 GiB 0.",
    ),
]
NoCheck = Annotated[bool, flag("--no-check", panel=_FILES, help="The same as --check 0.")]
Plan = Annotated[
    Path | None,
    option("--plan", metavar="FILE", panel=_FILES, help="Obey a saved plan: the same bytes."),
]
SavePlan = Annotated[
    Path | None,
    option("--save-plan", metavar="FILE", panel=_FILES, help="Save what was decided, as JSON."),
]
Jobs = Annotated[
    int,
    option(
        "--jobs",
        "-j",
        metavar="N",
        min=0,
        panel=_FILES,
        help="Threads; 0 is one per core. Never changes the result.",
    ),
]
Json = Annotated[
    Path | None,
    option("--json", metavar="FILE", panel=_FILES, help="Write the report as JSON; - is stdout."),
]
Force = Annotated[bool, flag("--force", "-f", panel=_FILES, help="Overwrite files that exist.")]
Quiet = Annotated[bool, flag("--quiet", "-q", panel=_FILES, help="Show errors only.")]
Verbose = Annotated[
    bool, flag("--verbose", "-v", panel=_FILES, help="Show every tensor, time and memory.")
]


def given(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the convert options among a command's values that were given, not defaulted.

    `op_types` is split at commas, and `tensor`, which has its own syntax, becomes `tensor_bits`.

    Raises:
        OptionError: a value of --tensor is not PATTERN=BITS, or --op-types lacks a type.
    """
    chosen: dict[str, Any] = {}
    for name in values:
        source = context.get_parameter_source(name)
        if name in ConvertOptions.__dataclass_fields__ and getattr(source, "name", "") != "DEFAULT":
            chosen[name] = values[name]
    if "op_types" in chosen:
        chosen["op_types"] = [kind for text in chosen["op_types"] for kind in _op_types(text)]
    if values.get("tensor"):
        chosen["tensor_bits"] = [parse_tensor_bits(text) for text in values["tensor"]]
    return chosen


def _op_types(text: str) -> list[str]:
    kinds = [kind.strip() for kind in text.split(",")]
    if not all(kinds):
        raise OptionError(
            f"--op-types: found {text!r}, an operator type is missing; expected types such as "
            "Conv,Gemm"
        )
    return kinds


def samples_to_check(values: Mapping[str, Any]) -> int | None:
    """Return the number of random inputs to check with; 0 for none, None if nothing was said.

    Raises:
        OptionError: --check and --no-check contradict each other.
    """
    check: int | None = values["check"]
    if not values["no_check"]:
        return check
    if check:
        raise OptionError("--check and --no-check exclude each other; give one")
    return 0
