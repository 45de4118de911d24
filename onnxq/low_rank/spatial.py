"""Factors of a kernel's two halves that are nearest at a layer's outputs.

Owns the one weighted case without closed form. A patch has a feature for each (place, column): the
second factor's place t in its half of the kernel, and the column q (channel and place in the first
half). With W [outputs, places, columns] and the moment C of patches, L R is sought that makes
tr(D C D^T) least for D = W - L R, where D is read as [outputs, places x columns]. Given R, the best
L is a linear regression, and given L so is R (Zhang et al. 2015 solve for one layer's responses in
the same way); rounds of both start from the better of two truncated decompositions, and never get
worse. All sums are float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from onnxq.low_rank.components import Components, components

Array = np.ndarray[Any, np.dtype[Any]]
ROUNDS = 5
"""Rounds of both regressions at most; more lowered the loss by 1 to 5 % of it."""
ANCHOR_ROUNDS = 2
"""Rounds where losses are only estimated."""
LEAST_GAIN = 0.003
"""A round that lowers the loss by a smaller share of it is the last."""
STEPS = 4
"""Steps of conjugate gradients in a round; twice as many made no difference to four digits."""
_JITTER = 1e-13
"""What keeps a Gram matrix positive definite, as a share of its mean diagonal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """Hold a weight and a moment, and two orders of components to start from.

    `weight` is [outputs, places, columns], `moment` [places, columns, places, columns] or of the
    diagonal [places, columns], `target` is W C, `power` tr(W C W^T).
    """

    weight: Array
    moment: Array
    target: Array
    power: float
    starts: tuple[Components, ...]
    by_place: Array
    by_column: Array

    @property
    def places(self) -> int:
        """The number of places in the second factor's half of the kernel."""
        return int(self.weight.shape[1])

    @property
    def full_rank(self) -> int:
        """The rank at which nothing is lost."""
        outputs, places, columns = self.weight.shape
        return int(min(outputs * places, columns))

    def lost(self, ranks: int) -> Array:
        """Return an estimate of what `pair` loses at each rank from 0 to `ranks`: [ranks + 1].

        It is what regression on nested starts loses, lowered between a few ranks as much as some
        rounds lower it there. It never rises.
        """
        tried = [np.cumsum(self._left(right)[1]) for right in self._rights(ranks)]
        nested = np.maximum(self.power - np.append(0.0, np.max(tried, axis=0)), 0.0)
        anchors = sorted({max(1, ranks // 4), max(1, ranks // 2), ranks} - {0})
        logs = [0.0]
        for rank in anchors:
            left = self.power - self._fitted(rank, rounds=ANCHOR_ROUNDS)[2]
            is_there = nested[rank] > 0 and left > 0
            logs.append(min(0.0, float(np.log(left / nested[rank]))) if is_there else 0.0)
        lowered = nested * np.exp(np.interp(np.arange(ranks + 1), [0, *anchors], logs))
        if ranks == self.full_rank:
            lowered[-1] = 0.0
        return np.minimum.accumulate(lowered)

    def pair(self, rank: int) -> tuple[Array, Array]:
        """Return (left [outputs x places, rank], right [rank, columns]) of a small loss."""
        if rank == self.full_rank:
            return self.starts[0].pair(rank)  # exact, whatever the moment
        left, right, _ = self._fitted(rank, rounds=ROUNDS)
        return left.reshape(-1, rank), right

    def _rights(self, rank: int) -> Iterator[Array]:
        """Yield the right factors to start from."""
        for start in self.starts:
            yield _unit_rows(start.pair(rank)[1])

    def _fitted(self, rank: int, rounds: int) -> tuple[Array, Array, float]:
        """Return the left and right factors after some rounds, and what they explain of `power`."""
        tried = [(right, *self._left(right)) for right in self._rights(rank)]
        right, left, gains = max(tried, key=lambda item: float(item[2].sum()))
        gain = float(gains.sum())
        for _ in range(rounds):
            moved = _unit_rows(self._right(left, right))
            refitted, gains = self._left(moved)
            more = float(gains.sum()) - gain
            if more <= 0:
                break
            left, right, gain = refitted, moved, gain + more
            if more < LEAST_GAIN * (self.power - gain):
                break
        return left, right, gain

    def _block(self, one: int, other: int) -> Array:
        """Return the moment of the columns at two places: [columns, columns]."""
        if self.moment.ndim == 4:
            return np.asarray(self.moment[one, :, other])
        columns = self.moment.shape[1]
        return np.diag(self.moment[one]) if one == other else np.zeros((columns, columns))

    def _left(self, right: Array) -> tuple[Array, Array]:
        """Return the best left factor [outputs, places, rank] of a right one, and its gains.

        With P the rows of `right` at each place, L = W C P^T (P C P^T)^-1. The gains are what each
        row of `right` explains beyond those before it; so their sums are what fewer rows would.
        """
        places, rank = self.places, len(right)
        blocks = np.empty((rank, places, rank, places))
        for one in range(places):
            for other in range(places):
                blocks[:, one, :, other] = right @ self._block(one, other) @ right.T
        gram = blocks.reshape(rank * places, rank * places)
        cross = np.moveaxis(self.target @ right.T, 0, 2)  # [places, rank, outputs]
        cross = cross.transpose(1, 0, 2).reshape(rank * places, -1)
        root = _root(gram)
        solved = scipy.linalg.solve_triangular(root, cross, lower=True)
        gains = (solved**2).reshape(rank, -1).sum(axis=1)
        left = scipy.linalg.solve_triangular(root, solved, lower=True, trans="T")
        return left.reshape(rank, places, -1).transpose(2, 1, 0), gains

    def _right(self, left: Array, right: Array) -> Array:
        """Return a better right factor of a left one: some steps of conjugate gradients.

        The normal equations are sum over places s, t of (L_t^T L_s) R C_st = sum over t of
        L_t^T (W C)_t. They are preconditioned with the product of the moments of places and of
        columns, which would be exact if both were independent.
        """
        turned = left.transpose(1, 2, 0)  # [places, rank, outputs]
        products = np.einsum("tro,osp->tsrp", turned, left, optimize=True)
        apart = np.einsum("tsrp,ts->rp", products, self.by_place)
        roots = _root(apart), _root(self.by_column)
        goal = sum(turned[place] @ self.target[:, place] for place in range(self.places))
        rest = goal - self._normal(products, right)
        step = ready = _solve(roots, rest)
        for _ in range(STEPS):
            image = self._normal(products, step)
            length = np.vdot(rest, ready) / max(float(np.vdot(step, image)), np.finfo(float).tiny)
            right = right + length * step
            before = np.vdot(rest, ready)
            rest = rest - length * image
            ready = _solve(roots, rest)
            step = ready + step * (np.vdot(rest, ready) / max(before, np.finfo(float).tiny))
        return right

    def _normal(self, products: Array, right: Array) -> Array:
        """Return what the normal equations make of a right factor: [rank, columns]."""
        made = np.zeros_like(right)
        for one in range(self.places):
            for other in range(self.places):
                made += products[one, other] @ (right @ self._block(other, one))
        return made


def fit(weight: Array, moment: Array) -> Fit:
    """Return what factors of any rank are fitted from.

    Args:
        weight: [outputs, places, columns], any float type.
        moment: positive definite [places, columns, places, columns], or its diagonal, float64.
    """
    outputs, places, columns = weight.shape
    wide = weight.astype(np.float64)
    if moment.ndim == 2:
        target, by_column = wide * moment, np.diag(moment.sum(axis=0))
        by_place = np.diag(moment.sum(axis=1))
    else:
        size = places * columns
        target = (wide.reshape(outputs, size) @ moment.reshape(size, size)).reshape(wide.shape)
        by_column = np.einsum("tqtp->qp", moment)
        by_place = np.einsum("tqsq->ts", moment)
    by_place = by_place / np.trace(by_place) * places
    return Fit(
        weight=wide,
        moment=moment,
        target=target,
        power=float(np.vdot(target, wide)),
        starts=tuple(_starts(wide, by_place, by_column)),
        by_place=by_place,
        by_column=by_column / places,
    )


def _starts(weight: Array, by_place: Array, by_column: Array) -> Iterator[Components]:
    """Yield the components of the plain weight, and of one weighted as if C were separable."""
    outputs, places, columns = weight.shape
    flat = weight.reshape(outputs * places, columns)
    yield components(flat)
    root = scipy.linalg.cholesky(by_place, lower=True)
    turned = np.einsum("ts,otq->osq", root, weight, optimize=True)
    yield components(turned.reshape(outputs * places, columns), by_column)


def _unit_rows(matrix: Array) -> Array:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.where(norms > 0, norms, 1.0))


def _root(gram: Array) -> Array:
    """Return the lower Cholesky factor of a Gram matrix, its diagonal raised a little."""
    raised = _JITTER * max(float(np.trace(gram)) / len(gram), np.finfo(float).tiny)
    return np.asarray(scipy.linalg.cholesky(gram + raised * np.eye(len(gram)), lower=True))


def _solve(roots: tuple[Array, Array], right: Array) -> Array:
    """Return A^-1 R B^-1 from the Cholesky factors of A and B."""
    half = scipy.linalg.cho_solve((roots[0], True), right)
    return np.asarray(scipy.linalg.cho_solve((roots[1], True), half.T).T)
