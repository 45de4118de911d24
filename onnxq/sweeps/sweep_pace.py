"""How far a sweep is, and how long the rest may take.

Owns the count of points and the pace, which is that of this sweep's own points: neither those of an
earlier sweep nor the pass of the reference, which comes before the first point, are in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SweepEvent:
    """Say how far a sweep is, at its start and after each point.

    `done` counts the points of earlier sweeps too, which are `reused`; `eta_seconds` is None until
    a point has shown how long one takes. `point` is the one that was finished last.
    """

    point: str
    done: int
    total: int
    reused: int
    seconds: float
    eta_seconds: float | None


Progress = Callable[[SweepEvent], None]


class Meter:
    """Tell a caller how far a sweep is; safe for threads.

    Args:
        total: All points.
        reused: Those that an earlier sweep has made.
        progress: Whom to tell; None for nobody.
    """

    def __init__(self, total: int, reused: int, progress: Progress | None) -> None:
        self._total, self._reused, self._progress = total, reused, progress
        self._started = self._began = time.monotonic()
        self._made = 0
        self._guard = threading.Lock()
        self._tell("")

    def begin(self) -> None:
        """Note that the first point begins."""
        self._began = time.monotonic()

    def step(self, point: str) -> None:
        """Count a point as made."""
        with self._guard:
            self._made += 1
            self._tell(point)

    def _tell(self, point: str) -> None:
        if self._progress is None:
            return
        now, done = time.monotonic(), self._reused + self._made
        left = None
        if done == self._total:
            left = 0.0
        elif self._made:
            left = (now - self._began) / self._made * (self._total - done)
        event = SweepEvent(
            point=point,
            done=done,
            total=self._total,
            reused=self._reused,
            seconds=now - self._started,
            eta_seconds=left,
        )
        self._progress(event)
