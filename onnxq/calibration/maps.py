"""Which weights are linear maps of which inputs, and how their values are read as matrices.

Owns the geometry between a weight as it is stored and rows [groups, outputs, inputs]: output o of
group g is the product of row (g, o) with an input vector of that group. A weight is one map for
all nodes that use it, so long as they read it alike. What only hands values on or turns their axes
is looked through. A convolution's input vector is a patch, channel by channel, in the order of the
weight; that of a Gather is one 1 among zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, NodeProto

from onnxq import graphs, model
from onnxq.calibration.attributes import Attributes, read_attributes
from onnxq.calibration.ends import NEW, Axes, Use, Uses, ends
from onnxq.graphs import DEFAULT_DOMAINS, Document, Key, Scope
from onnxq.model import Weight

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["conv", "conv-transpose", "gemm", "gemm-left", "matmul", "matmul-left", "gather"]
"""The operator, and on which side of a product the weight stands: right, or left."""

_WEIGHT_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Gather": (0,),
}
_FUSED: Mapping[str, str] = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
"""Operators of onnxruntime's own that read weights as others do."""
_FIXED_AXES: Mapping[tuple[str, str, int], tuple[int, int]] = {
    **{("", op, index): (3, 1) for op in ("LSTM", "GRU", "RNN") for index in (1, 2)},
    ("", "DeformConv", 1): (4, 0),
    ("com.microsoft", "Attention", 1): (2, 1),
}
"""(rank, axis of the outputs) of weights that are no plain linear maps."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """Hold how a node reads a weight; what must agree among all uses.

    Attributes:
        kind: The operator.
        groups: Of a convolution, or matrices of a batched product.
        outputs: Output features of a group.
        inputs: Length of a group's input vector.
        output_axis: Axis of the weight, as stored, along which its outputs lie; the axis of its
            rows for a Gather, which hands them out.
        axes: How stored axes are turned before a node sees them.
        seen: The shape that the node sees.
        parts: The seen shape with its axes divided and joined into groups, outputs and inputs.
        order: How `parts` are turned to be groups, outputs, inputs.
        inputs_left: Whether the activation of a product is the left operand, its features last.
    """

    kind: Kind
    groups: int
    outputs: int
    inputs: int
    output_axis: int
    axes: Axes
    seen: tuple[int, ...]
    parts: tuple[int, ...]
    order: tuple[int, ...]
    inputs_left: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """Hold a weight that is a linear map, and all nodes that use it."""

    weight: Weight
    form: Form
    uses: tuple[Use, ...]

    @property
    def key(self) -> Key:
        """What names the weight, in this document or in the same model opened again."""
        return self.weight.graph, self.weight.name

    @property
    def kind(self) -> Kind:
        """The operator that all uses share."""
        return self.form.kind

    @property
    def groups(self) -> int:
        """The number of matrices that the weight holds."""
        return self.form.groups

    @property
    def outputs(self) -> int:
        """The number of output features of one group."""
        return self.form.outputs

    @property
    def inputs(self) -> int:
        """The length of one group's input vector: channels, each with its kernel's extents."""
        return self.form.inputs

    @property
    def output_axis(self) -> int:
        """The axis of the weight along which outputs lie (rows, of a Gather)."""
        return self.form.output_axis

    @property
    def kernel(self) -> tuple[int, ...]:
        """The extents of a convolution's kernel; empty for others."""
        return self.form.seen[2:] if self.kind in ("conv", "conv-transpose") else ()

    def rows(self, values: Array) -> Array:
        """Return values of the weight's shape as [groups, outputs, inputs], maybe a view."""
        form = self.form
        turned = values.transpose(form.axes).reshape(form.parts).transpose(form.order)
        return turned.reshape(form.groups, form.outputs, form.inputs)

    def shaped(self, rows: Array) -> Array:
        """Return rows [groups, outputs, inputs] in the weight's shape; what `rows` undoes."""
        form = self.form
        sizes = [form.parts[place] for place in form.order]
        seen = rows.reshape(sizes).transpose(np.argsort(form.order)).reshape(form.seen)
        return seen.transpose(np.argsort(form.axes))


