"""Turn one tensor into planes and a codebook as its plan says, and back.

Owns the bytes of an encoded tensor. It obeys the plan: nothing is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onnxq import bitpack
from onnxq.clustering import codebook
from onnxq.clustering.cluster import Clustering, ClusterOptions, fit, halved, indexed
from onnxq.forms import MAX_NODE_BYTES, Form, tile_rows, used_form
from onnxq.options import Init
from onnxq.parallel import blocks
from onnxq.plan import TensorPlan
from onnxq.pools import Pool
from onnxq.trees import FLOAT16

Array = np.ndarray[Any, np.dtype[Any]]

_LEAST_NOISE = 2.0**-900
"""Sums of squares below this may have lost some to underflow."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """Hold the stored bytes of one tensor and what they cost in quality.

    `payloads` maps each role of the form (`plane0.1`, `codebook`) to its raw bytes as an array;
    `form.centroids` are the centroids really used. `snr_db` is None where decoding is exact.
    """

    planned: TensorPlan
    form: Form
    payloads: Mapping[str, Array]
    payload_bytes: Mapping[str, int]
    distortion: float
    snr_db: float | None
    gap: float | None
    is_lossless: bool
    iterations: int

    def without_payloads(self) -> Encoded:
        """Return the record alone, to keep when the bytes are stored."""
        return replace(self, payloads={})

    @property
    def scheme(self) -> Literal[Init, "lossless"]:
        """How the centroids were found."""
        return "lossless" if self.is_lossless else self.planned.init


def fitted(values: Array, planned: TensorPlan, *, jobs: int = 1) -> Clustering:
    """Return the clustering that a tensor's plan asks for, on float16 centroids where it says so.

    The same values and plan give the same clustering, with any `jobs`.
    """
    options = ClusterOptions(
        init=planned.init, pdf_factor=planned.pdf_factor, max_iterations=planned.max_iterations
    )
    found = fit(values, planned.centroids, options, jobs=jobs)
    return halved(values, found, jobs=jobs) if planned.has_half_codebook else found


def encode(
    values: Array,
    planned: TensorPlan,
    form: Form,
    *,
    known: Clustering | None = None,
    jobs: int = 1,
) -> Encoded:
    """Return a tensor's planes and codebook.

    Args:
        values: the tensor, in its shape.
        planned: what was decided for it.
        form: the planned form; the centroids really used replace the planned number.
        known: what `fitted` gave for these values, with or without indices, so that they are not
            fitted again.
        jobs: threads, which never change the bytes.
    """
    if known is None:
        found = fitted(values, planned, jobs=jobs)
    else:
        found = indexed(values, known, jobs=jobs)
    stored_type = np.float16 if form.codebook_type == FLOAT16 else found.centroids.dtype
    used = used_form(form, found.centroids.size)
    book = np.zeros(used.codebook_length, stored_type)
    book[: found.centroids.size] = found.centroids
    payloads = {"codebook": book, **planes(found.indices, used)}
    return Encoded(
        planned=planned,
        form=used,
        payloads=payloads,
        payload_bytes=stored_bytes(payloads, used),
        distortion=found.distortion,
        snr_db=None if found.is_lossless else snr_db(values, found),
        gap=found.gap,
        is_lossless=found.is_lossless,
        iterations=found.iterations,
    )


def snr_db(values: Array, found: Clustering) -> float | None:
    """Return 10 log10(signal power / distortion) in dB over finite values; None if exact.

    Where squares leave the range of float64, values are scaled; where even that is not enough, the
    ratio is that of the largest value to the largest residual.
    """
    power, noise = codebook.signal_power(values), found.distortion
    if power < math.inf and _LEAST_NOISE < noise < math.inf:
        return 10 * (math.log10(power) - math.log10(noise))
    peak, residual = _peaks(values, found)
    if residual == 0:
        return None
    scale = values.dtype.type(math.ldexp(1.0, max(math.frexp(peak)[1] - 2, -1074)))
    values, book = values / scale, found.centroids / scale
    noise = codebook.distortion(values, found.indices, book)
    if noise < _LEAST_NOISE:
        return 20 * (math.log10(peak) - math.log10(residual))
    return 10 * (math.log10(codebook.signal_power(values)) - math.log10(noise))


def _peaks(values: Array, found: Clustering) -> tuple[float, float]:
    """Return the largest magnitude among finite values and among their residuals."""
    peak = residual = 0.0
    flat, picks = values.reshape(-1), found.indices.reshape(-1)
    for start, stop in blocks(flat.size, codebook.BLOCK):
        part = flat[start:stop].astype(np.float64)
        is_finite = np.isfinite(part)
        part, near = part[is_finite], found.centroids[picks[start:stop][is_finite]]
        if part.size:
            peak = max(peak, float(np.abs(part).max()))
            with np.errstate(over="ignore"):
                residual = max(residual, float(np.abs(part - near.astype(np.float64)).max()))
    return peak, residual


def planes(indices: Array, form: Form, limit: int = MAX_NODE_BYTES) -> dict[str, Array]:
    """Return the planes of a tensor's indices by role, tile by tile.

    A pooled tensor has its `indices`, flat, one an element; `packed_stream` packs them together.
    """
    if form.pool is not None:
        small = np.uint8 if form.bit_width <= 8 else np.uint16
        return {"indices": indices.reshape(-1).astype(small)}
    shaped = indices.reshape(form.shape)
    found: dict[str, Array] = {}
    start = 0
    for tile, rows in enumerate(tile_rows(form, limit)):
        part = shaped[start : start + rows]
        start += rows
        if form.is_plain:
            found[f"plane{tile}.0"] = part.astype(np.uint8 if form.bit_width <= 8 else np.uint16)
            continue
        for number, plane in enumerate(bitpack.pack(part, form.bit_width)):
            found[f"plane{tile}.{number}"] = plane
    return found


def packed_stream(members: Sequence[Array], pool: Pool) -> Array:
    """Return the stream of a pool from the indices of its tensors, in order."""
    return bitpack.pack_stream(np.concatenate(members), pool.bit_width)


def stored_bytes(payloads: Mapping[str, Array], form: Form) -> dict[str, int]:
    """Return the bytes that each payload takes in the file; of a pool, the tensor's part."""
    found = {role: values.nbytes for role, values in payloads.items()}
    if form.pool is not None:
        found["indices"] = form.pool.share_bytes(form.member)
    return found


