from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq import metrics, runtime
from onnxq.batches import DataOptions, Dataset
from onnxq.dataset import open_dataset
from onnxq.evaluation import Evaluation, evaluate
from onnxq.measurements import MetricRow
from onnxq.reference_runs import ReferenceRuns
from tests.tiny_models import from_text

IDENTITY = from_text("g (float[N, 3] x) => (float[N, 3] y) { y = Identity(x) }")
SHIFTED = from_text(
    "g (float[N, 3] x) => (float[N, 3] y) <float[3] c = {0.0, 0.0, 1.0}> { y = Add(x, c) }"
)
STATEFUL = from_text(
    "g (float[N, 1] x, float[2, N, 1] s) => (float[N, 1] y, float[2, M, 1] t)"
    "<int64[1] a = {0}> { t = Add(s, x) y = ReduceSum<keepdims = 0>(t, a) }"
)


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def data_of(path: Path, model: bytes, **options: Any) -> Dataset:
    return open_dataset(path, runtime.open_session(model).inputs, DataOptions(**options))


def run(
    reference: bytes, candidate: bytes, data: Dataset, *names: str, **options: Any
) -> Evaluation:
    with ReferenceRuns(reference, data, **options) as runs:
        return evaluate(runs, candidate, metrics.resolve(names))


def only(found: Evaluation) -> MetricRow:
    (row,) = found.metrics
    return row


def test_a_data_set_with_labels_gives_both_models_and_their_difference(tmp_path: Path) -> None:
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    path = saved(tmp_path, x=x * 0.5, label=np.array([0, 1, 2, 0, 1]))
    found = run(IDENTITY, SHIFTED, data_of(path, IDENTITY, batch=2), "top1", "snr")
    top1, snr = found.metrics
    assert top1.reference is not None
    assert top1.difference is not None
    assert (top1.reference.value, top1.candidate.value) == (1, 0.2)
    assert top1.difference.value == pytest.approx(-0.8)
    assert top1.relative_change == pytest.approx(4)
    assert (top1.samples, top1.output, top1.is_within_noise) == (5, "y", False)
    assert snr.candidate.value == pytest.approx(found.check.outputs[0].snr_db)
    assert (found.data.samples, found.data.truths) == (5, ("label",))
    assert found.check.inputs[0].shape == (2, 3)
