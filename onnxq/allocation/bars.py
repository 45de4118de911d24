"""What a candidate must keep for a quality target, and how far above or below that it is.

Owns the figures that are judged and the words for them; candidates are made and run by others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from onnxq.allocation.targets import DropTarget, QualityTarget, SnrTarget
from onnxq.checks import Check
from onnxq.runtime import OutputSpec
from onnxq.validation import gates, metrics
from onnxq.validation.evaluation import Evaluation
from onnxq.validation.gates import Drop, Gates
from onnxq.validation.measurements import GateRow

AUTO_DECIBELS = 30.0
"""SNR of the worst output from which a loss counts as not measurable."""
AUTO_AGREEMENT = 0.995
"""Share of samples whose first class is that of the float model, from which less SNR is enough."""
AUTO_AGREEING_DECIBELS = 20.0
"""That SNR."""
AGREEMENT = "top1-agreement"

_DROP_DECIBELS = 20.0
"""Noise at which a metric begins to move, roughly: where a search for its bound begins."""
_AGREEMENT_SCALE = 1000.0
"""Decibels that a share of samples is worth: one in a hundred ten."""


class Bar(Protocol):
    """Judge what was measured of a candidate."""

    @property
    def decibels(self) -> float:
        """About the output SNR at which the bar is met; only a search begins there."""

    @property
    def gates(self) -> Gates:
        """What must be sound of the metrics before anything runs."""

    def metrics(self, outputs: Sequence[OutputSpec]) -> tuple[str, ...]:
        """Return the metrics to measure of a model."""

    def margin(self, found: Evaluation) -> float:
        """Return how far a candidate is above the bar; 0 or more is enough, NaN is not."""

    def text(self, found: Evaluation) -> str:
        """Return what a candidate has, for a person."""


def bar_of(target: QualityTarget) -> Bar:
    """Return the bar that a target sets."""
    if isinstance(target, SnrTarget):
        return SnrBar(decibels=target.decibels)
    return DropBar(drop=target.drop) if isinstance(target, DropTarget) else AutoBar()


@dataclass(frozen=True, kw_only=True)
class SnrBar:
    """Ask for an SNR of the worst output, as `onnxq validate` reports it."""

    decibels: float

    @property
    def gates(self) -> Gates:
        """None."""
        return Gates()

    def metrics(self, outputs: Sequence[OutputSpec]) -> tuple[str, ...]:
        """Return no metric: ratios are known of every candidate."""
        return ()

    def margin(self, found: Evaluation) -> float:
        """Return decibels above the bar."""
        return worst_snr(found.check) - self.decibels

    def text(self, found: Evaluation) -> str:
        """Return the SNR of the worst output."""
        return snr_text(found.check)


@dataclass(frozen=True, kw_only=True)
class AutoBar:
    """Ask for no measurable loss.

    That is `AUTO_DECIBELS` of the worst output; or, of a model whose first output holds scores of
    two or more classes, `AUTO_AGREEING_DECIBELS` where the first class is the same in
    `AUTO_AGREEMENT` of the samples.
    """

    @property
    def decibels(self) -> float:
        """The ratio that is enough of any model."""
        return AUTO_DECIBELS

    @property
    def gates(self) -> Gates:
        """None."""
        return Gates()

    def metrics(self, outputs: Sequence[OutputSpec]) -> tuple[str, ...]:
        """Return agreement of the first class, where there are classes."""
        return (AGREEMENT,) if AGREEMENT in metrics.default_names(outputs, ()) else ()

    def margin(self, found: Evaluation) -> float:
        """Return decibels above the bar that is the lower one."""
        ratio, agreement = worst_snr(found.check), _agreement(found)
        agreeing = min(
            ratio - AUTO_AGREEING_DECIBELS, _AGREEMENT_SCALE * (agreement - AUTO_AGREEMENT)
        )
        return max(ratio - AUTO_DECIBELS, agreeing)

    def text(self, found: Evaluation) -> str:
        """Return the SNR of the worst output, and the agreement where there are classes."""
        agreement = _agreement(found)
        more = f", the first class the same in {100 * agreement:.4g} %" if agreement >= 0 else ""
        return snr_text(found.check) + more


@dataclass(frozen=True, kw_only=True)
class DropBar:
    """Ask for a metric to get worse by a drop at most, as `onnxq validate --max-drop` judges it."""

    drop: Drop

    @property
    def decibels(self) -> float:
        """Where a search begins."""
        return _DROP_DECIBELS

    @property
    def gates(self) -> Gates:
        """The drop."""
        return Gates(max_drops=(self.drop,))

    def metrics(self, outputs: Sequence[OutputSpec]) -> tuple[str, ...]:
        """Return the metric."""
        return (self.drop.metric,)

    def margin(self, found: Evaluation) -> float:
        """Return what is left of the drop, in its own unit, at the output where that is least."""
        return min((self._margin(row) for row in self._rows(found)), default=math.nan)

    def text(self, found: Evaluation) -> str:
        """Return what became of the metric."""
        return "; ".join(row.message for row in self._rows(found))

    def _rows(self, found: Evaluation) -> tuple[GateRow, ...]:
        return gates.judge(self.gates, found.check, found.metrics, None, (1, 1))

    def _margin(self, row: GateRow) -> float:
        if row.found is None:
            return math.inf if row.passed else -math.inf
        left = self.drop.limit - row.found
        return max(left, 0.0) if row.passed else min(left, -math.ulp(1.0))


def worst_snr(check: Check) -> float:
    """Return the least SNR of all outputs in dB; infinity where they are equal, else NaN."""
    if check.is_equal:
        return math.inf
    return math.nan if check.worst_snr_db is None else check.worst_snr_db


def snr_text(check: Check) -> str:
    """Return the SNR of the worst output."""
    ratio = worst_snr(check)
    if math.isnan(ratio):
        return "no output that can be compared"
    return f"{ratio:.2f} dB" if math.isfinite(ratio) else "equal outputs" if ratio > 0 else "no SNR"


def _agreement(found: Evaluation) -> float:
    """Return the share of samples whose first class is the same; -1 where it is not known."""
    values = [row.candidate.value for row in found.metrics if row.name == AGREEMENT]
    known = [value for value in values if value is not None]
    return min(known, default=-1.0)
