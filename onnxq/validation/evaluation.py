"""Both models over a data set: output differences and metrics, batch by batch.

Owns the order of it: the reference first and alone, then the candidate, on the same inputs, each
carrying its own state. Only a batch is in memory, with both models' outputs for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq import checks, runtime
from onnxq.checks import Check
from onnxq.data.batches import Batch
from onnxq.differences import OutputSums
from onnxq.errors import InputError, UnsupportedError, ValidationError
from onnxq.runtime import Session
from onnxq.session_settings import SessionSettings
from onnxq.validation.measurements import DataUsed, MetricRow
from onnxq.validation.metrics import Metric
from onnxq.validation.reference_runs import Carried, ReferenceRuns
from onnxq.validation.tallies import MetricError, Step, Tally, check_first, check_metrics


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Hold what was found of a candidate.

    Attributes:
        check: How its outputs differ.
        metrics: Figures of both models, in the order of the metrics.
        data: What both were run on.
    """

    check: Check
    metrics: tuple[MetricRow, ...]
    data: DataUsed


def evaluate(
    reference: ReferenceRuns,
    candidate: Path | bytes,
    metrics: Sequence[Metric],
    settings: SessionSettings | None = None,
) -> Evaluation:
    """Run the candidate on the reference's data and return differences and metrics.

    Where the data are random and the reference cannot be run on any, the check is "skipped" and
    there are no metrics.

    Args:
        reference: the reference's outputs; several threads may share them.
        candidate: file or serialised model.
        metrics: what `metrics.resolve` returned.
        settings: of the candidate's session; None for the reference's.

    Raises:
        ValidationError: the reference runs and the candidate does not, or lacks an output.
        OptionError: a metric names an output or truth that is not there.
        InputError: the reference cannot be run on the data, or they do not fit a metric
            (MetricError if the first batch tells).
        UnsupportedError: onnxruntime cannot compute the reference.
    """
    try:
        run_reference(reference, metrics)
    except MetricError:
        raise
    except (InputError, UnsupportedError) as err:
        if reference.dataset.kind != "random":
            raise
        return skipped(str(err))
    data = reference.data_used()
    session = _opened(candidate, settings or reference.settings)
    checks.check_outputs(reference.outputs, session)
    sums = {name: OutputSums() for name in reference.outputs}
    tallies = [Tally(metric) for metric in metrics]
    _walk(reference, session, sums, tallies)
    outputs = {name: item.difference(name) for name, item in sums.items()}
    check = Check(
        status="failed" if any(output.mismatch for output in outputs.values()) else "ok",
        samples=data.samples,
        inputs=data.inputs,
        outputs=tuple(outputs.values()),
        reference_load_seconds=reference.load_seconds,
        candidate_load_seconds=session.load_seconds,
    )
    rows = tuple(row for tally in tallies for row in tally.figures(outputs))
    return Evaluation(check=check, metrics=rows, data=data)


def run_reference(reference: ReferenceRuns, metrics: Sequence[Metric]) -> None:
    """Run the reference on all data, once it is clear that the metrics can be taken from them.

    Names of outputs and truths are checked before the first run; shapes and dtypes, and what
    plug-ins return, after the first batch.

    Raises:
        OptionError: a metric names an output or truth that is not there.
        MetricError: a metric does not fit the first batch.
        InputError, UnsupportedError: the reference cannot be run on the data.
    """
    reference.open()
    check_metrics(metrics, reference.outputs, reference.dataset.truths)
    reference.fill(lambda *first: check_first(metrics, _first_step(*first)))


def _first_step(batch: Batch, feeds: Mapping[str, Any], outputs: Mapping[str, Any]) -> Step:
    """Return the reference compared with itself."""
    return Step(
        where=batch.where,
        samples=batch.samples,
        sample={**feeds, **batch.truth},
        reference=_with_samples(outputs, batch),
        candidate=_with_samples(outputs, batch),
    )


def _walk(
    reference: ReferenceRuns,
    session: Session,
    sums: Mapping[str, OutputSums],
    tallies: Sequence[Tally],
) -> None:
    state = Carried(session, reference.carry)
    sequence = -1
    for batch, expected in reference.runs():
        feeds = state.feeds(batch)
        found = _run(session, feeds, batch)
        sequence += batch.is_start or sequence < 0
        state.keep(found)
        for name, item in sums.items():
            item.add(expected[name], found[name])
        step = Step(
            where=batch.where,
            samples=batch.samples,
            sample={**feeds, **batch.truth},
            reference=_with_samples(expected, batch),
            candidate=_with_samples(found, batch),
            sequence=sequence if reference.carry else None,
        )
        for tally in tallies:
            tally.add(step)


def _opened(candidate: Path | bytes, settings: SessionSettings) -> Session:
    try:
        return runtime.open_session(candidate, settings)
    except (InputError, UnsupportedError) as err:
        raise ValidationError(f"the reference runs, the candidate does not: {err}") from err


def _run(session: Session, feeds: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
    try:
        return session.run(feeds)
    except (InputError, UnsupportedError) as err:
        raise ValidationError(
            f"{batch.where}: the reference runs, the candidate does not: {err}"
        ) from err


def _with_samples(outputs: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
    """Return outputs with an axis of samples, which those of a sample as a whole lack."""
    if not batch.is_item:
        return dict(outputs)
    return {
        name: value[np.newaxis] if isinstance(value, np.ndarray) else value
        for name, value in outputs.items()
    }


def skipped(reason: str) -> Evaluation:
    """Return what is known where the reference cannot be run on random inputs: nothing."""
    check = Check(status="skipped", reason=reason, samples=0)
    return Evaluation(check=check, metrics=(), data=DataUsed(kind="random", samples=0))
