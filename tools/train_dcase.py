"""Train the audio network of `models/` on synthesised scenes, and write it with held-out clips.

    python -m tools.train_dcase models

needs the `train` and `data` extras. It synthesises the three parts (`dcase_scenes`), fits the
network on the first, keeps the epoch that is best on the second, and only then looks at the third.
Seeds are fixed and one thread trains, so the same versions on the same kind of machine give the
same weights. `--work FOLDER` keeps the features and the state of the training, so that a run that
was cut short goes on. `models/README.md` says what came out.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tools import dcase_scenes, manifest, networks
from tools.networks import files

SEED = 18
STAGES = ((125, 40), (250, 14), (500, 8))
"""Frames of each clip, and epochs: random quarters of clips first, then halves, then all of it.

A quarter costs a quarter of the time, and is another one in every epoch.
"""
EPOCHS = sum(epochs for _, epochs in STAGES)
BATCH = 32
RATE = 3e-3
DROPOUT = 0.2
FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.int64]
Data = tuple[torch.Tensor, torch.Tensor]


def build_network() -> nn.Sequential:
    """Return the untrained network; its named layers are those of `tools.networks`."""
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(1, 32, 7, padding=3),
        "bn1": nn.BatchNorm2d(32),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(5),
        "conv2": nn.Conv2d(32, 64, 7, padding=3),
        "bn2": nn.BatchNorm2d(64),
        "relu2": nn.ReLU(),
        "pool2": nn.AdaptiveMaxPool2d((2, 1)),  # windows of 4 x 100 in a whole clip
        "drop1": nn.Dropout(DROPOUT),
        "flatten": nn.Flatten(),
        "dense1": nn.Linear(128, 100),
        "dense1_relu": nn.ReLU(),
        "drop2": nn.Dropout(DROPOUT),
        "dense2": nn.Linear(100, 15),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network.to(memory_format=torch.channels_last)


def varied(clips: torch.Tensor, frames: int, source: torch.Generator) -> torch.Tensor:
    """Return so many frames of the clips, at another loudness and with a few bands left out.

    Each clip is turned round in time by a random shift first.
    """
    shifts = torch.randint(0, clips.shape[3], (len(clips),), generator=source)
    louder = 0.1 * torch.randn(len(clips), generator=source)
    bands = torch.randint(0, 40, (len(clips),), generator=source)
    heights = torch.randint(0, 6, (len(clips),), generator=source)
    turned = []
    for clip, shift, level, band, height in zip(clips, shifts, louder, bands, heights, strict=True):
        one = torch.roll(clip, int(shift), dims=2)[:, :, :frames] + level
        one[:, int(band) : int(band) + int(height)] = 0
        turned.append(one)
    return torch.stack(turned).contiguous(memory_format=torch.channels_last)


def outputs(network: nn.Sequential, clips: torch.Tensor) -> torch.Tensor:
    """Return the logits of all clips, in evaluation mode."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(batch) for batch in clips.split(50)])


def score(network: nn.Sequential, data: Data) -> tuple[float, float]:
    """Return accuracy and cross-entropy."""
    logits = outputs(network, data[0])
    right = (logits.argmax(dim=1) == data[1]).float().mean()
    return float(right), float(nn.functional.cross_entropy(logits, data[1]))


