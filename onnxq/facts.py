"""What a plan must know of a tensor's values before anything is encoded.

Owns the one pass over the values at planning time: NaN, number of distinct values, equality with
other tensors. Each tensor is read, judged and released.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.clustering.cluster import count_distinct
from onnxq.clustering.grids import sample
from onnxq.graphs import Document
from onnxq.model import Weight, read
from onnxq.options import ConvertOptions
from onnxq.parallel import ordered_map
from onnxq.selection import width_for
from onnxq.tensors import Array

READ_BUDGET = 256 << 20
"""Bytes of tensors that may be in flight at once; a larger one travels alone."""
_HALF_MAX = 65504.0
_HALF_LEAST = 2.0**-14
"""Least normal float16: below it the spacing no longer shrinks with the value."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Hold what was seen: `distinct` bit patterns, counted up to 2^bit_width + 1.

    `infinities` counts the kinds of infinity (0 to 2); `digest` identifies the values (None where
    no other tensor has the same type and size); `fits_half` says that a float16 codebook loses no
    range at either end, and no exactness where the tensor has few enough distinct values to be
    lossless.
    """

    has_nan: bool
    infinities: int
    distinct: int
    digest: str | None
    fits_half: bool


def gather_facts(
    document: Document, candidates: Sequence[Weight], options: ConvertOptions, jobs: int
) -> Iterator[Facts]:
    """Yield the facts of each candidate, in order."""
    sizes = Counter((weight.data_type, weight.elements) for weight in candidates)

    def look(weight: Weight) -> Facts:
        values = read(document, weight).reshape(-1)
        may_equal = options.share_equal and sizes[weight.data_type, weight.elements] > 1
        return _look(values, 1 << width_for(weight, options), may_equal, options)

    return ordered_map(
        look, candidates, jobs=jobs, cost=lambda weight: weight.data_bytes, budget=READ_BUDGET
    )


def _look(values: Array, limit: int, may_equal: bool, options: ConvertOptions) -> Facts:
    with np.errstate(invalid="ignore"):  # bfloat16 would warn of NaN
        low, high = float(np.min(values)), float(np.max(values))
    if np.isnan(low):
        return Facts(has_nan=True, infinities=0, distinct=0, digest=None, fits_half=False)
    distinct = count_distinct(values, limit)
    is_wanted = options.codebook_dtype == "float16"
    return Facts(
        has_nan=False,
        infinities=int(np.isinf(low)) + int(np.isinf(high) and high != low),
        distinct=distinct,
        digest=hashlib.blake2b(values.view(np.uint8).data, digest_size=16).hexdigest()
        if may_equal
        else None,
        fits_half=is_wanted and _fits_half(values, (low, high), is_lossless=distinct <= limit),
    )


def spans_half(values: Array) -> bool:
    """Tell whether float16 loses no range of a tensor's values, which hold no NaN."""
    bounds = (float(np.min(values)), float(np.max(values)))
    return _fits_half(values.reshape(-1), bounds, is_lossless=False)


def _fits_half(values: Array, bounds: tuple[float, float], *, is_lossless: bool) -> bool:
    if any(np.isfinite(bound) and abs(bound) > _HALF_MAX for bound in bounds):
        return False
    if not is_lossless:
        return _typical(values) >= _HALF_LEAST
    exact = np.unique(values)
    return bool(np.array_equal(exact.astype(np.float16).astype(values.dtype), exact))


def _typical(values: Array) -> float:
    """Return the median magnitude of the nonzero finite values; infinite if there are none."""
    for part in (sample(values), values):
        found = np.abs(part[np.isfinite(part) & (part != 0)].astype(np.float64))
        if found.size:
            return float(np.median(found))
    return math.inf
