"""Arguments and options of the commands that measure: names, limits, help.

Owns what stands in `--help` for them, and how they become keywords of `api`; the meaning of each is
that of the field in `measure_options.MeasureOptions`, whose defaults these are. Nothing here is
heavy to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxq.console.cli_options import flag, option
from onnxq.sweeps.grid import parse_axis
from onnxq.validation import measure_options as m

DEFAULTS = m.MeasureOptions()

_GRID = "Points"
_INPUTS = "Inputs"
_MEASURED = "What is measured"
_RUNS = "How the models run"
_GATES = "Gates (exit code 6 where one fails)"
_FILES = "Files and work"


def _axis(name: str, values: str) -> Any:
    """Return an option that takes several values of an option of convert."""
    help = f"{values} (comma-separated, repeatable)."
    return option(name, metavar="NAMES", panel=_GRID, help=help)


Data = Annotated[
    Path | None,
    option(
        "--data",
        metavar="PATH",
        panel=_INPUTS,
        help="An .npz by input name (first axis: samples; label, target), a folder of such files, "
        "or a folder of images or of class folders with images or WAV files.",
    ),
]
Preprocess = Annotated[
    str | None,
    option(
        "--preprocess",
        metavar="FILE",
        panel=_INPUTS,
        help="How images and sounds become arrays: a YAML or JSON file, or imagenet-torch, "
        "imagenet-keras-caffe or imagenet-tf.",
    ),
]
Batch = Annotated[
    int | None,
    option(
        "--batch",
        metavar="N",
        min=1,
        panel=_INPUTS,
        help="Samples of a run. Default: 32; 1 where the model or the sizes allow no more.",
    ),
]
Limit = Annotated[
    int | None,
    option("--limit", metavar="N", min=1, panel=_INPUTS, help="Use the first N samples only."),
]
Carry = Annotated[
    list[str] | None,
    option(
        "--carry",
        metavar="OUT=IN",
        panel=_INPUTS,
        help="Feed an output to an input of the next batch: state (repeatable).",
    ),
]
Inputs = Annotated[
    Path | None,
    option(
        "--inputs",
        metavar="FILE.npz",
        panel=_INPUTS,
        help="Inputs by name for a single run, as they are.",
    ),
]
Samples = Annotated[
    int,
    option(
        "--samples",
        metavar="N",
        min=1,
        panel=_INPUTS,
        help="Number of random inputs, where no data is given.",
    ),
]
Dim = Annotated[
    list[str] | None,
    option(
        "--dim",
        metavar="NAME=SIZE",
        panel=_INPUTS,
        help="Size of a named open dimension of random inputs (repeatable).",
    ),
]
Range = Annotated[
    list[str] | None,
    option(
        "--input",
        metavar="NAME=LOW:HIGH",
        panel=_INPUTS,
        help="Random values of an input: LOW <= value < HIGH (repeatable). Default: the range that "
        "its consumers allow for integers, standard normal for floats.",
    ),
]
Metric = Annotated[
    list[str] | None,
    option(
        "--metric",
        metavar="NAME",
        panel=_MEASURED,
        help="snr, psnr-ref, cosine, max-abs, mean-abs, top1-agreement, top5-agreement; with "
        "labels or targets top1, top5, f1, auc, mse, psnr; or package.module:function. "
        "NAME@OUTPUT picks an output (repeatable). Default: what suits the outputs and the data.",
    ),
]
Performance = Annotated[
    bool,
    flag(
        "--performance/--no-performance",
        panel=_MEASURED,
        help="Measure load time, latency and peak memory?",
    ),
]
Layers = Annotated[
    bool,
    flag(
        "--layers",
        panel=_MEASURED,
        help="Rank the tensors by what the encoding of each alone does to the outputs.",
    ),
]
ProviderName = Annotated[
    m.Provider,
    option(
        "--provider",
        panel=_RUNS,
        help="Where models run; auto takes CUDA only where it works.",
    ),
]
Threads = Annotated[
    int,
    option(
        "--threads",
        metavar="N",
        min=0,
        panel=_RUNS,
        help="Threads within an operator; 0 is onnxruntime's choice.",
    ),
]
SessionOption = Annotated[
    list[str] | None,
    option(
        "--session-option",
        metavar="KEY=VALUE",
        panel=_RUNS,
        help="A session option of onnxruntime (repeatable).",
    ),
]
KeepPacked = Annotated[
    bool,
    flag(
        "--keep-packed",
        panel=_RUNS,
        help="Keep CANDIDATE's weights packed (constant folding off): less memory, slower runs.",
    ),
]
MinSnr = Annotated[
    float | None,
    option("--min-snr", metavar="DB", panel=_GATES, help="Least SNR of every output, in dB."),
]
MaxDrop = Annotated[
    list[str] | None,
    option(
        "--max-drop",
        metavar="METRIC=X",
        panel=_GATES,
        help="Most that a metric may get worse: 0.01 in its unit, or 1% of REF's (repeatable).",
    ),
]
MaxLatencyRatio = Annotated[
    float | None,
    option(
        "--max-latency-ratio",
        metavar="X",
        panel=_GATES,
        help="Most latency of CANDIDATE, in times that of REF: median over runs in turn.",
    ),
]
MaxSizeRatio = Annotated[
    float | None,
    option(
        "--max-size-ratio",
        metavar="X",
        panel=_GATES,
        help="Most bytes of CANDIDATE, in times those of REF.",
    ),
]
Junit = Annotated[
    Path | None,
    option(
        "--junit",
        metavar="FILE",
        panel=_FILES,
        help="Write outputs and gates as JUnit XML, for CI.",
    ),
]

SweptModel = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Plain model to convert at many points.")
]
Bits = Annotated[
    str,
    option(
        "--bits",
        "-b",
        metavar="WIDTHS",
        panel=_GRID,
        help="Bits per weight, 1 to 16: 2-8, 2,4,6 or 2-4,8.",
    ),
]
Init = Annotated[
    list[str] | None, _axis("--init", "Centroids: optimal, bounded-pdf, quantile, uniform")
]
Layout = Annotated[list[str] | None, _axis("--layout", "Layouts: portable, native, bytes")]
Codebook = Annotated[
    list[str] | None, _axis("--codebook-dtype", "Types of stored centroids: float32, float16")
]
Grid = Annotated[
    list[str] | None,
    option(
        "--grid",
        metavar="NAME=V1,V2",
        panel=_GRID,
        help="Values of any option of convert (repeatable): preset=none,ce2, "
        "quantize-bias=yes,no, exclude='none,head.*|*.bias'.",
    ),
]
Csv = Annotated[
    Path | None, option("--csv", metavar="FILE", panel=_FILES, help="Write the points as CSV.")
]
Plot = Annotated[
    Path | None,
    option(
        "--plot",
        metavar="FILE",
        panel=_FILES,
        help="Draw the metric against the size: .png or .svg.",
    ),
]
PlotMetric = Annotated[
    str | None,
    option(
        "--plot-metric",
        metavar="NAME",
        panel=_FILES,
        help="Metric of the plot. Default: the first with labels or targets, else the SNR.",
    ),
]
Html = Annotated[
    Path | None,
    option("--html", metavar="FILE", panel=_FILES, help="Write one page that needs no network."),
]
State = Annotated[
    Path | None,
    option(
        "--state",
        metavar="FILE",
        panel=_FILES,
        help="Keep finished points here, so that an interrupted sweep continues. Default: beside "
        "the first output file, with .sweep after its name.",
    ),
]
Jobs = Annotated[
    int,
    option(
        "--jobs",
        "-j",
        metavar="N",
        min=0,
        panel=_FILES,
        help="Points at a time, as far as memory allows; 0 is one per core. Never changes a "
        "figure.",
    ),
]
Reports = Annotated[
    list[Path],
    typer.Argument(metavar="FILE.json...", help="Reports of convert, validate or sweep."),
]

_SAME_NAME = (
    "data",
    "preprocess",
    "batch",
    "limit",
    "samples",
    "performance",
    "layers",
    "provider",
    "threads",
)


def measure_values(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measuring options among a command's values that were given, not defaulted.

    The command's parameters have the names of the fields of MeasureOptions, but `metric`, `dim`,
    `input_range`, `carry`, `session_option` and `keep_packed`, in the forms of the command line.

    Raises:
        OptionError: a text is not NAME=VALUE and the like, or a name comes twice.
    """
    chosen = {
        name: values[name] for name in _SAME_NAME if name in values and _is_given(context, name)
    }
    texts = {
        "dims": m.parse_all("--dim", values.get("dim"), m.parse_dim),
        "ranges": m.parse_all("--input", values.get("input_range"), m.parse_range),
        "carry": m.parse_all("--carry", values.get("carry"), m.parse_carry),
        "session_options": m.parse_all(
            "--session-option", values.get("session_option"), m.parse_session_option
        ),
    }
    chosen |= {name: found for name, found in texts.items() if found}
    if values.get("metric"):
        chosen["metrics"] = list(values["metric"])
    if values.get("keep_packed"):
        chosen["is_packed"] = True
    return chosen


def grid_values(values: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the values of each axis of a grid, by option name.

    The command's parameters are `init`, `layout`, `codebook_dtype` and `grid`; what is given
    several times adds up.

    Raises:
        OptionError: a text of --grid is not NAME=V1,V2, or a value is none of its option's.
    """
    texts = [
        f"{name}={text}"
        for name in ("init", "layout", "codebook_dtype")
        for text in values[name] or ()
    ]
    axes: dict[str, tuple[Any, ...]] = {}
    for text in [*texts, *(values["grid"] or ())]:
        name, found = parse_axis(text)
        axes[name] = axes.get(name, ()) + found
    return axes


def _is_given(context: typer.Context, name: str) -> bool:
    return getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"
