"""The steps of a conversion between the plan and the report: encode, insert, save, check.

Owns the order of work and what is in memory at a time: one tensor (or a few small ones) is read,
encoded, stored and released before the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from onnxq import ahead, files, graphs, layout, model, revert, summary, tensors
from onnxq.checks import Check
from onnxq.clustering import cluster
from onnxq.encode import Encoded, Fitter, encode, fitted
from onnxq.graphs import Document
from onnxq.model import Weight
from onnxq.options import BESIDE_A_PLAN, ConvertOptions, ExternalData
from onnxq.parallel import ordered_map, processors
from onnxq.plans import Plan, TensorPlan, make_plan
from onnxq.recognise import Found
from onnxq.selection import reason_to_keep, skip

MAX_INLINE_BYTES = model.MAX_PROTO_BYTES - (1 << 20)


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """Say how far a conversion is, after each tensor."""

    stage: str
    tensor: str
    done_tensors: int
    total_tensors: int
    done_bytes: int
    total_bytes: int


Progress = Callable[[ProgressEvent], None]
Checker = Callable[[Path | bytes], Check | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """Hold what a conversion is asked to do.

    `target` is None for a model kept in memory; `inputs` are the source's files, which are never
    removed; `reopen` gives the source once more, unchanged; `fits` are what `fit_ahead` found;
    `fitter` fits codebooks.
    """

    document: Document
    options: ConvertOptions
    plan: Plan
    target: Path | None
    input_bytes: int
    inputs: frozenset[Path]
    is_requantized: bool
    reopen: Callable[[], Document]
    has_plan: bool = False
    fits: ahead.Fits | None = None
    fitter: Fitter = fitted

    def described_options(self) -> dict[str, Any]:
        """Return the options in effect: those that a plan decides are left out beside one."""
        described = self.options.to_json()
        if self.has_plan:
            described = {key: described[key] for key in sorted(BESIDE_A_PLAN)} | {"plan": True}
        return described


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """Hold what a conversion did; `moved_bytes` are those of other tensors in the data file."""

    document: Document
    plan: Plan
    encoded: Mapping[tuple[str, str], Encoded]
    kept: Sequence[Weight]
    output_bytes: int
    predicted_bytes: int
    skeleton_bytes: int
    moved_bytes: int
    check: Check | None
    notes: Sequence[str]
    data_files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """Hold a model made ready for insertion: planned weights out, kept ones in their new place."""

    document: Document
    plan: Plan
    fits: ahead.Fits
    weights: Sequence[Weight]
    taken: set[str]
    store: files.Store
    skeleton_bytes: int
    moved_bytes: int
    predicted_bytes: int


def workers(options: ConvertOptions) -> int:
    """Return the number of threads to use: `jobs`, or the processors this process may use."""
    return options.jobs or processors()


class _Meter:
    """Tell a caller how far a stage is, tensor by tensor."""

    def __init__(self, stage: str, sizes: Sequence[int], progress: Progress | None) -> None:
        self._stage, self._progress = stage, progress
        self._total, self._total_bytes = len(sizes), sum(sizes)
        self._done = self._done_bytes = 0

    def step(self, tensor: str, size: int) -> None:
        """Count a tensor as done."""
        self._done += 1
        self._done_bytes += size
        if self._progress is not None:
            event = ProgressEvent(
                stage=self._stage,
                tensor=tensor,
                done_tensors=self._done,
                total_tensors=self._total,
                done_bytes=self._done_bytes,
                total_bytes=self._total_bytes,
            )
            self._progress(event)


def plan(
    document: Document,
    weights: Sequence[Weight],
    options: ConvertOptions,
    progress: Progress | None,
) -> Plan:
    """Return the plan of a model, telling a caller which tensor is looked at."""
    candidates = [weight for weight in weights if reason_to_keep(weight, options) is None]
    cluster.prepare(sum(weight.elements for weight in candidates))
    meter = _Meter("planning", [weight.data_bytes for weight in candidates], progress)
    return make_plan(
        document,
        weights,
        options,
        workers(options),
        lambda weight: meter.step(weight.name, weight.data_bytes),
    )


def fit_ahead(job: Job, weights: Sequence[Weight], progress: Progress | None = None) -> ahead.Fits:
    """Return the codebooks that must be known to foresee the size, telling a caller of each."""
    opened = ahead.open_tensors(job.plan, weights, is_saved=job.has_plan)
    meter = _Meter("fitting", [planned.original_bytes for planned in opened], progress)
    return ahead.fit_open(
        job.document,
        opened,
        weights,
        workers(job.options),
        lambda planned: meter.step(planned.name, planned.original_bytes),
        job.fitter,
    )


def run(job: Job, check: Checker, progress: Progress | None) -> Outcome:
    """Carry out a plan and put the result in place.

    Where nothing would get smaller the plan is dropped and the equivalent model is written.

    Raises:
        OnnxqError: reading, writing or the check failed; an existing target is then untouched.
    """
    prepared = _ready(job, files.DataFileStore, progress)
    try:
        encoded = dict(_encode_all(prepared, job, progress))
        forms = [(name, item.form) for (_, name), item in encoded.items()]
        notes = summary.form_notes(forms, job.options.layout)
        output_bytes, checked = _save(prepared, job, check)
    except BaseException:
        abandon(prepared.store)
        raise
    about = () if checked is None else checked.notes
    notes = [*_gain_notes(job, prepared, output_bytes), *notes, *about]
    return Outcome(
        document=prepared.document,
        plan=prepared.plan,
        encoded=encoded,
        kept=summary.kept_floats(prepared.weights, prepared.plan),
        output_bytes=output_bytes,
        predicted_bytes=prepared.predicted_bytes,
        skeleton_bytes=prepared.skeleton_bytes,
        moved_bytes=prepared.moved_bytes,
        check=checked,
        notes=notes,
        data_files=data_names(prepared.store),
    )


def foresee(job: Job) -> int:
    """Return the bytes that `run` would write; the job's document is taken apart for it.

    Raises:
        OnnxqError: a tensor that is kept cannot be read, or the model would be too large.
    """
    return _ready(job, files.PlacingStore, None).predicted_bytes


def _ready(job: Job, kind: type[files.PlacingStore], progress: Progress | None) -> _Prepared:
    """Return the job's model ready for insertion, its plan dropped where that gains nothing."""
    if job.fits is None:
        job = replace(job, fits=fit_ahead(job, model.weights(job.document), progress))
    prepared = _prepare(job, job.document, job.plan, kind)
    if job.is_requantized or not _gains_nothing(prepared, job):
        return prepared
    abandon(prepared.store)
    document = job.reopen()
    return _prepare(job, document, _dropped(document, job.plan), kind)


