from typing import Any

import numpy as np
import pytest

from onnxq.errors import InputError
from onnxq.validation import aggregates, sample_rows
from onnxq.validation.sample_rows import Misfit

SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]], np.float32)


def hits(output: Any, label: Any, **more: Any) -> list[float]:
    rows = sample_rows.hit_rows(output, np.array(label), len(label), **{"first": 1, **more})
    return list(rows[:, 0])


def test_of_equal_scores_the_lower_class_wins() -> None:
    assert hits(SCORES, [1, 0]) == [1, 1]
    assert hits(SCORES, [1, 1]) == [1, 0]
    assert hits(SCORES, [2, 1], first=2) == [1, 1]


def test_nan_among_scores_is_never_right() -> None:
    scores = SCORES.copy()
    scores[0, 0] = np.nan
    assert hits(scores, [1, 0]) == [0, 1]
    rows = sample_rows.prediction_rows(scores, np.array([1, 0]), 2)
    assert rows.tolist() == [[1, -1, 3], [0, 0, 3]]


def test_infinite_scores_have_their_order() -> None:
    scores = np.array([[-np.inf, np.inf], [np.inf, -np.inf]], np.float32)
    assert hits(scores, [1, 0]) == [1, 1]
    rows = sample_rows.score_rows(scores, np.array([1, 0]), 2)
    assert aggregates.AUC.value(rows) == 1


def test_equal_infinities_of_two_classes_have_no_order() -> None:
    scores = np.array([[np.inf, np.inf], [0, 1], [-np.inf, -np.inf]], np.float32)
    rows = sample_rows.score_rows(scores, np.array([1, 0, 1]), 3)
    assert np.isnan(rows[:, 1]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("dtype", "columns", "kept"),
    [
        (np.float32, 3, np.float32),
        (np.float16, 1, np.float32),
        (np.float64, 3, np.float64),
        (np.int32, 3, np.float64),
        (np.float32, 2, np.float64),
    ],
)
def test_scores_are_kept_no_wider_than_they_are(dtype: Any, columns: int, kept: Any) -> None:
    rows = sample_rows.score_rows(np.ones((2, columns), dtype), np.array([0, 1]), 2)
    assert rows.dtype == kept


def test_one_score_is_decided_by_the_threshold() -> None:
    scores = np.array([[0.6], [0.4], [np.nan]], np.float32)
    assert hits(scores, [1, 0, 0]) == [1, 1, 0]
    assert hits(scores, [1, 0, 0], threshold=0.7) == [0, 1, 0]


def test_predicted_classes_need_no_scores() -> None:
    assert hits(np.array([3, 5]), [3, 4]) == [1, 0]
    with pytest.raises(Misfit, match="int64 classes, expected scores"):
        sample_rows.score_rows(np.array([3, 5]), np.array([3, 5]), 2)