def decode_indices(payloads: Mapping[str, Array], form: Form, limit: int = MAX_NODE_BYTES) -> Array:
    """Return the indices of a tensor, flat, from its planes; the inverse of `planes`.

    Native planes are given packed, two or four indices a byte; a pooled tensor's are read from the
    stream of its pool.
    """
    if form.pool is not None:
        stream = payloads[form.pool.role].reshape(-1)
        start = form.pool.start(form.member)
        return bitpack.unpack_stream(stream, form.bit_width, start, form.elements)
    row_elements = form.elements // form.shape[0] if form.shape else 1
    tiles = []
    for tile, rows in enumerate(tile_rows(form, limit)):
        if form.is_plain:
            tiles.append(payloads[f"plane{tile}.0"].reshape(-1))
            continue
        count = len(bitpack.PACKINGS[form.bit_width].planes)
        parts = tuple(payloads[f"plane{tile}.{i}"].reshape(-1) for i in range(count))
        tiles.append(bitpack.unpack(parts, form.bit_width, rows * row_elements))
    return tiles[0] if len(tiles) == 1 else np.concatenate(tiles)


def decode(payloads: Mapping[str, Array], form: Form, dtype: np.dtype[Any]) -> Array:
    """Return the tensor that the stored bytes decode to, bit for bit what a runtime computes."""
    centroids = payloads["codebook"].astype(dtype)
    indices = decode_indices(payloads, form)
    return codebook.decode(indices, centroids).reshape(form.shape)
