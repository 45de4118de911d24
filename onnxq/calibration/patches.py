"""What a layer multiplies its weight with, as rows: patches of a convolution, rows of a matrix.

Owns the geometry: which elements of an input meet in one output value. A convolution of many
positions is looked at in some of them, the same in every sample of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxq.calibration.attributes import read_attributes

Array = np.ndarray[Any, np.dtype[Any]]
Pick = Callable[[int, int], Array]
"""Return so many of the first whole numbers, rising: `pick(total, count)`."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Hold where a convolution looks, axis by axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    """Of the begins, then of the ends, as ONNX has them; not used where `auto_pad` decides."""
    auto_pad: str

    def reach(self) -> tuple[int, ...]:
        """Return how many elements a kernel spans."""
        pairs = zip(self.kernel, self.dilations, strict=True)
        return tuple((kernel - 1) * dilation + 1 for kernel, dilation in pairs)

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the zeros before and after each axis of these sizes (ONNX: Conv, auto_pad)."""
        if self.auto_pad == "VALID":
            return [(0, 0)] * len(sizes)
        if self.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            found = []
            for size, stride, reach in zip(sizes, self.strides, self.reach(), strict=True):
                total = max((-(-size // stride) - 1) * stride + reach - size, 0)
                less, more = total // 2, total - total // 2
                found.append((less, more) if self.auto_pad == "SAME_UPPER" else (more, less))
            return found
        rank = len(sizes)
        return list(zip(self.pads[:rank], self.pads[rank:], strict=True))

    def positions(self, padded: Sequence[int]) -> tuple[int, ...]:
        """Return how many outputs there are along each axis of an input with its padding."""
        return tuple(
            max(0, (size - reach) // stride + 1)
            for size, reach, stride in zip(padded, self.reach(), self.strides, strict=True)
        )


def window(node: NodeProto, kernel: Sequence[int]) -> Window:
    """Return where a Conv node looks, with a weight of this kernel."""
    attributes, ones = read_attributes(node), (1,) * len(kernel)
    auto_pad = attributes.by_name.get("auto_pad")
    return Window(
        kernel=tuple(kernel),
        strides=attributes.integers("strides") or ones,
        dilations=attributes.integers("dilations") or ones,
        pads=attributes.integers("pads") or (0,) * (2 * len(kernel)),
        auto_pad="NOTSET" if auto_pad is None else auto_pad.s.decode(),
    )


def of_convolution(values: Array, look: Window, count: int, pick: Pick) -> Array:
    """Return patches of an input as [samples x positions, channels, *kernel], in its dtype.

    Args:
        values: [samples, channels, *sizes].
        look: where the convolution looks.
        count: most positions of a sample; with more, `pick` chooses.
        pick: chooses positions.
    """
    padding = look.padding(values.shape[2:])
    padded = np.pad(values, [(0, 0), (0, 0), *padding])
    outputs = look.positions(padded.shape[2:])
    total = math.prod(outputs)
    chosen = np.arange(total) if total <= count else pick(total, count)
    starts = np.unravel_index(chosen, outputs) if total else [chosen] * len(outputs)
    places = []
    for axis, start in enumerate(starts):
        offsets = np.arange(look.kernel[axis]) * look.dilations[axis]
        place = start[:, np.newaxis] * look.strides[axis] + offsets
        shape = [len(chosen), *(1 for _ in look.kernel)]
        shape[1 + axis] = look.kernel[axis]
        places.append(place.reshape(shape))
    found = padded[(slice(None), slice(None), *places)]  # samples, channels, positions, *kernel
    samples, channels = values.shape[:2]
    moved = np.moveaxis(found, 1, 2)
    return moved.reshape(samples * len(chosen), channels, *look.kernel)


def of_matrix(values: Array, axis: int, count: int, pick: Pick) -> Array:
    """Return the vectors along an axis of a matrix or a stack of them as [vectors, size].

    Args:
        values: of any rank from 1.
        axis: -1 where vectors are rows, -2 where they are columns.
        count: most vectors; with more, `pick` chooses.
        pick: chooses vectors.
    """
    if values.ndim == 1:
        return values[np.newaxis]
    moved = np.moveaxis(values, axis, -1)
    flat = moved.reshape(-1, moved.shape[-1])
    return flat if len(flat) <= count else flat[pick(len(flat), count)]
