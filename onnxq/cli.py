"""The `onnxq` command: arguments in, exit code out.

Owns the program and the commands that make or show models; each is a call of `api`. `cli_measure`
has the commands that measure, `delivery` brings results where they belong. Whatever is heavy to
import is imported inside a command, so that `--help` and completion stay fast.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
import typer.core

from onnxq.console import cli_lowrank, cli_measure, cli_plan
from onnxq.console import cli_options as o
from onnxq.console import cli_planning_options as po
from onnxq.console.delivery import Delivery, exit_codes, say, version
from onnxq.errors import OptionError, ValidationError
from onnxq.plaintext import one_line


class _Commands(typer.core.TyperGroup):
    """Say in one line, as of any other error, what is wrong with a command line."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option."""
        return o.without_type(super().get_help_option(ctx))

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command and end the process with its exit code."""
        words = extra.get("args", args[0] if args else None)
        words = list(sys.argv[1:] if words is None else words)
        extra = {"obj": words, **extra, "standalone_mode": False}
        if not standalone_mode:
            return super().main(*args, **extra)
        try:
            code = super().main(*args, **extra)
        except typer.Abort:
            code = 130
        except Exception as err:
            if not hasattr(err, "format_message"):  # then it is none of the option parser's
                raise
            code = _usage_error(err)
        sys.exit(code or 0)


app = typer.Typer(
    name="onnxq",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "[bold]Examples[/bold]\n\n"
        "onnxq inspect model.onnx\n\n"
        "onnxq convert model.onnx small.onnx --bits 6\n\n"
        "onnxq plan model.onnx -o plan.json --target-ratio 0.15 --calibration samples.npz\n\n"
        "onnxq lowrank model.onnx low.onnx --ratio 0.7\n\n"
        "onnxq validate model.onnx small.onnx --data val.npz --max-drop top1=1%\n\n"
        "onnxq sweep model.onnx --data val.npz --html sweep.html\n\n"
        "Exit codes: 0 done, 1 a bug of onnxq, 2 options, 3 input, 4 unsupported, 5 output, "
        "6 validation failed, 7 budget, 8 missing dependency, 130 interrupted, 143 terminated."
    ),
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"onnxq {version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            callback=_show_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Make ONNX models smaller: codebooks and packed indices of 1 to 16 bits, in plain ONNX."""


