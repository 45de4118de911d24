"""Scales of a tensor's channels: values are clustered over their scales, then multiplied again.

Owns the choice of scales and the two products. A channel is one position on the scaled axis. A
scale is rounded to its stored type before anything is divided by it, so a coarse type costs no
quality: the codebook is fitted to what the stored scales leave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxq.errors import InputError
from onnxq.forms import MAX_NODE_BYTES, Form, scales_role, tile_rows
from onnxq.parallel import blocks

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 1 << 20
"""Values of whole channels that are squared at a time."""


def channel_scales(values: Array, axis: int, dtype: np.dtype[Any]) -> Array:
    """Return the scale of each channel: the root mean square of its finite values.

    Sums are taken in float64 over values that are divided by the channel's largest magnitude. The
    result is rounded to the stored type and kept inside its finite, positive range.

    Args:
        values: float32 or float64, at least one dimension.
        axis: the axis whose positions are channels.
        dtype: the stored type: float16, float32 or float64.

    Returns:
        Scales of dims [1, .., channels, .., 1], all above 0; 1 where all values are 0 or infinite.

    Raises:
        InputError: a value is NaN.

    >>> channel_scales(np.float32([[3, -3], [0, 0]]), 0, np.dtype(np.float16)).tolist()
    [[3.0], [1.0]]
    """
    moved = np.moveaxis(values, axis, 0)
    channels, length = moved.shape[0], max(1, math.prod(moved.shape[1:]))
    found = np.ones(channels)
    for start, stop in blocks(channels, max(1, _CHUNK // length)):
        rows = moved[start:stop].reshape(stop - start, -1).astype(np.float64)
        found[start:stop] = _root_mean_squares(rows)
    limits = np.finfo(dtype)
    bounded = np.clip(found, float(limits.smallest_subnormal), float(limits.max))
    dims = [1] * values.ndim
    dims[axis] = channels
    scales: Array = bounded.astype(dtype).reshape(dims)
    return scales


def _root_mean_squares(rows: Array) -> Array:
    """Return the root mean square of the finite values of each row; 1 where there are only 0."""
    if np.isnan(rows).any():
        raise InputError("values: found NaN, expected numbers")
    is_finite = np.isfinite(rows)
    np.copyto(rows, 0.0, where=~is_finite)
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    is_empty = peaks == 0
    peaks[is_empty] = 1.0
    rows /= peaks[:, None]
    means = np.sum(rows * rows, axis=1) / np.maximum(1, is_finite.sum(axis=1))
    return np.where(is_empty, 1.0, peaks * np.sqrt(means))


def normalised(values: Array, scales: Array) -> Array:
    """Return values over their scales, in the type and shape of the values."""
    with np.errstate(over="ignore", under="ignore"):
        found: Array = values / scales.astype(values.dtype)
    return found


def rescaled(decoded: Array, scales: Array) -> Array:
    """Return decoded values times their scales, bit for bit what `Mul` makes of them."""
    with np.errstate(over="ignore", under="ignore"):
        found: Array = decoded * scales.astype(decoded.dtype)
    return found


def scale_parts(scales: Array, form: Form, limit: int = MAX_NODE_BYTES) -> dict[str, Array]:
    """Return the stored scales by role: tile by tile where the first axis is scaled."""
    found: dict[str, Array] = {}
    start = 0
    for tile, rows in enumerate(tile_rows(form, limit)):
        own = scales[start : start + rows] if form.scale_axis == 0 else scales
        found[scales_role(form, tile)] = own
        start += rows
    return found


def joined_scales(payloads: Mapping[str, Array], form: Form, limit: int = MAX_NODE_BYTES) -> Array:
    """Return the scales of a tensor from its stored parts; the inverse of `scale_parts`."""
    if form.scale_axis != 0:
        return payloads[scales_role(form, 0)]
    tiles = range(len(tile_rows(form, limit)))
    return np.concatenate([payloads[scales_role(form, tile)] for tile in tiles])
