"""What decoding a tensor loses: squared error and signal-to-noise ratio of its finite values.

Owns the sums in float64, block by block in order, and what is done where squares leave its range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxq.clustering.codebook import BLOCK, signal_power
from onnxq.parallel import blocks

Array = np.ndarray[Any, np.dtype[Any]]

_LEAST_NOISE = 2.0**-900
"""Sums of squares below this may have lost some to underflow."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Hold the sum of squared errors, the ratio in dB (None if exact), whether bits are equal."""

    distortion: float
    snr_db: float | None
    is_lossless: bool


def measured(values: Array, decoded: Array) -> Loss:
    """Return what a decoded tensor has lost; both arrays have one type and shape.

    >>> measured(np.float32([3, 4]), np.float32([3, 4])).is_lossless
    True
    """
    if _is_same(values, decoded):
        return Loss(distortion=0.0, snr_db=None, is_lossless=True)
    noise = squared_error(values, decoded)
    ratio = plain_ratio(values, noise)
    if ratio is None:
        ratio = extreme_ratio(values, decoded)
    return Loss(distortion=noise, snr_db=ratio, is_lossless=False)


def _is_same(values: Array, decoded: Array) -> bool:
    one, other = (array.reshape(-1).view(np.uint8) for array in (values, decoded))
    return all(np.array_equal(one[a:b], other[a:b]) for a, b in blocks(one.size, BLOCK))


def squared_error(values: Array, decoded: Array) -> float:
    """Return the sum of squared differences over finite values, in float64."""
    total = 0.0
    one, other = values.reshape(-1), decoded.reshape(-1)
    for start, stop in blocks(one.size, BLOCK):
        wide = one[start:stop].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            wide -= other[start:stop].astype(np.float64)
            np.copyto(wide, 0.0, where=~np.isfinite(one[start:stop]))
            total += float(np.sum(wide * wide))
    return total


def plain_ratio(values: Array, noise: float) -> float | None:
    """Return 10 log10(signal power / noise) in dB; None where the sums left the safe range."""
    power = signal_power(values)
    if power < math.inf and _LEAST_NOISE < noise < math.inf:
        return 10 * (math.log10(power) - math.log10(noise))
    return None


def extreme_ratio(values: Array, decoded: Array) -> float | None:
    """Return the ratio of signal to noise in dB where sums leave the range; None if exact.

    Values are scaled; where even that is not enough, the ratio is that of the largest value to the
    largest residual.
    """
    peak, residual = _peaks(values, decoded)
    if residual == 0:
        return None
    scale = values.dtype.type(math.ldexp(1.0, max(math.frexp(peak)[1] - 2, -1074)))
    values, decoded = values / scale, decoded / scale
    noise = squared_error(values, decoded)
    if noise < _LEAST_NOISE:
        return 20 * (math.log10(peak) - math.log10(residual))
    return 10 * (math.log10(signal_power(values)) - math.log10(noise))


def _peaks(values: Array, decoded: Array) -> tuple[float, float]:
    """Return the largest magnitude among finite values and among their residuals."""
    peak = residual = 0.0
    flat, near = values.reshape(-1), decoded.reshape(-1)
    for start, stop in blocks(flat.size, BLOCK):
        part = flat[start:stop].astype(np.float64)
        is_finite = np.isfinite(part)
        part, other = part[is_finite], near[start:stop][is_finite]
        if part.size:
            peak = max(peak, float(np.abs(part).max()))
            with np.errstate(over="ignore"):
                residual = max(residual, float(np.abs(part - other.astype(np.float64)).max()))
    return peak, residual
