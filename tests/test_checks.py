import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq import record_json, runtime
from onnxq.checks import Check, compare
from onnxq.differences import OutputDifference
from onnxq.errors import InputError, ValidationError
from tests.tiny_models import from_text, scaled


def only(check: Check) -> OutputDifference:
    (output,) = check.outputs
    return output


def constant(values: str, dtype: str = "float") -> bytes:
    """Return a model whose output is fixed, so that a test states both sides."""
    count = values.count(",") + 1
    return from_text(
        f"g (float[1] x) => ({dtype}[{count}] y) <{dtype}[{count}] c = {{{values}}}>"
        "{ y = Identity(c) }"
    )


def test_equal_models_are_equal() -> None:
    check = compare(scaled(2), scaled(2), samples=3)
    assert (check.status, check.samples, check.is_equal) == ("ok", 3, True)
    assert only(check) == OutputDifference(
        name="y", snr_db=None, max_abs=0.0, cosine=only(check).cosine, is_equal=True
    )
    assert only(check).cosine == pytest.approx(1, abs=1e-12)
    assert check.worst_snr_db is None


def test_the_ratio_is_that_of_the_sums() -> None:
    check = compare(scaled(2), scaled(2.25), samples=2)
    assert only(check).snr_db == pytest.approx(20 * math.log10(8), abs=1e-5)
    assert not only(check).is_equal
    assert check.status == "ok"
    assert check.worst_snr_db == only(check).snr_db


def test_sums_run_over_all_samples() -> None:
    model = from_text("g (float[N] x) => (float[N] y) <float f = {1.0}> { y = Add(x, f) }")
    plain = from_text("g (float[N] x) => (float[N] y) { y = Identity(x) }")
    feeds = [{"x": np.array([v], np.float32)} for v in (3.0, 0.0)]
    difference = only(compare(plain, model, feeds=feeds))
    assert difference.snr_db == pytest.approx(10 * math.log10(9 / 2))
    assert difference.max_abs == 1
    assert difference.cosine == pytest.approx(12 / (3 * math.sqrt(17)))


def test_the_inputs_are_reported() -> None:
    (fed,) = compare(scaled(1), scaled(1)).inputs
    assert (fed.name, fed.dtype, fed.shape) == ("x", "float32", (1, 3))


