"""What rows say: scores, losses in standard errors, and whether a floor holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.bits.methods import METHODS, Subject
from tools.bits.rows import Row
from tools.bits.tasks import Task

ALLOWED = (1.0, 2.0)
"""Standard errors that may be lost at the first floor and at the second."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Hold what a method loses in files of at most a size.

    Attributes:
        share: Of the float weights' bytes, beside the graph's.
        limit_bytes: The size.
        allowed: Standard errors that may be lost.
        row: The largest file within the size; None where the method has none.
        losses: Of every metric of the task, in standard errors of the float model's figure; None
            where the file does not run or the figure is undefined.
    """

    share: float
    limit_bytes: int
    allowed: float
    row: Row | None
    losses: tuple[float | None, ...]

    @property
    def is_met(self) -> bool:
        """Whether no metric loses more than is allowed."""
        return bool(self.losses) and all(
            loss is not None and loss <= self.allowed for loss in self.losses
        )


def metric_of(row: Row, name: str) -> Mapping[str, Any] | None:
    """Return a row's figures of one metric, asked for as `--metric` takes it; None where it failed.

    A report names a metric without its output.
    """
    found = [m for m in row.get("metrics", ()) if m["name"] == name.partition("@")[0]]
    return found[0] if found else None


def snr_of(row: Row, task: Task) -> Mapping[str, Any] | None:
    """Return the output SNR of a row."""
    return metric_of(row, task.snr)


def loss(found: Mapping[str, Any] | None) -> float | None:
    """Return what was lost in standard errors of the float model's figure; below 0 is a gain."""
    if found is None or found["difference"] is None or found["difference"]["value"] is None:
        return None
    error = found["reference"]["standard_error"]
    if not error:
        return None
    sign = -1 if found["better"] == "higher" else 1
    return float(sign * found["difference"]["value"] / error) or 0.0


def of_method(rows: Iterable[Row], method: str) -> list[Row]:
    """Return the rows of a method, in their order."""
    return [row for row in rows if row["method"] == method]


def subject(rows: Sequence[Row], task: Task) -> Subject:
    """Return what the points of a task depend on, as its rows have it."""
    return Subject(
        task=task, file_bytes=rows[0]["original_bytes"], weight_bytes=rows[0]["weight_bytes"]
    )


def verdicts(rows: Sequence[Row], task: Task, method: str) -> list[Verdict]:
    """Return a method's verdict at every floor of a task, the wider floor first."""
    found = []
    for share, allowed in zip(task.floors, ALLOWED, strict=False):
        limit = subject(rows, task).size(share)
        fitting = [r for r in of_method(rows, method) if r.get("file_bytes", limit + 1) <= limit]
        best = max(fitting, key=lambda row: int(row["file_bytes"]), default=None)
        losses = tuple(loss(metric_of(best, name)) for name in task.metrics) if best else ()
        found.append(
            Verdict(share=share, limit_bytes=limit, allowed=allowed, row=best, losses=losses)
        )
    return found


def measured_methods(rows: Iterable[Row]) -> list[str]:
    """Return the methods that have rows, in the order of the table."""
    named = {row["method"] for row in rows}
    return [name for name in METHODS if name in named]
