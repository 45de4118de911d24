"""From one row of numbers per sample to one figure: sums, means, F1, area under the ROC curve.

Owns the formulas, not where the rows come from (`sample_rows`) nor their spread (`estimates`). An
aggregate also computes its figure with every row counted any number of times: a resample of the
rows is such a count, and takes no copy of them. Rows and sums are float64; an undefined figure is
NaN, a ratio without noise infinity.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onnxq.errors import MissingDependencyError

Array = np.ndarray[Any, np.dtype[Any]]
Weighted = Callable[[Array], Array]
"""From counts (resamples, rows) to figures (resamples)."""

RESAMPLES = 1000
SLOW_RESAMPLES = 200
"""Of an aggregate that takes a copy of the rows, which may be anyone's code."""

SIGNAL, OTHER, PRODUCT, NOISE, LARGEST, TOTAL, ELEMENTS, LOW, HIGH = range(9)
"""Columns of the rows of differences: sums of squares of both outputs, of their product, of the
differences; the largest difference and the sum of all; elements; range of the reference."""


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """Hold how rows become a figure.

    Attributes:
        spread: How the spread of the figure is found: of a mean and of a share (a mean of zeros and
            ones) by a formula, else by the bootstrap, or not at all.
        value: From rows (samples, columns) to the figure.
        values: From rows to what the mean is of; None where `spread` is of no mean.
        weighted: From rows to a function of counts; None where `spread` is no bootstrap.
        needs_sklearn: Whether `value` is scikit-learn's.
        resamples: Of the bootstrap.
        settled: From the rows of all models to rows by which each has the same definition of the
            figure; None where that does not hang on the rows.
        misfit: From rows that a user's metric made to what is wrong with them, "" for nothing.
        is_exact: Tells of rows whether an infinite figure is that of no error at all; None where
            it is not.
        undefined: Why rows without NaN may have no finite figure.
    """

    spread: Literal["mean", "share", "bootstrap", "none"]
    value: Callable[[Array], float]
    values: Callable[[Array], Array] | None = None
    weighted: Callable[[Array], Weighted] | None = None
    needs_sklearn: bool = False
    resamples: int = RESAMPLES
    settled: Callable[[Sequence[Array]], list[Array]] | None = None
    misfit: Callable[[Array], str] | None = None
    is_exact: Callable[[Array], bool] | None = None
    undefined: str = ""


def of_sums(formula: Callable[[Array], Array]) -> Aggregate:
    """Return an aggregate of the sums of all columns, given to a formula in the last axis."""
    return Aggregate(
        spread="bootstrap",
        value=lambda rows: float(formula(rows.sum(0))),
        weighted=lambda rows: lambda counts: formula(counts @ rows),
    )


def of_rows(aggregate: Callable[[Array], Any]) -> Aggregate:
    """Return an aggregate that any function of rows computes; resamples are copied for it."""

    def weighted(rows: Array) -> Weighted:
        def figures(counts: Array) -> Array:
            repeated = (np.repeat(rows, item.astype(np.intp), axis=0) for item in counts)
            return np.array([float(aggregate(item)) for item in repeated])

        return figures

    return Aggregate(
        spread="bootstrap",
        value=lambda rows: float(aggregate(rows)),
        weighted=weighted,
        resamples=SLOW_RESAMPLES,
        undefined="the aggregate is not finite",
    )


