"""Build the forms of encoded tensors in a model.

Owns the model's change: the weights' containers go, planes, codebooks and decode nodes come. New
nodes stand before all others of their graph, so every graph stays sorted and the order of the old
nodes stays as it was. `recognise` is the way back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from onnxq import tensors, wire
from onnxq.emission import ConstantRecord, Emission, Emitter, Names, NodeRecord
from onnxq.encode import Encoded, packed_stream
from onnxq.forms import Form, alias, expression, used_form
from onnxq.graphs import Document, Holder, Scope, holder, scopes
from onnxq.model import Weight
from onnxq.plans import Plan, TensorPlan, form_of, places
from onnxq.rate import Placement, constant_cost, node_cost, typed_bytes
from onnxq.trees import INT32, Const, Part

Array = np.ndarray[Any, np.dtype[Any]]


class Store(Protocol):
    """Take the values of a new tensor, inline or elsewhere."""

    def put(self, tensor: TensorProto, values: Array) -> None:
        """Give a tensor the raw bytes of `values`."""


def strip(document: Document, plan: Plan, weights: Sequence[Weight]) -> None:
    """Remove the containers of the planned weights from the document's model.

    The Weight records stay readable. Before IR 4 the weights' graph inputs go with them.
    """
    planned = {tensor.key for tensor in plan.tensors}
    doomed: dict[tuple[int, str], tuple[Scope, list[int]]] = {}
    for weight in weights:
        if (weight.graph, weight.name) in planned:
            _, positions = doomed.setdefault((id(weight.scope), weight.kind), (weight.scope, []))
            positions.append(weight.position)
    for (_, kind), (scope, positions) in doomed.items():
        container: Any = scope.proto.node
        if kind == "initializer" and isinstance(scope.proto, GraphProto):
            container = scope.proto.initializer
            if document.proto.ir_version < 4:
                remove_inputs(scope.proto, {container[index].name for index in positions})
        for index in sorted(positions, reverse=True):
            del container[index]
    for weight in weights:
        if (weight.graph, weight.name) in planned:
            _remove_false_info(weight)


def _remove_false_info(weight: Weight) -> None:
    """Remove what a graph says of a weight's type where it is wrong.

    Runtimes pass over that for an initializer and refuse it for a node's output.
    """
    infos = weight.scope.proto.value_info
    for index in reversed(range(len(infos))):
        is_wrong = infos[index].type.tensor_type.elem_type != weight.data_type
        if infos[index].name == weight.name and is_wrong:
            del infos[index]


def remove_inputs(graph: GraphProto, names: set[str]) -> None:
    """Remove values from a graph's inputs."""
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in names:
            del graph.input[index]


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Hold the records that one tensor adds, by the scope they go to, in order.

    Those that are `first` go before all that was added so far: the stream of a pool is known with
    its last tensor only, and the nodes of the first one stand on it.
    """

    scope: Scope
    constants: Sequence[ConstantRecord]
    nodes: Sequence[NodeRecord]
    is_first: bool = False


class Assembler:
    """Turn plans into additions: the one place that decides names, sharing and scopes.

    Used once to measure and once to build; both walks give the same records.
    """

    def __init__(
        self, document: Document, taken: Iterable[str], weights: Sequence[Weight], plan: Plan
    ) -> None:
        self._scopes = {scope.path: scope for scope in scopes(document)}
        names = Names(taken)
        roots = {scope.root.path for scope in self._scopes.values()}
        self._names = names
        self._emitters = {root: Emitter(names) for root in sorted(roots)}
        self._stored: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = {}
        self._types = {(weight.graph, weight.name): weight.data_type for weight in weights}
        self._docs = {(weight.graph, weight.name): _doc(weight) for weight in weights}
        self._holders = {path: holder(document, scope) for path, scope in self._scopes.items()}
        self._places = places(plan, weights)
        self._streams: dict[tuple[str, str], ConstantRecord] = {}

    def form(self, planned: TensorPlan) -> Form:
        """Return the planned form of a tensor."""
        scope = self._scopes[planned.graph]
        place = self._places.get(planned.key)
        return form_of(planned, scope.opset, self._types[planned.key], place)

    def holder(self, planned: TensorPlan) -> Holder:
        """Return how a tensor's constants stand in the model."""
        return self._holders[planned.graph]

    def additions(self, planned: TensorPlan, form: Form) -> list[Addition]:
        """Return what a tensor adds, shared records first; its last node has its doc string.

        The last tensor of a pool adds its stream, ahead of all else.
        """
        *before, last = self._additions(planned, form)
        nodes = [*last.nodes[:-1], replace(last.nodes[-1], doc=self._docs[planned.key])]
        found = [*before, replace(last, nodes=nodes)]
        if form.pool is None or form.member + 1 < len(form.pool.lengths):
            return found
        root = self._scopes[planned.graph].root
        stream = self._streams[root.path, form.pool.role]
        return [Addition(scope=root, constants=[stream], nodes=(), is_first=True), *found]

    def _additions(self, planned: TensorPlan, form: Form) -> list[Addition]:
        own_scope = self._scopes[planned.graph]
        emitter = self._emitters[own_scope.root.path]
        found: list[Addition] = []
        if planned.same_as is None:
            stands_here = planned.storage_graph == planned.graph
            output = planned.name if stands_here else self._names.take()
            storage = self._scopes[planned.storage_graph]
            found += self._split(emitter.emit(expression(form), output), storage)
            self._stored[planned.key] = (output, planned.shape)
            if stands_here:
                return found
        name, shape = self._stored[planned.same_as or planned.key]
        emission = emitter.emit_alias(alias(name, planned.shape, shape), planned.name)
        return found + self._split(emission, own_scope)

    def _split(self, emission: Emission, scope: Scope) -> list[Addition]:
        """Return what goes to the root, then what goes to the scope.

        Constants that must be listed as inputs can only stand in the root.
        """
        shared = []
        for record in emission.shared_constants:
            if isinstance(record.source, Part):
                self._streams[scope.root.path, record.source.role] = record
            else:
                shared.append(record)
        root = Addition(scope=scope.root, constants=shared, nodes=emission.shared_nodes)
        if self._holders[scope.path] != "input":
            own = Addition(scope=scope, constants=emission.constants, nodes=emission.nodes)
            return [root, own]
        constants = Addition(scope=scope.root, constants=emission.constants, nodes=())
        return [root, constants, Addition(scope=scope, constants=(), nodes=emission.nodes)]