def _gain_notes(job: Job, prepared: _Prepared, output_bytes: int) -> Iterator[str]:
    """Yield what a user should know of the sizes."""
    for name in data_names(prepared.store):
        yield f"the values stand in {name}, which belongs beside the model: ship both files"
    if job.is_requantized:
        yield "the input was converted before: it was decoded first, tables compare with its floats"
    if output_bytes < job.input_bytes:
        return
    if prepared.plan.tensors:
        yield "nothing was gained: the output is not smaller than the input"
    elif any(record.reason == "not-smaller" for record in prepared.plan.skips):
        yield "nothing was gained: no tensor gets smaller, the model is kept as it is"
    else:
        yield "nothing was gained: every tensor is kept, for the reasons listed"


def data_names(store: files.Store) -> tuple[str, ...]:
    """Return the names of the files beside a model that hold its values."""
    final = store.final if isinstance(store, files.DataFileStore) else None
    return (final.name,) if final is not None else ()


def _gains_nothing(prepared: _Prepared, job: Job) -> bool:
    if not job.options.only_smaller or job.has_plan or not prepared.plan.tensors:
        return False
    return prepared.predicted_bytes >= job.input_bytes


def _dropped(document: Document, plan: Plan) -> Plan:
    """Return a plan that keeps everything, the dropped tensors with their reason."""
    reasons = {(record.graph, record.name): record for record in plan.skips}
    detail = "with its decoding tables the whole model would not get smaller"
    skips = [
        reasons.get((weight.graph, weight.name)) or skip(weight, "not-smaller", detail)
        for weight in model.weights(document)
    ]
    return Plan(tensors=(), skips=tuple(skips))


def _prepare(job: Job, document: Document, plan: Plan, kind: type[files.PlacingStore]) -> _Prepared:
    weights = model.weights(document)
    taken = graphs.taken_names(document)
    external = job.options.external_data
    if external == "auto" and not plan.tensors and job.input_bytes < MAX_INLINE_BYTES:
        external = "never"  # the same values with longer references would take more bytes
    store = open_store(external, document, job.target, kind)
    try:
        layout.strip(document, plan, weights)
        files.move_kept(document, store)
    except BaseException:
        abandon(store)
        raise
    moved = sum(model.external_lengths(document))
    kept = summary.kept_floats(weights, plan)
    fits = job.fits or {}
    used = {key: found.centroids.size for key, found in fits.items()}
    predicted = layout.predict(document, plan, weights, taken, store.placement, used)
    if _is_source(document, plan, store, job):
        predicted = job.input_bytes
    return _Prepared(
        document=document,
        plan=plan,
        fits=fits,
        weights=weights,
        taken=taken,
        store=store,
        skeleton_bytes=files.message_bytes(document.proto, document.label),
        moved_bytes=moved - summary.external_bytes(kept),
        predicted_bytes=predicted,
    )


