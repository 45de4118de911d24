"""The steps of a validation: what is measured in which order, and what is judged.

Owns the order of work, what becomes of a candidate that cannot be run, and the report. What is
wrong with options, metrics or gates shows before the reference runs; `measure_setup` has the rest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxq import model, sources, summary
from onnxq.checks import Check
from onnxq.data.feeds import without_labels
from onnxq.data.watched_data import FirstSamples, Progress, Told
from onnxq.errors import OptionError, ValidationError
from onnxq.graphs import Document
from onnxq.report import FileSize, ValidateReport
from onnxq.validation import effects, gates, measure_setup, metrics, profiling
from onnxq.validation.evaluation import Evaluation
from onnxq.validation.gates import Gates
from onnxq.validation.measure_options import MeasureOptions
from onnxq.validation.measure_setup import OpenReference
from onnxq.validation.measurements import LayerRow, Performance
from onnxq.validation.reference_runs import ReferenceRuns

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
    """Measure both models and judge the candidate; one that cannot be run has failed.

    Raises:
        OptionError: an option does not fit the model or the data.
        InputError: a model or the data cannot be read, or they do not fit each other.
        UnsupportedError: onnxruntime cannot run the reference on data that were given, or CUDA is
            asked for and does not work.
        MissingDependencyError: the data or a metric need a package that is not installed.
    """
    started = time.monotonic()
    options = request.options
    check_options(options, request.gates, has_inputs=request.inputs is not None)
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
    told = Told(request.progress)
    opened = measure_setup.open_reference(
        request.reference,
        request.options,
        inputs=request.inputs,
        look=lambda chosen, outputs: gates.check_drops(request.gates, chosen, outputs),
        told=told,
    )
    if isinstance(opened, Evaluation):
        return _Found(evaluation=opened)
    candidate = sources.runnable(request.candidate)
    with opened.runs:
        evaluation = _evaluated(opened, candidate)
    notes = (*_notes(opened, request), *evaluation.check.notes, *opened.data.notes)
    found = _Found(evaluation=evaluation, notes=notes)
    if evaluation.check.reason is not None:
        return found
    if request.options.performance:
        told.stage("timing")
        found = replace(found, performance=_performance(opened, request))
    if request.options.layers:  # comes last, since it exchanges tensors in the reference
        found = replace(found, layers=_layers(opened, request, told))
    return found


def _evaluated(opened: OpenReference, candidate: Path | bytes) -> Evaluation:
    """Return what is found of the candidate, if only why it cannot be run."""
    try:
        return opened.measure(candidate)
    except ValidationError as err:
        check = Check(status="failed", reason=str(err), samples=0)
        return Evaluation(check=check, metrics=(), data=opened.runs.data_used())


def _notes(opened: OpenReference, request: ValidateRequest) -> Iterator[str]:
    """Yield what a user should know of the files, the session and the inputs."""
    first, second = request.reference.path, request.candidate.path
    if first is not None and second is not None and os.path.samefile(first, second):
        yield "REF and CANDIDATE are the same file"
    if request.options.provider == "auto":
        yield f"the models ran on {opened.provider.removesuffix('ExecutionProvider')}"
    given = request.inputs or {}
    used = without_labels(given, opened.inputs)
    for name in given:
        if name not in used:
            yield f"{name!r} of --inputs is not used: labels and targets belong to --data"


def _performance(opened: OpenReference, request: ValidateRequest) -> Performance:
    return profiling.measure(
        sources.runnable(request.reference),
        sources.runnable(request.candidate),
        opened.runs.first_feeds,
        opened.runs.settings,
        is_candidate_packed=request.options.is_packed,
        samples=opened.runs.first_samples,
    )


def _layers(opened: OpenReference, request: ValidateRequest, told: Told) -> tuple[LayerRow, ...]:
    """Return the encoded tensors, those that hurt the outputs most first."""
    source, settings = sources.runnable(request.reference), opened.runs.settings
    few = FirstSamples(opened.data, LAYER_SAMPLES)
    with ReferenceRuns(source, few, settings, carry=request.options.carry) as runs:
        return effects.rank_layers(request.reference, request.candidate, runs, told.tensor_done)
