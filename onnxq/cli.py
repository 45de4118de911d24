"""The `onnxq` command: arguments in, exit code out.

Owns printing and the exit code, nothing else; each command is a call of `api`. stdout carries only
what was asked for: `--json -`, or the findings of `inspect` and `validate`, which make nothing
else; all other text goes to stderr. Whatever is heavy to import is imported inside a command, so
that `--help` and completion stay fast.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from onnxq import cli_options as o
from onnxq.errors import (
    OnnxqError,
    OptionError,
    OutputError,
    UnsupportedError,
    ValidationError,
)
from onnxq.plaintext import one_line

if TYPE_CHECKING:
    from onnxq import terminal
    from onnxq.report import AnyReport

STDOUT = Path("-")
NO_NAME = Path("")


class _Commands(typer.core.TyperGroup):
    """Say in one line, as of any other error, what is wrong with a command line."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option."""
        return o.without_type(super().get_help_option(ctx))

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command and end the process with its exit code."""
        extra = {**extra, "standalone_mode": False}
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
        "onnxq validate model.onnx small.onnx --min-snr 30\n\n"
        "Exit codes: 0 done, 1 a bug of onnxq, 2 options, 3 input, 4 unsupported, 5 output, "
        "6 validation failed, 7 budget, 8 missing dependency, 130 interrupted."
    ),
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"onnxq {_version()}")
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
    with _exit_codes():
        delivery = _Delivery(json=json, force=force, quiet=quiet, verbose=verbose, model=output)
        delivery.check({"OUT": output, "--save-plan": save_plan}, {"IN": model, "--plan": plan})
        options = o.given(ctx, values)
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
    with _exit_codes():
        delivery = _Delivery(json=json, force=force, quiet=quiet, verbose=verbose)
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
    with _exit_codes():
        delivery = _Delivery(json=json, force=force, quiet=quiet, verbose=verbose, model=output)
        delivery.check({"OUT": output}, {"IN": model})
        from onnxq import api

        delivery.deliver(api.restore(model, output, force=force))


@app.command(
    cls=o.Command,
    epilog=(
        "[bold]Examples[/bold]\n\n"
        "onnxq validate model.onnx small.onnx --min-snr 30\n\n"
        "onnxq validate model.onnx small.onnx --inputs samples.npz --json result.json"
    ),
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
    with _exit_codes():
        delivery = _Delivery(json=json, force=force, quiet=quiet, verbose=verbose)
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


@dataclass(frozen=True, kw_only=True)
class _Delivery:
    """Bring a report to where it was asked for."""

    json: Path | None
    force: bool
    quiet: bool
    verbose: bool
    model: Path | None = None
    """The model that the command writes before its report."""

    def check(self, written: dict[str, Path | None], read: dict[str, Path | None]) -> None:
        """Refuse, before any work, what could not be delivered; OUT itself is checked by `api`."""
        if self.quiet and self.verbose:
            raise OptionError("--quiet and --verbose exclude each other; give one")
        from onnxq import textfile

        for option, path in written.items():
            if path in (STDOUT, NO_NAME):
                what = "is no file name" if path == NO_NAME else "would be a file of this name"
                raise OptionError(
                    f"{option} {str(path)!r}: {what}; give a file (--json - prints the report)"
                )
        json = None if self.json == STDOUT else self.json
        written = {**written, "--json": json}
        textfile.check_distinct(written, read)
        for option, path in written.items():
            if path is not None and option != "OUT":
                textfile.check_target(path, force=self.force)

    @contextmanager
    def progress(self) -> Iterator[Callable[[terminal.Event], None] | None]:
        """Show a progress bar for the duration, where a person watches and wants it."""
        from onnxq import terminal

        is_shown = terminal.is_watched() and not self.quiet
        with terminal.progress(terminal.make_console(), is_shown=is_shown) as tell:
            yield tell

    def deliver(self, report: AnyReport, *, is_product: bool = False) -> None:
        """Write the JSON, then the text: to stdout where it is all that the command makes."""
        from onnxq import render, terminal

        try:
            self._write_json(report)
        except OutputError as err:
            if self.model is None:
                raise
            raise OutputError(f"{self.model}: was written, but its report was not: {err}") from err
        if not self.quiet:
            with suppress(OSError):  # nobody can be told that stderr cannot be written
                to_stdout = is_product and self.json != STDOUT
                console = terminal.make_console(to_stdout=to_stdout)
                render.render(report, console, verbose=self.verbose)

    def _write_json(self, report: AnyReport) -> None:
        from onnxq import report as reports
        from onnxq import textfile

        if self.json == STDOUT:
            _write_stdout(reports.dumps(report))
        elif self.json is not None:
            textfile.save(self.json, reports.dumps(report), force=self.force)


@contextmanager
def _exit_codes() -> Iterator[None]:
    """End the process as documented when the body raises."""
    try:
        yield
    except typer.Exit:
        raise
    except OnnxqError as err:
        _say(f"error: {one_line(str(err))}")
        raise typer.Exit(err.exit_code) from None
    except KeyboardInterrupt:
        _say("interrupted")
        raise typer.Exit(130) from None
    except MemoryError:
        _say("error: there is not enough memory for this model; --jobs 1 needs the least")
        raise typer.Exit(UnsupportedError.exit_code) from None
    except Exception:
        _say(traceback.format_exc())
        _say(
            "this is a bug in onnxq, please report it with the lines above "
            f"(onnxq {_version()}, Python {platform.python_version()}, {platform.platform()})"
        )
        raise typer.Exit(1) from None


def _usage_error(err: Any) -> int:
    """Tell of an error of the option parser; return its exit code."""
    context = getattr(err, "ctx", None)
    if type(err).__name__ == "NoArgsIsHelpError":  # the help has been printed
        return OptionError.exit_code
    found = one_line(err.format_message()).replace("Value error, ", "").rstrip(".")
    hint = "" if context is None else f"; {context.command_path} --help lists what is allowed"
    _say(f"error: {found}{hint}")
    return OptionError.exit_code


def _say(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def _write_stdout(text: str) -> None:
    """Write what was asked for; a reader that has gone away wanted no more of it."""
    if sys.stdout is None:
        raise OutputError("stdout: is closed, the report cannot be written")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as err:
        # What is left in the buffer would fail once more when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(err, BrokenPipeError):
            raise OutputError(f"stdout: cannot be written: {err.strerror or err}") from err


def _version() -> str:
    return str(sys.modules["onnxq"].__version__)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    app()
