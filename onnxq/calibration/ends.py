"""The nodes that compute with a weight, behind those that hand it on, turn it, cut it or join it.

Owns what becomes of a weight's axes on the way: for each end, the stored axis that stands at each
place of the shape that the end sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from onnxq import graphs
from onnxq.calibration.attributes import read_attributes
from onnxq.graphs import DEFAULT_DOMAINS, Key, Scope
from onnxq.model import Weight

Axes = tuple[int, ...]
"""The stored axis at each place of a shape; NEW where it is none of them."""
NEW = -1
Uses = Mapping[Key, Sequence[graphs.Use]]
Integers = Callable[[Scope, str], tuple[int, ...] | None]
"""Return the values of an integer constant that a scope sees; None where it is not known."""

_SAME_AXES = frozenset({"Identity", "Cast"})
_PARTS = frozenset({"Slice", "Concat", "Split"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Use:
    """Hold one node that takes a weight as its input `index`, and the scope it stands in."""

    scope: Scope
    node: NodeProto
    index: int

    @property
    def activation(self) -> str:
        """The name of the input that the weight is applied to; empty where there is none."""
        return str(self.node.input[1 - self.index]) if len(self.node.input) > 1 else ""


def ends(
    weight: Weight, uses: Uses, integers: Integers | None = None
) -> Iterator[tuple[Use, Axes] | None]:
    """Yield the nodes that compute with a weight, in order; None for what cannot be followed.

    Looked through are calls of functions and nodes that hand on all values (Identity, Cast), or
    turn their axes (Transpose). With `integers` those as well that give parts of them, join them
    with others, and put in or take out axes of size 1, as exporters do with recurrent weights.
    """
    start = (weight.graph, weight.name)
    ahead: list[tuple[Key, Axes]] = [(start, tuple(range(len(weight.shape))))]
    seen = {start}
    for key, axes in ahead:
        for use in uses.get(key, ()):
            if use.node is None:
                yield None
                continue
            passed = _parts(use, use.node) if integers else use.passed
            behind = [name for name in passed or use.passed if name not in seen]
            turned = _turned(use, use.node, axes, integers)
            if turned is not None:
                ahead += ((name, turned) for name in behind)
                seen.update(behind)
            elif use.passed:
                yield None
            else:
                yield Use(scope=use.scope, node=use.node, index=use.index), axes


def _parts(use: graphs.Use, node: NodeProto) -> tuple[Key, ...]:
    """Return what a node makes of parts of a value."""
    if node.domain not in DEFAULT_DOMAINS or node.op_type not in _PARTS:
        return ()
    return tuple((use.scope.path, name) for name in node.output if name)


def _turned(use: graphs.Use, node: NodeProto, axes: Axes, integers: Integers | None) -> Axes | None:
    """Return the axes of what a node hands on; None where it hands on nothing of such a shape."""
    if node.domain not in DEFAULT_DOMAINS:
        return axes if use.passed else None  # a function's body gets the value as it is
    if node.op_type == "Transpose":
        return _transposed(node, axes)
    if node.op_type in _SAME_AXES:
        return axes
    if integers is None or (use.index and node.op_type != "Concat"):
        return None
    if node.op_type in _PARTS:
        return axes
    if node.op_type in ("Unsqueeze", "Squeeze"):
        return _resized(use.scope, node, axes, integers)
    return None


def _transposed(node: NodeProto, axes: Axes) -> Axes | None:
    attributes = read_attributes(node)
    order = attributes.integers("perm") or tuple(reversed(range(len(axes))))
    if attributes.has_references or sorted(order) != list(range(len(axes))):
        return None
    return tuple(axes[place] for place in order)


def _resized(scope: Scope, node: NodeProto, axes: Axes, integers: Integers) -> Axes | None:
    """Return the axes with those of size 1 put in or taken out."""
    places = read_attributes(node).integers("axes")
    if places is None and len(node.input) > 1:  # from opset 13 on
        places = integers(scope, node.input[1])
    if places is None:
        return None
    is_wider = node.op_type == "Unsqueeze"
    rank = len(axes) + len(places) if is_wider else len(axes)
    if any(not -rank <= place < rank for place in places):
        return None
    marked = {place % rank for place in places}
    if is_wider:
        rest = iter(axes)
        return tuple(NEW if place in marked else next(rest, NEW) for place in range(rank))
    return tuple(axis for place, axis in enumerate(axes) if place not in marked)
