"""The commands that measure: validate.

Owns their arguments; each is a call of `api`, and `cli` registers it. Whatever is heavy to import
is imported inside a command.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnxq import cli_measure_options as mo
from onnxq import cli_options as o
from onnxq.delivery import Delivery, exit_codes, say
from onnxq.errors import ValidationError
from onnxq.measure_options import make_measure_options, parse_all
from onnxq.plaintext import one_line

if TYPE_CHECKING:
    from onnxq.report import ValidateReport

VALIDATE_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "onnxq validate model.onnx small.onnx --min-snr 30\n\n"
    "onnxq validate model.onnx small.onnx --data val.npz --max-drop top1=1%\n\n"
    "onnxq validate model.onnx small.onnx --data imagenet/val --preprocess imagenet-torch "
    "--limit 1000\n\n"
    "onnxq validate model.onnx small.onnx --data val.npz --metric my_task:score --layers\n\n"
    "onnxq validate model.onnx small.onnx --max-latency-ratio 1.1 --junit gates.xml"
)


def validate(
    ctx: typer.Context,
    reference: o.Reference,
    candidate: o.Candidate,
    data: mo.Data = None,
    preprocess: mo.Preprocess = None,
    batch: mo.Batch = None,
    limit: mo.Limit = None,
    carry: mo.Carry = None,
    inputs: mo.Inputs = None,
    samples: mo.Samples = mo.DEFAULTS.samples,
    dim: mo.Dim = None,
    input_range: mo.Range = None,
    metric: mo.Metric = None,
    performance: mo.Performance = mo.DEFAULTS.performance,
    layers: mo.Layers = False,
    provider: mo.ProviderName = mo.DEFAULTS.provider,
    threads: mo.Threads = mo.DEFAULTS.threads,
    session_option: mo.SessionOption = None,
    keep_packed: mo.KeepPacked = False,
    min_snr: mo.MinSnr = None,
    max_drop: mo.MaxDrop = None,
    max_latency_ratio: mo.MaxLatencyRatio = None,
    max_size_ratio: mo.MaxSizeRatio = None,
    json: o.Json = None,
    junit: mo.Junit = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Measure on the same inputs what a candidate has lost; exit 6 where it fails a gate."""
    values = locals()
    with exit_codes():
        delivery = Delivery(json=json, force=force, quiet=quiet, verbose=verbose)
        read = {"REF": reference, "CANDIDATE": candidate, "--inputs": inputs, "--data": data}
        delivery.check({"--junit": junit}, read)
        from onnxq import gates

        limits: dict[str, Any] = {
            "min_snr": min_snr,
            "max_drop": parse_all("--max-drop", max_drop, gates.parse_drop),
            "max_latency_ratio": max_latency_ratio,
            "max_size_ratio": max_size_ratio,
        }
        limits = {name: limit for name, limit in limits.items() if limit not in (None, {})}
        options = mo.measure_values(ctx, values)
        gates.make_gates(**limits)
        make_measure_options(options)
        from onnxq import api

        with delivery.steps() as tell:
            report = api.validate(
                reference, candidate, inputs=inputs, progress=tell, **limits, **options
            )
        delivery.deliver(report, is_product=True)
        if junit is not None:
            _write_junit(delivery, junit, report)
        if not report.passed:
            for failure in report.failures:
                say(f"error: {one_line(failure)}")
            raise typer.Exit(ValidationError.exit_code)


def _write_junit(delivery: Delivery, path: Path, report: ValidateReport) -> None:
    from onnxq import junit

    delivery.write_text(path, junit.dumps(report))
