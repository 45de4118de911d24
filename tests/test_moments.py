"""What the runs of a model show of the inputs of linear maps, against sums by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from threadpoolctl import threadpool_limits

from onnxq import model
from onnxq.calibration import maps, moments
from onnxq.calibration.moments import Bounds, Looking, Moments
from onnxq.data.batches import Batch
from onnxq.data.drawn_data import GivenData
from onnxq.errors import OptionError
from tests import graphs, runs

Array = np.ndarray[Any, np.dtype[Any]]


def layer(nodes: Any, shape: tuple[Any, ...], held: dict[str, Array]) -> ModelProto:
    """Return a model from x of a shape, its first size open, to y of any."""
    made = helper.make_graph(
        nodes,
        "g",
        [graphs.value("x", "n", *shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        graphs.tensors(**held),
    )
    return graphs.model(made)


def collected(
    proto: ModelProto, feeds: Any, folder: Path, looking: Looking | None = None
) -> dict[str, Moments]:
    document = model.wrap(proto)
    found = maps.linear_maps(document, model.weights(document))
    data = feeds if hasattr(feeds, "batches") else GivenData(feeds)
    stored = moments.collect(document, found, data, folder, None, looking)
    return {key[1]: one.load() for key, one in stored.items()}


def outputs_by_rows(proto: ModelProto, x: Array, name: str = "w") -> tuple[Array, Any, Array]:
    """Return the rows of a weight, its map and what the model makes of x."""
    document = model.wrap(proto)
    weights = model.weights(document)
    one = maps.linear_maps(document, weights)["main", name]
    (y,) = runs.run(proto, {"x": x}).values()
    return one.rows(model.read(document, one.weight)).astype(np.float64), one, y


CONVOLUTIONS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "conv": ("Conv", (8, 6, 3, 3), {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
    "groups": ("Conv", (8, 3, 3, 3), {"group": 2}),
    "depthwise": ("Conv", (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "depthwise, two outputs each": ("Conv", (12, 1, 3, 3), {"group": 6}),
    "transposed": ("ConvTranspose", (6, 4, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "transposed, groups": ("ConvTranspose", (6, 2, 3, 2), {"strides": [2, 3], "group": 3}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_moments_tell_the_mean_and_power_of_a_convolution_s_outputs(
    case: str, tmp_path: Path
) -> None:
    op_type, shape, attributes = CONVOLUTIONS[case]
    node = graphs.node(op_type, "x,w", "y", **attributes)
    proto = layer([node], (6, 7, 8), {"w": graphs.normal(shape, 1)})
    x = graphs.normal((5, 6, 7, 8), 2) + np.float32(0.5)
    rows, one, y = outputs_by_rows(proto, x)
    found = collected(proto, [{"x": x}], tmp_path)["w"]
    assert found.vectors == y[:, 0].size
    assert found.left_out == 0
    assert found.second.shape == (one.groups, one.inputs, one.inputs)
    mean = np.einsum("goi,gi->go", rows, found.mean).reshape(-1)
    power = np.einsum("goi,gij,goj->go", rows, found.second, rows).reshape(-1)
    wide = y.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(power, (wide**2).mean(axis=(0, 2, 3)), rtol=1e-4)


def test_a_batch_of_matrices_has_moments_of_its_own_each(tmp_path: Path) -> None:
    node = graphs.node("MatMul", "x,w", "y")
    proto = layer([node], (4, 3, 5), {"w": graphs.normal((4, 5, 7), 1)})
    x = graphs.normal((6, 4, 3, 5), 2)
    found = collected(proto, [{"x": x}], tmp_path)["w"]
    vectors = x.astype(np.float64).transpose(1, 0, 2, 3).reshape(4, 18, 5)
    np.testing.assert_allclose(found.mean, vectors.mean(axis=1), atol=1e-12)
    second = vectors.transpose(0, 2, 1) @ vectors / 18
    np.testing.assert_allclose(found.second, second, rtol=1e-9, atol=1e-12)


def test_a_gather_is_known_by_how_often_it_takes_each_row(tmp_path: Path) -> None:
    body = helper.make_graph(
        [graphs.node("Gather", "w,x", "y")],
        "g",
        [graphs.value("x", "n", 3, dtype=graphs.INT64)],
        [graphs.value("y", "n", 3, 4)],
        graphs.tensors(w=graphs.normal((5, 4), 1)),
    )
    x = np.array([[0, 1, -1], [1, 1, 4]], np.int64)
    found = collected(graphs.model(body), [{"x": x}], tmp_path)["w"]
    assert found.is_diagonal
    assert found.vectors == 6
    np.testing.assert_allclose(found.second[0], np.array([1, 3, 0, 0, 2]) / 6)
    np.testing.assert_allclose(found.mean[0], found.second[0])


def test_vectors_that_are_no_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    proto = layer([graphs.node("MatMul", "x,w", "y")], (5,), {"w": graphs.normal((5, 7), 1)})
    x = graphs.normal((6, 5), 2)
    x[2, 3], x[4, 0] = np.nan, -np.inf
    found = collected(proto, [{"x": x}], tmp_path)["w"]
    assert (found.vectors, found.left_out) == (4, 2)
    good = np.delete(x, [2, 4], axis=0).astype(np.float64)
    np.testing.assert_allclose(found.mean[0], good.mean(axis=0))


def test_a_map_of_nothing_but_nan_has_no_moments(tmp_path: Path) -> None:
    proto = layer([graphs.node("MatMul", "x,w", "y")], (5,), {"w": graphs.normal((5, 7), 1)})
    assert collected(proto, [{"x": np.full((3, 5), np.nan, np.float32)}], tmp_path) == {}


@pytest.mark.parametrize("bounds", [Bounds(inputs=4), Bounds(pair_bytes=8 * 5 * 5 - 1)])
def test_beyond_a_bound_features_are_looked_at_each_for_itself(
    bounds: Bounds, tmp_path: Path
) -> None:
    proto = layer([graphs.node("MatMul", "x,w", "y")], (5,), {"w": graphs.normal((5, 7), 1)})
    x = graphs.normal((6, 5), 2)
    found = collected(proto, [{"x": x}], tmp_path, Looking(bounds=bounds))["w"]
    assert found.is_diagonal
    np.testing.assert_allclose(found.diagonal()[0], (x.astype(np.float64) ** 2).mean(axis=0))


def test_the_diagonal_of_pairs_is_that_of_features(tmp_path: Path) -> None:
    proto = layer([graphs.node("MatMul", "x,w", "y")], (5,), {"w": graphs.normal((5, 7), 1)})
    x = graphs.normal((6, 5), 2)
    found = collected(proto, [{"x": x}], tmp_path)["w"]
    assert not found.is_diagonal
    np.testing.assert_allclose(found.diagonal()[0], (x.astype(np.float64) ** 2).mean(axis=0))


def test_walks_hold_few_maps_and_few_bytes() -> None:
    names = "abc"
    nodes = [graphs.node("MatMul", f"x,{name}", f"y{name}") for name in names]
    nodes.append(graphs.node("Sum", ",".join(f"y{name}" for name in names), "y"))
    held = {name: graphs.normal((5, 7), 1) for name in names}
    document = model.wrap(layer(nodes, (5,), held))
    found = maps.linear_maps(document, model.weights(document))
    bounds = Bounds()
    for changed, sizes in (
        (bounds, [3]),
        (replace(bounds, maps=2), [2, 1]),
        (replace(bounds, moment_bytes=8 * 5 * 5), [1, 1, 1]),
    ):
        held_together = moments.groups(list(found.values()), changed)
        assert [len(group) for group in held_together] == sizes
        assert moments.walks(document, found, changed) == len(sizes)


def test_how_many_walks_there_are_does_not_change_what_is_seen(tmp_path: Path) -> None:
    proto = graphs.attention()
    x = graphs.normal((64, 64), 2)
    found = []
    for most in (1, 8):
        folder = tmp_path / str(most)
        folder.mkdir()
        looking = Looking(bounds=Bounds(maps=most))
        found.append(collected(proto, [{"x": x}], folder, looking))
    assert set(found[0]) == set("qkvo")
    for name in "qkvo":
        np.testing.assert_array_equal(found[0][name].second, found[1][name].second)
        np.testing.assert_array_equal(found[0][name].mean, found[1][name].mean)


def test_neither_jobs_nor_threads_of_products_change_a_sum(tmp_path: Path) -> None:
    # Of 7,000 vectors of 147 values, two threads of OpenBLAS sum up other parts than one.
    nodes = [graphs.node("MatMul", f"x,{name}", f"{name}y") for name in "abc"]
    nodes.append(graphs.node("Sum", "ay,by,cy", "y"))
    held = {name: graphs.normal((147, 3), seed) for seed, name in enumerate("abc")}
    proto = layer(nodes, (147,), held)
    x = graphs.normal((7000, 147), 2)
    found = []
    for jobs, threads in ((1, 1), (3, 1), (1, 4)):
        folder = tmp_path / f"{jobs}-{threads}"
        folder.mkdir()
        looking = Looking(jobs=jobs, bounds=Bounds(run_samples=7000))
        with threadpool_limits(limits=threads, user_api="blas"):
            found.append(collected(proto, [{"x": x}], folder, looking))
    for other in found[1:]:
        for name in "abc":
            np.testing.assert_array_equal(other[name].second, found[0][name].second)


def test_every_batch_is_told(tmp_path: Path) -> None:
    proto = layer([graphs.node("MatMul", "x,w", "y")], (5,), {"w": graphs.normal((5, 7), 1)})
    document = model.wrap(proto)
    found = maps.linear_maps(document, model.weights(document))
    data = GivenData([{"x": graphs.normal((6, 5), 2)}, {"x": graphs.normal((1, 5), 3)}])
    told: list[int] = []
    moments.collect(document, found, data, tmp_path, lambda where, done: told.append(done))
    assert told[-1] == sum(batch.samples for batch in data.batches())


class Sequences:
    """Two sequences of samples, each with a start."""

    kind, path, truths, available, classes = "given", None, (), None, None

    def __init__(self, *starts: tuple[Array, bool]) -> None:
        self.starts = starts

    def batches(self) -> Any:
        for x, is_start in self.starts:
            yield Batch(feeds={"x": x}, samples=len(x), where="x", is_start=is_start)


def stateful() -> ModelProto:
    nodes = [
        graphs.node("Add", "x,h", "s"),
        graphs.node("MatMul", "s,w", "m"),
        graphs.node("Identity", "s", "h1"),
        graphs.node("Identity", "m", "y"),
    ]
    inputs = [graphs.value("x", 1, 5), graphs.value("h", 1, 5)]
    outputs = [graphs.value("y", 1, 7), graphs.value("h1", 1, 5)]
    held = graphs.tensors(w=graphs.normal((5, 7), 1))
    return graphs.model(graphs.graph(nodes, inputs, outputs, held))


def test_state_is_carried_from_run_to_run_of_a_sequence(tmp_path: Path) -> None:
    x = graphs.normal((4, 1, 5), 2)
    data = Sequences((x[0], True), (x[1], False), (x[2], False), (x[3], True))
    looking = Looking(carry={"h1": "h"})
    found = collected(stateful(), data, tmp_path, looking)["w"]
    seen = np.concatenate([np.cumsum(x[:3, 0], axis=0, dtype=np.float64), x[3]])
    assert found.vectors == 4
    np.testing.assert_allclose(found.mean[0], seen.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.second[0], seen.T @ seen / 4, rtol=1e-5)


def test_state_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    data = Sequences((graphs.normal((1, 5), 2), True))
    with pytest.raises(OptionError, match="no output 'state'"):
        collected(stateful(), data, tmp_path, Looking(carry={"state": "h"}))
