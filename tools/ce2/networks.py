"""The four networks: where their files are, how they are built, what they are scored on.

Trained networks and their data stand in one folder (`models/` of the repository); what is missing
there is built with synthetic weights and kept in another.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench import record

ROOT = Path(__file__).parent.parent.parent
BUILT = ROOT / "build" / "networks"
TRAINED = ROOT / "models"


@dataclass(frozen=True, kw_only=True)
class Network:
    """Describe one network of the tables.

    Attributes:
        name: As tools/build_networks.py has it, and the stem of its files.
        title: For a person.
        tolerance: Share by which a file less the original graph may exceed the published size.
        widths: Bits that its low-rank versions are converted at.
        metric: Of the task, as `--metric` takes it; "" for a network that is never trained here.
        evaluation: File or folder of held-out data.
        calibration: File or folder of unlabelled training data.
        preprocess: How images become inputs; "" where the data are arrays.
        preset: Options beside `--preset ce2`: what the table's sizes show of the published network,
            and float16 codebooks where each byte counts.
        ratios: Shares of the parameters that its low-rank versions keep.
    """

    name: str
    title: str
    tolerance: float
    widths: tuple[int, ...]
    metric: str = ""
    evaluation: str = ""
    calibration: str = ""
    preprocess: str = ""
    preset: tuple[str, ...] = ()
    ratios: tuple[float, ...] = (0.8, 0.7, 0.6, 0.4)


HALF = ("--codebook-dtype", "float16")
NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="vgg16",
            title="VGG16",
            tolerance=0.007,
            widths=tuple(range(2, 7)),
            ratios=(0.7,),  # each takes minutes
        ),
        Network(
            name="resnet50",
            title="ResNet50",
            tolerance=0.007,
            widths=tuple(range(3, 9)),
            ratios=(0.7, 0.4),
        ),
        Network(
            name="imagecomp",
            title="Image compression",
            tolerance=0.05,
            widths=tuple(range(2, 13)),
            metric="psnr:1.0",
            evaluation="imagecomp_eval",
            calibration="imagecomp_calibration",
            preprocess="imagecomp.yaml",
            preset=HALF,
        ),
        Network(
            name="dcase",
            title="DCASE audio",
            tolerance=0.05,
            widths=tuple(range(2, 13)),
            metric="top1",
            evaluation="dcase_eval.npz",
            calibration="dcase_calibration.npz",
            preset=(*HALF, "--quantize-variance"),  # all 16 tensors are quantized in table 5
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Say where trained networks with their data are, and where built ones are kept.

    `is_timed` says whether the large networks are timed in onnxruntime, beside being run.
    """

    trained: Path = TRAINED
    built: Path = BUILT
    is_timed: bool = True


@dataclass(frozen=True, kw_only=True)
class Source:
    """Hold a network's file and the options that its data need; no data, no options."""

    network: Network
    path: Path
    weights: str
    """ "trained" or "synthetic"."""
    origin: str
    """Command or folder that the file comes from."""
    built: Mapping[str, Any] | None = None
    """What building it cost, where that is known."""
    is_timed: bool = False
    """Whether its conversions under the preset are timed in onnxruntime."""
    evaluation: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()


def find(name: str, setup: Setup) -> Source:
    """Return a network's file: the trained one, or one with synthetic weights, built if missing.

    Raises:
        RuntimeError: it cannot be built.
    """
    network = NETWORKS[name]
    trained = setup.trained / f"{name}.onnx"
    if network.metric and trained.exists():
        return Source(
            network=network,
            path=trained,
            weights="trained",
            origin=shown(trained),
            evaluation=_data(network, setup.trained / network.evaluation),
            calibration=_data(network, setup.trained / network.calibration),
        )
    path = setup.built / f"{name}.onnx"
    if not path.exists():
        _build(name, path)
    notes = _notes(path)
    return Source(
        network=network,
        path=path,
        weights="synthetic",
        origin=f"python tools/build_networks.py {name} -o {name}.onnx",
        built=json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else None,
        is_timed=setup.is_timed and not network.metric,
    )


def shown(path: Path) -> str:
    """Return a path as documents show it: from the repository's root, else its name alone."""
    absolute = path.resolve()
    return absolute.relative_to(ROOT).as_posix() if ROOT in absolute.parents else absolute.name


def _data(network: Network, path: Path) -> tuple[str, ...]:
    """Return the options that read a data set; none if it is not there."""
    if not path.exists():
        return ()
    options = ["--data", str(path)]
    if network.preprocess:
        options += ["--preprocess", str(path.parent / network.preprocess)]
    return tuple(options)


def _build(name: str, path: Path) -> None:
    """Build in a process of its own, whose memory must not count as ours; note what it cost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    script = str(ROOT / "tools" / "build_networks.py")
    done = record.run([sys.executable, script, name, "-o", str(part), "--force"])
    cost = {"seconds": round(done.seconds, 2), "peak_bytes": done.peak_rss_bytes}
    _notes(path).write_text(json.dumps(cost), encoding="utf-8")
    os.replace(part, path)


def _notes(path: Path) -> Path:
    return path.with_suffix(".cost.json")
