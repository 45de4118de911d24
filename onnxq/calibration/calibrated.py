"""Codebooks that keep a layer's outputs, by what is known of its inputs.

Owns how a codebook is fitted with calibration data: values count by how large the inputs are that
they meet, and errors that are made are made good by the values still to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxq.calibration.maps import LinearMap
from onnxq.calibration.moments import Moments, StoredMoments
from onnxq.clustering.cluster import Clustering, fit, halved
from onnxq.clustering.codebook import Array, decode, distortion, index_dtype
from onnxq.clustering.feedback import (
    ascending,
    assign_with_feedback,
    damping_for,
    refit_centroids,
)
from onnxq.graphs import Key

ROUNDS = 2
"""How often centroids are refitted to indices with feedback, and indices to them."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """Say how a codebook is fitted.

    Attributes:
        centroids: Most centroids.
        is_weighted: Count values by the second moment of the input that they meet.
        has_feedback: Make good what earlier indices of a row got wrong.
        is_half: Round centroids to float16.
    """

    centroids: int
    is_weighted: bool
    has_feedback: bool
    is_half: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Hold what is known of the inputs of linear maps, by the (graph, name) of the weight."""

    maps: Mapping[Key, LinearMap]
    moments: Mapping[Key, StoredMoments]

    def has_moments(self, key: Key) -> bool:
        """Tell whether a weight's inputs were seen."""
        return key in self.maps and key in self.moments

    def has_pairs(self, key: Key) -> bool:
        """Tell whether it is known how a weight's inputs vary together, which feedback needs."""
        return self.has_moments(key) and not self.moments[key].load().is_diagonal

    def clustering(
        self,
        key: Key,
        values: Array,
        fitting: Fitting,
        *,
        scales: Array | None = None,
        jobs: int = 1,
    ) -> Clustering:
        """Return a clustering of values that keeps a layer's outputs.

        Args:
            key: of the weight, which has moments.
            values: in its shape, over `scales` if there are any; finite for feedback.
            fitting: how.
            scales: what decoded values are multiplied by, as broad as the values.
            jobs: threads, which never change the result.

        Raises:
            InputError: the values hold NaN, or infinities with feedback.
        """
        one, moments = self.maps[key], self.moments[key].load()
        weights = _importance(one, moments, values, scales) if fitting.is_weighted else None
        found = fit(values, fitting.centroids, weights=weights, jobs=jobs)
        if fitting.has_feedback and not moments.is_diagonal and not found.is_lossless:
            return _fed_back(one, moments, values, found, scales, is_half=fitting.is_half)
        return halved(values, found, jobs=jobs) if fitting.is_half else found


def _importance(one: LinearMap, moments: Moments, values: Array, scales: Array | None) -> Array:
    """Return E[x_k^2] of the input that each value meets, times the square of its scale.

    The diagonal of a layer's input second moment weighs squared errors of its weights as they
    count in its outputs, if inputs did not vary together. A share of the mean is added, so that
    inputs that were never seen do not count for nothing.
    """
    power = moments.diagonal()
    power = power + 0.01 * max(float(power.mean()), 1e-30)
    rows = np.broadcast_to(power[:, None, :], (one.groups, one.outputs, one.inputs))
    weights = one.shaped(np.ascontiguousarray(rows))
    if scales is not None:
        weights = weights * np.square(scales.astype(np.float64))
    return weights


def _fed_back(
    one: LinearMap,
    moments: Moments,
    values: Array,
    found: Clustering,
    scales: Array | None,
    *,
    is_half: bool,
) -> Clustering:
    """Return a clustering with indices by error feedback, and centroids that suit them."""
    rows, second = one.rows(values), np.asarray(moments.second)
    factors = None
    if scales is not None:
        factors = one.rows(np.broadcast_to(scales, values.shape))[..., 0]
    book: Array = found.centroids.astype(np.float64)
    damping = damping_for(one.inputs, moments.vectors)
    indices = assign_with_feedback(rows, second, book, damping=damping)
    for _ in range(ROUNDS):
        book = refit_centroids(rows, second, indices, book, damping=damping, scales=factors)
        indices, book = ascending(indices, book)
        book = _stored(book, values.dtype, is_half)
        indices = assign_with_feedback(rows, second, book, damping=damping)
    indices, book = ascending(indices, book)
    centroids = book.astype(values.dtype)
    placed = np.ascontiguousarray(one.shaped(indices)).astype(index_dtype(centroids.size))
    return replace(
        found,
        centroids=centroids,
        indices=placed,
        distortion=distortion(values, placed, centroids),
        gap=None,
        is_lossless=bool(np.array_equal(decode(placed, centroids), values)),
    )


def _stored(book: Array, dtype: np.dtype[np.generic], is_half: bool) -> Array:
    """Return centroids rounded to what is stored, in float64."""
    rounded = book.astype(np.float16) if is_half else book.astype(dtype)
    return rounded.astype(np.float64)
