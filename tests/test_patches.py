"""Patches against what ONNX's own Conv makes of one-hot weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest
from onnx.reference import ReferenceEvaluator

from onnxq.calibration import patches


def every(total: int, count: int) -> Any:
    raise AssertionError(f"nothing is to be chosen: {count} of {total}")


def first(total: int, count: int) -> Any:
    return np.arange(count)


def outputs_by_onnx(values: Any, kernel: tuple[int, ...], **attributes: Any) -> Any:
    """Return [samples, channels x kernel, *positions]: a Conv that copies each element out."""
    channels, size = values.shape[1], int(np.prod(kernel))
    weight = np.eye(channels * size, dtype=np.float32).reshape(-1, channels, *kernel)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, None)],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    (found,) = ReferenceEvaluator(model).run(None, {"x": values})
    return found


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 3), {}),
        ((3, 2), {"pads": [1, 0, 2, 1]}),
        ((2, 3), {"strides": [2, 1], "dilations": [1, 2]}),
        ((3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((2, 4), {"auto_pad": "SAME_LOWER"}),
        ((3, 3), {"auto_pad": "VALID"}),
        ((1, 1), {}),
        ((3,), {"pads": [2, 2], "dilations": [2]}),
        ((2, 1, 2), {"strides": [1, 2, 1]}),
    ],
    ids=str,
)
def test_patches_are_what_a_convolution_multiplies(
    kernel: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    sizes = (7, 6, 5)[: len(kernel)]
    values = np.random.default_rng(0).normal(size=(2, 3, *sizes)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    expected = outputs_by_onnx(values, kernel, **attributes)
    expected = np.moveaxis(expected, 1, -1).reshape(-1, 3, *kernel)
    look = patches.window(node, kernel)
    np.testing.assert_array_equal(patches.of_convolution(values, look, 10_000, every), expected)


def test_a_bounded_number_of_positions_is_looked_at_in_every_sample() -> None:
    values = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    look = patches.window(onnx.helper.make_node("Conv", ["x", "w"], ["y"]), (2, 2))
    found = patches.of_convolution(values, look, 2, first)
    np.testing.assert_array_equal(
        found.reshape(4, 4), [[0, 1, 4, 5], [1, 2, 5, 6], [16, 17, 20, 21], [17, 18, 21, 22]]
    )


def test_an_input_smaller_than_the_kernel_has_no_patch() -> None:
    look = patches.window(onnx.helper.make_node("Conv", ["x", "w"], ["y"]), (3, 3))
    found = patches.of_convolution(np.zeros((1, 2, 2, 2), np.float32), look, 9, every)
    assert found.shape == (0, 2, 3, 3)


def test_vectors_are_rows_or_columns_of_every_matrix() -> None:
    values = np.arange(12).reshape(2, 2, 3)
    np.testing.assert_array_equal(
        patches.of_matrix(values, -1, 9, every), [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    )
    np.testing.assert_array_equal(
        patches.of_matrix(values, -2, 9, every),
        [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]],
    )
    np.testing.assert_array_equal(patches.of_matrix(values, -1, 1, first), [[0, 1, 2]])


def test_a_single_vector_is_one_row() -> None:
    np.testing.assert_array_equal(patches.of_matrix(np.arange(3), -1, 9, every), [[0, 1, 2]])
