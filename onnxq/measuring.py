"""The steps of a validation: what is measured in which order, and what is judged.

Owns the order of work, so that whatever is wrong with options, data or the reference shows before
anything long is done, and the report. What each step does belongs to the modules below.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxq import (
    effects,
    gates,
    measure_setup,
    metrics,
    model,
    profiling,
    runtime,
    sources,
    summary,
)
from onnxq.batches import Batch, Dataset
from onnxq.checks import Check
from onnxq.drawn_data import GivenData
from onnxq.errors import InputError, OptionError, UnsupportedError
from onnxq.evaluation import Evaluation, evaluate
from onnxq.feeds import without_labels
from onnxq.gates import Gates
from onnxq.graphs import Document
from onnxq.measure_options import MeasureOptions
from onnxq.measurements import DataUsed, LayerRow, Performance
from onnxq.metrics import Metric
from onnxq.reference_runs import Carried, ReferenceRuns
from onnxq.report import FileSize, ValidateReport
from onnxq.runtime import Session
from onnxq.session_settings import SessionSettings
from onnxq.watched_data import FirstSamples, NotedData, Progress, Told, WatchedData

LAYER_SAMPLES = 32
"""Samples on which single tensors are tried, or those of the first batch if they are more."""


@dataclass(frozen=True, kw_only=True)
class ValidateRequest:
    """Hold what a validation is asked to do.

    Attributes:
        reference: The model that is right by definition.
        candidate: The model to judge.
        options: What to measure on, and how.
        gates: What the candidate must keep.
        inputs: Inputs of a single run, as they are, in the place of data; labels and targets among
            them are not used.
        progress: Called with a MeasureEvent for each batch and tensor.
    """

    reference: Document
    candidate: Document
    options: MeasureOptions = field(default_factory=MeasureOptions)
    gates: Gates = field(default_factory=Gates)
    inputs: Mapping[str, Any] | None = None
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Hold what was measured."""

    evaluation: Evaluation
    performance: Performance | None = None
    layers: tuple[LayerRow, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """Hold what both models are run on and how."""

    data: Dataset
    feeds: Mapping[str, Any]
    """Inputs of the first batch, for times and memory."""
    samples: int
    """Samples of the first batch."""
    settings: SessionSettings
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    told: Told


def check_options(options: MeasureOptions, limits: Gates, *, has_inputs: bool) -> None:
    """Check what options, gates and inputs mean together, before a file is touched.

    Raises:
        OptionError: they contradict each other, or a metric is unknown.
        MissingDependencyError: a metric needs a package that is not installed.
    """
    if has_inputs:
        given = {
            "--data": options.data is not None,
            "--samples": options.samples != 1,
            "--dim": bool(options.dims),
            "--input": bool(options.ranges),
        }
        for option in (option for option, is_given in given.items() if is_given):
            raise OptionError(f"{option} and --inputs exclude each other; give one")
    if limits.max_latency_ratio is not None and not options.performance:
        raise OptionError("--max-latency-ratio needs times; leave out --no-performance")
    chosen = metrics.resolve(options.metrics)
    if chosen:
        gates.check_drops(limits, chosen)


def validate(request: ValidateRequest) -> ValidateReport:
    """Measure both models and judge the candidate.

    Raises:
        OptionError: an option does not fit the model or the data.
        InputError: a model or the data cannot be read, or they do not fit each other.
        UnsupportedError: onnxruntime cannot run the reference on data that were given, or CUDA is
            asked for and does not work.
        ValidationError: the reference runs and the candidate does not, or lacks an output.
        MissingDependencyError: the data or a metric need a package that is not installed.
    """
    started = time.monotonic()
    options = request.options
    check_options(options, request.gates, has_inputs=request.inputs is not None)
    runtime.prepare(measure_setup.session_settings(options, is_packed=False))
    sizes = [model.total_bytes(item) for item in (request.reference, request.candidate)]
    found = _measured(request)
    check, rows, performance = found.evaluation.check, found.evaluation.metrics, found.performance
    judged = gates.judge(request.gates, check, rows, performance, (sizes[0], sizes[1]))
    failures = gates.failures(check, judged)
    return ValidateReport(
        reference=FileSize(path=sources.name_of(request.reference), file_bytes=sizes[0]),
        candidate=FileSize(path=sources.name_of(request.candidate), file_bytes=sizes[1]),
        data=found.evaluation.data if check.status != "skipped" else None,
        check=check,
        metrics=rows,
        performance=performance,
        layers=found.layers,
        gates=judged,
        min_snr=request.gates.min_snr,
        passed=not failures,
        failures=failures,
        notes=found.notes,
        options=options.to_json(),
        versions=summary.versions(),
        seconds=time.monotonic() - started,
    )


def _measured(request: ValidateRequest) -> _Found:
    """Return differences and metrics, and what else is asked for."""
    options = request.options
    source, candidate = map(sources.runnable, (request.reference, request.candidate))
    try:
        setup = _set_up(request, source)
    except (InputError, UnsupportedError) as err:
        if request.inputs is not None or options.data is not None:
            raise
        return _Found(evaluation=_skipped(str(err), options.samples))
    noted = NotedData(setup.data, options.limit)
    watched = WatchedData(noted, setup.told, options.limit)
    with ReferenceRuns(source, watched, setup.settings, carry=options.carry) as reference:
        own = replace(setup.settings, is_packed=options.is_packed)
        evaluation = evaluate(reference, candidate, setup.metrics, own)
    if evaluation.check.status == "skipped":
        return _Found(evaluation=evaluation, notes=setup.notes)
    notes = (*setup.notes, *evaluation.check.notes, *noted.notes)
    performance = None
    if options.performance:
        setup.told.stage("timing")
        performance = profiling.measure(
            source,
            candidate,
            setup.feeds,
            setup.settings,
            is_candidate_packed=options.is_packed,
            samples=setup.samples,
        )
    # Comes last, since it exchanges tensors in the reference.
    layers = _layers(request, setup) if options.layers else ()
    return _Found(evaluation=evaluation, performance=performance, layers=layers, notes=notes)


def _set_up(request: ValidateRequest, source: Path | bytes) -> _Setup:
    """Open the reference for as long as it takes to see what it can be run on."""
    options = request.options
    settings = measure_setup.session_settings(options, is_packed=False)
    session = runtime.open_session(source, settings)
    data: Dataset
    if request.inputs is None:
        data = measure_setup.open_data(request.reference, session, options)
    else:
        given = [spec.name for spec in session.inputs]
        data = GivenData([without_labels(request.inputs, given)])
    names = options.metrics or metrics.default_names(session.output_specs, data.truths)
    chosen = metrics.resolve(names)
    gates.check_drops(request.gates, chosen)
    first = _first_batch(data)
    return _Setup(
        data=data,
        feeds=Carried(session, options.carry).feeds(first),
        samples=first.samples,
        settings=settings,
        metrics=chosen,
        notes=tuple(_notes(session, request)),
        told=Told(request.progress),
    )


def _first_batch(data: Dataset) -> Batch:
    for batch in data.batches():
        return batch
    raise InputError(f"{data.path or data.kind}: holds no samples, expected at least one")


def _notes(session: Session, request: ValidateRequest) -> Iterator[str]:
    """Yield what a user should know before anything is run."""
    first, second = request.reference.path, request.candidate.path
    if first is not None and second is not None and os.path.samefile(first, second):
        yield "REF and CANDIDATE are the same file"
    if request.options.provider == "auto":
        yield f"the models ran on {session.provider.removesuffix('ExecutionProvider')}"
    given = request.inputs or {}
    used = without_labels(given, [spec.name for spec in session.inputs])
    for name in given:
        if name not in used:
            yield f"{name!r} of --inputs is not used: labels and targets belong to --data"


def _skipped(reason: str, samples: int) -> Evaluation:
    check = Check(status="skipped", reason=reason, samples=samples)
    return Evaluation(check=check, metrics=(), data=DataUsed(kind="random", samples=0))


def _layers(request: ValidateRequest, setup: _Setup) -> tuple[LayerRow, ...]:
    """Return the encoded tensors, those that hurt the outputs most first."""
    source = sources.runnable(request.reference)
    few = FirstSamples(setup.data, LAYER_SAMPLES)
    with ReferenceRuns(source, few, setup.settings, carry=request.options.carry) as runs:
        return effects.rank_layers(
            request.reference, request.candidate, runs, setup.told.tensor_done
        )
