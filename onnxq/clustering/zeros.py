"""Exact zeros: when a codebook keeps 0.0 for them, and how it is found.

Owns the rule that a sparse tensor decodes its zeros to 0.0. The idea: a position at 0 that weighs
more than all others together, by orders of magnitude, holds the mean of its cluster there. What is
then solved is the same problem with one centroid fixed at 0.
"""

from __future__ import annotations

import numpy as np

from onnxq.clustering.codebook import BLOCK, Array
from onnxq.clustering.spectrum import Floats, Spectrum, spectrum
from onnxq.parallel import blocks

_SPARSE = 0.5
"""Zeros are kept from this part of a fair share, 1 / k, on."""

COUNTED = 2.0**51
"""What a zero weighs among counts: running sums stay whole numbers below 2^53, so exact."""
WEIGHTED = 2.0**16
"""What a zero weighs beside weights of other kinds, as a multiple of their total.

The cost of its cluster is then low by at most this part; running sums keep 36 bits of the total.
"""


def share(values: Array) -> float:
    """Return the share of values that are 0.0 or -0.0; 0 of no values."""
    flat = values.reshape(-1)
    others = 0
    for start, stop in blocks(flat.size, BLOCK):
        part = flat[start:stop]
        if part.dtype.itemsize == 2:
            part = part.view(np.uint16) << 1  # numpy counts whole numbers far faster
        others += int(np.count_nonzero(part))
    return 1.0 - others / flat.size if flat.size else 0.0


def are_kept(zeros: float, k: int) -> bool:
    """Tell whether that share of zeros earns one of `k` centroids, at least two, for 0.0.

    >>> are_kept(0.3, 2), are_kept(0.01, 16), are_kept(0.04, 16)
    (True, False, True)
    """
    return k > 1 and zeros * k >= _SPARSE


def anchored(points: Spectrum, weight: float) -> Spectrum:
    """Return positions of which the one at value 0 has that much more weight; it may be new."""
    zero = -points.origin / points.scale
    weights = np.diff(points.weight)
    at = int(np.searchsorted(points.positions, zero))
    positions = points.positions
    if at == positions.size or positions[at] != zero:
        positions, weights = np.insert(positions, at, zero), np.insert(weights, at, 0.0)
    weights[at] += weight
    return spectrum(positions, weights, origin=points.origin, scale=points.scale)


def snapped(book: Floats) -> Floats:
    """Return centroids of which the one nearest to 0 is 0.0; of two, the lower."""
    found = book.copy()
    found[np.argmin(np.abs(book))] = 0.0
    return found
