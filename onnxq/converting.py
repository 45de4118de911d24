"""The steps of `convert` and `plan`: open, decide, encode and save, check, report.

Owns the order of steps around a conversion, and which options go together. What decides bits by a
target or by data is imported when it is asked for: a plain conversion needs none of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from onnxq import checks, conversion, draws, files, model, recognise, revert, summary
from onnxq.conversion import Job, Progress, ProgressEvent
from onnxq.errors import InputError, OptionError, UnsupportedError
from onnxq.graphs import Document
from onnxq.options import ConvertOptions, OptionValues, check_beside_plan, make_options
from onnxq.plans import Plan
from onnxq.ranges import integer_ranges
from onnxq.recognise import Found
from onnxq.replay import match_plan
from onnxq.report import FileSize, Report
from onnxq.sources import ModelLike, name_of, open_model, output_path, path_text, to_proto

if TYPE_CHECKING:
    from onnxq.allocation.planned import Planned
    from onnxq.allocation.planning_options import PlanningOptions, PlanningValues
    from onnxq.allocation.targets import Target, TargetValues

    class ConvertValues(OptionValues, PlanningValues, TargetValues, total=False):
        """Name the options of `onnxq.convert` for type checkers and editors."""


_UNIFORM = (
    "bits",
    "tensor_bits",
    "preset",
    "init",
    "pdf_factor",
    "max_iterations",
    "layout",
    "codebook_dtype",
)
"""Options that say what an allocation decides."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """Hold what is asked for; fields as in `onnxq.convert`."""

    source: ModelLike
    output: str | os.PathLike[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: str | os.PathLike[str] | Plan | None = None
    save_plan: str | os.PathLike[str] | None = None
    check: int | None = None
    force: bool = False
    requantize: bool = False
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Hold the options of a call by what they are about."""

    convert: ConvertOptions
    planning: PlanningOptions | None
    target: Target | None


def convert(request: Request) -> tuple[Report, ModelProto]:
    """Carry a conversion out; return its report and the model.

    Raises:
        OnnxqError: as `onnxq.convert`.
    """
    started = time.monotonic()
    asked = _asked(request)
    target = output_path(request.output, request.source, request.force)
    if request.save_plan is not None:
        files.check_output(Path(request.save_plan), force=request.force)
    job = _opened(request, asked, target)
    job, made = _decided(request, asked, job)
    if request.save_plan is not None:
        files.write_bytes(Path(request.save_plan), job.plan.dumps().encode())
    recipe = draws.Recipe(ranges=integer_ranges(job.document))
    if made is not None and made.corrections:
        from onnxq.calibration import corrections

        corrections.put(job.document, made.corrections)
    outcome = conversion.run(
        job, partial(_check, request.source, job, request.check, recipe), request.progress
    )
    report = _report(outcome, job, path_text(request.output), started)
    if asked.target is not None:
        about = _target_notes(asked.target, job, outcome)
        about += made.notes if made is not None else ()
        report = replace(report, notes=(*about, *report.notes))
    return report, outcome.document.proto


def plan(request: Request) -> Plan:
    """Return the plan that a conversion would follow, with the bytes of its file.

    Raises:
        OnnxqError: as `onnxq.plan`.
    """
    asked = _asked(request)
    job = _opened(request, asked, None)
    job, _ = _decided(request, asked, job)
    decided = job.plan
    return replace(decided, file_bytes=conversion.foresee(job))


def _asked(request: Request) -> _Asked:
    """Return the options of a call, checked completely.

    Raises:
        OptionError: a value is outside its range, or options contradict each other.
    """
    given = {key: value for key, value in request.options.items() if value is not None}
    check = request.check
    if check is not None and (not isinstance(check, int) or check < 0):
        raise OptionError(f"--check: found {check}, expected a whole number >= 0")
    known = {item.name for item in dataclasses.fields(ConvertOptions)}
    others = {key: given.pop(key) for key in list(given) if key not in known}
    target = planning = None
    if others:
        from onnxq.allocation import planning_options, targets

        about = {key: others.pop(key) for key in targets.KEYS if key in others}
        target = targets.make_target(**about)
        planning = planning_options.make_planning_options(others)
        if request.plan is None:
            targets.check_data(target, has_data=planning.data is not None)
        _check_together(given, others, target, has_plan=request.plan is not None)
    if request.plan is not None:
        if target is not None:
            raise OptionError(f"--plan decides every tensor; leave out {target.option}")
        check_beside_plan(given)
    return _Asked(convert=make_options(given), planning=planning, target=target)


def _check_together(
    given: Mapping[str, Any],
    about_planning: Mapping[str, Any],
    target: Target | None,
    *,
    has_plan: bool,
) -> None:
    if target is not None:
        for key in _UNIFORM:
            if key in given:
                option = "tensor" if key == "tensor_bits" else key.replace("_", "-")
                raise OptionError(f"{target.option} decides every tensor; leave out --{option}")
    elif about_planning and about_planning.keys().isdisjoint({"calibration", "data"}):
        from onnxq.allocation import planning_options

        option = planning_options.OPTIONS[sorted(about_planning)[0]]
        raise OptionError(
            f"{option}: goes with a target such as --target-ratio 0.15, or with --calibration; "
            "give one of them"
        )
    elif not has_plan and make_options(given).init != "optimal":
        raise OptionError("--calibration goes with --init optimal; leave one of them out")


