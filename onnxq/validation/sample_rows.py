"""What a metric keeps of each sample: one row of numbers, computed while the batch is at hand.

Owns the shapes and dtypes that outputs, labels and targets must have, and what NaN means. A NaN in
a row makes a figure undefined, unless both models have it in the same row, which is then left out.
Formulas over rows are in `aggregates`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxq.errors import InputError
from onnxq.parallel import blocks
from onnxq.plaintext import dtype_text

Array = np.ndarray[Any, np.dtype[Any]]

DIFFERENCE_COLUMNS = 9
_BLOCK_ELEMENTS = 1 << 20
"""Elements that are float64 at a time, unless one sample has more."""


class Misfit(Exception):
    """Signal that a metric cannot be taken from an output; the message completes "output 'y' "."""


def is_numeric(value: object) -> bool:
    """Tell whether an output is an array of numbers that float64 can hold."""
    if not isinstance(value, np.ndarray):
        return False
    return value.dtype.kind in "fiub" or value.dtype.name == "bfloat16"


def is_float(value: object) -> bool:
    """Tell whether an output is an array of floating point numbers."""
    return isinstance(value, np.ndarray) and is_numeric(value) and value.dtype.kind not in "iub"


def nan_samples(output: Any, samples: int) -> int:
    """Return the number of samples whose values hold NaN; 0 where the first axis is another."""
    if not is_float(output) or not output.ndim or len(output) != samples:
        return 0
    return int(np.isnan(output.astype(np.float64)).reshape(samples, -1).any(1).sum())


def difference_rows(reference: Any, candidate: Any, samples: int) -> Array:
    """Return the columns of `aggregates` for each sample, float64 [rows, 9].

    An output whose first axis is not that of the samples makes one row. Elements that are equal
    and not finite are left out, and so are rows without any element. A row is NaN where the two
    cannot be compared: another shape or dtype, or NaN or infinity in other places.

    Raises:
        Misfit: the reference's output is no array of numbers.
    """
    if not is_numeric(reference):
        raise Misfit(f"is {_kind(reference)}, expected numbers")
    if not _is_alike(reference, candidate):
        return np.full((1, DIFFERENCE_COLUMNS), np.nan)
    count = samples if reference.ndim and len(reference) == samples else 1
    size = reference.size // max(count, 1)
    left, right = (value.reshape(count, size) for value in (reference, candidate))
    parts = [
        _compared(left[start:stop], right[start:stop])
        for start, stop in blocks(count, max(1, _BLOCK_ELEMENTS // max(size, 1)))
    ]
    return np.concatenate(parts) if parts else np.zeros((0, DIFFERENCE_COLUMNS))


def _compared(left: Array, right: Array) -> Array:
    """Return the rows of differences of samples that are rows, without those of no element."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(all="ignore"):
        finite = np.isfinite(left) & np.isfinite(right)
        if finite.all():
            rows = _difference_columns(left, right, left, left)
        else:
            low, high = np.where(finite, left, np.inf), np.where(finite, left, -np.inf)
            ours, theirs = np.where(finite, left, 0), np.where(finite, right, 0)
            rows = _difference_columns(ours, theirs, low, high)
            rows[:, 6] = finite.sum(1)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    rows[~(finite | same).all(1)] = np.nan
    compared: Array = rows[rows[:, 6] != 0]
    return compared


