"""Patches against what ONNX's own Conv makes of one-hot weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest
from onnx.reference import ReferenceEvaluator

from onnxq.calibration import patches
from tests import runs


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


def outputs_of_turned(values: Any, kernel: tuple[int, ...], **attributes: Any) -> Any:
    """Return [samples, channels x kernel, *positions] of a ConvTranspose that copies elements."""
    channels, size = values.shape[1], int(np.prod(kernel))
    weight = np.zeros((channels, channels, size, size), np.float32)
    for channel in range(channels):
        weight[channel, channel] = np.eye(size)  # output (channel, place) has that place alone
    weight = weight.reshape(channels, channels * size, *kernel)
    node = onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, None)],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    imports = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    (found,) = runs.run(model, {"x": values}).values()
    return found


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 3), {}),
        ((3, 2), {"strides": [2, 3]}),
        ((4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((3, 3), {"strides": [2, 2], "pads": [1, 0, 2, 1], "output_padding": [1, 1]}),
        ((2, 3), {"strides": [3, 1], "dilations": [1, 2]}),
        ((3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((3, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ((3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
        ((3, 3), {"output_shape": [10, 12], "strides": [2, 2]}),
        ((5,), {"strides": [4], "pads": [2, 1]}),
        ((2, 1, 3), {"strides": [1, 2, 2]}),
    ],
    ids=str,
)
def test_what_meets_in_outputs_of_a_transposed_convolution(
    kernel: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    sizes = (5, 6, 4)[: len(kernel)]
    values = np.random.default_rng(0).normal(size=(2, 3, *sizes)).astype(np.float32)
    node = onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    found = patches.of_transposed(values, patches.turned(node, kernel), 10**6, every)
    expected = outputs_of_turned(values, kernel, **attributes)
    size = expected.shape[1]
    np.testing.assert_array_equal(
        found.reshape(2, -1, size), expected.reshape(2, size, -1).transpose(0, 2, 1)
    )


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        ((2,), (2, 3, 5)),
        ((2, 1, 4), (2, 6, 4, 3, 5)),
        ((2, 4), (7, 1, 4, 3, 5)),
        ((2, 4), (3, 5)),
        ((2, 4), (5,)),
        ((1, 4), (2, 4, 3, 5)),
    ],
    ids=str,
)
def test_each_matrix_of_a_batch_meets_the_vectors_of_its_products(
    batch: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    values, weight = random.normal(size=shape), random.normal(size=(*batch, 5, 6))
    found = patches.of_matrices(values, -1, batch, 10**6, every)
    assert found.shape[0] == np.prod(batch)
    # Sums over all products tell which vector met which matrix.
    made = found @ weight.reshape(-1, 5, 6)
    expected = np.matmul(values, weight)
    np.testing.assert_allclose(made.sum(), expected.sum(), rtol=1e-9)
    np.testing.assert_allclose(np.sort(made, axis=None), np.sort(expected, axis=None), rtol=1e-9)


def test_columns_meet_a_batch_from_the_left() -> None:
    random = np.random.default_rng(0)
    values, weight = random.normal(size=(2, 5, 3)), random.normal(size=(2, 6, 5))
    found = patches.of_matrices(values, -2, (2,), 10**6, every)
    expected = np.matmul(weight, values)
    np.testing.assert_allclose(found @ weight.transpose(0, 2, 1), expected.transpose(0, 2, 1))


def test_of_many_vectors_of_a_batch_some_are_chosen() -> None:
    values = np.random.default_rng(0).normal(size=(2, 9, 5))
    found = patches.of_matrices(values, -1, (2,), 4, first)
    np.testing.assert_array_equal(found, values[:, :4])
