"""Indices and centroids that keep the outputs of a linear layer, rather than its weights.

Owns error feedback: a layer y = W x has the expected squared output error tr((W - Q) H (W - Q)^T),
H = E[x x^T]. Inputs (columns of W) are assigned one after the other; what an assignment gets wrong
is made good by the inputs still to come, as far as H lets them. This is the method of Frantar et
al. 2022 (arXiv 2210.17323) with the nearest centroid in place of a grid. The idea needed to read
it: with H = R R^T, R upper triangular, the error is |(W - Q) R|^2, and column j of that product
holds residuals up to j alone. So column j is nearest to W_j + sum_{i<j} (W - Q)_i R_ij / R_jj.

Arrays are [groups, inputs, outputs] inside. Products run in BLAS: for the same bytes with any
number of threads, callers hold BLAS to one thread and share out layers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onnxq.clustering.codebook import Array, Indices, index_dtype, thresholds
from onnxq.errors import InputError
from onnxq.parallel import blocks

Floats = NDArray[np.float64]

DAMPING = 0.01
"""What is added to every input's second moment, as a share of their mean, where much is known."""

_DOUBT = 0.1

_COLUMNS = 64
_ELEMENTS = 1 << 22
_STEPS = 12
_ENOUGH = 1e-8
"""Share of the first squared gradient at which the codebook's least squares are solved."""
_LEAST = 1e-8
"""What is added first, as a share of the mean, where a moment is not positive definite."""
_FLOAT64 = np.dtype(np.float64)


def assign_with_feedback(
    rows: Array, moments: Array, centroids: Array, *, damping: float = DAMPING, sweeps: int = 0
) -> Indices:
    """Return indices that keep the outputs of a layer near, by error feedback.

    Args:
        rows: Weights, [groups, outputs, inputs], finite floats. Rows may be divided by scales of
            their own: each output is assigned for itself.
        moments: Second moments of the inputs, [groups, inputs, inputs], float64. Only their ratios
            within a group matter. An input that is always 0 gets its nearest centroid.
        centroids: 1-D, ascending, finite, at most 65,536.
        damping: Added to the diagonal, as a share of its mean; ten times as much as often as a
            moment is not positive definite otherwise.
        sweeps: Rounds over all inputs after the first in which each index is chosen anew, given
            all others; none raises the (damped) error.

    Returns:
        Indices in the shape of `rows`; of equally near centroids the lowest. Where a centroid is
        exactly 0, weights that are 0 keep it, whatever is to be made good. Costs outputs *
        inputs**2 + inputs**3 / 3 multiplications a group, and the former twice a sweep.

    Raises:
        InputError: NaN or infinities, or shapes that do not match.
    """
    _check(rows, moments)
    _refuse("centroids", centroids)
    unit = _unit(rows, centroids)
    book = centroids.astype(np.float64) / unit
    limits = thresholds(book, _FLOAT64)
    moment = _damped(moments, damping)
    order = np.argsort(-np.einsum("gii->gi", moment), axis=1, kind="stable")
    moment = np.stack([one[np.ix_(by, by)] for one, by in zip(moment, order, strict=True)])
    factor = _feedback(moment)
    indices = np.empty(rows.shape, index_dtype(book.size))
    for start, stop in _chunks(rows):
        part = rows[:, start:stop].swapaxes(1, 2).astype(np.float64) / unit
        work = _Work(np.take_along_axis(part, order[:, :, None], axis=1), limits, book)
        work.feed(factor)
        for _ in range(sweeps):
            work.sweep(moment)
        places = np.empty_like(work.indices)
        np.put_along_axis(places, order[:, :, None], work.indices, axis=1)
        indices[:, start:stop] = places.swapaxes(1, 2)
    return indices


def damping_for(inputs: int, vectors: int) -> float:
    """Return the damping for second moments of so many inputs, taken from so many vectors.

    A tenth of inputs / vectors, within 0.01 and 1: measured on layers with correlated inputs, the
    output error on vectors that were not seen is then within 3 % of what the best of seven gives,
    from an eighth as many vectors as inputs to 16 times as many. Neighbouring places of an image
    tell less than as many vectors would.

    >>> damping_for(512, 1024)
    0.05
    """
    return min(1.0, max(DAMPING, _DOUBT * inputs / vectors)) if vectors else 1.0


