"""What a model holds and what a conversion would do with it.

Owns `inspect`: the same plan and the same size arithmetic as a conversion, and nothing written.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from onnxq import conversion, files, model, revert, summary
from onnxq.forms import used_form
from onnxq.graphs import Document, consumers, holder, scopes
from onnxq.options import ConvertOptions
from onnxq.plans import Plan, form_of, make_plan, places
from onnxq.rate import load_bytes, nominal_cost
from onnxq.recognise import Found
from onnxq.report import NO_WEIGHTS, FileSize, InspectReport
from onnxq.selection import Skip, reason_to_keep, skip

_OUTPUT = "model.onnx"
"""The name that the data file of a model in memory is told apart by."""


def inspect_plain(document: Document, options: ConvertOptions, size: FileSize) -> InspectReport:
    """Return what a plain model holds and what a conversion under options would do."""
    weights = model.weights(document)
    plan = make_plan(document, weights, options, conversion.workers(options))
    job = _job(document, plan, options, size.file_bytes)
    fits = conversion.fit_ahead(job, weights)
    by_key = {planned.key: planned for planned in plan.tensors}
    kept = {(record.graph, record.name): record for record in plan.skips}
    rows, forms = [], []
    where = places(plan, weights)
    for weight in weights:
        key = (weight.graph, weight.name)
        planned = by_key.get(key)
        cost = None
        if planned is not None:
            form = form_of(planned, weight.scope.opset, weight.data_type, where.get(key))
            if key in fits:
                form = used_form(form, fits[key].centroids.size)
            held = holder(document, weight.scope)
            if planned.same_as is None:
                cost = nominal_cost(form, len(weight.name.encode()), held).total
                forms.append(form)
        rows.append(summary.weight_row(weight, planned, kept.get(key), cost))
    predicted = conversion.foresee(replace(job, fits=fits))
    is_gain = predicted < size.file_bytes
    return InspectReport(
        model=size,
        is_converted=False,
        weights=tuple(rows),
        predicted_file_bytes=predicted,
        predicted_load_bytes=load_bytes(*forms) + summary.kept_bytes(weights, plan),
        notes=() if is_gain else ("converting would gain nothing",),
        options=options.to_json(),
        versions=summary.versions(),
    )


def _job(
    document: Document, plan: Plan, options: ConvertOptions, input_bytes: int
) -> conversion.Job:
    """Return the conversion to a file with a name as long as that of the model's own."""
    if document.path is not None:
        reopen = partial(model.load, document.path)
    else:
        whole = model.wrap(document.proto, document.folder)
        reopen = partial(model.wrap, whole.proto, whole.folder)
    return conversion.Job(
        document=document,
        options=options,
        plan=plan,
        target=document.path or Path(_OUTPUT),
        input_bytes=input_bytes,
        inputs=frozenset(),
        is_requantized=False,
        reopen=reopen,
    )


def inspect_converted(document: Document, found: list[Found], size: FileSize) -> InspectReport:
    """Return what a converted model holds; the document is taken apart for it."""
    rows = tuple(summary.found_row(document, item) for item in found)
    uses = consumers(scopes(document))
    encoded = tuple(
        summary.encoded_row(row, item, uses.get((row.graph, row.name), ()))
        for row, item in zip(rows, found, strict=True)
    )
    load = load_bytes(*(item.form for item in found if item.same_as is None))
    revert.remove_all(document, found)
    if not document.has_data_files:
        files.move_kept(document, files.InlineStore())
    others = [(weight, _known_reason(weight)) for weight in model.weights(document)]
    kept = [weight for weight, why in others if why is None or why.reason not in NO_WEIGHTS]
    moved = sum(model.external_lengths(document))
    elements = sum(row.elements for row in rows)
    stored = sum(row.stored_bytes for row in rows)
    return InspectReport(
        model=size,
        is_converted=True,
        weights=encoded + tuple(summary.weight_row(weight, kept=why) for weight, why in others),
        tensors=rows,
        ledger=summary.ledger(
            size.file_bytes,
            rows,
            kept,
            document.proto.ByteSize(),
            moved - summary.external_bytes(kept),
        ),
        predicted_file_bytes=None,
        predicted_load_bytes=load + sum(weight.data_bytes for weight in kept),
        bits_per_weight=8 * stored / elements if elements else None,
        versions=summary.versions(),
    )


def _known_reason(weight: model.Weight) -> Skip | None:
    """Return why a tensor was kept whatever the options; None where they may have had a part."""
    found = reason_to_keep(weight, ConvertOptions())
    return None if found is None else skip(weight, *found)