def test_axes_of_size_one_do_not_matter() -> None:
    assert hits(SCORES[:, :, None, None], [[1], [0]]) == [1, 1]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.zeros((3, 3), np.float32), r"has shape \[3, 3\], expected \[samples, classes\] of 2"),
        (np.zeros((2, 3, 4), np.float32), r"has shape \[2, 3, 4\]"),
        (np.zeros((2, 0), np.float32), r"has shape \[2, 0\]"),
        (np.float32(1), "is a float32"),
        (np.array(["a", "b"]), "is text"),
        ([np.zeros(2)], "is a list"),
        ({"a": 1}, "is a map"),
    ],
)
def test_an_output_that_holds_no_scores_is_described(output: Any, message: str) -> None:
    with pytest.raises(Misfit, match=message):
        hits(output, [0, 1])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.array([0.0, 1.0]), r"found float64 of shape \[2\], expected one integer a sample"),
        (np.eye(2, dtype=np.int64), r"found int64 of shape \[2, 2\]"),
        (np.array(1), r"found int64 of shape \[\]"),
        (np.array(["cat", "dog"]), r"found text of shape \[2\]"),
        (np.array([0, 1, 2]), "found 3 labels for 2 samples"),
        (
            np.array([0, 3]),
            "found 3 in sample 1 of these 2, .*; expected 0 to 2, the model's classes",
        ),
        (np.array([-1, 0]), "found -1 in sample 0 of these 2, counted from 0; expected 0 to 2"),
        (np.array(["cat", "dog"]), "found text"),
    ],
)
def test_a_label_that_does_not_fit_is_described(label: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample_rows.hit_rows(SCORES, label, 2, first=1)


def test_logits_of_two_classes_are_compared_by_their_difference() -> None:
    logits = np.array([[5.0, 4.0], [0.0, 1.0]], np.float32)
    rows = sample_rows.score_rows(logits, np.array([0, 1]), 2)
    assert rows.tolist() == [[0, -1], [1, 1]]


def test_differences_have_a_row_for_each_sample() -> None:
    left = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    rows = sample_rows.difference_rows(left, left + 1, 2)
    assert rows.tolist() == [[25, 41, 32, 2, 1, 2, 2, 3, 4], [4, 10, 6, 2, 1, 2, 2, 0, 2]]


def test_an_output_without_samples_makes_one_row() -> None:
    left = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert sample_rows.difference_rows(left, left, 2).shape == (1, 9)
    assert sample_rows.difference_rows(np.array(1.0), np.array(2.0), 2)[0, 3] == 1


def test_equal_infinities_are_left_out() -> None:
    left = np.array([[np.inf, 1.0], [np.nan, np.nan]], np.float32)
    rows = sample_rows.difference_rows(left, left, 2)
    assert rows.shape == (1, 9)
    assert rows[0, [0, 3, 6, 7, 8]].tolist() == [1, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "other",
    [
        np.array([[np.nan], [1]], np.float32),
        np.zeros((1, 2), np.float32),
        np.zeros((2, 1)),
        [1],
    ],
)
def test_what_cannot_be_compared_is_nan(other: Any) -> None:
    rows = sample_rows.difference_rows(np.array([[2], [1]], np.float32), other, 2)
    assert np.isnan(rows).any()


def test_empty_outputs_make_no_rows() -> None:
    empty = np.zeros((2, 0), np.float32)
    assert sample_rows.difference_rows(empty, empty, 2).shape == (0, 9)
    zero = np.zeros((0, 2), np.float32)
    assert sample_rows.difference_rows(zero, zero, 0).shape == (0, 9)


def test_agreement_is_on_the_references_class() -> None:
    def agreed(left: Any, right: Any, first: int) -> list[float]:
        return list(sample_rows.agreement_rows(left, right, len(left), first=first)[:, 0])

    other = np.array([[0.3, 0.2, 0.5], [0.9, 0.0, 0.1]], np.float32)
    assert agreed(SCORES, other, 1) == [0, 1]
    assert agreed(SCORES, other, 2) == [0, 1]
    assert agreed(SCORES, other, 3) == [1, 1]
    broken = np.full_like(SCORES, np.nan)
    assert agreed(SCORES, broken, 1) == [0, 0]
    assert agreed(broken, SCORES, 1) == [0, 0]
    assert agreed(broken, broken, 5) == [1, 1]
    assert agreed(np.array([1, 2]), np.array([1, 3]), 1) == [1, 0]
    with pytest.raises(Misfit, match="two or more classes"):
        agreed(SCORES[:, :1], SCORES[:, :1], 1)


def test_targets_give_their_range() -> None:
    target = np.array([[0, 255], [10, 20]], np.uint8)
    rows = sample_rows.squared_error_rows(np.zeros((2, 2), np.float32), target, 2)
    assert rows.tolist() == [[255 * 255 / 2, 0, 255], [250, 10, 20]]


def test_a_target_that_does_not_fit_is_described() -> None:
    with pytest.raises(Misfit, match=r"has shape \[2, 3\], expected the target's \[2, 2\]"):
        sample_rows.squared_error_rows(SCORES, np.zeros((2, 2)), 2)
    with pytest.raises(InputError, match=r"target: found float64 of shape \[3\]"):
        sample_rows.squared_error_rows(SCORES, np.zeros(3), 2)