def linear_maps(document: Document, weights: Sequence[Weight]) -> dict[Key, LinearMap]:
    """Return the weights that are linear maps, in the order given.

    They are float tensors of two dimensions or more with values, whose every use reads them in
    the same way as the weight of a Conv, ConvTranspose, Gemm or MatMul, or as the rows of a
    Gather. Reads no values.
    """
    uses = graphs.uses(graphs.scopes(document))
    found = (_map(weight, uses) for weight in weights)
    return {made.key: made for made in found if made is not None}


def joined(weight: Weight, uses: Sequence[Use]) -> LinearMap | None:
    """Return the map that a weight is for these direct uses; None if they do not read it alike."""
    axes = tuple(range(len(weight.shape)))
    return _joined(weight, [(use, axes) for use in uses])


def output_axes(document: Document, weights: Sequence[Weight]) -> dict[Key, int]:
    """Return the axis of each weight along which its outputs lie, of those where it is known.

    That is the axis on which scales of output channels stand. Beside linear maps it is known of
    the weights of recurrent operators, [directions, gates x hidden, inputs], even where these are
    put together of parts. Uses that tell none do not count; where others disagree there is no axis.

    Args:
        document: the model.
        weights: all of its tensors; integers among them may tell the axes of others.

    Raises:
        InputError: an integer constant cannot be read.
    """
    uses = graphs.uses(graphs.scopes(document))
    held = {(weight.graph, weight.name): weight for weight in weights}

    def integers(scope: Scope | None, name: str) -> tuple[int, ...] | None:
        while scope is not None:
            weight = held.get((scope.path, name))
            if weight is not None:
                return tuple(map(int, model.read(document, weight).reshape(-1)))
            scope = scope.parent
        return None

    found: dict[Key, int] = {}
    for weight in weights:
        if _is_map_like(weight):
            known = (end for end in ends(weight, uses, integers) if end is not None)
            axes = {axis for end in known if (axis := _axis(weight, *end)) is not None}
            if len(axes) == 1:
                found[weight.graph, weight.name] = axes.pop()
    return found


def output_axis(weight: Weight) -> int | None:
    """Return the axis of a weight along which its outputs lie; None if it has none.

    It looks at the whole model: of many weights, `output_axes` tells in one walk.
    """
    proto = weight.scope.enclosing[0]
    assert isinstance(proto, ModelProto)  # the outermost message of any scope
    document = Document(proto=proto, path=None, folder=None, file_bytes=0)
    return output_axes(document, model.weights(document)).get((weight.graph, weight.name))


def _map(weight: Weight, uses: Uses) -> LinearMap | None:
    if not _is_map_like(weight):
        return None
    found: list[tuple[Use, Axes]] = []
    for end in ends(weight, uses):
        if end is None:
            return None
        found.append(end)
    return _joined(weight, found)


def _joined(weight: Weight, found: Sequence[tuple[Use, Axes]]) -> LinearMap | None:
    forms = {_form(weight, use.node, use.index, axes) for use, axes in found}
    if len(forms) != 1:
        return None
    form = forms.pop()
    if form is None:
        return None
    return LinearMap(weight=weight, form=form, uses=tuple(use for use, _ in found))


def _is_map_like(weight: Weight) -> bool:
    is_held = weight.kind in ("initializer", "constant") and not weight.is_ambiguous
    return is_held and weight.is_float and len(weight.shape) >= 2 and weight.elements > 0


def _axis(weight: Weight, use: Use, axes: Axes) -> int | None:
    """Return the stored axis along which the outputs of one use lie."""
    domain = "" if use.node.domain in DEFAULT_DOMAINS else use.node.domain
    fixed = _FIXED_AXES.get((domain, use.node.op_type, use.index))
    if fixed is not None:
        rank, place = fixed
        axis = axes[place] if len(axes) == rank else NEW
    else:
        form = _form(weight, use.node, use.index, axes)
        axis = NEW if form is None else form.output_axis
    return None if axis == NEW else axis


