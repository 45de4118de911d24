"""Faults that were found by hand, each with the smallest model that showed it."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxq
from onnxq.errors import InputError, OptionError, OutputError
from tests import graphs

F = TensorProto.FLOAT
RNG = np.random.default_rng(3)


def weights(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def matmul(*initializers: TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", F, [1, 64])],
        [helper.make_tensor_value_info("y", F, [1, 64])],
        list(initializers) or [weights("w", 64, 64)],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def with_branches(ir_version: int, opset: int, outer: str, inner: str) -> onnx.ModelProto:
    """Return an If whose branches multiply by a constant of their own."""

    def branch(name: str) -> onnx.GraphProto:
        constant = helper.make_node("Constant", [], [inner], value=weights("c", 64, 64))
        node = helper.make_node("MatMul", ["h", inner], [name])
        return helper.make_graph(
            [constant, node], name, [], [helper.make_tensor_value_info(name, F, [1, 64])]
        )

    nodes = [
        helper.make_node("MatMul", ["x", outer], ["h"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
    ]
    inputs = [
        helper.make_tensor_value_info("x", F, [1, 64]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    if ir_version < 4:
        inputs.append(helper.make_tensor_value_info(outer, F, [64, 64]))
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("y", F, [1, 64])],
        [weights(outer, 64, 64)],
    )
    return helper.make_model(
        graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)]
    )


def test_requantizing_with_nothing_to_encode_writes_the_decoded_model(tmp_path: Path) -> None:
    source, once, twice = (tmp_path / name for name in ("m.onnx", "c.onnx", "d.onnx"))
    onnx.save(matmul(), source)
    onnxq.convert(source, once, bits=4)
    report = onnxq.convert(once, twice, requantize=True, exclude=["w"])
    assert report.ledger is not None
    assert min(vars(report.ledger).values()) >= 0
    assert report.ledger.total == twice.stat().st_size
    with pytest.raises(InputError, match="no encoded tensor"):
        onnxq.restore(twice)


def test_name_that_an_outer_graph_defines_too_is_left_alone() -> None:
    proto = with_branches(8, 17, "w", "w")
    report, converted = onnxq.convert(proto, bits=4, check=0)
    assert {row.reason for row in report.skipped} == {"ambiguous-name"}
    assert converted == proto
    report, _ = onnxq.convert(with_branches(8, 17, "w", "v"), bits=4)
    assert len(report.tensors) == 3


@pytest.mark.parametrize("opset", [7, 9])
def test_bodies_before_ir_4_come_back_valid(opset: int) -> None:
    proto = with_branches(3, opset, "w", "v")
    _, converted = onnxq.convert(proto, bits=4)
    _, restored = onnxq.restore(converted)
    onnx.checker.check_model(restored)
    assert onnxq.validate(restored, converted, performance=False).check.is_equal


def test_published_bytes_count_the_width_asked_for() -> None:
    few = np.repeat(np.float32([1, 2, 3, 4]), 128)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", F, [1, 300])],
        [helper.make_tensor_value_info("y", F, [1, 512])],
        [weights("w", 300, 512), numpy_helper.from_array(few, "b")],
    )
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    report, _ = onnxq.convert(proto, preset="ce2", bits=8, check=0)
    used = sum(row.centroids for row in report.tensors)
    assert report.ce2_bytes == 300 * 512 + 512 + 4 * used


def test_half_precision_in_typed_fields_is_measured_as_it_stands() -> None:
    values = RNG.standard_normal((64, 64)).astype(np.float16)
    w = helper.make_tensor("w", TensorProto.FLOAT16, [64, 64], values)
    assert not w.HasField("raw_data")
    proto = matmul(w)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    report, converted = onnxq.convert(proto, bits=8, check=0)
    assert [row.name for row in report.tensors] == ["w"]
    assert converted.ByteSize() < proto.ByteSize() / 2


def test_full_disk_while_kept_values_move_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OutputError("full")

    monkeypatch.setattr("onnxq.files.move_kept", fail)
    with pytest.raises(OutputError):
        onnxq.convert(matmul(), tmp_path / "o.onnx", external_data="always", check=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_as_output_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="device or pipe"):
        onnxq.convert(matmul(), tmp_path / "pipe", force=True, check=0)


def test_validation_without_samples_or_with_an_odd_gate_is_refused() -> None:
    for options in ({"samples": 0}, {"samples": -3}, {"min_snr": float("nan")}):
        with pytest.raises(OptionError):
            onnxq.validate(matmul(), matmul(), **options)


def test_deeply_nested_plan_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "p.json"
    plan.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"p\.json"):
        onnxq.convert(matmul(), plan=plan, check=0)


def test_saved_plan_of_the_published_scheme_gives_the_same_bytes(tmp_path: Path) -> None:
    plan = tmp_path / "p.json"
    proto = graphs.conv_bn_relu()
    _, first = onnxq.convert(proto, preset="ce2", bits=4, save_plan=plan, check=0)
    _, second = onnxq.convert(proto, plan=plan, check=0)
    assert first.SerializeToString() == second.SerializeToString()


def test_published_start_runs_until_nothing_moves() -> None:
    proto = matmul(numpy_helper.from_array(RNG.laplace(size=(64, 4096)).astype(np.float32), "w"))
    found = [
        onnxq.convert(proto, init="bounded-pdf", max_iterations=rounds, check=0)[0].tensors[0]
        for rounds in (100_000, 200_000)
    ]
    capped = onnxq.convert(proto, init="bounded-pdf", max_iterations=5, check=0)[0].tensors[0]
    assert found[0].snr_db == found[1].snr_db
    assert (capped.snr_db or 0) < (found[0].snr_db or 0)
