"""Exact size arithmetic: what an encoded tensor costs in the file, to the byte.

Owns the two accountings. The *file* size counts planes, codebook, padding, nodes and names; the
*CE2* size is the publication's (spec: size accounting), which counts neither graph nor padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest

from onnxq import wire
from onnxq.emission import ConstantRecord, Emission, Emitter, Names, NodeRecord
from onnxq.forms import Form, expression
from onnxq.graphs import Holder
from onnxq.pools import Pool, member_indices
from onnxq.trees import (
    BFLOAT16,
    DOUBLE,
    FLOAT,
    FLOAT16,
    INT32,
    INT64,
    ITEM_BITS,
    Const,
    Expr,
    Op,
    Output,
    Part,
    Value,
    inputs_of,
    part_bytes,
)

EXTERNAL_THRESHOLD = 1024
"""Values of at least this many bytes go to the data file when there is one."""
LARGE_ALIGNMENT, SMALL_ALIGNMENT = 4096, 64
"""Offsets in a data file: pages for values of a megabyte and more, else cache lines."""
_LARGE = 1 << 20
_OUTPUT_BYTES = 5
"""A name of usual length among the outputs of the Split of a pool."""


class Placement:
    """Give out offsets in an external data file, in the order of the calls."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.end = 0

    def place(self, length: int) -> int:
        """Return the offset of the next `length` bytes."""
        offset = align(self.end, length)
        self.end = offset + length
        return offset


