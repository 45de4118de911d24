"""Turn one tensor into planes and a codebook as its plan says, and back.

Owns the bytes of an encoded tensor. It obeys the plan: nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onnxq import bitpack, halves, keeping, losses, radixpack
from onnxq.clustering import codebook
from onnxq.clustering.cluster import Clustering, ClusterOptions, fit, halved, indexed
from onnxq.errors import InputError
from onnxq.forms import MAX_NODE_BYTES, Form, tile_rows, used_form
from onnxq.options import Init
from onnxq.parallel import blocks
from onnxq.plans import TensorPlan
from onnxq.pools import Pool
from onnxq.scaling import channel_scales, joined_scales, normalised, rescaled, scale_parts
from onnxq.trees import FLOAT16

Array = np.ndarray[Any, np.dtype[Any]]


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
    def scheme(self) -> Literal[Init, "lossless", "float16"]:
        """How the centroids were found."""
        if self.form.layout == "half":
            return "float16"
        return "lossless" if self.is_lossless else self.planned.init


Fitter = Callable[[Array, TensorPlan, int], Clustering]
"""Return the clustering of a tensor's values that its plan asks for, on so many threads."""


def fitted(values: Array, planned: TensorPlan, jobs: int = 1) -> Clustering:
    """Return the clustering that a tensor's plan asks for, on float16 centroids where it says so.

    With a `scale_axis` it is that of the values over their scales. The same values and plan give
    the same clustering, with any `jobs`.

    Raises:
        InputError: the plan asks for a codebook that only calibration data gives.
    """
    scales = tensor_scales(values, planned)
    return _fitted(values if scales is None else normalised(values, scales), planned, jobs)


def decoded(values: Array, planned: TensorPlan, known: Clustering) -> Array:
    """Return what a tensor decodes to with a clustering that `fitted` or another fitter gave."""
    scales = tensor_scales(values, planned)
    normal = values if scales is None else normalised(values, scales)
    found = _known(normal, planned, known, 1)
    plain = codebook.decode(found.indices, found.centroids).reshape(values.shape)
    if planned.kept_values:
        return keeping.put_back(plain, kept_parts(values, planned))
    return plain if scales is None else rescaled(plain, scales)


def kept_parts(values: Array, planned: TensorPlan) -> dict[str, Array]:
    """Return the places and the values that a tensor keeps, by role; nothing where it has none."""
    if not planned.kept_values:
        return {}
    stored = np.dtype(np.float16) if planned.kept_dtype == "float16" else values.dtype
    return keeping.kept_parts(values, keeping.largest(values, planned.kept_values), stored)


def tensor_scales(values: Array, planned: TensorPlan) -> Array | None:
    """Return the stored scales of a tensor, as broad as its values; None where it has none."""
    if planned.scale_axis is None:
        return None
    is_half = planned.scale_dtype == "float16"
    stored = np.dtype(np.float16) if is_half else values.dtype
    return channel_scales(values, planned.scale_axis, stored)


def _fitted(values: Array, planned: TensorPlan, jobs: int) -> Clustering:
    """Return the clustering of values that are normalised where the plan has scales."""
    if planned.needs_calibration:
        raise _no_calibration(planned)
    options = ClusterOptions(
        init=planned.init, pdf_factor=planned.pdf_factor, max_iterations=planned.max_iterations
    )

    def fit_to(chosen: Array) -> Clustering:
        found = fit(chosen, planned.centroids, options, jobs=jobs)
        return halved(chosen, found, jobs=jobs) if planned.has_half_codebook else found

    if not planned.kept_values:
        return fit_to(values)
    return keeping.clustered(values, keeping.largest(values, planned.kept_values), fit_to)


