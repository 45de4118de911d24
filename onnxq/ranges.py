"""Which integers an input takes: inferred from what consumes it.

Owns one closed table of operators that restrict what goes in (lookups, one-hot encodings,
comparisons with constants). An input is followed forwards to them, through everything that only
hands values on; the size of a table and the values of a constant are looked up backwards. What
cannot be told restricts nothing.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from onnxq import tensors
from onnxq.errors import OnnxqError
from onnxq.graphs import DEFAULT_DOMAINS, Document, Key, Scope, Use, scopes, uses

Range = tuple[int, int]
"""Lowest value, and the first one above the highest."""

MAX_CONSTANT_ELEMENTS = 1 << 20
"""A longer constant is not read to see what an input is compared with."""
MAX_INFERRED_BYTES = 64 << 20
"""Shapes are not inferred in a model whose structure is larger."""

_ALL = frozenset(range(64))
_HANDED_ON: Mapping[str, frozenset[int]] = {
    **{name: frozenset({0}) for name in ("Slice", "Split", "Expand", "Tile", "Pad", "Compress")},
    **{name: frozenset({0}) for name in ("Gather", "GatherElements", "GatherND", "Trilu", "TopK")},
    **{name: frozenset({0}) for name in ("ReverseSequence", "CastLike", "Dropout", "Unique")},
    "Concat": _ALL,
    "Where": frozenset({1, 2}),
    "ScatterElements": frozenset({0, 2}),
    "ScatterND": frozenset({0, 2}),
}
"""Inputs whose values are among the outputs', beside those that `graphs` knows."""
_SAME_VALUES = frozenset(
    {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"}
)
"""Operators whose output has the values of input 0, none more and none less."""
_SAME_SHAPE = frozenset({"Identity", "Cast", "DequantizeLinear", "QuantizeLinear", "CastLike"})
_TRUTH = frozenset({"Not", "And", "Or", "Xor"})
"""Operators that a comparison goes through on its way to an If."""
_SIGNED = (TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64)
_UNSIGNED = (TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)


def integer_ranges(document: Document) -> Mapping[str, Range]:
    """Return (low, high), high exclusive, of each integer input that its consumers restrict.

    Lookups (Gather and its kin) take 0 to the size of their table, one-hot encodings 0 to their
    depth, be they OneHot or a comparison with a run of integers. An input that decides an If by
    its comparison with one constant is that constant. Several consumers restrict together.
    """
    try:
        return dict(_found(_Model(document)))
    except RecursionError:  # a damaged model may compute a value from itself
        return {}


def _found(model: _Model) -> Iterator[tuple[str, Range]]:
    for value in model.document.proto.graph.input:
        kind = value.type.tensor_type.elem_type
        if kind in _SIGNED + _UNSIGNED and value.name not in model.held:
            asked = model.asked(("main", value.name))
            if asked:
                limits = np.iinfo(tensors.type_name(kind).lower())
                whole = (int(limits.min), int(limits.max) + 1)
                yield value.name, functools.reduce(_both, asked, whole)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Source:
    """Hold where a value comes from; `made` is None for inputs of the model."""

    scope: Scope
    name: str
    made: NodeProto | TensorProto | None

    @property
    def tensor(self) -> TensorProto | None:
        """The constant that it is."""
        return _held(self.made)

    @property
    def node(self) -> NodeProto | None:
        """The node that computes it from something."""
        made = self.made
        return made if isinstance(made, NodeProto) and made.input else None


@dataclass(frozen=True, eq=False)
class _Model:
    """Hold a model's values: where each goes, and where each comes from."""

    document: Document

    @functools.cached_property
    def _scopes(self) -> list[Scope]:
        return scopes(self.document)

    @functools.cached_property
    def _uses(self) -> Mapping[Key, list[Use]]:
        return uses(self._scopes)

    @functools.cached_property
    def held(self) -> set[str]:
        """The initializers of the main graph."""
        return {tensor.name for tensor in self.document.proto.graph.initializer}

    @functools.cached_property
    def _sources(self) -> Mapping[Key, NodeProto | TensorProto | None]:
        """What makes each value; None for the inputs of graphs and functions."""
        found: dict[Key, NodeProto | TensorProto | None] = {}
        for scope in self._scopes:
            proto = scope.proto
            if isinstance(proto, FunctionProto):
                found |= {(scope.path, name): None for name in proto.input}
            else:
                found |= {(scope.path, value.name): None for value in proto.input}
                found |= {(scope.path, tensor.name): tensor for tensor in proto.initializer}
            found |= {(scope.path, name): node for node in proto.node for name in node.output}
        return found

    @functools.cached_property
    def _inferred(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shapes of the main graph's values, as far as ONNX infers them."""
        proto = self.document.proto
        if proto.ByteSize() > MAX_INFERRED_BYTES:
            return {}
        try:
            inferred: ModelProto = importlib.import_module("onnx.shape_inference").infer_shapes(
                proto
            )
        except Exception:  # whatever it says of a model that onnxruntime may well run
            return {}
        graph = inferred.graph
        values = (*graph.input, *graph.value_info, *graph.output)
        return {v.name: _shape(v) for v in values if v.type.tensor_type.HasField("shape")}

    def asked(self, start: Key) -> list[Range]:
        """Return the ranges that the consumers of a value ask for, the strictest kind last."""
        lookups: list[Range] = []
        compared: list[Range] = []
        for use, is_decided in self._reached(start):
            lookups += _restrictions(self, use)
            compared += _compared(self, use) if is_decided else []
        return lookups + compared

    def _reached(self, start: Key) -> Iterator[tuple[Use, bool]]:
        """Yield each use that a value reaches unchanged, and whether it then decides an If."""
        for use in self._walk(start, _HANDED_ON):
            decides = False
            if use.node is not None and _is(use.node, "Equal"):
                result = (use.scope.path, use.node.output[0])
                ends = self._walk(result, dict.fromkeys(_TRUTH, _ALL))
                decides = any(_is(end.node, "If") and end.index == 0 for end in ends)
            yield use, decides

    def _walk(self, start: Key, handed_on: Mapping[str, frozenset[int]]) -> Iterator[Use]:
        seen, ahead = {start}, [start]
        while ahead:
            for use in self._uses.get(ahead.pop(0), ()):
                passed = use.passed
                node = use.node
                if node is not None and use.index in handed_on.get(node.op_type, ()):
                    passed += tuple((use.scope.path, name) for name in node.output if name)
                ahead += (key for key in passed if key not in seen)
                seen.update(passed)
                yield use

    @functools.cached_property
    def _arguments(self) -> Mapping[Key, list[tuple[Scope, str]]]:
        """What each input of a function is called with."""
        found: dict[Key, list[tuple[Scope, str]]] = {}
        for among in self._uses.values():
            for use in among:
                for key in use.passed:
                    if use.node is not None and key[0] != use.scope.path and "/" not in key[0]:
                        found.setdefault(key, []).append((use.scope, use.node.input[use.index]))
        return found

    def _source(self, scope: Scope, name: str) -> _Source:
        """Return where a value comes from; an input of a function called once is what it gets."""
        while (scope.path, name) not in self._sources and scope.parent is not None:
            scope = scope.parent
        made = self._sources.get((scope.path, name))
        calls = self._arguments.get((scope.path, name), ())
        if made is None and len(calls) == 1:
            return self._source(*calls[0])
        return _Source(scope=scope, name=name, made=made)

    def shape(self, scope: Scope, name: str) -> tuple[int | None, ...] | None:
        """Return the shape of a value, None for open sizes; None where it is not known."""
        source = self._source(scope, name)
        if source.tensor is not None:
            return tuple(source.tensor.dims)
        if source.node is not None and source.node.op_type in _SAME_SHAPE:
            return self.shape(source.scope, source.node.input[0])
        return self._inferred.get(source.name) if source.scope.path == "main" else None

    def values(self, scope: Scope, name: str) -> np.ndarray | None:
        """Return the distinct values of a constant, sorted; None where it is none, or is long."""
        source = self._source(scope, name)
        if source.tensor is not None:
            return self._distinct(source.tensor)
        if source.node is not None and source.node.op_type in _SAME_VALUES:
            return self.values(source.scope, source.node.input[0])
        if source.node is not None and _is(source.node, "Range"):
            return self._counted(source.scope, source.node)
        return None

    def _counted(self, scope: Scope, node: NodeProto) -> np.ndarray | None:
        """Return the values of a Range of constants."""
        bounds = [self.values(scope, name) for name in node.input]
        whole = [b for b in bounds if b is not None and b.size == 1 and b.dtype.kind in "iu"]
        if len(whole) != 3 or whole[2][0] == 0:
            return None
        counted = range(*(int(b[0]) for b in whole))
        return np.unique(np.array(counted)) if len(counted) <= MAX_CONSTANT_ELEMENTS else None

    def _distinct(self, tensor: TensorProto) -> np.ndarray | None:
        if int(np.prod(tensor.dims, dtype=np.float64)) > MAX_CONSTANT_ELEMENTS:
            return None
        try:
            return np.unique(tensors.read(tensor, self.document.folder, tensor.name))
        except OnnxqError:
            return None


def _restrictions(model: _Model, use: Use) -> Iterator[Range]:
    """Yield the ranges that one use asks for."""
    node = use.node
    if node is None:
        return
    is_standard = node.domain in DEFAULT_DOMAINS
    known = _RESTRICTING if is_standard else _CONTRIBUTED if node.domain == "com.microsoft" else {}
    for index, size in known.get(node.op_type, ()):
        if index == use.index and (found := size(model, use.scope, node)):
            yield 0, found
    if is_standard and node.op_type == "Equal":
        values = _other(model, use)
        if values is not None and values.size > 1 and np.all(np.diff(values) == 1):
            yield int(values[0]), int(values[-1]) + 1


def _compared(model: _Model, use: Use) -> list[Range]:
    """Return the one value that a comparison asks for, if it is with one."""
    values = _other(model, use)
    if values is None or values.size != 1:
        return []
    return [(int(values[0]), int(values[0]) + 1)]


def _other(model: _Model, use: Use) -> np.ndarray | None:
    """Return the constant that a comparison compares with, if its values are whole numbers."""
    assert use.node is not None
    values = model.values(use.scope, use.node.input[1 - use.index])
    return values if values is not None and values.dtype.kind in "iu" else None


def _both(first: Range, second: Range) -> Range:
    """Return what two ranges share, or the first where that is nothing."""
    low, high = max(first[0], second[0]), min(first[1], second[1])
    return (low, high) if low < high else first


def _is(node: NodeProto | None, op_type: str) -> bool:
    return node is not None and node.op_type == op_type and node.domain in DEFAULT_DOMAINS


def _shape(value: ValueInfoProto) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def _held(made: NodeProto | TensorProto | None) -> TensorProto | None:
    """Return the tensor of an initializer or Constant node; its plain numbers become one."""
    if made is None or isinstance(made, TensorProto):
        return made
    if made.op_type != "Constant" or len(made.attribute) != 1:
        return None
    attribute = made.attribute[0]
    if attribute.HasField("t"):
        return attribute.t
    if attribute.name not in ("value_int", "value_ints") or attribute.ref_attr_name:
        return None
    is_list = attribute.name == "value_ints"
    numbers = list(attribute.ints) if is_list else [attribute.i]
    tensor = tensors.make_tensor("", TensorProto.INT64, [len(numbers)] if is_list else [])
    tensor.int64_data.extend(numbers)
    return tensor


Size = Callable[[_Model, Scope, NodeProto], int | None]
"""What tells how many values an input of a node may have; None where that is not known."""


def _attribute(node: NodeProto, name: str) -> int | None:
    """Return a whole number of a node, 0 without it; None where a function's caller has it."""
    for item in node.attribute:
        if item.name == name:
            return None if item.ref_attr_name else item.i
    return 0


def _rows(table: int, axis: str | None) -> Size:
    """Return what tells the size of the table at an input, along the axis of an attribute."""

    def size(model: _Model, scope: Scope, node: NodeProto) -> int | None:
        shape = model.shape(scope, node.input[table]) if table < len(node.input) else None
        along = _attribute(node, axis) if axis else 0
        if shape is None or along is None or not -len(shape) <= along < len(shape):
            return None
        return shape[along]

    return size


def _least_side(model: _Model, scope: Scope, node: NodeProto) -> int | None:
    """Return the least size of the axes that GatherND or ScatterND index."""
    shape, indices = (model.shape(scope, name) for name in node.input[:2])
    first = _attribute(node, "batch_dims")
    if shape is None or first is None:
        return None
    depth = indices[-1] if indices else None
    sides = shape[first:] if depth is None else shape[first : first + depth]
    return min((side for side in sides if side is not None), default=None)


def _depth(model: _Model, scope: Scope, node: NodeProto) -> int | None:
    values = model.values(scope, node.input[1])
    return int(values[0]) if values is not None and values.size == 1 else None


_RESTRICTING: Mapping[str, Sequence[tuple[int, Size]]] = {
    "Gather": [(1, _rows(0, "axis"))],
    "GatherElements": [(1, _rows(0, "axis"))],
    "ScatterElements": [(1, _rows(0, "axis"))],
    "Scatter": [(1, _rows(0, "axis"))],
    "GatherND": [(1, _least_side)],
    "ScatterND": [(1, _least_side)],
    "OneHot": [(0, _depth)],
}
_CONTRIBUTED: Mapping[str, Sequence[tuple[int, Size]]] = {
    "EmbedLayerNormalization": [(0, _rows(2, None)), (1, _rows(4, None)), (8, _rows(3, None))],
    "GatherBlockQuantized": [(1, _rows(0, "gather_axis"))],
}
