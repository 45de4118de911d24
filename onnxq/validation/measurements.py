"""What a validation measured: figures with their spread, times, memory, effects, gates.

Owns the records and their meaning (docs/report.md), not how a figure is computed. A number that
JSON cannot hold is null; `is_equal` tells an infinite ratio from an undefined one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from onnxq.checks import FedInput


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Hold a figure with its standard error and 95 % interval, each None where undefined."""

    value: float | None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """Hold one metric of one output, of both models.

    A "fidelity" metric compares the candidate's outputs with the reference's, so `reference` and
    `difference` are None. A "task" metric compares each model's outputs with labels or targets.

    Attributes:
        name: As given to `--metric`, without the output.
        output: Output it was taken from; None for a metric of all outputs.
        kind: See above.
        better: Which direction is good.
        unit: "dB", "" for shares and errors in the outputs' own unit.
        samples: Samples that count.
        reference: The reference's figure.
        candidate: The candidate's figure.
        difference: Candidate minus reference, over paired samples.
        relative_change: (reference - candidate) / candidate, as the publication has it.
        is_within_noise: Whether the interval of the difference holds 0, or the difference is 0.
        is_equal: Whether all that was compared is equal (an infinite ratio, for one).
        detail: What else must be known, such as the peak of a PSNR.
    """

    name: str
    output: str | None
    kind: Literal["fidelity", "task"]
    better: Literal["higher", "lower"]
    unit: str = ""
    samples: int
    reference: Estimate | None = None
    candidate: Estimate
    difference: Estimate | None = None
    relative_change: float | None = None
    is_within_noise: bool | None = None
    is_equal: bool = False
    detail: str = ""

    @property
    def label(self) -> str:
        """The name, with the output where it belongs to one."""
        return self.name if self.output is None else f"{self.name}@{self.output}"


@dataclass(frozen=True, kw_only=True)
class DataUsed:
    """Say what the models were run on.

    Attributes:
        kind: "random", "inputs" (one feed as given), "npz", "npz-folder", "image-classes",
            "images", "audio-classes".
        path: Of the data; None for random inputs and arrays in memory.
        samples: Samples that were run.
        available: Samples that the data holds, if that is known; more than `samples` with a limit.
        truths: Names of the arrays of labels and targets.
        inputs: Inputs of the first batch.
        classes: Number of classes, of data in class folders.
    """

    kind: Literal[
        "random", "inputs", "npz", "npz-folder", "image-classes", "images", "audio-classes"
    ]
    path: str | None = None
    samples: int
    available: int | None = None
    truths: tuple[str, ...] = ()
    inputs: tuple[FedInput, ...] = ()
    classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Hold times and memory of one model.

    Attributes:
        load_seconds: Median time of opening a session.
        median_seconds: Median time of a run.
        p90_seconds: Time that nine runs in ten keep.
        runs: Runs that were timed.
        load_peak_bytes: Most memory while loading, above that of a process that has run another
            model before: what the runtime takes for itself does not count. None where the system
            does not tell.
        run_peak_bytes: Most memory while loading and running, likewise.
    """

    load_seconds: float
    median_seconds: float
    p90_seconds: float
    runs: int
    load_peak_bytes: int | None = None
    run_peak_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Performance:
    """Hold times and memory of both models; ratios are candidate through reference.

    Times are of turns about in one process, memory of a process for each model. `load_ratio` and
    `latency_ratio` are the median of the turns' ratios, not the ratio of the medians: a busy
    machine shifts them less.

    Attributes:
        provider: What ran the models: "cpu", "cuda".
        threads: Threads within an operator; 0 is onnxruntime's choice.
        is_packed: Whether the candidate's weights stayed packed.
        samples: Samples of each run, the first batch; None where that is not known.
        reference: Of the reference.
        candidate: Of the candidate.
        load_ratio: See above.
        latency_ratio: See above.
        load_memory_ratio: Of the peaks while loading; None where one is not known.
        run_memory_ratio: Of the peaks while loading and running, likewise.
    """

    provider: str
    threads: int
    is_packed: bool
    samples: int | None = None
    reference: Timing
    candidate: Timing
    load_ratio: float | None
    latency_ratio: float | None
    load_memory_ratio: float | None = None
    run_memory_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """Say what the encoding of one tensor alone does to the outputs.

    Attributes:
        name: The tensor, with its graph.
        graph: Path of the graph that holds it.
        bit_width: Bits of an index; None for a tensor that differs without being encoded.
        elements: Its size.
        stored_bytes: Indices and codebook.
        snr_db: Of the decoded tensor; None where it is exact.
        output_snr_db: Least of all outputs with this tensor alone replaced; None where they are
            equal, and -inf (null in JSON) where an output has no ratio.
        output: The output of that.
        is_equal: Whether the outputs are equal all the same.
    """

    name: str
    graph: str
    bit_width: int | None
    elements: int
    stored_bytes: int
    snr_db: float | None
    output_snr_db: float | None
    output: str | None = None
    is_equal: bool = False


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """Hold one gate and how it went.

    Attributes:
        gate: As it was asked for: "--min-snr 30".
        subject: What it looks at: "output 'y'", "metric 'top1'", "size", "latency".
        found: The figure; None where infinite or undefined.
        limit: What it may be.
        passed: Whether it holds.
        message: A sentence with found and expected.
    """

    gate: str
    subject: str
    found: float | None
    limit: float
    passed: bool
    message: str


class Named(Protocol):
    """Describe what a metric is called."""

    @property
    def name(self) -> str:
        """The name, without an output."""

    @property
    def label(self) -> str:
        """The name, with the output where one was given."""


_Named = TypeVar("_Named", bound=Named)


def named(
    name: str, metrics: Sequence[_Named], outputs: Collection[str] | None = None
) -> list[_Named]:
    """Return the metrics that a name means: all of `NAME`, or those that can have `NAME@OUTPUT`.

    Args:
        name: as a person gives it.
        metrics: what will be measured, or was.
        outputs: outputs of the model, of which one may be named though the metric names none; None
            where they are not known.
    """
    bare, _, output = name.partition("@")
    is_there = outputs is None or output in outputs
    return [
        metric
        for metric in metrics
        if name in (metric.label, metric.name) or (metric.label == bare and is_there)
    ]


def short_name(name: str) -> str:
    """Return the function of a metric of the user's own; another name as it is.

    >>> short_name("tasks.metrics:score"), short_name("psnr:1.0"), short_name("top1")
    ('score', 'psnr:1.0', 'top1')
    """
    _, _, function = name.rpartition(":")
    return function if function.isidentifier() else name


def finite(value: float | None) -> float | None:
    """Return a number that JSON can hold, or None."""
    return value if value is not None and math.isfinite(value) else None
