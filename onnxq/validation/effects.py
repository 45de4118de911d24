"""Which tensors hurt: the reference with one decoded tensor in it at a time.

Owns the exchange of one tensor in a model and the ranking. What a tensor does alone says where bits
are missing; effects of several do not simply add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, TensorProto

from onnxq import files, model, recognise, revert, summary, tensors
from onnxq.differences import OutputDifference, OutputSums
from onnxq.errors import InputError, OutputError, UnsupportedError
from onnxq.graphs import Document
from onnxq.model import Weight
from onnxq.recognise import Found
from onnxq.validation.evaluation import evaluate
from onnxq.validation.measurements import LayerRow
from onnxq.validation.reference_runs import ReferenceRuns

Progress = Callable[[str, int, int], None]
"""Called with a tensor's name, the tensors that are done, and all of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Change:
    """Hold a tensor of the reference and what the candidate has in its place."""

    weight: Weight
    bit_width: int | None
    stored_bytes: int
    values: Callable[[], tensors.Array]


def rank_layers(
    reference: Document,
    candidate: Document,
    runs: ReferenceRuns,
    progress: Progress | None = None,
) -> tuple[LayerRow, ...]:
    """Return a row for every tensor that the candidate changes, the worst for the outputs first.

    Encoded tensors are compared by their decoded values; of a candidate without any, the tensors
    of the same name and shape that differ. Costs a session and a run over the data of `runs` for
    each tensor that is not decoded exactly.

    Args:
        reference: the model that is right; it is read whole into memory.
        candidate: the model to judge.
        runs: the reference's outputs on a few samples.
        progress: told of every tensor.

    Raises:
        InputError: the two have no tensor in common, or a value cannot be read.
        UnsupportedError: the reference is larger than a message can be (2 GB), or cannot be run.
        ValidationError: with a tensor exchanged the reference cannot be run.
    """
    changes = _changes(reference, candidate)
    if not changes:
        raise InputError(
            f"{candidate.label}: holds no tensor that {reference.label} has by this name, type "
            "and shape; their tensors cannot be compared"
        )
    files.move_kept(reference, files.InlineStore())
    rows = []
    for number, change in enumerate(changes, 1):
        row = _row(reference, change, runs)
        if row is not None:
            rows.append(row)
        if progress is not None:
            progress(change.weight.name, number, len(changes))
    return tuple(sorted(rows, key=_rank))


def _changes(reference: Document, candidate: Document) -> list[_Change]:
    """Pair the tensors of both models by graph, name, type and shape."""
    theirs = {
        (weight.graph, weight.name): weight
        for weight in model.weights(reference)
        if weight.is_float and weight.kind in ("initializer", "constant")
    }
    found = recognise.find(candidate)
    if found:
        pairs = ((theirs.get((item.scope.path, item.name)), item) for item in found)
        return [
            _encoded(candidate, weight, item)
            for weight, item in pairs
            if weight is not None
            and weight.shape == item.shape
            and weight.data_type == item.storage.form.data_type
        ]
    pairs_of_plain = (
        (theirs.get((other.graph, other.name)), other) for other in model.weights(candidate)
    )
    return [
        _plain(candidate, weight, other)
        for weight, other in pairs_of_plain
        if weight is not None
        and other.kind in ("initializer", "constant")
        and (weight.shape, weight.data_type) == (other.shape, other.data_type)
    ]


def _encoded(candidate: Document, weight: Weight, item: Found) -> _Change:
    return _Change(
        weight=weight,
        bit_width=item.storage.form.bit_width,
        stored_bytes=summary.found_row(candidate, item).stored_bytes,
        values=lambda: revert.decoded(candidate, item),
    )


def _plain(candidate: Document, weight: Weight, other: Weight) -> _Change:
    return _Change(
        weight=weight,
        bit_width=None,
        stored_bytes=other.data_bytes,
        values=lambda: model.read(candidate, other),
    )


def _row(reference: Document, change: _Change, runs: ReferenceRuns) -> LayerRow | None:
    """Return a tensor's row; None for one of a plain candidate that is the reference's own."""
    weight = change.weight
    values = change.values()
    own = _difference(model.read(reference, weight), values, weight.name)
    worst = None
    if not (own.is_equal or own.undefined):
        with _exchanged(reference, weight, values):
            worst = _worst(_serialized(reference), runs)
    elif change.bit_width is None:
        return None
    return LayerRow(
        name=weight.name,
        graph=weight.graph,
        bit_width=change.bit_width,
        elements=weight.elements,
        stored_bytes=change.stored_bytes,
        snr_db=own.snr_db,
        output_snr_db=None if worst is None else worst.snr_db,
        output=None if worst is None else worst.name,
        is_equal=worst is None,
    )


def _difference(values: tensors.Array, decoded: tensors.Array, name: str) -> OutputDifference:
    sums = OutputSums()
    sums.add(values, decoded)
    return sums.difference(name)


def _worst(exchanged: bytes, runs: ReferenceRuns) -> OutputDifference | None:
    """Return the output that differs most; None where all are equal."""
    outputs = evaluate(runs, exchanged, ()).check.outputs
    noisy = [o for o in outputs if o.snr_db is not None and o.undefined is None]
    return min(noisy, key=lambda output: output.snr_db or 0.0, default=None)


@contextmanager
def _exchanged(reference: Document, weight: Weight, values: tensors.Array) -> Iterator[None]:
    """Put other values in the place of a tensor for the duration."""
    if weight.kind == "constant":
        container = weight.scope.proto.node[weight.position].attribute[0]
        kept = AttributeProto()
        kept.CopyFrom(container)
        replacement = AttributeProto(name="value", type=AttributeProto.TENSOR)
        replacement.t.CopyFrom(_tensor(kept.t.name, weight, values))
        container.CopyFrom(replacement)
        try:
            yield
        finally:
            container.CopyFrom(kept)
        return
    graph = weight.scope.proto
    assert isinstance(graph, GraphProto)  # functions hold no initializers
    tensor = graph.initializer[weight.position]
    original = TensorProto()
    original.CopyFrom(tensor)
    tensor.CopyFrom(_tensor(weight.name, weight, values))
    try:
        yield
    finally:
        tensor.CopyFrom(original)


def _tensor(name: str, weight: Weight, values: tensors.Array) -> TensorProto:
    tensor = tensors.make_tensor(name, weight.data_type, weight.shape)
    tensor.raw_data = values.tobytes()
    return tensor


def _serialized(reference: Document) -> bytes:
    try:
        return files.serialize(reference.proto, reference.label)
    except OutputError as err:
        raise UnsupportedError(
            f"{reference.label}: the effect of single tensors is measured in memory, which holds "
            "models of up to 2 GB; leave out --layers"
        ) from err


def _rank(row: LayerRow) -> tuple[float, str, str]:
    noise = -math.inf if row.output_snr_db is None else row.output_snr_db
    return (math.inf if row.is_equal else noise, row.graph, row.name)
