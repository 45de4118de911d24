"""Where the bytes of a converted network go against a published size, and the goals for both.

Owns the arithmetic between a report of `onnxq convert` and a published row; measures nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from onnxq.report import Report
from tools.ce2.published import Row, implied_centroids


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Hold the sizes of one converted network.

    Attributes:
        file_bytes: The whole file.
        ratio: Bytes of the original file through these.
        net_bytes: The file without what the original graph takes by itself, which is the original
            file less 4 bytes for each of its parameters.
        ce2_bytes: By the published accounting: no graph, no padding.
        encoded_tensors, encoded_weights: What was quantized.
        kept_floats: Floats of the other weights.
        centroids: Centroids in use, over all codebooks.
        full_centroids: What they would be with every codebook full.
        index_padding: Stored index bytes beyond bits * weights / 8, rounded up once.
        codebook_filling: Stored codebook bytes beyond 4 for each centroid in use; below 0 where
            codebooks are narrower.
        graph_growth: What the decoding adds: nodes, names, tables, less what the float tensors'
            own names and shapes took.
    """

    file_bytes: int
    ratio: float
    net_bytes: int
    ce2_bytes: int
    encoded_tensors: int
    encoded_weights: int
    kept_floats: int
    centroids: int
    full_centroids: int
    index_padding: int
    codebook_filling: int
    graph_growth: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)


NAMES = tuple(field.name for field in fields(Sizes))


def own_graph_bytes(report: Report) -> int:
    """Return what the original file holds beside 4 bytes for each float weight."""
    return report.input.file_bytes - 4 * report.weights


def sizes(report: Report) -> Sizes:
    """Return the sizes of a conversion to a file.

    Under the preset, `net_bytes` is the sum of `ce2_bytes`, padding, filling and growth. (By
    default a tensor may get fewer bits than asked for, and tensors may share what they store.)

    Raises:
        ValueError: the report is of no written file.
    """
    if report.output is None or report.ledger is None or report.output.ratio is None:
        raise ValueError("the report of a conversion to a file has its size; convert to a file")
    own = [row for row in report.tensors if row.same_as is None]
    encoded = sum(row.elements for row in report.tensors)
    kept = report.weights - encoded
    index_bits = sum(row.bit_width * row.elements for row in own)
    centroids = sum(row.centroids for row in own)
    net = report.output.file_bytes - own_graph_bytes(report)
    padding = report.ledger.indices - math.ceil(index_bits / 8)
    filling = report.ledger.codebooks - 4 * centroids
    return Sizes(
        file_bytes=report.output.file_bytes,
        ratio=report.output.ratio,
        net_bytes=net,
        ce2_bytes=report.ce2_bytes,
        encoded_tensors=len(report.tensors),
        encoded_weights=encoded,
        kept_floats=kept,
        centroids=centroids,
        full_centroids=sum(2**row.bit_width for row in own),
        index_padding=padding,
        codebook_filling=filling,
        graph_growth=net - report.ledger.indices - report.ledger.codebooks - 4 * kept,
    )


def implied(row: Row, ours: Sizes) -> float:
    """Return the centroids that the published size leaves room for, were our tensors quantized."""
    return implied_centroids(row.quantized_bytes, row.bits, ours.encoded_weights, ours.kept_floats)


def ce2_goal(row: Row, ours: Sizes) -> dict[str, Any]:
    """Return how CE2 bytes stand against the published size plus what full codebooks explain.

    Full codebooks explain 4 bytes for each centroid that the published size has no room for; but
    every codebook has at least one, so fewer than that explain nothing.
    """
    had = max(implied(row, ours), ours.encoded_tensors)
    limit = math.floor(row.quantized_bytes + 4 * max(0.0, ours.full_centroids - had))
    is_met = ours.ce2_bytes <= limit
    return {
        "goal": "ce2_bytes",
        "found": ours.ce2_bytes,
        "limit": limit,
        "is_met": is_met,
        "why": "" if is_met else _why(row, ours, {}) + _of_kept(row, ours),
    }


def file_goal(row: Row, ours: Sizes, tolerance: float) -> dict[str, Any]:
    """Return how the file without the original graph's bytes stands against the published size."""
    limit = math.floor((1 + tolerance) * row.quantized_bytes)
    is_met = ours.net_bytes <= limit
    parts = {
        f"decode graph of {ours.encoded_tensors} tensors": ours.graph_growth,
        "codebooks filled up": ours.codebook_filling,
        "indices filled up": ours.index_padding,
    }
    return {
        "goal": "net_bytes",
        "found": ours.net_bytes,
        "limit": limit,
        "is_met": is_met,
        "why": "" if is_met else _why(row, ours, parts),
    }


def _of_kept(row: Row, ours: Sizes) -> str:
    """Return what the kept floats take more than as indices, which may be how it was published."""
    if not ours.kept_floats:
        return ""
    spared = 4 * ours.kept_floats - math.ceil(row.bits * ours.kept_floats / 8)
    return (
        f"; the {ours.kept_floats:,} floats kept would take {spared:,} bytes less as indices, "
        "codebooks not counted"
    )


def _why(row: Row, ours: Sizes, added: dict[str, int]) -> str:
    """Return what stands between a published size and ours, the largest part first."""
    more = ours.centroids - implied(row, ours)
    parts = {
        f"{ours.centroids:,} centroids in use, {more:+,.10g} against those that the published size "
        "leaves room for": ours.ce2_bytes - row.quantized_bytes,
        **added,
    }
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    shares = [
        f"{text}: {count:+,} bytes ({count / row.quantized_bytes:+.2%})"
        for text, count in ordered
        if count
    ]
    return "; ".join(shares)
