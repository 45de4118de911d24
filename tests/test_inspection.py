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
