"""Turn the expression of a form into named node and constant records.

Owns naming and sharing: short new names that collide with nothing, and tables, shapes and scalars
that are emitted once per main graph or function. The same records are measured by `rate` and built
by `layout`, so a predicted size is the written one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from onnxq.forms import ALIAS_NAME
from onnxq.trees import Const, Expr, Op, Output, Part, Value

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """Hold one node to add; only marked and alias nodes have a node name.

    Only a tensor's last node has a `doc`.
    """

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, int | tuple[int, ...]], ...]
    name: str = ""
    doc: str = ""


@dataclass(frozen=True, kw_only=True)
class ConstantRecord:
    """Hold one constant to add: fixed values (`Const`) or a tensor's own bytes (`Part`)."""

    name: str
    source: Const | Part


@dataclass(kw_only=True)
class Emission:
    """Hold what one tensor adds: to its own scope, and to the root (shared by others)."""

    nodes: list[NodeRecord] = field(default_factory=list)
    constants: list[ConstantRecord] = field(default_factory=list)
    shared_nodes: list[NodeRecord] = field(default_factory=list)
    shared_constants: list[ConstantRecord] = field(default_factory=list)


class Names:
    """Give out short names in order; `prefix` starts no name that the model has."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.prefix = free_prefix(taken)
        self._count = 0

    def take(self) -> str:
        """Return the next free name."""
        self._count += 1
        return self.prefix + base36(self._count - 1)


def base36(number: int) -> str:
    """Return a number >= 0 in base 36.

    >>> base36(0), base36(35), base36(36)
    ('0', 'z', '10')
    """
    text = ""
    while True:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
        if not number:
            return text


def free_prefix(taken: Iterable[str]) -> str:
    """Return the shortest of q, w, z, q_, q__, ... that no taken name starts with.

    >>> free_prefix(["conv1"]), free_prefix(["q0", "w", "zz"])
    ('q', 'q_')
    """
    names = [name for name in taken if name[:1] in ("q", "w", "z")]
    for prefix in ("q", "w", "z"):
        if not any(name.startswith(prefix) for name in names):
            return prefix
    prefix = "q_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


class Emitter:
    """Emit expressions into one root (main graph or function), sharing what may be shared."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._shared: dict[Expr, str] = {}

    def emit(self, expr: Expr, output: str) -> Emission:
        """Return the records that make `output` hold the value of `expr`."""
        emission = Emission()
        self._visit(expr, {}, emission, output)
        return emission

    def emit_alias(self, expr: Op, output: str) -> Emission:
        """Return the records of an alias node, which carries a name of its own."""
        emission = self.emit(expr, output)
        named = replace(emission.nodes[0], name=ALIAS_NAME + self._names.take())
        return replace(emission, nodes=[named])

    def _visit(
        self, expr: Expr, own: dict[Expr, str], emission: Emission, output: str | None = None
    ) -> str:
        if isinstance(expr, Value):
            return expr.name
        is_shared = isinstance(expr, (Const, Output)) or expr.is_shared
        memo = self._shared if is_shared else own
        if output is None and expr in memo:
            return memo[expr]
        if isinstance(expr, Output):
            names = self._emit_node(expr.op, own, emission, None)
            self._shared.update((Output(expr.op, i), name) for i, name in enumerate(names))
            return self._shared[expr]
        if isinstance(expr, Op):
            (name,) = self._emit_node(expr, own, emission, output)
        else:
            name = output or self._names.take()
            constants = emission.shared_constants if is_shared else emission.constants
            constants.append(ConstantRecord(name=name, source=expr))
        memo[expr] = name
        return name

    def _emit_node(
        self, op: Op, own: dict[Expr, str], emission: Emission, output: str | None
    ) -> tuple[str, ...]:
        """Add a node, its inputs first; return its outputs."""
        inputs = tuple(self._visit(item, own, emission) for item in op.inputs)
        names = (output,) if output else tuple(self._names.take() for _ in range(op.outputs))
        nodes = emission.shared_nodes if op.is_shared else emission.nodes
        record = NodeRecord(
            op_type=op.op_type, inputs=inputs, outputs=names, attributes=op.attributes
        )
        if op.is_marked:
            record = replace(record, name=ALIAS_NAME + self._names.take())
        nodes.append(record)
        return names
