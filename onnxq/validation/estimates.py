"""The spread of a figure: standard errors and 95 % intervals.

Owns the formulas of docs/metrics.md: Student's for means, Wilson's and Tango's for shares, the
percentile bootstrap for the rest; where samples belong to sequences, a sequence is what is drawn.
Two models see the same samples, so everything is paired: the difference is estimated from the
samples' differences or from the same resamples. The seed is fixed; equal rows give equal figures.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from onnxq.parallel import blocks
from onnxq.validation.aggregates import Aggregate, Weighted
from onnxq.validation.measurements import Estimate, finite

Array = np.ndarray[Any, np.dtype[Any]]

CONFIDENCE = 0.95
MAX_WORK = 10**10
"""Most numbers that the bootstrap of one figure looks at: resamples x samples x columns."""

MIN_DRAWN = 10
"""Least samples, or sequences, that are resampled; of fewer the bootstrap is far too sure."""

_SEED = 0
_BATCH_NUMBERS = 1 << 22
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_BISECTIONS = 60
UNDEFINED = Estimate(value=None)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Hold the figures of both models, and candidate minus reference."""

    reference: Estimate
    candidate: Estimate
    difference: Estimate


def sequences_of(rows: Array, sequences: Array | None) -> Array | None:
    """Return the sequence of each row, counted from 0; None where every row counts by itself.

    That is where there are no sequences, only one, or one for each row.
    """
    if sequences is None:
        return None
    names, numbers = np.unique(sequences, return_inverse=True)
    return numbers if 1 < len(names) < len(rows) else None


def single(aggregate: Aggregate, rows: Array, sequences: Array | None = None) -> Estimate:
    """Return the figure of rows (samples, columns) with its spread.

    Undefined and infinite figures, and those of rows with NaN, have the value None.
    `why_no_interval` tells where there is no spread.

    Args:
        aggregate: The formula.
        rows: One for each sample.
        sequences: Number of the sequence of each row; None where all are independent.
    """
    if aggregate.settled is not None and len(rows):
        (rows,) = aggregate.settled([rows])
    return _single(aggregate, rows, sequences_of(rows, sequences))


def paired(
    aggregate: Aggregate, reference: Array, candidate: Array, sequences: Array | None = None
) -> Paired:
    """Return the figures of two models from the rows of the same samples; see `single`."""
    if not len(reference):
        return Paired(reference=UNDEFINED, candidate=UNDEFINED, difference=UNDEFINED)
    models = [reference, candidate]
    groups = sequences_of(reference, sequences)
    if any(np.isnan(rows).any() for rows in models):
        found = [_single(aggregate, rows, groups) for rows in models]
        return Paired(reference=found[0], candidate=found[1], difference=UNDEFINED)
    if aggregate.settled is not None:
        models = aggregate.settled(models)
    values = [aggregate.value(rows) for rows in models]
    is_spread = len(reference) > 1 and aggregate.spread != "none"
    if not (is_spread and all(map(math.isfinite, values))):
        found = [_single(aggregate, rows, groups) for rows in models]
        return Paired(
            reference=found[0], candidate=found[1], difference=_plain(values[1] - values[0])
        )
    if aggregate.spread == "bootstrap":
        drawn = _bootstrap(aggregate, models, values, groups)
        return Paired(reference=drawn[0], candidate=drawn[1], difference=drawn[2])
    ours, theirs = (_values(aggregate, rows) for rows in models)
    is_share = aggregate.spread == "share"
    of_one, of_both = (_share, _share_difference) if is_share else (_mean, _mean)
    return Paired(
        reference=of_one(ours, groups),
        candidate=of_one(theirs, groups),
        difference=of_both(theirs - ours, groups),
    )


def why_no_interval(aggregate: Aggregate, rows: Array, sequences: Array | None = None) -> str:
    """Return why a defined figure has no interval; "" where nobody would expect one.

    That is of a single sample, and of a metric that never has an interval.
    """
    if aggregate.spread == "none" or len(rows) < 2:
        return ""
    groups = sequences_of(rows, sequences)
    count, what = (len(rows), "samples") if groups is None else (groups.max() + 1, "sequences")
    least = MIN_DRAWN if aggregate.spread == "bootstrap" else 2
    if count < least:
        return f"too few {what} for an interval: {count}, at least {least}"
    if aggregate.spread == "bootstrap" and aggregate.resamples * rows.size > MAX_WORK:
        return "too many samples for an interval"
    return "no interval: resamples are without a figure or all alike"


def _single(aggregate: Aggregate, rows: Array, groups: Array | None) -> Estimate:
    if not len(rows) or np.isnan(rows).any():
        return UNDEFINED
    value = aggregate.value(rows)
    if len(rows) < 2 or not math.isfinite(value) or aggregate.spread == "none":
        return _plain(value)
    if aggregate.spread == "bootstrap":
        return _bootstrap(aggregate, [rows], [value], groups)[0]
    values = _values(aggregate, rows)
    return _share(values, groups) if aggregate.spread == "share" else _mean(values, groups)


def _values(aggregate: Aggregate, rows: Array) -> Array:
    assert aggregate.values is not None
    return aggregate.values(rows)


def _plain(value: float) -> Estimate:
    return Estimate(value=finite(value))


def _mean(values: Array, groups: Array | None) -> Estimate:
    """Return a mean with Student's interval."""
    value, error, width = _spread(values, groups)
    return _estimate(value, error, value - width * error, value + width * error)