def refit_centroids(
    rows: Array,
    moments: Array,
    indices: Indices,
    centroids: Array,
    *,
    damping: float = DAMPING,
    scales: Array | None = None,
) -> Floats:
    """Return the centroids of least output error for given indices, in the order of the indices.

    Least squares of as many unknowns as centroids, by conjugate gradients from `centroids` on, at
    most 12 steps; no step raises the (damped) error. A step costs outputs * inputs**2
    multiplications a group. Centroids that no index names stay as they are, and so does one that
    is exactly 0 and stands for a weight of 0. They may cease to ascend: `ascending` puts them in
    order.

    Args:
        rows: As in `assign_with_feedback`, divided by `scales` if there are any.
        moments: As there.
        indices: In the shape of `rows`.
        centroids: 1-D, finite.
        damping: As there.
        scales: What decoded rows are multiplied by, [groups, outputs]; 1 if None.

    Returns:
        float64, as many as `centroids`; not rounded to a stored type.

    Raises:
        InputError: NaN or infinities, or shapes that do not match.
    """
    _check(rows, moments)
    _refuse("centroids", centroids)
    unit = _unit(rows, centroids)
    powers = np.ones(rows.shape[:2])
    if scales is not None:
        powers = np.square(scales.astype(np.float64) / _unit(scales))
    system = _Normal(_damped(moments, damping), indices, powers, centroids.size)
    system.fix(np.unique(indices[rows == 0]), centroids)
    book = centroids.astype(np.float64) / unit
    return np.asarray(_conjugate(system, system.gradient(rows, book, unit), book) * unit)


def ascending(indices: Indices, centroids: Array) -> tuple[Indices, Array]:
    """Return indices and centroids that stand for the same, ascending, each once and in use.

    A zero is 0.0, never -0.0.
    """
    used = np.zeros(centroids.size, np.bool_)
    used[indices.reshape(-1)] = True
    plain = centroids[used] + centroids.dtype.type(0)  # never -0.0
    kept, places = np.unique(plain, return_inverse=True)
    table = np.zeros(centroids.size, index_dtype(kept.size))
    table[used] = places
    return table[indices], kept


def output_error(rows: Array, decoded: Array, moments: Array) -> float:
    """Return tr((rows - decoded) H (rows - decoded)^T), summed over the groups, in float64.

    Args:
        rows: [groups, outputs, inputs], finite floats.
        decoded: What stands in their place, in the same shape.
        moments: H, [groups, inputs, inputs].

    Raises:
        InputError: NaN or infinities, or shapes that do not match.
    """
    _check(rows, moments)
    _refuse("decoded", decoded)
    unit, scale = _unit(rows, decoded), _unit(moments)
    total = 0.0
    for group, moment in enumerate(moments.astype(np.float64) / scale):
        for start, stop in _chunks(rows[group : group + 1]):
            error = rows[group, start:stop].astype(np.float64) / unit
            error -= decoded[group, start:stop].astype(np.float64) / unit
            total += float(np.vdot(error @ moment, error))
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float64(max(total, 0.0)) * unit * unit * scale)


class _Work:
    """Hold the rows of one chunk while they are assigned; all arrays [groups, inputs, outputs]."""

    def __init__(self, rows: Floats, limits: Floats, book: Floats) -> None:
        self._rows, self._limits, self._book = rows, limits, book
        self._errors = np.zeros(rows.shape)
        self._zeros = rows == 0 if (book == 0).any() else None
        self._zero = int(np.argmin(np.abs(book)))
        self.indices = np.zeros(rows.shape, index_dtype(book.size))

    def feed(self, factor: Floats) -> None:
        """Assign all inputs in order, each with what the earlier ones got wrong."""
        for start, stop in blocks(self._rows.shape[1], _COLUMNS):
            block = factor[:, :stop, start:stop].swapaxes(1, 2)
            wanted = block[:, :, :start] @ self._errors[:, :start]
            wanted += self._rows[:, start:stop]
            for at in range(stop - start):
                error = self._assign(start + at, wanted[:, at])
                later = block[:, at + 1 :, start + at, None]
                wanted[:, at + 1 :] += later * error[:, None]

    def sweep(self, moment: Floats) -> None:
        """Choose every index anew where all others stay."""
        diagonal = np.einsum("gii->gi", moment)[:, :, None]
        for start, stop in blocks(self._rows.shape[1], _COLUMNS):
            block = moment[:, start:stop]
            slopes = block @ self._errors
            for at in range(stop - start):
                before = self._errors[:, start + at].copy()
                decoded = self._rows[:, start + at] - before
                wanted = decoded + slopes[:, at] / diagonal[:, start + at]
                change = self._assign(start + at, wanted) - before
                later = block[:, at + 1 :, start + at, None]
                slopes[:, at + 1 :] += later * change[:, None]

    def _assign(self, at: int, wanted: Floats) -> Floats:
        """Give an input of all outputs its nearest centroids; return what that gets wrong."""
        picks = np.searchsorted(self._limits, wanted, side="left")
        if self._zeros is not None:
            picks[self._zeros[:, at]] = self._zero
        self.indices[:, at] = picks
        error: Floats = self._rows[:, at] - self._book[picks]
        self._errors[:, at] = error
        return error


