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

AUTO_DECIBELS = 40.0
"""SNR of the worst output from which a loss counts as not measurable (docs/planning.md)."""
AUTO_CLASS_DECIBELS = 30.0
"""The same where the first output holds scores of classes, only the order of which matters.

A bound on how often the first class stays the same is no substitute: a classifier that is sure of
its calibration data keeps all classes at 20 dB there, and loses some on others.
"""
_DROP_DECIBELS = 20.0
"""Noise at which a metric begins to move, roughly: where a search for its bound begins."""


class Bar(Protocol):
    """Judge what was measured of a candidate."""

    @property
    def decibels(self) -> float:
        """About the output SNR at which the bar is met; only a search begins there."""

    @property
    def gates(self) -> Gates:
        """What must be sound of the metrics before anything runs."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics to measure."""

    def margin(self, found: Evaluation) -> float:
        """Return how far a candidate is above the bar; 0 or more is enough, NaN is not."""

    def text(self, found: Evaluation) -> str:
        """Return what a candidate has, for a person."""


def bar_of(target: QualityTarget, outputs: Sequence[OutputSpec]) -> Bar:
    """Return the bar that a target sets of a model with some outputs."""
    if isinstance(target, SnrTarget):
        return SnrBar(decibels=target.decibels)
    if isinstance(target, DropTarget):
        return DropBar(drop=target.drop)
    has_classes = "top1-agreement" in metrics.default_names(outputs, ())
    return SnrBar(decibels=AUTO_CLASS_DECIBELS if has_classes else AUTO_DECIBELS)


@dataclass(frozen=True, kw_only=True)
class SnrBar:
    """Ask for an SNR of the worst output, as `onnxq validate` reports it."""

    decibels: float

    @property
    def gates(self) -> Gates:
        """None."""
        return Gates()

    @property
    def metrics(self) -> tuple[str, ...]:
        """None: ratios are known of every candidate."""
        return ()

    def margin(self, found: Evaluation) -> float:
        """Return decibels above the bar."""
        return worst_snr(found.check) - self.decibels

    def text(self, found: Evaluation) -> str:
        """Return the SNR of the worst output."""
        return snr_text(found.check)


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

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric."""
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
