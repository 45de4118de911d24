"""The command `lowrank`: its arguments, and what becomes of its report.

Owns the options that no other command has; the meaning of each is that of the field of the same
name in `low_rank.options.LowRankOptions`. Whatever is heavy to import is imported inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from onnxq.console import cli_measure_options as mo
from onnxq.console import cli_options as o
from onnxq.console.cli_options import option
from onnxq.console.delivery import Delivery, exit_codes
from onnxq.errors import ValidationError
from onnxq.low_rank.options import LowRankOptions, SplitName, make_low_rank_options, parse_rank

_SIZE = "How small (one of them; --rank beside any)"
_WHAT = "What is factorised"

LOWRANK_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "onnxq lowrank model.onnx low.onnx --ratio 0.7\n\n"
    "onnxq lowrank model.onnx low.onnx --ratio 0.7 --data train.npz --limit 500\n\n"
    "onnxq lowrank model.onnx low.onnx --max-snr-loss 0.1 --data train.npz\n\n"
    "onnxq lowrank model.onnx low.onnx --rank 'fc*=64' --rank conv2.weight=16"
)

Ratio = Annotated[
    float | None,
    option(
        "--ratio",
        metavar="R",
        panel=_SIZE,
        help="Share of the model's float parameters to keep, such as 0.7.",
    ),
]
Energy = Annotated[
    float | None,
    option(
        "--energy",
        metavar="E",
        panel=_SIZE,
        help="Share of each layer's energy to keep, such as 0.99: of its weight's, with --data of "
        "its outputs'.",
    ),
]
MaxSnrLoss = Annotated[
    float | None,
    option(
        "--max-snr-loss",
        metavar="DB",
        panel=_SIZE,
        help="The smallest model found whose outputs lose at most so much: "
        "10 log10(1 + noise / signal). 0.01 is an output SNR of 26 dB, 0.1 of 16 dB, 1 of 6 dB.",
    ),
]
Rank = Annotated[
    list[str] | None,
    option(
        "--rank",
        metavar="PATTERN=R",
        panel=_SIZE,
        help="Rank of weights by name, or by the name of a node that uses them (repeatable; the "
        "last match wins). Alone, nothing else is factorised.",
    ),
]
Split = Annotated[
    SplitName,
    option(
        "--split",
        panel=_WHAT,
        help="Kernels: spatial (k x 1, then 1 x k, or the other way round), channel (k x k, then "
        "1 x 1), or what loses less.",
    ),
]
Include = Annotated[
    list[str] | None,
    option(
        "--include",
        metavar="PATTERN",
        panel=_WHAT,
        help="Only weights of this name, or used by a node of this name (glob, repeatable).",
    ),
]
Exclude = Annotated[
    list[str] | None,
    option(
        "--exclude",
        metavar="PATTERN",
        panel=_WHAT,
        help="No weights of this name, or used by a node of this name (glob, repeatable).",
    ),
]

_SAME_NAME = frozenset(LowRankOptions.__dataclass_fields__) - {"ranks"}


def lowrank(
    ctx: typer.Context,
    model: o.ModelIn,
    output: o.ModelOut,
    ratio: Ratio = None,
    energy: Energy = None,
    max_snr_loss: MaxSnrLoss = None,
    rank: Rank = None,
    split: Split = "auto",
    include: Include = None,
    exclude: Exclude = None,
    data: mo.Data = None,
    preprocess: mo.Preprocess = None,
    batch: mo.Batch = None,
    limit: mo.Limit = None,
    external_data: o.External = "auto",
    check: o.Check = None,
    no_check: o.NoCheck = False,
    jobs: o.Jobs = 0,
    json: o.Json = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Write a model of low rank: each weight becomes two smaller ones, in plain ONNX."""
    values = locals()
    with exit_codes():
        delivery = Delivery(json=json, force=force, quiet=quiet, verbose=verbose, model=output)
        delivery.check({"OUT": output}, {"IN": model, "--data": data})
        options = _given(ctx, values)
        make_low_rank_options(options)
        samples = o.samples_to_check(values)
        from onnxq import api

        with delivery.steps() as tell:
            report = api.lowrank(
                model, output, check=samples, force=force, progress=tell, **options
            )
        delivery.deliver(report)
        if report.check is not None and report.check.status == "failed":
            raise ValidationError(f"{output}: was written, but its outputs are broken")


def _given(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options among a command's values that were given, not defaulted."""
    chosen = {
        name: values[name]
        for name in values
        if name in _SAME_NAME
        and getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"
    }
    if values.get("rank"):
        chosen["ranks"] = [parse_rank(text) for text in values["rank"]]
    return chosen
