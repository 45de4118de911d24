import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxq import differences
from onnxq.differences import OutputSums

VALUES = arrays.arrays(np.float32, st.integers(0, 12), elements=st.floats(width=32))


@given(VALUES, st.integers(1, 5))
def test_blocks_change_nothing(values: np.ndarray, size: int) -> None:
    other = np.roll(values, 1)
    whole, parts = OutputSums(), OutputSums()
    whole.add(values, other)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(differences, "_BLOCK_ELEMENTS", size)
        parts.add(values, other)
    assert parts.is_equal == whole.is_equal
    assert parts.difference("y").undefined == whole.difference("y").undefined
    assert parts.difference("y").mismatch == whole.difference("y").mismatch


@given(VALUES)
def test_an_output_is_equal_to_itself_where_it_has_a_finite_value(values: np.ndarray) -> None:
    sums = OutputSums()
    sums.add(values, values)
    found = sums.difference("y")
    assert found.is_equal is bool(np.isfinite(values).any())
    assert (found.undefined is None) is found.is_equal
    assert found.mismatch is None
