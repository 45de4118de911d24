"""Recognise encoded tensors in a model, and put plain weights back in their place.

Owns the way back from the closed table: the part of the graph that ends in a decoded tensor is
compared, node by node and constant by constant, with the expression that the table would build.
Names play no part, so a model renamed by other tools is still recognised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from onnxq import tensors
from onnxq.forms import ALIAS_NAME, Form, expression
from onnxq.graphs import DEFAULT_DOMAINS, Document, Scope, consumers, scopes, value_names
from onnxq.propose import Uses, is_root, proposals, reshaped, stands_alone
from onnxq.sights import Sight, look
from onnxq.trees import Const, Expr, Op, Output, Part, Value

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Hold one encoded tensor of a model: its form, and the constants and nodes it stands on.

    `same_as` is the tensor whose storage this one shares; its own parts are then empty.
    """

    name: str
    scope: Scope
    form: Form
    shape: tuple[int, ...]
    parts: Mapping[str, TensorProto]
    nodes: tuple[NodeProto, ...]
    same_as: Found | None = None

    @property
    def storage(self) -> Found:
        """The tensor that holds the bytes: itself, or the one it equals."""
        return self.same_as or self


@dataclass(kw_only=True)
class _Match:
    """Collect what a comparison binds."""

    parts: dict[str, TensorProto] = field(default_factory=dict)
    nodes: dict[int, NodeProto] = field(default_factory=dict)
    done: set[tuple[int, str]] = field(default_factory=set)


def find(document: Document) -> list[Found]:
    """Return the encoded tensors of a model, scope by scope in file order."""
    found: list[Found] = []
    sights: dict[str, Sight] = {}
    all_scopes = scopes(document)
    uses = consumers(all_scopes)
    for scope in all_scopes:
        outer = sights.get(scope.parent.path) if scope.parent else None
        sight = look(document, scope, outer)
        sights[scope.path] = sight
        here = list(_find_in(sight, document, uses))
        found += reversed(here)
    aliases = [alias for sight in sights.values() for alias in _aliases(sight, found)]
    return _without_internal(uses, found, aliases)


def _without_internal(uses: Uses, found: list[Found], aliases: list[Found]) -> list[Found]:
    """Return all tensors; storage that only aliases use passes to the first of them.

    Equal tensors of two branches have their storage in the graph around both, under a name that no
    original node knows.
    """
    leads: dict[int, Found] = {}
    for alias in aliases:
        storage = alias.storage
        users = uses.get((storage.scope.path, storage.name), ())
        copies = sum(other.same_as is storage for other in aliases)
        if len(users) == copies and not _is_output(storage):
            leads.setdefault(id(storage), alias)
    plain = [item for item in found if id(item) not in leads]
    for alias in aliases:
        storage = alias.storage
        lead = leads.get(id(storage))
        if lead is None:
            plain.append(alias)
        elif lead is alias:
            owner = replace(storage, name=alias.name, scope=alias.scope, shape=alias.shape)
            owner = replace(owner, nodes=(*storage.nodes, *alias.nodes))
            plain.append(owner)
            leads[id(alias)] = owner
        else:
            plain.append(replace(alias, same_as=leads[id(lead)]))
    return plain


def _is_output(item: Found) -> bool:
    return item.name in value_names(item.scope.proto.output)


def _find_in(sight: Sight, document: Document, uses: Uses) -> Iterator[Found]:
    """Yield the encoded tensors of one scope, last first, so that none is a part of another."""
    inner: set[int] = set()
    for node in reversed(sight.scope.proto.node):
        if not is_root(node) or id(node) in inner or not stands_alone(sight, node, uses):
            continue
        for form in proposals(sight, node, uses):
            match = _Match()
            if _compare(expression(form), node.output[0], sight, match, document):
                inner.update(match.nodes)
                yield Found(
                    name=node.output[0],
                    scope=sight.scope,
                    form=form,
                    shape=form.shape,
                    parts=match.parts,
                    nodes=tuple(match.nodes.values()),
                )
                break


def _compare(expr: Expr, name: str, sight: Sight, match: _Match, document: Document) -> bool:
    """Tell whether a value is what an expression would build; bind its parts."""
    key = (id(expr), name)
    if key in match.done:
        return True
    if isinstance(expr, Value):
        return expr.name == name
    if isinstance(expr, (Op, Output)):
        op, number = (expr.op, expr.number) if isinstance(expr, Output) else (expr, 0)
        node = sight.producer(name)
        if node is None or not _same_node(op, node) or node.output[number] != name:
            return False
        inputs = zip(op.inputs, node.input, strict=True)
        if not all(_compare(item, value, sight, match, document) for item, value in inputs):
            return False
        match.nodes[id(node)] = node
    elif not _same_constant(expr, sight.constant(name), match, document):
        return False
    match.done.add(key)
    return True


def _same_node(expr: Op, node: NodeProto) -> bool:
    if node.op_type != expr.op_type or node.domain not in DEFAULT_DOMAINS:
        return False
    if len(node.input) != len(expr.inputs) or len(node.output) != expr.outputs:
        return False
    if expr.is_marked and not node.name.startswith(ALIAS_NAME):
        return False
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    expected = {
        name: value if isinstance(value, int) else list(value) for name, value in expr.attributes
    }
    return found == expected


def _same_constant(
    expr: Const | Part, tensor: TensorProto | None, match: _Match, document: Document
) -> bool:
    if tensor is None or tensor.data_type != expr.data_type or tuple(tensor.dims) != expr.dims:
        return False
    if isinstance(expr, Part):
        known = match.parts.setdefault(expr.role, tensor)
        return known is tensor
    values = tensors.read(tensor, document.folder, f"{document.label}: decoding table")
    return bool(np.array_equal(values.reshape(-1), np.array(expr.values, values.dtype)))


def _aliases(sight: Sight, found: list[Found]) -> Iterator[Found]:
    """Yield the equal tensors of a scope: the nodes with our name that copy a decoded value."""
    storages = {(item.scope.path, item.name): item for item in found}
    for node in sight.scope.proto.node:
        if not node.name.startswith(ALIAS_NAME) or node.op_type not in ("Identity", "Reshape"):
            continue
        if len(node.output) != 1 or not node.output[0]:
            continue
        lead = _visible(sight.scope, node.input[0], storages) if node.input else None
        shape = lead.shape if lead and node.op_type == "Identity" else reshaped(sight, node)
        if lead is None or shape is None or math.prod(shape) != lead.form.elements:
            continue
        if min(shape, default=1) < 1:  # a damaged one: two negative dims have a positive product
            continue
        yield Found(
            name=node.output[0],
            scope=sight.scope,
            form=lead.form,
            shape=shape,
            parts={},
            nodes=(node,),
            same_as=lead,
        )


def _visible(
    scope: Scope | None, name: str, storages: Mapping[tuple[str, str], Found]
) -> Found | None:
    while scope is not None:
        if (scope.path, name) in storages:
            return storages[scope.path, name]
        scope = scope.parent
    return None
