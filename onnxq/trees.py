"""Expressions: trees of operators, fixed values and stored parts.

Owns the vocabulary that the table of forms is written in. `emission` builds nodes from a tree,
`recognise` finds a tree in a graph, `rate` measures it. Nothing here knows protobuf: element types
are the numbers of onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

FLOAT, UINT8, UINT16, INT32, INT64, FLOAT16, DOUBLE, BFLOAT16 = 1, 2, 4, 6, 7, 10, 11, 16
UINT4, UINT2 = 21, 25
ITEM_BITS = {
    FLOAT: 32, UINT8: 8, UINT16: 16, INT32: 32, INT64: 64, FLOAT16: 16, DOUBLE: 64,
    BFLOAT16: 16, UINT4: 4, UINT2: 2,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tree:
    """Compare like a dataclass but hash only once: trees are looked up often, tables are long."""

    @cached_property
    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self._key == other._key)


@dataclass(frozen=True, eq=False)
class Const(Tree):
    """Hold fixed integer values; equal constants are stored once per main graph or function."""

    data_type: int
    dims: tuple[int, ...]
    values: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Part(Tree):
    """Name a stored constant: a tensor's `plane0.1` (tile, plane) or `codebook`, a pool's `pool3`.

    An `is_shared` one is emitted once per main graph or function.
    """

    role: str
    data_type: int
    dims: tuple[int, ...]
    is_shared: bool = False


@dataclass(frozen=True, eq=False)
class Op(Tree):
    """Hold one operator; `is_shared` ones are emitted once per main graph or function.

    A node that `is_marked` has a name, which tells it from a model's own node of the same kind.
    """

    op_type: str
    inputs: tuple[Expr, ...]
    attributes: tuple[tuple[str, int | tuple[int, ...]], ...] = ()
    is_shared: bool = False
    outputs: int = 1
    is_marked: bool = False


@dataclass(frozen=True, eq=False)
class Output(Tree):
    """Name one output of an operator that has several."""

    op: Op
    number: int


@dataclass(frozen=True, eq=False)
class Value(Tree):
    """Name a value that already stands in the graph (the storage that an equal tensor shares)."""

    name: str


Expr = Const | Part | Op | Output | Value


def inputs_of(expr: Expr) -> tuple[Expr, ...]:
    """Return what a tree stands on directly; nothing for a leaf."""
    if isinstance(expr, Output):
        return (expr.op,)
    return expr.inputs if isinstance(expr, Op) else ()


def parts(expr: Expr) -> Iterator[Part]:
    """Yield each Part of a tree once, in the order of first use."""
    seen: set[Part] = set()
    stack: list[Expr] = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Part) and node not in seen:
            seen.add(node)
            yield node
        stack.extend(reversed(inputs_of(node)))


def shared_expressions(expr: Expr) -> set[Expr]:
    """Return the parts of a tree that are emitted once per root: shared nodes and fixed values."""
    found: set[Expr] = set()
    stack: list[Expr] = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Const) or (isinstance(node, (Op, Part)) and node.is_shared):
            found.add(node)
        stack.extend(inputs_of(node))
    return found


def part_bytes(part: Part) -> int:
    """Return the raw bytes of a part; elements below 8 bits are packed."""
    return (math.prod(part.dims) * ITEM_BITS[part.data_type] + 7) // 8


def scalar(value: int) -> Const:
    """Return an int32 scalar."""
    return Const(INT32, (), (value,))


def cast(value: Expr, data_type: int, *, is_shared: bool = False) -> Op:
    """Return a value in another element type."""
    return Op("Cast", (value,), (("to", data_type),), is_shared)


def gather(table: Expr, indices: Expr, *, is_shared: bool = False) -> Op:
    """Return the rows of a table that indices name."""
    return Op("Gather", (table, indices), (), is_shared)


def reshape(value: Expr, shape: tuple[int, ...], *, is_shared: bool = False) -> Op:
    """Return a value in another shape."""
    return Op("Reshape", (value, Const(INT64, (len(shape),), shape)), (), is_shared)
