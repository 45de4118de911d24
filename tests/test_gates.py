import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.checks import Check
from onnxq.errors import OptionError
from onnxq.validation import gates
from onnxq.validation.gates import Drop, Gates, make_gates
from onnxq.validation.measurements import Estimate, GateRow, MetricRow
from onnxq.validation.metrics import resolve
from tests import reports

SKIPPED = Check(status="skipped", reason="x: cannot be run", samples=1)
SIZES = (10_000, 2_500)


def row(before: float | None, after: float | None, **changes: Any) -> MetricRow:
    made = dataclasses.replace(
        reports.TOP1, reference=Estimate(value=before), candidate=Estimate(value=after)
    )
    return dataclasses.replace(made, **{"is_within_noise": False, **changes})


def judged(limits: Gates, *rows: MetricRow, check: Check = reports.CHECK) -> tuple[GateRow, ...]:
    return gates.judge(limits, check, rows, reports.PERFORMANCE, SIZES)


def test_without_gates_only_a_broken_output_fails() -> None:
    assert judged(Gates()) == ()
    assert gates.failures(reports.CHECK, ()) == ()
    assert gates.failures(reports.FAILED_CHECK, ()) == ("output 'y': shape [3] instead of [2]",)


def test_each_output_must_have_the_least_ratio() -> None:
    rows = judged(Gates(min_snr=30))
    assert [(r.subject, r.found, r.passed) for r in rows] == [
        ("output 'y'", 28.5, False),
        ("output 'z'", None, True),
    ]
    assert gates.failures(reports.CHECK, rows) == (
        "--min-snr 30: output 'y' has 28.50 dB, expected at least 30 dB",
    )
    assert all(r.passed for r in judged(Gates(min_snr=28.5)))


def test_a_broken_output_has_no_ratio() -> None:
    (broken,) = judged(Gates(min_snr=-100), check=reports.FAILED_CHECK)
    assert not broken.passed
    assert broken.found is None
    assert "cannot be compared (shape [3] instead of [2])" in broken.message


def test_where_nothing_was_compared_no_gate_is_passed() -> None:
    (failed,) = judged(Gates(min_snr=-100), check=reports.UNDEFINED_CHECK)
    assert (failed.passed, failed.found) == (False, None)
    assert failed.message == (
        "output 'y' has no finite value to compare: both models gave only NaN, expected at least "
        "-100 dB"
    )
    assert gates.failures(reports.UNDEFINED_CHECK, ()) == ()


def test_what_could_not_be_run_passes_no_gate() -> None:
    rows = judged(Gates(min_snr=1, max_drops=(Drop(metric="top1", limit=1),)), check=SKIPPED)
    assert [r.passed for r in rows] == [False, False]
    assert gates.failures(SKIPPED, rows)[0] == "the reference could not be run: x: cannot be run"
    assert len(gates.failures(SKIPPED, rows)) == 3


@pytest.mark.parametrize(
    ("limit", "before", "after", "better", "passed"),
    [
        ("0.01", 0.97, 0.96, "higher", True),  # 0.97 - 0.96 > 0.01 in float64
        ("0.01", 0.97, 0.9599, "higher", False),
        ("0.01", 0.97, 0.99, "higher", True),
        ("1%", 0.5, 0.495, "higher", True),
        ("1%", 0.5, 0.4949, "higher", False),
        ("10%", 2.0, 2.2, "lower", True),
        ("10%", 2.0, 2.21, "lower", False),
        ("0.5", 2.0, 2.5, "lower", True),
        ("0", 0.9, 0.9, "higher", True),
        ("1%", -2.0, -2.01, "higher", True),
        ("1%", -2.0, -2.03, "higher", False),
        ("1%", 0.0, 0.0, "lower", True),
        ("1%", 0.0, 0.1, "lower", False),
    ],
)
def test_a_metric_may_get_worse_by_its_limit(
    limit: str, before: float, after: float, better: Any, passed: bool
) -> None:
    (found,) = judged(make_gates(max_drop={"top1": limit}), row(before, after, better=better))
    assert found.passed == passed, found.message
    assert found.gate.startswith("--max-drop top1=")


