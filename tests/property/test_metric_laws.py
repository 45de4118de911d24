"""Figures equal those of scikit-learn and scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.spatial import distance

from onnxq.validation import aggregates, estimates, sample_rows

sklearn = pytest.importorskip("sklearn.metrics", reason="needs the 'metrics' extra")
Array = np.ndarray[Any, np.dtype[Any]]

SIZES = st.integers(2, 12)
VALUES = st.floats(-100, 100, width=32)


def arrays(shape: Any, elements: Any = VALUES) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.float32, shape, elements=elements)


@st.composite
def scored(draw: st.DrawFn, classes: st.SearchStrategy[int]) -> tuple[Array, Array]:
    """Draw scores without ties, and labels."""
    count, size = draw(SIZES), draw(classes)
    order = draw(st.permutations(range(count * size)))
    labels = draw(hnp.arrays(np.int64, count, elements=st.integers(0, size - 1)))
    return np.array(order, np.float32).reshape(count, size), labels


def classes_up_to(top: int) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.int64, SIZES, elements=st.integers(0, top))


@st.composite
def counted(draw: st.DrawFn, rows: int) -> Array:
    return draw(hnp.arrays(np.float64, rows, elements=st.integers(0, 3).map(float)))


@given(scored(st.integers(6, 9)), st.sampled_from([1, 5]))
def test_accuracy_is_scikit_learns(data: tuple[Array, Array], first: int) -> None:
    scores, labels = data
    rows = sample_rows.hit_rows(scores, labels, len(labels), first=first)
    expected = sklearn.top_k_accuracy_score(
        labels, scores, k=first, labels=np.arange(scores.shape[1])
    )
    assert aggregates.SHARE.value(rows) == pytest.approx(expected)


@given(scored(st.integers(3, 5)))
def test_macro_f1_is_scikit_learns(data: tuple[Array, Array]) -> None:
    scores, labels = data
    rows = sample_rows.prediction_rows(scores, labels, len(labels))
    expected = sklearn.f1_score(labels, scores.argmax(1), average="macro", zero_division=0)
    assert aggregates.F1.value(rows) == pytest.approx(expected)


@given(scored(st.just(2)), st.data())
def test_f1_of_counted_rows_is_that_of_repeated_ones(
    data: tuple[Array, Array], more: st.DataObject
) -> None:
    scores, labels = data
    counts = more.draw(counted(len(labels)))
    assume(counts.any())
    rows = sample_rows.prediction_rows(scores, labels, len(labels))
    (found,) = aggregates.F1.weighted(rows)(counts[None])  # type: ignore[misc]
    truth, best = (np.repeat(x, counts.astype(int)) for x in (labels, scores.argmax(1)))
    if (truth == 1).any():
        assert found == pytest.approx(sklearn.f1_score(truth, best, zero_division=0))
    else:
        assert math.isnan(found)


@given(st.integers(1, 6).flatmap(lambda top: st.tuples(*[classes_up_to(top)] * 3)))
def test_f1_of_predicted_classes_is_scikit_learns_for_both_models(data: Any) -> None:
    size = min(map(len, data))
    labels, ours, theirs = (item[:size] for item in data)
    assume((labels == 1).any())
    rows = [sample_rows.prediction_rows(found, labels, size) for found in (ours, theirs)]
    pair = estimates.paired(aggregates.F1, *rows)
    is_binary = max(item.max() for item in (labels, ours, theirs)) <= 1
    average = "binary" if is_binary else "macro"
    for found, estimate in ((ours, pair.reference), (theirs, pair.candidate)):
        expected = sklearn.f1_score(labels, found, average=average, zero_division=0)
        assert estimate.value == pytest.approx(expected)


@given(scored(st.integers(3, 5)), st.data())
def test_macro_f1_of_counted_rows_is_that_of_repeated_ones(
    data: tuple[Array, Array], more: st.DataObject
) -> None:
    scores, labels = data
    counts = more.draw(counted(len(labels)))
    best = scores.argmax(1)
    present = {*np.repeat(labels, counts.astype(int)), *np.repeat(best, counts.astype(int))}
    assume(present == {*labels, *best})
    rows = sample_rows.prediction_rows(scores, labels, len(labels))
    (found,) = aggregates.F1.weighted(rows)(counts[None])  # type: ignore[misc]
    truth, best = (np.repeat(x, counts.astype(int)) for x in (labels, best))
    expected = sklearn.f1_score(truth, best, average="macro", zero_division=0)
    assert found == pytest.approx(expected)


@st.composite
def binary(draw: st.DrawFn) -> tuple[Array, Array]:
    """Draw scores with ties and labels of both classes."""
    count = draw(SIZES)
    scores = draw(hnp.arrays(np.float32, count, elements=st.integers(0, 5).map(float)))
    labels = draw(hnp.arrays(np.int64, count, elements=st.integers(0, 1)))
    assume(0 < labels.sum() < count)
    return scores, labels


@given(binary(), st.data())
def test_area_is_scikit_learns_with_any_counts(
    data: tuple[Array, Array], more: st.DataObject
) -> None:
    scores, labels = data
    rows = sample_rows.score_rows(scores[:, None], labels, len(labels))
    assert aggregates.AUC.value(rows) == pytest.approx(sklearn.roc_auc_score(labels, scores))
    counts = more.draw(counted(len(labels)))
    (found,) = aggregates.AUC.weighted(rows)(counts[None])  # type: ignore[misc]
    kept = labels[counts > 0]
    if len(kept) and 0 < kept.sum() < len(kept):
        expected = sklearn.roc_auc_score(labels, scores, sample_weight=counts)
        assert found == pytest.approx(expected)
    else:
        assert math.isnan(found)


@given(scored(st.just(3)))
def test_area_of_several_classes_is_scikit_learns(data: tuple[Array, Array]) -> None:
    scores, labels = data
    assume(len({*labels}) == 3)
    shares = np.exp(scores / scores.max())
    shares /= shares.sum(1, keepdims=True)
    rows = sample_rows.score_rows(shares, labels, len(labels))
    expected = sklearn.roc_auc_score(labels, shares, multi_class="ovr", average="macro")
    assert aggregates.AUC.value(rows) == pytest.approx(expected)
    (found,) = aggregates.AUC.weighted(rows)(np.ones((1, len(labels))))  # type: ignore[misc]
    assert found == pytest.approx(expected)


@given(SIZES.flatmap(lambda n: st.tuples(arrays((n, 3)), arrays((n, 3)))))
def test_squared_error_is_scikit_learns(pair: tuple[Array, Array]) -> None:
    output, target = pair
    rows = sample_rows.squared_error_rows(output, target, len(target))
    expected = sklearn.mean_squared_error(target.astype(float), output.astype(float))
    assert aggregates.MEAN.value(rows) == pytest.approx(expected)


@given(SIZES.flatmap(lambda n: st.tuples(arrays((n, 3)), arrays((n, 3)))))
def test_differences_are_those_of_all_elements(pair: tuple[Array, Array]) -> None:
    left, right = pair
    rows = sample_rows.difference_rows(left, right, len(left))
    left, right = left.astype(float), right.astype(float)
    noise = left - right
    assert aggregates.LARGEST_DIFFERENCE.value(rows) == np.abs(noise).max()
    assert aggregates.MEAN_DIFFERENCE.value(rows) == pytest.approx(np.abs(noise).mean())
    norms = np.linalg.norm(left) * np.linalg.norm(right)
    if norms > 1e-30:
        expected = 1 - distance.cosine(left.ravel(), right.ravel())
        assert aggregates.COSINE.value(rows) == pytest.approx(expected, abs=1e-9)
    signal = np.square(left).sum()
    if np.square(noise).sum() > 1e-30 and signal > 1e-30:
        ratio = 10 * math.log10(signal / np.square(noise).sum())
        assert aggregates.SNR.value(rows) == pytest.approx(ratio, abs=1e-9)


@given(arrays(SIZES))
def test_the_error_of_a_mean_is_scipys(values: Array) -> None:
    found = estimates.single(aggregates.MEAN, values.astype(float)[:, None])
    assert found.standard_error == pytest.approx(stats.sem(values.astype(float)), abs=1e-12)
    scale = max(found.standard_error or 0, 1e-300)
    low, high = stats.t.interval(0.95, len(values) - 1, found.value, scale)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@given(hnp.arrays(np.bool_, SIZES), st.data())
def test_shares_and_their_differences_keep_within_bounds(hits: Array, more: st.DataObject) -> None:
    others = more.draw(hnp.arrays(np.bool_, len(hits)))
    rows, other_rows = (x.astype(float)[:, None] for x in (hits, others))
    found = estimates.paired(aggregates.SHARE, rows, other_rows)
    for item, lowest in ((found.reference, 0), (found.difference, -1)):
        assert item.low is not None
        assert item.high is not None
        assert lowest <= item.low <= item.high <= 1
    difference = found.difference
    assert difference.value == pytest.approx(others.mean() - hits.mean())
    if (hits == others).all():
        assert difference.low is not None
        assert difference.high is not None
        assert difference.low < 0 < difference.high
    back = estimates.paired(aggregates.SHARE, other_rows, rows).difference
    assert (back.low, back.high) == (
        pytest.approx(-difference.high),
        pytest.approx(-difference.low),
    )


@settings(max_examples=5)
@given(arrays(st.integers(10, 14)))
def test_the_bootstrap_is_scipys(values: Array) -> None:
    assume(len({*values}) > 5)
    rows = values.astype(float)[:, None]
    found = estimates.single(aggregates.of_rows(lambda x: x.mean()), rows)
    expected = stats.bootstrap(
        (rows[:, 0],),
        np.mean,
        n_resamples=aggregates.SLOW_RESAMPLES,
        batch=aggregates.SLOW_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(estimates._SEED),
    )
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=1e-9)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=1e-9)
    assert found.standard_error == pytest.approx(expected.standard_error, abs=1e-9)
