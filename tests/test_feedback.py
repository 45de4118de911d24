"""Error feedback: indices and centroids that keep a layer's outputs."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from onnxq.clustering import feedback
from onnxq.clustering.cluster import fit
from onnxq.clustering.codebook import assign
from onnxq.clustering.feedback import (
    ascending,
    assign_with_feedback,
    damping_for,
    output_error,
    refit_centroids,
)
from onnxq.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
BOOK: Array = np.array([-1.5, -0.5, -0.1, 0.2, 0.6, 1.7], np.float32)


def layer(groups: int, outputs: int, inputs: int, seed: int = 0) -> tuple[Array, Array]:
    """Return weights and the second moments of inputs that go up and down together."""
    random = np.random.default_rng(seed)
    mix = random.standard_normal((groups, 4, inputs)) * np.exp(random.standard_normal(inputs) / 2)
    inner = random.standard_normal((groups, 3 * inputs + 20, 4)) @ mix
    x = np.maximum(inner + random.standard_normal(inner.shape) / 2, 0.0)
    moments = x.swapaxes(1, 2) @ x / x.shape[1]
    return random.standard_normal((groups, outputs, inputs)).astype(np.float32), moments


def by_inverse(row: Array, moment: Array, book: Array, damping: float) -> list[int]:
    """Return indices as the paper has them: updates by the Cholesky factor of the inverse."""
    order = np.argsort(-np.diag(moment), kind="stable")
    damped = moment + damping * np.diag(moment).mean() * np.eye(row.size)
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left, found = row[order].astype(np.float64), np.zeros(row.size, int)
    for at in range(row.size):
        found[order[at]] = pick = int(np.argmin(np.abs(left[at] - book)))
        left[at:] -= (left[at] - book[pick]) / upper[at, at] * upper[at, at:]
    return found.tolist()


def plain_error(rows: Array, decoded: Array, moments: Array) -> float:
    errors = rows.astype(np.float64) - decoded
    return float(np.einsum("goi,gij,goj->", errors, moments, errors))


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 4, 9), (1, 2, 150)])
def test_assignment_equals_the_published_updates(shape: tuple[int, int, int]) -> None:
    rows, moments = layer(*shape)
    found = assign_with_feedback(rows, moments, BOOK, damping=0.01)
    for group, moment in enumerate(moments):
        for row, indices in zip(rows[group], found[group], strict=True):
            assert indices.tolist() == by_inverse(row, moment, BOOK, 0.01)


def test_uncorrelated_inputs_get_their_nearest_centroids() -> None:
    rows, moments = layer(2, 7, 11)
    moments = moments * np.eye(11)
    found = assign_with_feedback(rows, moments, BOOK, sweeps=2)
    np.testing.assert_array_equal(found, assign(rows, BOOK))
    assert found.dtype == np.uint8


def test_inputs_that_are_always_zero_get_their_nearest_centroids() -> None:
    rows, moments = layer(1, 6, 20)
    dead = [0, 3, 19]
    moments[:, dead], moments[:, :, dead] = 0.0, 0.0
    alive = np.setdiff1d(np.arange(20), dead)
    for damping in (0.0, 0.01):
        found = assign_with_feedback(rows, moments, BOOK, damping=damping, sweeps=1)
        np.testing.assert_array_equal(found[:, :, dead], assign(rows, BOOK)[:, :, dead])
    inner = moments[:, alive][:, :, alive]
    alone = assign_with_feedback(rows[:, :, alive], inner, BOOK, damping=0.0)
    found = assign_with_feedback(rows, moments, BOOK, damping=0.0)
    np.testing.assert_array_equal(found[:, :, alive], alone)
    every = assign_with_feedback(rows, np.zeros_like(moments), BOOK)
    np.testing.assert_array_equal(every, assign(rows, BOOK))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_feedback_and_each_sweep_lower_the_output_error(bits: int) -> None:
    rows, moments = layer(2, 12, 80)
    found = fit(rows, 1 << bits)
    errors = [output_error(rows, found.centroids[found.indices], moments)]
    for sweeps in range(4):
        indices = assign_with_feedback(rows, moments, found.centroids, damping=0.0, sweeps=sweeps)
        errors.append(output_error(rows, found.centroids[indices], moments))
    assert errors[1] < 0.7 * errors[0]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(errors[1:]))


def test_each_index_is_the_best_alone_once_sweeps_have_settled() -> None:
    rows, moments = layer(1, 3, 12)
    indices = assign_with_feedback(rows, moments, BOOK, damping=0.0, sweeps=50)
    least = plain_error(rows, BOOK[indices], moments)
    for place in np.ndindex(indices.shape):
        for other in range(BOOK.size):
            changed = indices.copy()
            changed[place] = other
            assert plain_error(rows, BOOK[changed], moments) >= least * (1 - 1e-12)


def test_groups_and_outputs_are_assigned_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, moments = layer(3, 9, 70)
    whole = assign_with_feedback(rows, moments, BOOK, sweeps=1)
    for group in range(3):
        one = slice(group, group + 1)
        alone = assign_with_feedback(rows[one], moments[one], BOOK, sweeps=1)
        np.testing.assert_array_equal(whole[one], alone)
    monkeypatch.setattr(feedback, "_ELEMENTS", 500)
    np.testing.assert_array_equal(whole, assign_with_feedback(rows, moments, BOOK, sweeps=1))


@pytest.mark.parametrize("factor", [2.0**-140, 2.0**120])
def test_powers_of_two_change_no_index(factor: float) -> None:
    rows, moments = layer(1, 5, 30)
    found = assign_with_feedback(rows, moments, BOOK)
    wide, book = rows.astype(np.float64) * factor, BOOK.astype(np.float64) * factor
    for power in (2.0**-900, 2.0**900):
        again = assign_with_feedback(wide, moments * power, book)
        np.testing.assert_array_equal(found, again)
        refit = refit_centroids(wide, moments * power, found, book)
        np.testing.assert_array_equal(refit, refit_centroids(rows, moments, found, BOOK) * factor)


def test_a_moment_of_too_few_vectors_is_damped_until_it_can_be_used() -> None:
    rows, _ = layer(1, 4, 16)
    vector = np.arange(1.0, 17.0)
    moments = np.outer(vector, vector)[None] / 7
    indices = assign_with_feedback(rows, moments, BOOK, damping=0.0)
    nearest = output_error(rows, BOOK[assign(rows, BOOK)], moments)
    assert output_error(rows, BOOK[indices], moments) < nearest / 100


def test_the_output_error_is_that_of_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, moments = layer(2, 9, 30)
    decoded = BOOK[assign(rows, BOOK)]
    expected = plain_error(rows, decoded, moments)
    assert output_error(rows, decoded, moments) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(feedback, "_ELEMENTS", 70)
    assert output_error(rows, decoded, moments) == pytest.approx(expected, rel=1e-12)
    assert output_error(rows, rows, moments) == 0.0
    huge = rows.astype(np.float64) * 1e200
    assert output_error(huge, huge * 2, moments) == np.inf


def normal_equations(
    rows: Array, moments: Array, indices: Array, powers: Array, k: int
) -> tuple[Array, Array]:
    matrix, right = np.zeros((k, k)), np.zeros(k)
    for group, output in np.ndindex(*rows.shape[:2]):
        hot = np.eye(k)[indices[group, output]]
        matrix += powers[group, output] * hot.T @ moments[group] @ hot
        right += powers[group, output] * hot.T @ moments[group] @ rows[group, output]
    return matrix, right


@pytest.mark.parametrize("has_scales", [False, True])
def test_refitted_centroids_solve_the_normal_equations(
    has_scales: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, moments = layer(2, 9, 30)
    indices = assign(rows, BOOK)
    scales = np.exp(np.random.default_rng(1).standard_normal((2, 9))) if has_scales else None
    powers = np.ones((2, 9)) if scales is None else scales**2
    expected = np.linalg.solve(*normal_equations(rows, moments, indices, powers, BOOK.size))
    found = refit_centroids(rows, moments, indices, BOOK, damping=0.0, scales=scales)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    monkeypatch.setattr(feedback, "_ELEMENTS", 130)
    parts = refit_centroids(rows, moments, indices, BOOK, damping=0.0, scales=scales)
    np.testing.assert_allclose(found, parts, rtol=1e-9)


def test_refitting_lowers_the_error_and_leaves_unused_centroids() -> None:
    rows, moments = layer(1, 20, 40)
    indices = np.minimum(assign(rows, BOOK), 4)
    found = refit_centroids(rows, moments, indices, BOOK, damping=0.0)
    assert found[5] == BOOK[5]
    before = output_error(rows, BOOK[indices], moments)
    assert output_error(rows, found[indices], moments) < before
    again = refit_centroids(rows, moments, indices, found, damping=0.0)
    np.testing.assert_allclose(again, found, atol=1e-3)


def test_centroids_are_put_in_order_with_their_indices() -> None:
    book: Array = np.array([3.0, 1.0, 3.0, -2.0, 7.0], np.float32)
    indices = np.array([[0, 1], [2, 3], [3, 1]], np.uint8)
    found, kept = ascending(indices, book)
    assert kept.tolist() == [-2.0, 1.0, 3.0]
    np.testing.assert_array_equal(kept[found], book[indices])
    assert kept.dtype == np.float32
    assert found.dtype == np.uint8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    rows, moments = layer(1, 3, 5)
    arrays = [rows, moments, BOOK]
    for place, name in enumerate(("rows", "moments", "centroids")):
        wrong = [array.copy() for array in arrays]
        wrong[place].reshape(-1)[0] = bad
        with pytest.raises(InputError, match=name):
            assign_with_feedback(*wrong)
    with pytest.raises(InputError, match="decoded"):
        output_error(rows, np.full_like(rows, bad), moments)


def test_moments_of_another_shape_are_refused() -> None:
    rows, moments = layer(1, 3, 5)
    with pytest.raises(InputError, match=r"found shape \[1, 4, 4\], expected \[1, 5, 5\]"):
        assign_with_feedback(rows, moments[:, :4, :4], BOOK)


def test_little_known_inputs_are_damped_more() -> None:
    found = [damping_for(100, vectors) for vectors in (0, 1, 20, 100, 400, 10**6)]
    assert found == [1.0, 1.0, 0.5, 0.1, 0.025, 0.01]


def test_feedback_helps_on_vectors_that_were_not_seen() -> None:
    rows, moments = layer(1, 30, 60)
    random = np.random.default_rng(9)
    root = np.linalg.cholesky(moments[0] + 1e-9 * np.eye(60))
    found = fit(rows, 16)
    nearest = output_error(rows, found.centroids[found.indices], moments)
    for vectors in (15, 60, 600):
        x = random.standard_normal((vectors, 60)) @ root.T
        seen = (x.T @ x / vectors)[None]
        damping = damping_for(60, vectors)
        indices = assign_with_feedback(rows, seen, found.centroids, damping=damping)
        assert output_error(rows, found.centroids[indices], moments) < nearest
