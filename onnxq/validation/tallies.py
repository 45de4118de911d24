"""Metrics over a stream of batches: rows are collected, then become figures.

Owns which outputs a metric looks at, the pairing of both models' samples, and what is said where a
figure is undefined. Memory grows by one short row for each sample, metric and output; outputs are
not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxq.differences import OutputDifference
from onnxq.errors import InputError, OptionError
from onnxq.validation import estimates, sample_rows
from onnxq.validation.measurements import Estimate, MetricRow
from onnxq.validation.metrics import Metric
from onnxq.validation.sample_rows import Misfit

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(eq=False)
class _Rows:
    """Hold the rows of both models and the sequence of each."""

    reference: list[Array] = field(default_factory=list)
    candidate: list[Array] = field(default_factory=list)
    sequences: list[Array] = field(default_factory=list)
    nan_samples: tuple[int, int] = (0, 0)
    """Samples of both models whose scores hold NaN, where rows do not tell."""

    def count_nan(self, step: Step, output: str) -> None:
        """Take in how many samples of an output hold NaN."""
        ours, theirs = self.nan_samples
        ours += sample_rows.nan_samples(step.reference[output], step.samples)
        theirs += sample_rows.nan_samples(step.candidate[output], step.samples)
        self.nan_samples = ours, theirs

    def joined(self) -> tuple[Array, Array, Array | None]:
        """Return all rows; sequences are None where samples are independent."""
        sequences = np.concatenate(self.sequences) if self.sequences else None
        return np.concatenate(self.reference), np.concatenate(self.candidate), sequences


class MetricError(InputError):
    """Signal, before the data have been run, that a metric does not fit them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """Hold one batch with the outputs of both models; outputs have an axis of samples.

    `sample` has inputs and truth by name. `sequence` is the number of the sequence that the samples
    belong to, None where they are independent.
    """

    where: str
    samples: int
    sample: Mapping[str, Any]
    reference: Mapping[str, Any]
    candidate: Mapping[str, Any]
    sequence: int | None = None
    _differences: dict[str, Array] = field(default_factory=dict)

    def difference_rows(self, output: str) -> Array:
        """Return the rows that several metrics of an output share."""
        if output not in self._differences:
            self._differences[output] = sample_rows.difference_rows(
                self.reference[output], self.candidate[output], self.samples
            )
        return self._differences[output]


