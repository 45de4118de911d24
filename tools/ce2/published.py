"""The published tables as records, and what their sizes say of codebooks.

Owns `published.csv` and its meaning. The accounting is that of `onnxq.rate.ce2_bytes`: indices
rounded up once, 4 bytes a kept float, 4 bytes a centroid.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name("published.csv")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Hold a published figure of the float network and of the quantized one, where known."""

    name: str
    original: float
    quantized: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold one published row; `note` says what was corrected or is odd."""

    table: int
    network: str
    variant: str
    working_point: str
    bits: int
    codebook_size: int
    parameters: int
    original_bytes: int
    quantized_bytes: int
    metrics: tuple[Metric, ...]
    note: str

    @property
    def ratio(self) -> float:
        """Original bytes through quantized ones."""
        return self.original_bytes / self.quantized_bytes


def read(path: Path = PATH) -> tuple[Row, ...]:
    """Return all rows in the order of the file.

    Raises:
        ValueError: a row contradicts itself; the message says which and how.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = tuple(_row(cells) for cells in csv.DictReader(file))
    for row in rows:
        _check(row)
    return rows


def table(number: int) -> tuple[Row, ...]:
    """Return the rows of one table, widths rising."""
    return tuple(row for row in read() if row.table == number)


def implied_centroids(published_bytes: int, bits: int, encoded: int, kept: int) -> float:
    """Return how many centroids a published size leaves room for.

    Solves size = ceil(bits * encoded / 8) + 4 * kept + 4 * centroids. What is no whole number, or
    more than full codebooks hold, says that the published network keeps other tensors.

    Args:
        published_bytes: the published size.
        bits: width of an index.
        encoded: elements of the tensors that are quantized.
        kept: floats of the others.

    >>> implied_centroids(51_885_095, 3, 138_357_544, 0)
    254.0
    """
    return (published_bytes - math.ceil(bits * encoded / 8) - 4 * kept) / 4


def _row(cells: Mapping[str, str]) -> Row:
    metrics = [
        Metric(
            name=cells[f"metric{nth}"],
            original=float(cells[f"original_metric{nth}"]),
            quantized=float(text) if (text := cells[f"quantized_metric{nth}"]) else None,
        )
        for nth in ("", "2")
        if cells[f"metric{nth}"]
    ]
    return Row(
        table=int(cells["table"]),
        network=cells["network"],
        variant=cells["variant"],
        working_point=cells["working_point"],
        bits=int(cells["bits"]),
        codebook_size=int(cells["codebook_size"]),
        parameters=int(cells["params"]),
        original_bytes=int(cells["original_bytes"]),
        quantized_bytes=int(cells["quantized_bytes"]),
        metrics=tuple(metrics),
        note=cells["note"],
    )


def _check(row: Row) -> None:
    where = f"{PATH.name}: table {row.table}, {row.bits} bits"
    if row.codebook_size != 2**row.bits:
        raise ValueError(f"{where}: found {row.codebook_size} centroids, expected {2**row.bits}")
    if row.original_bytes != 4 * row.parameters:
        raise ValueError(f"{where}: original bytes are not 4 times the parameters")
    if not 0 < row.quantized_bytes < row.original_bytes:
        raise ValueError(f"{where}: found {row.quantized_bytes} bytes, more than the original")
