from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq import runtime
from onnxq.data.batches import DataOptions, Dataset
from onnxq.data.dataset import open_dataset
from onnxq.data.drawn_data import GivenData, RandomData
from onnxq.errors import InputError, OptionError, ValidationError
from onnxq.validation import metrics
from onnxq.validation.evaluation import Evaluation, evaluate
from onnxq.validation.measurements import MetricRow
from onnxq.validation.reference_runs import ReferenceRuns
from onnxq.validation.tallies import MetricError
from tests.tiny_models import from_text, scaled

IDENTITY = from_text("g (float[N, 3] x) => (float[N, 3] y) { y = Identity(x) }")
SHIFTED = from_text(
    "g (float[N, 3] x) => (float[N, 3] y) <float[3] c = {0.0, 0.0, 1.0}> { y = Add(x, c) }"
)
STATEFUL = from_text(
    "g (float[N, 1] x, float[2, N, 1] s) => (float[N, 1] y, float[2, M, 1] t)"
    "<int64[1] a = {0}> { t = Add(s, x) y = ReduceSum<keepdims = 0>(t, a) }"
)


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def data_of(path: Path, model: bytes, **options: Any) -> Dataset:
    return open_dataset(path, runtime.open_session(model).inputs, DataOptions(**options))


def run(
    reference: bytes, candidate: bytes, data: Dataset, *names: str, **options: Any
) -> Evaluation:
    with ReferenceRuns(reference, data, **options) as runs:
        return evaluate(runs, candidate, metrics.resolve(names))


def only(found: Evaluation) -> MetricRow:
    (row,) = found.metrics
    return row


def test_a_data_set_with_labels_gives_both_models_and_their_difference(tmp_path: Path) -> None:
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    path = saved(tmp_path, x=x * 0.5, label=np.array([0, 1, 2, 0, 1]))
    found = run(IDENTITY, SHIFTED, data_of(path, IDENTITY, batch=2), "top1", "snr")
    top1, snr = found.metrics
    assert top1.reference is not None
    assert top1.difference is not None
    assert (top1.reference.value, top1.candidate.value) == (1, 0.2)
    assert top1.difference.value == pytest.approx(-0.8)
    assert top1.relative_change == pytest.approx(4)
    assert (top1.samples, top1.output, top1.is_within_noise) == (5, "y", False)
    assert snr.candidate.value == pytest.approx(found.check.outputs[0].snr_db)
    assert (found.data.samples, found.data.truths) == (5, ("label",))
    assert found.check.inputs[0].shape == (2, 3)


def test_nothing_in_common_is_within_noise_of_itself(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.eye(3, dtype=np.float32), label=np.arange(3))
    found = run(IDENTITY, IDENTITY, data_of(path, IDENTITY), "top1", "snr", "cosine")
    top1, snr, cosine = found.metrics
    assert top1.is_within_noise
    assert (snr.candidate.value, snr.is_equal) == (None, True)
    assert cosine.candidate.value == pytest.approx(1)
    assert found.check.is_equal


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_figures_do_not_depend_on_the_batch(tmp_path: Path, batch: int) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    path = saved(tmp_path, x=x, target=x * 2)
    names = ("snr", "psnr-ref", "cosine", "max-abs", "mean-abs", "top1-agreement", "mse", "psnr")
    found = run(IDENTITY, SHIFTED, data_of(path, IDENTITY, batch=batch), *names)
    whole = run(IDENTITY, SHIFTED, data_of(path, IDENTITY, batch=5), *names)
    assert found.metrics == whole.metrics


def test_a_missing_truth_or_output_is_told(tmp_path: Path) -> None:
    data = data_of(saved(tmp_path, x=np.eye(3, dtype=np.float32), weight=np.ones(3)), IDENTITY)
    with pytest.raises(OptionError, match=r"top1: needs an array 'label' .* there is 'weight'"):
        run(IDENTITY, SHIFTED, data, "top1")
    with pytest.raises(OptionError, match="no output 'z'; its outputs are 'y'"):
        run(IDENTITY, SHIFTED, data, "snr@z")


