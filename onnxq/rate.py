"""Exact size arithmetic: what an encoded tensor costs in the file, to the byte.

Owns the two accountings. The *file* size counts planes, codebook, padding, nodes and names; the
*CE2* size is the publication's (spec: size accounting), which counts neither graph nor padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxq import wire
from onnxq.emission import ConstantRecord, Emission, Emitter, Names, NodeRecord
from onnxq.forms import ITEM_BITS, Const, Form, expression, part_bytes

EXTERNAL_THRESHOLD = 1024
"""Values of at least this many bytes go to the data file when there is one."""
LARGE_ALIGNMENT, SMALL_ALIGNMENT = 4096, 64
"""Offsets in a data file: pages for values of a megabyte and more, else cache lines."""
_LARGE = 1 << 20


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


def node_cost(record: NodeRecord) -> int:
    """Return the bytes that a node adds to its graph."""
    body = wire.node_bytes(
        record.op_type, record.inputs, (record.output,), dict(record.attributes)
    )
    return wire.field_bytes(body)


def constant_cost(
    record: ConstantRecord, *, as_node: bool, placement: Placement | None = None
) -> int:
    """Return the bytes that a constant adds to its graph, as initializer or `Constant` node.

    With a placement, values of EXTERNAL_THRESHOLD bytes and more take their place in the data
    file and only the reference is counted here. A function's Constants stay inline.
    """
    payload = constant_payload(record)
    source = record.source
    name = "" if as_node else record.name
    if placement is not None and payload >= EXTERNAL_THRESHOLD and not as_node:
        body = wire.tensor_bytes(name, source.dims, source.data_type, None)
        body += wire.external_bytes(placement.location, placement.place(payload), payload)
    else:
        body = wire.tensor_bytes(name, source.dims, source.data_type, payload)
    if as_node:
        body = wire.constant_node_bytes(body, record.name)
    return wire.field_bytes(body)


def own_cost(emission: Emission, form: Form, *, as_node: bool) -> Cost:
    """Return what a tensor's own records cost, everything inline."""
    nodes = sum(node_cost(record) for record in emission.nodes)
    constants = sum(constant_cost(record, as_node=as_node) for record in emission.constants)
    payload = sum(constant_payload(record) for record in emission.constants)
    return Cost(
        index_bytes=payload - form.codebook_bytes,
        codebook_bytes=form.codebook_bytes,
        graph_bytes=nodes + constants - payload,
    )


def shared_cost(emission: Emission, *, as_node: bool) -> int:
    """Return what the records shared with other tensors cost."""
    nodes = sum(node_cost(record) for record in emission.shared_nodes)
    return nodes + sum(
        constant_cost(record, as_node=as_node) for record in emission.shared_constants
    )


def nominal_emission(form: Form, name: str) -> Emission:
    """Return the records of a tensor as if it stood alone, with names of usual length."""
    names = Names(())
    names.prefix = "q_"
    return Emitter(names).emit(expression(form), name)


def ce2_bytes(
    encoded: Iterable[tuple[int, int, int]], kept_float_bytes: int
) -> int:
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
