"""Mean errors of outputs, against what models with corrected biases make of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxq import model
from onnxq.calibration import bias, maps, moments
from onnxq.calibration.bias import BiasPlace
from onnxq.data.drawn_data import GivenData
from tests import graphs, runs

Array = np.ndarray[Any, np.dtype[Any]]


def made(nodes: Any, shape: tuple[int, ...], held: dict[str, Array], more: Any = ()) -> ModelProto:
    names = ("y", *more)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    inputs = [graphs.value("x", *shape)]
    return graphs.model(graphs.graph(nodes, inputs, outputs, graphs.tensors(**held)))


def places(proto: ModelProto) -> dict[str, BiasPlace]:
    document = model.wrap(proto)
    weights = model.weights(document)
    found = bias.bias_places(document, weights, maps.linear_maps(document, weights))
    return {key[1]: place for key, place in found.items()}


def norm(channels: int) -> dict[str, Array]:
    return {
        "scale": graphs.positive(graphs.normal((channels,), 4)),
        "shift": graphs.normal((channels,), 5),
        "mean": graphs.normal((channels,), 6),
        "var": graphs.positive(graphs.normal((channels,), 7)),
    }


W, B = graphs.normal, graphs.normal
IMAGE, ROWS = (4, 6, 7, 7), (9, 5)
CASES: dict[str, tuple[list[Any], tuple[int, ...], dict[str, Array], str]] = {
    "conv": (
        [graphs.node("Conv", "x,w,b", "y", pads=[1, 1, 1, 1])],
        IMAGE, {"w": W((8, 6, 3, 3), 1), "b": B((8,), 2)}, "b",
    ),
    "conv, groups": (
        [graphs.node("Conv", "x,w,b", "y", group=3)],
        IMAGE, {"w": W((12, 2, 3, 3), 1), "b": B((12,), 2)}, "b",
    ),
    "conv, depthwise": (
        [graphs.node("Conv", "x,w,b", "y", group=6)],
        IMAGE, {"w": W((6, 1, 3, 3), 1), "b": B((6,), 2)}, "b",
    ),
    "conv, then Add": (
        [graphs.node("Conv", "x,w", "h"), graphs.node("Add", "b,h", "y")],
        IMAGE, {"w": W((8, 6, 3, 3), 1), "b": B((8, 1, 1), 2)}, "b",
    ),
    "conv, then Add of what is reshaped": (
        [
            graphs.node("Conv", "x,w", "h"),
            graphs.node("Reshape", "b,shape", "b4"),
            graphs.node("Add", "h,b4", "y"),
        ],
        IMAGE,
        {"w": W((7, 6, 3, 3), 1), "b": B((7,), 2), "shape": np.array([1, -1, 1, 1], np.int64)},
        "b",
    ),
    "conv, then norm": (
        [
            graphs.node("Conv", "x,w", "h"),
            graphs.node("BatchNormalization", "h,scale,shift,mean,var", "y"),
        ],
        IMAGE, {"w": W((8, 6, 3, 3), 1), **norm(8)}, "mean",
    ),
    "transposed, groups": (
        [graphs.node("ConvTranspose", "x,w,b", "y", group=2, strides=[2, 2])],
        IMAGE, {"w": W((6, 4, 3, 3), 1), "b": B((8,), 2)}, "b",
    ),
    "gemm": (
        [graphs.node("Gemm", "x,w,b", "y", alpha=0.5, beta=4.0)],
        ROWS, {"w": W((5, 7), 1), "b": B((1, 7), 2)}, "b",
    ),
    "gemm, then Add": (
        [graphs.node("Gemm", "x,w", "h", alpha=0.5, transB=1), graphs.node("Add", "h,b", "y")],
        ROWS, {"w": W((7, 5), 1), "b": B((7,), 2)}, "b",
    ),
    "gemm, from the left": (
        [graphs.node("Gemm", "w,x,b", "y", transB=1)],
        ROWS, {"w": W((7, 5), 1), "b": B((7, 1), 2)}, "b",
    ),
    "matmul": (
        [graphs.node("MatMul", "x,w", "h"), graphs.node("Add", "h,b", "y")],
        (2, *ROWS), {"w": W((5, 7), 1), "b": B((1, 1, 7), 2)}, "b",
    ),
    "matmul, from the left": (
        [graphs.node("MatMul", "w,x", "h"), graphs.node("Add", "b,h", "y")],
        (2, 5, 9), {"w": W((7, 5), 1), "b": B((7, 1), 2)}, "b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_corrected_bias_takes_the_mean_error_of_the_outputs(case: str, tmp_path: Path) -> None:
    nodes, shape, held, name = CASES[case]
    proto = made(nodes, shape, held)
    x = graphs.normal(shape, 9) + np.float32(1)
    place = places(proto)["w"]
    assert place.key == ("main", name)
    document = model.wrap(proto)
    found = maps.linear_maps(document, model.weights(document))
    one = found["main", "w"]
    stored = moments.collect(document, found, GivenData([{"x": x}]), tmp_path)
    coarse = np.round(held["w"])
    mean = stored["main", "w"].load().mean
    lacking = bias.correction(one.rows(held["w"]), one.rows(coarse), mean)
    changed = {**held, "w": coarse}
    corrected = {**changed, name: bias.corrected(held[name], place, lacking)}
    assert corrected[name].dtype == held[name].dtype
    assert corrected[name].shape == held[name].shape
    outputs = [
        runs.run(made(nodes, shape, one_of), {"x": x})["y"].astype(np.float64)
        for one_of in (held, changed, corrected)
    ]
    channel = 1 if len(shape) == 4 else outputs[0].ndim - (2 if "left" in case else 1)
    others = tuple(axis for axis in range(outputs[0].ndim) if axis != channel)
    whole, before, after = (output.mean(axis=others) for output in outputs)
    assert np.abs(before - whole).max() > 0.1
    np.testing.assert_allclose(after, whole, atol=1e-5)


def matmul_add(**changes: Any) -> ModelProto:
    nodes = [graphs.node("MatMul", "x,w", "h"), graphs.node("Add", "h,b", "y")]
    held = {"w": W((5, 7), 1), "b": B((7,), 2), **changes.pop("held", {})}
    return made([*nodes, *changes.pop("nodes", ())], ROWS, held, **changes)


def test_a_bias_that_is_used_elsewhere_too_takes_nothing() -> None:
    assert set(places(matmul_add())) == {"w"}
    assert places(matmul_add(nodes=[graphs.node("Neg", "b", "z")], more="z")) == {}


def test_outputs_that_go_elsewhere_too_have_no_bias_behind() -> None:
    assert places(matmul_add(nodes=[graphs.node("Neg", "h", "z")], more="z")) == {}
    assert places(matmul_add(more="h")) == {}


def test_what_is_added_must_hold_one_value_for_each_output() -> None:
    assert places(matmul_add(held={"b": B((9, 7), 2)})) == {}
    assert places(matmul_add(held={"b": B((1,), 2)})) == {}


def test_what_is_reshaped_along_another_axis_is_no_bias() -> None:
    nodes = [
        graphs.node("Conv", "x,w", "h"),
        graphs.node("Reshape", "b,shape", "b4"),
        graphs.node("Add", "h,b4", "y"),
    ]
    held = {"w": W((7, 6, 1, 1), 1), "b": B((7,), 2), "shape": np.array([1, 1, 1, 7], np.int64)}
    assert places(made(nodes, IMAGE, held)) == {}
    held["shape"] = np.array([7, 1, 1], np.int64)
    assert set(places(made(nodes, IMAGE, held))) == {"w"}
    nodes.append(graphs.node("Neg", "b4", "z"))
    assert places(made(nodes, IMAGE, held, more="z")) == {}


def test_a_weight_of_two_nodes_has_no_place() -> None:
    nodes = [graphs.node("MatMul", "x,w", "h2"), graphs.node("Neg", "h2", "z")]
    assert places(matmul_add(nodes=nodes, more="z")) == {}


def test_a_third_input_that_does_not_count_takes_nothing() -> None:
    nodes = [graphs.node("Gemm", "x,w,b", "y", beta=0.0)]
    assert places(made(nodes, ROWS, {"w": W((5, 7), 1), "b": B((7,), 2)})) == {}


def test_a_bias_that_a_caller_may_override_takes_nothing() -> None:
    proto = matmul_add()
    proto.graph.input.append(graphs.value("b", 7))
    assert places(proto) == {}


def test_rows_that_are_no_numbers_are_not_corrected() -> None:
    rows = np.array([[[1.0, np.inf], [1.0, 2.0]]], np.float32)
    decoded = np.array([[[0.5, np.inf], [0.5, 2.0]]], np.float32)
    found = bias.correction(rows, decoded, np.array([[2.0, 1.0]]))
    np.testing.assert_array_equal(found, [0.0, 1.0])


def test_a_correction_is_rounded_once() -> None:
    proto = matmul_add()
    place = places(proto)["w"]
    (held,) = (numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "b")
    half = held.astype(np.float16)
    found = bias.corrected(half, place, np.full(7, 1e-3))
    np.testing.assert_array_equal(found, (half.astype(np.float64) + 1e-3).astype(np.float16))
