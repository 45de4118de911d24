"""Values kept beside a codebook: the largest of a tensor, exact at their places.

Owns which values are kept, their two stored parts, and the clustering of the others. A few
outliers hold much of some tensors' power; kept, they need no centroids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from onnxq import halves
from onnxq.clustering.cluster import Clustering
from onnxq.errors import InputError
from onnxq.forms import KEPT, PLACES

Array = np.ndarray[Any, np.dtype[Any]]


def largest(values: Array, count: int) -> Array:
    """Return the flat places of the values of largest magnitude, int32, ascending.

    Of equal magnitudes the first ones are taken. Values hold no NaN; infinities are largest.

    >>> largest(np.float32([1, -3, 2, 3, -1, 2]), 3).tolist()
    [1, 2, 3]
    """
    sizes = np.abs(values.reshape(-1))
    if count == 0:
        return np.zeros(0, np.int32)
    least = np.partition(sizes, sizes.size - count)[sizes.size - count]
    above = np.flatnonzero(sizes > least)
    equal = np.flatnonzero(sizes == least)[: count - above.size]
    return np.sort(np.concatenate([above, equal])).astype(np.int32)


def others(values: Array, places: Array) -> Array:
    """Return the values that are not kept, flat, in order."""
    return np.delete(values.reshape(-1), places)


def filled(values: Array, places: Array) -> Array:
    """Return values with the first one of the others at each kept place, which need no index."""
    found = values.reshape(-1).copy()
    found[places] = others(values, places)[:1]
    return found.reshape(values.shape)


def clustered(values: Array, places: Array, fit_to: Callable[[Array], Clustering]) -> Clustering:
    """Return the clustering of the other values, with an index for each place of the tensor.

    Args:
        values: the tensor.
        places: those kept, fewer than there are values.
        fit_to: gives a clustering of flat values.
    """
    found = fit_to(others(values, places))
    indices = np.zeros(values.size, found.indices.dtype)
    is_other = np.ones(values.size, np.bool_)
    is_other[places] = False
    flat = found.indices.reshape(-1)
    indices[is_other] = flat
    indices[places] = flat[0]  # that of the value which `filled` puts there
    return replace(found, indices=indices.reshape(values.shape))


def kept_parts(values: Array, places: Array, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Return the stored parts by role: places, and values rounded to the stored type."""
    kept = values.reshape(-1)[places]
    stored = halves.rounded(kept) if dtype == np.float16 else kept.astype(dtype)
    return {PLACES: places, KEPT: stored}


def put_back(decoded: Array, parts: Mapping[str, Array]) -> Array:
    """Return decoded values with the kept ones at their places, in the type of `decoded`.

    Raises:
        InputError: the places do not ascend, or are none of the tensor's.
    """
    places = parts[PLACES]
    if not (np.diff(places) > 0).all() or places[0] < 0 or places[-1] >= decoded.size:
        raise InputError(
            f"kept values: found places from {places.min()} to {places.max()}, expected ascending "
            f"ones from 0 to {decoded.size - 1}; the file is damaged"
        )
    found = decoded.reshape(-1).copy()
    found[places] = parts[KEPT].astype(decoded.dtype)
    return found.reshape(decoded.shape)
