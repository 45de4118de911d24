"""Whether an array fits an input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.data.fitting import describe, fixed_size, is_optional, is_tensor, misfit
from onnxq.runtime import InputSpec


def spec(dtype: str, *shape: int | str | None) -> InputSpec:
    return InputSpec(name="x", dtype=dtype, shape=shape)


@pytest.mark.parametrize("size", ["N", None, -1, 4])
def test_open_and_equal_sizes_fit(size: Any) -> None:
    assert misfit(spec("float32", size, 3), np.dtype("f4"), (4, 3)) is None


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 4), "f4"), ((4,), "f4"), ((4, 3, 1), "f4"), ((4, 3), "f8")]
)
def test_what_does_not_fit_is_told_with_both_sides(shape: tuple[int, ...], dtype: str) -> None:
    found = misfit(spec("float32", None, 3), np.dtype(dtype), shape)
    assert found == f"found {np.dtype(dtype).name} {list(shape)}, expected float32 [?, 3]"


@pytest.mark.parametrize("dtype", ["U5", "S3"])
def test_text_of_any_length_fits(dtype: str) -> None:
    assert misfit(spec("str", 2), np.dtype(dtype), (2,)) is None
    assert misfit(spec("float32", 2), np.dtype(dtype), (2,)) is not None


def test_names_from_the_model_are_plain_in_messages() -> None:
    assert describe(spec("int64", "a\x1b[2J", -1)) == r"int64 [a\x1b[2J, ?]"


def test_fixed_sizes() -> None:
    assert [fixed_size(spec("int64", size), 0) for size in (4, "N", None, -1)] == [
        4, None, None, None,
    ]  # fmt: skip


def test_other_types_are_known() -> None:
    optional = spec("optional(tensor(float))")
    assert is_optional(optional)
    assert not is_tensor(optional)
    assert is_tensor(spec("float32"))
    assert not is_tensor(spec("seq(tensor(float))"))


def test_text_of_any_length_is_text() -> None:
    spec = InputSpec(name="x", dtype="float32", shape=(2,))
    assert str(misfit(spec, np.dtype("<U21"), (2,))).startswith("found text [2]")