def _opened(request: Request, asked: _Asked, target: Path | None) -> Job:
    """Return the job of a request, its plan still empty."""
    source = request.source
    document = open_model(source)
    input_bytes, inputs = model.total_bytes(document), model.data_files(document)
    if target is not None:
        files.check_output(target, force=request.force, inputs=inputs)
    found = recognise.find(document)
    if found:
        _decode_first(document, found, request.requantize)

    def reopen() -> Document:
        again = open_model(source)
        if found:
            revert.replace_all(again, recognise.find(again), files.InlineStore())
        return again

    return Job(
        document=document,
        options=asked.convert,
        plan=Plan(tensors=(), skips=()),
        target=target,
        input_bytes=input_bytes,
        inputs=frozenset(inputs),
        is_requantized=bool(found),
        has_plan=request.plan is not None,
        reopen=reopen,
    )


def _decided(request: Request, asked: _Asked, job: Job) -> tuple[Job, Planned | None]:
    """Return the job with its plan, and what else was found out for it."""
    weights = model.weights(job.document)
    if request.plan is not None:
        job = replace(job, plan=_matched(request.plan, job, weights))
    elif asked.target is None:
        job = replace(
            job, plan=conversion.plan(job.document, weights, asked.convert, request.progress)
        )
    if asked.planning is None and not (request.plan is not None and job.plan.needs_calibration):
        return job, None
    from onnxq.allocation import planning
    from onnxq.allocation.planning_options import PlanningOptions

    tell = _teller(request.progress)
    options = asked.planning or PlanningOptions()
    if request.plan is not None:
        made = planning.followed(job, options, job.plan, tell)
    elif asked.target is not None:
        made = planning.allocated(job, options, asked.target, tell)
        made = replace(made, plan=replace(made.plan, target=asked.target.option))
    else:
        made = planning.calibrated(job, options, tell)
    return replace(job, plan=made.plan, fits=made.fits), made


def _teller(progress: Progress | None) -> Any:
    """Return what tells a caller of steps whose number is not known."""

    def tell(stage: str, subject: str) -> None:
        if progress is not None:
            event = ProgressEvent(
                stage=stage,
                tensor=subject,
                done_tensors=0,
                total_tensors=0,
                done_bytes=0,
                total_bytes=1,
            )
            progress(event)

    return tell


def _matched(plan: str | os.PathLike[str] | Plan, job: Job, weights: list[model.Weight]) -> Plan:
    if isinstance(plan, Plan):
        return match_plan(job.document, plan, weights)
    try:
        return match_plan(job.document, _load_plan(Path(plan)), weights)
    except InputError as err:
        raise InputError(f"{os.fspath(plan)}: {err}") from err


def _target_notes(target: Target, job: Job, outcome: conversion.Outcome) -> list[str]:
    from onnxq.allocation import planning, targets

    if not isinstance(target, targets.SizeTarget):
        return []
    counted = planning.model_bytes(job)
    figure = float(target.figure(outcome.output_bytes, counted))
    asked = target.bytes(counted)
    return [
        f"{target.option} asked for {asked:,} bytes at most; the file has "
        f"{outcome.output_bytes:,} ({figure:.6g})"
    ]


def _decode_first(document: Document, found: list[Found], requantize: bool) -> None:
    if not requantize:
        raise UnsupportedError(
            f"{document.label}: is converted already ({len(found)} encoded tensors, the first "
            f"{found[0].name!r}); pass --requantize to decode it first"
        )
    revert.replace_all(document, found, files.InlineStore())


def _load_plan(path: Path) -> Plan:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise InputError(f"cannot be read: {err.strerror or err}") from err
    except (ValueError, RecursionError) as err:
        raise InputError("is no JSON, expected a plan that --save-plan wrote") from err
    return Plan.from_json(record, "plan")


def _check(
    source: ModelLike,
    job: Job,
    samples: int | None,
    recipe: draws.Recipe,
    candidate: Path | bytes,
) -> checks.Check | None:
    """Compare the candidate with the source in onnxruntime, unless that is switched off."""
    if samples == 0:
        return None
    if samples is None and job.input_bytes > checks.LIMIT_BYTES:
        reason = "the model is large; pass --check 1 to run it all the same"
        return checks.Check(status="skipped", reason=reason, samples=0)
    reference = job.document.path or files.serialize(to_proto(source), job.document.label)
    return checks.compare(reference, candidate, samples=samples or 1, recipe=recipe)


def _report(outcome: conversion.Outcome, job: Job, output: str | None, started: float) -> Report:
    rows = summary.tensor_rows(outcome.plan, outcome.encoded)
    ledger = summary.ledger(
        outcome.output_bytes, rows, outcome.kept, outcome.skeleton_bytes, outcome.moved_bytes
    )
    elements = sum(row.elements for row in rows)
    stored = sum(row.index_bytes + row.codebook_bytes for row in rows)
    return Report(
        input=FileSize(path=name_of(job.document), file_bytes=job.input_bytes),
        output=FileSize(
            path=output, file_bytes=outcome.output_bytes, data_files=outcome.data_files
        ),
        predicted_bytes=outcome.predicted_bytes,
        ce2_bytes=summary.published_bytes(outcome.plan, outcome.encoded, outcome.kept),
        bits_per_weight=8 * stored / elements if elements else None,
        ledger=ledger,
        tensors=rows,
        skipped=summary.skip_rows(outcome.plan.skips),
        check=outcome.check,
        notes=tuple(outcome.notes),
        options=job.described_options(),
        versions=summary.versions(),
        seconds=time.monotonic() - started,
        peak_memory_bytes=summary.peak_memory_bytes(),
    )