class _Normal:
    """Hold the normal equations of a codebook, without their matrix.

    The error is |W - C|^2 in the metric of H; entry k of its gradient is the sum of powers *
    (W - C) H over all places of index k.
    """

    def __init__(self, moment: Floats, indices: Indices, powers: Floats, size: int) -> None:
        self._moment, self._indices, self._powers, self._size = moment, indices, powers, size
        weights = powers[:, :, None] * np.einsum("gii->gi", moment)[:, None, :]
        self.diagonal = self._summed(indices, weights)

    def fix(self, places: Array, centroids: Array) -> None:
        """Let the centroids in those places that are 0 stay as they are."""
        self.diagonal[places[centroids[places] == 0]] = 0.0

    def gradient(self, rows: Array, book: Floats, unit: float) -> Floats:
        """Return half of the steepest descent of the error."""
        total = np.zeros(self._size)
        for start, stop in _chunks(rows):
            picks = self._indices[:, start:stop]
            errors = rows[:, start:stop].astype(np.float64) / unit - book[picks]
            total += self._pulled(errors, start)
        return total

    def times(self, book: Floats) -> Floats:
        """Return the product of the matrix and a vector."""
        total = np.zeros(self._size)
        for start, stop in _chunks(self._indices):
            total += self._pulled(book[self._indices[:, start:stop]], start)
        return total

    def _pulled(self, part: Floats, start: int) -> Floats:
        """Return what outputs from `start` on add to a product with the matrix."""
        stop = start + part.shape[1]
        pulled = part @ self._moment * self._powers[:, start:stop, None]
        return self._summed(self._indices[:, start:stop], pulled)

    def _summed(self, indices: Indices, weights: Floats) -> Floats:
        flat = indices.reshape(-1)
        summed = np.bincount(flat, weights=weights.reshape(-1), minlength=self._size)
        return np.asarray(summed, np.float64)


def _conjugate(system: _Normal, residual: Floats, book: Floats) -> Floats:
    """Return the solution by conjugate gradients, preconditioned by the diagonal."""
    inverse = np.divide(1.0, system.diagonal, where=system.diagonal > 0, out=np.zeros(book.size))
    step = inverse * residual
    power = first = float(residual @ step)
    for _ in range(min(_STEPS, book.size)):
        product = system.times(step)
        curvature = float(step @ product)
        if not (power > _ENOUGH * first and curvature > 0):
            break
        book = book + step * (power / curvature)
        residual = residual - product * (power / curvature)
        later = float(residual @ (inverse * residual))
        step, power = inverse * residual + step * (later / power), later
    return book


def _damped(moments: Array, damping: float) -> Floats:
    """Return moments over a power of two, with a diagonal that is raised and nowhere 0."""
    moment = moments.astype(np.float64) / _unit(moments)
    diagonal = np.einsum("gii->gi", moment)
    is_dead = diagonal <= 0
    moment[np.broadcast_to(is_dead[:, :, None] | is_dead[:, None, :], moment.shape)] = 0.0
    diagonal += damping * diagonal.mean(axis=1, keepdims=True)
    diagonal[diagonal <= 0] = 1.0
    return moment


def _feedback(moment: Floats) -> Floats:
    """Return R / diag(R) by column, R upper triangular with R R^T the moment."""
    inputs = moment.shape[1]
    raised = moment
    share = _LEAST
    while True:
        try:
            # Cholesky gives L L^T; of the moment turned round, L turned round is R.
            root = np.linalg.cholesky(raised[:, ::-1, ::-1])[:, ::-1, ::-1]
        except np.linalg.LinAlgError:
            mean = np.einsum("gii->gi", moment).mean(axis=1)
            raised = moment + (share * mean)[:, None, None] * np.eye(inputs)
            share *= 10
        else:
            root /= np.einsum("gii->gi", root)[:, None, :].copy()
            return np.asarray(root)


def _chunks(rows: Array) -> list[tuple[int, int]]:
    """Return spans of outputs of about `_ELEMENTS` weights."""
    return blocks(rows.shape[1], max(1, _ELEMENTS // max(1, rows.shape[0] * rows.shape[2])))


def _check(rows: Array, moments: Array) -> None:
    expected = [rows.shape[0], rows.shape[2], rows.shape[2]]
    if list(moments.shape) != expected:
        raise InputError(f"moments: found shape {list(moments.shape)}, expected {expected}")
    _refuse("rows", rows)
    _refuse("moments", moments)


def _refuse(what: str, array: Array) -> None:
    if not np.isfinite(array).all():
        raise InputError(f"{what}: found NaN or infinities, expected finite numbers")


def _unit(*arrays: Array) -> float:
    """Return a power of two that brings the largest magnitude near 1; 1 for zeros."""
    largest = max(float(np.abs(array).max(initial=0)) for array in arrays)
    exponent = math.frexp(largest)[1]
    return math.ldexp(1.0, min(max(exponent, -1000), 1000)) if largest else 1.0
