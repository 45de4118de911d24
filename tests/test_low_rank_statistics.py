"""What the runs of a model show of its layers' inputs, against sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxq import model, runtime
from onnxq.data.drawn_data import GivenData
from onnxq.low_rank import layers, statistics

RANDOM = np.random.default_rng(3)


def made(nodes: list[Any], weights: dict[str, Any], shape: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def collected(proto: onnx.ModelProto, feeds: list[Any], folder: Path) -> dict[str, Any]:
    document = model.wrap(proto)
    found, _ = layers.find(document, model.weights(document))
    stored = statistics.collect(document, found, GivenData(feeds), folder)
    return {key[1]: item.load() for key, item in stored.items()}


def assert_moments(found: Any, rows: Any) -> None:
    """Check the figures of one group against rows, [vectors, inputs]."""
    assert found.samples == len(rows)
    np.testing.assert_allclose(found.second_moment[0], rows.T @ rows / len(rows), rtol=1e-6)


def test_moments_of_a_product_are_those_of_its_rows(tmp_path: Path) -> None:
    proto = made(
        [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])],
        {"w": weight(20, 30)},
        ["n", 20],
    )
    x = weight(7, 20)
    found = collected(proto, [{"x": x[:5]}, {"x": x[5:]}], tmp_path)
    assert_moments(found["w"], np.maximum(x, 0).astype(np.float64))


def test_moments_of_a_convolution_are_those_of_its_patches(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[0, 1, 0, 1])
    proto = made([node], {"w": weight(16, 4, 1, 3)}, ["n", 4, 1, 5])
    x = weight(6, 4, 1, 5)
    padded = np.pad(x, [(0, 0), (0, 0), (0, 0), (1, 1)]).astype(np.float64)
    patches = [padded[n, :, :, p : p + 3].reshape(-1) for n in range(6) for p in range(5)]
    found = collected(proto, [{"x": x}], tmp_path)
    assert_moments(found["w"], np.array(patches))


def test_groups_have_moments_of_their_own(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2)
    proto = made([node], {"w": weight(32, 16, 1, 1)}, ["n", 32, 1, 1])
    x = weight(9, 32, 1, 1)
    found = collected(proto, [{"x": x}], tmp_path)["w"]
    rows = x.reshape(9, 2, 16).astype(np.float64)
    for group in range(2):
        expected = rows[:, group].T @ rows[:, group] / 9
        np.testing.assert_allclose(found.second_moment[group], expected, rtol=1e-6)


def test_columns_count_where_the_weight_stands_on_the_left(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["w", "x"], ["y"])
    proto = made([node], {"w": weight(30, 20)}, [20, 4])
    x = weight(20, 4)
    found = collected(proto, [{"x": x}], tmp_path)
    assert_moments(found["w"], x.T.astype(np.float64))


def test_a_shared_weight_sees_the_inputs_of_all_its_uses(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    values = weight(20, 20)
    x = weight(5, 20)
    found = collected(made(nodes, {"w": values}, ["n", 20]), [{"x": x}], tmp_path)
    assert_moments(found["w"], np.concatenate([x, x @ values]).astype(np.float64))


def test_vectors_with_nan_do_not_count(tmp_path: Path) -> None:
    proto = made([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight(20, 30)}, ["n", 20])
    x = weight(5, 20)
    x[2, 3] = np.nan
    found = collected(proto, [{"x": x}], tmp_path)
    assert_moments(found["w"], np.delete(x, 2, axis=0).astype(np.float64))


def test_wide_layers_are_looked_at_feature_by_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MOST_INPUTS", 19)
    proto = made([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight(20, 30)}, ["n", 20])
    x = weight(5, 20)
    found = collected(proto, [{"x": x}], tmp_path)["w"]
    assert found.is_diagonal
    np.testing.assert_allclose(found.second_moment[0], (x.astype(float) ** 2).mean(0), rtol=1e-6)


def test_a_layer_in_a_body_is_not_seen(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["b"])],
        "body",
        [],
        [helper.make_tensor_value_info("b", 1, None)],
        [numpy_helper.from_array(weight(20, 20), "w")],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", 9, [], [True])),
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
    ]
    proto = made(nodes, {}, ["n", 20])
    assert collected(proto, [{"x": weight(5, 20)}], tmp_path) == {}


def test_positions_beyond_the_bound_are_drawn_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "SAMPLE_ELEMENTS", 1)
    proto = made(
        [helper.make_node("Conv", ["x", "w"], ["y"])], {"w": weight(32, 32, 1, 1)}, [1, 32, 9, 9]
    )
    feeds = [{"x": weight(1, 32, 9, 9)} for _ in range(3)]
    found = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        found.append(collected(proto, feeds, folder)["w"])
    assert found[0].samples == 3 * statistics.LEAST_VECTORS
    np.testing.assert_array_equal(found[0].second_moment, found[1].second_moment)


def test_samples_are_run_a_few_at_a_time_where_the_model_takes_any_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    run = runtime.Session.run

    def noted(session: Any, feeds: Any) -> Any:
        ran.append(len(feeds["x"]))
        return run(session, feeds)

    monkeypatch.setattr(runtime.Session, "run", noted)
    for first in ("n", 6):
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        proto = made([node], {"w": weight(20, 30)}, [first, 20])
        folder = tmp_path / str(first)
        folder.mkdir()
        collected(proto, [{"x": weight(6, 20)}], folder)
    assert ran == [4, 2, 6]


def test_walks_hold_few_layers_and_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "LAYERS", 2)
    nodes = [helper.make_node("MatMul", ["x", f"w{n}"], [f"y{n}"]) for n in range(3)]
    nodes.append(helper.make_node("Sum", ["y0", "y1", "y2"], ["y"]))
    document = model.wrap(made(nodes, {f"w{n}": weight(20, 20) for n in range(3)}, ["n", 20]))
    found, _ = layers.find(document, model.weights(document))
    assert statistics.walks(document, found) == 2
    monkeypatch.setattr(statistics, "MOMENT_BYTES", 8 * 20 * 20)
    assert statistics.walks(document, found) == 3
