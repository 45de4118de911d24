"""The steps from a model, a target and data to a plan with its codebooks.

Owns the order of steps, and how long what they need is held: probes and moments are gone when the
plan is there, since its codebooks are fitted by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from onnxq import conversion, model, scratch
from onnxq.ahead import Fits
from onnxq.allocation import deciding, judging, quality, sensing
from onnxq.allocation.candidates import Unit, make_units
from onnxq.allocation.deciding import Decided, Planner
from onnxq.allocation.planned import Planned
from onnxq.allocation.planning_options import PlanningOptions
from onnxq.allocation.targets import (
    DropTarget,
    ModelBytes,
    QualityTarget,
    SizeTarget,
    Target,
    above_reach,
    below_reach,
)
from onnxq.allocation.trials import Decoder, Methods, Trials
from onnxq.allocation.ways import Picks
from onnxq.calibration.calibrated import Calibration
from onnxq.calibration.corrections import (
    Corrections,
    corrected_values,
    planned_corrections,
    touched,
)
from onnxq.calibration.fitters import fitter_of
from onnxq.clustering.cluster import Clustering
from onnxq.clustering.codebook import Array
from onnxq.conversion import Job
from onnxq.data.batches import Dataset
from onnxq.errors import InputError
from onnxq.graphs import Key
from onnxq.plan_records import DataSeen, TensorReason, WayReason
from onnxq.plans import Plan, TensorPlan

Tell = Callable[[str, str], None]
"""Called with a stage and what was finished in it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bench:
    """Hold what is known of the data while a plan is made."""

    calibration: Calibration | None
    data: Dataset | None
    seen: DataSeen | None
    folder: Path


def allocated(job: Job, options: PlanningOptions, target: Target, tell: Tell) -> Planned:
    """Return the plan of least loss that meets a target, with its codebooks.

    Args:
        job: what the conversion is asked to do; its plan is not looked at.
        options: what the plan goes by.
        target: what it is to meet.
        tell: told of each step.

    Raises:
        BudgetError: the target is out of reach.
        InputError, UnsupportedError: the model or the data cannot be read or run.
        OptionError: an option does not fit them.
    """
    jobs = conversion.workers(job.options)
    weights = model.weights(job.document)
    units, skips = make_units(job.document, weights, job.options, jobs)
    keys = frozenset(unit.key for unit in units)
    with _bench(job, options, keys, tell) as bench:
        methods = Methods(is_weighted=options.is_weighted, has_feedback=options.has_feedback)
        decoder = Decoder(document=job.document, calibration=bench.calibration, methods=methods)
        fitter = fitter_of(bench.calibration)
        if not isinstance(target, SizeTarget):
            fitter = judging.remembered(fitter)
        planner = Planner(
            job=replace(job, fitter=fitter),
            units=units,
            skips=skips,
            decoder=decoder,
        )
        trials = _trials(job, options, bench, units, decoder)
        if isinstance(target, SizeTarget):
            decided = _meeting(planner, trials, options, target, tell)
            return _planned(planner, decided, bench, options)
        return _keeping(planner, trials, _Asked(target=target, options=options, bench=bench), tell)


def followed(job: Job, options: PlanningOptions, plan: Plan, tell: Tell) -> Planned:
    """Return a plan with its codebooks, those that calibration data decide among them.

    Args:
        job: what the conversion is asked to do; its plan is not looked at.
        options: which data, and how they are run.
        plan: what to follow.
        tell: told of each step.

    Raises:
        InputError: the plan was made with other data, or needs data and none are given.
    """
    keys = frozenset(item.key for item in plan.tensors if item.needs_calibration)
    keys |= frozenset(item.weight for item in plan.corrections if plan.data is not None)
    if plan.data is not None and plan.needs_calibration and options.inputs is None:
        raise InputError(
            f"plan: was made with calibration data ({_text(plan.data)}), and none was given; give "
            "the same data, or make a new plan"
        )
    with _bench(job, options, keys, tell) as bench:
        if plan.data is not None and bench.seen is not None and plan.data != bench.seen:
            raise InputError(
                f"plan: was made with {_text(plan.data)}, found {_text(bench.seen)}; give the same "
                "data, or make a new plan"
            )
        planned = replace(job, plan=plan, fitter=fitter_of(bench.calibration))
        return _fitted(planned, bench.calibration, None)


