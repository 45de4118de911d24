"""Values stored as float16: what that type can hold, and its bits.

Owns the rounding, to nearest and ties to even. Infinities stay infinite; a finite value beyond the
range of float16 would become infinite, so a tensor that has one is not stored so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxq.clustering.codebook import BLOCK
from onnxq.parallel import blocks

Array = np.ndarray[Any, np.dtype[Any]]

_LIMIT = 65520.0
"""The least magnitude that rounds to infinity: half a step above the largest float16."""


def fits(values: Array) -> bool:
    """Tell whether no finite value becomes infinite in float16; NaN does not fit.

    >>> fits(np.float32([65519, np.inf])), fits(np.float32([65520]))
    (True, False)
    """
    flat = values.reshape(-1)
    for start, stop in blocks(flat.size, BLOCK):
        part = np.abs(flat[start:stop])
        if not np.all((part < _LIMIT) | (part == np.inf)):
            return False
    return True


def rounded(values: Array) -> Array:
    """Return values in float16; those that do not fit become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16)
