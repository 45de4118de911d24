"""A plan with all that a conversion needs to follow it: the record of it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.ahead import Fits
from onnxq.calibration.corrections import Corrections
from onnxq.plans import Plan


@dataclass(frozen=True, kw_only=True, eq=False)
class Planned:
    """Hold a plan with all that a conversion needs to follow it.

    Attributes:
        plan: What to do.
        fits: The codebooks that were fitted for it.
        corrections: New values of biases.
        error: Noise through signal of the outputs, as the last joint run had it; None without runs.
        notes: What a user should know of how the target is met.
    """

    plan: Plan
    fits: Fits
    corrections: Corrections
    error: float | None = None
    notes: tuple[str, ...] = ()