def calibrated(job: Job, options: PlanningOptions, tell: Tell) -> Planned:
    """Return the job's own plan with codebooks that keep layers' outputs, as data show them."""
    keys = frozenset(item.key for item in job.plan.tensors if item.same_as is None)
    with _bench(job, options, keys, tell) as bench:
        if bench.calibration is None:  # no tensor is to be encoded, or nothing is to go by the data
            return _fitted(job, None, None)
        shared = {item.same_as for item in job.plan.tensors if item.same_as is not None}
        held = {(weight.graph, weight.name): weight for weight in model.weights(job.document)}
        tensors = tuple(
            _with_methods(
                item, bench.calibration, options, partial(model.read, job.document, held[item.key])
            )
            if item.key not in shared and item.same_as is None
            else item
            for item in job.plan.tensors
        )
        plan = replace(job.plan, tensors=tensors, data=bench.seen)
        if options.corrects_bias:
            found = planned_corrections(job.document, plan, bench.calibration)
            plan = replace(plan, corrections=found)
        planned = replace(job, plan=plan, fitter=fitter_of(bench.calibration))
        return _fitted(planned, bench.calibration, None)


def _with_methods(
    planned: TensorPlan,
    calibration: Calibration,
    options: PlanningOptions,
    values: Callable[[], Array],
) -> TensorPlan:
    is_open = planned.layout != "half" and calibration.has_moments(planned.key)
    may_feed = options.has_feedback and is_open and calibration.has_pairs(planned.key)
    return replace(
        planned,
        is_weighted=options.is_weighted and is_open,
        has_feedback=may_feed and bool(np.isfinite(values()).all()),
    )


@contextmanager
def _bench(
    job: Job, options: PlanningOptions, keys: frozenset[Key], tell: Tell
) -> Iterator[_Bench]:
    """Look at the data, if there are any, and hold what they show for the duration."""
    with ExitStack() as stack:
        # Layers are shared out to threads already: one BLAS thread in each gives the same bytes
        # whatever their number.
        stack.enter_context(threadpool_limits(limits=1, user_api="blas"))
        folder = stack.enter_context(scratch.folder())
        data = seen = calibration = None
        if options.is_split:
            data = judging.planning_samples(job.document, options)
        elif options.needs_runs or options.calibration is not None:
            data = sensing.open_data(job.document, options)
        if data is not None and options.inputs is not None:
            seen = sensing.seen(data)
            if keys and options.looks_at_inputs:
                calibration = sensing.calibrate(
                    job.reopen, keys, options, data, folder, lambda where, _: tell("inputs", where)
                )
        yield _Bench(calibration=calibration, data=data, seen=seen, folder=folder)


def _trials(
    job: Job, options: PlanningOptions, bench: _Bench, units: Sequence[Unit], decoder: Decoder
) -> Trials | None:
    if not options.needs_runs or bench.data is None:
        return None
    probe = sensing.open_probe(job.reopen, units, options, bench.data, bench.folder)
    return Trials(units, decoder, probe, conversion.workers(job.options))


def _meeting(
    planner: Planner,
    trials: Trials | None,
    options: PlanningOptions,
    target: SizeTarget,
    tell: Tell,
) -> Decided:
    counted = model_bytes(planner.job)
    wanted = target.bytes(counted)
    found = deciding.within_size(
        planner, trials, wanted, options.refine_runs, lambda name: tell("tensors", name)
    )
    if found.bytes > wanted:
        raise below_reach(target, found.bytes, counted, planner.job.document.label)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """Hold a quality that is asked for, and what is known beside the model."""

    target: QualityTarget
    options: PlanningOptions
    bench: _Bench


