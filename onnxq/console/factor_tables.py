"""The tables of a report on low rank: which weights became factors, and what that lost.

Owns columns and units; `report_tables` has what all tables share.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from onnxq.console.report_tables import decibels, make_table, place
from onnxq.report import FactorRow

REASONS = {
    "attribute-reference": "set by a function's caller",
    "batched": "a matrix for each of a batch",
    "depthwise": "a kernel for each channel",
    "different-uses": "used in different ways",
    "excluded": "--include, --exclude, --rank",
    "graph-output": "an output of its graph too",
    "handed-on": "used behind another node",
    "constant-operand": "multiplied by another weight",
    "malformed": "does not fit its node",
    "not-split": "the ranks leave it whole",
    "operator": "no Conv, Gemm or MatMul",
    "too-small": "factors would take more",
    "unused": "no node uses it",
    "vector": "one dimension",
}
"""Reasons of weights that stay whole, beside those of any tensor that is kept."""

SHOWN = 12
"""How many weights are listed where not all are asked for."""


def worst_first(rows: Sequence[FactorRow]) -> list[FactorRow]:
    """Return the rows, those that lose most first: at the layer's outputs where that is known."""
    return sorted(rows, key=_kept)


def _kept(row: FactorRow) -> float:
    known = row.snr_db if row.statistics == "none" else row.output_snr_db
    return float("inf") if known is None else known


def factor_table(rows: Sequence[FactorRow], title: str) -> Table:
    """Return the split, the rank, the parameters and the losses of each weight."""
    is_known = any(row.statistics != "none" for row in rows)
    columns = ["split", "rank", "before", "after", "energy", "SNR dB"]
    table = make_table(title, *columns, *(["out dB"] if is_known else []))
    table.columns[1].justify = "left"
    for row in rows:
        cells = [
            row.split,
            f"{row.rank:,}/{row.full_rank:,}",
            f"{row.elements:,}",
            f"{row.factor_elements:,}",
            f"{100 * row.energy:.1f} %",
            decibels(row.snr_db),
        ]
        if is_known:
            cells.append("-" if row.statistics == "none" else decibels(row.output_snr_db))
        table.add_row(place(row.name, row.graph), *cells)
    return table