class Training:
    """A training that can be saved between epochs; `best` is the state to keep so far."""

    def __init__(self, clips: int) -> None:
        torch.manual_seed(SEED)
        self.settings = {"seed": SEED, "stages": STAGES, "clips": clips, "batch": BATCH}
        self.network = build_network()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=RATE, weight_decay=1e-2)
        steps = EPOCHS * (clips // BATCH)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, RATE, steps)
        self.shuffle = torch.Generator().manual_seed(SEED)
        self.epoch = 0
        self.seconds = 0.0
        self.best: dict[str, Any] = {"accuracy": -1.0, "loss": np.inf, "epoch": 0, "weights": {}}

    def run_epoch(self, data: Data) -> float:
        """Fit once to all clips, in an order of its own; return the mean loss."""
        self.network.train()
        loss_of = nn.CrossEntropyLoss()
        order = torch.randperm(len(data[1]), generator=self.shuffle)
        frames = [frames for frames, epochs in STAGES for _ in range(epochs)][self.epoch]
        losses = []
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            self.optimizer.zero_grad()
            clips = varied(data[0][chosen], frames, self.shuffle)
            loss = loss_of(self.network(clips), data[1][chosen])
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(float(loss.detach()))
        self.epoch += 1
        return float(np.mean(losses))

    def judge(self, validation: Data) -> tuple[float, float]:
        """Keep the weights if validation likes them better: accuracy first, then loss."""
        accuracy, loss = score(self.network, validation)
        if (accuracy, -loss) > (self.best["accuracy"], -self.best["loss"]):
            weights = copy.deepcopy(self.network.state_dict())
            self.best = {
                "accuracy": accuracy,
                "loss": loss,
                "epoch": self.epoch,
                "weights": weights,
            }
        return accuracy, loss

    def save(self, path: Path) -> None:
        """Write everything that the next epoch depends on."""
        state = {
            "settings": self.settings,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "shuffle": self.shuffle.get_state(),
            "dropout": torch.get_rng_state(),
            "progress": (self.epoch, self.seconds, self.best),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        """Go on where `save` was called; raise ValueError if that was another training."""
        state = torch.load(path, weights_only=False)
        if state["settings"] != self.settings:
            raise ValueError(
                f"{path}: found the training of {state['settings']}, expected {self.settings}; "
                "remove it to start anew"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.shuffle.set_state(state["shuffle"])
        torch.set_rng_state(state["dropout"])
        self.epoch, self.seconds, self.best = state["progress"]


def load_part(part: str, work: Path | None, jobs: int) -> Data:
    """Return features and labels of a part, from the work folder where they are there."""
    kept = work / f"{part}.npz" if work else None
    if kept and kept.exists():
        with np.load(kept) as data:
            bands, labels = data["logmel"], data["label"]
    else:
        bands, labels = dcase_scenes.load_part(part, jobs)
        if kept:
            np.savez_compressed(kept, logmel=bands, label=labels)
    return torch.from_numpy(bands), torch.from_numpy(labels)


def train(training: Training, fitted: Data, validation: Data, kept: Path | None) -> None:
    """Train up to the last epoch, and put the best weights into the network."""
    if kept and kept.exists():
        training.load(kept)
    while training.epoch < EPOCHS:
        start = time.perf_counter()
        mean = training.run_epoch(fitted)
        judged = ""
        if training.epoch > EPOCHS - STAGES[-1][1]:  # only what was trained on whole clips
            judged = "; validation {:.4f}, {:.3f}".format(*training.judge(validation))
        training.seconds += time.perf_counter() - start
        print(
            f"epoch {training.epoch:2}: loss {mean:.3f}{judged}; {training.seconds:.0f} s",
            flush=True,
        )
        if kept:
            training.save(kept)
    training.network.load_state_dict(training.best["weights"])


def weights(network: nn.Sequential) -> dict[str, FloatArray]:
    """Return the network's arrays under the names that `tools.networks` gives them."""
    names = {"running_mean": "mean", "running_var": "var"}
    found = {}
    for name, tensor in network.state_dict().items():
        layer, part = name.split(".")
        if part == "num_batches_tracked":
            continue
        part = "scale" if layer.startswith("bn") and part == "weight" else names.get(part, part)
        found[f"{layer}.{part}"] = tensor.detach().contiguous().numpy()
    return found


def entry(training: Training) -> manifest.Entry:
    """Return what is declared of the model in the manifest."""
    parts = dcase_scenes.PARTS
    split = {name: len(part) for name, part in parts.items()}
    recordings = {name: len(dcase_scenes.CLASSES) * p.recordings for name, p in parts.items()}
    needed = ("torch", "numpy", "scipy", "onnx")
    return {
        "name": "dcase",
        "title": "Classifier of acoustic scenes, after the baseline of DCASE 2018 task 1",
        "task": "classification of ten-second sounds as log-mel bands, 15 classes",
        "metric": {
            "name": "top1",
            "meaning": "share of clips whose most probable class is the label",
            "unit": "",
            "better": "higher",
        },
        "provenance": "trained from scratch by tools/train_dcase.py",
        "licence": "Apache-2.0",
        "data": {
            "source": "synthesised by tools/dcase_scenes.py; no recorded sound is used",
            "licence": "Apache-2.0",
            "split": split,
            "recordings": recordings,
            "classes": list(dcase_scenes.CLASSES),
            "split_by": "recording, and so by voice: every recording draws its own",
            "preprocess": "dcase.yaml, then rounded to multiples of 1/4",
            "seeds": {"scenes": dcase_scenes.SEED},
        },
        "training": {
            "command": "pip install '.[train,data]' && python -m tools.train_dcase models",
            "seeds": {"network": SEED, "shuffle": SEED},
            "epochs": EPOCHS,
            "stages": [{"frames": frames, "epochs": epochs} for frames, epochs in STAGES],
            "selection": f"epoch {training.best['epoch']}, the best in validation accuracy "
            f"({training.best['accuracy']:.4f}), then in validation loss",
            "minutes": round(training.seconds / 60, 1),
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in needed},
            },
            "reproducibility": "seeds are fixed and one thread trains; the training was run once, "
            "and other versions or processors round differently and end elsewhere",
        },
        "evaluation": [
            {
                "path": "dcase_eval.npz",
                "holds": f"the {split['held_out']} held-out clips, each of its own recording: "
                "logmel, and label",
                "licence": "Apache-2.0",
            }
        ],
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the audio network.")
    parser.add_argument("folder", type=Path, help="where dcase.onnx and dcase_eval.npz go")
    parser.add_argument("--work", type=Path, help="keeps features and state; made if missing")
    parser.add_argument("--jobs", type=int, default=1, help="processes that synthesise")
    arguments = parser.parse_args()
    work: Path | None = arguments.work
    if work:
        work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    fitted, validation = (load_part(name, work, arguments.jobs) for name in ("train", "validation"))
    training = Training(len(fitted[1]))
    train(training, fitted, validation, work / "training.pt" if work else None)
    held_out = load_part("held_out", work, arguments.jobs)
    accuracy, loss = score(training.network, held_out)
    print(f"held-out accuracy {accuracy:.4f}, loss {loss:.3f}, epoch {training.best['epoch']}")
    metadata = {"weights": "trained", "generator": "tools/train_dcase.py", "seed": str(SEED)}
    model = networks.dcase(weights(training.network), metadata)
    files.write(model, arguments.folder / "dcase.onnx")
    np.savez_compressed(
        arguments.folder / "dcase_eval.npz", logmel=held_out[0].numpy(), label=held_out[1].numpy()
    )
    manifest.declare(entry(training), arguments.folder)


if __name__ == "__main__":
    main()
