"""Held-out and calibration samples of the tasks in tools/bits, on made-up data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import tiny_models
from tools.bits import splits, tasks
from tools.bits.tasks import TASKS, Places

CARRIED = """
g (float[B, 576] input, float[2, B, 128] state, int64 sr)
=> (float[B, 1] output, float[2, B, 128] stateN)
<float one = {1.0}, int64[1] axes = {1}> {
  output = ReduceMean <axes = [1], keepdims = 1> (input)
  stateN = Add(state, one)
}
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return an empty folder of shared models."""
    for name in ("onnx", "data"):
        (tmp_path / "shared" / name).mkdir(parents=True)
    return tmp_path / "shared"


def test_files_that_calibrate_are_not_held_out(tmp_path: Path) -> None:
    content = np.arange(100, dtype=np.int16)[:, None] * np.ones((1, 2048), np.int16)
    np.savez(tmp_path / "source.npz", x=content, y=np.arange(100))
    splits.write_split("filetype", tmp_path / "source.npz", tmp_path)
    with np.load(tmp_path / "evaluation.npz") as held_out:
        evaluated = set(held_out["label"].tolist())
        assert held_out["bytes"][:, 0].tolist() == held_out["label"].tolist()
    with np.load(tmp_path / "calibration.npz") as calibration:
        assert list(calibration) == ["bytes"]  # no label
        calibrating = set(calibration["bytes"][:, 0].tolist())
    assert len(calibrating) == splits.UNITS["filetype"]
    assert evaluated | calibrating == set(range(100))
    assert not evaluated & calibrating


def test_both_ways_up_of_a_line_are_on_one_side(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="needs the 'data' extra")
    grey = np.repeat(np.arange(40, dtype=np.uint8) * 6, 4)[None] * np.ones((48, 1), np.uint8)
    np.savez(tmp_path / "source.npz", pix=grey, w=np.full(40, 4))
    splits.write_split("orientation", tmp_path / "source.npz", tmp_path)
    with np.load(tmp_path / "evaluation.npz") as held_out:
        lines, labels = held_out["x"][:, 0, 0, 0], held_out["label"]
    with np.load(tmp_path / "calibration.npz") as calibration:
        others = calibration["x"][:, 0, 0, 0]
    assert len(others) == 2 * splits.UNITS["orientation"]
    assert sorted(lines[labels == 0]) == sorted(lines[labels == 1])
    assert not set(lines.tolist()) & set(others.tolist())


def test_a_note_of_an_instrument_is_on_one_side_wherever_it_is_played(tmp_path: Path) -> None:
    notes, instruments = np.tile(np.arange(60, 110), 4), np.repeat(np.arange(2), 100)
    frames = np.random.default_rng(0).integers(-99, 99, (200, 1024)).astype(np.int16)
    np.savez(tmp_path / "source.npz", x=frames, midi=notes, prog=instruments)
    unit = splits.units("pitch", tmp_path / "source.npz", 200)
    assert len(set(unit.tolist())) == 100
    assert unit[0] == unit[50] != unit[100]  # the same note twice; another instrument
    splits.write_split("pitch", tmp_path / "source.npz", tmp_path)
    with np.load(tmp_path / "calibration.npz") as calibration:
        assert calibration["frames"].shape == (2 * splits.UNITS["pitch"], 1024)
        assert list(calibration) == ["frames"]


def test_calibration_frames_of_speech_have_the_state_that_they_meet(
    tmp_path: Path, shared: Path
) -> None:
    task = TASKS["speech"]
    (shared / "onnx" / f"{task.model}.onnx").write_bytes(tiny_models.from_text(CARRIED))
    count, frames = 6, 20
    np.savez(
        shared / "data" / task.data,
        x=np.zeros((count, frames * 256), np.int16),
        y=np.packbits(np.zeros(count * frames * 256, np.uint8)),
        shape=np.array([count, frames * 256]),
    )
    where = Places(work=tmp_path, shared=shared)
    splits.make(task, where, tmp_path / "made")
    with np.load(tmp_path / "made" / "calibration.npz") as calibration:
        states = calibration["state"][:, 0, 0, 0].tolist()
        assert calibration["input"].shape == (len(states), 1, 576)
        assert calibration["sr"].shape == ()
    each = [float(n) for n in range(0, frames, splits.STRIDE)]
    assert states == each * splits.UNITS["speech"]
    held_out = tasks.evaluation(task, where, tmp_path / "made")
    assert len(list(held_out.iterdir())) == count - splits.UNITS["speech"]


def test_the_draw_does_not_depend_on_how_often_it_is_made() -> None:
    assert np.array_equal(splits.drawn(300, 32), splits.drawn(300, 32))
    assert splits.drawn(300, 32).sum() == 32


def test_the_digest_of_data_tells_other_values_apart(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"1")
    first = splits.digest(tmp_path / "folder")
    (tmp_path / "folder" / "a").write_bytes(b"2")
    assert splits.digest(tmp_path / "folder") != first


def test_without_the_shared_folder_the_message_says_how_to_name_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=tasks.SHARED):
        tasks.model_path(TASKS["pitch"], Places(work=tmp_path))
