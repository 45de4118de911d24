"""The models that are measured: where they are, what they are judged on, what they may lose.

Knows names and files only; `splits` makes the data, `measuring` runs the models.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.ce2 import networks

Home = Literal["shared", "repository", "built"]
PLUGINS = "examples.shared_tasks.metrics:"
WORK = networks.ROOT / "build" / "bits"
SHARED = "ONNXQ_SHARED_MODELS"
"""Environment variable of the folder that holds the models of examples/shared_tasks."""
FLOORS = (0.15, 0.12)
"""Shares of the float weights' bytes, beside the graph's: one and two standard errors to lose."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Describe a model and what it is judged on.

    Attributes:
        name: Stem of everything that is written of it.
        title: For a person.
        model: Stem of its file.
        home: Which folder holds it: that of the shared models, `models`, or built networks.
        data: File of its data: in the shared folder's `data`, or the evaluation set in `models`.
        metrics: Of the task, as `--metric` takes them, the main one first; none without labels.
        words: What the metrics are called on the page.
        snr: The output that tells quality without labels, as `--metric` takes it.
        preprocess: How images become inputs: a preset, or a file in `models`; "" for arrays.
        options: Further ones when it is evaluated.
        calibration: Folder or file in `models` that the calibration samples are taken from; ""
            where they are split off the data.
        split: How held-out and calibration samples are told apart, in words.
        floors: Shares of the weights' bytes at which losses are judged.
        preset: Options that reproduce the published sizes, beside `--preset ce2`.
    """

    name: str
    title: str
    model: str
    home: Home
    data: str
    metrics: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    snr: str = "snr"
    preprocess: str = ""
    options: tuple[str, ...] = ()
    calibration: str = ""
    split: str = ""
    floors: tuple[float, ...] = ()
    preset: tuple[str, ...] = ()


_CROPS = (
    "evaluated on {samples} of the crops of held-out photographs in models/imagecomp_eval, "
    "calibrated on {calibration} of the training crops in models/imagecomp_calibration"
)
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="orientation",
            title="Orientation of text lines",
            model="ch_ppocr_mobile_v2.0_cls_mobile",
            home="shared",
            data="ocr_lines.npz",
            metrics=("top1",),
            words=("accuracy",),
            split="300 lines, each upright and turned; 32 lines drawn by seed calibrate "
            "({calibration} samples), the others are held out ({samples} samples)",
            floors=(0.22, 0.18),
        ),
        Task(
            name="speech",
            title="Speech in noise",
            model="silero_vad_16k_op15",
            home="shared",
            data="vad8k.npz",
            metrics=(f"{PLUGINS}vad_auc", f"{PLUGINS}vad_accuracy"),
            words=("AUC", "accuracy"),
            snr="snr@output",
            options=("--carry", "stateN=state"),
            split="the first 7 seconds of 40 recordings; of 4 drawn by seed every 8th frame "
            "calibrates, with the float model's state before it ({calibration} frames), the others "
            "are held out ({samples} frames); errors are taken over recordings",
            floors=FLOORS,
        ),
        Task(
            name="filetype",
            title="Types of files",
            model="magika_v3_3",
            home="shared",
            data="magika_files.npz",
            metrics=("top1",),
            words=("accuracy",),
            split="831 files; {calibration} drawn by seed calibrate, {samples} are held out",
            floors=FLOORS,
        ),
        Task(
            name="pitch",
            title="Pitch of instruments",
            model="crepe_tiny",
            home="shared",
            data="pitch_frames.npz",
            metrics=(f"{PLUGINS}pitch_within_50_cents",),
            words=("within 50 cents",),
            split="all frames of 24 pairs of instrument and note, drawn by seed, calibrate "
            "({calibration} frames), those of all other pairs are held out ({samples} frames)",
            floors=FLOORS,
        ),
        Task(
            name="imagecomp",
            title="Image compression",
            model="imagecomp",
            home="repository",
            data="imagecomp_eval",
            metrics=("psnr:1.0",),
            words=("PSNR, dB",),
            preprocess="imagecomp.yaml",
            calibration="imagecomp_calibration",
            split=_CROPS,
            floors=FLOORS,
            preset=networks.NETWORKS["imagecomp"].preset,
        ),
        Task(
            name="dcase",
            title="Acoustic scenes",
            model="dcase",
            home="repository",
            data="dcase_eval.npz",
            metrics=("top1",),
            words=("accuracy",),
            calibration="dcase_calibration.npz",
            split="evaluated on the {samples} held-out clips of models/dcase_eval.npz, calibrated "
            "on the {calibration} training clips of models/dcase_calibration.npz",
            floors=FLOORS,
            preset=networks.NETWORKS["dcase"].preset,
        ),
        Task(
            name="resnet50",
            title="ResNet50, synthetic weights",
            model="resnet50",
            home="built",
            data="imagecomp_eval",
            preprocess="imagenet-torch",
            calibration="imagecomp_calibration",
            split=_CROPS,
        ),
        Task(
            name="vgg16",
            title="VGG16, synthetic weights",
            model="vgg16",
            home="built",
            data="imagecomp_eval",
            preprocess="imagenet-torch",
            options=("--limit", "8"),
            calibration="imagecomp_calibration",
            split=_CROPS,
        ),
    )
}
DEFAULT = tuple(name for name in TASKS if name != "vgg16")
"""What is measured unless named: all but the model that takes minutes for each row."""
CALIBRATION_SAMPLES = {"resnet50": 32, "vgg16": 32}
"""Most calibration samples of a model whose data have more."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Say where models and data are, and where the split data go.

    Attributes:
        work: Folder of made data, rows and converted files.
        shared: Folder with `onnx` and `data` of the shared models; None for none.
        models: Folder of trained models of the repository.
        built: Folder of built networks.
    """

    work: Path
    shared: Path | None = None
    models: Path = networks.TRAINED
    built: Path = networks.BUILT


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line say where things are."""
    add = parser.add_argument
    add("--work", type=Path, default=WORK, help="folder of made data and finished rows")
    add("--shared", type=Path, help=f"folder of the shared models; else that of {SHARED}")
    add("--models", type=Path, default=networks.TRAINED, help="folder of trained models")
    add("--built", type=Path, default=networks.BUILT, help="folder of built networks")