def _difference_columns(left: Array, right: Array, low: Array, high: Array) -> Array:
    """Return the columns in the order of `aggregates`; `low` and `high` give the range."""
    noise = np.abs(left - right)
    columns = [
        np.square(left).sum(1),
        np.square(right).sum(1),
        (left * right).sum(1),
        np.square(noise).sum(1),
        noise.max(1, initial=0),
        noise.sum(1),
        np.full(len(left), left.shape[1]),
        low.min(1, initial=np.inf),
        high.max(1, initial=-np.inf),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def agreement_rows(reference: Any, candidate: Any, samples: int, *, first: int) -> Array:
    """Return 1 where the reference's class is among the candidate's `first` ones, [samples, 1].

    NaN among the scores makes a sample of no class, which agrees with none but itself.

    Raises:
        Misfit: the outputs are no scores of classes.
    """
    ours = _classes(reference, samples, first)
    if not _is_alike(reference, candidate):
        return np.full((1, 1), np.nan)
    theirs = _classes(candidate, samples, first)
    if ours.ndim == 1:
        return _column(ours == theirs)
    best = _best(ours)
    return _column(np.where(best < 0, _best(theirs) < 0, _is_among(theirs, best, first)))


def hit_rows(
    output: Any, label: Array, samples: int, *, first: int, threshold: float = 0.5
) -> Array:
    """Return 1 where the label is among the output's `first` classes, [samples, 1].

    Args:
        output: Scores [samples, classes], predicted classes [samples] as integers, or one score a
            sample, which means class 1 above the threshold and else class 0.
        label: Classes [samples], integers.
        samples: Samples of the batch.
        first: How many classes count; of equal scores the lower class comes first.
        threshold: Of one score.

    Raises:
        Misfit: the output is no such array.
        InputError: the label is no class of this output.
    """
    scores = _classes(output, samples, first, can_be_single=first == 1)
    truth = _labels(label, samples, _class_count(scores))
    if scores.ndim == 2:
        return _column(_is_among(scores, truth, first))
    return _column(_decided(scores, threshold) == truth)


def prediction_rows(output: Any, label: Array, samples: int, *, threshold: float = 0.5) -> Array:
    """Return (label, predicted class or -1, number of classes) of each sample, [samples, 3].

    The number is 0 where predicted classes are given, so that nothing tells it. See `hit_rows`.
    """
    scores = _classes(output, samples, 1, can_be_single=True)
    classes = _class_count(scores)
    truth = _labels(label, samples, classes)
    found = _best(scores) if scores.ndim == 2 else _decided(scores, threshold)
    return np.stack([truth, found, np.full(samples, classes or 0)], axis=1).astype(np.float64)


def score_rows(output: Any, label: Array, samples: int) -> Array:
    """Return (label, score) of each sample, or (label, score of each class) of three and more.

    Of two classes the score is that of class 1 minus that of class 0 in float64, which has the
    order of a probability and of logits alike; it is NaN where both are the same infinity. Other
    scores are float32 where that holds them exactly, else float64.

    Raises:
        Misfit, InputError: as `hit_rows`; predicted classes are no scores.
    """
    scores = _classes(output, samples, 1, can_be_single=True)
    if scores.dtype.kind != "f":
        raise Misfit(f"has {output.dtype.name} classes, expected scores")
    truth = _labels(label, samples, _class_count(scores))
    if scores.ndim == 2 and scores.shape[1] == 2:
        with np.errstate(invalid="ignore", over="ignore"):
            scores = scores[:, 1] - scores[:, 0]
    elif np.can_cast(output.dtype, np.float32):
        scores = scores.astype(np.float32)
    return np.column_stack([truth.astype(scores.dtype), scores])


def squared_error_rows(output: Any, target: Array, samples: int) -> Array:
    """Return (mean squared error, least, largest value of the target) of each sample.

    A sample without elements, or whose target holds NaN, has NaN.

    Raises:
        Misfit: the output has not the target's shape, or is no array of numbers.
        InputError: the target is no array of numbers with an axis of samples.
    """
    if not is_numeric(target) or not target.ndim or len(target) != samples:
        raise InputError(
            f"target: found {dtype_text(target.dtype)} of shape {list(target.shape)}, expected "
            f"numbers with {samples} samples along the first axis"
        )
    if not is_numeric(output):
        raise Misfit(f"is {_kind(output)}, expected numbers")
    if output.shape != target.shape:
        raise Misfit(f"has shape {list(output.shape)}, expected the target's {list(target.shape)}")
    size = target.size // samples
    truth = target.astype(np.float64).reshape(samples, size)
    if not size:
        return np.full((samples, 3), np.nan)
    with np.errstate(all="ignore"):
        squared = np.square(output.astype(np.float64).reshape(samples, size) - truth)
        return np.stack([squared.mean(1), truth.min(1), truth.max(1)], axis=1)


def _is_alike(reference: Array, candidate: object) -> bool:
    return (
        isinstance(candidate, np.ndarray)
        and candidate.shape == reference.shape
        and candidate.dtype == reference.dtype
    )


def _column(values: Array) -> Array:
    return values.astype(np.float64).reshape(-1, 1)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return "text" if value.dtype.kind in "OUS" else f"of dtype {value.dtype.name}"
    return "a map" if isinstance(value, dict) else f"a {type(value).__name__}"


def _classes(output: Any, samples: int, first: int, *, can_be_single: bool = False) -> Array:
    """Return scores [samples, classes] or one number a sample; axes of size 1 are no matter."""
    if not is_numeric(output):
        raise Misfit(f"is {_kind(output)}, expected numbers")
    shape = [size for size in output.shape[1:] if size != 1]
    if not output.ndim or len(output) != samples or len(shape) > 1 or 0 in shape:
        raise Misfit(
            f"has shape {list(output.shape)}, expected [samples, classes] of {samples} samples"
        )
    if shape:
        return np.asarray(output.astype(np.float64).reshape(samples, shape[0]))
    flat: Array = output.reshape(samples)
    is_class = flat.dtype.kind in "iub"
    if (first > 1 and is_class) or not (is_class or can_be_single):
        raise Misfit(f"has shape {list(output.shape)}, expected scores of two or more classes")
    return flat.astype(np.int64) if is_class else flat.astype(np.float64)


def _class_count(scores: Array) -> int | None:
    if scores.ndim == 2:
        return int(scores.shape[1])
    return 2 if scores.dtype.kind == "f" else None


def _labels(label: Array, samples: int, classes: int | None) -> Array:
    if label.dtype.kind not in "iub" or not label.ndim or label.size != len(label):
        raise InputError(
            f"label: found {dtype_text(label.dtype)} of shape {list(label.shape)}, expected one "
            f"integer a sample (shape [{samples}])"
        )
    if len(label) != samples:
        raise InputError(f"label: found {len(label)} labels for {samples} samples")
    truth = label.reshape(samples).astype(np.int64)
    limit = math.inf if classes is None else classes
    wrong = np.flatnonzero((truth < 0) | (truth >= limit))
    if len(wrong):
        expected = "0 or more" if classes is None else f"0 to {classes - 1}, the model's classes"
        which = f" in sample {wrong[0]} of these {samples}, counted from 0" if samples > 1 else ""
        raise InputError(f"label: found {truth[wrong[0]]}{which}; expected {expected}")
    return truth


def _best(scores: Array) -> Array:
    """Return the class of the largest score, the lowest of equal ones; -1 with NaN."""
    return np.where(np.isnan(scores).any(1), -1, scores.argmax(1))


def _decided(values: Array, threshold: float) -> Array:
    """Return classes as they are, and those of single scores by a threshold; -1 for NaN."""
    if values.dtype.kind != "f":
        return values
    return np.where(np.isnan(values), -1, values > threshold)


def _is_among(scores: Array, classes: Array, first: int) -> Array:
    """Tell where a class (at least 0) is among the `first` of its scores; never with NaN."""
    own = np.take_along_axis(scores, np.maximum(classes, 0)[:, None], axis=1)
    is_lower = np.arange(scores.shape[1]) < classes[:, None]
    ahead = ((scores > own) | ((scores == own) & is_lower)).sum(1)
    return np.asarray((ahead < first) & ~np.isnan(scores).any(1))
