"""Gates: what a candidate must keep, and whether it does.

Owns the limits, their texts (`top1=1%`) and the judgement. A gate whose figure is undefined fails:
nothing is known, so nothing has passed. Without any gate a candidate fails only where an output
cannot be compared at all.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from onnxq.checks import Check
from onnxq.differences import OutputDifference
from onnxq.errors import OptionError
from onnxq.validation.measurements import GateRow, MetricRow, Named, Performance, finite, named

_ROUNDING = 4 * sys.float_info.epsilon
"""Relative error of a difference of two figures that were rounded to float64."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Say by how much a metric may get worse: absolutely, or as a share of the reference's."""

    metric: str
    limit: float
    is_relative: bool = False

    @property
    def gate(self) -> str:
        """The gate as it is asked for on the command line."""
        return f"--max-drop {self.metric}={self.amount(self.limit)}"

    def amount(self, value: float) -> str:
        """Return a drop as text: a percentage where the limit is one."""
        return f"{100 * value:.4g}%" if self.is_relative else f"{value:.4g}"


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Hold the limits that a candidate is judged by; None is no gate.

    Attributes:
        min_snr: Least SNR in dB of every output.
        max_drops: Most that metrics may get worse.
        max_latency_ratio: Most latency, candidate through reference: the median of the ratios of
            runs in turn, not the ratio of the medians.
        max_size_ratio: Most bytes, candidate through reference.

    Raises:
        OptionError: a limit is no number, or a ratio is not above 0.
    """

    min_snr: float | None = None
    max_drops: tuple[Drop, ...] = ()
    max_latency_ratio: float | None = None
    max_size_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.min_snr is not None and not _is_number(self.min_snr):
            raise OptionError(f"--min-snr: found {self.min_snr!r}, expected a number of decibels")
        for option, ratio in (
            ("--max-latency-ratio", self.max_latency_ratio),
            ("--max-size-ratio", self.max_size_ratio),
        ):
            if ratio is not None and not (_is_number(ratio) and ratio > 0):
                raise OptionError(f"{option}: found {ratio!r}, expected a ratio above 0")


def make_gates(
    min_snr: float | None = None,
    max_drop: Mapping[str, float | str] | None = None,
    max_latency_ratio: float | None = None,
    max_size_ratio: float | None = None,
) -> Gates:
    """Return the gates of a call.

    Args:
        min_snr: as in Gates.
        max_drop: limit by metric: a number is absolute, a text such as "1%" is relative.
        max_latency_ratio: as in Gates.
        max_size_ratio: as in Gates.

    Raises:
        OptionError: a limit is no number, or out of its range.
    """
    if max_drop is not None and not isinstance(max_drop, Mapping):
        raise OptionError(f"--max-drop: found {max_drop!r}, expected a mapping of metrics")
    drops = tuple(_drop(metric, limit) for metric, limit in (max_drop or {}).items())
    return Gates(
        min_snr=min_snr,
        max_drops=drops,
        max_latency_ratio=max_latency_ratio,
        max_size_ratio=max_size_ratio,
    )


def parse_drop(text: str) -> tuple[str, str]:
    """Return (metric, limit) of a `METRIC=X` or `METRIC=X%` argument.

    Raises:
        OptionError: it is no such text.

    >>> parse_drop("top1=1%")
    ('top1', '1%')
    """
    metric, _, limit = text.rpartition("=")
    if not metric.strip():
        raise OptionError(f"--max-drop: found {text!r}, expected METRIC=X or METRIC=X%")
    _drop(metric, limit)
    return metric, limit


class MetricLike(Named, Protocol):
    """Describe a metric that will be measured."""

    @property
    def kind(self) -> Literal["fidelity", "task"]:
        """Whether it compares with the reference, or with labels and targets."""

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which direction is good."""

    @property
    def unit(self) -> str:
        """Its unit."""