@given(
    st.floats(-1e6, 1e6).filter(lambda value: abs(value) > 1e-3),
    st.floats(-1e6, 1e6),
    st.floats(0, 10),
    st.booleans(),
)
def test_the_limit_holds_in_either_direction(
    before: float, after: float, limit: float, is_relative: bool
) -> None:
    drop = Drop(metric="top1", limit=limit, is_relative=is_relative)
    (higher,) = judged(Gates(max_drops=(drop,)), row(before, after))
    (lower,) = judged(Gates(max_drops=(drop,)), row(-before, -after, better="lower"))
    assert (higher.passed, higher.found) == (lower.passed, lower.found)
    assert after < before or higher.passed


def test_messages_have_found_and_expected() -> None:
    limits = make_gates(max_drop={"top1": "1%"})
    (found,) = judged(limits, row(0.97, 0.95, is_within_noise=True))
    assert found.message == (
        "metric 'top1@y' fell by 2.062% (from 0.97 to 0.95), which is within noise, "
        "expected at most 1%"
    )
    assert found.found == pytest.approx(0.02 / 0.97)
    assert found.limit == 0.01
    (found,) = judged(make_gates(max_drop={"top1": 0.25}), row(1.0, 1.5, better="lower"))
    assert "rose by 0.5 (from 1 to 1.5), expected at most 0.25" in found.message
    (found,) = judged(limits, row(0.9, 0.95))
    assert "got no worse (from 0.9 to 0.95)" in found.message


@pytest.mark.parametrize("pair", [(None, 0.5), (0.5, None), (math.nan, 0.5), (0.5, math.inf)])
def test_an_undefined_figure_fails(pair: tuple[float | None, float | None]) -> None:
    (found,) = judged(make_gates(max_drop={"top1": 1000.0}), row(*pair))
    assert (found.passed, found.found) == (False, None)
    assert "is undefined" in found.message


def test_why_a_figure_is_undefined_is_told() -> None:
    (failed,) = judged(make_gates(max_drop={"top1": 1}), row(None, None, detail="only NaN"))
    assert not failed.passed
    assert "is undefined (only NaN), expected at most 1" in failed.message


def test_equal_outputs_lose_nothing() -> None:
    (found,) = judged(make_gates(max_drop={"top1": 0}), row(None, None, is_equal=True))
    assert found.passed


def test_a_fidelity_metric_falls_from_what_ref_has_with_itself() -> None:
    agreement = row(None, 0.98, kind="fidelity", reference=None)
    assert judged(make_gates(max_drop={"top1": 0.02}), agreement)[0].passed
    assert not judged(make_gates(max_drop={"top1": 0.01}), agreement)[0].passed
    error = row(None, 0.25, kind="fidelity", reference=None, better="lower")
    assert judged(make_gates(max_drop={"top1": 0.25}), error)[0].passed
    assert not judged(make_gates(max_drop={"top1": 0.2}), error)[0].passed
    with pytest.raises(OptionError, match=r"infinite of REF itself.*--min-snr"):
        judged(make_gates(max_drop={"snr": 1}), reports.SNR)


@pytest.mark.parametrize("name", ["max-abs", "mean-abs"])
def test_no_share_of_an_error_that_is_0_of_ref_itself(name: str) -> None:
    limits, metrics = make_gates(max_drop={f"{name}@y": "1%"}), resolve([name])
    message = (
        rf"--max-drop {name}@y=1%: metric .* is 0 of REF itself.*absolute number.*{name}@y=0\.01"
    )
    with pytest.raises(OptionError, match=message):
        gates.check_drops(limits, metrics)
    error = row(None, 0.25, kind="fidelity", reference=None, better="lower", name=name)
    with pytest.raises(OptionError, match="is 0 of REF itself"):
        judged(limits, error)
    gates.check_drops(make_gates(max_drop={name: 0.01}), metrics)
    gates.check_drops(make_gates(max_drop={"cosine": "1%"}), resolve(["cosine"]))


