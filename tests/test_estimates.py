import numpy as np
import pytest

from onnxq.validation import aggregates, estimates
from onnxq.validation.measurements import Estimate


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
    rows = np.array([[0, 0.1], [0, 0.4], [0, 0.3], [1, 0.35], [0, 0.2]] * 2)
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
    rows = np.stack([[0.0, 1, 0, 1] * 3, [0.1, 0.9, 0.5, 0.4] * 3], axis=1)
    assert estimates.single(aggregates.AUC, rows) == Estimate(value=0.75)
    why = estimates.why_no_interval(aggregates.AUC, rows)
    assert why == "too many samples for an interval"


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


def covered(found: Estimate, truth: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


@pytest.mark.parametrize("samples", [2, 3, 5, 20])
def test_means_of_equal_models_differ_in_one_case_of_twenty(samples: int) -> None:
    rng = np.random.default_rng(samples)
    trials = 2000
    hits = 0
    for _ in range(trials):
        left, right = rng.normal(size=(2, samples, 1))
        hits += covered(estimates.paired(aggregates.MEAN, left, right).difference, 0)
    assert hits / trials == pytest.approx(0.95, abs=0.015)  # three standard errors


@pytest.mark.parametrize(
    ("samples", "won", "lost"),
    [(n, p, q) for n in (2, 5, 10, 30, 100) for p, q in ((0.1, 0), (0.2, 0.2), (0.4, 0.1))]
    + [(n, 2 / n, 0) for n in (5, 10, 30, 100, 2000)]
    + [(n, 2 / n, 2 / n) for n in (5, 10, 30, 100, 2000)],
)
def test_differences_of_shares_are_covered(samples: int, won: float, lost: float) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(samples, [won, lost, max(0, 1 - won - lost)], size=2000)
    outcomes, times = np.unique(drawn, axis=0, return_counts=True)
    hits = 0
    for (ups, downs, _), count in zip(outcomes, times, strict=True):
        low, high = estimates._tango(ups, downs, samples)
        hits += count * (low - 1e-9 <= won - lost <= high + 1e-9)
    assert hits / 2000 >= 0.91  # least of these, computed exactly: 0.928


def test_tangos_interval_has_closed_forms_at_its_limits() -> None:
    # Without a change, the score is n d / sqrt(n |d| (1 - |d|)).
    square = 1.959964**2
    for samples in (2, 44, 1000):
        end = square / (samples + square)
        assert estimates._tango(0, 0, samples) == pytest.approx((-end, end), abs=1e-6)
    assert estimates._tango(5, 0, 5)[1] == pytest.approx(1)


@pytest.mark.parametrize("spread", ["mean", "share"])
def test_sequences_widen_the_interval_and_cover(spread: str) -> None:
    rng = np.random.default_rng(0)
    aggregate = aggregates.BY_NAME[spread]
    sequences = np.repeat(np.arange(12), rng.integers(5, 40, 12))
    hits, plain_hits, trials = 0, 0, 600
    for _ in range(trials):
        level = rng.normal(size=12)[sequences]
        if spread == "mean":
            values, truth = level + rng.normal(size=len(level)), 0.0
        else:
            values, truth = (level + rng.normal(size=len(level)) > 0).astype(float), 0.5
        hits += covered(estimates.single(aggregate, values[:, None], sequences), truth)
        plain_hits += covered(estimates.single(aggregate, values[:, None]), truth)
    assert 0.92 <= hits / trials <= 0.98
    assert plain_hits / trials < 0.8


def test_differences_of_sequences_cover() -> None:
    rng = np.random.default_rng(0)
    sequences = np.repeat(np.arange(12), 20)
    hits, trials = 0, 600
    for _ in range(trials):
        level = rng.normal(size=12)[sequences]
        left, right = ((level * side + rng.normal(size=240) > 0)[:, None] * 1.0 for side in (1, -1))
        hits += covered(estimates.paired(aggregates.SHARE, left, right, sequences).difference, 0)
    assert 0.92 <= hits / trials <= 0.98


def test_the_bootstrap_draws_whole_sequences() -> None:
    rng = np.random.default_rng(0)
    sequences = np.repeat(np.arange(20), 30)
    level = rng.normal(size=20)
    rows = level[sequences][:, None]
    mean = aggregates.of_rows(np.mean)
    found = estimates.single(mean, rows, sequences)
    alone = estimates.single(mean, level[:, None])
    assert [found.low, found.high] == pytest.approx([alone.low, alone.high])
    few = estimates.single(mean, rows[:90], sequences[:90])
    assert few.low is None
    why = estimates.why_no_interval(mean, rows[:90], sequences[:90])
    assert why == "too few sequences for an interval: 3, at least 10"


def test_sequences_that_agree_count_as_one_sample_each() -> None:
    rows, sequences = np.ones((200, 1)), np.repeat(np.arange(4), 50)
    found = estimates.paired(aggregates.SHARE, rows, rows, sequences)
    assert found.reference.low is not None
    assert found.reference.low < 0.6
    assert found.difference.low is not None
    assert found.difference.low < -0.4


@pytest.mark.parametrize("sequences", [np.zeros(12), np.arange(12)])
def test_one_sequence_or_one_for_each_row_change_nothing(sequences: np.ndarray) -> None:
    rows = np.random.default_rng(0).normal(size=(12, 1))
    for aggregate in (aggregates.MEAN, aggregates.of_rows(np.median)):
        assert estimates.single(aggregate, rows, sequences) == estimates.single(aggregate, rows)


@pytest.mark.parametrize("count", [3, 20])
def test_a_perfect_figure_is_not_certain(count: int) -> None:
    truth = np.arange(count) % 2
    area = np.stack([truth, truth * 2.0], axis=1)
    f1 = np.stack([truth, truth, np.full(count, 2.0)], axis=1)
    for aggregate, rows in ((aggregates.AUC, area), (aggregates.F1, f1)):
        found = estimates.paired(aggregate, rows, rows)
        assert found.reference == found.candidate == Estimate(value=1.0)
        assert found.difference == Estimate(value=0.0)
        assert "interval" in estimates.why_no_interval(aggregate, rows)


@pytest.mark.parametrize("lost", [0, 1])
def test_nan_leaves_a_model_without_figure(lost: int) -> None:
    truth = np.arange(20) % 2
    rows = [np.stack([truth, truth * 1.0], axis=1) for _ in range(2)]
    rows[lost][3, 1] = np.nan
    found = estimates.paired(aggregates.AUC, *rows)
    values = [found.reference.value, found.candidate.value]
    assert values == ([None, 1] if lost == 0 else [1, None])
    assert found.difference == Estimate(value=None)


def test_both_models_share_the_definition_of_f1() -> None:
    truth = np.array([0, 1, 0, 1])
    two = np.stack([truth, truth, np.zeros(4)], axis=1)
    more = two.copy()
    more[0, 1] = 5
    assert estimates.paired(aggregates.F1, two, two).reference.value == 1
    assert estimates.paired(aggregates.F1, two, more).reference.value == 1
    assert estimates.paired(aggregates.F1, two, more).candidate.value == pytest.approx(5 / 9)
