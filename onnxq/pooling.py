"""Which tensors keep their indices in a pool, which stand alone, and which stay as they are.

Owns the decision over all tensors of a model together. Every way to store a tensor needs a
*facility* that costs bytes once: the tables of a form, or the nodes of a pool. Given the facilities
that are open, each tensor takes its cheapest way. We start with all of them and close the one that
saves most, until none does; and again without pools; and keep the better end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxq.choose import Choice
from onnxq.emission import NodeRecord
from onnxq.forms import StoredLayout, expression
from onnxq.graphs import Document, Holder, Scope, holder
from onnxq.options import ConvertOptions
from onnxq.pools import POOL_OPSET, Pool, node_bytes
from onnxq.rate import expression_cost, member_cost, node_cost, pool_bytes
from onnxq.sharing import copied_form, paying, tie
from onnxq.trees import INT64, Const, Expr, shared_expressions

MAX_MEMBER_ELEMENTS = 1 << 17
"""A larger tensor loses little by its own nodes, and decodes in less memory."""
MAX_MEMBERS = 1024
MAX_POOL_BYTES = 64 << 20
"""What the decode of a pool's stream may take at load."""

Facility = tuple[bool, StoredLayout, int]
"""Whether it is a pool, its layout, its bit width."""
Tables = frozenset[Expr]


@dataclass(frozen=True, kw_only=True)
class _Way:
    """Hold one way to store a tensor: its own bytes, what it needs, what it shares with others."""

    cost: int
    facility: Facility | None = None
    shared: Tables = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Unit:
    """Hold a tensor with those equal to it, and the ways to store them, cheapest first."""

    lead: Choice
    followers: tuple[Choice, ...]
    ways: tuple[_Way, ...]


Picks = list[_Way]


def settle(document: Document, choices: Sequence[Choice], options: ConvertOptions) -> list[Choice]:
    """Return the choices that are encoded, equal ones tied, with the pools that they are in.

    Args:
        document: the model.
        choices: every tensor that could be encoded, as if it stood alone; its scales and how its
            codebook is fitted stay as they are.
        options: what the caller wants.
    """
    if not (options.pool_indices and options.layout == "portable"):
        return tie(paying(document, choices) if options.only_smaller else choices)
    tied = tie(choices)
    roots: dict[str, list[Choice]] = {}
    for choice in tied:
        roots.setdefault(choice.weight.scope.root.path, []).append(choice)
    found: dict[int, Choice] = {}
    for members in roots.values():
        for choice in _settle_root(document, members, options.only_smaller):
            found[id(choice.weight)] = choice
    return [found[id(choice.weight)] for choice in tied if id(choice.weight) in found]


def _settle_root(document: Document, choices: Sequence[Choice], may_keep: bool) -> Iterator[Choice]:
    """Yield the encoded tensors of one main graph or function."""
    root = choices[0].weight.scope.root
    held = holder(document, root)
    units = list(_units(choices, held, may_keep))
    search = _Search(units, root, held)
    for unit, way in zip(units, search.best(), strict=True):
        if way.facility is None:
            continue
        is_pool, layout, bit_width = way.facility
        form = dataclasses.replace(unit.lead.form, layout=layout, bit_width=bit_width)
        yield dataclasses.replace(unit.lead, form=form, is_pooled=is_pool)
        for follower in unit.followers:
            yield dataclasses.replace(follower, form=copied_form(form, follower.form.shape))


def _units(choices: Sequence[Choice], held: Holder, may_keep: bool) -> Iterator[_Unit]:
    followers: dict[int, list[Choice]] = {}
    for choice in choices:
        if choice.same_as is not None:
            followers.setdefault(id(choice.same_as), []).append(choice)
    for choice in choices:
        if choice.same_as is None:
            own = tuple(followers.get(id(choice.weight), ()))
            ways = sorted(_ways(choice, own, held, may_keep), key=lambda way: way.cost)
            yield _Unit(lead=choice, followers=own, ways=tuple(ways))