def _doc(weight: Weight) -> str:
    doc = weight.tensor.doc_string if weight.tensor is not None else ""
    return doc if isinstance(doc, str) else ""  # bytes where it is not UTF-8


def predict(
    document: Document,
    plan: Plan,
    weights: Sequence[Weight],
    taken: set[str],
    placement: Placement | None,
    used: Mapping[tuple[str, str], int] | None = None,
) -> int:
    """Return the bytes that the model will have, its data file included, before it is built.

    Args:
        document: the model after `strip`, kept external tensors already in their new place.
        plan: what will be encoded.
        weights: the weights that `plan` was made from.
        taken: every name of the model before `strip`.
        placement: where the data file ends so far; None when all is inline. Not changed.
        used: centroids that come into use, by (graph, name), where that was found out.
    """
    planner = None
    if placement is not None:
        planner = Placement(placement.location)
        planner.end = placement.end
    assembler = Assembler(document, taken, weights, plan)
    growth: dict[str, int] = {}
    for planned in plan.tensors:
        held = assembler.holder(planned)
        form = used_form(assembler.form(planned), (used or {}).get(planned.key, planned.centroids))
        for addition in assembler.additions(planned, form):
            cost = sum(node_cost(record) for record in addition.nodes)
            for record in addition.constants:
                cost += constant_cost(record, held, planner)
            path = addition.scope.path
            growth[path] = growth.get(path, 0) + cost
    return _grown_bytes(document, growth) + (planner.end if planner else 0)


def _grown_bytes(document: Document, growth: Mapping[str, int]) -> int:
    """Return the size of a model after its graphs grow, length prefixes included."""
    messages: dict[int, tuple[int, Any, int | None]] = {}
    delta: dict[int, int] = {}
    for scope in scopes(document):
        chain = (*scope.enclosing, scope.proto)
        for depth, message in enumerate(chain):
            parent = id(chain[depth - 1]) if depth else None
            messages.setdefault(id(message), (depth, message, parent))
        delta[id(scope.proto)] = delta.get(id(scope.proto), 0) + growth.get(scope.path, 0)
    for key, (_, message, parent) in sorted(messages.items(), key=lambda item: -item[1][0]):
        grown = delta.get(key, 0)
        if grown and parent is not None:
            before = message.ByteSize()
            longer = wire.varint_bytes(before + grown) - wire.varint_bytes(before)
            delta[parent] = delta.get(parent, 0) + grown + longer
    return document.proto.ByteSize() + delta.get(id(document.proto), 0)


