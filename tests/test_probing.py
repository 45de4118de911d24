"""What a probe watches and measures: against models that were really changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxq import model
from onnxq.allocation.probing import Key, Probe, Watched, watched_values
from onnxq.data.batches import Batch
from onnxq.data.drawn_data import GivenData
from onnxq.errors import InputError, OptionError, UnsupportedError
from onnxq.graphs import Document
from tests import graphs as g
from tests.runs import run

Array = np.ndarray[Any, np.dtype[Any]]


def opened(proto: ModelProto, document: Document | None = None) -> tuple[Document, list[Any]]:
    found = document or model.wrap(proto)
    wanted = [w for w in model.weights(found) if w.is_float and w.elements > 1]
    return found, [w for w in wanted if w.tensor is not None]


def recorded(proto: ModelProto, folder: Path, feeds: Sequence[Mapping[str, Array]]) -> Probe:
    document, weights = opened(proto)
    probe = Probe(document, weights, folder)
    probe.record(GivenData(feeds), {}, len(feeds))
    return probe


def shares(before: Mapping[str, Array], after: Mapping[str, Array]) -> float:
    """Return noise through signal of outputs, added up."""
    found = 0.0
    for name, values in before.items():
        wide, other = values.astype(np.float64), after[name].astype(np.float64)
        found += float(np.square(other - wide).sum() / np.square(wide).sum())
    return found


def other(array: Array) -> Array:
    noise = np.random.default_rng(9).standard_normal(array.shape) * 0.02
    changed: Array = (array.astype(np.float64) + noise).astype(array.dtype)
    return changed


def changed(proto: ModelProto, keys: Sequence[Key]) -> tuple[ModelProto, dict[Key, Array]]:
    """Return a copy of a model with other values in some tensors, and these values."""
    copied = ModelProto()
    copied.CopyFrom(proto)
    own = model.weights(_unwrapped(copied))
    values: dict[Key, Array] = {}
    for weight in own:
        key = (weight.graph, weight.name)
        if key in keys:
            assert weight.tensor is not None
            array = onnx.numpy_helper.to_array(weight.tensor)
            values[key] = other(array)
            held = weight.scope.proto.node[weight.position] if weight.kind == "constant" else None
            if held is not None and held.attribute[0].floats:
                held.attribute[0].floats[:] = values[key].tolist()
            name = weight.tensor.name
            weight.tensor.CopyFrom(onnx.numpy_helper.from_array(values[key], name))
    assert set(values) == set(keys)
    return copied, values


def _unwrapped(proto: ModelProto) -> Document:
    """Return a document over a message itself, so that a change of its tensors is one of it."""
    return Document(proto=proto, path=None, folder=None, file_bytes=0, label="model")


REAL: dict[str, Callable[[], ModelProto]] = {
    "initializer": g.gemm,
    "constants": g.constants,
    "branches": g.branches,
    "nested": g.nested_branches,
    "loop": g.loop,
    "scan": g.scan,
    "ir3": g.ir3,
    "float16": g.half(np.float16),
    "float64": g.half(np.float64),
    "output": g.initializer_is_output,
    "repeated": g.repeated_constants,
}


@pytest.mark.parametrize("name", REAL)
def test_the_error_is_that_of_a_model_whose_tensor_was_really_changed(
    name: str, tmp_path: Path
) -> None:
    proto = REAL[name]()
    feeds = g.feeds(proto, 0)
    probe = recorded(proto, tmp_path, [feeds])
    _, weights = opened(proto)
    keys = [(w.graph, w.name) for w in weights if (w.graph, w.name) in probe]
    assert keys
    before = run(proto, feeds)
    for key in keys:
        real, values = changed(proto, [key])
        expected = shares(before, run(real, feeds))
        assert probe.error(values) == pytest.approx(expected, rel=1e-3, abs=1e-12)


def test_tensors_of_both_branches_of_an_if_can_be_exchanged_though_their_names_are_equal(
    tmp_path: Path,
) -> None:
    proto = g.branches()
    inner = [(f"main/If(u).{branch}_branch", "w") for branch in ("then", "else")]
    feeds = [{**g.feeds(proto), "flag": np.array(flag)} for flag in (True, False)]
    for number, one in enumerate(feeds):
        folder = tmp_path / str(number)
        folder.mkdir()
        probe = recorded(proto, folder, [one])
        errors = [probe.error(changed(proto, [key])[1]) for key in inner]
        assert errors[1 - number] == 0 < errors[number]


@pytest.mark.parametrize("name", REAL)
def test_values_that_are_those_of_the_model_make_no_error(name: str, tmp_path: Path) -> None:
    proto = REAL[name]()
    probe = recorded(proto, tmp_path, [g.feeds(proto)])
    document, weights = opened(proto)
    same = {(w.graph, w.name): model.read(document, w) for w in weights}
    fed = {key: values for key, values in same.items() if key in probe}
    assert fed
    assert probe.error(fed) == 0
    assert probe.error({}) == 0


def test_an_error_of_all_tensors_is_that_of_the_model_with_all_changed(tmp_path: Path) -> None:
    proto = g.branches()
    probe = recorded(proto, tmp_path, [g.feeds(proto)])
    keys = [(w.graph, w.name) for w in opened(proto)[1]]
    real, values = changed(proto, keys)
    expected = shares(run(proto, g.feeds(proto)), run(real, g.feeds(proto)))
    assert probe.error(values) == pytest.approx(expected, rel=1e-3)


def test_tensors_of_functions_and_of_bfloat16_and_inputs_with_defaults_cannot_be_exchanged(
    tmp_path: Path,
) -> None:
    for proto, names in (
        (g.functions(), {"w"}),
        (g.half(g.BFLOAT16)(), set()),
        (g.initializer_is_input(), {"v"}),
    ):
        document, weights = opened(proto)
        known = [(w.graph, w.name) for w in weights]
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        probe = Probe(document, weights, folder)
        assert {name for graph, name in known if (graph, name) in probe} == names
        assert len(known) > len(names)


def test_values_in_a_data_file_are_those_that_runs_have(tmp_path: Path) -> None:
    proto = g.gemm()
    g.save_external(proto, tmp_path / "model.onnx")
    document, weights = opened(proto, model.load(tmp_path / "model.onnx"))
    folder = tmp_path / "probe"
    folder.mkdir()
    probe = Probe(document, weights, folder)
    feeds = g.feeds(g.gemm())
    probe.record(GivenData([feeds]), {}, 1)
    real, values = changed(g.gemm(), [("main", "w")])
    expected = shares(run(g.gemm(), feeds), run(real, feeds))
    assert probe.error(values) == pytest.approx(expected, rel=1e-3)
    assert expected > 0


def test_infinite_and_nan_outputs_are_compared_where_they_are_finite(tmp_path: Path) -> None:
    proto = g.nan_and_infinity()
    probe = recorded(proto, tmp_path, [g.feeds(proto)])
    document, weights = opened(proto)
    wide = next(w for w in weights if w.name == "wide")
    values = model.read(document, wide)
    assert probe.error({(wide.graph, "wide"): values}) == 0
    halved = np.where(np.isfinite(values), values / 2, values)
    assert 0 < probe.error({(wide.graph, "wide"): halved}) < 1


def test_outputs_that_become_nan_are_an_infinite_error(tmp_path: Path) -> None:
    proto = g.gemm()
    probe = recorded(proto, tmp_path, [g.feeds(proto)])
    key, values = next(iter(changed(proto, [("main", "w")])[1].items()))
    assert probe.error({key: np.full_like(values, np.nan)}) == float("inf")


def test_data_that_leave_nothing_to_compare_are_refused(tmp_path: Path) -> None:
    proto = g.gemm()
    for number, number_fed in enumerate((np.nan, np.inf)):
        folder = tmp_path / str(number)
        folder.mkdir()
        feeds = {key: np.full_like(one, number_fed) for key, one in g.feeds(proto).items()}
        with pytest.raises(UnsupportedError, match="nothing tells what bits are worth"):
            recorded(proto, folder, [feeds])


def test_data_of_another_shape_are_refused(tmp_path: Path) -> None:
    proto = g.gemm()
    feeds = {key: one[..., :-1] for key, one in g.feeds(proto).items()}
    with pytest.raises(InputError, match="found shape"):
        recorded(proto, tmp_path, [feeds])


def squashed(op_type: str, *, opset: int = 17, tail: str = "", **attributes: Any) -> ModelProto:
    nodes = [
        g.node("MatMul", "x,w", "h"),
        g.node(op_type, "h", "s" if tail else "y", **attributes),
    ]
    if tail:
        nodes.append(g.node(tail, "s", "y"))
    held = g.tensors(w=g.normal((8, 6), 1))
    return g.model(g.graph(nodes, [g.value("x", 2, 8)], [g.value("y", 2, 6)], held), opset)


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (squashed("Softmax"), Watched(name="h", axis=-1)),
        (squashed("Softmax", axis=0), Watched(name="h", axis=0)),
        (squashed("LogSoftmax", tail="Identity"), Watched(name="h", axis=-1)),
        (squashed("Softmax", opset=11, axis=-1), Watched(name="h", axis=-1)),
        (squashed("Softmax", opset=11, axis=1), Watched(name="h")),
        (squashed("Sigmoid", tail="Transpose"), Watched(name="h")),
        (squashed("HardSigmoid"), Watched(name="h")),
        (squashed("Relu"), Watched(name="y")),
        (squashed("Softmax", tail="Neg"), Watched(name="y")),
    ],
)
def test_what_goes_into_a_softmax_or_sigmoid_is_watched(
    proto: ModelProto, expected: Watched
) -> None:
    assert list(watched_values(proto)) == [expected]


def test_a_softmax_of_the_input_itself_and_one_of_another_domain_are_watched_as_they_are() -> None:
    alone = g.graph([g.node("Softmax", "x", "y")], [g.value("x", 2, 8)], [g.value("y", 2, 8)])
    assert list(watched_values(g.model(alone))) == [Watched(name="y")]
    other_one = squashed("Softmax")
    other_one.graph.node[-1].domain = "com.example"
    assert list(watched_values(other_one)) == [Watched(name="y")]


def test_two_outputs_of_one_value_are_watched_once() -> None:
    proto = squashed("Softmax")
    proto.graph.node.append(g.node("Identity", "y", "z"))
    proto.graph.output.append(g.value("z", 2, 6))
    assert [item.name for item in watched_values(proto)] == ["h"]


def test_a_constant_added_ahead_of_a_softmax_is_no_error_but_ahead_of_a_sigmoid_it_is(
    tmp_path: Path,
) -> None:
    errors = {}
    for op_type in ("Softmax", "Sigmoid"):
        nodes = [
            g.node("MatMul", "x,w", "h"),
            g.node("Add", "h,b", "a"),
            g.node(op_type, "a", "y"),
        ]
        held = g.tensors(w=g.normal((8, 6), 1), b=g.normal((6,), 2))
        proto = g.model(g.graph(nodes, [g.value("x", 2, 8)], [g.value("y", 2, 6)], held))
        folder = tmp_path / op_type
        folder.mkdir()
        probe = recorded(proto, folder, [g.feeds(proto)])
        errors[op_type] = probe.error({("main", "b"): g.normal((6,), 2) + np.float32(1)})
    assert errors["Softmax"] < 1e-12
    assert errors["Sigmoid"] > 0.01


def with_state() -> ModelProto:
    """y = state + x w; the state of the next sample is y."""
    nodes = [
        g.node("MatMul", "x,w", "h"),
        g.node("Add", "h,before", "y"),
        g.node("Identity", "y", "after"),
    ]
    inputs = [g.value("x", 1, 8), g.value("before", 1, 8)]
    outputs = [g.value("y", 1, 8), g.value("after", 1, 8)]
    return g.model(g.graph(nodes, inputs, outputs, g.tensors(w=g.normal((8, 8), 1))))


class Sequential(GivenData):
    """Give samples of a single sequence."""

    def batches(self) -> Iterator[Batch]:
        for number, batch in enumerate(super().batches()):
            yield replace(batch, is_start=number == 0)


def test_carried_state_is_that_of_the_model_as_it_is(tmp_path: Path) -> None:
    proto = with_state()
    xs = [np.full((1, 8), value, np.float32) for value in (1, 2, 3)]
    document, weights = opened(proto)
    probe = Probe(document, weights, tmp_path)
    probe.record(Sequential([{"x": x} for x in xs]), {"after": "before"}, 3)
    assert probe.samples == 3
    w = g.normal((8, 8), 1)
    states = np.cumsum([x @ w for x in xs], axis=0, dtype=np.float64)
    # Each run starts from the recorded state: what a changed weight adds does not add up.
    noise = sum(float(np.square(x @ w).sum()) for x in xs)
    expected = 2 * noise / float(np.square(states).sum())  # two outputs of the same values
    assert probe.error({("main", "w"): 2 * w}) == pytest.approx(expected, rel=1e-4)


def test_carrying_what_the_model_lacks_is_an_error_of_the_options(tmp_path: Path) -> None:
    document, weights = opened(with_state())
    probe = Probe(document, weights, tmp_path)
    data = GivenData([{"x": np.ones((1, 8), np.float32)}])
    with pytest.raises(OptionError, match="nowhere"):
        probe.record(data, {"nowhere": "before"}, 1)


def test_samples_are_spread_over_the_data(tmp_path: Path) -> None:
    proto = g.matmul_add()
    feeds = [g.feeds(proto, seed) for seed in range(6)]
    document, weights = opened(proto)
    probe = Probe(document, weights, tmp_path)
    batches = GivenData(feeds)
    sizes = [batch.samples for batch in batches.batches()]
    probe.record(batches, {}, 3 * sizes[0])
    assert probe.samples == 3 * sizes[0]
    real, values = changed(proto, [("main", "w")])
    noise = signal = 0.0
    for one in feeds[::2]:
        before, after = run(proto, one)["y"], run(real, one)["y"]
        noise += float(np.square(after.astype(np.float64) - before).sum())
        signal += float(np.square(before.astype(np.float64)).sum())
    assert probe.error(values) == pytest.approx(noise / signal, rel=1e-3)
