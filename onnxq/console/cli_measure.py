"""The commands that measure, and the one that shows what was measured: validate, sweep, report.

Owns their arguments; each is a call of `api`, and `cli` registers it. Whatever is heavy to import
is imported inside a command.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnxq.console import cli_measure_options as mo
from onnxq.console import cli_options as o
from onnxq.console.delivery import Delivery, command_line, exit_codes, say
from onnxq.console.outputs import Outputs
from onnxq.errors import ValidationError
from onnxq.plaintext import one_line, plain
from onnxq.validation.measure_options import make_measure_options, parse_all

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
        from onnxq.validation import gates

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
    from onnxq.validation import junit

    delivery.write_text(path, junit.dumps(report))


SWEEP_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "onnxq sweep model.onnx --data val.npz --plot curve.png --json sweep.json\n\n"
    "onnxq sweep model.onnx --bits 3-6 --init optimal,bounded-pdf --html sweep.html\n\n"
    "onnxq sweep model.onnx --bits 4,8 --grid quantize-bias=yes,no --csv sweep.csv"
)


def sweep(
    ctx: typer.Context,
    model: mo.SweptModel,
    bits: mo.Bits = "2-8",
    init: mo.Init = None,
    layout: mo.Layout = None,
    codebook_dtype: mo.Codebook = None,
    grid: mo.Grid = None,
    data: mo.Data = None,
    preprocess: mo.Preprocess = None,
    batch: mo.Batch = None,
    limit: mo.Limit = None,
    carry: mo.Carry = None,
    samples: mo.Samples = mo.DEFAULTS.samples,
    dim: mo.Dim = None,
    input_range: mo.Range = None,
    metric: mo.Metric = None,
    provider: mo.ProviderName = mo.DEFAULTS.provider,
    threads: mo.Threads = mo.DEFAULTS.threads,
    session_option: mo.SessionOption = None,
    json: o.Json = None,
    csv: mo.Csv = None,
    plot: mo.Plot = None,
    plot_metric: mo.PlotMetric = None,
    html: mo.Html = None,
    state: mo.State = None,
    jobs: mo.Jobs = 0,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Convert a model at many working points and measure what each costs and does."""
    values = locals()
    with exit_codes():
        delivery = Delivery(json=json, force=force, quiet=quiet, verbose=verbose)
        outputs = Outputs(delivery=delivery, csv=csv, plot=plot, metric=plot_metric, html=html)
        from onnxq import textfile

        textfile.check_distinct({"--state": state}, {"MODEL": model, "--data": data})
        outputs.check({"MODEL": model, "--data": data, "--state": state})
        options = mo.measure_values(ctx, values)
        make_measure_options(options)
        axes = mo.grid_values(values)
        state = state or outputs.default_state()
        from onnxq import api

        with delivery.points() as tell, _kept(state):
            report = api.sweep(
                model,
                bits=bits,
                grid=axes,
                state=state,
                jobs=jobs,
                command_line=command_line(ctx),
                plot_metric=plot_metric,
                progress=tell,
                **options,
            )
        delivery.deliver(report, is_product=True)
        outputs.write([report], report.command_line)


@contextmanager
def _kept(state: Path | None) -> Iterator[None]:
    """Say after an interrupt where the finished points are."""
    try:
        yield
    except KeyboardInterrupt:
        if state is not None and state.exists():
            say(f"finished points are in {plain(str(state))}; the same command continues")
        raise


REPORT_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "onnxq report sweep.json\n\n"
    "onnxq report sweep.json validate.json --html page.html\n\n"
    "onnxq report a.json b.json --plot both.svg --plot-metric top1"
)


def report(
    ctx: typer.Context,
    files: mo.Reports,
    html: mo.Html = None,
    plot: mo.Plot = None,
    plot_metric: mo.PlotMetric = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Show reports of earlier commands as text, one page or a plot; nothing is run again."""
    with exit_codes():
        delivery = Delivery(json=None, force=force, quiet=quiet, verbose=verbose)
        outputs = Outputs(delivery=delivery, plot=plot, metric=plot_metric, html=html)
        outputs.check({f"FILE.json {number}": path for number, path in enumerate(files, 1)})
        reports = [outputs.read(path) for path in files]
        if not quiet and html is None and plot is None:
            for item in reports:
                delivery.show(item, to_stdout=True)
        outputs.write(reports, command_line(ctx))
