"""Golden files: today's reader decodes them, today's writer writes them, byte for byte.

The files stand for those that people have. A failure of a reading test is a broken promise of
docs/format.md. A failure of the writing test means that the same input gives other bytes than
before: allowed where CHANGELOG.md says so, and then the case gets a new name and, by
tools/make_golden.py, a new file; the old one stays and is still read. The bytes of these cases
depend on no random generator and no rounding, so they should be the same with every supported
version of numpy, numba and protobuf.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import onnxq
from onnxq import model, recognise, revert
from tests import runs
from tools import make_golden
from tools.make_golden import EXPECTED, FOLDER, Case

Array = np.ndarray[Any, np.dtype[Any]]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
CASES = make_golden.cases()
STORED: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
READ = sorted(STORED)

each_file = pytest.mark.parametrize("name", READ)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def expected(name: str) -> dict[str, Array]:
    """Return the stored values of a golden file by tensor name."""
    found = {}
    for tensor, row in STORED[name].items():
        dtype = BFLOAT16 if row["dtype"] == "bfloat16" else np.dtype(row["dtype"])
        found[tensor] = np.frombuffer(bytes.fromhex(row["bytes"]), dtype).reshape(row["shape"])
    return found


def plain_tensors(made: onnx.ModelProto) -> dict[str, Array]:
    """Return the float tensors of a plain model by name, wherever they stand."""
    stack: list[Any] = [made.graph, *made.functions]
    found = {}
    while stack:
        scope = stack.pop()
        held = {tensor.name: tensor for tensor in getattr(scope, "initializer", ())}
        for node in scope.node:
            if node.op_type == "Constant":
                held[node.output[0]] = node.attribute[0].t
            stack += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        found |= {name: onnx.numpy_helper.to_array(tensor) for name, tensor in held.items()}
    return found


def test_every_case_has_its_file_and_every_file_its_values() -> None:
    assert {case.name for case in CASES} <= set(READ)
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(READ)
    models = {f"{name}.onnx" for name in READ}
    for path in FOLDER.glob("*.data"):
        assert ".".join(path.name.split(".")[:-2]) in models, path.name


def test_the_files_are_small() -> None:
    assert all(path.stat().st_size < 5000 for path in FOLDER.glob("*.onnx*"))


def test_every_layout_and_packed_width_has_a_file() -> None:
    forms = {
        (row.layout, row.bit_width)
        for name in READ
        for row in onnxq.inspect(FOLDER / f"{name}.onnx").tensors
    }
    assert forms >= {("portable", bits) for bits in range(1, 16)}
    assert forms >= {("native", 2), ("native", 4), ("bytes", 5), ("bytes", 9)}


@each_file
def test_decoder_gives_the_stored_values(name: str) -> None:
    document = model.load(FOLDER / f"{name}.onnx")
    found = {item.name: revert.decoded(document, item) for item in recognise.find(document)}
    values = expected(name)
    assert found.keys() == values.keys()
    for tensor, array in values.items():
        runs.assert_equal(found[tensor], array, tensor)


@each_file
def test_restored_model_holds_the_stored_values(name: str) -> None:
    _, restored = onnxq.restore(FOLDER / f"{name}.onnx")
    found = plain_tensors(restored)
    values = expected(name)
    assert found.keys() == values.keys()
    for tensor, array in values.items():
        runs.assert_equal(found[tensor], array, tensor)


@pytest.mark.parametrize(
    "name", [name for name in READ if "branches" not in name and "function" not in name]
)
def test_onnxruntime_computes_the_stored_values(name: str) -> None:
    found = runs.run(FOLDER / f"{name}.onnx", {})
    for tensor, array in expected(name).items():
        wide = array.astype(np.float32) if array.dtype == BFLOAT16 else array
        runs.assert_equal(found[f"{tensor}_out"], wide, tensor)


@each_case
def test_writer_gives_the_stored_bytes(case: Case, tmp_path: Path) -> None:
    make_golden.convert(case, tmp_path)
    written = make_golden.files_of(case, tmp_path)
    stored = make_golden.files_of(case, FOLDER)
    assert [path.name for path in written] == [path.name for path in stored]
    for path, golden in zip(written, stored, strict=True):
        assert path.read_bytes() == golden.read_bytes(), path.name
