"""How many outliers of a tensor are worth keeping beside its codebook.

Owns the quick look that says which counts are surveyed in full: two codebooks of the values without
the outliers, against those of all values.
"""

from __future__ import annotations

import math

import numpy as np

from onnxq import keeping
from onnxq.allocation.ways import Way, front, hull
from onnxq.clustering.codebook import Array
from onnxq.clustering.family import fit_family
from onnxq.plans import LEAST_PER_KEPT

COUNTS = (4, 16, 64, 256, 1024)
"""Values that may be kept, where they are 2 % of a tensor's at most."""
MOST_COUNTS = 1
"""Counts of a tensor that are surveyed in full."""
MOST_CENTROIDS = 256
"""A larger codebook covers the outliers itself."""
MIN_ELEMENTS = 1024
"""In a smaller tensor outliers do not save what the nodes cost."""

_PROBES = (4, 16)
"""Codebooks that are compared."""
_NODE_BYTES = 120
"""About what ScatterElements and all that belongs to it takes."""
_LEAST_SHARE = 1e-12
"""Distortion through that of all values below which it is no longer told apart."""


def counts(values: Array, item_bytes: int) -> list[int]:
    """Return how many of the largest values are worth a survey; none for most tensors.

    Distortion falls fourfold for each bit of an index, so a count that lowers it by a factor f is
    worth log2(f) / 2 bits a value at equal distortion, and costs its places and values.

    Args:
        values: a tensor without infinities.
        item_bytes: what a kept value is stored in, beside 4 bytes for its place.
    """
    able = [count for count in COUNTS if count <= values.size // LEAST_PER_KEPT]
    if values.size < MIN_ELEMENTS or not able:
        return []
    whole = [point.distortion for point in fit_family(values, _PROBES)]
    if min(whole) <= 0:
        return []
    found = []
    for count in able:
        rest = keeping.others(values, keeping.largest(values, count))
        points = fit_family(rest, _PROBES)
        shares = [point.distortion / one for point, one in zip(points, whole, strict=True)]
        bits = -math.log2(max(min(shares), _LEAST_SHARE)) / 2
        saved = bits * values.size / 8 - count * (4 + item_bytes) - _NODE_BYTES
        if saved > 0:
            found.append((saved, count))
    return sorted(count for _, count in sorted(found, reverse=True)[:MOST_COUNTS])


def kept_power(values: Array, count: int) -> float:
    """Return the sum of squares of the largest values, in float64."""
    kept = values.reshape(-1)[keeping.largest(values, count)].astype(np.float64)
    return float(np.sum(kept * kept))


def on_hull(sizes: list[int], distortions: list[float]) -> set[int]:
    """Return which of several ways lie on the lower convex hull of bytes and distortion."""
    ways = [Way(bytes=size, loss=loss) for size, loss in zip(sizes, distortions, strict=True)]
    return set(hull(ways, front(ways)))
