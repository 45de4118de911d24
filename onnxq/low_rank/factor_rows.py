"""Turn layers and their factors into the rows and the ledger of a report.

Owns the accounting: every byte of the output is in one part of the ledger, and every tensor of the
model is in exactly one row.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from onnxq.low_rank.factors import Factors
from onnxq.low_rank.layers import Layer
from onnxq.low_rank.ranks import Key
from onnxq.model import Weight
from onnxq.report import FactorLedger, FactorRow
from onnxq.selection import Skip, reason_by_kind, skip


def factor_rows(
    layers: Sequence[Layer], made: Mapping[Key, Factors], seen: Collection[Key]
) -> tuple[FactorRow, ...]:
    """Return a row for each layer that has factors; `seen` are those whose inputs were known."""
    return tuple(
        _row(layer, made[layer.key], layer.key in seen) for layer in layers if layer.key in made
    )


def _row(layer: Layer, factors: Factors, is_seen: bool) -> FactorRow:
    weight = layer.weight
    return FactorRow(
        name=weight.name,
        graph=weight.graph,
        nodes=tuple(use.node.name for use in layer.uses),
        kind=layer.kind,
        shape=weight.shape,
        dtype=weight.dtype,
        split=factors.split,
        rank=factors.rank,
        full_rank=layer.full_rank(factors.split),
        elements=weight.elements,
        factor_elements=factors.first.size + factors.second.size,
        original_bytes=weight.data_bytes,
        stored_bytes=stored_bytes(factors),
        energy=1 - factors.weight_loss,
        snr_db=decibels(factors.weight_loss),
        output_snr_db=None if factors.output_loss is None else decibels(factors.output_loss),
        statistics="inputs" if is_seen else "none",
    )


def stored_bytes(factors: Factors) -> int:
    """Return the bytes of the values of both factors."""
    return int(factors.first.nbytes + factors.second.nbytes)


def decibels(loss: float) -> float | None:
    """Return signal through noise in dB, from noise through signal; None where there is none.

    >>> decibels(0.01), decibels(0.0)
    (20.0, None)
    """
    return -10 * math.log10(loss) if loss > 0 else None


def all_skips(
    weights: Sequence[Weight], made: Mapping[Key, Factors], known: Sequence[Skip]
) -> Iterator[Skip]:
    """Yield why each tensor without factors is kept, in the order of the weights."""
    reasons = {(item.graph, item.name): item for item in known}
    for weight in weights:
        key = weight.graph, weight.name
        if key in made:
            continue
        if key in reasons:
            yield reasons[key]
        elif reason := reason_by_kind(weight):
            yield skip(weight, *reason)


def ledger(total: int, factors: int, kept: int, original: int) -> FactorLedger:
    """Return where the bytes of an output went.

    Args:
        total: bytes of the output and its data file.
        factors: those of the values of all factors.
        kept: those of the weights that are kept.
        original: everything else that the model had before the factors came.
    """
    return FactorLedger(
        factors=factors,
        added_graph=total - factors - kept - original,
        kept_weights=kept,
        original_graph=original,
    )
