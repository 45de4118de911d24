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


@dataclass(frozen=True, kw_only=True)
class Turned:
    """Hold where a ConvTranspose puts its kernel: that of a window, what is added, a fixed size."""

    window: Window
    added: tuple[int, ...]
    """Elements more at the end of each axis (`output_padding`)."""
    sizes: tuple[int, ...] | None
    """Of the output, where the node tells them (`output_shape`)."""

    def extents(self, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the elements left off at the begin of each axis, and the sizes of the output.

        Formulas of ONNX (ConvTranspose); where the sizes tell what is left off, the odd element of
        SAME_UPPER is taken off at the end, any other at the begin.
        """
        begins, outputs = [], []
        look, rank = self.window, len(sizes)
        for axis, reach in enumerate(look.reach()):
            whole = look.strides[axis] * (sizes[axis] - 1) + self.added[axis] + reach
            wanted = self._wanted(axis, sizes[axis])
            if wanted is None:
                begin, end = (0, 0) if look.auto_pad == "VALID" else look.pads[axis::rank]
            else:
                less = max(0, whole - wanted) // 2
                more = max(0, whole - wanted) - less
                begin, end = (less, more) if look.auto_pad == "SAME_UPPER" else (more, less)
            begins.append(begin)
            outputs.append(max(0, whole - begin - end) if self.sizes is None else self.sizes[axis])
        return begins, outputs

    def _wanted(self, axis: int, size: int) -> int | None:
        """Return the size of an output from which the pads follow; None where pads are given."""
        if self.sizes is not None:
            return self.sizes[axis]
        is_same = self.window.auto_pad in ("SAME_UPPER", "SAME_LOWER")
        return size * self.window.strides[axis] if is_same else None


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


def turned(node: NodeProto, kernel: Sequence[int]) -> Turned:
    """Return where a ConvTranspose node puts a kernel."""
    attributes = read_attributes(node)
    sizes = attributes.integers("output_shape")
    return Turned(
        window=window(node, kernel),
        added=attributes.integers("output_padding") or (0,) * len(kernel),
        sizes=None if sizes is None else sizes[-len(kernel) :],
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
    places = [
        start[:, np.newaxis] * stride + np.arange(kernel) * dilation
        for start, stride, kernel, dilation in zip(
            _chosen(look.positions(padded.shape[2:]), count, pick),
            look.strides,
            look.kernel,
            look.dilations,
            strict=True,
        )
    ]
    return _gathered(padded, places)


def of_transposed(values: Array, look: Turned, count: int, pick: Pick) -> Array:
    """Return what meets in outputs of a ConvTranspose, as [samples x positions, channels, *kernel].

    Of every output, the element of the input that each place of the kernel is multiplied with, in
    the order of the kernel; 0 where a place meets none. Arguments as of `of_convolution`.
    """
    sizes = values.shape[2:]
    padded = np.pad(values, [(0, 0), (0, 0), *((0, 1) for _ in sizes)])
    begins, outputs = look.extents(sizes)
    places = []
    for axis, start in enumerate(_chosen(outputs, count, pick)):
        offsets = np.arange(look.window.kernel[axis]) * look.window.dilations[axis]
        found, rest = np.divmod(
            start[:, np.newaxis] + begins[axis] - offsets, look.window.strides[axis]
        )
        is_there = (rest == 0) & (found >= 0) & (found < sizes[axis])
        places.append(np.where(is_there, found, sizes[axis]))
    return _gathered(padded, places)


def _chosen(outputs: Sequence[int], count: int, pick: Pick) -> Sequence[Array]:
    """Return the positions that are looked at, axis by axis."""
    total = math.prod(outputs)
    chosen = np.arange(total) if total <= count else pick(total, count)
    return np.unravel_index(chosen, outputs) if total else [chosen] * len(outputs)


def _gathered(padded: Array, places: Sequence[Array]) -> Array:
    """Return what stands at the places of each axis, [positions, kernel], as patches."""
    spread: list[Any] = []
    for axis, place in enumerate(places):
        shape = [len(place), *(1 for _ in places)]
        shape[1 + axis] = place.shape[1]
        spread.append(place.reshape(shape))
    found = padded[(slice(None), slice(None), *spread)]  # samples, channels, positions, *kernel
    samples, channels = padded.shape[:2]
    moved = np.moveaxis(found, 1, 2)
    return moved.reshape(samples * len(places[0]), channels, *moved.shape[3:])


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


def of_matrices(values: Array, axis: int, batch: Sequence[int], count: int, pick: Pick) -> Array:
    """Return the vectors that each matrix of a batch is multiplied with, [groups, vectors, size].

    Args:
        values: the other operand of MatMul, of any rank from 1.
        axis: -1 where vectors are rows, -2 where they are columns.
        batch: the batch's sizes; values are the same for all matrices along an axis they lack.
        count: most vectors of a matrix; with more, `pick` chooses, the same for all.
        pick: chooses vectors.
    """
    rows = values[np.newaxis] if values.ndim == 1 else np.moveaxis(values, axis, -1)
    rank = max(len(batch), rows.ndim - 2)
    lead = (1,) * (rank - (rows.ndim - 2)) + rows.shape[:-2]
    wanted = (1,) * (rank - len(batch)) + tuple(batch)
    spread = [size if own == 1 else own for size, own in zip(lead, wanted, strict=True)]
    rows = np.broadcast_to(rows.reshape(*lead, *rows.shape[-2:]), (*spread, *rows.shape[-2:]))
    first = [place for place, own in enumerate(wanted) if own != 1]
    moved = np.moveaxis(rows, first, range(len(first)))
    flat = moved.reshape(math.prod(batch), -1, rows.shape[-1])
    return flat if flat.shape[1] <= count else flat[:, pick(flat.shape[1], count)]