def _spread(values: Array, groups: Array | None) -> tuple[float, float, float]:
    """Return the mean, its standard error and Student's quantile.

    Of sequences the error is that of a ratio of sums, which lets their lengths differ.
    """
    n, value = len(values), float(np.mean(values))
    if groups is None:
        error, count = float(np.std(values, ddof=1)) / math.sqrt(n), n
    else:
        sums = np.bincount(groups, values - value)
        count = len(sums)
        error = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / n
    quantile = importlib.import_module("scipy.special").stdtrit
    return value, error, float(quantile(count - 1, (1 + CONFIDENCE) / 2))


def _share(values: Array, groups: Array | None) -> Estimate:
    """Return a share with Wilson's interval.

    Of sequences, it is that of as many samples as would have the standard error, with Student's
    quantile; and of as many as there are sequences where all samples are alike.
    """
    n = float(len(values))
    value, error, width = _spread(values, groups)
    if groups is None:
        width = _Z
    else:
        n = min(n, value * (1 - value) / error**2) if error > 0 else float(groups.max() + 1)
    square = width**2 / n
    middle = (value + square / 2) / (1 + square)
    half = width * math.sqrt(value * (1 - value) / n + square / (4 * n)) / (1 + square)
    return _estimate(value, error, max(0.0, middle - half), min(1.0, middle + half))


def _share_difference(differences: Array, groups: Array | None) -> Estimate:
    """Return a mean of -1, 0 and 1 with Tango's interval, or Student's over sequences.

    Where all sequences have the same mean, as many samples as there are sequences stand for them.
    """
    value, error, width = _spread(differences, groups)
    if groups is not None and error > 0:
        low, high = value - width * error, value + width * error
        return _estimate(value, error, max(-1.0, low), min(1.0, high))
    n = len(differences) if groups is None else int(groups.max()) + 1
    won, lost = (float((sign * differences > 0).mean()) * n for sign in (1, -1))
    return _estimate(value, error, *_tango(won, lost, n))


def _tango(won: float, lost: float, n: int) -> tuple[float, float]:
    """Return the score interval of a difference of paired shares (Tango 1998, eq. 4 and 5).

    Its ends are the differences at which the score of what was found is one normal quantile.
    """

    def score(difference: float) -> float:
        linear = -won - lost + (2 * n - won + lost) * difference
        constant = -lost * difference * (1 - difference)
        root = math.sqrt(max(0.0, linear**2 - 8 * n * constant))
        variance = n * ((root - linear) / (2 * n) + difference * (1 - difference))
        distance = won - lost - n * difference
        if variance > 0:
            return distance / math.sqrt(variance)
        return math.copysign(math.inf, distance) if distance else 0.0

    def end(low: float, high: float, wanted: float) -> float:
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > wanted else (low, middle)
        return (low + high) / 2

    found = (won - lost) / n
    return end(-1.0, found, _Z), end(found, 1.0, -_Z)


def _bootstrap(
    aggregate: Aggregate, rows: list[Array], values: list[float], groups: Array | None
) -> tuple[Estimate, ...]:
    """Return the figures with percentile intervals; the last of two models is their difference.

    Resamples in which the figure is undefined (one class missing, say) are left out.
    """
    assert aggregate.weighted is not None
    if len(rows) == 2:
        values = [*values, values[1] - values[0]]
    count = len(rows[0]) if groups is None else int(groups.max()) + 1
    if count < MIN_DRAWN or aggregate.resamples * rows[0].size > MAX_WORK:
        return tuple(map(_plain, values))
    figures = [_of_groups(aggregate.weighted(item), groups) for item in rows]
    drawn = _resampled(count, len(rows[0]), figures, aggregate.resamples)
    if len(rows) == 2:
        with np.errstate(invalid="ignore"):
            drawn = np.concatenate([drawn, drawn[1:] - drawn[:1]])
    is_difference = [False, False, True][: len(drawn)]
    return tuple(map(_percentiles, values, drawn, is_difference))


def _of_groups(figure: Weighted, groups: Array | None) -> Weighted:
    """Return a function of counts of sequences, from that of counts of rows."""
    return figure if groups is None else lambda counts: figure(counts[:, groups])


def _resampled(count: int, samples: int, figures: list[Weighted], resamples: int) -> Array:
    """Return the figures (functions, resamples) of the same resamples of `count` things.

    They are those of `scipy.stats.bootstrap`, as counts; it warns of undefined figures, and a
    warning cannot be caught in one thread alone.
    """
    rng = np.random.default_rng(_SEED)
    drawn = []
    for start, stop in blocks(resamples, max(1, _BATCH_NUMBERS // samples)):
        indices = rng.integers(0, count, (stop - start, count))
        counts = np.stack([np.bincount(row, minlength=count) for row in indices])
        drawn.append([figure(counts.astype(np.float64)) for figure in figures])
    return np.concatenate(drawn, axis=1)


def _percentiles(value: float, drawn: Array, is_difference: bool) -> Estimate:
    """Return the interval, or none where resamples that are all alike feign certainty.

    A difference that is always the same is one all the same, unless it is 0.
    """
    is_known = ~np.isnan(drawn)
    drawn = drawn[is_known]
    if is_known.mean() < 0.5 or not np.isfinite(drawn).all():
        return Estimate(value=value)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if low == high and not (is_difference and value):
        return Estimate(value=value)
    return _estimate(value, float(np.std(drawn, ddof=1)), float(low), float(high))


def _estimate(value: float, error: float, low: float, high: float) -> Estimate:
    known = [finite(item) for item in (error, low, high)]
    if None in known:
        return _plain(value)
    return Estimate(value=value, standard_error=known[0], low=known[1], high=known[2])
