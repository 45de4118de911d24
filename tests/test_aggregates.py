import math

import numpy as np
import pytest

from onnxq.validation import aggregates, sample_rows


def rows_of(left: object, right: object) -> np.ndarray:
    left, right = np.array(left, np.float32), np.array(right, np.float32)
    return sample_rows.difference_rows(left, right, len(left))


def test_noise_without_signal_has_no_ratio_and_none_an_infinite_one() -> None:
    assert math.isnan(aggregates.SNR.value(rows_of([[0.0]], [[1.0]])))
    assert aggregates.SNR.value(rows_of([[1.0]], [[1.0]])) == math.inf
    assert aggregates.SNR.value(rows_of([[0.0]], [[0.0]])) == math.inf
    assert math.isnan(aggregates.COSINE.value(rows_of([[0.0]], [[1.0]])))


def test_a_peak_is_the_range_of_all_samples() -> None:
    rows = rows_of([[0.0, 2.0], [-1.0, 1.0]], [[1.0, 2.0], [-1.0, 1.0]])
    assert aggregates.peak_of(rows) == 3
    ratio = aggregates.peak_ratio(aggregates.mean_squared_difference, None)
    assert ratio.value(rows) == pytest.approx(10 * math.log10(9 / 0.25))
    given = aggregates.peak_ratio(aggregates.mean_squared_difference, 1.0)
    assert given.value(rows) == pytest.approx(10 * math.log10(1 / 0.25))


def test_a_constant_reference_has_no_peak() -> None:
    ratio = aggregates.peak_ratio(aggregates.mean_squared_difference, None)
    assert math.isnan(ratio.value(rows_of([[2.0]], [[1.0]])))
    assert ratio.value(rows_of([[2.0]], [[2.0]])) == math.inf


@pytest.mark.parametrize(
    "aggregate",
    [
        aggregates.SNR,
        aggregates.COSINE,
        aggregates.peak_ratio(aggregates.mean_squared_difference, None),
    ],
)
def test_counting_every_row_once_gives_the_figure(aggregate: aggregates.Aggregate) -> None:
    rng = np.random.default_rng(0)
    rows = rows_of(rng.normal(size=(5, 3)), rng.normal(size=(5, 3)))
    assert aggregate.weighted is not None
    (found,) = aggregate.weighted(rows)(np.ones((1, 5)))
    assert found == pytest.approx(aggregate.value(rows))


def test_a_function_of_rows_gets_resamples_as_rows() -> None:
    aggregate = aggregates.of_rows(lambda rows: rows[:, 0].max())
    assert aggregate.weighted is not None
    rows = np.array([[1.0], [5.0], [3.0]])
    assert aggregate.weighted(rows)(np.array([[2.0, 0.0, 1.0]])).tolist() == [3]


def test_an_area_without_both_classes_is_undefined() -> None:
    pytest.importorskip("sklearn", reason="needs the 'metrics' extra")
    assert math.isnan(aggregates.AUC.value(np.array([[1, 0.5], [1, 0.2]])))
