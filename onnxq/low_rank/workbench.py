"""Where ranks depend on runs of the model: its layers' inputs, the noise that factors make.

Owns the reference and what it is run on, for `reducing`, which owns the order of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from onnxq import model, sources
from onnxq.data.watched_data import FirstSamples, MeasureEvent, Progress, Told
from onnxq.errors import UnsupportedError
from onnxq.graphs import Document
from onnxq.low_rank import layers as finding
from onnxq.low_rank import statistics, trials
from onnxq.low_rank.fits import Fits, Tell
from onnxq.low_rank.options import LowRankOptions
from onnxq.low_rank.ranks import Chosen, Curve, Key
from onnxq.low_rank.statistics import Stored
from onnxq.low_rank.trials import Trials
from onnxq.validation import measure_setup
from onnxq.validation.evaluation import Evaluation
from onnxq.validation.measure_setup import OpenReference
from onnxq.validation.reference_runs import ReferenceRuns

TRIAL_SAMPLES = 64
"""Samples on which sizes of single layers are tried, or those of the first batch if more."""


class Steps(Told):
    """Tell a caller of steps, but of no runs while a search makes many of them."""

    def __init__(self, progress: Progress | None) -> None:
        super().__init__(progress)
        self.is_searching = False

    def tell(self, event: MeasureEvent) -> None:
        """Tell of an event."""
        if not (self.is_searching and event.stage == "candidate"):
            super().tell(event)


def needs_runs(options: LowRankOptions) -> bool:
    """Tell whether ranks or factors depend on running the model."""
    return options.data is not None or options.max_snr_loss is not None


def open_reference(
    document: Document, options: LowRankOptions, samples: int, told: Told
) -> OpenReference | Evaluation | None:
    """Run the source on what it is compared on; None where nothing is run."""
    if not needs_runs(options) and not samples:
        return None
    measured = replace(options.measured(), metrics=("snr",), performance=False)
    if options.data is None:
        measured = replace(measured, samples=max(1, samples))
    opened = measure_setup.open_reference(document, measured, told=told)
    if options.max_snr_loss is not None and isinstance(opened, Evaluation):
        raise UnsupportedError(
            f"--max-snr-loss is measured by running the model: {opened.check.reason}; give --data "
            "with inputs that it takes, or another goal"
        )
    return opened


@dataclass(frozen=True, kw_only=True, eq=False)
class Workbench:
    """Look at layers' inputs and try ranks, where ranks depend on it.

    Attributes:
        document: The model, as it came.
        reopen: Gives it once more.
        options: What is asked for.
        opened: The model run on all data; None where it was not, or cannot be.
        folder: Place for models and sums; None where none are made.
        steps: Whom to tell.
    """

    document: Document
    reopen: Callable[[], Document]
    options: LowRankOptions
    opened: OpenReference | None
    folder: Path | None
    steps: Steps

    def statistics(self, keys: frozenset[Key]) -> dict[Key, Stored]:
        """Return what is known of layers' inputs; nothing without data."""
        if self.options.data is None or self.opened is None or self.folder is None:
            return {}
        document = self.reopen()
        layers = finding.known(document, model.weights(document), keys)
        samples = self.opened.runs.data_used().samples
        total = samples * statistics.walks(document, layers)

        def tell(where: str, done: int) -> None:
            event = MeasureEvent(stage="layer inputs", subject=where, done=done, total=total)
            self.steps.tell(event)

        return statistics.collect(document, layers, self.opened.data, self.folder, tell)

    def with_noise(self, curves: list[Curve], fits: Fits) -> list[Curve]:
        """Return the layers with what arrives at the outputs as loss; as they are without data."""
        if self.options.data is None or self.opened is None:
            return curves
        few = FirstSamples(self.opened.data, TRIAL_SAMPLES)
        source = sources.runnable(self.document)
        with ReferenceRuns(source, few, self.opened.runs.settings) as runs:
            return trials.with_noise(curves, self._trials(fits), runs, self.tell("ranks"))

    def smallest(self, curves: list[Curve], fits: Fits, given: Chosen, limit_db: float) -> Chosen:
        """Return the smallest choice found whose outputs lose at most `limit_db`."""
        assert self.opened is not None  # open_reference refuses
        runs, tried = self.opened.runs, self._trials(fits)
        self.steps.is_searching = True
        try:
            return trials.smallest_within(
                curves,
                lambda chosen: tried.noise({**given, **chosen}, runs),
                limit_db,
                self.tell("sizes"),
            )
        finally:
            self.steps.is_searching = False

    def _trials(self, fits: Fits) -> Trials:
        assert self.folder is not None
        return Trials(self.reopen(), fits, self.folder)

    def tell(self, stage: str) -> Tell:
        """Return what tells of the steps of a stage."""
        return lambda name, done, total: self.steps.tell(
            MeasureEvent(stage=stage, subject=name, done=done, total=total)
        )