def test_a_label_of_a_wrong_shape_names_metric_and_file(tmp_path: Path) -> None:
    data = data_of(saved(tmp_path, x=np.eye(3, dtype=np.float32), label=np.eye(3)), IDENTITY)
    with pytest.raises(InputError, match=r"metric top1: .*data.npz.*: label: found float64"):
        run(IDENTITY, SHIFTED, data, "top1")


def test_a_target_that_no_output_fits_lists_the_outputs(tmp_path: Path) -> None:
    data = data_of(saved(tmp_path, x=np.eye(3, dtype=np.float32), target=np.ones(3)), IDENTITY)
    with pytest.raises(InputError, match=r"output 'y' has shape \[3, 3\], expected the target's"):
        run(IDENTITY, SHIFTED, data, "mse")


def test_nan_of_the_candidate_alone_is_no_figure(tmp_path: Path) -> None:
    model = from_text("g (float[N, 3] x) => (float[N, 3] y) { y = Log(x) }")
    x = np.array([[1, 2, 3], [1, -1, 3]], np.float32)
    path = saved(tmp_path, x=x, target=x, label=np.array([2, 1]))
    found = run(IDENTITY, model, data_of(path, IDENTITY), "snr", "mse", "top1", "auc")
    snr, mse, top1, auc = found.metrics
    assert found.check.status == "failed"
    assert (snr.candidate.value, snr.samples) == (None, 0)
    assert snr.detail == "NaN or infinity in other places"
    assert mse.reference is not None
    assert (mse.reference.value, mse.candidate.value) == (0, None)
    assert mse.detail == "NaN in 1 samples of the candidate"
    assert mse.is_within_noise is None
    assert top1.candidate.value == 0.5
    assert auc.reference is not None
    assert (auc.reference.value, auc.candidate.value) == (0.25, None)
    assert auc.detail == "NaN in 1 samples of the candidate"
    assert (auc.is_within_noise, auc.is_equal) == (None, False)


def test_the_reason_of_an_undefined_figure_is_told(tmp_path: Path) -> None:
    x = np.array([[1, 2, 3], [1, 1, np.inf]], np.float32)
    path = saved(tmp_path, x=x, target=np.zeros_like(x), label=np.array([2, 2]))
    mse, auc = run(IDENTITY, IDENTITY, data_of(path, IDENTITY), "mse", "auc").metrics
    assert (mse.candidate.value, mse.is_equal) == (None, False)
    assert (
        mse.detail == "reference undefined: infinite values; candidate undefined: infinite values"
    )
    assert auc.candidate.value is None
    assert "candidate undefined: all labels are of one class" in auc.detail


def test_a_label_out_of_range_names_its_sample(tmp_path: Path) -> None:
    label = np.array([0, 1, 2, 0, 3])
    data = data_of(saved(tmp_path, x=np.ones((5, 3), np.float32), label=label), IDENTITY, batch=3)
    message = r"data.npz samples 3..4: label: found 3 in sample 1 of these 2, counted from 0"
    with pytest.raises(InputError, match=message):
        run(IDENTITY, IDENTITY, data, "top1")


def test_no_samples_are_an_error() -> None:
    with pytest.raises(InputError, match="inputs data: holds no samples"):
        run(IDENTITY, SHIFTED, GivenData([]), "snr")


def test_one_sample_has_no_spread() -> None:
    found = run(IDENTITY, SHIFTED, GivenData([{"x": np.ones((1, 3), np.float32)}]), "snr")
    row = only(found)
    assert row.candidate.value == pytest.approx(10 * np.log10(3))
    assert (row.candidate.standard_error, row.samples) == (None, 1)


