"""A model's graphs and functions as scopes, and who consumes what in them.

Owns the walk: a *scope* is a graph (main, or a body of If/Loop/Scan) or a model-local function, and
names are resolved outwards as ONNX does. We work on the protobuf messages themselves, so that
whatever we do not touch is written back byte for byte (docs/adr/0001).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
)

from onnxq.errors import InputError

Holder = Literal["initializer", "input", "node"]
"""How a new constant stands in a model: as initializer, as one listed as input, as node."""
DEFAULT_DOMAINS = ("", "ai.onnx")
_VALUE_PRESERVING = frozenset(
    {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"}
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """Hold a model and where it came from; `folder` is None for a model given in memory.

    `label` is how messages and reports name it: as it was given. `has_data_files` tells whether
    the source kept values in other files; long values of the model file itself are deferred too,
    and look like external data in `proto`.
    """

    proto: ModelProto
    path: Path | None
    folder: Path | None
    file_bytes: int
    label: str = "model"
    has_data_files: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Scope:
    """Hold one graph or function: `enclosing` are the messages around it, outermost first."""

    path: str
    proto: GraphProto | FunctionProto
    parent: Scope | None
    enclosing: tuple[ModelProto | GraphProto | FunctionProto | NodeProto | AttributeProto, ...]
    opset: int

    @property
    def root(self) -> Scope:
        """The main graph or the function that this scope lies in."""
        return self if self.parent is None else self.parent.root

    @property
    def is_function(self) -> bool:
        """Whether the scope itself is a model-local function (which has no initializers)."""
        return isinstance(self.proto, FunctionProto)


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """Name one place where a value goes in: input `index` of a node."""

    op_type: str
    domain: str
    node: str
    index: int


def _opset(proto: ModelProto | FunctionProto) -> int | None:
    versions = [o.version for o in proto.opset_import if o.domain in DEFAULT_DOMAINS]
    return versions[-1] if versions else None


def scopes(document: Document) -> list[Scope]:
    """Return the main graph, the graphs inside it, and every function, in file order."""
    proto = document.proto
    main_opset = _opset(proto) or 0
    main = Scope(path="main", proto=proto.graph, parent=None, enclosing=(proto,), opset=main_opset)
    found = list(_nested(main))
    for function in proto.functions:
        identity = ":".join(
            part for part in (function.domain, function.name, function.overload) if part
        )
        scope = Scope(
            path=f"function {identity}",
            proto=function,
            parent=None,
            enclosing=(proto,),
            opset=_opset(function) or 0,
        )
        found += _nested(scope)
    return found


def _nested(scope: Scope) -> Iterator[Scope]:
    yield scope
    holders = 0
    for node in scope.proto.node:
        holders += any(item.HasField("g") or item.graphs for item in node.attribute)
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for number, graph in enumerate(graphs):
                label = attribute.name if len(graphs) == 1 else f"{attribute.name}[{number}]"
                inner = Scope(
                    path=f"{scope.path}/{node.op_type}({_identity(node, holders)}).{label}",
                    proto=graph,
                    parent=scope,
                    enclosing=(*scope.enclosing, scope.proto, node, attribute),
                    opset=scope.opset,
                )
                yield from _nested(inner)


def _identity(node: NodeProto, number: int) -> str:
    """Return what tells the number-th node with graphs from the others, wherever it stands."""
    return next((name for name in node.output if name), f"#{number}")


def check_names(document: Document) -> None:
    """Check that every name is text.

    Raises:
        InputError: one is not UTF-8, which protobuf hands over as bytes.
    """
    proto = document.proto
    names: list[object] = [opset.domain for opset in proto.opset_import]
    for function in proto.functions:
        names += (function.domain, function.name, function.overload)
    _refuse_bytes(document, names)  # the paths of scopes are made of these
    names = []
    for scope in scopes(document):
        for node in scope.proto.node:
            names += (node.op_type, node.domain, node.name, *node.input, *node.output)
            names += (attribute.name for attribute in node.attribute)
        if isinstance(scope.proto, FunctionProto):
            names += (*scope.proto.input, *scope.proto.output)
            continue
        held = [*scope.proto.initializer, *(s.values for s in scope.proto.sparse_initializer)]
        names += (tensor.name for tensor in held)
        names += (entry.value for tensor in held for entry in tensor.external_data)
        values = (*scope.proto.input, *scope.proto.output, *scope.proto.value_info)
        names += (value.name for value in values)
    _refuse_bytes(document, names)


def _refuse_bytes(document: Document, names: Iterable[object]) -> None:
    for name in names:
        if isinstance(name, bytes):
            raise InputError(
                f"{document.label}: found the name {name[:40]!r}, which is not UTF-8; "
                "the file is damaged"
            )


def common_scope(first: Scope, second: Scope) -> Scope:
    """Return the innermost scope around two scopes of one root."""
    around = {second.path}
    while second.parent is not None:
        second = second.parent
        around.add(second.path)
    while first.path not in around and first.parent is not None:
        first = first.parent
    return first


def holder(document: Document, scope: Scope) -> Holder:
    """Return how new constants for a scope must stand.

    Functions have no initializers; before IR 4 an initializer had to be listed as a graph input.
    """
    if scope.root.is_function:
        return "node"
    return "input" if document.proto.ir_version < 4 else "initializer"


def _defined(scope: Scope) -> set[str]:
    """Return the names that a scope itself defines."""
    proto = scope.proto
    names = {name for node in proto.node for name in node.output}
    if isinstance(proto, FunctionProto):
        return names | set(proto.input)
    names |= {value.name for value in proto.input}
    names |= {tensor.name for tensor in proto.initializer}
    return names | {tensor.values.name for tensor in proto.sparse_initializer}


Key = tuple[str, str]
"""The path of the scope that defines a value, and the value's name."""


