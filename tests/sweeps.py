"""Reports of sweeps, made by hand: every kind of figure, an exact point, a failed one."""

from __future__ import annotations

import math

from onnxq.checks import Check, FedInput
from onnxq.differences import OutputDifference
from onnxq.report import FileSize
from onnxq.sweeps.working_points import SweepReport, WorkingPoint
from onnxq.validation.measurements import DataUsed, Estimate, MetricRow
from tests import reports

DATA = DataUsed(
    kind="npz",
    path="val.npz",
    samples=200,
    available=1000,
    truths=("label",),
    inputs=(FedInput(name="x", dtype="float32", shape=(32, 1, 8, 8)),),
)


def top1(value: float, difference: float) -> MetricRow:
    """Return the share of right classes of a candidate."""
    return MetricRow(
        name="top1",
        output="y",
        kind="task",
        better="higher",
        samples=200,
        reference=Estimate(value=0.9, standard_error=0.021, low=0.858, high=0.942),
        candidate=Estimate(value=value, standard_error=0.025, low=value - 0.05, high=value + 0.05),
        difference=Estimate(
            value=difference, standard_error=0.01, low=difference - 0.02, high=difference + 0.02
        ),
        relative_change=(0.9 - value) / value,
        is_within_noise=abs(difference) < 0.02,
    )


def cosine(value: float | None, *, is_equal: bool = False) -> MetricRow:
    """Return a fidelity metric."""
    return MetricRow(
        name="cosine",
        output="y",
        kind="fidelity",
        better="higher",
        samples=200,
        candidate=Estimate(value=value),
        is_equal=is_equal,
    )


def check(snr_db: float | None) -> Check:
    """Return the comparison of one output."""
    output = OutputDifference(
        name="y", snr_db=snr_db, max_abs=0.5, cosine=0.99, is_equal=snr_db is None
    )
    return Check(status="ok", samples=200, outputs=(output,))


def point(bits: int, series: str, snr_db: float | None, metric: MetricRow) -> WorkingPoint:
    """Return a finished point."""
    return WorkingPoint(
        key=f"{series} {bits}",
        series=series,
        settings={"init": series, "bits": bits},
        command=f"onnxq convert 'my digits.onnx' digits.{series}-{bits}bit.onnx --bits {bits}",
        file_bytes=10_000 * bits,
        ratio=32 / bits,
        ce2_bytes=9_000 * bits,
        bits_per_weight=bits + 0.25,
        check=check(snr_db),
        metrics=(metric, cosine(None, is_equal=True) if snr_db is None else cosine(0.99)),
        ledger=reports.LEDGER,
        tensors=reports.TENSORS,
        seconds=1.25,
    )


SWEPT = SweepReport(
    model=FileSize(path="my digits.onnx", file_bytes=320_000),
    data=DATA,
    points=(
        point(2, "optimal", 8.5, top1(0.7, -0.2)),
        point(8, "optimal", 38.25, top1(0.895, -0.005)),
        point(2, "uniform", -math.inf, top1(0.1, -0.8)),
        point(8, "uniform", None, top1(0.9, 0.0)),
        WorkingPoint(
            key="failed",
            series="[uniform]",
            settings={"init": "uniform", "bits": 16},
            command="onnxq convert a b --bits 16",
            error="x: the reference runs, the candidate does not: why",
        ),
    ),
    reused=2,
    notes=("one line of the state file was damaged",),
    options={"bits": [2, 8, 16], "init": ["optimal", "uniform"], "metrics": ["top1", "cosine"]},
    versions=reports.VERSIONS,
    environment={"machine": "x86_64", "provider": "CPUExecutionProvider"},
    command_line="onnxq sweep 'my digits.onnx' --bits 2,8,16",
    seconds=7.5,
)