def places(chosen: argparse.Namespace) -> Places:
    """Return where things are; the shared folder may come from the environment."""
    named = os.environ.get(SHARED)
    shared = chosen.shared or (Path(named) if named else None)
    return Places(
        work=chosen.work.resolve(),
        shared=shared.resolve() if shared else None,
        models=chosen.models.resolve(),
        built=chosen.built.resolve(),
    )


def words_of(where: Places) -> list[str]:
    """Return the options that say the same to another program of this folder."""
    words = ["--work", str(where.work), "--models", str(where.models), "--built", str(where.built)]
    return [*words, *(("--shared", str(where.shared)) if where.shared else ())]


def preprocess_words(task: Task, where: Places) -> tuple[str, ...]:
    """Return the options that say how a task's images become inputs."""
    if not task.preprocess:
        return ()
    path = where.models / task.preprocess
    return ("--preprocess", str(path) if path.suffix == ".yaml" else task.preprocess)


def model_path(task: Task, where: Places) -> Path:
    """Return the file of a task's float model.

    Raises:
        FileNotFoundError: it is not there; the message says how to name or build it.
    """
    path = _folder(task, where) / f"{task.model}.onnx"
    if path.is_file():
        return path
    hint = {
        "shared": f"pass --shared or set {SHARED} to the folder of the shared models",
        "repository": "train it (models/README.md)",
        "built": f"python tools/build_networks.py {task.model} -o build/networks/{path.name}",
    }[task.home]
    raise FileNotFoundError(f"{task.name}: found no {path.name}; {hint}")


def _folder(task: Task, where: Places) -> Path:
    if task.home == "shared":
        if where.shared is None:
            raise FileNotFoundError(
                f"{task.name}: pass --shared or set {SHARED} to the folder of the shared models"
            )
        return where.shared / "onnx"
    return where.models if task.home == "repository" else where.built


def data_path(task: Task, where: Places) -> Path:
    """Return what the evaluation samples of a task come from."""
    if task.home == "shared" and where.shared is not None:
        return where.shared / "data" / task.data
    return where.models / task.data


def evaluation(task: Task, where: Places, folder: Path) -> Path:
    """Return the file or folder of a task's held-out samples."""
    if task.calibration:
        return data_path(task, where)
    return folder / ("evaluation" if task.name == "speech" else "evaluation.npz")