def _uses(all_scopes: list[Scope]) -> Iterator[tuple[Key, Scope, NodeProto, int]]:
    """Yield each place where a value goes in: what goes in, then scope, node and input."""
    defined = {id(scope): _defined(scope) for scope in all_scopes}
    for scope in all_scopes:
        for node in scope.proto.node:
            for index, name in enumerate(node.input):
                owner = _owner(scope, name, defined)
                if name and owner is not None:
                    yield (owner.path, name), scope, node, index


def _consumer(node: NodeProto, index: int) -> Consumer:
    return Consumer(op_type=node.op_type, domain=node.domain, node=node.name, index=index)


def consumers(all_scopes: list[Scope]) -> Mapping[Key, list[Consumer]]:
    """Return the consumers of each (scope path, value name), captured uses included."""
    uses: dict[Key, list[Consumer]] = {}
    for key, _, node, index in _uses(all_scopes):
        uses.setdefault(key, []).append(_consumer(node, index))
    return uses


@dataclass(frozen=True, kw_only=True, eq=False)
class Purposes:
    """Hold where values end up: each use of a value, with the values that it is passed on as."""

    uses: Mapping[Key, list[tuple[Consumer | None, tuple[Key, ...]]]]

    def of(self, path: str, name: str) -> tuple[Consumer, ...]:
        """Return the uses of a value that compute with it.

        A node that only hands it on, or a call of a function, stands for what lies behind it, and
        for itself where nothing does.
        """
        ends: list[Consumer] = []
        seen, ahead = {(path, name)}, [(path, name)]
        while ahead:
            for use, passed in self.uses.get(ahead.pop(), ()):
                behind = [key for key in passed if key in self.uses]
                if not behind and use is not None:
                    ends.append(use)
                ahead += (key for key in behind if key not in seen)
                seen.update(behind)
        return tuple(ends)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Body:
    """Hold what a node runs: a graph inside it or the function it calls, and its values' names."""

    scope: Scope
    inputs: Sequence[str]
    outputs: Sequence[str]


def _bodies(all_scopes: list[Scope]) -> Callable[[NodeProto], Sequence[_Body]]:
    """Return what tells the bodies of a node."""
    functions: dict[tuple[str, str, str], list[_Body]] = {}
    inner: dict[int, list[_Body]] = {}
    for scope in all_scopes:
        proto = scope.proto
        inputs, outputs = value_names(proto.input), value_names(proto.output)
        body = _Body(scope=scope, inputs=inputs, outputs=outputs)
        if isinstance(proto, FunctionProto):
            functions[_domain(proto.domain), proto.name, proto.overload] = [body]
        elif scope.parent is not None:
            inner.setdefault(id(scope.enclosing[-2]), []).append(body)

    def of(node: NodeProto) -> Sequence[_Body]:
        called = functions.get((_domain(node.domain), node.op_type, node.overload))
        return inner.get(id(node), []) if called is None else called

    return of


@dataclass(frozen=True, kw_only=True, eq=False)
class Use:
    """Hold one place where a value goes in, and the values that it is passed on as.

    `node` is None where it leaves a function, or a body of a node, as its output.
    """

    scope: Scope
    node: NodeProto | None
    index: int
    passed: tuple[Key, ...]