def align(end: int, length: int) -> int:
    """Return the least aligned offset from `end` on for a value of `length` bytes.

    >>> align(1, 2000), align(1, 1 << 20)
    (64, 4096)
    """
    step = LARGE_ALIGNMENT if length >= _LARGE else SMALL_ALIGNMENT
    return -(-end // step) * step


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Hold the bytes of one encoded tensor in the file."""

    index_bytes: int
    codebook_bytes: int
    graph_bytes: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.index_bytes + self.codebook_bytes + self.graph_bytes


def constant_payload(record: ConstantRecord) -> int:
    """Return the raw bytes of a constant's values."""
    source = record.source
    if isinstance(source, Const):
        return (len(source.values) * ITEM_BITS[source.data_type] + 7) // 8
    return part_bytes(source)


def typed_bytes(source: Const) -> int | None:
    """Return the bytes of fixed values as varints of their own field; None where no shorter.

    A shape of four dimensions takes 4 to 8 bytes so, and 32 as `raw_data`.
    """
    if source.data_type not in (INT32, INT64):
        return None
    length = sum(wire.varint_bytes(value) for value in source.values)
    return length if length < len(source.values) * ITEM_BITS[source.data_type] // 8 else None


def node_cost(record: NodeRecord) -> int:
    """Return the bytes that a node adds to its graph."""
    body = wire.node_bytes(record.op_type, record.inputs, record.outputs, dict(record.attributes))
    texts = sum(wire.text_bytes(text) for text in (record.name, record.doc) if text)
    return wire.field_bytes(body + texts)


def constant_cost(record: ConstantRecord, held: Holder, placement: Placement | None = None) -> int:
    """Return the bytes that a constant adds to its graph in one of the ways it may be held.

    With a placement, values of EXTERNAL_THRESHOLD bytes and more take their place in the data
    file and only the reference is counted here. A function's Constants stay inline, and so do
    fixed values that are shorter as varints.
    """
    payload = constant_payload(record)
    source = record.source
    name = "" if held == "node" else record.name
    typed = typed_bytes(source) if isinstance(source, Const) else None
    if typed is not None:
        body = wire.tensor_bytes(name, source.dims, source.data_type, typed)
    elif placement is not None and payload >= EXTERNAL_THRESHOLD and held != "node":
        body = wire.tensor_bytes(name, source.dims, source.data_type, None)
        body += wire.external_bytes(placement.location, placement.place(payload), payload)
    else:
        body = wire.tensor_bytes(name, source.dims, source.data_type, payload)
    if held == "node":
        body = wire.constant_node_bytes(body, record.name)
    listed = 0
    if held == "input":
        listed = wire.field_bytes(wire.value_info_bytes(name, source.dims, source.data_type))
    return wire.field_bytes(body) + listed


def own_cost(emission: Emission, form: Form, held: Holder) -> Cost:
    """Return what a tensor's own records cost, everything inline."""
    nodes = sum(node_cost(record) for record in emission.nodes)
    constants = sum(constant_cost(record, held) for record in emission.constants)
    payload = sum(constant_payload(record) for record in emission.constants)
    pooled = form.pool.share_bytes(form.member) if form.pool is not None else 0
    return Cost(
        index_bytes=payload - form.codebook_bytes + pooled,
        codebook_bytes=form.codebook_bytes,
        graph_bytes=nodes + constants - payload,
    )


def expression_cost(expr: Expr, held: Holder) -> int:
    """Return about what one shared node or constant costs, with names of usual length."""
    name = "q__"
    if isinstance(expr, Op):
        inputs = tuple(name for _ in expr.inputs)
        record = NodeRecord(
            op_type=expr.op_type, inputs=inputs, outputs=(name,), attributes=expr.attributes
        )
        return node_cost(record)
    if isinstance(expr, (Output, Value)):
        return 0
    return constant_cost(ConstantRecord(name=name, source=expr), held)


@lru_cache(maxsize=4096)
def nominal_cost(form: Form, name_bytes: int, held: Holder) -> Cost:
    """Return what a tensor costs that stands alone, with new names of usual length.

    Args:
        form: how the tensor is stored.
        name_bytes: length of the tensor's own name.
        held: how its constants stand in the model.
    """
    return own_cost(nominal_emission(form, "n" * name_bytes), form, held)


@lru_cache(maxsize=4096)
def member_cost(form: Form, bit_width: int, name_bytes: int, held: Holder) -> Cost:
    """Return what a tensor costs as one of a pool, beside what the pool costs itself.

    Its indices count as if they filled whole bytes.

    Args:
        form: how the tensor is stored; its layout and width do not matter.
        bit_width: of the pool.
        name_bytes: length of the tensor's own name.
        held: how its constants stand in the model.
    """
    pool = Pool(bit_width=8, lengths=(form.elements,), opset=form.opset)
    pooled = replace(form, layout="portable", bit_width=8, pool=pool, member=0)
    cost = nominal_cost(pooled, name_bytes, held)
    return Cost(
        index_bytes=-(-form.elements * bit_width // 8),
        codebook_bytes=cost.codebook_bytes,
        graph_bytes=cost.graph_bytes + _OUTPUT_BYTES + wire.varint_bytes(form.elements),
    )


@lru_cache(maxsize=64)
def pool_bytes(bit_width: int, opset: int, held: Holder) -> int:
    """Return what a pool costs beside its tensors: about what one of no tensor would."""
    pool = Pool(bit_width=bit_width, lengths=(1000,), opset=opset)
    names = Names(())
    names.prefix = "q_"
    emission = Emitter(names).emit(member_indices(pool, 0), "")
    cost = sum(node_cost(record) for record in emission.shared_nodes)
    for record in emission.shared_constants:
        cost += constant_cost(record, held)
        if isinstance(record.source, Part):
            cost -= pool.stream_bytes
    return cost - _OUTPUT_BYTES - wire.varint_bytes(1000)


def nominal_emission(form: Form, name: str) -> Emission:
    """Return the records of a tensor as if it stood alone, with new names of usual length."""
    names = Names(())
    names.prefix = "q_"
    return Emitter(names).emit(expression(form), name)


def ce2_bytes(encoded: Iterable[tuple[int, int, int]], kept_float_bytes: int) -> int:
    """Return the published size of (bit_width, elements, centroids) triples and kept floats.

    size = ceil(sum b_t n_t / 8) + kept floats + 4 sum K_t (spec: size accounting; the ceiling is
    taken once).

    >>> ce2_bytes([(2, 116815, 4)] * 1 + [(2, 0, 4)] * 15, 0)
    29460
    """
    bits = centroids = 0
    for bit_width, elements, used in encoded:
        bits += bit_width * elements
        centroids += used
    return math.ceil(bits / 8) + kept_float_bytes + 4 * centroids


def bits_per_weight(payload_bytes: int, elements: Sequence[int] | int) -> float:
    """Return bits a weight, codebook and padding included; 0.0 for no weights."""
    total = elements if isinstance(elements, int) else sum(elements)
    return 8 * payload_bytes / total if total else 0.0


def load_bytes(*forms: Form) -> int:
    """Return the memory that a runtime holds while it folds tensors' decode nodes at load.

    Every intermediate stays alive until the folding pass ends, so all node outputs count, the
    decoded tensors among them, and the stored parts too. What tensors share counts once: tables,
    and the stream of a pool.
    """
    shared: dict[Expr, tuple[int, ...]] = {}
    total = 0
    for form in forms:
        sizes = dict(shared)
        stack: list[tuple[Expr, bool]] = [(expression(form), False)]
        while stack:
            expr, is_ready = stack.pop()
            if expr in sizes:
                continue
            if isinstance(expr, (Op, Output)) and not is_ready:
                stack.append((expr, True))
                stack.extend((item, False) for item in inputs_of(expr))
                continue
            sizes[expr] = _dims(expr, sizes)
            total += _held_bytes(expr, math.prod(sizes[expr]), form)
            if isinstance(expr, (Op, Part)) and expr.is_shared:
                shared[expr] = sizes[expr]
    return total


_FLOAT_OPERATORS = ("Cast", "Gather", "Reshape", "Slice", "Concat", "Mul", "ScatterElements")
"""Operators of forms that may carry decoded values."""


def _held_bytes(expr: Expr, elements: int, form: Form) -> int:
    """Return the bytes of a node's output or of a stored part; fixed constants are not counted."""
    if isinstance(expr, Part):
        return part_bytes(expr)
    if isinstance(expr, Output):
        return elements * 4
    if not isinstance(expr, Op) or expr.op_type == "Split":
        return 0
    is_float = expr.op_type in _FLOAT_OPERATORS and _is_float(expr)
    return elements * (ITEM_BITS[form.data_type] // 8 if is_float else 4)


def _is_float(expr: Expr) -> bool:
    """Tell whether a node of a form carries decoded values rather than int32 indices."""
    while isinstance(expr, Op):
        if expr.op_type == "Cast":
            return expr.attributes[0][1] != INT32
        expr = expr.inputs[0]
    return isinstance(expr, Part) and expr.data_type in (FLOAT, FLOAT16, DOUBLE, BFLOAT16)


def _dims(expr: Expr, known: dict[Expr, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the dims of a node's output from those of its inputs."""
    if isinstance(expr, Value):
        return ()
    if isinstance(expr, Output):
        lengths = dict(expr.op.attributes).get("split") or _fixed(expr.op.inputs[1])
        return (lengths[expr.number],) if isinstance(lengths, tuple) else ()
    if not isinstance(expr, Op):
        return expr.dims
    inputs = [known.get(item, ()) for item in expr.inputs]
    if expr.op_type == "Gather":
        return (*inputs[1], *inputs[0][1:])
    if expr.op_type == "Reshape":
        shape = _fixed(expr.inputs[1])
        rest = -math.prod(shape)  # the product of the others where one is -1
        return tuple(math.prod(inputs[0]) // rest if dim < 0 else dim for dim in shape)
    if expr.op_type == "Slice":
        ends = dict(expr.attributes).get("ends") or _fixed(expr.inputs[2])
        return ends if isinstance(ends, tuple) else ()
    if expr.op_type == "Concat":
        return (sum(dims[0] for dims in inputs), *inputs[0][1:])
    if expr.op_type == "ScatterElements":
        return inputs[0]
    if expr.op_type == "Range":
        return _fixed(expr.inputs[1])
    if expr.op_type in ("Split", "MatMul"):
        return inputs[0][:1]
    columns = zip_longest(*(reversed(dims) for dims in inputs), fillvalue=1)
    return tuple(reversed([max(column) for column in columns]))


def _fixed(expr: Expr) -> tuple[int, ...]:
    return expr.values if isinstance(expr, Const) else ()
