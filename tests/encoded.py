"""Forms, plans and encoded tensors made by hand, and an evaluator of expressions in numpy.

The evaluator knows the operators from the ONNX specification alone, so what it computes does not
depend on how `encode` decodes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
from onnx import ModelProto, TensorProto, helper

from onnxq import encode, forms, layout, model, scaling
from onnxq.encode import Encoded, planes
from onnxq.files import InlineStore
from onnxq.forms import MAX_NODE_BYTES, Form, StoredLayout, canonical
from onnxq.graphs import Document, taken_names
from onnxq.options import LayoutName
from onnxq.plans import Plan, TensorPlan
from onnxq.tensors import FLOAT_TYPES, type_name
from onnxq.trees import (
    BFLOAT16,
    DOUBLE,
    FLOAT,
    FLOAT16,
    UINT2,
    UINT4,
    Const,
    Expr,
    Op,
    Output,
    Part,
)
from tests import graphs

Array = np.ndarray[Any, np.dtype[Any]]
LAYOUTS: tuple[LayoutName, ...] = ("portable", "native", "bytes")
STORED_LAYOUTS: tuple[StoredLayout, ...] = (*LAYOUTS, "radix")
FLOATS = (FLOAT, FLOAT16, BFLOAT16, DOUBLE)
OPSETS = (7, 10, 11, 21, 25)


def make_form(
    wanted: StoredLayout = "portable",
    bit_width: int = 4,
    shape: Sequence[int] = (5, 7),
    **changes: Any,
) -> Form:
    """Return a form under its one name; every index that the width has is in use by default."""
    given = {"data_type": FLOAT, "opset": 17, "centroids": 1 << bit_width, **changes}
    given.setdefault("codebook_type", given["data_type"])
    named, width = canonical(wanted, bit_width, given["centroids"], given["opset"])
    return Form(layout=named, bit_width=width, shape=tuple(shape), **given)


def indices(form: Form, seed: int = 0) -> Array:
    """Return random indices of a form; the highest one occurs."""
    rng = np.random.default_rng((seed, form.elements, form.centroids))
    drawn = rng.integers(0, form.centroids, form.elements)
    drawn[rng.integers(form.elements)] = form.centroids - 1
    return drawn.astype(np.uint8 if form.centroids <= 256 else np.uint16).reshape(form.shape)


def centroids(form: Form) -> Array:
    """Return ascending centroids in the stored type, as different as the type allows."""
    dtype = FLOAT_TYPES[form.codebook_type]
    return np.sort(np.linspace(-2, 3, form.centroids).astype(dtype))


def scales(form: Form) -> Array:
    """Return scales in the stored type, all different, of the dims that they are stored with."""
    assert form.scale_axis is not None
    assert form.scale_type is not None
    dims = [1] * len(form.shape)
    dims[form.scale_axis] = form.shape[form.scale_axis]
    ascending = np.linspace(0.3, 1.7, math.prod(dims))
    return ascending.astype(FLOAT_TYPES[form.scale_type]).reshape(dims)


def kept(form: Form) -> dict[str, Array]:
    """Return places and kept values in the stored types, spread over the tensor."""
    assert form.kept_type is not None
    places = np.linspace(0, form.elements - 1, form.kept).astype(np.int32)
    kinds = np.linspace(-40, 50, form.kept).astype(FLOAT_TYPES[form.kept_type])
    return {"places": places, "kept": kinds}


def half_form(shape: Sequence[int] = (5, 7), data_type: int = FLOAT, opset: int = 17) -> Form:
    """Return the form that stores values as float16."""
    return make_form(
        "half", 16, shape, data_type=data_type, codebook_type=FLOAT16, centroids=0, opset=opset
    )


def _half_values(form: Form, seed: int) -> Array:
    rng = np.random.default_rng((seed, form.elements))
    return rng.standard_normal(form.shape).astype(np.float16)


def payloads(form: Form, seed: int = 0, limit: int = MAX_NODE_BYTES) -> dict[str, Array]:
    """Return the stored arrays of random indices: planes and codebook, zeros behind it; scales."""
    if form.layout == "half":
        cuts = np.cumsum(forms.tile_rows(form, limit))[:-1]
        tiles = np.split(_half_values(form, seed), cuts)
        return {f"values{tile}": part for tile, part in enumerate(tiles)}
    book = np.zeros(form.codebook_length, FLOAT_TYPES[form.codebook_type])
    book[: form.centroids] = centroids(form)
    stored = {"codebook": book, **planes(indices(form, seed), form, limit)}
    if form.kept:
        return stored | kept(form)
    if form.scale_axis is None:
        return stored
    return stored | scaling.scale_parts(scales(form), form, limit)


def values(form: Form, seed: int = 0) -> Array:
    """Return what `payloads` decodes to."""
    dtype = FLOAT_TYPES[form.data_type]
    if form.layout == "half":
        return _half_values(form, seed).astype(dtype)
    found: Array = centroids(form).astype(dtype)[indices(form, seed)]
    if form.kept:
        beside = kept(form)
        found.reshape(-1)[beside["places"]] = beside["kept"].astype(dtype)
    return found if form.scale_axis is None else found * scales(form).astype(dtype)


@dataclass
class Evaluator:
    """Compute expressions; `outputs` keeps what every node gave."""

    payloads: Mapping[str, Array]
    outputs: dict[Expr, Array] = field(default_factory=dict)

    def value(self, expr: Expr) -> Array:
        if expr in self.outputs:
            return self.outputs[expr]
        if isinstance(expr, Const):
            dtype = helper.tensor_dtype_to_np_dtype(expr.data_type)
            return np.array(expr.values, dtype).reshape(expr.dims)
        if isinstance(expr, Part):
            return self._part(expr)
        if isinstance(expr, Output):
            self.outputs[expr] = self._split(expr)
            return self.outputs[expr]
        assert isinstance(expr, Op)
        found = self._apply(expr, [self.value(item) for item in expr.inputs])
        self.outputs[expr] = found
        return found

    def _split(self, output: Output) -> Array:
        split, given = output.op, dict(output.op.attributes)
        inputs = [self.value(item) for item in split.inputs]
        lengths = given["split"] if "split" in given else inputs[1]
        ends = np.cumsum(lengths)
        assert (split.op_type, inputs[0].ndim, split.outputs) == ("Split", 1, len(ends))
        assert inputs[0].size == ends[-1]
        pieces: list[Array] = np.split(inputs[0], ends[:-1])
        return pieces[output.number]

    def _part(self, part: Part) -> Array:
        stored = self.payloads[part.role].reshape(-1)
        if part.data_type in (UINT4, UINT2):
            bits = 4 if part.data_type == UINT4 else 2
            shifts = np.arange(0, 8, bits, dtype=np.uint8)
            stored = ((stored[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)
            stored = stored[: math.prod(part.dims)]
        else:
            assert stored.dtype == helper.tensor_dtype_to_np_dtype(part.data_type)
        return stored.reshape(part.dims)

    def _apply(self, op: Op, inputs: list[Array]) -> Array:
        given: dict[str, Any] = dict(op.attributes)
        if op.op_type == "Gather":
            assert inputs[1].dtype == np.int32
            return np.take(inputs[0], inputs[1], axis=0)
        if op.op_type == "Cast":
            return inputs[0].astype(helper.tensor_dtype_to_np_dtype(given["to"]))
        if op.op_type == "ScatterElements":
            assert inputs[1].dtype == np.int32
            scattered = inputs[0].copy()
            scattered[inputs[1]] = inputs[2]
            return scattered
        if op.op_type == "Reshape":
            assert inputs[1].dtype == np.int64
            return inputs[0].reshape(tuple(inputs[1]))
        if op.op_type == "Slice":
            start, end = (inputs[1], inputs[2]) if len(inputs) > 1 else given.values()
            return inputs[0][start[0] : end[0]]
        if op.op_type == "Concat":
            return np.concatenate(inputs, axis=given["axis"])
        if op.op_type == "Range":
            return np.arange(*inputs, dtype=np.int32)
        if op.op_type == "Mul":
            assert inputs[0].dtype == inputs[1].dtype
            product: Array = inputs[0] * inputs[1]
            return product
        assert {value.dtype for value in inputs} == {np.dtype(np.int32)}
        if op.op_type == "Div":
            return inputs[0] // inputs[1]
        found: Array = {"Add": np.add, "Mod": np.mod, "MatMul": np.matmul}[op.op_type](*inputs)
        return found


# Models


def planned(form: Form, name: str = "w", graph: str = "main", **changes: Any) -> TensorPlan:
    """Return the plan that asks for a form."""
    is_half = form.codebook_type != form.data_type
    dtype = type_name(form.data_type)
    given: dict[str, Any] = {
        "name": name, "graph": graph, "shape": form.shape, "dtype": dtype,
        "elements": form.elements, "bit_width": form.bit_width, "centroids": form.centroids,
        "layout": form.layout, "is_pooled": form.pool is not None,
        "codebook_dtype": "float16" if is_half else dtype, "scale_axis": form.scale_axis,
        "scale_dtype": None if form.scale_type is None else type_name(form.scale_type),
        "kept_values": form.kept,
        "kept_dtype": None if form.kept_type is None else type_name(form.kept_type),
        "original_bytes": form.elements * FLOAT_TYPES[form.data_type].itemsize,
        "init": "optimal", "pdf_factor": 0.5, "max_iterations": 300, "storage_graph": graph,
    }  # fmt: skip
    return TensorPlan(**(given | changes))


def encoded(form: Form, plan: TensorPlan | None = None, seed: int = 0) -> Encoded:
    """Return an encoded tensor of random indices."""
    stored = payloads(form, seed)
    return Encoded(
        planned=plan or planned(form),
        form=form,
        payloads=stored,
        payload_bytes=encode.stored_bytes(stored, form),
        distortion=1.0,
        snr_db=10.0,
        gap=None,
        is_lossless=False,
        iterations=1,
    )


def holding(form: Form, name: str = "w") -> ModelProto:
    """Return a model y = -w over one float weight of a form's shape, type and opset."""
    held = TensorProto(name=name, data_type=form.data_type, dims=form.shape)
    held.raw_data = bytes(form.elements * FLOAT_TYPES[form.data_type].itemsize)
    body = graphs.graph(
        [graphs.node("Neg", name, "y", name="user")],
        [],
        [graphs.value("y", *form.shape, dtype=form.data_type)],
        [held],
    )
    made = graphs.model(body, form.opset)
    for value in made.graph.input:  # the weight, before IR 4
        value.type.tensor_type.elem_type = form.data_type
    return made


def built(form: Form, proto: ModelProto | None = None, seed: int = 0) -> Document:
    """Return the model of `holding` with its weight stored in the form."""
    document = model.wrap(proto or holding(form))
    found = model.weights(document)
    target = next(weight for weight in found if weight.shape == form.shape)
    one = planned(form, target.name, target.graph)
    taken = taken_names(document)
    layout.strip(document, Plan(tensors=(one,), skips=()), found)
    assembler = layout.Assembler(document, taken, found, Plan(tensors=(one,), skips=()))
    inserter = layout.Inserter(document, assembler, InlineStore())
    inserter.insert(one, encoded(form, one, seed))
    return document


@contextlib.contextmanager
def limited(limit: int) -> Iterator[None]:
    """Let no decode node exceed a small limit, so that small tensors are tiled."""
    with contextlib.ExitStack() as stack:
        functions = (
            forms.expression, forms.tile_rows, encode.planes, encode.decode_indices,
            scaling.scale_parts, scaling.joined_scales,
        )  # fmt: skip
        for function in functions:
            stack.enter_context(mock.patch.object(function, "__defaults__", (limit,)))
        stack.enter_context(mock.patch.object(payloads, "__defaults__", (0, limit)))
        yield
