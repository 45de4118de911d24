"""Tensors seen together: equal ones share their storage, and shared tables must pay for themselves.

Owns the two decisions that no tensor can take alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from onnxq.choose import Choice
from onnxq.forms import Form, StoredLayout, expression
from onnxq.graphs import Document, common_scope, holder
from onnxq.rate import expression_cost
from onnxq.trees import Expr, shared_expressions

Family = tuple[str, StoredLayout, int]


def tie(choices: Sequence[Choice]) -> list[Choice]:
    """Let equal tensors of one root share the storage of the first one.

    The storage stands in the innermost graph around all of them.
    """
    first: dict[tuple[object, ...], int] = {}
    tied = list(choices)
    for index, choice in enumerate(choices):
        if choice.facts.digest is None:
            continue
        form = choice.form
        content = (choice.facts.digest, form.data_type, form.elements, form.bit_width)
        lead_index = first.setdefault((choice.weight.scope.root.path, *content), index)
        lead = tied[lead_index]
        if lead_index != index:
            storage = common_scope(lead.storage, choice.weight.scope)
            tied[lead_index] = dataclasses.replace(lead, storage=storage)
            own = copied_form(tied[lead_index].form, form.shape)
            tied[index] = dataclasses.replace(choice, same_as=lead.weight, form=own)
    storages = {id(choice.weight): choice.storage for choice in tied}
    return [
        dataclasses.replace(choice, storage=storages[id(choice.same_as)])
        if choice.same_as is not None
        else choice
        for choice in tied
    ]


def copied_form(form: Form, shape: tuple[int, ...]) -> Form:
    """Return the form of a tensor that shares the storage of another one, which has all else."""
    own = dataclasses.replace(form, shape=shape, scale_axis=None, scale_type=None)
    return dataclasses.replace(own, kept=0, kept_type=None)


def paying(document: Document, choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices that save bytes, tables included, where every tensor stands alone."""
    left = [choice for choice in choices if choice.saved > 0]
    while dear := unpaid(document, left):
        left = [choice for choice in left if choice not in dear]
    return left


def unpaid(document: Document, choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices whose shared tables cost more than they save, the worst family only.

    A family is what one root stores in one layout and width; its tables count as far as no other
    family needs them. Called again after each removal until nothing is left to remove.
    """
    families: dict[Family, list[Choice]] = {}
    for choice in choices:
        form = choice.form
        family = (choice.weight.scope.root.path, form.layout, form.bit_width)
        families.setdefault(family, []).append(choice)
    tables = {family: _tables(members) for family, members in families.items()}
    for family, members in sorted(families.items()):
        others = [tables[f] for f in families if f[0] == family[0] and f != family]
        alone = tables[family].difference(*others)
        held = holder(document, members[0].weight.scope)
        cost = sum(expression_cost(expr, held) for expr in alone)
        if cost >= sum(choice.saved for choice in members):
            return members
    return []


def _tables(members: Sequence[Choice]) -> set[Expr]:
    return set().union(*(shared_expressions(expression(choice.form)) for choice in members))
