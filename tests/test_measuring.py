import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxq
from onnxq import runtime
from onnxq.data.watched_data import MeasureEvent
from onnxq.errors import (
    InputError,
    MissingDependencyError,
    OnnxqError,
    OptionError,
    UnsupportedError,
)
from onnxq.report import ValidateReport, from_json
from onnxq.validation import junit, profiling
from onnxq.validation.measurements import Performance, Timing
from tests import graphs
from tests.tiny_models import from_text, scaled

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "models" / "digits.onnx"
TEST_SET = ROOT / "models" / "digits_test.npz"


def model(data: bytes) -> ModelProto:
    return ModelProto.FromString(data)


def validate(reference: Any, candidate: Any, **options: Any) -> ValidateReport:
    return onnxq.validate(reference, candidate, **{"performance": False, **options})


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def small() -> ModelProto:
    _, converted = onnxq.convert(DIGITS, bits=3, check=0)
    return ModelProto.FromString(converted.SerializeToString())


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand for the probes: note what is measured, and answer at once."""
    calls: list[dict[str, Any]] = []
    timing = Timing(load_seconds=1.0, median_seconds=1.0, p90_seconds=1.0, runs=10)

    def measure(*sources: Any, is_candidate_packed: bool, samples: int) -> Performance:
        call = {"sources": sources[:2], "feeds": sources[2], "samples": samples}
        calls.append({**call, "packed": is_candidate_packed})
        return Performance(
            provider="CPUExecutionProvider",
            threads=0,
            is_packed=is_candidate_packed,
            reference=timing,
            candidate=timing,
            load_ratio=1.0,
            latency_ratio=1.5,
        )

    monkeypatch.setattr(profiling, "measure", measure)
    return calls


def test_a_conversion_is_measured_on_labelled_data(small: ModelProto) -> None:
    report = validate(DIGITS, small, data=TEST_SET, max_drop={"top1": "1%", "top5": 0.0})
    assert report.passed, report.failures
    assert report.data is not None
    assert (report.data.kind, report.data.samples, report.data.truths) == ("npz", 597, ("label",))
    rows = {row.name: row for row in report.metrics}
    assert set(rows) == {"snr", "cosine", "max-abs", "top1-agreement", "top1", "top5"}
    assert rows["top1"].reference is not None
    assert rows["top1"].reference.value == pytest.approx(594 / 597)
    assert [row.gate for row in report.gates] == ["--max-drop top1=1%", "--max-drop top5=0"]
    assert report.options["data"] == str(TEST_SET)


def test_limit_and_batch_do_not_change_what_a_sample_is(small: ModelProto) -> None:
    options: dict[str, Any] = {"data": TEST_SET, "limit": 20, "metrics": ["top1", "max-abs"]}
    one, many = (validate(DIGITS, small, **options, batch=batch) for batch in (1, 20))
    assert one.check.samples == many.check.samples == 20
    assert [row.samples for row in one.metrics] == [20, 20]
    assert one.metrics[0] == many.metrics[0]


def test_a_gate_fails_with_its_name(small: ModelProto) -> None:
    report = validate(DIGITS, small, data=TEST_SET, min_snr=60, max_size_ratio=0.01)
    assert not report.passed
    assert [line.partition(":")[0] for line in report.failures] == [
        "--min-snr 60",
        "--max-size-ratio 0.01",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": {"top1": 0}}, "metric 'top1' is not measured"),
        ({"max_drop": {"f1": 0}, "metrics": "snr"}, "metric 'f1' is not measured"),
        ({"metrics": "top1"}, "needs an array 'label' in the data"),
        ({"metrics": "nope"}, "metric nope: unknown"),
        ({"metrics": "snr@nope"}, "has no output 'nope'"),
        ({"max_latency_ratio": 2}, "--max-latency-ratio needs times"),
        ({"dims": {"nope": 3}}, "--dim nope"),
        ({"ranges": {"nope": (0, 1)}}, "--input nope"),
        ({"session_options": {"session.nope": "1"}}, "--session-option session.nope"),
        ({"inputs": {"x": np.zeros((1, 3), np.float32)}, "samples": 2}, "--samples and --inputs"),
        ({"inputs": {"x": np.zeros((1, 3), np.float32)}, "data": "d"}, "--data and --inputs"),
        ({"inputs": {}, "dims": {"N": 2}}, "--dim and --inputs exclude each other"),
        ({"carry": {"y": "nope"}}, "has no input 'nope'"),
    ],
)
def test_what_does_not_fit_is_an_option_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        validate(model(scaled(2.0)), model(scaled(2.0)), **options)


def test_options_are_checked_before_a_file_is_opened() -> None:
    for options in ({"metrics": "nope"}, {"samples": 0}, {"min_snr": "x"}, {"limit": 1}):
        with pytest.raises(OptionError):
            validate("missing.onnx", "missing.onnx", **options)


def test_data_that_do_not_fit_are_an_input_error(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", x=np.zeros((4, 3)))
    with pytest.raises(InputError, match=r"x\.npz.*'x'.*float64.*float32"):
        validate(model(scaled(2.0)), model(scaled(2.0)), data=path)


def test_random_inputs_follow_dims_ranges_and_seed() -> None:
    proto = model(scaled(2.0))
    report = validate(proto, proto, dims={"N": 5}, ranges={"x": (3, 4)}, samples=3)
    assert report.data is not None
    assert (report.data.kind, report.data.samples) == ("random", 3)
    assert report.check.inputs[0].shape == (5, 3)
    other = model(scaled(2.5))
    first, again, new = (validate(proto, other, seed=seed) for seed in (0, 0, 1))
    assert first.check.outputs == again.check.outputs != new.check.outputs
    assert validate(proto, other, ranges={"x": (3, 4)}).check.outputs[0].max_abs < 2.0  # type: ignore[operator]


def test_state_is_carried_by_each_model_on_its_own(tmp_path: Path) -> None:
    def accumulator(gain: float) -> ModelProto:
        return model(
            from_text(
                "g (float[1, 3] x, float[1, 3] s) => (float[1, 3] y, float[1, 3] t) "
                f"<float g = {{{gain}}}> {{ u = Mul(x, g) y = Add(u, s) t = Identity(y) }}"
            )
        )

    path = save(tmp_path / "x.npz", x=np.ones((4, 3), np.float32))
    options: dict[str, Any] = {"data": path, "carry": {"t": "s"}, "metrics": ["max-abs@y"]}
    report = validate(accumulator(1.0), accumulator(1.5), **options)
    assert report.check.samples == 4
    assert report.metrics[0].candidate.value == 2.0  # 4 * 1.5 - 4 * 1.0


def test_a_carry_that_does_not_fit_is_told_before_the_data(tmp_path: Path) -> None:
    made = model(from_text("g (float[N, 1, 8] x) => (float[N, 8] y) { y = Squeeze(x) }"))
    path = save(tmp_path / "x.npz", x=np.ones((4, 1, 8), np.float32))
    with pytest.raises(OptionError, match=r"--carry y=x: output float32 \[N, 8\] cannot continue"):
        validate(made, made, data=path, carry={"y": "x"})


def test_a_reference_that_cannot_run_on_random_inputs_fails_without_an_error() -> None:
    odd = model(from_text("g (float[3] x) => (float[3] y) { y = x.Odd(x) }"))
    report = validate(odd, odd, min_snr=3)
    assert (report.passed, report.data, report.check.status) == (False, None, "skipped")
    assert report.failures[0].startswith("the reference could not be run: ")
    with pytest.raises((InputError, UnsupportedError)):
        validate(odd, odd, inputs={"x": np.zeros(3, np.float32)})


NO_Y = "g (float[N, 3] x) => (float[N, 3] z) { z = Neg(x) }"
ODD = "g (float[N, 3] x) => (float[N, 3] y) { y = x.Odd(x) }"
WIDE = "g (float[N, 4] x) => (float[N, 4] y) { y = Neg(x) }"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ODD, "the reference runs, the candidate does not: "),
        (WIDE, "the reference runs, the candidate does not: "),
        (NO_Y, "output 'y' is missing"),
    ],
)
def test_a_candidate_that_does_not_run_has_failed(
    text: str, reason: str, timed: list[dict[str, Any]]
) -> None:
    limits: dict[str, Any] = {"min_snr": 3, "max_drop": {"cosine": 0.1}, "max_size_ratio": 99}
    report = onnxq.validate(model(scaled(2.0)), model(from_text(text)), layers=True, **limits)
    assert (report.passed, report.check.status, report.check.outputs) == (False, "failed", ())
    assert reason in (report.check.reason or "")
    assert report.failures[0] == report.check.reason
    assert [row.passed for row in report.gates] == [False, False, True]
    assert (report.metrics, report.performance, report.layers, timed) == ((), None, (), [])
    assert report.data is not None
    assert from_json(report.to_json()) == report
    assert f"could not be run: {report.check.reason}" not in junit.dumps(report)
    assert reason in junit.dumps(report).replace("&apos;", "'")


def test_names_of_metrics_and_gates_are_checked_before_the_reference_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "x.npz", x=np.ones((4, 3), np.float32))
    runs = runs_of_every_model(monkeypatch)
    wrong: list[dict[str, Any]] = [
        {"metrics": "top1"},
        {"metrics": "snr@nope"},
        {"max_drop": {"cosine@nope": 0.1}},
        {"max_drop": {"max-abs": "1%"}},
    ]
    for options in wrong:
        with pytest.raises(OptionError):
            validate(model(scaled(2.0)), model(scaled(2.0)), data=path, **options)
    assert runs == []


def test_what_does_not_fit_a_metric_shows_after_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = np.ones((4, 3), np.float32)
    path = save(tmp_path / "x.npz", x=ones, label=np.zeros(4, np.float32))
    (tmp_path / "wrong_shape.py").write_text("def rows(outputs, sample):\n    return [1, 2]\n")
    monkeypatch.chdir(tmp_path)
    runs = runs_of_every_model(monkeypatch)
    for name in ("top1", "wrong_shape:rows"):
        with pytest.raises(InputError, match=name):
            validate(model(scaled(2.0)), model(scaled(2.0)), data=path, batch=1, metrics=name)
    assert len(runs) == 2


def runs_of_every_model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    runs: list[str] = []
    real = runtime.Session.run

    def run(session: runtime.Session, feeds: Any) -> Any:
        runs.append(str(session.where))
        return real(session, feeds)

    monkeypatch.setattr(runtime.Session, "run", run)
    return runs


def test_times_are_those_of_the_first_batch(
    timed: list[dict[str, Any]], small: ModelProto, tmp_path: Path
) -> None:
    report = onnxq.validate(
        DIGITS, small, data=TEST_SET, batch=7, limit=14, max_latency_ratio=1.5, is_packed=True
    )
    assert report.passed
    assert report.performance is not None
    assert report.performance.is_packed
    (call,) = timed
    assert call["sources"][0] == DIGITS
    assert isinstance(call["sources"][1], bytes)
    assert call["packed"]
    assert call["samples"] == 7
    with np.load(TEST_SET) as stored:
        np.testing.assert_array_equal(call["feeds"]["image"], stored["image"][:7])
    slow = onnxq.validate(DIGITS, small, data=TEST_SET, limit=1, max_latency_ratio=1.4)
    assert slow.failures == (
        "--max-latency-ratio 1.4: latency is 1.5 times that of REF, expected at most 1.4 times",
    )


def test_no_times_of_what_cannot_run(timed: list[dict[str, Any]]) -> None:
    odd = model(from_text("g (float[3] x) => (float[3] y) { y = x.Odd(x) }"))
    report = onnxq.validate(odd, odd, max_latency_ratio=2)
    assert (report.performance, timed) == (None, [])
    assert not report.gates[0].passed


def test_layers_are_ranked_and_the_models_stay_as_they_are(small: ModelProto) -> None:
    reference = ModelProto.FromString(DIGITS.read_bytes())
    before = reference.SerializeToString(), small.SerializeToString()
    report = validate(reference, small, data=TEST_SET, layers=True, limit=16)
    assert (reference.SerializeToString(), small.SerializeToString()) == before
    ratios = [row.output_snr_db for row in report.layers if row.output_snr_db is not None]
    assert ratios == sorted(ratios)
    assert report.layers[0].bit_width == 3


def test_progress_is_told_of_every_stage(timed: list[dict[str, Any]], small: ModelProto) -> None:
    events: list[MeasureEvent] = []
    onnxq.validate(DIGITS, small, data=TEST_SET, limit=64, layers=True, progress=events.append)
    assert list(dict.fromkeys(event.stage for event in events)) == [
        "reference",
        "candidate",
        "timing",
        "tensors",
    ]
    counted = [event for event in events if event.stage == "candidate"]
    assert [(event.done, event.total) for event in counted] == [(0, 64), (32, 64), (64, 64)]


def test_auto_says_where_the_models_ran() -> None:
    proto = model(scaled(2.0))
    (note,) = validate(proto, proto, provider="auto").notes
    assert note.startswith("the models ran on C")
    assert validate(proto, proto, provider="cpu").notes == ()


def test_a_metric_of_the_user_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_task.py").write_text(
        "def mean(outputs, sample):\n    return outputs['y'].mean(axis=1)\n"
    )
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "x.npz", x=np.ones((4, 3), np.float32))
    report = validate(
        model(scaled(2.0)),
        model(scaled(1.5)),
        data=path,
        metrics="my_task:mean",
        max_drop={"my_task:mean": "25%"},
    )
    assert report.passed
    (row,) = report.metrics
    assert (row.reference and row.reference.value, row.candidate.value) == (2.0, 1.5)
    assert row.relative_change == pytest.approx((2.0 - 1.5) / 1.5)


@pytest.mark.parametrize("case", [graphs.attention, graphs.matmul_add])
def test_any_failure_is_one_of_ours(case: Any) -> None:
    proto = case()
    for options in ({"data": "nowhere"}, {"data": ".", "preprocess": "nope"}):
        with pytest.raises(OnnxqError):
            validate(proto, proto, **options)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match=r"onnxq\[metrics\]"):
        validate("missing.onnx", "missing.onnx", metrics="f1")


def test_the_same_file_twice_is_noted(small: ModelProto) -> None:
    note = "REF and CANDIDATE are the same file"
    assert validate(DIGITS, DIGITS).notes == (note,)
    assert validate(DIGITS, small).notes == ()


def test_labels_beside_given_inputs_are_noted() -> None:
    given = {"x": np.zeros((1, 3), np.float32), "label": np.array([1])}
    found = validate(model(scaled(1)), model(scaled(2)), inputs=given)
    assert found.notes == ("'label' of --inputs is not used: labels and targets belong to --data",)


def test_nan_and_constant_inputs_are_noted() -> None:
    given = {"x": np.full((1, 3), np.nan, np.float32)}
    assert validate(model(scaled(1)), model(scaled(1)), inputs=given).notes == (
        "input 'x' holds NaN, first in the given inputs",
    )
    gather = "g (int64[9] i) => (float[9] y) <float[1] w = {7.0}> {"
    rows = model(from_text(gather + "j = Abs(i) k = Neg(j) l = Neg(k) y = Gather(w, l) }"))
    assert validate(rows, rows).notes == ("input 'i' was fed with zeros: no random value ran",)
    asked = validate(rows, rows, ranges={"i": (0, 500)})
    assert not asked.passed
    assert "indices element out of data bounds" in asked.failures[0]
