import copy
import json
from typing import Any

import jsonschema
import pytest

from onnxq import report
from onnxq.errors import InputError
from onnxq.report import AnyReport, Ledger, WidthRow
from tests import reports

every_report = pytest.mark.parametrize("made", reports.ALL.values(), ids=reports.ALL)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(report.schema())


@every_report
def test_a_report_has_exactly_the_published_fields(made: AnyReport) -> None:
    data = json.loads(report.dumps(made))
    jsonschema.Draft202012Validator(reports.closed(report.schema())).validate(data)


@every_report
def test_a_report_comes_back_from_its_json(made: AnyReport) -> None:
    assert report.from_json(json.loads(report.dumps(made))) == made


@every_report
def test_json_is_ascii_and_ends_its_line(made: AnyReport) -> None:
    assert report.dumps(made).isascii()
    assert report.dumps(made).endswith("}\n")


def test_fields_of_later_versions_are_ignored_and_valid() -> None:
    data = reports.CONVERTED.to_json()
    data["later"] = data["tensors"][0]["later"] = 1
    jsonschema.Draft202012Validator(report.schema()).validate(data)
    assert report.from_json(data) == reports.CONVERTED


@every_report
def test_the_schema_rejects_a_missing_field(made: AnyReport) -> None:
    for field in made.to_json():
        data = made.to_json()
        del data[field]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(report.schema()).validate(data)


def test_output_says_how_much_smaller_it_is() -> None:
    data = reports.CONVERTED.to_json()
    assert data["input"] == {"path": "models/in.onnx", "file_bytes": 10_000}
    assert data["output"] == {"path": "out[6].onnx", "file_bytes": 2_500, "ratio": 4.0}
    assert reports.CONVERTED.is_smaller
    assert not reports.NOTHING_GAINED.is_smaller


def test_an_empty_output_has_no_ratio() -> None:
    empty = report.FileSize(path=None, file_bytes=0)
    assert empty.compared_to(empty).ratio is None


def test_the_ledger_has_its_total() -> None:
    ledger = Ledger(indices=1, codebooks=2, added_graph=4, kept_weights=8, original_graph=16)
    assert ledger.total == ledger.to_json()["total"] == 31
    assert list(ledger.to_json()) == [
        "indices",
        "codebooks",
        "added_graph",
        "kept_weights",
        "original_graph",
        "total",
    ]


def test_weights_are_summed_by_width_and_others_left_out() -> None:
    assert reports.CONVERTED.by_width() == (
        WidthRow(bit_width=1, tensors=1, elements=256, original_bytes=1024, stored_bytes=40),
        WidthRow(bit_width=6, tensors=2, elements=1728, original_bytes=6912, stored_bytes=904),
        WidthRow(bit_width=None, tensors=1, elements=32, original_bytes=128, stored_bytes=128),
    )
    assert reports.CONVERTED.weights == 256 + 1728 + 32


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("command",), "frob", "no report of onnxq"),
        (("schema_version",), 2, "schema version 2, expected 1"),
        (("tensors", 1, "shape", 0), "3", r"report\.tensors\[1\]\.shape\[0\]: found '3'"),
        (("tensors", 0, "bit_width"), True, r"bit_width: found True, expected int"),
        (("tensors", 0, "scheme"), "magic", r"scheme: found 'magic', expected one of 'optimal'"),
        (("input", "path"), 3, r"report\.input\.path: found 3, expected str"),
        (("ledger",), [], r"report\.ledger: found list, expected an object"),
        (("versions",), None, r"report\.versions: found None, expected an object"),
        (("skipped",), {}, r"report\.skipped: found dict, expected a list"),
    ],
)
def test_damaged_json_is_an_input_error_with_the_place(
    path: tuple[str | int, ...], value: object, message: str
) -> None:
    data: Any = copy.deepcopy(reports.CONVERTED.to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match=message):
        report.from_json(data)


def test_a_missing_field_is_named() -> None:
    data = reports.CONVERTED.to_json()
    del data["ce2_bytes"]
    with pytest.raises(InputError, match="'ce2_bytes' is missing"):
        report.from_json(data)


@pytest.mark.parametrize("data", [None, [], "x", {}])
def test_other_json_is_no_report(data: object) -> None:
    with pytest.raises(InputError, match="no report"):
        report.from_json(data)


def test_reports_of_before_the_metrics_are_read() -> None:
    data = reports.VALIDATED.to_json()
    for field in ("data", "metrics", "performance", "layers", "gates", "options"):
        del data[field]
    read = report.from_json(data)
    assert isinstance(read, report.ValidateReport)
    assert (read.check, read.data, read.metrics) == (reports.CHECK, None, ())
