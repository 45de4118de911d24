"""Whether an array fits a model's input, told from dtype and shape alone.

Owns the comparison and its words. Nothing is ever cast or reshaped to make it fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxq.plaintext import dtype_text, plain
from onnxq.runtime import InputSpec, OutputSpec, is_size


def misfit(spec: InputSpec, dtype: np.dtype[Any], shape: Sequence[int]) -> str | None:
    """Return what was found and what the input expects; None where the array fits.

    >>> spec = InputSpec(name="x", dtype="float32", shape=("N", 3))
    >>> misfit(spec, np.dtype("float32"), (8, 3))
    >>> misfit(spec, np.dtype("float64"), (8, 4))
    'found float64 [8, 4], expected float32 [N, 3]'
    """
    fits = has_dtype(spec, dtype) and len(shape) == len(spec.shape)
    if fits and all(map(is_size, spec.shape, shape)):
        return None
    return f"found {dtype_text(dtype)} {list(shape)}, expected {describe(spec)}"


def has_dtype(spec: InputSpec, dtype: np.dtype[Any]) -> bool:
    """Tell whether an array's dtype is the input's; text of any length is text."""
    if spec.dtype == "str":
        return dtype.kind in "US"
    return dtype.name == spec.dtype


def can_continue(output: OutputSpec, spec: InputSpec) -> bool:
    """Tell whether an output may be the input of the next run, as far as a model declares them.

    >>> state = InputSpec(name="s", dtype="float32", shape=(2, "N", 128))
    >>> out = OutputSpec(name="t", dtype="float32", shape=("d0", "N", None))
    >>> can_continue(out, state)
    True
    >>> can_continue(OutputSpec(name="y", dtype="float32", shape=("N", 10)), state)
    False
    """
    fits = output.dtype == spec.dtype and len(output.shape) == len(spec.shape)
    return fits and all(
        not isinstance(found, int) or found < 0 or is_size(size, found)
        for size, found in zip(spec.shape, output.shape, strict=True)
    )


def describe(spec: InputSpec | OutputSpec) -> str:
    """Return dtype and shape as text, open sizes by their names or as question marks."""
    sizes = ", ".join(_size_text(size) for size in spec.shape)
    return f"{spec.dtype} [{sizes}]"


def fixed_size(spec: InputSpec, axis: int) -> int | None:
    """Return an input's size along an axis; None where it is open."""
    size = spec.shape[axis]
    return size if isinstance(size, int) and size >= 0 else None


def is_tensor(spec: InputSpec) -> bool:
    """Tell whether an input is a plain tensor, which is all that data files hold."""
    return "(" not in spec.dtype


def is_optional(spec: InputSpec) -> bool:
    """Tell whether a model runs without an input."""
    return spec.dtype.startswith("optional")


def _size_text(size: int | str | None) -> str:
    is_open = size is None or (isinstance(size, int) and size < 0)
    return "?" if is_open else plain(str(size))
