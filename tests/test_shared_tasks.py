"""The adapters of examples/shared_tasks, on made-up data and on the real ones where they lie."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.shared_tasks import make_data
from examples.shared_tasks import metrics as task_metrics
from onnxq import runtime
from onnxq.data.batches import DataOptions
from onnxq.data.dataset import open_dataset
from onnxq.validation import metrics
from onnxq.validation.evaluation import evaluate
from onnxq.validation.reference_runs import ReferenceRuns
from tests.real_models import path_of, shared_folder

ROOT = Path(__file__).parent.parent
PLUGINS = "examples.shared_tasks.metrics:"
SCORES = [
    ("ocr", "ocr_lines", "ch_ppocr_mobile_v2.0_cls_mobile", "top1", "0.863", 600),
    ("pitch", "pitch_frames", "crepe_tiny", PLUGINS + "pitch_within_50_cents", "0.953", 1152),
    ("magika", "magika_files", "magika_v3_3", "top1", "0.959", 831),
    ("vad", "vad8k", "silero_vad_16k_op15", PLUGINS + "vad_auc", "0.987", 17204),
]


@pytest.mark.slow
@pytest.mark.shared_models
@pytest.mark.parametrize(("task", "data", "model", "metric", "score", "count"), SCORES)
def test_the_float_models_have_their_scores(
    tmp_path: Path, task: str, data: str, model: str, metric: str, score: str, count: int
) -> None:
    pytest.importorskip("sklearn", reason="needs the 'metrics' extra")
    pytest.importorskip("PIL", reason="needs the 'data' extra")
    reference, output = path_of(model), tmp_path / (task if task == "vad" else f"{task}.npz")
    source = shared_folder() / "data" / f"{data}.npz"
    command = [sys.executable, "-m", "examples.shared_tasks.make_data", task, source, output]
    subprocess.run(command, check=True, cwd=ROOT)
    carry = {"stateN": "state"} if task == "vad" else {}
    options = DataOptions(carried=frozenset(carry.values()))
    dataset = open_dataset(output, runtime.open_session(reference).inputs, options)
    with ReferenceRuns(reference, dataset, carry=carry) as runs:
        (row,) = evaluate(runs, reference, metrics.resolve([metric])).metrics
    assert row.reference is not None
    assert f"{row.reference.value:.3f}" == score
    assert row.samples == count
    assert row.is_within_noise


def test_pitch_is_right_within_half_a_semitone() -> None:
    salience = np.zeros((3, 360), np.float32)
    a4 = round((1200 * np.log2(44) - task_metrics.CENTS[0]) / 20)
    salience[[0, 1, 2], [a4, a4 + 2, a4 + 4]] = 1
    sample = {"midi": np.array([69, 69, 69])}
    hits = task_metrics.pitch_within_50_cents({"salience": salience}, sample)
    assert hits.tolist() == [True, True, False]


def test_mixed_frames_are_left_out() -> None:
    outputs = {"output": np.array([[0.9], [0.2], [0.7]], np.float32)}
    sample = {"speech": np.array([1.0, 0.5, 0.0])}
    assert np.isnan(task_metrics.vad_auc(outputs, sample)).all(1).tolist() == [False, True, False]
    found = task_metrics.vad_accuracy(outputs, sample)
    assert found[[0, 2]].tolist() == [1, 0]
    assert np.isnan(found[1])


def test_frames_of_sound_carry_their_context(tmp_path: Path) -> None:
    source, sound = tmp_path / "source.npz", np.arange(4 * 256, dtype=np.int16)[None]
    speech = np.packbits(np.repeat([0, 1, 1, 0], 256).astype(np.uint8))
    np.savez(source, x=sound, y=speech, shape=np.array([1, 1024]))
    make_data.make_vad(source, tmp_path / "out")
    with np.load(tmp_path / "out" / "recording00.npz") as data:
        assert data["input"].shape == (4, 576)
        assert data["speech"].tolist() == [0, 1, 1, 0]
        assert np.array_equal(data["input"][1:, :64], data["input"][:-1, -64:])
        assert not data["input"][0, :64].any()
