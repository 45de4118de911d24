"""Which weights can be factorised, in which ways, and why each other one cannot.

Owns all but the arithmetic: the operators that take two smaller weights in place of one, how each
of their attributes bears on that, and how many parameters a rank takes. A *layer* is a weight with
all nodes that use it; it is factorised once, for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import NodeProto

from onnxq import graphs, model, tensors
from onnxq.calibration.attributes import Attributes, read_attributes
from onnxq.calibration.ends import Use
from onnxq.graphs import DEFAULT_DOMAINS, Document
from onnxq.low_rank.ranks import Key
from onnxq.model import Weight
from onnxq.selection import Skip, reason_by_kind, skip

Kind = Literal["conv", "gemm", "gemm-left", "matmul", "matmul-left"]
"""The operator, and on which side of a product the weight stands: right, or left."""
Split = Literal["spatial-hw", "spatial-wh", "channel", "matrix"]
"""How the two factors share a weight.

"spatial-hw": a convolution k x 1, then 1 x k; "spatial-wh": 1 x k, then k x 1; "channel": all of
the kernel, then 1 x 1; "matrix": two products.
"""


SQUARED = 1e140
"""Sums of squares of values below this, and of the inverse, are within float64."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Hold how the values of a weight are read as matrices: what must agree among all uses.

    `outputs_first` tells whether a matrix is stored as (outputs, inputs), as those of convolutions
    are. `inputs_left` tells whether the activation is the left operand, its features in the last
    axis; for a convolution it is neither, and True.
    """

    kind: Kind
    groups: int = 1
    outputs_first: bool = True
    inputs_left: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """Hold a weight that can be factorised, with its uses; `overhead_bytes` bounds what that adds.

    For a convolution, each of `groups` groups is factorised for itself, all with one rank.
    """

    weight: Weight
    uses: tuple[Use, ...]
    form: Shape
    splits: tuple[Split, ...]
    overhead_bytes: int

    @property
    def key(self) -> Key:
        """What names the layer, in this document or in the same model opened again."""
        return self.weight.graph, self.weight.name

    @property
    def kind(self) -> Kind:
        """The operator that all uses share."""
        return self.form.kind

    @property
    def groups(self) -> int:
        """The number of groups; 1 for all but convolutions."""
        return self.form.groups

    @property
    def parameters(self) -> int:
        """The number of values of the weight."""
        return self.weight.elements

    @property
    def kernel(self) -> tuple[int, ...]:
        """The extents of a convolution's kernel; empty for a product."""
        return self.weight.shape[2:] if self.kind == "conv" else ()

    @property
    def outputs(self) -> int:
        """The number of output features of one group."""
        if self.kind == "conv":
            return self.weight.shape[0] // self.groups
        return self.weight.shape[-2 if self.form.outputs_first else -1]

    @property
    def channels(self) -> int:
        """The number of input features of one group, without the extents of a kernel."""
        if self.kind == "conv":
            return self.weight.shape[1]
        return self.weight.shape[-1 if self.form.outputs_first else -2]

    @property
    def inputs(self) -> int:
        """The length of one group's input vector: channels, each with its kernel's extents."""
        return self.channels * math.prod(self.kernel)

    def first_axes(self, split: Split) -> tuple[int, ...]:
        """Return the kernel axes that the first factor covers; the second covers the others."""
        if split == "spatial-hw":
            return (0,)
        return (1,) if split == "spatial-wh" else tuple(range(len(self.kernel)))

    def matrix_shape(self, split: Split) -> tuple[int, int]:
        """Return the (rows, columns) of the matrix that a split factorises, of one group."""
        first = math.prod(self.kernel[axis] for axis in self.first_axes(split))
        return self.outputs * math.prod(self.kernel) // first, self.channels * first

    def full_rank(self, split: Split) -> int:
        """Return the rank at which nothing is lost."""
        return min(self.matrix_shape(split))

    def split_parameters(self, split: Split, rank: int) -> int:
        """Return the number of values of both factors."""
        return rank * self.groups * sum(self.matrix_shape(split))

    def max_rank(self, split: Split) -> int:
        """Return the largest rank at which the model gets smaller, new nodes included; 0 if none.

        That rank has fewer parameters than the weight, too.
        """
        item = tensors.FLOAT_TYPES[self.weight.data_type].itemsize
        spare = self.parameters * item - self.overhead_bytes - 1
        each = item * self.split_parameters(split, 1)
        return max(0, min(self.full_rank(split), spare // each))


def find(document: Document, weights: Sequence[Weight]) -> tuple[list[Layer], list[Skip]]:
    """Return the layers of a model and why each other float tensor is kept, both in file order.

    Values are read, one tensor at a time, to see that they are numbers that can be squared.

    Raises:
        InputError: a layer's values cannot be read.
    """
    uses = graphs.uses(graphs.scopes(document))
    layers: list[Layer] = []
    skips: list[Skip] = []
    divided: set[int] = set()
    for weight in weights:
        if weight.is_float:
            found = _layer(weight, uses.get((weight.graph, weight.name), ()))
            if isinstance(found, Layer):
                found = _reason_by_nodes(found, divided) or found
            if isinstance(found, Layer):
                found = _reason_by_values(document, weight) or found
            if isinstance(found, Layer):
                layers.append(found)
                divided.update(id(use.node) for use in found.uses)
            else:
                skips.append(skip(weight, *found))
    return layers, skips


def known(document: Document, weights: Sequence[Weight], keys: Container[Key]) -> list[Layer]:
    """Return the layers that `find` has found in the same model opened before; reads no values."""
    uses = graphs.uses(graphs.scopes(document))
    found = (_layer(w, uses[w.graph, w.name]) for w in weights if (w.graph, w.name) in keys)
    return [layer for layer in found if isinstance(layer, Layer)]


def _layer(weight: Weight, uses: Sequence[graphs.Use]) -> Layer | tuple[str, str]:
    """Return the layer of a weight, or (reason, detail) why there is none."""
    reason = reason_by_kind(weight) or _reason_by_place(weight, uses)
    if reason is not None:
        return reason
    found: list[Use] = []
    forms: set[Shape] = set()
    for use in uses:
        assert use.node is not None  # _reason_by_place
        taken = _form(weight, use.node, use.index)
        if not isinstance(taken, Shape):
            return taken
        forms.add(taken)
        found.append(Use(scope=use.scope, node=use.node, index=use.index))
    if len(forms) > 1:
        return "different-uses", f"{len(found)} nodes use it in different ways: {_names(uses)}"
    return _sized(weight, tuple(found), forms.pop())


def _reason_by_place(weight: Weight, uses: Sequence[graphs.Use]) -> tuple[str, str] | None:
    if len(weight.shape) < 2:
        return "vector", "it has one dimension"
    if weight.is_graph_output or any(use.node is None for use in uses):
        return "graph-output", "it is an output of its graph too"
    if not uses:
        return "unused", "no node uses it"
    if any(use.passed for use in uses):
        return "handed-on", f"it goes through {_names([use for use in uses if use.passed])}"
    return None


def _reason_by_nodes(layer: Layer, divided: Container[int]) -> tuple[str, str] | None:
    """Return why a layer stays whole whose node multiplies two weights, the other one a layer."""
    for use in layer.uses:
        if id(use.node) in divided:
            return "constant-operand", f"{use.node.op_type} multiplies it by another weight"
    return None


def _reason_by_values(document: Document, weight: Weight) -> tuple[str, str] | None:
    values = model.read(document, weight)
    if values.itemsize < 4:
        values = values.astype(np.float32)
    lowest, highest = float(values.min()), float(values.max())
    largest = max(highest, -lowest)
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        return "not-finite", "it holds NaN or infinity"
    if largest > 0 and not 1 / SQUARED < largest < SQUARED:
        return "extreme-values", f"its largest value is {largest:.3g}, whose square is no float64"
    return None


def _names(uses: Sequence[graphs.Use]) -> str:
    return ", ".join(sorted({use.node.op_type for use in uses if use.node is not None}))


def _form(weight: Weight, node: NodeProto, index: int) -> Shape | tuple[str, str]:
    """Return how a node uses a weight, or (reason, detail) why it cannot take factors."""
    is_known = node.domain in DEFAULT_DOMAINS and index in _WEIGHT_INPUTS.get(node.op_type, ())
    if not is_known:
        return "operator", f"input {index} of {node.op_type} takes no factors"
    attributes = read_attributes(node)
    if attributes.has_references:
        return "attribute-reference", f"attributes of {node.op_type} come from a function's caller"
    if node.op_type == "Conv":
        return _conv_form(weight, attributes)
    if node.op_type == "Gemm":
        return _gemm_form(weight, attributes, index)
    return _matmul_form(weight, index)


_WEIGHT_INPUTS = {"Conv": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}


def _conv_form(weight: Weight, attributes: Attributes) -> Shape | tuple[str, str]:
    groups, shape = attributes.integer("group", 1), weight.shape
    fault = attributes.conv_fault(shape)
    if fault:
        return "malformed", fault
    if groups > 1 and shape[1] == 1:
        return "depthwise", "each input channel has kernels of its own"
    return Shape(kind="conv", groups=groups)


def _gemm_form(weight: Weight, attributes: Attributes, index: int) -> Shape | tuple[str, str]:
    if len(weight.shape) != 2:
        return "malformed", f"Gemm takes matrices, found {len(weight.shape)} dimensions"
    is_turned = [attributes.integer(name, 0) != 0 for name in ("transA", "transB")]
    if index == 0:
        # alpha A' B' + beta C with A as weight: B' has its features in the first axis.
        return Shape(kind="gemm-left", outputs_first=not is_turned[0], inputs_left=is_turned[1])
    return Shape(kind="gemm", outputs_first=is_turned[1], inputs_left=not is_turned[0])


def _matmul_form(weight: Weight, index: int) -> Shape | tuple[str, str]:
    if any(dim != 1 for dim in weight.shape[:-2]):
        return "batched", "it holds a matrix for each element of a batch"
    if index == 0:
        return Shape(kind="matmul-left", outputs_first=True, inputs_left=False)
    return Shape(kind="matmul", outputs_first=False, inputs_left=True)


def _sized(weight: Weight, uses: tuple[Use, ...], form: Shape) -> Layer | tuple[str, str]:
    """Return a layer with the splits that make it smaller, or why none does."""
    overhead = _overhead_bytes(weight, uses)
    layer = Layer(weight=weight, uses=uses, form=form, splits=(), overhead_bytes=overhead)
    splits = tuple(split for split in _splits(layer) if layer.max_rank(split) > 0)
    if not splits:
        return "too-small", "not even rank 1 would take fewer bytes"
    return replace(layer, splits=splits)


def _splits(layer: Layer) -> Iterator[Split]:
    """Yield the splits of a layer that differ from one another."""
    if layer.kind != "conv":
        yield "matrix"
        return
    if len(layer.kernel) == 2:
        # Where an extent is 1, the factor that covers the other one covers the whole kernel.
        if layer.kernel[1] > 1:
            yield "spatial-hw"
        if layer.kernel[0] > 1:
            yield "spatial-wh"
    yield "channel"


def _overhead_bytes(weight: Weight, uses: Sequence[Use]) -> int:
    """Return a bound of the bytes that factors add beside their values: a node, names, dims."""
    name = len(weight.name.encode())
    nodes = sum(2 * use.node.ByteSize() + name + 96 for use in uses)
    return nodes + 4 * name + 256
