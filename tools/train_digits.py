"""Train the digits classifier of `models/` and write it as ONNX with its held-out images.

    python tools/train_digits.py models

needs the `train` extra. The seed is fixed and one thread is used, so the same versions on the same
kind of machine write the same bytes. BatchNormalization is kept as a node of its own, because a
converter must cope with it. `models/README.md` says where the data come from.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn

SEED = 20
HELD_OUT = 597  # a third of the 1,797 images
EPOCHS = 30
BATCH = 50
OPSET = 17
IR_VERSION = 8
FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.int64]


def load_split() -> tuple[FloatArray, LabelArray, FloatArray, LabelArray]:
    """Return training images and labels, then the held-out ones; pixels run from 0 to 1."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None, :, :]
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(labels))
    train, held_out = order[HELD_OUT:], order[:HELD_OUT]
    return images[train], labels[train], images[held_out], labels[held_out]


def build_network() -> nn.Sequential:
    """Return the untrained network; its layers' order is what `export` writes."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def train(network: nn.Sequential, images: FloatArray, labels: LabelArray) -> None:
    """Fit the network in place with AdamW and one cosine-shaped learning-rate cycle."""
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = EPOCHS * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    shuffle = torch.Generator().manual_seed(SEED)
    network.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels), generator=shuffle).split(BATCH):
            optimizer.zero_grad()
            loss_of(network(inputs[chosen]), targets[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def score(network: nn.Sequential, images: FloatArray, labels: LabelArray) -> float:
    """Return the share of images whose most probable class is the label."""
    with torch.no_grad():
        predicted = network(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float(np.mean(predicted == labels))


class _Graph:
    """Collects the nodes and initializers of a straight chain of layers."""

    def __init__(self, value: str) -> None:
        self.value = value
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(
        self, op_type: str, name: str, weights: dict[str, torch.Tensor], **attributes: Any
    ) -> None:
        inputs = [self.value]
        for part, tensor in weights.items():
            inputs.append(f"{name}.{part}")
            array = np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)
            self.initializers.append(numpy_helper.from_array(array, inputs[-1]))
        self.value = f"{name}_out"
        self.nodes.append(helper.make_node(op_type, inputs, [self.value], name=name, **attributes))


def _batch_normalization(layer: nn.BatchNorm2d) -> dict[str, torch.Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return {
        "scale": layer.weight,
        "bias": layer.bias,
        "mean": layer.running_mean,
        "var": layer.running_var,
    }


def export(network: nn.Sequential) -> onnx.ModelProto:
    """Return the trained network as a checked ONNX model with a dynamic batch size."""
    graph = _Graph("image")
    counts: dict[str, int] = {}

    def named(kind: str) -> str:
        counts[kind] = counts.get(kind, 0) + 1
        return f"{kind}{counts[kind]}"

    for layer in network:
        match layer:
            case nn.Conv2d():
                conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
                graph.add("Conv", named("conv"), {"weight": layer.weight}, **conv)
            case nn.BatchNorm2d():
                weights = _batch_normalization(layer)
                graph.add("BatchNormalization", named("bn"), weights, epsilon=float(layer.eps))
            case nn.ReLU():
                graph.add("Relu", named("relu"), {})
            case nn.MaxPool2d():
                graph.add("MaxPool", named("pool"), {}, kernel_shape=[2, 2], strides=[2, 2])
            case nn.Flatten():
                graph.add("Flatten", named("flatten"), {}, axis=1)
            case nn.Linear():
                weights = {"weight": layer.weight, "bias": layer.bias}
                graph.add("Gemm", named("dense"), weights, transB=1)
    graph.add("Softmax", "softmax", {}, axis=1)
    graph.nodes[-1].output[0] = "probabilities"
    return _model(graph)


def _model(graph: _Graph) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, "digits", [image], [probabilities], initializer=graph.initializers
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tools/train_digits.py",
        doc_string="Classifier of 8x8 images of handwritten digits, trained from scratch.",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits classifier.")
    parser.add_argument("folder", type=Path, help="where digits.onnx and digits_test.npz go")
    folder: Path = parser.parse_args().folder
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    train_images, train_labels, images, labels = load_split()
    network = build_network()
    train(network, train_images, train_labels)
    print(f"held-out accuracy {score(network, images, labels):.4f} on {len(labels)} images")
    onnx.save(export(network), str(folder / "digits.onnx"))
    np.savez_compressed(folder / "digits_test.npz", image=images, label=labels)


if __name__ == "__main__":
    main()