@pytest.mark.parametrize("kind", ["", "@y"])
def test_outputs_that_are_no_floats_have_no_ratio_by_default(kind: str) -> None:
    model = from_text("g (float[N] x) => (int64[N] y) { y = Cast<to = 7>(x) }")
    data = GivenData([{"x": np.array([1, 2], np.float32)}])
    row = only(run(model, model, data, "max-abs" + kind))
    if kind:
        assert (row.output, row.candidate.value, row.is_equal) == ("y", 0, True)
    else:
        assert (row.output, row.candidate.value) == (None, None)
        assert row.detail.startswith("output 'y' is of no floating point dtype")


def test_sequences_are_checked_but_not_measured() -> None:
    model = from_text("g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x, x) }")
    data = GivenData([{"x": np.ones(2, np.float32)}])
    found = run(model, model, data, "snr")
    assert found.check.is_equal
    assert only(found).candidate.value is None
    with pytest.raises(InputError, match="metric snr@y: the given inputs: output 'y' is a list"):
        run(model, model, data, "snr@y")


def test_outputs_of_varying_shape_are_samples_like_any() -> None:
    model = from_text("g (float[1, N] x) => (float[1, N] y) { y = Abs(x) }")
    feeds = [{"x": np.full((1, size), 2, np.float32)} for size in (1, 4, 2)]
    plain = from_text("g (float[1, N] x) => (float[1, N] y) { y = Add(x, x) }")
    row = only(run(plain, model, GivenData(feeds), "mean-abs"))
    assert (row.samples, row.candidate.value) == (3, 2)


def test_an_output_without_samples_counts_by_runs(tmp_path: Path) -> None:
    model = from_text("g (float[N, 3] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }")
    path = saved(tmp_path, x=np.ones((4, 3), np.float32))
    row = only(run(model, model, data_of(path, model, batch=2), "max-abs"))
    assert (row.samples, row.detail) == (2, "2 rows of 4 samples")


