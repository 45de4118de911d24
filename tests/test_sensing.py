"""What is looked at of data: which samples, in which batches, and what tells data from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq import model
from onnxq.allocation.candidates import make_units
from onnxq.allocation.planning_options import PlanningOptions
from onnxq.allocation.sensing import CARRIED_TIMES, RUN_SAMPLES, open_data, open_probe, seen
from onnxq.data.drawn_data import GivenData
from onnxq.errors import InputError
from onnxq.graphs import Document
from onnxq.options import ConvertOptions
from tests import graphs as g


def document(rows: str | int = "n") -> Document:
    nodes = [g.node("MatMul", "x,w", "y")]
    ends = ([g.value("x", rows, 40)], [g.value("y", rows, 40)])
    return model.wrap(g.model(g.graph(nodes, *ends, g.tensors(w=g.normal((40, 40), 1)))))


def options(folder: Path, samples: int, rows: int = 0, **others: Any) -> PlanningOptions:
    """Return options with 200 samples; as whole feeds of so many rows, if there are any."""
    path = folder / "x.npz"
    values = np.arange(8000, dtype=np.float32)
    np.savez(path, x=values.reshape(-1, rows, 40) if rows else values.reshape(-1, 40))
    return PlanningOptions(calibration=path, samples=samples, **others)


def starts(data: Any) -> list[int]:
    return [int(batch.feeds["x"][0, 0]) // 40 for batch in data.batches()]


def test_samples_are_spread_in_small_batches_over_the_data(tmp_path: Path) -> None:
    data = open_data(document(), options(tmp_path, 32))
    assert [batch.samples for batch in data.batches()] == [RUN_SAMPLES] * 4
    found = starts(data)
    assert found[0] == 0
    assert found[-1] >= 100
    assert starts(data) == found


def test_a_model_of_a_fixed_batch_gets_batches_of_its_size(tmp_path: Path) -> None:
    data = open_data(document(4), options(tmp_path, 32))
    assert {batch.samples for batch in data.batches()} == {4}
    assert sum(batch.samples for batch in data.batches()) == 32


def test_data_that_hold_a_whole_feed_in_each_row_are_run_feed_by_feed(tmp_path: Path) -> None:
    data = open_data(document(), options(tmp_path, 16, rows=5))
    assert {batch.feeds["x"].shape for batch in data.batches()} == {(5, 40)}
    assert len(starts(data)) > 1


def test_a_limit_leaves_the_first_samples_to_spread_over(tmp_path: Path) -> None:
    data = open_data(document(), options(tmp_path, 16, limit=48))
    assert max(starts(data)) < 48


def test_consecutive_samples_are_looked_at_where_state_is_carried(tmp_path: Path) -> None:
    proto = document(1).proto
    proto.graph.input.append(g.value("before", 1, 40))
    proto.graph.node.append(g.node("Add", "x,before", "after"))
    proto.graph.output.append(g.value("after", 1, 40))
    carried = options(tmp_path, 4, rows=1, carry={"after": "before"})
    data = open_data(model.wrap(proto), carried)
    assert starts(data) == list(range(4 * CARRIED_TIMES))


def test_random_inputs_are_drawn_without_data() -> None:
    data = open_data(document(), PlanningOptions(samples=3, sensitivity="outputs"))
    assert sum(batch.samples for batch in data.batches()) == 3
    first, second = (seen(open_data(document(), PlanningOptions(samples=3))) for _ in range(2))
    assert first == second


def test_data_of_other_values_shapes_types_or_names_have_another_digest() -> None:
    one = np.arange(12, dtype=np.float32).reshape(4, 3)
    other = one.copy()
    other[3, 2] += 1
    arrays: list[dict[str, Any]] = [
        {"x": one},
        {"x": other},
        {"x": one.reshape(4, 3, 1)},
        {"x": one.view(np.int32)},
        {"z": one},
        {"x": one[:3]},
        {"x": one[::-1]},
    ]
    found = [seen(GivenData([feeds])) for feeds in arrays]
    assert len({item.digest for item in found}) == len(arrays)
    assert [item.samples for item in found] == [4, 4, 4, 4, 4, 3, 4]
    assert seen(GivenData([{"x": one.copy()}])) == found[0]


def test_the_digest_does_not_depend_on_memory_order_or_order_of_inputs() -> None:
    one, two = np.arange(12.0).reshape(4, 3), np.ones((4, 2))
    first = seen(GivenData([{"a": one, "b": two}]))
    assert seen(GivenData([{"b": two, "a": np.asfortranarray(one)}])) == first


def test_a_probe_holds_the_tensors_of_all_units(tmp_path: Path) -> None:
    proto = g.equal_tensors()
    opened = model.wrap(proto)
    units, _ = make_units(opened, model.weights(opened), ConvertOptions(jobs=1), 1)
    data = GivenData([g.feeds(proto)])
    probe = open_probe(lambda: model.wrap(proto), units, PlanningOptions(), data, tmp_path)
    assert all((w.graph, w.name) in probe for unit in units for w in unit.weights)


@pytest.mark.parametrize("shape", [(9, 41), (9,), (9, 2, 3, 40)])
def test_data_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, x=np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="'x'"):
        list(open_data(document(), PlanningOptions(calibration=path)).batches())
