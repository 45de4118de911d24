"""Measure what importance weights, error feedback and refitted centroids do to a layer's outputs.

    python -m tools.bench.cluster_outputs --json docs/bench/cluster-outputs.json

Layers are synthetic: inputs behind a ReLU with common factors and channels of unlike size, weights
with heavy tails, smaller where inputs are larger. Moments are taken from some vectors; the output
error is that on others, relative to the nearest centroids of the optimal codebook of as many bits.
Times are CPU seconds with one BLAS thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from onnxq.clustering.cluster import fit, prepare
from onnxq.clustering.family import fit_family
from onnxq.clustering.feedback import (
    ascending,
    assign_with_feedback,
    damping_for,
    output_error,
    refit_centroids,
)
from onnxq.clustering.optimal import solve
from onnxq.clustering.spectrum import spectrum
from tools.bench import record

Array = np.ndarray[Any, np.dtype[Any]]
LAYERS = {
    "convolution 64 x 32 x 3 x 3": (64, 32, 9),
    "convolution 128 x 128 x 3 x 3": (128, 128, 9),
    "pointwise 256 x 256": (256, 256, 1),
    "dense 512 x 512": (512, 512, 1),
}
KS = (2, 3, 4, 6, 8, 9, 16, 32, 40, 64, 128, 256)
SEEN = 4
"""Vectors in the moments, for each input, in the table of bit widths."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Hold weights, [1, outputs, inputs], and a function that draws so many input vectors."""

    rows: Array
    draw: Callable[[int], Array]
    test: Array

    @property
    def inputs(self) -> int:
        """Length of an input vector."""
        return int(self.rows.shape[2])


def second_moment(x: Array) -> Array:
    """Return E[x x^T], [1, inputs, inputs]."""
    return np.asarray(x.T @ x / len(x))[None]