def _decibels(sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        signal, noise = sums[..., SIGNAL], sums[..., NOISE]
        ratio: Array = 10 * (np.log10(signal) - np.log10(noise))
        return np.where(noise == 0, np.inf, np.where(signal == 0, np.nan, ratio))


def _cosine(sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        norms = np.sqrt(sums[..., SIGNAL]) * np.sqrt(sums[..., OTHER])
        cosine: Array = np.clip(sums[..., PRODUCT] / norms, -1, 1)
        return np.where(norms > 0, cosine, np.nan)


def peak_of(rows: Array) -> float:
    """Return the range of the values that the last two columns bound; 0 without rows."""
    return float(rows[:, -1].max() - rows[:, -2].min()) if len(rows) else 0.0


def peak_ratio(errors: Callable[[Array], Array], peak: float | None) -> Aggregate:
    """Return 10 log10(peak^2 / mean squared error), the samples' errors weighing the same.

    Args:
        errors: From rows to the mean squared error of each sample.
        peak: None for the range that the rows tell (`peak_of`), which a resample keeps.
    """

    def decibels(mean: Array, rows: Array) -> Array:
        height = peak_of(rows) if peak is None else peak
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: Array = 20 * np.log10(height) - 10 * np.log10(mean)
        return np.where(mean == 0, np.inf, ratio if height > 0 else np.nan)

    def weighted(rows: Array) -> Weighted:
        column = errors(rows)
        return lambda counts: decibels(counts @ column / len(rows), rows)

    return Aggregate(
        spread="bootstrap",
        value=lambda rows: float(decibels(errors(rows).mean(), rows)),
        weighted=weighted,
        is_exact=lambda rows: not errors(rows).any(),
        undefined="infinite errors, or targets without a range",
    )


def mean_squared_difference(rows: Array) -> Array:
    """Return the mean squared difference of each row of differences."""
    squared: Array = rows[:, NOISE] / rows[:, ELEMENTS]
    return squared


def _largest(rows: Array) -> float:
    return float(rows[:, LARGEST].max())


def mean_absolute_difference(rows: Array) -> Array:
    """Return the mean absolute difference of each row of differences."""
    mean: Array = rows[:, TOTAL] / rows[:, ELEMENTS]
    return mean


def first_column(rows: Array) -> Array:
    """Return the first column."""
    column: Array = rows[:, 0]
    return column


def _mean_of(values: Callable[[Array], Array]) -> Aggregate:
    return Aggregate(
        spread="mean",
        value=lambda rows: float(np.mean(values(rows))),
        values=values,
        undefined="infinite values",
    )


def _share_misfit(rows: Array) -> str:
    values = rows[:, 0]
    wrong = values[~(np.isnan(values) | (values == 0) | (values == 1))]
    return f"{wrong[0]:.6g}, expected 0 or 1 in the first column" if len(wrong) else ""


def _auc_misfit(rows: Array) -> str:
    if rows.shape[1] < 2:
        return "one column, expected a label and a score, or a label and a score for each class"
    labels, classes = rows[:, 0], max(2, rows.shape[1] - 1)
    wrong = labels[~(np.isnan(labels) | np.isin(labels, np.arange(classes)))]
    if not len(wrong):
        return ""
    return f"label {wrong[0]:.6g}, expected whole numbers 0 to {classes - 1} in the first column"


SNR = of_sums(_decibels)
COSINE = of_sums(_cosine)
LARGEST_DIFFERENCE = Aggregate(spread="none", value=_largest)
MEAN_DIFFERENCE = _mean_of(mean_absolute_difference)
MEAN = _mean_of(first_column)
SHARE = replace(MEAN, spread="share", misfit=_share_misfit)


def has_sklearn() -> bool:
    """Tell whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


def import_sklearn(what: str) -> Any:
    """Return `sklearn.metrics`.

    Raises:
        MissingDependencyError: scikit-learn is not installed; the message says what needs it.
    """
    try:
        return importlib.import_module("sklearn.metrics")
    except ImportError as err:
        raise MissingDependencyError(
            f"metric {what!r} needs scikit-learn; pip install scikit-learn, or onnxq[metrics]"
        ) from err


def _is_binary(rows: Array) -> bool:
    """Tell whether rows (label, prediction, classes) are of two classes.

    The number of classes is 0 where nothing tells it; then labels and predictions do.
    """
    return bool(max(rows[:, 2].max(), rows[:, :2].max() + 1) <= 2)


def _settled_classes(models: Sequence[Array]) -> list[Array]:
    """Return the rows of F1 with one number of classes for all models."""
    classes = 2 if _is_binary(np.concatenate(models)) else np.inf
    return [np.column_stack([rows[:, :2], np.full(len(rows), classes)]) for rows in models]


def _f1(rows: Array) -> float:
    """Return F1 of rows (label, prediction, classes); a prediction below 0 is none."""
    truth, found = rows[:, 0].astype(np.int64), np.maximum(rows[:, 1], -1).astype(np.int64)
    metrics, labels = import_sklearn("f1"), np.array([1])
    if not _is_binary(rows):
        labels = np.unique(np.concatenate([truth, found[found >= 0]]))
    elif not (truth == 1).any():
        return np.nan
    return float(metrics.f1_score(truth, found, labels=labels, average="macro", zero_division=0))


def _f1_weighted(rows: Array) -> Weighted:
    """Return F1 of counted rows; a class that the counts leave out keeps what it has in all rows.

    Without that, rare classes would vanish from half of the resamples, and the interval of the
    macro mean would miss its figure. Of two classes, class 1 is the figure; it has none where no
    label is of it.
    """
    is_binary = _is_binary(rows)
    classes, numbers = np.unique(rows[:, :2], return_inverse=True)
    truth, found = numbers.reshape(-1, 2).T
    size, hits, is_one = len(classes), truth == found, rows[:, 0] == 1

    def scores(counts: Array) -> Array:
        right = np.bincount(truth[hits], counts[hits], size)
        support = np.bincount(truth, counts, size) + np.bincount(found, counts, size)
        return np.where(support > 0, 2 * right / np.maximum(support, 1), np.nan)

    all_scores = scores(np.ones(len(rows)))

    def figure(counts: Array) -> float:
        own = scores(counts)
        if is_binary:
            return float(own[classes == 1][0]) if counts[is_one].any() else np.nan
        return float(np.nanmean(np.where(np.isnan(own), all_scores, own)[classes >= 0]))

    return lambda counts: np.array([figure(item) for item in counts])


F1 = Aggregate(
    spread="bootstrap",
    value=_f1,
    weighted=_f1_weighted,
    needs_sklearn=True,
    settled=_settled_classes,
    undefined="no label is of class 1",
)
"""Of rows (label, prediction, classes): of class 1 where there are two, else macro."""


def _auc_sides(rows: Array) -> list[tuple[Array, Array]]:
    """Return (is positive, score) of every comparison of one class with the rest."""
    truth = rows[:, 0]
    if rows.shape[1] == 2:
        sides = [(truth == 1, rows[:, 1])]
    else:
        sides = [(truth == c, rows[:, 1 + c]) for c in range(rows.shape[1] - 1)]
    return [(positive, score) for positive, score in sides if 0 < positive.sum() < len(truth)]


def _auc(rows: Array) -> float:
    """Return the area of rows (label, score...), its mean over classes for several scores.

    It is undefined with NaN.
    """
    if np.isnan(rows).any():
        return np.nan
    metrics, sides = import_sklearn("auc"), _auc_sides(rows)
    # Ranks have the order of the scores and no infinities, which scikit-learn refuses.
    rankdata = importlib.import_module("scipy.stats").rankdata
    areas = [metrics.roc_auc_score(positive, rankdata(s)) for positive, s in sides]
    return float(np.mean(areas)) if areas else np.nan


def _auc_weighted(rows: Array) -> Weighted:
    """Return the area of counted rows; of several classes, one that is left out keeps its own."""
    areas = [_area(positive, score) for positive, score in _auc_sides(rows)]
    if not areas:
        return lambda counts: np.full(len(counts), np.nan)
    own = np.stack([area(np.ones((1, len(rows)))) for area in areas])

    def figures(counts: Array) -> Array:
        found = np.stack([area(counts) for area in areas])
        if len(areas) > 1:
            found = np.where(np.isnan(found), own, found)
        mean: Array = found.mean(0)
        return mean

    return figures


def _area(positive: Array, score: Array) -> Weighted:
    """Return the Mann-Whitney form of the area; ties count half."""
    order = np.argsort(score, kind="stable")
    positive = positive[order]
    score = score[order]
    starts = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))

    def figures(counts: Array) -> Array:
        counts = counts[:, order]
        ups = np.add.reduceat(counts * positive, starts, axis=1)
        downs = np.add.reduceat(counts * ~positive, starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs / 2
        with np.errstate(invalid="ignore"):
            area: Array = (ups * below).sum(1) / (ups.sum(1) * downs.sum(1))
            return area

    return figures


AUC = Aggregate(
    spread="bootstrap",
    value=_auc,
    weighted=_auc_weighted,
    needs_sklearn=True,
    misfit=_auc_misfit,
    undefined="all labels are of one class",
)
"""Of rows (label, score) with labels 0 and 1, or (label, score of each class), one against rest."""

BY_NAME = {"mean": MEAN, "share": SHARE, "auc": AUC}
"""Aggregates that a user's metric may name instead of a function of its own."""