def _ways(
    lead: Choice, followers: Sequence[Choice], held: Holder, may_keep: bool
) -> Iterator[_Way]:
    """Yield the ways to store a tensor; where costs are equal, the first one is taken."""
    if may_keep:
        yield _Way(cost=sum(choice.original_bytes for choice in (lead, *followers)))
    copies = sum(_alias_bytes(choice) for choice in followers)
    form = lead.form
    yield _Way(
        cost=lead.original_bytes - lead.saved + copies,
        facility=(False, form.layout, form.bit_width),
        shared=frozenset(shared_expressions(expression(form))),
    )
    is_small = form.elements <= MAX_MEMBER_ELEMENTS and form.layout != "half"
    if form.opset < POOL_OPSET or not is_small:
        return
    shape = Const(INT64, (len(form.shape),), form.shape)
    shared: Tables = frozenset() if len(form.shape) == 1 else frozenset({shape})
    name_bytes = len(lead.weight.name.encode())
    for bit_width in range(lead.widths[0], lead.widths[1] + 1):
        cost = member_cost(form, bit_width, name_bytes, held).total + copies
        yield _Way(cost=cost, facility=(True, "portable", bit_width), shared=shared)


def _alias_bytes(choice: Choice) -> int:
    name = choice.weight.name
    record = NodeRecord(
        op_type="Identity", inputs=("q__",), outputs=(name,), attributes=(), name="onnxq_q__"
    )
    return node_cost(record)


class _Search:
    """Find which facilities to open, over the tensors of one main graph or function."""

    def __init__(self, units: Sequence[_Unit], root: Scope, held: Holder) -> None:
        self._units, self._root, self._held = units, root, held
        self._by_size = sorted(range(len(units)), key=lambda i: units[i].lead.form.elements)
        self._table_bytes: dict[Expr, int] = {}

    def best(self) -> Picks:
        """Return the way that each tensor is stored."""
        ways = [way.facility for unit in self._units for way in unit.ways]
        all_open = {facility for facility in ways if facility is not None}
        alone = {facility for facility in all_open if not facility[0]}
        ends = (self._descend(all_open), self._descend(alone))
        return min(ends, key=lambda end: end[0])[1]

    def _descend(self, is_open: set[Facility]) -> tuple[float, Picks]:
        cost, picks = self._evaluate(is_open)
        while True:
            in_use = {way.facility for way in picks if way.facility is not None}
            found = [(*self._evaluate(in_use - {one}), one) for one in sorted(in_use)]
            least = min(found, key=lambda item: item[0], default=None)
            if least is None or least[0] >= cost:
                return cost, picks
            cost, picks = least[0], least[1]

    def _evaluate(self, is_open: set[Facility]) -> tuple[float, Picks]:
        """Return the bytes of all tensors, and their ways, with some facilities open."""
        while True:
            picks = self._picks(is_open)
            if picks is None:
                return math.inf, []
            members: dict[Facility, int] = {}
            for way in picks:
                if way.facility is not None and way.facility[0]:
                    members[way.facility] = members.get(way.facility, 0) + 1
            lonely = {facility for facility, count in members.items() if count == 1}
            if not lonely:
                break
            is_open = is_open - lonely
        shared: set[Expr] = set().union(*(way.shared for way in picks))
        cost = sum(way.cost for way in picks) + sum(self._tables(shared))
        opset = self._root.opset
        return cost + sum(pool_bytes(pool[2], opset, self._held) for pool in members), picks

    def _tables(self, shared: Iterable[Expr]) -> Iterator[int]:
        for expr in shared:
            if expr not in self._table_bytes:
                self._table_bytes[expr] = expression_cost(expr, self._held)
            yield self._table_bytes[expr]

    def _picks(self, is_open: set[Facility]) -> Picks | None:
        """Return the cheapest open way of each tensor, small ones first where a pool is full.

        None where a tensor has no way left.
        """
        picks: dict[int, _Way] = {}
        filled: dict[Facility, tuple[int, int]] = {}
        for index in self._by_size:
            unit = self._units[index]
            for way in unit.ways:
                if way.facility is None or not way.facility[0]:
                    if way.facility is None or way.facility in is_open:
                        picks[index] = way
                        break
                elif way.facility in is_open:
                    count, elements = filled.get(way.facility, (0, 0))
                    elements += unit.lead.form.elements
                    if count < MAX_MEMBERS and self._fits(way.facility[2], elements):
                        filled[way.facility] = (count + 1, elements)
                        picks[index] = way
                        break
            else:
                return None
        return [picks[index] for index in range(len(self._units))]

    def _fits(self, bit_width: int, elements: int) -> bool:
        pool = Pool(bit_width=bit_width, lengths=(elements,), opset=self._root.opset)
        return node_bytes(pool) <= MAX_POOL_BYTES