def _is_source(document: Document, plan: Plan, store: files.Store, job: Job) -> bool:
    """Tell whether the model's own file is the result, byte for byte."""
    is_inline = store.placement is None and not document.has_data_files
    return is_inline and not plan.tensors and not job.is_requantized and document.path is not None


def open_store(
    external: ExternalData,
    document: Document,
    target: Path | None,
    kind: type[files.PlacingStore] = files.DataFileStore,
) -> files.Store:
    """Return where values go: to a data file when asked for, or when the source had one."""
    if target is None or external == "never":
        return files.InlineStore()
    if external == "always" or document.has_data_files:
        return kind(target)
    return files.InlineStore()


def _encode_all(
    prepared: _Prepared, job: Job, progress: Progress | None
) -> Iterator[tuple[tuple[str, str], Encoded]]:
    """Encode and insert every planned tensor in plan order; yield what is worth remembering."""
    by_key = {(weight.graph, weight.name): weight for weight in prepared.weights}
    assembler = layout.Assembler(prepared.document, prepared.taken, prepared.weights, prepared.plan)
    inserter = layout.Inserter(prepared.document, assembler, prepared.store)
    jobs = workers(job.options)

    def work(planned: TensorPlan) -> Encoded:
        values = model.read(prepared.document, by_key[planned.key])
        known, own_jobs = prepared.fits.get(planned.key), ahead.own_jobs(planned, jobs)
        if known is None and planned.layout != "half":
            known = job.fitter(values, planned, own_jobs)
        return encode(values, planned, inserter.form(planned), known=known, jobs=own_jobs)

    leads = [planned for planned in prepared.plan.tensors if planned.same_as is None]
    results = ordered_map(
        work, leads, jobs=jobs, cost=ahead.working_bytes, budget=ahead.INFLIGHT_BYTES
    )
    meter = _Meter("encoding", [p.original_bytes for p in prepared.plan.tensors], progress)
    for planned in prepared.plan.tensors:
        encoded = next(results) if planned.same_as is None else None
        inserter.insert(planned, encoded)
        meter.step(planned.name, planned.original_bytes)
        if encoded is not None:
            yield planned.key, encoded.without_payloads()


def _save(prepared: _Prepared, job: Job, check: Checker) -> tuple[int, Check | None]:
    """Put the model in place after its check; return the bytes of all its files."""
    document = prepared.document

    def serialize() -> bytes:
        is_source = _is_source(document, prepared.plan, prepared.store, job)
        if is_source and document.path is not None:
            return document.path.read_bytes()
        return files.serialize(document.proto, document.label)

    if job.target is None:
        data = serialize()
        return len(data), check(data)
    with files.pending_model(job.target, serialize, prepared.store, job.inputs) as candidate:
        checked = check(candidate)
        size = candidate.stat().st_size
    return size + data_bytes(prepared.store), checked


def data_bytes(store: files.Store) -> int:
    """Return the bytes of the data file."""
    return store.placement.end if store.placement is not None else 0


def abandon(store: files.Store) -> None:
    """Remove what was written of a data file."""
    if isinstance(store, files.DataFileStore):
        store.abandon()


def restore(document: Document, found: list[Found], target: Path | None) -> int:
    """Put decoded weights in place of encoded ones and save; return the bytes of all files.

    Raises:
        OnnxqError: reading or writing failed; an existing target is then untouched.
    """
    decoded_bytes = sum(
        tensors.nominal_bytes(item.storage.form.data_type, item.storage.form.elements)
        for item in found
    )
    is_large = document.file_bytes + decoded_bytes > MAX_INLINE_BYTES
    store = open_store("always" if is_large else "auto", document, target)
    inputs = model.data_files(document)
    try:
        revert.replace_all(document, found, store)
        files.move_kept(document, store)
        if target is None:
            return files.message_bytes(document.proto, document.label)
        serialize = partial(files.serialize, document.proto, document.label)
        with files.pending_model(target, serialize, store, inputs) as candidate:
            size = candidate.stat().st_size
    except BaseException:
        abandon(store)
        raise
    return size + data_bytes(store)
