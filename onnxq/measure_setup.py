"""Open what models are measured on: sessions, data and metrics, from the options of a caller.

Owns the way from `MeasureOptions` to the parts that do the work; everything that is wrong with the
options, the data or the reference shows here, before any candidate is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from onnxq import metrics, runtime, sources
from onnxq.batches import DataOptions, Dataset
from onnxq.checks import Check
from onnxq.dataset import open_dataset
from onnxq.drawn_data import RandomData
from onnxq.draws import Recipe
from onnxq.errors import InputError, UnsupportedError
from onnxq.evaluation import Evaluation, evaluate, run_reference
from onnxq.graphs import Document
from onnxq.measure_options import MeasureOptions
from onnxq.measurements import DataUsed
from onnxq.metrics import Metric
from onnxq.preprocess_file import load_preprocess
from onnxq.ranges import integer_ranges
from onnxq.reference_runs import ReferenceRuns
from onnxq.runtime import Session
from onnxq.session_settings import SessionSettings

Measure = Callable[[Path], Evaluation]
"""Measure a candidate, from any thread; the reference is run once for all of them."""


@contextmanager
def open_measure(document: Document, options: MeasureOptions) -> Iterator[Measure]:
    """Run the reference and yield what measures candidates against it.

    Where inputs are random and the reference cannot be run on any, every check is "skipped",
    unless metrics were asked for.

    Raises:
        OptionError: an option does not fit the model or the data.
        InputError: the reference or the data cannot be read, or they do not fit each other.
        UnsupportedError: onnxruntime cannot run the reference, or CUDA is asked for and does not
            work.
        MissingDependencyError: the data or a metric need a package that is not installed.
    """
    metrics.resolve(options.metrics)
    settings = session_settings(options, is_packed=False)
    runtime.prepare(settings)
    try:
        reference, chosen = open_reference(document, options, settings)
    except (InputError, UnsupportedError) as err:
        if options.data is not None or options.metrics:
            raise
        skipped = _skipped(str(err))
        yield lambda candidate: skipped
        return
    with reference:
        own = session_settings(options, is_packed=options.is_packed)
        yield lambda candidate: evaluate(reference, candidate, chosen, own)


def session_settings(options: MeasureOptions, *, is_packed: bool) -> SessionSettings:
    """Return how a model is loaded and run."""
    return SessionSettings(
        provider=options.provider,
        threads=options.threads,
        options=options.session_options,
        is_packed=is_packed,
    )


def used_provider(options: MeasureOptions) -> Literal["cpu", "cuda"]:
    """Return where models run: of "auto", what works here."""
    if options.provider == "auto":
        return "cuda" if runtime.cuda_works() else "cpu"
    return options.provider


def open_reference(
    document: Document, options: MeasureOptions, settings: SessionSettings
) -> tuple[ReferenceRuns, tuple[Metric, ...]]:
    """Return the reference's outputs on all data, and the metrics, which fit them.

    Close the first when it is no longer needed.

    Raises:
        OnnxqError: see `open_measure`.
    """
    source = sources.runnable(document)
    data = open_data(document, runtime.open_session(source, settings), options)
    reference = ReferenceRuns(source, data, settings, carry=options.carry)
    try:
        reference.open()
        chosen = metrics.resolve(options.metrics) or default_metrics(reference)
        run_reference(reference, chosen)
    except BaseException:
        reference.__exit__(None, None, None)
        raise
    return reference, chosen


def open_data(document: Document, session: Session, options: MeasureOptions) -> Dataset:
    """Return the data of `options`, or random inputs within the ranges that the model takes.

    Raises:
        InputError: the data cannot be read or do not fit the model.
        OptionError: the options do not suit the data or the model.
        MissingDependencyError: the data need a package that is not installed.
    """
    if options.data is None:
        ranges = {**integer_ranges(document), **options.ranges}
        recipe = Recipe(dims=options.dims, ranges=ranges, kept=frozenset(options.ranges))
        return RandomData(session, options.samples, options.seed, recipe)
    preprocess = options.preprocess
    data = DataOptions(
        preprocess=None if preprocess is None else load_preprocess(preprocess),
        batch=options.batch,
        limit=options.limit,
        carried=frozenset(options.carry.values()),
    )
    return open_dataset(options.data, session.inputs, data)


def default_metrics(reference: ReferenceRuns) -> tuple[Metric, ...]:
    """Return the metrics that suit the reference's outputs and the truth that the data hold."""
    return metrics.resolve(metrics.default_names(reference.output_specs, reference.dataset.truths))


def _skipped(reason: str) -> Evaluation:
    check = Check(status="skipped", reason=reason, samples=0)
    return Evaluation(check=check, metrics=(), data=DataUsed(kind="random", samples=0))