def uses(all_scopes: list[Scope]) -> Mapping[Key, list[Use]]:
    """Return the uses of each value, through functions, bodies and nodes that preserve values."""
    bodies_of = _bodies(all_scopes)
    defined = {id(scope): _defined(scope) for scope in all_scopes}
    found: dict[Key, list[Use]] = {}
    for key, scope, node, index in _uses(all_scopes):
        passed = _passed_on(scope, node, index, bodies_of(node))
        found.setdefault(key, []).append(Use(scope=scope, node=node, index=index, passed=passed))
    for scope in all_scopes:
        for node in scope.proto.node:
            for body in bodies_of(node):
                for name, passed in _leaving(scope, node, body):
                    owner = _owner(body.scope, name, defined)
                    if owner is not None:
                        use = Use(scope=body.scope, node=None, index=0, passed=passed)
                        found.setdefault((owner.path, name), []).append(use)
    return found


def purposes(all_scopes: list[Scope]) -> Purposes:
    """Return where values end up, through functions, bodies and nodes that preserve them."""
    return Purposes(
        uses={
            key: [
                (_consumer(use.node, use.index) if use.node else None, use.passed) for use in found
            ]
            for key, found in uses(all_scopes).items()
        }
    )


def _domain(name: str) -> str:
    return "" if name in DEFAULT_DOMAINS else name


def _passed_on(
    scope: Scope, node: NodeProto, index: int, bodies: Sequence[_Body]
) -> tuple[Key, ...]:
    """Return the values that hold what goes in at an input: an output, or a body's input."""
    if bodies and bodies[0].scope.is_function:
        return _named(bodies[0].scope, bodies[0].inputs, index)
    if node.domain not in DEFAULT_DOMAINS:
        return ()
    if node.op_type in _VALUE_PRESERVING and index == 0:
        return _named(scope, node.output, 0)
    if node.op_type == "Scan" or (node.op_type == "Loop" and index >= 2):
        # Scan-8 takes the lengths of its sequences first.
        index -= node.op_type == "Scan" and scope.opset < 9
        return tuple(key for body in bodies for key in _named(body.scope, body.inputs, index))
    return ()


def _leaving(scope: Scope, node: NodeProto, body: _Body) -> Iterator[tuple[str, tuple[Key, ...]]]:
    """Yield each value that leaves a body of a node, and what it becomes.

    It becomes the node's output, and the body's own input in the next round of a loop.
    """
    is_round = not body.scope.is_function and node.op_type in ("Loop", "Scan")
    first = int(is_round and node.op_type == "Loop")  # its first output is the condition
    scans = sum(item.i for item in node.attribute if item.name == "num_scan_inputs")
    carried = body.inputs[: max(0, len(body.inputs) - scans)] if is_round else ()
    reach = max(len(node.output) + first, len(carried))
    for index, name in enumerate(body.outputs[:reach]):
        behind = _named(scope, node.output, index - first)
        yield name, behind + _named(body.scope, carried, index + first)


def _named(scope: Scope, names: Sequence[str], index: int) -> tuple[Key, ...]:
    """Return the value at a position of a list of names, if there is one."""
    is_there = 0 <= index < len(names) and names[index]
    return ((scope.path, names[index]),) if is_there else ()


def value_names(values: Iterable[str | ValueInfoProto]) -> list[str]:
    """Return the names of a graph's or a function's inputs or outputs."""
    return [value if isinstance(value, str) else value.name for value in values]


def _owner(scope: Scope | None, name: str, defined: Mapping[int, set[str]]) -> Scope | None:
    """Return the scope that defines a name as a scope sees it."""
    while scope is not None and name not in defined[id(scope)]:
        scope = scope.parent
    return scope


def initializers(document: Document) -> Iterator[TensorProto]:
    """Yield the dense initializers of every graph."""
    for scope in scopes(document):
        if isinstance(scope.proto, GraphProto):
            yield from scope.proto.initializer


def taken_names(document: Document) -> set[str]:
    """Return every value and node name of the model, in whatever scope."""
    names: set[str] = set()
    for scope in scopes(document):
        proto = scope.proto
        for node in proto.node:
            names.update(node.input, node.output, (node.name,))
        if isinstance(proto, FunctionProto):
            names.update(proto.input, proto.output)
        else:
            names.update(tensor.name for tensor in proto.initializer)
            names.update(tensor.values.name for tensor in proto.sparse_initializer)
            values = (*proto.input, *proto.output, *proto.value_info)
            names.update(value.name for value in values)
    return names
