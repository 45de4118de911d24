"""Draw weights that look like trained ones, and depend on the seed and the tensor's name alone.

Kernels are Laplacian, with He's variance 2 / fan-in (He et al. 2015) times the square of the slot's
level, and a scale of its own, log-normal, for every output channel. Scales and variances of
BatchNormalization are log-normal; biases and means are Laplacian around the slot's level. Nothing
is trained: such a model tells sizes, times and rounding errors, and nothing about a task.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from tools.networks.graph import FloatArray, Slot

CHANNEL_SPREAD = 0.2
"""Standard deviation of the logarithm of the output channels' scales."""
SPREADS = {"bias": 0.05, "mean": 0.3, "scale": 0.2, "variance": 0.5}
"""Standard deviation of biases and means; of the logarithm of scales and variances."""
CHUNK = 1 << 22


def generator(name: str, seed: int) -> np.random.Generator:
    """Return the random generator of one tensor."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def values(slot: Slot, seed: int) -> FloatArray:
    """Return the synthetic values of one tensor: float32, of the slot's shape."""
    rng = generator(slot.name, seed)
    if slot.kind == "kernel":
        return _kernel(rng, slot)
    spread = SPREADS[slot.kind]
    if slot.kind in ("scale", "variance"):
        drawn = slot.level * np.exp(spread * rng.standard_normal(slot.shape))
    else:
        drawn = slot.level + rng.laplace(scale=spread / math.sqrt(2), size=slot.shape)
    return drawn.astype(np.float32)


def _kernel(rng: np.random.Generator, slot: Slot) -> FloatArray:
    """Return a Laplacian kernel; needs its own size and a few megabytes of memory."""
    channels = np.exp(CHANNEL_SPREAD * rng.standard_normal(slot.shape[0]) - CHANNEL_SPREAD**2)
    # A Laplacian of variance 2 s^2 has the scale s: here s^2 = level^2 / fan-in.
    channels *= slot.level / math.sqrt(slot.fan_in)
    kernel = np.empty((slot.shape[0], slot.fan_in), dtype=np.float32)
    rows = max(1, CHUNK // slot.fan_in)
    for start in range(0, slot.shape[0], rows):
        part = kernel[start : start + rows]
        rng.standard_exponential(out=part, dtype=np.float32)
        part *= channels[start : start + rows, None].astype(np.float32)
        negative = rng.integers(0, 2, part.shape, dtype=np.uint8).view(bool)
        np.negative(part, out=part, where=negative)
    return kernel.reshape(slot.shape)
