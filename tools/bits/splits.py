"""Held-out and calibration samples of every task, told apart and written to files.

    python -m tools.bits.splits NAME --work FOLDER [--shared FOLDER]

What is split is the thing that a sample was made of (a line of text, a file, a note of an
instrument, a recording), so that no twin of a held-out sample calibrates. Parts are drawn by a
fixed seed; calibration samples have no labels. Data of the repository are split already.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from examples.shared_tasks import make_data
from onnxq import runtime
from onnxq.data import preprocess_file
from onnxq.data.batches import DataOptions
from onnxq.data.dataset import open_dataset
from tools.bits import tasks
from tools.bits.tasks import Places, Task

Array = np.ndarray[Any, np.dtype[Any]]
SEED = 5
UNITS = {"orientation": 32, "filetype": 64, "pitch": 24, "speech": 4}
"""How many lines, files, notes and recordings calibrate."""
LABELS = ("label", "midi", "speech", "target")
FRAMES = 218
"""Frames of each recording that are used, its first seven seconds: recordings tell most."""
STRIDE = 8
"""Of the frames of a recording, every so many calibrate: neighbours are alike."""


def drawn(count: int, wanted: int) -> Array:
    """Return which of `count` units calibrate, as booleans: `wanted` of them, by the seed.

    >>> [int(n) for n in np.flatnonzero(drawn(10, 3))]
    [1, 6, 7]
    """
    chosen = np.random.default_rng(SEED).permutation(count)[:wanted]
    return np.isin(np.arange(count), chosen)


def units(name: str, source: Path, samples: int) -> Array:
    """Return the number of the unit that each sample of a task was made of.

    A line of text makes two samples, half of all apart; frames of one note of one instrument are
    one unit, wherever they stand.
    """
    if name == "orientation":
        return np.arange(samples) % (samples // 2)
    if name == "pitch":
        with np.load(source) as data:
            pairs = np.stack([data["prog"], data["midi"]], axis=1)
        return np.asarray(np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1))
    return np.arange(samples)


def write_split(name: str, source: Path, folder: Path) -> None:
    """Write `evaluation.npz` and `calibration.npz` of a task with independent samples."""
    maker = {"orientation": make_data.make_ocr, "pitch": make_data.make_pitch}
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.npz"
        maker.get(name, make_data.make_magika)(source, whole)
        with np.load(whole) as data:
            arrays = dict(data)
    samples = len(next(iter(arrays.values())))
    unit = units(name, source, samples)
    is_calibration = drawn(int(unit.max()) + 1, UNITS[name])[unit]
    np.savez(folder / "evaluation.npz", **_rows(arrays, ~is_calibration))
    inputs = {key: value for key, value in arrays.items() if key not in LABELS}
    np.savez(folder / "calibration.npz", **_rows(inputs, is_calibration))


def _rows(arrays: dict[str, Array], which: Array) -> dict[str, Any]:
    return {key: value[which] for key, value in arrays.items()}


def write_speech(model: Path, source: Path, folder: Path) -> None:
    """Write a folder of held-out recordings, and frames with the states that they meet.

    A frame alone says nothing without its state, so the float model runs over each calibration
    recording from its start.
    """
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        make_data.make_vad(source, made)
        recordings = sorted(made.glob("*.npz"))
        is_calibration = drawn(len(recordings), UNITS["speech"])
        held_out = folder / "evaluation"
        held_out.mkdir(exist_ok=True)
        frames: list[dict[str, Array]] = []
        for path, calibrates in zip(recordings, is_calibration, strict=True):
            if calibrates:
                frames += list(_frames(model, path))[::STRIDE]
            else:
                np.savez(held_out / path.name, **_cut(path))
    np.savez(
        folder / "calibration.npz",
        input=np.stack([frame["input"] for frame in frames]),
        state=np.stack([frame["state"] for frame in frames]),
        sr=frames[0]["sr"],
    )


def _cut(recording: Path) -> dict[str, Any]:
    """Return the arrays of a recording's first frames."""
    with np.load(recording) as data:
        return {name: data[name][:FRAMES] if data[name].ndim else data[name] for name in data}


def _frames(model: Path, recording: Path) -> Iterator[dict[str, Array]]:
    """Yield the feed of every frame of a recording, its state carried along."""
    session = runtime.open_session(model)
    state = np.zeros((2, 1, 128), np.float32)
    found = _cut(recording)
    for row in found["input"]:
        feed = {"input": row[None], "state": state, "sr": found["sr"]}
        yield feed
        state = session.run(feed)["stateN"]


def write_calibration(task: Task, where: Places, folder: Path) -> None:
    """Write the inputs of a calibration set of the repository, without what is no input."""
    limit = tasks.CALIBRATION_SAMPLES.get(task.name)
    chosen = None
    if task.preprocess:
        words = tasks.preprocess_words(task, where)
        chosen = preprocess_file.load_preprocess(words[1])
    options = DataOptions(preprocess=chosen, limit=limit)
    inputs = runtime.open_session(tasks.model_path(task, where)).inputs
    batches = open_dataset(where.models / task.calibration, inputs, options).batches()
    feeds = [batch.feeds for batch in batches]
    arrays: dict[str, Any] = {
        name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]
    }
    np.savez(folder / "calibration.npz", **arrays)


def make(task: Task, where: Places, folder: Path) -> None:
    """Write the data of a task, and last `split.json`, which says that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    source = tasks.data_path(task, where)
    if task.calibration:
        write_calibration(task, where, folder)
    elif task.name == "speech":
        write_speech(tasks.model_path(task, where), source, folder)
    else:
        write_split(task.name, source, folder)
    found = {
        "calibration": _count(folder / "calibration.npz"),
        "digest": digest(tasks.evaluation(task, where, folder), folder / "calibration.npz"),
    }
    (folder / "split.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


def _count(path: Path) -> int:
    with np.load(path) as data:
        return max(len(data[name]) for name in data if data[name].ndim)


def digest(*paths: Path) -> str:
    """Return the SHA-256 of files, and of all files of folders, in the order of their names."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def main(words: list[str] | None = None) -> int:
    """Make the data of one task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=tasks.TASKS)
    tasks.add_options(parser)
    chosen = parser.parse_args(words)
    where = tasks.places(chosen)
    make(tasks.TASKS[chosen.name], where, where.work / "data" / chosen.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
