"""The commands that measure: validate.

Owns their arguments; each is a call of `api`, and `cli` registers it. Whatever is heavy to import
is imported inside a command.
"""

from __future__ import annotations

import math

import typer

from onnxq import cli_options as o
from onnxq.delivery import Delivery, exit_codes
from onnxq.errors import OptionError, ValidationError

VALIDATE_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "onnxq validate model.onnx small.onnx --min-snr 30\n\n"
    "onnxq validate model.onnx small.onnx --inputs samples.npz --json result.json"
)


def validate(
    reference: o.Reference,
    candidate: o.Candidate,
    inputs: o.Inputs = None,
    samples: o.Samples = 1,
    min_snr: o.MinSnr = None,
    json: o.Json = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Run two models on the same inputs and compare every output; exit 6 where one fails."""
    with exit_codes():
        delivery = Delivery(json=json, force=force, quiet=quiet, verbose=verbose)
        read = {"REF": reference, "--inputs": inputs}
        delivery.check({}, {**read, "CANDIDATE": candidate})
        if min_snr is not None and not math.isfinite(min_snr):
            raise OptionError(f"--min-snr: found {min_snr}, expected a number of decibels")
        from onnxq import api

        report = api.validate(reference, candidate, inputs=inputs, min_snr=min_snr, samples=samples)
        delivery.deliver(report, is_product=True)
        if not report.passed and quiet:
            raise ValidationError("; ".join(report.failures))
        if not report.passed:  # the text has named what failed
            raise typer.Exit(ValidationError.exit_code)
