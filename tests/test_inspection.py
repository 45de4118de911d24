"""What a model holds, and what a conversion of it would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto

import onnxq
from onnxq.rate import load_bytes
from onnxq.report import InspectReport, Report
from tests import graphs
from tests.encoded import make_form

FAST: dict[str, Any] = {"init": "quantile", "max_iterations": 1}


def converted(proto: ModelProto, **options: Any) -> tuple[Report, ModelProto]:
    report, made = onnxq.convert(proto, check=0, **{**FAST, "bits": 4, **options})
    return report, made


def inspected(proto: ModelProto) -> InspectReport:
    return onnxq.inspect(proto)


def test_inspected_bytes_are_divided_up() -> None:
    report, made = converted(graphs.conv_bn_relu(), bits=6)
    found = inspected(made)
    assert found.ledger is not None
    assert report.ledger is not None
    assert found.ledger.total == made.ByteSize()
    assert found.ledger.indices == report.ledger.indices
    assert found.ledger.codebooks == report.ledger.codebooks
    assert found.ledger.kept_weights == report.ledger.kept_weights
    assert 0 < found.ledger.added_graph <= report.ledger.added_graph


def test_memory_at_load_is_predicted() -> None:
    _, made = converted(graphs.conv_bn_relu(), bits=8)
    form = make_form("portable", 8, (64, 8, 3, 3))
    assert inspected(made).predicted_load_bytes == load_bytes(form) + 5 * 256
    before = onnxq.inspect(graphs.conv_bn_relu(), bits=8)
    assert before.predicted_load_bytes == inspected(made).predicted_load_bytes


@pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)
def test_inspect_predicts_what_convert_writes(case: graphs.Case) -> None:
    proto = case.build()
    options = {"bits": 4, "init": "uniform", "max_iterations": 1}
    before = onnxq.inspect(proto, **options)
    report, made = onnxq.convert(proto, check=0, **options)
    assert before.predicted_file_bytes == made.ByteSize()
    is_smaller = made.ByteSize() < proto.ByteSize()
    assert (before.notes == ()) == is_smaller
    assert {(w.graph, w.name) for w in before.weights if w.action == "convert"} >= {
        (row.graph, row.name) for row in report.tensors
    }
    for row in before.weights:
        assert (row.reason is None) == (row.action == "convert")
        assert (row.bit_width is None) == (row.action == "keep")


def saved(tmp_path: Path, proto: ModelProto, is_external: bool) -> Path:
    path = tmp_path / "in.onnx"
    if is_external:
        graphs.save_external(proto, path)
    else:
        onnx.save(proto, path)
    return path


@pytest.mark.parametrize("external", ["auto", "always", "never"])
@pytest.mark.parametrize("is_external", [False, True])
@pytest.mark.parametrize(
    "name", ["attention", "branches", "conv_bn_relu", "functions", "loop", "sparse", "tiny", "ir3"]
)
def test_inspect_predicts_files_wherever_values_stand(
    tmp_path: Path, name: str, is_external: bool, external: str
) -> None:
    """Exactly, for an output whose name is as long as the input's."""
    path = saved(tmp_path, graphs.BY_NAME[name].build(), is_external)
    for number, more in enumerate(({}, {"exclude": "*"}, {"only_smaller": False})):
        options = {"bits": 4, "external_data": external, **more, **FAST}
        before = sorted(tmp_path.iterdir())
        found = onnxq.inspect(path, **options)
        assert sorted(tmp_path.iterdir()) == before
        report = onnxq.convert(path, tmp_path / f"o{number}.onnx", check=0, **options)
        assert report.output is not None
        assert found.predicted_file_bytes == report.output.file_bytes
        assert report.predicted_bytes == report.output.file_bytes
        assert (found.notes == ()) == (report.output.file_bytes < report.input.file_bytes)


def test_inspect_predicts_files_of_a_model_in_memory(tmp_path: Path) -> None:
    made, output = graphs.attention(), tmp_path / "model.onnx"
    for external in ("always", "never"):
        options = {"bits": 4, "external_data": external, **FAST}
        found = onnxq.inspect(made, **options)
        report = onnxq.convert(made, output, check=0, force=True, **options)
        assert report.output is not None
        assert found.predicted_file_bytes == report.output.file_bytes