def layer(outputs: int, channels: int, taps: int, seed: int) -> Layer:
    """Draw a layer; its test moments are of 20 vectors for each input."""
    random = np.random.default_rng(seed)
    factors = max(4, channels // 4)
    mix = random.standard_normal((factors, channels)) / np.sqrt(factors)
    size = np.exp(0.8 * random.standard_normal(channels))
    shift = 0.5 * random.standard_normal(channels) - 0.2

    def draw(n: int) -> Array:
        common = random.standard_normal((n, 1, factors))
        inner = (0.8 * common + 0.6 * random.standard_normal((n, taps, factors))) @ mix
        inner += 0.4 * random.standard_normal((n, taps, channels)) + shift
        x = np.maximum(inner, 0.0) * size
        return np.asarray(x.transpose(0, 2, 1).reshape(n, channels * taps))

    test = second_moment(draw(20 * channels * taps))
    rows = random.standard_t(4, (1, outputs, channels * taps))
    rows *= 0.03 * np.exp(0.5 * random.standard_normal((1, outputs, 1)))
    rows /= np.einsum("gii->gi", test)[:, None, :] ** 0.25
    return Layer(rows=rows.astype(np.float32), draw=draw, test=test)


def ways(rows: Array, seen: Array, damping: float, k: int) -> dict[str, Array]:
    """Return the decoded weights of every way to fit k centroids."""
    importance = np.einsum("gii->gi", seen)[:, None, :]
    plain, weighty = fit(rows, k), fit(rows, k, weights=importance)
    found = {"nearest": plain.centroids[plain.indices]}
    found["weights"] = weighty.centroids[weighty.indices]
    found["refit"] = refit_centroids(rows, seen, plain.indices, plain.centroids)[plain.indices]
    for name, book in (("", plain.centroids), ("weights + ", weighty.centroids)):
        indices = assign_with_feedback(rows, seen, book, damping=damping)
        found[f"{name}feedback"] = book[indices]
        refit = refit_centroids(rows, seen, indices, book, damping=damping)
        found[f"{name}feedback + refit"] = refit[indices]
        indices = assign_with_feedback(rows, seen, book, damping=damping, sweeps=2)
        found[f"{name}feedback + 2 sweeps"] = book[indices]
        for _ in range(3):
            refit = refit_centroids(rows, seen, indices, book, damping=damping)
            indices, book = ascending(indices, refit)
            indices = assign_with_feedback(rows, seen, book, damping=damping, sweeps=1)
        found[f"{name}3 x (feedback + sweep + refit)"] = book[indices]
    scales = np.sqrt(np.mean(np.square(rows, dtype=np.float64), axis=2, keepdims=True))
    scaled = (rows / scales).astype(np.float32)
    even = fit(scaled, k)
    found["scales"] = even.centroids[even.indices] * scales
    heavy = fit(scaled, k, weights=importance * scales * scales)
    found["scales + weights"] = heavy.centroids[heavy.indices] * scales
    indices = assign_with_feedback(scaled, seen, heavy.centroids, damping=damping)
    found["scales + weights + feedback"] = heavy.centroids[indices] * scales
    return found


def errors(seed: int) -> list[dict[str, Any]]:
    """Return relative output errors: every width with enough vectors, 4 bits with few and many."""
    lines = []
    for name, shape in LAYERS.items():
        one = layer(*shape, seed)
        cases = [(SEEN, bits) for bits in (2, 3, 4, 5, 6)] + [(0.25, 4), (1, 4), (16, 4)]
        for share, bits in cases:
            vectors = int(share * one.inputs)
            seen = second_moment(one.draw(vectors))
            damping = damping_for(one.inputs, vectors)
            found = ways(one.rows, seen, damping, 1 << bits)
            lost = {way: output_error(one.rows, q, one.test) for way, q in found.items()}
            relative = {way: float(f"{e / lost['nearest']:.4g}") for way, e in lost.items()}
            lines.append({"layer": name, "vectors_by_input": share, "bits": bits, **relative})
            print(lines[-1], flush=True)
    return lines


def seconds(function: Callable[[], Any]) -> dict[str, Any]:
    """Return the spread of the CPU seconds of three runs."""
    found = []
    for _ in range(3):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return record.spread(found)


def times(seed: int) -> dict[str, Any]:
    """Time feedback on a large layer, and families of codebooks."""
    random = np.random.default_rng(seed)
    rows = random.standard_t(4, (1, 512, 4608)).astype(np.float32)
    x = np.maximum(random.standard_normal((9216, 64)) @ random.standard_normal((64, 4608)), 0.0)
    moments, found = second_moment(x + 0.1 * random.standard_normal(x.shape)), fit(rows, 16)
    book = found.centroids
    lines: dict[str, Any] = {
        "feedback 512 x 4608": seconds(lambda: assign_with_feedback(rows, moments, book)),
        "refit 512 x 4608": seconds(lambda: refit_centroids(rows, moments, found.indices, book)),
        "output error 512 x 4608": seconds(
            lambda: output_error(rows, book[found.indices], moments)
        ),
    }
    for n in (300, 10_000, 130_000, 1_000_000, 10_000_000):
        values = random.standard_t(5, n).astype(np.float32)
        lines[f"family of {len(KS)}, {n} values"] = seconds(partial(fit_family, values, KS))
    return lines


def weighted_excess(seed: int) -> list[dict[str, Any]]:
    """Compare weighted fits of a million values with the proven weighted optimum."""
    random = np.random.default_rng(seed)
    lines = []
    for name in ("standard_normal", "laplace"):
        values = getattr(random, name)(size=(1000, 1000)).astype(np.float32)
        weights = np.exp(2 * random.standard_normal((1, 1000)))
        x, inverse = np.unique(values.astype(np.float64).reshape(-1), return_inverse=True)
        flat = np.broadcast_to(weights, values.shape).reshape(-1)
        points = spectrum(x, np.asarray(np.bincount(inverse, weights=flat), np.float64))
        for k in (3, 16, 64, 256):
            found = fit(values, k, weights=weights)
            residuals = (
                values.astype(np.float64) - found.centroids.astype(np.float64)[found.indices]
            )
            cost = float(np.sum(weights * residuals**2))
            excess = float(f"{cost / solve(points, k).bound - 1:.3g}")
            lines.append({"data": name, "values": values.size, "k": k, "excess": excess})
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    prepare(1 << 30)
    with threadpool_limits(limits=1, user_api="blas"):
        result = record.environment() | {
            "seed": arguments.seed,
            "weighted_excess": weighted_excess(arguments.seed),
            "output_errors": errors(arguments.seed),
            "cpu_seconds": times(arguments.seed),
        }
    record.write(result, arguments.json)


if __name__ == "__main__":
    main()