def test_state_is_carried_within_a_sequence_by_each_model(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, first in (("a", 1), ("b", 10)):
        x = np.array([[first], [2], [3]], np.float32)
        np.savez(folder / f"{name}.npz", x=x, target=2 * np.cumsum(x)[:, None])
    data = data_of(folder, STATEFUL, carried=frozenset({"s"}))
    found = run(STATEFUL, STATEFUL, data, "mse", "snr@t", carry={"t": "s"})
    assert found.metrics[0].candidate.value == 0
    assert found.data.inputs[-1].shape == (2, 1, 1)


@pytest.mark.parametrize(
    ("sequences", "detail"),
    [
        (12, "interval over 12 sequences"),
        (1, "samples of one sequence are not independent: the interval is too narrow"),
    ],
)
def test_what_carries_state_is_measured_by_sequence(
    tmp_path: Path, sequences: int, detail: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(sequences):
        x = np.full((20, 1), rng.normal(), np.float32)
        np.savez(folder / f"{number}.npz", x=x, target=np.zeros_like(x))
    data = data_of(folder, STATEFUL, carried=frozenset({"s"}))
    louder = from_text(
        "g (float[N, 1] x, float[2, N, 1] s) => (float[N, 1] y, float[2, M, 1] t)"
        "<int64[1] a = {0}> { u = Add(x, x) t = Add(s, u) y = ReduceSum<keepdims = 0>(t, a) }"
    )
    found = run(STATEFUL, louder, data, "mse", "mean-abs@y", carry={"t": "s"})
    assert [row.samples for row in found.metrics] == [20 * sequences] * 2
    assert [row.detail for row in found.metrics] == [detail] * 2


def test_files_are_no_sequences_unless_state_is_carried(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        x = np.random.default_rng(number).normal(size=(5, 3)).astype(np.float32)
        np.savez(folder / f"{number}.npz", x=x, target=x + 1)
    whole = run(IDENTITY, SHIFTED, data_of(folder, IDENTITY), "mse", "snr")
    assert [row.detail for row in whole.metrics] == ["", ""]


def test_state_starts_with_what_the_data_have(tmp_path: Path) -> None:
    x = np.ones((3, 1), np.float32)
    path = saved(tmp_path, x=x, s=np.full((2, 1, 1), 5, np.float32), target=10 + 2 * np.cumsum(x))
    data = data_of(path, STATEFUL, carried=frozenset({"s"}))
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "target": arrays["target"][:, None]})
    data = data_of(path, STATEFUL, carried=frozenset({"s"}))
    assert only(run(STATEFUL, STATEFUL, data, "mse", carry={"t": "s"})).candidate.value == 0


@pytest.mark.parametrize(
    ("carry", "message"),
    [
        ({"t": "s"}, "use --batch 1"),
        ({"u": "s"}, "--carry u=s: model in memory has no output 'u'; its outputs are 'y', 't'"),
        ({"t": "z"}, "has no input 'z'; its inputs are 'x', 's'"),
    ],
)
def test_a_carry_that_cannot_be_is_told(carry: dict[str, str], message: str) -> None:
    feeds = {"x": np.ones((2, 1), np.float32)}
    with pytest.raises(OptionError, match=message):
        run(STATEFUL, STATEFUL, GivenData([feeds]), "snr", carry=carry)


def test_a_candidate_that_does_not_run_fails_where_it_happens(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.ones((2, 3), np.float32))
    narrow = from_text("g (float[1, 3] x) => (float[1, 3] y) { y = Identity(x) }")
    with pytest.raises(ValidationError, match=r"data.npz.*the candidate does not: .*'x': found"):
        run(IDENTITY, narrow, data_of(path, IDENTITY), "snr")
    other = from_text("g (float[N, 3] x) => (float[N, 3] z) { z = Identity(x) }")
    with pytest.raises(ValidationError, match="output 'y' is missing"):
        run(IDENTITY, other, data_of(path, IDENTITY), "snr")


def test_random_inputs_take_the_same_way() -> None:
    session = runtime.open_session(scaled(2))
    found = run(scaled(2), scaled(2.25), RandomData(session, samples=4), "snr")
    assert only(found).candidate.value == pytest.approx(20 * np.log10(8), abs=1e-5)
    assert (found.data.kind, found.data.samples) == ("random", 4)


def test_a_reference_that_no_random_input_fits_is_skipped() -> None:
    model = from_text("g (float[N, 5] x) => (float[7] y) <int64[1] s = {7}> { y = Reshape(x, s) }")
    found = run(model, model, RandomData(runtime.open_session(model)), "snr")
    assert (found.check.status, found.metrics) == ("skipped", ())
    assert found.check.reason is not None


@pytest.mark.parametrize(
    ("arrays", "metric", "batches"),
    [
        ({}, "top1", 0),
        ({}, "snr@z", 0),
        ({"label": np.zeros(6, np.float32)}, "top1", 1),
        ({"target": np.zeros((6, 2), np.float32)}, "mse", 1),
        ({}, "math:prod", 1),
    ],
)
def test_what_does_not_fit_shows_before_the_data_have_been_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arrays: dict[str, Any],
    metric: str,
    batches: int,
) -> None:
    runs: list[int] = []
    inner = runtime.Session.run

    def counted(*args: Any) -> dict[str, Any]:
        runs.append(1)
        return inner(*args)

    monkeypatch.setattr(runtime.Session, "run", counted)
    path = saved(tmp_path, x=np.ones((6, 3), np.float32), **arrays)
    with pytest.raises((InputError, OptionError), match=f"metric {metric}: "):
        run(IDENTITY, SHIFTED, data_of(path, IDENTITY, batch=1), metric)
    assert len(runs) == batches


def test_a_metric_that_does_not_fit_random_data_is_an_error_not_a_skip() -> None:
    data = RandomData(runtime.open_session(IDENTITY), samples=2)
    with pytest.raises(MetricError, match="metric math:prod: "):
        run(IDENTITY, IDENTITY, data, "math:prod")