def _keeping(planner: Planner, trials: Trials | None, asked: _Asked, tell: Tell) -> Planned:
    """Return the smallest plan found that keeps a quality."""
    job, bench, options = planner.job, asked.bench, asked.options
    bar, is_split = (
        judging.open_bar(job.document, asked.target),
        isinstance(asked.target, DropTarget),
    )

    def complete(picks: Picks) -> Planned:
        return _completed(job, planner.plan(picks), None, bench, options)

    with judging.open_parts(job.document, options, bar, is_split=is_split) as parts:
        attempts = judging.Attempts(job, bar, parts, complete, bench.folder)
        found = quality.smallest(
            planner.units,
            trials,
            attempts.margin,
            bar.decibels,
            lambda name: tell("tensors", name),
        )
        picks: Picks | None = found.picks if found.is_enough else None
        if picks is not None and not attempts.holds(picks):
            picks = quality.stepped_up(found.ways, picks, attempts.holds)
        if picks is None or not attempts.saves(picks):
            raise above_reach(asked.target, attempts.best(), job.document.label)
        reasons = tuple(_reasons(planner, picks, found.losses))
        planned = complete(picks)
        return replace(
            planned,
            plan=replace(planned.plan, reasons=reasons),
            notes=tuple(attempts.notes(picks, asked.target.option)),
        )


def model_bytes(job: Job) -> ModelBytes:
    """Return what sizes of a job's model are relative to."""
    floats = [weight for weight in model.weights(job.document) if weight.is_float]
    return ModelBytes(
        file_bytes=job.input_bytes,
        weight_bytes=sum(weight.data_bytes for weight in floats),
        weights=sum(weight.elements for weight in floats),
    )


def _planned(
    planner: Planner, decided: Decided, bench: _Bench, options: PlanningOptions
) -> Planned:
    reasons = tuple(_reasons(planner, decided.picks, decided.losses))
    plan = replace(decided.plan, reasons=reasons)
    planned = _completed(planner.job, plan, decided.fits, bench, options)
    return replace(planned, error=decided.error)


def _completed(
    job: Job, plan: Plan, fits: Fits | None, bench: _Bench, options: PlanningOptions
) -> Planned:
    """Return a plan with the corrections that go with it, and its codebooks."""
    plan = replace(plan, data=bench.seen)
    if options.corrects_bias and bench.calibration is not None:
        found = planned_corrections(job.document, plan, bench.calibration)
        plan = replace(plan, corrections=found)
    return _fitted(replace(job, plan=plan, fits=fits), bench.calibration, None)


def _reasons(planner: Planner, picks: Picks, found: deciding.Losses) -> Iterator[TensorReason]:
    """Yield why each tensor is stored as it is: the ways there were, and what each loses."""
    for unit, pick, losses in zip(planner.units, picks, found, strict=True):
        ways = [
            WayReason(way=item.label, bytes=item.bytes, loss=_rounded(loss))
            for item, loss in zip(unit.candidates, losses, strict=True)
        ]
        noise = unit.candidates[pick].distortion / unit.power if unit.power > 0 else 0.0
        yield TensorReason(
            name=unit.lead.name,
            graph=unit.lead.graph,
            picked=unit.candidates[pick].label,
            sensitivity=_rounded(losses[pick] / noise) if noise > 0 else None,
            ways=tuple(ways),
        )


def _rounded(value: float) -> float:
    """Return a number to six digits, which a person reads and a comparison of files bears."""
    return float(f"{value:.6g}") if math.isfinite(value) else value


def _fitted(job: Job, calibration: Calibration | None, error: float | None) -> Planned:
    """Return a plan with the codebooks that must be known before it is carried out."""
    fits = job.fits
    if fits is None:
        fits = conversion.fit_ahead(job, model.weights(job.document))
    found = corrected_values(job.document, job.plan, fits, calibration, job.fitter)
    fits = {**fits, **dict(_refitted(job, fits, found))}
    return Planned(plan=job.plan, fits=fits, corrections=found, error=error)


def _refitted(job: Job, fits: Fits, found: Corrections) -> Iterator[tuple[Key, Clustering]]:
    """Yield the codebooks of biases that have new values, of those that were fitted."""
    for planned in touched(job.plan, found):
        if planned.key in fits:
            yield planned.key, job.fitter(found[planned.key], planned, 1)


def _text(seen: DataSeen) -> str:
    return f"{seen.samples} samples of digest {seen.digest}"
