"""Which tensors share a pool, and that models with pools keep every promise of the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, numpy_helper

import onnxq
from onnxq import model, pooling, recognise
from onnxq.errors import InputError
from onnxq.options import make_options
from onnxq.plans import Plan, make_plan
from tests import graphs, runs
from tests.encoded import Array
from tests.property.strategies import models

SHAPES = ((64,), (9, 7, 3), (33,), (5, 40), (128,), (200,))


def arrays(shapes: tuple[tuple[int, ...], ...] = SHAPES) -> dict[str, Array]:
    return {f"w{number}": graphs.normal(shape, number) for number, shape in enumerate(shapes)}


def holding(held: Mapping[str, Array], opset: int = 17) -> ModelProto:
    """Return a model whose outputs are its weights, negated."""
    nodes = [graphs.node("Neg", name, f"{name}_out") for name in held]
    outputs = [graphs.value(f"{name}_out", *array.shape) for name, array in held.items()]
    return graphs.model(graphs.graph(nodes, [], outputs, graphs.tensors(**held)), opset)


def planned(proto: ModelProto, **options: Any) -> Plan:
    document = model.wrap(proto)
    return make_plan(document, model.weights(document), make_options(options), 1)


def pooled(plan: Plan) -> list[str]:
    return [tensor.name for tensor in plan.tensors if tensor.is_pooled]


def restored(converted: ModelProto) -> dict[str, Array]:
    _, plain = onnxq.restore(converted)
    return {t.name: numpy_helper.to_array(t) for t in plain.graph.initializer}


# The decision


def test_small_tensors_share_a_pool_and_the_model_gets_smaller() -> None:
    proto = holding(arrays())
    with_pool, together = onnxq.convert(proto, bits=4, check=0)
    without, apart = onnxq.convert(proto, bits=4, check=0, pool_indices=False)
    assert pooled(planned(proto, bits=4)) == [row.name for row in with_pool.tensors]
    assert len(with_pool.tensors) > len(without.tensors)
    assert together.ByteSize() < apart.ByteSize()
    assert sum(node.op_type == "Split" for node in together.graph.node) == 1


def test_tensor_that_would_grow_alone_is_encoded_in_a_pool() -> None:
    proto = holding(arrays())
    alone = {tensor.name for tensor in planned(proto, bits=4, pool_indices=False).tensors}
    assert "w2" not in alone
    assert "w2" in pooled(planned(proto, bits=4))


def test_one_tensor_makes_no_pool() -> None:
    assert pooled(planned(holding(arrays(((64, 64),))), bits=4, only_smaller=False)) == []


@pytest.mark.parametrize("layout", ["native", "bytes"])
def test_other_layouts_have_no_pools(layout: str) -> None:
    assert pooled(planned(holding(arrays(), 21), bits=4, layout=layout)) == []


def test_below_opset_11_there_are_no_pools() -> None:
    assert pooled(planned(holding(arrays(), 10), bits=4)) == []
    assert pooled(planned(holding(arrays(), 11), bits=4)) != []


def test_large_tensor_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "MAX_MEMBER_ELEMENTS", 199)
    found = planned(holding(arrays()), bits=4, only_smaller=False)
    assert {t.name for t in found.tensors if not t.is_pooled} == {"w3", "w5"}


def test_full_pool_takes_the_smallest_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "MAX_MEMBERS", 3)
    found = planned(holding(arrays()), bits=4, only_smaller=False)
    assert set(pooled(found)) == {"w0", "w2", "w4"}
    monkeypatch.setattr(pooling, "MAX_MEMBERS", 1024)
    monkeypatch.setattr(pooling, "MAX_POOL_BYTES", 12 * 97)
    found = planned(holding(arrays()), bits=4, only_smaller=False)
    assert set(pooled(found)) < {"w0", "w2", "w4"}


def test_tensors_of_few_values_join_a_wider_pool_than_they_need() -> None:
    held = arrays()
    held["few"] = graphs.few(3)((60,), 9)
    held["some"] = graphs.few(5)((70,), 9)
    found = {t.name: t for t in planned(holding(held), bits=4, only_smaller=False).tensors}
    assert {t.bit_width for t in found.values() if t.is_pooled} == {4}
    assert (found["few"].bit_width, found["few"].centroids) == (4, 3)
    assert found["few"].is_pooled


def test_many_tensors_of_few_values_have_a_pool_of_their_own() -> None:
    held = arrays()
    held |= {f"few{i}": graphs.few(2)((900,), i) for i in range(6)}
    found = planned(holding(held), bits=6, only_smaller=False)
    assert {t.bit_width for t in found.tensors if t.is_pooled} == {1, 6}


def test_equal_tensor_is_a_copy_of_the_pooled_one() -> None:
    held = arrays()
    held["same"] = held["w0"].copy()
    held["other"] = held["w1"].reshape(-1)
    proto = holding(held)
    found = {t.name: t for t in planned(proto, bits=4).tensors}
    assert (found["same"].same_as, found["same"].is_pooled) == (("main", "w0"), False)
    _, converted = onnxq.convert(proto, bits=4, check=0)
    assert {t.name: t.shape for t in onnxq.inspect(converted).tensors} == {
        name: array.shape for name, array in held.items()
    }
    plain = restored(converted)
    runs.assert_equal(plain["same"], plain["w0"])
    runs.assert_equal(plain["other"], plain["w1"].reshape(-1))


@given(models(), st.integers(1, 16), st.booleans())
def test_model_with_pools_is_never_larger_than_without(
    proto: ModelProto, bits: int, only_smaller: bool
) -> None:
    options: dict[str, Any] = {"bits": bits, "only_smaller": only_smaller, "check": 0}
    _, together = onnxq.convert(proto, **options)
    _, apart = onnxq.convert(proto, pool_indices=False, **options)
    # The arithmetic knows names of usual length only: a byte for each name may differ.
    assert together.ByteSize() <= apart.ByteSize() + 60


# Models with pools


@pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)
def test_pools_work_wherever_weights_stand(case: graphs.Case) -> None:
    proto = case.build()
    report, converted = onnxq.convert(proto, bits=3, check=0, only_smaller=False)
    assert report.predicted_bytes == converted.ByteSize()
    if not report.tensors:  # it holds no float weight
        assert converted == proto
        return
    assert report.ledger is not None
    assert sum(row.index_bytes for row in report.tensors) == report.ledger.indices
    found = onnxq.inspect(converted)
    assert {(t.graph, t.name, t.index_bytes, t.codebook_bytes) for t in found.tensors} == {
        (t.graph, t.name, t.index_bytes, t.codebook_bytes) for t in report.tensors
    }
    assert found.ledger == report.ledger
    _, apart = onnxq.convert(proto, bits=3, check=0, only_smaller=False, pool_indices=False)
    assert onnxq.restore(converted)[1] == onnxq.restore(apart)[1]


@pytest.mark.parametrize("external", ["never", "always"])
def test_stream_stands_where_other_values_stand(tmp_path: Path, external: Any) -> None:
    proto = holding(arrays(((90, 90), (80, 80), (64,))))
    target = tmp_path / "m.onnx"
    report = onnxq.convert(proto, target, bits=4, check=1, external_data=external)
    assert report.output is not None
    assert report.predicted_bytes == report.output.file_bytes
    assert pooled(planned(proto, bits=4)) == ["w0", "w1", "w2"]
    assert len(list(tmp_path.iterdir())) == (2 if external == "always" else 1)
    runs.assert_same(
        runs.run(target, {}),
        {f"{name}_out": -array for name, array in restored(onnx.load(target)).items()},
    )


def test_converting_with_any_jobs_gives_the_same_bytes() -> None:
    proto = holding(arrays())
    _, one = onnxq.convert(proto, bits=5, check=0, jobs=1)
    _, three = onnxq.convert(proto, bits=5, check=0, jobs=3)
    assert one == three


def test_model_of_its_own_reshape_behind_a_pooled_tensor_keeps_it() -> None:
    proto = holding(arrays())
    proto.graph.initializer.append(graphs.tensor("shape", np.array([8, 8])))
    proto.graph.node[0].CopyFrom(graphs.node("Reshape", "w0,shape", "w0_out"))
    proto.graph.output[0].CopyFrom(graphs.value("w0_out", 8, 8))
    _, converted = onnxq.convert(proto, bits=4, check=0)
    assert "w0" in {t.name for t in onnxq.inspect(converted).tensors}
    _, plain = onnxq.restore(converted)
    assert [node.op_type for node in plain.graph.node] == [n.op_type for n in proto.graph.node]


def test_tensor_that_a_tool_has_changed_leaves_the_others_readable() -> None:
    _, converted = onnxq.convert(holding(arrays()), bits=4, check=0)
    expected = runs.run(converted, {})
    last = next(n for n in converted.graph.node if n.output[0] == "w5")
    last.attribute.add(name="axis", type=onnx.AttributeProto.INT, i=0)
    names = {item.name for item in recognise.find(model.wrap(converted))}
    assert names == {"w0", "w1", "w2", "w3", "w4"}
    _, plain = onnxq.restore(converted)
    assert "Split" in {node.op_type for node in plain.graph.node}
    runs.assert_same(runs.run(plain, {}), expected)


def test_indices_that_a_tool_puts_out_stay_when_weights_are_restored() -> None:
    _, converted = onnxq.convert(holding(arrays()), bits=4, check=0)
    split = next(n for n in converted.graph.node if n.op_type == "Split")
    converted.graph.output.append(graphs.value(split.output[0], 64, dtype=TensorProto.INT32))
    expected = runs.run(converted, {})
    _, plain = onnxq.restore(converted)
    runs.assert_same(runs.run(plain, {}), expected)


def test_padding_is_counted_with_the_last_tensor() -> None:
    proto = holding(arrays(((13,), (18,))))
    report, converted = onnxq.convert(proto, bits=3, check=0, only_smaller=False)
    assert [row.index_bytes for row in report.tensors] == [4, 8]
    assert [row.index_bytes for row in onnxq.inspect(converted).tensors] == [4, 8]


# Plans


def test_plan_that_pools_below_opset_11_is_refused() -> None:
    plan = planned(holding(arrays(), 17), bits=4)
    with pytest.raises(InputError, match="a pool needs opset 11, found 10"):
        onnxq.convert(holding(arrays(), 10), plan=plan, check=0)


def test_plan_that_pools_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(holding(arrays()), bits=4)
    monkeypatch.setattr("onnxq.replay.MAX_NODE_BYTES", 1000)
    with pytest.raises(InputError, match="pools 814 weights of 4 bits"):
        onnxq.convert(holding(arrays()), plan=plan, check=0)


def test_plan_of_version_1_is_followed_without_pools() -> None:
    record = planned(holding(arrays()), bits=4, only_smaller=False, pool_indices=False).to_json()
    record["plan_version"] = 1
    for tensor in record["tensors"]:
        del tensor["is_pooled"]
    plan = Plan.from_json(json.loads(json.dumps(record)), "plan.json")
    assert pooled(plan) == []
    _, followed = onnxq.convert(holding(arrays()), plan=plan, check=0)
    _, made = onnxq.convert(
        holding(arrays()), bits=4, check=0, only_smaller=False, pool_indices=False
    )
    assert followed == made


def test_tensor_taken_out_of_a_pool_by_hand_stands_alone() -> None:
    record = planned(holding(arrays()), bits=4).to_json()
    record["tensors"][1]["is_pooled"] = False
    plan = Plan.from_json(record, "plan.json")
    report, converted = onnxq.convert(holding(arrays()), plan=plan, check=0)
    assert report.predicted_bytes == converted.ByteSize()
    assert len(onnxq.inspect(converted).tensors) == len(arrays())
