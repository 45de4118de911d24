"""Means that a BatchNormalization tells, against those of normal inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxq import model
from onnxq.calibration import maps
from onnxq.calibration.expected import clipped_mean, expected_means
from tests import graphs

Array = np.ndarray[Any, np.dtype[Any]]
SHIFT = np.array([-1.0, 0.0, 0.5, 3.0], np.float32)
SCALE = np.array([0.5, -1.0, 2.0, 0.0], np.float32)


def behind_norm(between: list[Any], last: Any, weight: Array, opset: int = 17) -> ModelProto:
    held = {
        "w": weight,
        "scale": SCALE,
        "shift": SHIFT,
        "mean": graphs.normal((4,), 1),
        "var": graphs.positive(graphs.normal((4,), 2)),
        "low": np.array(0.25, np.float32),
        "high": np.array(2.0, np.float32),
    }
    nodes = [graphs.node("BatchNormalization", "x,scale,shift,mean,var", "n"), *between, last]
    body = graphs.graph(
        nodes,
        [graphs.value("x", 1, 4, *([5, 5] if weight.ndim == 4 else []))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        graphs.tensors(**held),
    )
    return graphs.model(body, opset)


def means(proto: ModelProto) -> dict[str, Array]:
    document = model.wrap(proto)
    weights = model.weights(document)
    found = expected_means(document, weights, maps.linear_maps(document, weights))
    return {key[1]: mean for key, mean in found.items()}


def drawn(low: float, high: float) -> Array:
    """Return the means of a million values clipped."""
    z = np.random.default_rng(0).standard_normal((1_000_000, 1))
    return np.asarray(np.clip(SHIFT + np.abs(SCALE) * z, low, high).mean(axis=0))


CONV = graphs.node("Conv", "h,w", "y")
BETWEEN: dict[str, tuple[list[Any], float, float, int]] = {
    "nothing": ([graphs.node("Identity", "n", "h")], -np.inf, np.inf, 17),
    "relu": ([graphs.node("Relu", "n", "h")], 0.0, np.inf, 17),
    "clip": ([graphs.node("Clip", "n,low,high", "h")], 0.25, 2.0, 17),
    "clip, below": ([graphs.node("Clip", "n,low", "h")], 0.25, np.inf, 17),
    "clip, as attributes": ([graphs.node("Clip", "n", "h", min=0.0, max=6.0)], 0.0, 6.0, 9),
    "relu, then clip": (
        [graphs.node("Relu", "n", "r"), graphs.node("Clip", "r,,high", "h")], 0.0, 2.0, 17,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BETWEEN)
def test_means_are_those_of_normal_values(case: str) -> None:
    between, low, high, opset = BETWEEN[case]
    found = means(behind_norm(between, CONV, graphs.normal((3, 4, 2, 2), 3), opset))["w"]
    assert found.shape == (1, 16)
    # Of a million values of deviation at most 2, the mean errs by 0.002; 5 times that is allowed.
    np.testing.assert_allclose(found[0], np.repeat(drawn(low, high), 4), atol=0.01)


def test_groups_have_the_means_of_their_channels() -> None:
    node = graphs.node("Conv", "n,w", "y", group=4)
    found = means(behind_norm([], node, graphs.normal((4, 1, 3, 3), 3)))["w"]
    np.testing.assert_array_equal(found, np.repeat(SHIFT, 9).reshape(4, 9))


def test_features_of_a_product_have_means() -> None:
    node = graphs.node("Gemm", "n,w", "y")
    found = means(behind_norm([], node, graphs.normal((4, 7), 3)))["w"]
    np.testing.assert_array_equal(found, SHIFT[np.newaxis])


def swish(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


FUNCTIONS: dict[str, tuple[list[Any], Callable[[Array], Array]]] = {
    "swish": ([graphs.node("Sigmoid", "n", "s"), graphs.node("Mul", "n,s", "h")], swish),
    "hard swish": (
        [graphs.node("HardSwish", "n", "h")],
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    ),
    "hard swish of parts": (
        [
            graphs.node("Add", "n,high", "a"),
            graphs.node("Clip", "a,low,high", "c"),
            graphs.node("Mul", "n,c", "m"),
            graphs.node("Div", "m,high", "h"),
        ],
        lambda x: x * np.clip(x + 2, 0.25, 2) / 2,
    ),
    "plus a constant": (
        [
            graphs.node("Constant", "", "c", value=graphs.tensor("c", np.array([2.0], np.float32))),
            graphs.node("Add", "c,n", "a"),
            graphs.node("Relu", "a", "h"),
        ],
        lambda x: np.maximum(x + 2, 0),
    ),
    "leaky": (
        [graphs.node("LeakyRelu", "n", "l", alpha=0.1), graphs.node("Relu", "l", "h")],
        lambda x: np.maximum(x, 0),
    ),
    "hard sigmoid": (
        [graphs.node("HardSigmoid", "n", "l", alpha=0.3), graphs.node("Sub", "l,high", "h")],
        lambda x: np.clip(0.3 * x + 0.5, 0, 1) - 2,
    ),
    "tanh": ([graphs.node("Tanh", "n", "h")], np.tanh),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_means_behind_functions_of_single_values(case: str) -> None:
    between, function = FUNCTIONS[case]
    found = means(behind_norm(between, CONV, graphs.normal((3, 4, 1, 1), 3)))["w"]
    z = np.random.default_rng(0).standard_normal((1_000_000, 1))
    expected = function(SHIFT + np.abs(SCALE) * z).mean(axis=0)
    np.testing.assert_allclose(found[0], expected, atol=0.01)


def test_what_is_made_of_two_norms_has_no_known_mean() -> None:
    nodes = [
        graphs.node("BatchNormalization", "x,scale,shift,mean,var", "m"),
        graphs.node("Mul", "n,m", "h"),
    ]
    assert means(behind_norm(nodes, CONV, graphs.normal((3, 4, 2, 2), 3))) == {}


def test_sums_and_averages_have_the_means_of_what_they_are_made_of() -> None:
    nodes = [
        graphs.node("BatchNormalization", "x,scale,shift,mean,var", "m"),
        graphs.node("Relu", "m", "r"),
        graphs.node("Add", "n,r", "s"),
        graphs.node("GlobalAveragePool", "s", "h"),
    ]
    found = means(behind_norm(nodes, CONV, graphs.normal((3, 4, 1, 1), 3)))["w"]
    np.testing.assert_allclose(found[0], SHIFT + drawn(0.0, np.inf), atol=0.01)
    nodes[1] = graphs.node("Softmax", "m", "r")
    assert means(behind_norm(nodes, CONV, graphs.normal((3, 4, 1, 1), 3))) == {}


@pytest.mark.parametrize(("op_type", "links"), [("Add", 30), ("Add", 3000), ("Mul", 3000)])
def test_long_chains_of_sums_and_products_end(op_type: str, links: int) -> None:
    names = ["n", *(f"s{link}" for link in range(links - 1)), "h"]
    pairs = itertools.pairwise(names)
    nodes = [graphs.node(op_type, f"{before},{before}", after) for before, after in pairs]
    found = means(behind_norm(nodes, CONV, graphs.normal((3, 4, 1, 1), 3)))
    if links == 30:
        np.testing.assert_allclose(found["w"][0], SHIFT * 2.0**30)
    else:
        assert found == {}


@pytest.mark.parametrize("between", ["Softmax", "Neg"])
def test_behind_anything_else_nothing_is_known(between: str) -> None:
    proto = behind_norm([graphs.node(between, "n", "h")], CONV, graphs.normal((3, 4, 2, 2), 3))
    assert means(proto) == {}


def test_a_norm_in_training_tells_nothing() -> None:
    proto = behind_norm([graphs.node("Relu", "n", "h")], CONV, graphs.normal((3, 4, 2, 2), 3))
    assert set(means(proto)) == {"w"}
    proto.graph.node[0].attribute.append(helper.make_attribute("training_mode", 1))
    assert means(proto) == {}


def test_channels_that_do_not_vary_are_only_clipped() -> None:
    found = clipped_mean(np.array([-1.0, 0.5, 9.0]), np.zeros(3), 0.0, 6.0)
    np.testing.assert_array_equal(found, [0.0, 0.5, 6.0])