def check_drops(
    gates: Gates, metrics: Sequence[MetricLike], outputs: Collection[str] | None = None
) -> None:
    """Check before any run that every metric with a gate will be measured and can drop.

    Args:
        gates: the limits.
        metrics: what will be measured.
        outputs: outputs of the model; None where they are not known yet.

    Raises:
        OptionError: one is not, or is infinite of the reference itself, or a share of 0 is asked
            for.
    """
    for drop in gates.max_drops:
        chosen = named(drop.metric, metrics, outputs)
        if not chosen:
            measured = ", ".join(metric.label for metric in metrics) or "none"
            raise OptionError(
                f"{drop.gate}: metric {drop.metric!r} is not measured; measured are {measured}; "
                "--metric adds others"
            )
        for metric in chosen:
            _check_drop(drop, metric)


def _check_drop(drop: Drop, metric: MetricLike) -> None:
    """Refuse a drop from a figure that the reference has with itself, if it means nothing."""
    if metric.kind != "fidelity":
        return
    if metric.unit == "dB":
        raise OptionError(
            f"{drop.gate}: metric {drop.metric!r} is infinite of REF itself, so that no drop is "
            "defined; use --min-snr, or a metric of labels or targets"
        )
    if metric.better == "lower" and drop.is_relative:
        raise OptionError(
            f"{drop.gate}: metric {drop.metric!r} is 0 of REF itself, of which no share can be "
            f"taken; give an absolute number, such as --max-drop {drop.metric}=0.01"
        )


def judge(
    gates: Gates,
    check: Check,
    metrics: Sequence[MetricRow],
    performance: Performance | None,
    sizes: tuple[int, int],
) -> tuple[GateRow, ...]:
    """Return how every gate went, in the order of the command line's options.

    Args:
        gates: the limits.
        check: differences of the outputs; where it has a reason, no gate on them passes.
        metrics: figures of both models.
        performance: times; None where they were not measured.
        sizes: bytes of the reference and of the candidate.

    Raises:
        OptionError: a gate is on a metric that has no row, or whose drop means nothing.
    """
    return (
        *_snr_rows(gates.min_snr, check),
        *(row for drop in gates.max_drops for row in _drop_rows(drop, metrics, check)),
        *_ratio_rows(
            "--max-latency-ratio",
            gates.max_latency_ratio,
            "latency",
            None if performance is None else performance.latency_ratio,
        ),
        *_ratio_rows(
            "--max-size-ratio",
            gates.max_size_ratio,
            "size",
            sizes[1] / sizes[0] if sizes[0] > 0 else None,
        ),
    )


def failures(check: Check, rows: Sequence[GateRow]) -> tuple[str, ...]:
    """Return a line for a model that cannot be run, each broken output, each failed gate."""
    lines = []
    if check.reason is not None:
        is_skipped = check.status == "skipped"
        lines.append(("the reference could not be run: " if is_skipped else "") + check.reason)
    for output in check.outputs:
        if output.mismatch is not None:
            lines.append(f"output {output.name!r}: {output.mismatch}")
    lines += [f"{row.gate}: {row.message}" for row in rows if not row.passed]
    return tuple(lines)


def _snr_rows(limit: float | None, check: Check) -> Iterator[GateRow]:
    if limit is None:
        return
    gate, expected = f"--min-snr {limit:g}", f"expected at least {limit:g} dB"
    failing = {output.name for output in check.failing(limit)}
    for output in check.outputs:
        yield GateRow(
            gate=gate,
            subject=f"output {output.name!r}",
            found=finite(output.snr_db),
            limit=limit,
            passed=output.name not in failing,
            message=f"output {output.name!r} {_ratio_text(output)}, {expected}",
        )
    if not check.outputs:
        yield GateRow(
            gate=gate,
            subject="outputs",
            found=None,
            limit=limit,
            passed=False,
            message=f"no output was compared, {expected}",
        )


def _ratio_text(output: OutputDifference) -> str:
    if output.mismatch is not None:
        return f"cannot be compared ({output.mismatch})"
    if output.undefined is not None:
        return f"has {output.undefined}"
    if output.snr_db is None:
        return "is equal"
    return f"has {output.snr_db:.2f} dB" if math.isfinite(output.snr_db) else "has no signal"