class Tally:
    """Collect the rows of one metric."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._outputs: tuple[str | None, ...] | None = (None,) if metric.plugin else None
        self._misfit = ""
        self._rows: dict[str | None, _Rows] = {}
        self._samples = 0

    def add(self, step: Step) -> None:
        """Take in a batch.

        Raises:
            InputError: an output, label or target does not have the shape that the metric needs,
                or a plug-in fails.
        """
        if self._outputs is None:
            self._outputs = self._choose(step)
        self._samples += step.samples
        for output in self._outputs:
            rows = self._rows.setdefault(output, _Rows())
            try:
                left, right = self._computed(step, output)
            except Misfit as err:
                raise InputError(f"{self._where(step)}: output {output!r} {err}") from err
            rows.reference.append(left)
            rows.candidate.append(right)
            if self.metric.truth == "label" and self.metric.rows is not sample_rows.score_rows:
                rows.count_nan(step, str(output))
            if step.sequence is not None:
                rows.sequences.append(np.full(len(left), step.sequence))

    def figures(self, differences: Mapping[str, OutputDifference]) -> tuple[MetricRow, ...]:
        """Return one row for each output, given how the outputs differ over all samples."""
        if self.metric.kind == "task":
            return tuple(self._task(output, rows) for output, rows in self._rows.items())
        if not self._rows:
            return (self._row(None, estimates.UNDEFINED, 0, (self._misfit,)),)
        return tuple(
            self._fidelity(output, rows, differences[str(output)])
            for output, rows in self._rows.items()
        )

    def _choose(self, step: Step) -> tuple[str | None, ...]:
        """Return the outputs that the metric is taken from, by the first batch."""
        metric, chosen, reasons = self.metric, [], []
        for output in [metric.output] if metric.output is not None else step.reference:
            try:
                if metric.output is None and metric.needs_float:
                    _require_float(step.reference[output])
                self._computed(step, output)
                chosen.append(output)
            except Misfit as err:
                reasons.append(f"output {output!r} {err}")
        if not chosen and (metric.kind == "task" or metric.output is not None):
            raise InputError(f"{self._where(step)}: {'; '.join(reasons)}")
        self._misfit = "; ".join(reasons)
        return tuple(chosen[:1] if metric.kind == "task" else chosen)

    def _computed(self, step: Step, output: str | None) -> tuple[Array, Array]:
        """Return the rows of the reference and the candidate; a fidelity metric has them once."""
        metric, samples = self.metric, step.samples
        if metric.plugin is not None:
            call = metric.plugin.rows
            ours = call(step.reference, step.sample, samples, step.where)
            return ours, call(step.candidate, step.sample, samples, step.where)
        assert metric.rows is not None
        assert output is not None
        if metric.truth is not None:
            truth = step.sample[metric.truth]
            ours = self._told(step, step.reference[output], truth)
            return ours, self._told(step, step.candidate[output], truth)
        if metric.rows is sample_rows.difference_rows:
            rows = step.difference_rows(output)
        else:
            rows = metric.rows(step.reference[output], step.candidate[output], samples)
        return rows, rows

    def _told(self, step: Step, output: Any, truth: Array) -> Array:
        assert self.metric.rows is not None
        try:
            return self.metric.rows(output, truth, step.samples)
        except InputError as err:
            raise InputError(f"{self._where(step)}: {err}") from err

    def _where(self, step: Step) -> str:
        return f"metric {self.metric.label}: {step.where}"

    def _fidelity(self, output: str | None, kept: _Rows, difference: OutputDifference) -> MetricRow:
        _, rows, sequences = kept.joined()
        why = difference.mismatch or difference.undefined
        if why is not None or np.isnan(rows).any():
            return self._row(output, estimates.UNDEFINED, 0, [why or ""])
        candidate = estimates.single(self.metric.aggregate, rows, sequences)
        notes = []
        if len(rows) != self._samples:
            notes.append(f"{len(rows)} rows of {self._samples} samples")
        notes += self._detail(rows)
        if not difference.is_equal:
            notes += self._spread([candidate], rows, sequences)
        is_equal = difference.is_equal
        return self._row(output, candidate, len(rows), notes, is_equal=is_equal)

    def _task(self, output: str | None, kept: _Rows) -> MetricRow:
        left, right, sequences = kept.joined()
        if left.shape[1] != right.shape[1]:
            raise InputError(
                f"metric {self.metric.label}: found {left.shape[1]} and {right.shape[1]} columns "
                "for reference and candidate, expected as many"
            )
        keep = np.asarray(~(np.isnan(left).any(1) & np.isnan(right).any(1)))
        keep &= min(kept.nan_samples) < self._samples
        notes = self._left_out(keep, kept.nan_samples)
        left, right = left[keep], right[keep]
        sequences = None if sequences is None else sequences[keep]
        found = estimates.paired(self.metric.aggregate, left, right, sequences)
        reference, candidate, difference = found.reference, found.candidate, found.difference
        is_exact = self.metric.aggregate.is_exact
        return MetricRow(
            name=self.metric.name,
            output=output,
            kind="task",
            better=self.metric.better,
            unit=self.metric.unit,
            samples=len(left),
            reference=reference,
            candidate=candidate,
            difference=difference,
            relative_change=_relative_change(reference.value, candidate.value),
            is_within_noise=_is_within_noise(difference),
            is_equal=bool(len(right)) and is_exact is not None and is_exact(right),
            detail="; ".join([*notes, *self._told_of(found, left, right, sequences)]),
        )

    def _left_out(self, keep: Array, nan_samples: tuple[int, int]) -> list[str]:
        """Return what must be known of samples without a figure, or with NaN among the scores."""
        if len(keep) and not keep.any():
            return ["no finite value to compare: both models gave only NaN"]
        ours, theirs = nan_samples
        if ours == theirs:
            notes = [f"{ours} of {self._samples} samples are NaN"] if ours else []
        else:
            who = f"{ours} of the reference and {theirs} of the candidate"
            notes = [f"of {self._samples} samples, {who} are NaN"]
        return notes if keep.all() else [*notes, f"{int((~keep).sum())} samples left out"]

    def _told_of(
        self, found: estimates.Paired, left: Array, right: Array, sequences: Array | None
    ) -> list[str]:
        """Return what must be known of the figures of both models."""
        lost = [int(np.isnan(rows).any(1).sum()) for rows in (left, right)]
        notes = [
            f"NaN in {count} samples of the {who}"
            for who, count in zip(("reference", "candidate"), lost, strict=True)
            if count
        ]
        if notes or not len(left):
            return notes
        return [
            *self._detail(right),
            *self._undefined("reference", found.reference, left),
            *self._undefined("candidate", found.candidate, right),
            *self._spread([found.reference, found.candidate], right, sequences),
        ]

    def _undefined(self, who: str, estimate: Estimate, rows: Array) -> list[str]:
        aggregate = self.metric.aggregate
        is_known = estimate.value is not None or not aggregate.undefined
        if is_known or (aggregate.is_exact is not None and aggregate.is_exact(rows)):
            return []
        return [f"{who} undefined: {aggregate.undefined}"]

    def _spread(self, found: Sequence[Estimate], rows: Array, sequences: Array | None) -> list[str]:
        """Return what an interval is over, or why there is none."""
        known = [estimate for estimate in found if estimate.value is not None]
        if not known:
            return []
        if any(estimate.low is None for estimate in known):
            why = estimates.why_no_interval(self.metric.aggregate, rows, sequences)
            return [why] if why else []
        if sequences is None:
            return []
        count = len(np.unique(sequences))
        if count > 1:
            return [f"interval over {count} sequences"]
        return ["samples of one sequence are not independent: the interval is too narrow"]

    def _detail(self, rows: Array) -> list[str]:
        return [] if self.metric.detail is None or not len(rows) else [self.metric.detail(rows)]

    def _row(
        self,
        output: str | None,
        candidate: Estimate,
        samples: int,
        notes: Sequence[str],
        *,
        is_equal: bool = False,
    ) -> MetricRow:
        return MetricRow(
            name=self.metric.name,
            output=output,
            kind="fidelity",
            better=self.metric.better,
            unit=self.metric.unit,
            samples=samples,
            candidate=candidate,
            is_equal=is_equal,
            detail="; ".join(note for note in notes if note),
        )


def check_metrics(metrics: Sequence[Metric], outputs: Sequence[str], truths: Sequence[str]) -> None:
    """Check that the model has the outputs, and the data the truth, that metrics name.

    Raises:
        OptionError: one is missing; the message lists what is there.
    """
    for metric in metrics:
        if metric.output is not None and metric.output not in outputs:
            raise OptionError(
                f"metric {metric.label}: the model has no output {metric.output!r}; its outputs "
                f"are {', '.join(map(repr, outputs))}"
            )
        if metric.truth is not None and metric.truth not in truths:
            there = ", ".join(map(repr, truths)) or "none"
            raise OptionError(
                f"metric {metric.label}: needs an array {metric.truth!r} in the data; besides "
                f"inputs there is {there}"
            )


def check_first(metrics: Sequence[Metric], step: Step) -> None:
    """Check on a first batch that metrics fit its outputs, labels and targets.

    Raises:
        MetricError: one does not; the message names metric and batch.
    """
    for metric in metrics:
        try:
            Tally(metric).add(step)
        except InputError as err:
            raise MetricError(str(err)) from err


def _require_float(value: object) -> None:
    if not sample_rows.is_float(value):
        raise Misfit("is of no floating point dtype; name it after '@' to have it compared")


def _relative_change(reference: float | None, candidate: float | None) -> float | None:
    if reference is None or not candidate:
        return None
    return (reference - candidate) / candidate


def _is_within_noise(difference: Estimate) -> bool | None:
    """Tell whether the interval holds 0, as any would of no difference; None without interval."""
    if difference.value == 0:
        return True
    if difference.low is None or difference.high is None:
        return None
    return difference.low <= 0 <= difference.high
