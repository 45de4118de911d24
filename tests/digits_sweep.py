"""Sweeps of `models/digits.onnx`, really converted and run, as `onnxq sweep` reports them."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import onnxq
from onnxq.checks import FedInput
from onnxq.report import FileSize, Report
from onnxq.sweeps.working_points import SweepReport, WorkingPoint
from onnxq.validation.measurements import DataUsed, Estimate, MetricRow

MODELS = Path(__file__).parent.parent / "models"
BITS = range(2, 9)
INITS = ("optimal", "bounded-pdf")


@functools.cache
def digits_sweep(inits: tuple[str, ...] = INITS, bits: tuple[int, ...] = (*BITS,)) -> SweepReport:
    """Return a sweep of the digits model over bit widths, a series for each way to start."""
    probabilities = _Runs()
    with tempfile.TemporaryDirectory() as folder:
        points = tuple(
            _point(Path(folder) / "out.onnx", init, width, probabilities)
            for init in inits
            for width in bits
        )
    return SweepReport(
        model=FileSize(
            path="models/digits.onnx", file_bytes=(MODELS / "digits.onnx").stat().st_size
        ),
        data=DataUsed(
            kind="npz",
            path="models/digits_test.npz",
            samples=597,
            available=597,
            truths=("label",),
            inputs=(FedInput(name="image", dtype="float32", shape=(597, 1, 8, 8)),),
        ),
        points=points,
        notes=("the fixture of the tests",),
        options={"bits": list(bits), "init": list(inits)},
        versions={"onnxq": onnxq.__version__, "numpy": np.__version__},
        environment={"processor": "x86_64", "providers": "CPUExecutionProvider"},
        command_line="onnxq sweep models/digits.onnx --bits 2-8 --data models/digits_test.npz",
        seconds=1.5,
    )


class _Runs:
    """Run models on the held-out images; the float model once."""

    def __init__(self) -> None:
        with np.load(MODELS / "digits_test.npz") as data:
            self.image, self.label = data["image"], data["label"]
        self.reference = self.run(MODELS / "digits.onnx")

    def run(self, path: Path) -> Any:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["probabilities"], {"image": self.image})[0]

    def metrics(self, path: Path) -> tuple[MetricRow, ...]:
        found = self.run(path).argmax(axis=1)
        ours, theirs = self.reference.argmax(axis=1) == self.label, found == self.label
        agrees = found == self.reference.argmax(axis=1)
        reference, candidate = _share(ours), _share(theirs)
        difference = _mean(theirs.astype(float) - ours.astype(float))
        assert difference.low is not None
        assert difference.high is not None
        assert reference.value is not None
        assert candidate.value is not None
        top1 = MetricRow(
            name="top1",
            output="probabilities",
            kind="task",
            better="higher",
            samples=len(found),
            reference=reference,
            candidate=candidate,
            difference=difference,
            relative_change=(reference.value - candidate.value) / candidate.value,
            is_within_noise=difference.low <= 0 <= difference.high,
        )
        agreement = MetricRow(
            name="top1-agreement",
            output="probabilities",
            kind="fidelity",
            better="higher",
            samples=len(found),
            candidate=_share(agrees),
        )
        return top1, agreement


def _mean(rows: np.ndarray) -> Estimate:
    value, error = float(rows.mean()), float(rows.std(ddof=1) / np.sqrt(len(rows)))
    return Estimate(
        value=value, standard_error=error, low=value - 1.96 * error, high=value + 1.96 * error
    )


def _share(rows: np.ndarray) -> Estimate:
    return _mean(rows.astype(float))


def _point(path: Path, init: str, bits: int, runs: _Runs) -> WorkingPoint:
    settings: dict[str, Any] = {"bits": bits, "init": init}
    report: Report = onnxq.convert(MODELS / "digits.onnx", path, force=True, **settings)
    assert report.output is not None
    return WorkingPoint(
        key=f"{init}-{bits}",
        series=init,
        settings=settings,
        command=f"onnxq convert models/digits.onnx {init}-{bits}.onnx --bits {bits} --init {init}",
        file_bytes=report.output.file_bytes,
        ratio=report.output.ratio,
        ce2_bytes=report.ce2_bytes,
        bits_per_weight=report.bits_per_weight,
        check=report.check,
        metrics=runs.metrics(path),
        ledger=report.ledger,
        tensors=report.tensors,
        seconds=report.seconds,
    )
