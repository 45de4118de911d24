"""The command `plan`: its arguments, and what is said of the plan.

Owns nothing of how a plan is made (`converting`); what it prints goes to stderr.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.console import cli_options as o
from onnxq.console import cli_planning_options as po
from onnxq.console.delivery import Delivery, exit_codes, say

if TYPE_CHECKING:
    from onnxq.plans import Plan, TensorPlan

PLAN_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "onnxq plan model.onnx -o plan.json --target-ratio 0.15 --calibration samples.npz\n\n"
    "onnxq plan model.onnx -o plan.json --bits 6\n\n"
    "onnxq convert model.onnx small.onnx --plan plan.json --calibration samples.npz"
)

PlanOut = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FILE", help="Plan to write, as JSON."),
]


def plan(
    ctx: typer.Context,
    model: o.Model,
    output: PlanOut,
    bits: o.Bits = o.DEFAULTS.bits,
    tensor: o.Tensor = None,
    preset: o.PresetName = None,
    target_size: po.TargetSize = None,
    target_ratio: po.TargetRatio = None,
    target_bpw: po.TargetBpw = None,
    target_snr: po.TargetSnr = None,
    max_drop: po.MaxDrop = None,
    auto: po.Auto = False,
    data: po.Data = None,
    calibration: po.Calibration = None,
    calibration_samples: po.CalibrationSamples = po.DEFAULTS.samples,
    preprocess: po.Preprocess = None,
    limit: po.Limit = None,
    carry: po.Carry = None,
    sensitivity: po.Sensitivity = po.DEFAULTS.sensitivity,
    importance: po.Importance = po.DEFAULTS.is_weighted,
    feedback: po.Feedback = po.DEFAULTS.has_feedback,
    correct_bias: po.CorrectBias = po.DEFAULTS.corrects_bias,
    refine: po.Refine = po.DEFAULTS.refine_runs,
    include: o.Include = None,
    exclude: o.Exclude = None,
    op_types: o.OpTypes = None,
    min_elements: o.MinElements = o.DEFAULTS.min_elements,
    quantize_bias: o.QuantizeBias = o.DEFAULTS.quantize_bias,
    quantize_norm: o.QuantizeNorm = o.DEFAULTS.quantize_norm,
    quantize_variance: o.QuantizeVariance = o.DEFAULTS.quantize_variance,
    requantize: o.Requantize = False,
    jobs: o.Jobs = o.DEFAULTS.jobs,
    force: o.Force = False,
    quiet: o.Quiet = False,
) -> None:
    """Decide how each tensor would be stored, and convert nothing: convert --plan obeys it."""
    values = locals()
    with exit_codes():
        delivery = Delivery(json=None, force=force, quiet=quiet, verbose=False)
        delivery.check({"--output": output}, {"MODEL": model, "--data": data})
        options = {**o.given(ctx, values), **po.given(ctx, values)}
        from onnxq import api

        with delivery.progress() as tell:
            made = api.plan(
                model, output, force=force, requantize=requantize, progress=tell, **options
            )
        if not quiet:
            say(_summary(made, output))


def _summary(made: Plan, output: Path) -> str:
    """Return what a person wants to know of a plan, in a few lines."""
    ways = Counter(_way(item) for item in made.tensors if item.same_as is None)
    lines = [f"  {count:5} x {way}" for way, count in sorted(ways.items())]
    kept = f"  {len(made.skips):5} x kept as they are"
    size = f"a file of {made.file_bytes:,} bytes; " if made.file_bytes is not None else ""
    return "\n".join([f"{output}: {size}{len(made.tensors)} tensors encoded", *lines, kept])


def _way(item: TensorPlan) -> str:
    parts = ["float16" if item.layout == "half" else f"{item.bit_width} bits"]
    if item.layout == "radix":
        parts.append(f"{item.centroids} centroids, radix packing")
    if item.scale_axis is not None:
        parts.append("scaled")
    return ", ".join(parts)