def _no_calibration(planned: TensorPlan) -> InputError:
    return InputError(
        f"tensor {planned.name!r}: its codebook was planned with calibration data, and none was "
        "given; give the data, or set is_weighted and has_feedback to false in the plan"
    )


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
            fitted again; or another clustering of them. With a `scale_axis` it is one of the values
            over their `tensor_scales`. Its indices need not be the nearest ones.
        jobs: threads, which never change the bytes.

    Raises:
        InputError: the plan asks for calibration data, and `known` is not given, or has no indices
            where they depend on that data.
    """
    if form.layout == "half":
        return _halved(values, planned, form)
    scales = tensor_scales(values, planned)
    found = _known(values if scales is None else normalised(values, scales), planned, known, jobs)
    stored_type = np.float16 if form.codebook_type == FLOAT16 else found.centroids.dtype
    used = used_form(form, found.centroids.size)
    book = np.zeros(used.codebook_length, stored_type)
    book[: found.centroids.size] = found.centroids
    payloads = {"codebook": book, **planes(found.indices, used)}
    if scales is not None:
        payloads |= scale_parts(scales, used)
    kept = kept_parts(values, planned)
    payloads |= kept
    loss = _loss(values, planned, found, scales, kept)
    return Encoded(
        planned=planned,
        form=used,
        payloads=payloads,
        payload_bytes=stored_bytes(payloads, used),
        distortion=loss.distortion,
        snr_db=loss.snr_db,
        gap=found.gap if planned.is_plain else 0.0 if loss.is_lossless else None,
        is_lossless=loss.is_lossless,
        iterations=found.iterations,
    )


def _halved(values: Array, planned: TensorPlan, form: Form) -> Encoded:
    """Return the record of a tensor whose values are stored as float16."""
    if not halves.fits(values):
        raise InputError(
            f"tensor {planned.name!r}: holds values beyond the range of float16 (65504), expected "
            "none in layout half; store it in another layout"
        )
    stored = halves.rounded(values)
    loss = losses.measured(values, stored.astype(values.dtype))
    payloads: dict[str, Array] = {}
    start = 0
    for tile, rows in enumerate(tile_rows(form)):
        payloads[f"values{tile}"] = stored[start : start + rows]
        start += rows
    return Encoded(
        planned=planned,
        form=form,
        payloads=payloads,
        payload_bytes=stored_bytes(payloads, form),
        distortion=loss.distortion,
        snr_db=loss.snr_db,
        gap=None,
        is_lossless=loss.is_lossless,
        iterations=0,
    )


def _known(normal: Array, planned: TensorPlan, known: Clustering | None, jobs: int) -> Clustering:
    """Return the clustering of a tensor with its indices."""
    if known is None:
        return _fitted(normal, planned, jobs)
    if planned.has_feedback and known.indices.size != normal.size:
        raise _no_calibration(planned)
    if planned.kept_values and known.indices.size != normal.size:
        normal = keeping.filled(normal, keeping.largest(normal, planned.kept_values))
    return indexed(normal, known, jobs=jobs)


def _loss(
    values: Array,
    planned: TensorPlan,
    found: Clustering,
    scales: Array | None,
    kept: Mapping[str, Array],
) -> losses.Loss:
    """Return what decoding loses of the values themselves.

    A clustering that calibration data gave may have weighed errors, one of values over their
    scales has other errors, and so has one beside kept values: all are decoded and measured.
    """
    if planned.is_plain:
        ratio = None if found.is_lossless else snr_db(values, found)
        return losses.Loss(distortion=found.distortion, snr_db=ratio, is_lossless=found.is_lossless)
    decoded = np.empty(values.size, values.dtype)
    flat = found.indices.reshape(-1)
    for start, stop in blocks(flat.size, codebook.BLOCK):  # numpy widens indices to int64
        decoded[start:stop] = found.centroids[flat[start:stop]]
    decoded = decoded.reshape(values.shape)
    if kept:
        return losses.measured(values, keeping.put_back(decoded, kept))
    return losses.measured(values, decoded if scales is None else rescaled(decoded, scales))


def snr_db(values: Array, found: Clustering) -> float | None:
    """Return 10 log10(signal power / distortion) in dB over finite values; None if exact."""
    ratio = losses.plain_ratio(values, found.distortion)
    if ratio is not None:
        return ratio
    return losses.extreme_ratio(values, codebook.decode(found.indices, found.centroids))


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
        if form.layout == "radix":
            found[f"plane{tile}.0"] = radixpack.pack(part, form.bit_width)
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
        if form.layout == "radix":
            words = payloads[f"plane{tile}.0"]
            tiles.append(radixpack.unpack(words, form.bit_width, rows * row_elements))
            continue
        count = len(bitpack.PACKINGS[form.bit_width].planes)
        parts = tuple(payloads[f"plane{tile}.{i}"].reshape(-1) for i in range(count))
        tiles.append(bitpack.unpack(parts, form.bit_width, rows * row_elements))
    return tiles[0] if len(tiles) == 1 else np.concatenate(tiles)


def decode(payloads: Mapping[str, Array], form: Form, dtype: np.dtype[Any]) -> Array:
    """Return the tensor that the stored bytes decode to, bit for bit what a runtime computes."""
    if form.layout == "half":
        tiles = [payloads[f"values{tile}"] for tile in range(len(tile_rows(form)))]
        return np.concatenate(tiles).astype(dtype).reshape(form.shape)
    centroids = payloads["codebook"].astype(dtype)
    indices = decode_indices(payloads, form)
    decoded = codebook.decode(indices, centroids).reshape(form.shape)
    if form.kept:
        return keeping.put_back(decoded, payloads)
    if form.scale_axis is None:
        return decoded
    return rescaled(decoded, joined_scales(payloads, form))