@app.command(
    cls=o.Command,
    epilog=(
        "[bold]Examples[/bold]\n\n"
        "onnxq convert model.onnx small.onnx --bits 4 --tensor 'head.*=8'\n\n"
        "onnxq convert model.onnx small.onnx --exclude '*.bias' --op-types Conv,Gemm\n\n"
        "onnxq convert model.onnx small.onnx --auto --calibration samples.npz\n\n"
        "onnxq convert model.onnx small.onnx --target-ratio 0.15 --calibration samples.npz\n\n"
        "onnxq convert model.onnx small.onnx --preset ce2 --bits 5\n\n"
        "onnxq convert model.onnx small.onnx --json report.json --save-plan plan.json"
    ),
)
def convert(
    ctx: typer.Context,
    model: o.ModelIn,
    output: o.ModelOut,
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
    init: o.InitName = o.DEFAULTS.init,
    pdf_factor: o.PdfFactor = o.DEFAULTS.pdf_factor,
    max_iterations: o.MaxIterations = o.DEFAULTS.max_iterations,
    layout: o.Layout = o.DEFAULTS.layout,
    codebook_dtype: o.Codebook = o.DEFAULTS.codebook_dtype,
    external_data: o.External = o.DEFAULTS.external_data,
    check: o.Check = None,
    no_check: o.NoCheck = False,
    plan: o.Plan = None,
    save_plan: o.SavePlan = None,
    jobs: o.Jobs = o.DEFAULTS.jobs,
    json: o.Json = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Write a smaller model: float weights become codebooks and packed indices."""
    values = locals()
    with exit_codes():
        delivery = Delivery(json=json, force=force, quiet=quiet, verbose=verbose, model=output)
        read = {"IN": model, "--plan": plan, "--data": data, "--calibration": calibration}
        delivery.check({"OUT": output, "--save-plan": save_plan}, read)
        options = {**o.given(ctx, values), **po.given(ctx, values)}
        samples = o.samples_to_check(values)
        from onnxq import api

        with delivery.progress() as tell:
            report = api.convert(
                model,
                output,
                check=samples,
                requantize=requantize,
                plan=plan,
                save_plan=save_plan,
                force=force,
                progress=tell,
                **options,
            )
        delivery.deliver(report)
        if report.check is not None and report.check.status == "failed":
            raise ValidationError(f"{output}: was written, but its outputs are broken")


@app.command(
    cls=o.Command,
    epilog=(
        "[bold]Examples[/bold]\n\n"
        "onnxq inspect model.onnx\n\n"
        "onnxq inspect model.onnx --bits 4 --exclude '*.bias' --verbose\n\n"
        "onnxq inspect small.onnx --json - --quiet"
    ),
)
def inspect(
    ctx: typer.Context,
    model: o.Model,
    bits: o.Bits = o.DEFAULTS.bits,
    tensor: o.Tensor = None,
    preset: o.PresetName = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    op_types: o.OpTypes = None,
    min_elements: o.MinElements = o.DEFAULTS.min_elements,
    quantize_bias: o.QuantizeBias = o.DEFAULTS.quantize_bias,
    quantize_norm: o.QuantizeNorm = o.DEFAULTS.quantize_norm,
    quantize_variance: o.QuantizeVariance = o.DEFAULTS.quantize_variance,
    layout: o.Layout = o.DEFAULTS.layout,
    codebook_dtype: o.Codebook = o.DEFAULTS.codebook_dtype,
    jobs: o.Jobs = o.DEFAULTS.jobs,
    json: o.Json = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Show a model's weights and what convert would do with each, or what it did."""
    values = locals()
    with exit_codes():
        delivery = Delivery(json=json, force=force, quiet=quiet, verbose=verbose)
        delivery.check({}, {"MODEL": model})
        options = o.given(ctx, values)
        from onnxq import api

        delivery.deliver(api.inspect(model, **options), is_product=True)


@app.command(cls=o.Command, epilog="[bold]Example[/bold]\n\nonnxq restore small.onnx plain.onnx")
def restore(
    model: o.ModelIn,
    output: o.ModelOut,
    json: o.Json = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Write the plain float model with the weights that a converted one decodes to."""
    with exit_codes():
        delivery = Delivery(json=json, force=force, quiet=quiet, verbose=verbose, model=output)
        delivery.check({"OUT": output}, {"IN": model})
        from onnxq import api

        delivery.deliver(api.restore(model, output, force=force))


app.command(cls=o.Command, epilog=cli_plan.PLAN_EPILOG)(cli_plan.plan)
app.command(cls=o.Command, epilog=cli_lowrank.LOWRANK_EPILOG)(cli_lowrank.lowrank)
app.command(cls=o.Command, epilog=cli_measure.VALIDATE_EPILOG)(cli_measure.validate)
app.command(cls=o.Command, epilog=cli_measure.SWEEP_EPILOG)(cli_measure.sweep)
app.command(cls=o.Command, epilog=cli_measure.REPORT_EPILOG)(cli_measure.report)


def _usage_error(err: Any) -> int:
    """Tell of an error of the option parser; return its exit code."""
    context = getattr(err, "ctx", None)
    if type(err).__name__ == "NoArgsIsHelpError":  # the help has been printed
        return OptionError.exit_code
    found = one_line(err.format_message()).replace("Value error, ", "").rstrip(".")
    hint = "" if context is None else f"; {context.command_path} --help lists what is allowed"
    say(f"error: {found}{hint}")
    return OptionError.exit_code


def main() -> None:
    """Run the command line and end the process with its exit code."""
    app()
