"""Shared strategies: bit widths, index arrays and weights that look like what models hold.

Every strategy shrinks towards the small and plain; arrays stay small enough to check by brute
force. NaN appears only where a strategy says so.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.forms import FLOAT16, Form
from tests.encoded import FLOATS, OPSETS, make_form

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
    """Draw a form of any layout, width, type, opset and shape of rank 1..4."""
    bits = draw(bit_widths)
    data_type = draw(st.sampled_from(FLOATS))
    return make_form(
        draw(layouts),
        bits,
        draw(shapes(max_elements)) or (1,),
        data_type=data_type,
        codebook_type=draw(st.sampled_from((data_type, FLOAT16))),
        opset=draw(st.sampled_from(OPSETS)),
        centroids=draw(st.integers(1, 1 << bits)),
    )
