"""What float16 can hold, and how values get there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.halves import fits, rounded


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_fit_up_to_those_that_round_to_infinity(dtype: Any) -> None:
    below, limit = np.nextafter(dtype(65520), dtype(0)), dtype(65520)
    for sign in (1, -1):
        assert fits(np.array([0, sign * below], dtype))
        assert rounded(np.array([sign * below], dtype))[0] == sign * 65504
        assert not fits(np.array([0, sign * limit], dtype))
        assert np.isinf(rounded(np.array([sign * limit], dtype))[0])


def test_infinities_fit_and_nan_does_not() -> None:
    assert fits(np.array([np.inf, -np.inf, 1]))
    assert not fits(np.array([np.nan]))
    assert fits(np.empty(0))


def test_small_values_round_to_subnormals_and_zero() -> None:
    assert rounded(np.float32([2**-24, 2**-26, -(2**-26)])).tobytes() == (
        np.float16([2**-24, 0.0, -0.0]).tobytes()
    )


def test_one_value_of_many_decides() -> None:
    values = np.zeros((1 << 20) + 3, np.float32)
    assert fits(values)
    values[-1] = 1e5
    assert not fits(values)
