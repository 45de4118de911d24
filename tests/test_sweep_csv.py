"""A sweep as comma-separated values, read back by the csv module."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from onnxq.sweeps import sweep_csv
from onnxq.sweeps.grid import parse_axis
from tests import sweeps


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), strict=True))


def test_every_point_is_a_row_with_its_figures() -> None:
    found = rows(sweep_csv.dumps(sweeps.SWEPT))
    assert len(found) == len(sweeps.SWEPT.points)
    first, point = found[0], sweeps.SWEPT.points[0]
    assert first["model"] == "my digits.onnx"
    assert (first["series"], first["bits"], first["init"]) == ("optimal", "2", "optimal")
    assert int(first["file_bytes"]) == point.file_bytes
    assert int(first["ce2_bytes"]) == point.ce2_bytes
    assert float(first["ratio"]) == point.ratio
    assert float(first["bits_per_weight"]) == point.bits_per_weight
    assert float(first["snr_db"]) == 8.5
    assert first["samples"] == "200"
    assert first["command"] == point.command


def test_a_metric_has_its_spread_its_reference_and_the_difference() -> None:
    first, metric = rows(sweep_csv.dumps(sweeps.SWEPT))[0], sweeps.SWEPT.points[0].metrics[0]
    assert metric.reference is not None
    assert metric.difference is not None
    assert float(first["top1@y"]) == metric.candidate.value
    assert float(first["top1@y low"]) == metric.candidate.low
    assert float(first["top1@y reference"]) == metric.reference.value
    assert float(first["top1@y difference high"]) == metric.difference.high
    assert float(first["top1@y relative change"]) == metric.relative_change
    assert first["top1@y within noise"] == "false"
    assert first["cosine@y"] == "0.99"
    assert "cosine@y reference" not in first


def test_equal_and_incomparable_outputs_are_told_apart() -> None:
    assert [row["snr_db"] for row in rows(sweep_csv.dumps(sweeps.SWEPT))] == [
        "8.5",
        "38.25",
        "-inf",
        "inf",
        "",
    ]


def test_a_failed_point_has_its_error_and_empty_cells() -> None:
    failed = rows(sweep_csv.dumps(sweeps.SWEPT))[-1]
    assert failed["error"] == sweeps.SWEPT.points[-1].error
    assert failed["bits"] == "16"
    assert failed["file_bytes"] == failed["top1@y"] == failed["cosine@y"] == ""


def test_settings_are_spelled_as_grid_reads_them() -> None:
    settings = {"bits": 3, "exclude": ["a,b", '"c"'], "tensor_bits": [["x", 2]], "preset": None}
    point = dataclasses.replace(sweeps.SWEPT.points[0], settings=settings)
    report = dataclasses.replace(sweeps.SWEPT, points=(point,))
    found = rows(sweep_csv.dumps(report))[0]
    assert found["exclude"] == 'a,b|"c"'
    assert parse_axis(f"tensor_bits={found['tensor_bits']}")[1] == ((("x", 2),),)
    assert parse_axis(f"preset={found['preset']}")[1] == (None,)


def test_no_cell_holds_what_could_move_a_cursor() -> None:
    point = dataclasses.replace(sweeps.SWEPT.points[0], error="a\x1b[2J\nb\udc80")
    report = dataclasses.replace(sweeps.SWEPT, points=(point,))
    assert rows(sweep_csv.dumps(report))[0]["error"] == "a\\x1b[2J\\nb\\udc80"
    assert sweep_csv.dumps(report).encode().count(b"\n") == 2


def test_every_column_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "sweep.md").read_text(encoding="utf-8")
    for column in rows(sweep_csv.dumps(sweeps.SWEPT))[0]:
        name = column.replace("top1@y", "METRIC@OUTPUT").replace("cosine@y", "METRIC@OUTPUT")
        assert f"`{name}`" in page or name == "init", column
