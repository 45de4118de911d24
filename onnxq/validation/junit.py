"""A validation as JUnit XML, which CI systems read.

Owns the mapping: one test suite, a test case for each compared output and for each gate. An output
that cannot be compared fails, and so does a gate; noise alone fails nothing. Figures stand in the
suite's properties. Attributes are those that Jenkins' schema knows; the suite has the time of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from onnxq.plaintext import plain
from onnxq.report import FileSize, ValidateReport
from onnxq.validation.measurements import Estimate

_Case = tuple[str, str, str | None]
"""Class, name, and why it failed."""


def dumps(report: ValidateReport) -> str:
    """Return a report as JUnit XML text, to be written in UTF-8."""
    cases = list(_cases(report))
    failed = sum(failure is not None for _, _, failure in cases)
    counts = {"tests": str(len(cases)), "failures": str(failed), "errors": "0"}
    counts["time"] = f"{report.seconds:.3f}"
    suites = ElementTree.Element("testsuites", {"name": "onnxq", **counts})
    name = f"validate {_name(report.reference)} {_name(report.candidate)}"
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": plain(name), **counts, "skipped": "0"}
    )
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _figures(report):
        ElementTree.SubElement(properties, "property", {"name": plain(key), "value": plain(value)})
    for kind, case, failure in cases:
        node = ElementTree.SubElement(
            suite, "testcase", {"classname": f"onnxq.{kind}", "name": plain(case)}
        )
        if failure is not None:
            text = plain(failure)
            ElementTree.SubElement(node, "failure", {"message": text, "type": kind}).text = text
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _cases(report: ValidateReport) -> Iterator[_Case]:
    if report.check.status == "skipped":
        yield "output", "reference", f"could not be run: {report.check.reason}"
    elif report.check.reason is not None:
        yield "output", "candidate", report.check.reason
    for output in report.check.outputs:
        yield "output", f"output {output.name!r}", output.mismatch
    for row in report.gates:
        yield "gate", f"{row.gate}: {row.subject}", None if row.passed else row.message


def _figures(report: ValidateReport) -> Iterator[tuple[str, str]]:
    yield "reference_bytes", str(report.reference.file_bytes)
    yield "candidate_bytes", str(report.candidate.file_bytes)
    yield "samples", str(report.check.samples)
    for row in report.metrics:
        for model, estimate in (("reference", row.reference), ("candidate", row.candidate)):
            if estimate is not None:
                yield f"{row.label} {model}", _figure(estimate, is_equal=row.is_equal)
    if report.performance is not None and report.performance.latency_ratio is not None:
        yield "latency_ratio", f"{report.performance.latency_ratio:.6g}"


def _figure(estimate: Estimate, *, is_equal: bool) -> str:
    if estimate.value is None:
        return "equal" if is_equal else "undefined"
    return f"{estimate.value:.6g}"


def _name(size: FileSize) -> str:
    return size.path or "(in memory)"
