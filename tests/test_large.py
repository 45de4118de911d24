"""Tensors beyond onnxruntime's folding limit: tiled, folded at load where that is possible."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import onnxq
from onnxq.forms import MAX_NODE_BYTES

pytestmark = pytest.mark.large


def write_embedding(path: Path, rows: int, columns: int, data_type: int) -> None:
    """Write a model that looks rows of a large random table up."""
    rng = np.random.default_rng(5)
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    table = TensorProto(name="table", data_type=data_type, dims=[rows, columns])
    table.raw_data = rng.standard_normal((rows, columns), np.float32).astype(dtype).tobytes()
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["out"])],
        "embedding",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("out", data_type, ["n", columns])],
        [table],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path)


def executed_operators(path: Path, ids: np.ndarray, folder: Path) -> tuple[Counter, np.ndarray]:
    """Run a model once; return how often each operator ran, and the output."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"ids": ids})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = (e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time"))
    return Counter(ran), out


def test_indices_beyond_the_limit_are_tiled_and_folded(tmp_path: Path) -> None:
    source, converted = tmp_path / "in.onnx", tmp_path / "out.onnx"
    write_embedding(source, 140_000, 2_000, TensorProto.FLOAT16)
    report = onnxq.convert(source, converted, bits=9, check=0)
    assert 4 * report.tensors[0].elements > MAX_NODE_BYTES  # the indices, in int32
    assert not report.notes
    joins = [n for n in onnx.load(converted).graph.node if n.op_type == "Concat"]
    assert len(joins) == 1
    ids = np.array([0, 1, 69_999, 70_000, 139_999])
    ran, out = executed_operators(converted, ids, tmp_path)
    assert ran == {"Gather": 1}
    restored = tmp_path / "restored.onnx"
    onnxq.restore(converted, restored)
    _, expected = executed_operators(restored, ids, tmp_path)
    assert out.tobytes() == expected.tobytes()


def test_a_tensor_beyond_the_limit_is_tiled_and_reported(tmp_path: Path) -> None:
    source, converted = tmp_path / "in.onnx", tmp_path / "out.onnx"
    write_embedding(source, 70_000, 4_000, TensorProto.FLOAT)
    report = onnxq.convert(source, converted, bits=4, check=0)
    assert any("'table'" in note and "at every run" in note for note in report.notes)
    ids = np.array([0, 1, 35_000, 69_999])
    ran, out = executed_operators(converted, ids, tmp_path)
    assert ran == {"Gather": 1, "Concat": 1}
    restored = tmp_path / "restored.onnx"
    onnxq.restore(converted, restored)
    _, expected = executed_operators(restored, ids, tmp_path)
    assert out.tobytes() == expected.tobytes()
