"""The spread of a figure: standard errors and 95 % intervals.

Owns the formulas of docs/metrics.md: normal for means, Wilson and Agresti-Min for shares, the
percentile bootstrap for the rest. Two models see the same samples, so everything is
paired: the difference is estimated from the samples' differences or from the same resamples. The
seed is fixed; equal rows give equal figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from onnxq.aggregates import Aggregate, Weighted
from onnxq.measurements import Estimate, finite
from onnxq.parallel import blocks

Array = np.ndarray[Any, np.dtype[Any]]

CONFIDENCE = 0.95
MAX_WORK = 10**10
"""Most numbers that the bootstrap of one figure looks at: resamples x samples x columns."""

_SEED = 0
_BATCH_NUMBERS = 1 << 22
_Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
UNDEFINED = Estimate(value=None)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Hold the figures of both models, and candidate minus reference."""

    reference: Estimate
    candidate: Estimate
    difference: Estimate


def single(aggregate: Aggregate, rows: Array) -> Estimate:
    """Return the figure of rows (samples, columns) with its spread.

    Undefined and infinite figures have the value None. There is no spread of fewer than two rows,
    nor of a bootstrap beyond MAX_WORK.
    """
    if not len(rows):
        return UNDEFINED
    value = aggregate.value(rows)
    if len(rows) < 2 or not math.isfinite(value) or aggregate.spread == "none":
        return Estimate(value=finite(value))
    if aggregate.spread == "bootstrap":
        return _bootstrap(aggregate, [rows], [value])[0]
    return _mean(_values(aggregate, rows), is_share=aggregate.spread == "share")


def paired(aggregate: Aggregate, reference: Array, candidate: Array) -> Paired:
    """Return the figures of two models from the rows of the same samples."""
    if not len(reference):
        return Paired(reference=UNDEFINED, candidate=UNDEFINED, difference=UNDEFINED)
    values = [aggregate.value(reference), aggregate.value(candidate)]
    is_spread = len(reference) > 1 and aggregate.spread != "none"
    if not (is_spread and all(map(math.isfinite, values))):
        return Paired(
            reference=single(aggregate, reference),
            candidate=single(aggregate, candidate),
            difference=_plain(values[1] - values[0]),
        )
    if aggregate.spread == "bootstrap":
        found = _bootstrap(aggregate, [reference, candidate], values)
        return Paired(reference=found[0], candidate=found[1], difference=found[2])
    is_share = aggregate.spread == "share"
    ours, theirs = _values(aggregate, reference), _values(aggregate, candidate)
    differences = theirs - ours
    return Paired(
        reference=_mean(ours, is_share=is_share),
        candidate=_mean(theirs, is_share=is_share),
        difference=_share_difference(differences) if is_share else _mean(differences),
    )


def _values(aggregate: Aggregate, rows: Array) -> Array:
    assert aggregate.values is not None
    return aggregate.values(rows)


def _plain(value: float) -> Estimate:
    return Estimate(value=finite(value))


def _mean(values: Array, *, is_share: bool = False) -> Estimate:
    """Return a mean with its normal interval, or a share with Wilson's."""
    value, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    low, high = value - _Z * error, value + _Z * error
    if is_share:
        test = stats.binomtest(round(float(values.sum())), len(values))
        interval = test.proportion_ci(CONFIDENCE, method="wilson")
        low, high = float(interval.low), float(interval.high)
    return _estimate(value, error, low, high)


def _share_difference(differences: Array) -> Estimate:
    """Return a mean of -1, 0 and 1 with the interval of Agresti and Min (2005).

    It adds half a sample to each of the four cells, so that few samples do not look certain.
    """
    n = len(differences)
    value, error = float(np.mean(differences)), float(np.std(differences, ddof=1)) / math.sqrt(n)
    won, lost = float((differences > 0).sum()) + 0.5, float((differences < 0).sum()) + 0.5
    middle = (won - lost) / (n + 2)
    width = _Z * math.sqrt(won + lost - (won - lost) ** 2 / (n + 2)) / (n + 2)
    return _estimate(value, error, max(-1.0, middle - width), min(1.0, middle + width))


def _bootstrap(
    aggregate: Aggregate, rows: list[Array], values: list[float]
) -> tuple[Estimate, ...]:
    """Return the figures with percentile intervals; the last of two models is their difference.

    Resamples in which the figure is undefined (one class missing, say) are left out.
    """
    assert aggregate.weighted is not None
    if len(rows) == 2:
        values = [*values, values[1] - values[0]]
    if aggregate.resamples * rows[0].size > MAX_WORK:
        return tuple(map(_plain, values))
    figures = [aggregate.weighted(item) for item in rows]
    drawn = _resampled(len(rows[0]), figures, aggregate.resamples)
    if len(rows) == 2:
        with np.errstate(invalid="ignore"):
            drawn = np.concatenate([drawn, drawn[1:] - drawn[:1]])
    return tuple(map(_percentiles, values, drawn))


def _resampled(samples: int, figures: list[Weighted], resamples: int) -> Array:
    """Return the figures (functions, resamples) of the same resamples.

    They are those of `scipy.stats.bootstrap`, as counts; it warns of undefined figures, and a
    warning cannot be caught in one thread alone.
    """
    rng = np.random.default_rng(_SEED)
    drawn = []
    for start, stop in blocks(resamples, max(1, _BATCH_NUMBERS // samples)):
        indices = rng.integers(0, samples, (stop - start, samples))
        counts = np.stack([np.bincount(row, minlength=samples) for row in indices])
        drawn.append([figure(counts.astype(np.float64)) for figure in figures])
    return np.concatenate(drawn, axis=1)


def _percentiles(value: float, drawn: Array) -> Estimate:
    is_known = ~np.isnan(drawn)
    drawn = drawn[is_known]
    if is_known.mean() < 0.5 or not np.isfinite(drawn).all():
        return Estimate(value=value)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return _estimate(value, float(np.std(drawn, ddof=1)), float(low), float(high))


def _estimate(value: float, error: float, low: float, high: float) -> Estimate:
    if not all(map(math.isfinite, (error, low, high))):
        return _plain(value)
    return Estimate(value=value, standard_error=error, low=low, high=high)