class Loads:
    """Give sessions the load times of a script, in the order of loading."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
        self._left = list(seconds)
        self._open = runtime.open_session
        monkeypatch.setattr(runtime, "open_session", self._timed)
        self.sources: list[Any] = []

    def _timed(self, source: Any) -> runtime.Session:
        self.sources.append(source)
        return dataclasses.replace(self._open(source), load_seconds=self._left.pop(0))


def test_short_loads_are_repeated_in_turn_and_the_best_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = Loads(monkeypatch, 0.2, 0.1, 0.02, 0.05, 0.04, 0.03, 0.09, 0.09)
    a, b = scaled(1), scaled(2)
    check = compare(a, b)
    assert loads.sources == [a, b] * 4
    assert (check.reference_load_seconds, check.candidate_load_seconds) == (0.02, 0.03)
    assert check.load_ratio == pytest.approx(1.5)


def test_long_loads_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch, 0.2, 0.5)
    assert compare(scaled(1), scaled(1)).load_ratio == pytest.approx(2.5)
    assert len(loads.sources) == 2


def test_loads_of_a_few_milliseconds_have_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    Loads(monkeypatch, *[0.004] * 20)
    check = compare(scaled(1), scaled(1))
    assert check.load_ratio is None
    assert check.candidate_load_seconds == 0.004


def test_nan_and_infinity_in_the_same_places_are_equal() -> None:
    model = from_text(
        "g (float[1] x) => (float[4] y) <float[4] n = {0.0, 1.0, -1.0, 1.0},"
        "float[4] z = {0.0, 0.0, 0.0, 1.0}> { y = Div(n, z) }"
    )
    assert only(compare(model, model)).is_equal


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ("{0.0, 0.0}", "no finite value to compare: both models gave only NaN"),
        ("{1.0, -1.0}", "no finite value to compare: both models gave only infinity"),
        ("{0.0, 1.0}", "no finite value to compare: both models gave only NaN and infinity"),
    ],
)
def test_where_nothing_is_finite_nothing_is_known(values: str, why: str) -> None:
    model = from_text(
        f"g (float[1] x) => (float[2] y, float[1] w) <float[2] n = {values}, float z = {{0.0}}>"
        "{ y = Div(n, z) w = Identity(x) }"
    )
    check = compare(model, model)
    y, w = check.outputs
    assert (y.undefined, y.is_equal, y.snr_db, y.max_abs) == (why, False, -math.inf, None)
    assert check.status == "ok"
    assert check.failing(-1000) == (y,)
    assert (check.is_equal, check.worst_snr_db, w.undefined) == (True, None, None)
    alone = dataclasses.replace(check, outputs=(y,))
    assert (alone.is_equal, alone.worst_snr_db) == (False, None)
    assert OutputDifference.from_json(y.to_json()) == y


def test_of_nothing_nothing_is_known() -> None:
    model = from_text("g (float[N] x) => (float[N] y) { y = Identity(x) }")
    (output,) = compare(model, model, feeds=[{"x": np.zeros(0, np.float32)}]).outputs
    assert output.undefined == "no value to compare: both models gave nothing"
    assert not output.is_equal


def test_nan_in_another_place_fails() -> None:
    text = "g (float[1] x) => (float[1] y) <float[1] n = {%s}> { y = Sqrt(n) }"
    check = compare(from_text(text % "1.0"), from_text(text % "-1.0"))
    assert check.status == "failed"
    assert only(check).snr_db == -math.inf
    assert only(check).mismatch == "NaN or infinity in other places"


@pytest.mark.parametrize(
    ("candidate", "mismatch"),
    [
        (constant("1.0, 2.0, 3.0"), "shape [3] instead of [2]"),
        (constant("1, 2", "int64"), "dtype int64 instead of float32"),
    ],
)
def test_another_shape_or_dtype_fails(candidate: bytes, mismatch: str) -> None:
    check = compare(constant("1.0, 2.0"), candidate)
    assert check.status == "failed"
    assert only(check).mismatch == mismatch
    assert not only(check).is_equal


def test_noise_without_signal_has_no_ratio_and_is_no_failure() -> None:
    check = compare(constant("0.0, 0.0"), constant("0.0, 1.0"))
    assert check.status == "ok"
    assert only(check).snr_db == -math.inf
    assert only(check).max_abs == 1
    assert only(check).cosine is None


def test_large_integers_are_compared_exactly() -> None:
    check = compare(constant("9007199254740992", "int64"), constant("9007199254740993", "int64"))
    assert not only(check).is_equal
    assert only(check).max_abs == 1


def test_the_farthest_integers_have_their_distance() -> None:
    low, high = constant(str(-(2**63)), "int64"), constant(str(2**63 - 1), "int64")
    assert only(compare(low, high)).max_abs == 2**64


@pytest.mark.parametrize(("scale", "expected"), [("1e-200", 20.0), ("1e200", 20.0)])
def test_squares_out_of_range_still_give_a_ratio(scale: str, expected: float) -> None:
    exponent = scale[1:]
    check = compare(
        constant(f"1{exponent}, 1{exponent}", "double"),
        constant(f"1{exponent}, 1.1{exponent}", "double"),
    )
    assert only(check).snr_db == pytest.approx(expected, abs=0.01)


def test_booleans_are_compared_as_numbers() -> None:
    check = compare(constant("1, 0, 1", "bool"), constant("1, 1, 1", "bool"))
    assert only(check).snr_db == pytest.approx(10 * math.log10(2))


def test_strings_are_compared_by_equality() -> None:
    same = compare(constant('"a", "b"', "string"), constant('"a", "b"', "string"))
    other = compare(constant('"a", "b"', "string"), constant('"a", "c"', "string"))
    assert (only(same).snr_db, only(same).is_equal) == (None, True)
    assert (only(other).snr_db, only(other).is_equal) == (-math.inf, False)
    assert other.status == "ok"


SEQUENCE = "g (float[2] x) => (seq(float[2]) y) <float f = {%s}> { z = Mul(x, f) y = %s }"


def test_numbers_within_a_sequence_have_a_ratio() -> None:
    check = compare(
        from_text(SEQUENCE % ("2.0", "SequenceConstruct(x, z)")),
        from_text(SEQUENCE % ("3.0", "SequenceConstruct(x, z)")),
    )
    assert only(check).snr_db == pytest.approx(10 * math.log10(5), abs=1e-6)


def test_sequences_of_other_lengths_fail() -> None:
    check = compare(
        from_text(SEQUENCE % ("2.0", "SequenceConstruct(x, z)")),
        from_text(SEQUENCE % ("2.0", "SequenceConstruct(x)")),
    )
    assert only(check).mismatch == "structure differs"


@pytest.mark.parametrize("reference", [b"garbage", Path("no-such.onnx")])
def test_a_reference_that_cannot_be_loaded_skips_the_check(reference: bytes | Path) -> None:
    check = compare(reference, scaled(1))
    assert check.status == "skipped"
    assert check.reason is not None
    assert not check.is_equal


@pytest.mark.parametrize("feeds", [{}, {"z": np.ones((1, 3), np.float32)}, {"x": np.ones((1, 3))}])
def test_feeds_that_the_reference_does_not_accept_are_an_error(feeds: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"model in memory: .*input"):
        compare(scaled(1), scaled(1), feeds=[feeds])


def test_a_candidate_that_cannot_be_loaded_is_an_error() -> None:
    with pytest.raises(ValidationError, match="the candidate does not: model in memory"):
        compare(scaled(1), b"garbage")


def test_a_candidate_with_other_inputs_is_an_error() -> None:
    other = from_text("g (float[N, 3] z) => (float[N, 3] y) { y = Identity(z) }")
    with pytest.raises(ValidationError, match="the candidate does not"):
        compare(scaled(1), other)


def test_a_candidate_without_an_output_is_an_error() -> None:
    other = from_text("g (float[N, 3] x) => (float[N, 3] z) { z = Identity(x) }")
    with pytest.raises(ValidationError, match="output 'y' is missing"):
        compare(scaled(1), other)


def test_failing_names_the_outputs_below_the_gate() -> None:
    check = compare(scaled(2), scaled(2.25))
    assert check.failing(18) == ()
    assert check.failing(19) == check.outputs


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (scaled(2), scaled(2)),
        (scaled(2), scaled(2.5)),
        (constant("1.0, 2.0"), constant("1.0")),
        (constant("0.0"), constant("1.0")),
        (b"garbage", scaled(1)),
    ],
)
def test_json_comes_back_as_the_same_record(reference: bytes, candidate: bytes) -> None:
    check = compare(reference, candidate)
    text = json.dumps(check.to_json(), allow_nan=False)
    assert record_json.from_json(Check, json.loads(text)) == check


def test_damaged_json_is_an_input_error_with_the_place() -> None:
    data = compare(scaled(2), scaled(2)).to_json()
    data["outputs"][0]["cosine"] = "one"
    with pytest.raises(InputError, match=r"record\.outputs\[0\]\.cosine: found 'one'"):
        record_json.from_json(Check, data)


def test_inputs_that_are_constant_are_told() -> None:
    gather = "g (int64[9] i) => (float[9] y) <float[1] w = {7.0}> { y = Gather<axis = 0>(w, i) }"
    model = from_text(gather)
    found = compare(model, model)
    assert [fed.constant for fed in found.inputs] == [0]
    assert found.notes == ("input 'i' was fed with zeros: no random value ran",)