def test_a_name_gates_every_output_and_a_label_its_own() -> None:
    rows = [row(0.9, 0.8), row(0.9, 0.9, output="z")]
    assert len(judged(make_gates(max_drop={"top1": 0}), *rows)) == 2
    assert [r.passed for r in judged(make_gates(max_drop={"top1@z": 0}), *rows)] == [True]


def test_a_metric_that_is_not_measured_is_refused() -> None:
    limits = make_gates(max_drop={"f1@y": 0.1})
    with pytest.raises(OptionError, match=r"metric 'f1@y' is not measured; measured are top1@y"):
        judged(limits, reports.TOP1)
    with pytest.raises(
        OptionError, match=r"f1@y=0\.1: metric 'f1@y' is not measured; measured are snr, top1@y; "
    ):
        gates.check_drops(limits, resolve(["snr", "top1@y"]))
    gates.check_drops(limits, resolve(["f1"]))
    gates.check_drops(limits, resolve(["f1@y"]))
    gates.check_drops(make_gates(max_drop={"f1": 0.1}), resolve(["f1@y"]))
    with pytest.raises(OptionError, match="infinite of REF itself"):
        gates.check_drops(make_gates(max_drop={"snr@y": 0.1}), resolve(["snr"]))


def test_ratios_are_candidate_through_reference() -> None:
    latency, size = judged(Gates(max_latency_ratio=1.05, max_size_ratio=0.25))
    assert (latency.found, latency.passed) == (1.1, False)
    assert latency.message == "latency is 1.1 times that of REF, expected at most 1.05 times"
    assert (size.found, size.passed, size.gate) == (0.25, True, "--max-size-ratio 0.25")
    rows = gates.judge(
        Gates(max_latency_ratio=9, max_size_ratio=9), reports.CHECK, (), None, (0, 5)
    )
    assert [(r.found, r.passed) for r in rows] == [(None, False), (None, False)]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_snr": math.nan}, "--min-snr: found nan, expected a number of decibels"),
        ({"min_snr": "30"}, "--min-snr: found '30'"),
        ({"max_drop": 3}, "--max-drop: found 3, expected a mapping"),
        ({"max_drop": {"": 1}}, "--max-drop: found ''"),
        ({"max_drop": {"top1": -1}}, "--max-drop top1: found -1, expected a number >= 0"),
        ({"max_drop": {"top1": "x%"}}, "--max-drop top1: found 'x%'"),
        ({"max_drop": {"top1": "1%%"}}, "--max-drop top1: found '1%%'"),
        ({"max_drop": {"top1": True}}, "--max-drop top1: found True"),
        ({"max_drop": {"top1": None}}, "--max-drop top1: found None"),
        ({"max_drop": {"top1": math.inf}}, "--max-drop top1: found inf"),
        ({"max_latency_ratio": 0}, "--max-latency-ratio: found 0, expected a ratio above 0"),
        ({"max_size_ratio": math.inf}, "--max-size-ratio: found inf"),
        ({"max_size_ratio": True}, "--max-size-ratio: found True"),
    ],
)
def test_limits_that_cannot_be_obeyed_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        make_gates(**limits)
    assert str(caught.value).startswith(message)


def test_arguments_of_the_command_line() -> None:
    assert gates.parse_drop("a.b:c=0.01") == ("a.b:c", "0.01")
    assert make_gates(max_drop={"top1@y": "1 %"}).max_drops == (
        Drop(metric="top1@y", limit=0.01, is_relative=True),
    )
    assert Drop(metric="top1", limit=0.01, is_relative=True).gate == "--max-drop top1=1%"
    for text in ("", "top1", "=1", "top1=", "top1=x", "top1=-1"):
        with pytest.raises(OptionError, match="--max-drop"):
            gates.parse_drop(text)
