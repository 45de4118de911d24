"""Shared strategies: bit widths, index arrays and weights that look like what models hold.

Every strategy shrinks towards the small and plain; arrays stay small enough to check by brute
force. NaN appears only where a strategy says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, NodeProto, helper

from onnxq.forms import Form
from onnxq.trees import DOUBLE, FLOAT, FLOAT16
from tests import graphs
from tests.encoded import FLOATS, OPSETS, STORED_LAYOUTS, half_form, make_form

Array = np.ndarray[Any, np.dtype[Any]]

FLOAT_DTYPES = (
    np.dtype(np.float32),
    np.dtype(np.float16),
    np.dtype(ml_dtypes.bfloat16),
    np.dtype(np.float64),
)
LAYOUTS = ("portable", "native", "bytes")

bit_widths = st.integers(1, 16)
layouts = st.sampled_from(LAYOUTS)
float_dtypes = st.sampled_from(FLOAT_DTYPES)
lengths = st.integers(0, 200)
positive_lengths = st.integers(1, 200)


@st.composite
def shapes(draw: st.DrawFn, max_elements: int = 200) -> tuple[int, ...]:
    """Draw a shape of rank 0..4 with 1..max_elements elements."""
    dims: list[int] = []
    left = max_elements
    for _ in range(draw(st.integers(0, 4))):
        dims.append(draw(st.integers(1, max(1, left))))
        left //= dims[-1]
    return tuple(dims)


@st.composite
def packed_indices(draw: st.DrawFn) -> tuple[int, Array]:
    """Draw (bit_width, indices): a flat array of values below 2**bit_width, possibly empty."""
    bit_width = draw(bit_widths)
    elements = st.integers(0, 2**bit_width - 1)
    return bit_width, draw(hnp.arrays(np.int64, lengths, elements=elements))


def finite_values(width: int = 32) -> st.SearchStrategy[float]:
    """Return finite floats of a width, subnormals and both zeros among them."""
    return st.floats(width=width, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]


@st.composite
def flat_weights(draw: st.DrawFn, allow_infinity: bool = False) -> Array:
    """Draw 1..200 float32 values: bell-shaped, heavy-tailed, few-valued, constant or any."""
    size = draw(positive_lengths)
    kind = draw(st.sampled_from(("normal", "few", "constant", "arbitrary", "heavy")))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    if kind == "normal":
        values = rng.standard_normal(size) * 0.05
    elif kind == "heavy":
        values = rng.standard_t(2, size)
    elif kind == "few":
        pool = rng.standard_normal(draw(st.integers(1, 8)))
        values = rng.choice(pool, size)
    elif kind == "constant":
        values = np.full(size, draw(finite_values()))
    else:
        values = draw(hnp.arrays(np.float32, size, elements=finite_values()))
    array = np.asarray(values, np.float32)
    if allow_infinity and draw(st.booleans()):
        array[draw(st.integers(0, size - 1))] = draw(st.sampled_from((np.inf, -np.inf)))
    return array


@st.composite
def weights(draw: st.DrawFn) -> Array:
    """Draw a float array of any of the four dtypes and of rank 0..4, finite in its dtype."""
    dtype = draw(float_dtypes)
    shape = draw(shapes())
    flat = draw(flat_weights())
    with np.errstate(over="ignore"):
        values = np.resize(flat, shape).astype(dtype)
    # Overflow to infinity in a narrow type is not what the caller asked for.
    values[~np.isfinite(values.astype(np.float64))] = 1
    return values


@st.composite
def forms(draw: st.DrawFn, max_elements: int = 200) -> Form:
    """Draw a form of any layout, width, type, opset and shape of rank 1..4, with scales or not."""
    bits = draw(bit_widths)
    data_type = draw(st.sampled_from(FLOATS))
    shape = draw(shapes(max_elements)) or (1,)
    if data_type in (FLOAT, DOUBLE) and draw(st.integers(0, 4)) == 4:
        return half_form(shape, data_type, draw(st.sampled_from(OPSETS)))
    axes = [axis for axis, dim in enumerate(shape) if dim > 1]
    axis = draw(st.sampled_from((None, *axes))) if data_type in (FLOAT, DOUBLE) else None
    return make_form(
        draw(st.sampled_from(STORED_LAYOUTS)),
        bits,
        shape,
        data_type=data_type,
        scale_axis=axis,
        scale_type=None if axis is None else draw(st.sampled_from((data_type, FLOAT16))),
        codebook_type=draw(st.sampled_from((data_type, FLOAT16))),
        opset=draw(st.sampled_from(OPSETS)),
        centroids=draw(st.integers(1, 1 << bits) | st.integers(1, min(3, 1 << bits))),
    )


PLACES = ("initializer", "constant", "branch", "branch constant", "deep", "function", "in function")
_NAMES = ("w", "q0", "q", "z1", "layer/0:0", "gewicht-ß", "n" * 140, "a b")


@st.composite
def _values(draw: st.DrawFn, kinds: tuple[str, ...]) -> Array:
    """Draw the values of a weight: of all kinds, shapes and dtypes that a model holds."""
    shape = draw(st.sampled_from(((1,), (7,), (16, 16), (33,), (20, 31), (2, 3, 4, 5), (1500,))))
    kind = draw(st.sampled_from(kinds))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.standard_normal(shape).astype(np.float32)
    if kind == "few":
        values = rng.choice(values.reshape(-1)[:3], shape)
    elif kind == "constant":
        values[:] = values.reshape(-1)[0]
    elif kind in ("inf", "nan"):
        values.reshape(-1)[0] = np.inf if kind == "inf" else np.nan
    return values.astype(draw(float_dtypes))


@st.composite
def models(draw: st.DrawFn, kinds: tuple[str, ...] = ("normal", "few", "constant", "inf")) -> Any:
    """Draw a model with 1..5 float weights at any place that holds some, and an integer tensor.

    Equal weights occur. The model is well-formed at its opset (7 to 25), but not made to be run.
    """
    opset = draw(st.sampled_from((7, 9, 10, 11, 13, 21, 25)))
    places = PLACES if opset >= 9 else PLACES[:1]
    held: dict[str, dict[str, Array]] = {place: {} for place in PLACES}
    before: list[Array] = []
    for number in range(draw(st.integers(1, 5))):
        values = draw(_values(kinds))
        if before and draw(st.integers(0, 3)) == 0:
            values = before[-1].reshape(-1)
        before.append(values)
        name = f"{draw(st.sampled_from(_NAMES))}{number}"
        held[draw(st.sampled_from(places))][name] = values
    return _model(held, opset)


def _model(held: Mapping[str, Mapping[str, Array]], opset: int) -> ModelProto:
    """Return a model that holds arrays by place and name; every one of them is negated."""

    def used(*places: str) -> list[NodeProto]:
        nodes = []
        for place in places:
            for name, values in held[place].items():
                if "constant" in place or "function" in place:
                    tensor = graphs.tensor("", values)
                    nodes.append(helper.make_node("Constant", [], [name], value=tensor))
                nodes.append(helper.make_node("Neg", [name], [f"{name} negated"]))
        return nodes

    flag = graphs.value("flag", dtype=graphs.BOOL)
    empty = graphs.graph([], [], [])
    deep = graphs.graph(used("deep"), [], [], graphs.tensors(**held["deep"]), name="deep")
    branch = graphs.graph(
        [*used("branch", "branch constant"),
         graphs.node("If", "flag", "inner", then_branch=deep, else_branch=empty)],
        [], [], graphs.tensors(**held["branch"]), name="branch",
    )  # fmt: skip
    nodes = used("initializer", "constant")
    if any(held[place] for place in ("branch", "branch constant", "deep")):
        nodes.append(graphs.node("If", "flag", "outer", then_branch=branch, else_branch=empty))
    functions = []
    if held["function"] or held["in function"]:
        body = [*used("function"), graphs.node("If", "flag", "f", then_branch=graphs.graph(
            used("in function"), [], []), else_branch=empty)]  # fmt: skip
        imports = [helper.make_opsetid("", opset)]
        functions.append(helper.make_function("local", "Layer", ["flag"], ["f"], body, imports))
        nodes.append(graphs.node("Layer", "flag", "call", domain="local"))
    held_main = graphs.tensors(count=np.arange(9), **held["initializer"])
    main = graphs.graph(nodes, [flag], [graphs.value("outer", 1)], held_main)
    return graphs.model(main, opset, functions=functions, imports={"local": 1})