def _drop_rows(drop: Drop, metrics: Sequence[MetricRow], check: Check) -> Iterator[GateRow]:
    rows = [row for row in metrics if drop.metric in (row.label, row.name)]
    if not rows and check.reason is None:
        measured = ", ".join(row.label for row in metrics) or "none"
        raise OptionError(
            f"{drop.gate}: metric {drop.metric!r} is not measured; measured are {measured}"
        )
    for row in rows:
        yield _drop_row(drop, row)
    if not rows:
        message = f"metric {drop.metric!r} was not measured, expected a drop of at most "
        yield GateRow(
            gate=drop.gate,
            subject=f"metric {drop.metric!r}",
            found=None,
            limit=drop.limit,
            passed=False,
            message=message + drop.amount(drop.limit),
        )


def _drop_row(drop: Drop, row: MetricRow) -> GateRow:
    before, after = _reference(drop, row), finite(row.candidate.value)
    if before is None or after is None:
        why = f" ({row.detail})" if row.detail else ""
        text = "is equal" if row.is_equal else f"is undefined{why}"
        found, passed = None, row.is_equal
    else:
        found, passed, text = _fall(drop, row, before, after)
    return GateRow(
        gate=drop.gate,
        subject=f"metric {row.label!r}",
        found=found,
        limit=drop.limit,
        passed=passed,
        message=f"metric {row.label!r} {text}, expected at most {drop.amount(drop.limit)}",
    )


def _fall(
    drop: Drop, row: MetricRow, before: float, after: float
) -> tuple[float | None, bool, str]:
    """Return the drop (None where it is no share of 0), whether it is allowed, and a text."""
    lost = before - after if row.better == "higher" else after - before
    scale = abs(before) if drop.is_relative else 1.0
    found = lost / scale if scale > 0 else None
    # 0.97 - 0.96 is more than 0.01 in float64; a drop of just the limit passes.
    passed = lost <= drop.limit * scale + _ROUNDING * max(abs(before), abs(after))
    figures = f"(from {before:.6g} to {after:.6g})"
    if lost <= 0:
        return found, passed, f"got no worse {figures}"
    went = "fell" if row.better == "higher" else "rose"
    by = "" if found is None else f" by {drop.amount(found)}"
    noise = ", which is within noise" if row.is_within_noise else ""
    return found, passed, f"{went}{by} {figures}{noise}"


def _reference(drop: Drop, row: MetricRow) -> float | None:
    """Return the figure to fall from: the reference's, or its own with itself (1, or no error)."""
    if row.kind == "task":
        return None if row.reference is None else finite(row.reference.value)
    _check_drop(drop, row)
    return 1.0 if row.better == "higher" else 0.0


def _ratio_rows(
    option: str, limit: float | None, subject: str, found: float | None
) -> Iterator[GateRow]:
    if limit is None:
        return
    text = "is undefined" if found is None else f"is {found:.3g} times that of REF"
    yield GateRow(
        gate=f"{option} {limit:g}",
        subject=subject,
        found=found,
        limit=limit,
        passed=found is not None and found <= limit,
        message=f"{subject} {text}, expected at most {limit:g} times",
    )


def _drop(metric: object, limit: Any) -> Drop:
    if not isinstance(metric, str) or not metric.strip():
        raise OptionError(f"--max-drop: found {metric!r}, expected the name of a metric")
    is_relative = isinstance(limit, str) and limit.strip().endswith("%")
    try:
        value = float(limit.strip().removesuffix("%") if isinstance(limit, str) else limit)
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(limit, bool) or not 0 <= value < math.inf:
        raise OptionError(
            f"--max-drop {metric}: found {limit!r}, expected a number >= 0 such as 0.01, or 1%"
        )
    return Drop(metric=metric, limit=value / 100 if is_relative else value, is_relative=is_relative)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)