def test_inspect_predicts_files_of_values_left_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of a large file counts as it will be written."""
    monkeypatch.setattr("onnxq.model.DEFER_FROM_BYTES", 1)
    path = tmp_path / "in.onnx"
    floats = graphs.tensors(w=graphs.normal((300, 300), 1), v=graphs.normal((300, 300), 2))
    nodes = [graphs.node("MatMul", "x,w", "h"), graphs.node("MatMul", "h,v", "y")]
    inputs, outputs = [graphs.value("x", 2, 300)], [graphs.value("y", 2, 300)]
    onnx.save(graphs.model(graphs.graph(nodes, inputs, outputs, floats)), path)
    for number, external in enumerate(("auto", "always")):
        options = {"bits": 4, "exclude": "w", "external_data": external, **FAST}
        found = onnxq.inspect(path, **options)
        report = onnxq.convert(path, tmp_path / f"o{number}.onnx", check=0, **options)
        assert report.output is not None
        assert found.predicted_file_bytes == report.output.file_bytes == report.predicted_bytes


def test_inspected_weight_names_its_consumers() -> None:
    row = next(r for r in onnxq.inspect(graphs.conv_bn_relu()).weights if r.name == "var")
    assert (row.kind, row.action, row.reason, row.bytes) == (
        "initializer", "keep", "variance", 256,
    )  # fmt: skip
    assert [(use.op_type, use.node, use.input) for use in row.consumers] == [
        ("BatchNormalization", "bn", 4)
    ]


@pytest.mark.parametrize(
    ("name", "external"),
    [
        *((name, "never") for name in graphs.BY_NAME),
        *((name, "always") for name in ("attention", "branches", "functions", "sparse")),
    ],
)
def test_ledger_of_a_file_is_that_of_its_conversion(
    tmp_path: Path, name: str, external: str
) -> None:
    """What was added and what was there is told apart from the file alone."""
    output = tmp_path / "m.onnx"
    onnx.save(graphs.BY_NAME[name].build(), tmp_path / "in.onnx")
    report = onnxq.convert(
        tmp_path / "in.onnx", output, external_data=external, check=0, bits=4, **FAST
    )
    found = onnxq.inspect(output)
    if not report.tensors:
        assert not found.is_converted
        return
    assert found.ledger == report.ledger
    assert found.model.file_bytes == report.output.file_bytes


@pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)
def test_converted_model_lists_every_tensor(case: graphs.Case) -> None:
    """What the conversion encoded and what it kept, each once, shared tables never."""
    report, made = onnxq.convert(case.build(), check=0, bits=4, **FAST)
    found = inspected(made)
    if not report.tensors:
        return
    rows = {(row.graph, row.name): row for row in found.weights}
    assert len(rows) == len(found.weights)
    encoded = {key: row for key, row in rows.items() if row.action == "encoded"}
    assert encoded.keys() == {(row.graph, row.name) for row in report.tensors}
    for tensor in report.tensors:
        row = encoded[tensor.graph, tensor.name]
        assert (row.shape, row.dtype, row.elements) == (
            tensor.shape, tensor.dtype, tensor.elements,
        )  # fmt: skip
        assert (row.bit_width, row.reason) == (tensor.bit_width, None)
    before = {(row.graph, row.name): row for row in onnxq.inspect(case.build(), bits=4).weights}
    for skipped in report.skipped:
        row = rows[skipped.graph, skipped.name]
        assert (row.action, row.bytes) == ("keep", skipped.bytes)
        assert row.consumers == before[skipped.graph, skipped.name].consumers
        assert row.reason in (skipped.reason, None)
        assert skipped.reason in ("not-smaller", "nan", "infinite", row.reason)
    assert len(rows) == len(report.tensors) + len(report.skipped)


def test_encoded_tensors_name_their_bytes_and_consumers() -> None:
    _, made = converted(graphs.conv_bn_relu(), include="w")
    found = {row.name: row for row in inspected(made).weights}
    assert {name: row.action for name, row in found.items()} == {
        "w": "encoded", **dict.fromkeys(("b", "scale", "bias", "mean", "var"), "keep"),
    }  # fmt: skip
    assert [(use.op_type, use.input) for use in found["w"].consumers] == [("Conv", 1)]
    assert found["w"].bytes == inspected(made).tensors[0].stored_bytes
    assert (found["var"].reason, found["b"].reason) == ("variance", None)
    _, shared = converted(graphs.equal_tensors())
    rows = {row.name: row for row in inspected(shared).weights}
    assert [rows[name].bytes > 0 for name in ("first", "second", "third")] == [True, False, False]


def test_inspecting_changes_nothing(tmp_path: Path) -> None:
    proto = graphs.branches()
    _, made = converted(proto)
    before = proto.SerializeToString(), made.SerializeToString()
    onnxq.inspect(proto, bits=4)
    onnxq.inspect(made)
    assert (proto.SerializeToString(), made.SerializeToString()) == before


def test_options_say_what_would_be_converted() -> None:
    rows = {row.name: row for row in onnxq.inspect(graphs.conv_bn_relu(), include="b").weights}
    assert rows["w"].reason == "excluded"
    assert onnxq.inspect(graphs.conv_bn_relu(), bits=3).options["bits"] == 3