class Inserter:
    """Insert encoded tensors into a stripped model, one by one, in plan order."""

    def __init__(self, document: Document, assembler: Assembler, store: Store) -> None:
        self._roots = {scope.path: scope.root.path for scope in scopes(document)}
        self._assembler = assembler
        self._store = store
        self._fronts: dict[int, int] = {}
        self._pooled: dict[tuple[str, str], list[Array]] = {}

    def form(self, planned: TensorPlan) -> Form:
        """Return the planned form of a tensor."""
        return self._assembler.form(planned)

    def insert(self, planned: TensorPlan, encoded: Encoded | None) -> None:
        """Add a tensor's nodes and constants; `encoded` is None for one that shares storage."""
        form = encoded.form if encoded is not None else self._assembler.form(planned)
        payloads = dict(encoded.payloads) if encoded is not None else {}
        if form.pool is not None and encoded is not None:
            members = self._pooled.setdefault((self._roots[planned.graph], form.pool.role), [])
            members.append(payloads["indices"])
            if len(members) == len(form.pool.lengths):
                payloads[form.pool.role] = packed_stream(members, form.pool)
                members.clear()
        held = self._assembler.holder(planned)
        for addition in self._assembler.additions(planned, form):
            nodes: list[NodeProto] = []
            for record in addition.constants:
                if held == "node":
                    nodes.append(_constant_node(record, payloads))
                else:
                    is_input = held == "input"
                    self._add_initializer(addition.scope.proto, record, payloads, is_input)
            nodes += [_node(record) for record in addition.nodes]
            self._put_in_front(addition.scope.proto, nodes, is_first=addition.is_first)

    def _add_initializer(
        self,
        graph: GraphProto | FunctionProto,
        record: ConstantRecord,
        payloads: Mapping[str, Array],
        is_input: bool,
    ) -> None:
        if isinstance(graph, FunctionProto):
            raise AssertionError("functions have no initializers")
        source = record.source
        tensor = graph.initializer.add(name=record.name, data_type=source.data_type)
        tensor.dims.extend(source.dims)
        if isinstance(source, Const) and typed_bytes(source) is not None:
            _put_typed(tensor, source)
        else:
            self._store.put(tensor, _values(record, payloads))
        if is_input:
            add_input(graph, tensor)

    def _put_in_front(
        self, graph: GraphProto | FunctionProto, nodes: list[NodeProto], *, is_first: bool
    ) -> None:
        """Insert nodes behind those inserted before, or ahead of them; ahead of all old ones."""
        inserted = self._fronts.get(id(graph), 0)
        at = 0 if is_first else inserted
        for offset, node in enumerate(nodes):
            graph.node.insert(at + offset, node)
        self._fronts[id(graph)] = inserted + len(nodes)


def _values(record: ConstantRecord, payloads: Mapping[str, Array]) -> Array:
    source = record.source
    if isinstance(source, Const):
        return np.array(source.values, tensors.INTEGER_TYPES[source.data_type])
    return payloads[source.role]


def _put_typed(tensor: TensorProto, source: Const) -> None:
    """Give a tensor fixed values as varints, which `raw_data` would hold in more bytes."""
    field = tensor.int32_data if source.data_type == INT32 else tensor.int64_data
    field.extend(source.values)


def _constant_node(record: ConstantRecord, payloads: Mapping[str, Array]) -> NodeProto:
    source = record.source
    node = NodeProto(op_type="Constant", output=[record.name])
    tensor = tensors.make_tensor("", source.data_type, source.dims)
    if isinstance(source, Const) and typed_bytes(source) is not None:
        _put_typed(tensor, source)
    else:
        tensor.raw_data = _values(record, payloads).tobytes()
    node.attribute.add(name="value", type=AttributeProto.TENSOR, t=tensor)
    return node


def _node(record: NodeRecord) -> NodeProto:
    node = NodeProto(op_type=record.op_type, input=record.inputs, output=record.outputs)
    if record.name:
        node.name = record.name
    if record.doc:
        node.doc_string = record.doc
    for name, value in record.attributes:
        if isinstance(value, int):
            node.attribute.add(name=name, type=AttributeProto.INT, i=value)
        else:
            node.attribute.add(name=name, type=AttributeProto.INTS, ints=value)
    return node


def add_input(graph: GraphProto, tensor: TensorProto) -> None:
    """List an initializer as a graph input, as models before IR 4 must."""
    value = graph.input.add(name=tensor.name)
    tensor_type = value.type.tensor_type
    tensor_type.elem_type = tensor.data_type
    tensor_type.shape.SetInParent()
    for dim in tensor.dims:
        tensor_type.shape.dim.add(dim_value=dim)