def _form(weight: Weight, node: NodeProto, index: int, axes: Axes) -> Form | None:
    """Return how a node reads a weight, or None if it is no linear map for it."""
    op_type = node.op_type
    if node.domain == "com.microsoft":
        op_type = _FUSED.get(op_type, "")
    elif node.domain not in DEFAULT_DOMAINS:
        return None
    attributes = read_attributes(node)
    if index not in _WEIGHT_INPUTS.get(op_type, ()) or attributes.has_references:
        return None
    seen = tuple(1 if axis == NEW else weight.shape[axis] for axis in axes)
    if op_type == "Conv":
        return _conv_form(seen, axes, attributes)
    if op_type == "ConvTranspose":
        return _turned_form(seen, axes, attributes)
    if op_type == "Gather":
        return _gather_form(seen, axes, attributes)
    if op_type == "Gemm":
        return _gemm_form(seen, axes, attributes, index)
    if index == 0:
        return _product_form("matmul-left", seen, axes, outputs_first=True, inputs_left=False)
    return _product_form("matmul", seen, axes, outputs_first=False, inputs_left=True)


def _conv_form(seen: tuple[int, ...], axes: Axes, attributes: Attributes) -> Form | None:
    if attributes.conv_fault(seen):
        return None
    groups = attributes.integer("group", 1)
    outputs, inputs = seen[0] // groups, math.prod(seen[1:])
    return Form(
        kind="conv",
        groups=groups,
        outputs=outputs,
        inputs=inputs,
        output_axis=axes[0],
        axes=axes,
        seen=seen,
        parts=(groups, outputs, inputs),
        order=(0, 1, 2),
    )


def _turned_form(seen: tuple[int, ...], axes: Axes, attributes: Attributes) -> Form | None:
    """Return the form of a ConvTranspose weight [channels, outputs of a group, *kernel]."""
    if attributes.conv_fault(seen):
        return None
    groups, size = attributes.integer("group", 1), math.prod(seen[2:])
    channels, outputs = seen[0] // groups, seen[1]
    return Form(
        kind="conv-transpose",
        groups=groups,
        outputs=outputs,
        inputs=channels * size,
        output_axis=axes[1],
        axes=axes,
        seen=seen,
        parts=(groups, channels, outputs, size),
        order=(0, 2, 1, 3),
    )


def _gemm_form(
    seen: tuple[int, ...], axes: Axes, attributes: Attributes, index: int
) -> Form | None:
    if len(seen) != 2:
        return None
    is_turned = [attributes.integer(name, 0) != 0 for name in ("transA", "transB")]
    if index == 0:  # alpha A' B' + beta C with A as weight: B' has its features in the first axis
        first, left = not is_turned[0], is_turned[1]
        return _product_form("gemm-left", seen, axes, outputs_first=first, inputs_left=left)
    first, left = is_turned[1], not is_turned[0]
    return _product_form("gemm", seen, axes, outputs_first=first, inputs_left=left)


def _product_form(
    kind: Kind,
    seen: tuple[int, ...],
    axes: Axes,
    *,
    outputs_first: bool,
    inputs_left: bool,
) -> Form:
    """Return the form of a matrix, or of a batch of matrices, one group each."""
    groups, sizes = math.prod(seen[:-2]), seen[-2:]
    outputs, inputs = sizes if outputs_first else sizes[::-1]
    return Form(
        kind=kind,
        groups=groups,
        outputs=outputs,
        inputs=inputs,
        output_axis=axes[-2 if outputs_first else -1],
        axes=axes,
        seen=seen,
        parts=(groups, *sizes),
        order=(0, 1, 2) if outputs_first else (0, 2, 1),
        inputs_left=inputs_left,
    )


def _gather_form(seen: tuple[int, ...], axes: Axes, attributes: Attributes) -> Form | None:
    axis = attributes.integer("axis", 0)
    if not -len(seen) <= axis < len(seen):
        return None
    axis %= len(seen)
    before, behind = math.prod(seen[:axis]), math.prod(seen[axis + 1 :])
    return Form(
        kind="gather",
        groups=1,
        outputs=before * behind,
        inputs=seen[axis],
        output_axis=axes[axis],
        axes=axes,
        seen=seen,
        parts=(before, seen[axis], behind),
        order=(0, 2, 1),
    )
