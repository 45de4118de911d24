import numpy as np
import pytest

from onnxq import aggregates, estimates
from onnxq.measurements import Estimate


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float64)[:, None]


def test_no_rows_have_no_figure() -> None:
    assert estimates.single(aggregates.MEAN, np.zeros((0, 1))) == Estimate(value=None)
    found = estimates.paired(aggregates.F1, np.zeros((0, 3)), np.zeros((0, 3)))
    assert {found.reference, found.candidate, found.difference} == {Estimate(value=None)}


@pytest.mark.parametrize("aggregate", [aggregates.MEAN, aggregates.SHARE])
def test_one_row_has_a_figure_without_spread(aggregate: aggregates.Aggregate) -> None:
    found = estimates.paired(aggregate, column(1), column(0))
    assert found.difference == Estimate(value=-1.0)
    assert found.candidate == Estimate(value=0.0)


def test_the_largest_has_no_spread() -> None:
    rows = np.zeros((3, 9))
    rows[:, aggregates.LARGEST] = [1, 3, 2]
    assert estimates.single(aggregates.LARGEST_DIFFERENCE, rows) == Estimate(value=3.0)


def test_two_lost_samples_of_two_prove_nothing() -> None:
    found = estimates.paired(aggregates.SHARE, column(1, 1), column(0, 0)).difference
    assert found.value == -1
    assert found.high is not None
    assert found.high > 0


def test_lost_samples_of_many_prove_a_loss() -> None:
    found = estimates.paired(aggregates.SHARE, np.ones((100, 1)), np.eye(100)[:, :1]).difference
    assert found.high is not None
    assert found.high < 0


def test_pairing_takes_the_common_spread_away() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 1))
    found = estimates.paired(aggregates.MEAN, rows, rows + 0.5)
    assert found.difference.standard_error == pytest.approx(0, abs=1e-12)
    assert found.reference.standard_error == pytest.approx(found.candidate.standard_error)


def test_the_bootstrap_is_paired_and_the_same_every_time() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 1))
    median = aggregates.of_rows(np.median)
    found = estimates.paired(median, rows, rows + 0.5)
    assert found == estimates.paired(median, rows, rows + 0.5)
    assert found.difference.standard_error == pytest.approx(0, abs=1e-12)
    assert found.difference.low == pytest.approx(0.5)


def test_resamples_without_a_figure_are_left_out() -> None:
    rows = np.array([[0, 0.1], [0, 0.4], [0, 0.3], [1, 0.35], [0, 0.2]])
    found = estimates.single(aggregates.AUC, rows)
    assert found.value == 0.75
    assert found.low is not None
    assert found.high == 1


def test_an_infinite_figure_is_none_and_so_is_its_difference() -> None:
    peak = aggregates.peak_ratio(aggregates.first_column, 1.0)
    exact, noisy = np.zeros((2, 3)), np.full((2, 3), 0.01)
    found = estimates.paired(peak, exact, noisy)
    assert found.reference == Estimate(value=None)
    assert found.candidate.value == pytest.approx(20)
    assert found.difference.value is None


def test_too_much_work_leaves_the_interval_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "MAX_WORK", 1000)
    rows = np.stack([[0.0, 1, 0, 1], [0.1, 0.9, 0.5, 0.4]], axis=1)
    assert estimates.single(aggregates.AUC, rows) == Estimate(value=0.75)


def test_rare_classes_do_not_push_the_interval_off_its_figure() -> None:
    truth = np.array([0] * 30 + [1] * 30 + list(range(2, 12)))
    found = truth.copy()
    found[[0, 31]] = [12, 13]  # two classes that are only predicted
    rows = np.stack([truth, found, np.full(len(truth), 14)], axis=1).astype(np.float64)
    estimate = estimates.single(aggregates.F1, rows)
    assert estimate.low is not None
    assert estimate.value is not None
    assert estimate.high is not None
    assert estimate.low <= estimate.value <= estimate.high
