"""Tasks ready to be measured on: the model, its bytes, its data told apart."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxq.report_rows import NO_WEIGHTS
from tools.bits import child, onnxq_runs, tasks
from tools.bits.methods import Subject
from tools.bits.onnxq_runs import Broken
from tools.bits.tasks import Places, Task


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Hold a task's files.

    Attributes:
        subject: The task with the bytes of its model.
        model: The float model.
        sha256: Of the model.
        evaluation: Options that read the held-out samples.
        calibration: The calibration samples.
        split: What `split.json` says of the data: "calibration" samples, "digest".
    """

    subject: Subject
    model: Path
    sha256: str
    evaluation: tuple[str, ...]
    calibration: Path
    split: Mapping[str, Any]

    @property
    def task(self) -> Task:
        """The task itself."""
        return self.subject.task


def prepare(task: Task, where: Places) -> Bench:
    """Return a task ready to be measured on; its data are made where they are missing.

    Raises:
        FileNotFoundError: the model is not there.
        Broken: the data cannot be made, or the model cannot be read.
    """
    model = tasks.model_path(task, where)
    folder = where.work / "data" / task.name
    if not (folder / "split.json").exists():
        _make_data(task, where)
    with model.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    data = tasks.evaluation(task, where, folder)
    return Bench(
        subject=Subject(
            task=task, file_bytes=model.stat().st_size, weight_bytes=weight_bytes(model)
        ),
        model=model,
        sha256=sha256,
        evaluation=(
            *("--data", str(data)),
            *tasks.preprocess_words(task, where),
            *task.options,
        ),
        calibration=folder / "calibration.npz",
        split=json.loads((folder / "split.json").read_text(encoding="utf-8")),
    )


def weight_bytes(model: Path) -> int:
    """Return the bytes of all float weights that `onnxq inspect` lists."""
    report = onnxq_runs.run(["inspect", str(model)]).report
    if report is None:
        raise Broken(f"onnxq inspect wrote no report of {model.name}")
    return sum(row["bytes"] for row in report["weights"] if row["reason"] not in NO_WEIGHTS)


def _make_data(task: Task, where: Places) -> None:
    """Make the data in a process of its own, whose memory must not count as ours."""
    line = [sys.executable, "-m", "tools.bits.splits", task.name, *tasks.words_of(where)]
    ended = child.run(line)
    if ended.exit_status:
        raise Broken(f"{task.name}: its data cannot be made: {ended.said}")
