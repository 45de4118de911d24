import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import junitparser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.checks import Check
from onnxq.differences import OutputDifference
from onnxq.report import ValidateReport
from onnxq.validation import gates, junit
from onnxq.validation.gates import Gates
from tests import reports


def read(report: ValidateReport) -> junitparser.TestSuite:
    suites = junitparser.JUnitXml.fromstring(junit.dumps(report).encode())
    (suite,) = list(suites)
    assert (suites.tests, suites.failures, suites.errors) == (suite.tests, suite.failures, 0)
    return suite


def failures(suite: junitparser.TestSuite) -> dict[str, str]:
    return {case.name: case.result[0].message for case in suite if case.result}


def with_gates(limits: Gates) -> ValidateReport:
    rows = gates.judge(limits, reports.CHECK, (reports.TOP1,), reports.PERFORMANCE, (10, 5))
    return dataclasses.replace(reports.VALIDATED, gates=rows)


def test_every_output_and_every_gate_is_a_case() -> None:
    limits = Gates(min_snr=30, max_size_ratio=0.5, max_latency_ratio=1.05)
    suite = read(with_gates(limits))
    assert [(case.classname, case.name) for case in suite] == [
        ("onnxq.output", "output 'y'"),
        ("onnxq.output", "output 'z'"),
        ("onnxq.gate", "--min-snr 30: output 'y'"),
        ("onnxq.gate", "--min-snr 30: output 'z'"),
        ("onnxq.gate", "--max-latency-ratio 1.05: latency"),
        ("onnxq.gate", "--max-size-ratio 0.5: size"),
    ]
    assert failures(suite) == {
        "--min-snr 30: output 'y'": "output 'y' has 28.50 dB, expected at least 30 dB",
        "--max-latency-ratio 1.05: latency": (
            "latency is 1.1 times that of REF, expected at most 1.05 times"
        ),
    }
    assert (suite.tests, suite.failures) == (6, 2)


def test_figures_are_properties() -> None:
    found = {item.name: item.value for item in read(reports.VALIDATED).properties()}
    assert found == {
        "reference_bytes": "10000",
        "candidate_bytes": "2500",
        "samples": "1",
        "snr@y candidate": "28.5",
        "top1@y reference": "0.97",
        "top1@y candidate": "0.96",
        "latency_ratio": "1.1",
    }


def test_a_broken_output_fails_without_a_gate() -> None:
    assert failures(read(reports.INVALID)) == {"output 'y'": "shape [3] instead of [2]"}


def test_a_reference_that_cannot_be_run_fails() -> None:
    check = Check(status="skipped", reason="x: why", samples=1)
    report = dataclasses.replace(reports.INVALID, check=check)
    assert failures(read(report)) == {"reference": "could not be run: x: why"}


def test_times_and_counts_stand_where_readers_look_for_them() -> None:
    root = ElementTree.fromstring(junit.dumps(reports.VALIDATED).encode())
    (suite,) = root
    counts = {"name", "tests", "failures", "errors", "time"}
    assert (set(root.attrib), set(suite.attrib)) == (counts, counts | {"skipped"})
    assert suite.attrib["time"] == f"{reports.VALIDATED.seconds:.3f}"
    cases = suite.findall("testcase")
    assert cases
    assert all(set(case.attrib) == {"classname", "name"} for case in cases)


@given(st.text())
def test_any_name_makes_readable_xml(name: str) -> None:
    output = OutputDifference(name=name, snr_db=1.0, max_abs=1.0, cosine=1.0, is_equal=False)
    check = Check(status="ok", samples=1, outputs=(output,))
    (case,) = read(dataclasses.replace(reports.INVALID, check=check))
    assert case.name.startswith("output ")


@pytest.mark.parametrize("report", [reports.VALIDATED, reports.INVALID])
def test_a_file_is_read_by_its_path(report: ValidateReport, tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(junit.dumps(report), encoding="utf-8")
    (suite,) = list(junitparser.JUnitXml.fromfile(str(path)))
    assert suite.name.startswith("validate in.onnx ")
