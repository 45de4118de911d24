"""Generate the large runnable models that the benchmarks convert.

    python tools/bench/make_models.py vgg16|resnet50|large OUT

`vgg16` and `resnet50` have the tensor shapes of the Keras applications models (138,357,544 weights
in 32 tensors, 25,636,712 in 320) in graphs that run; `large` has 6 GiB of weights as external data.
Nothing is trained. The weights are drawn to look like trained ones to a clusterer: a scale mixture
of Gaussians (heavy tails, many small values) with He's variance and a scale of its own for every
output channel. Each tensor's values depend on the seed and its name alone.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

SEED = 0
OPSET = 17
IR_VERSION = 8
CHUNK = 1 << 24
TAIL = 0.4  # standard deviation of the logarithm of the mixture's scales
CHANNEL_SPREAD = 0.2  # the same for the scales of the output channels
LOGITS_GAIN = 0.3  # keeps the Softmax from saturating
LARGE_WIDTHS = (8192, 16384)
LARGE_LAYERS = 12
FloatArray = NDArray[np.float32]


def generator(name: str, seed: int = SEED) -> np.random.Generator:
    """Return the random generator of one tensor."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _mixture_scales() -> FloatArray:
    """Return 256 equally probable scales, log-normal and of mean square 1."""
    probabilities = (np.arange(256) + 0.5) / 256
    logistic = np.log(probabilities / (1 - probabilities)) * math.sqrt(3) / math.pi
    scales = np.exp(TAIL * logistic)
    return np.asarray(scales / np.sqrt(np.mean(scales**2)), dtype=np.float32)


SCALES = _mixture_scales()


def heavy_tailed(rng: np.random.Generator, count: int, deviation: float) -> Iterator[FloatArray]:
    """Yield `count` float32 values of the given standard deviation in chunks, in a fixed order."""
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        values = rng.standard_normal(size, dtype=np.float32)
        values *= SCALES[rng.integers(0, 256, size, dtype=np.uint8)]
        values *= np.float32(deviation)
        yield values


def kernel(name: str, shape: Sequence[int], fan_in: int, channel_axis: int) -> FloatArray:
    """Return one weight of He's variance with a scale of its own for each output channel."""
    rng = generator(name)
    channels = np.exp(CHANNEL_SPREAD * rng.standard_normal(shape[channel_axis]))
    values = np.concatenate(list(heavy_tailed(rng, math.prod(shape), math.sqrt(2 / fan_in))))
    broadcast = [1] * len(shape)
    broadcast[channel_axis] = -1
    array = values.reshape(shape)
    array *= channels.astype(np.float32).reshape(broadcast)
    return array


class Network:
    """A straight or residual chain of layers under construction."""

    def __init__(self, name: str, image: int) -> None:
        self.name = name
        self.image = image
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op_type: str, name: str, inputs: Sequence[str], **attributes: object) -> str:
        """Append one node and return the name of its output."""
        output = f"{name}/out"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name))
        for key, value in attributes.items():
            self.nodes[-1].attribute.append(helper.make_attribute(key, value))
        return output

    def weight(self, name: str, array: FloatArray) -> str:
        """Store one initializer and return its name."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.raw_data = array.astype("<f4", copy=False).tobytes()
        self.initializers.append(tensor)
        return name

    def conv(self, name: str, value: str, sizes: tuple[int, int, int], stride: int = 1) -> str:
        """Append a padded Conv with bias; `sizes` are input channels, output channels, kernel."""
        inputs, outputs, size = sizes
        fan_in = inputs * size * size
        weight = self.weight(
            f"{name}/kernel", kernel(f"{name}/kernel", (outputs, inputs, size, size), fan_in, 0)
        )
        bias = self.weight(f"{name}/bias", self._small(f"{name}/bias", outputs))
        return self.add(
            "Conv",
            name,
            [value, weight, bias],
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            strides=[stride, stride],
        )

    def dense(self, name: str, value: str, sizes: tuple[int, int], gain: float = 1.0) -> str:
        """Append a Gemm; `sizes` are input and output features."""
        array = kernel(f"{name}/kernel", sizes, sizes[0], 1)
        array *= np.float32(gain)
        weight = self.weight(f"{name}/kernel", array)
        bias = self.weight(f"{name}/bias", self._small(f"{name}/bias", sizes[1]))
        return self.add("Gemm", name, [value, weight, bias])

    def norm(self, name: str, value: str, channels: int, gain: float = 1.0) -> str:
        """Append a BatchNormalization whose scales lie around `gain`."""
        rng = generator(name)
        parts = {
            "gamma": gain * np.exp(0.2 * rng.standard_normal(channels)),
            "beta": 0.1 * rng.standard_normal(channels),
            "moving_mean": 0.3 * rng.standard_normal(channels),
            "moving_variance": 2 * np.exp(0.5 * rng.standard_normal(channels)),
        }
        weights = [
            self.weight(f"{name}/{key}", part.astype(np.float32)) for key, part in parts.items()
        ]
        return self.add("BatchNormalization", name, [value, *weights], epsilon=1.001e-5)

    def finish(self, value: str) -> onnx.ModelProto:
        """Return the model, with a Softmax over 1000 classes and a dynamic batch size."""
        self.add("Softmax", "softmax", [value], axis=1)
        self.nodes[-1].output[0] = "probabilities"
        sides: list[int | str] = ["batch", 3, self.image, self.image]
        return _model(self, sides, ("image", "probabilities"), 1000)

    @staticmethod
    def _small(name: str, count: int) -> FloatArray:
        return np.concatenate(list(heavy_tailed(generator(name), count, 0.05)))


def _model(
    network: Network, sides: list[int | str], names: tuple[str, str], outputs: int
) -> onnx.ModelProto:
    first, last = names
    graph = helper.make_graph(
        network.nodes,
        network.name,
        [helper.make_tensor_value_info(first, TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [sides[0], outputs])],
    )
    for tensor in network.initializers:
        graph.initializer.append(tensor)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tools/bench/make_models.py",
    )


def vgg16() -> onnx.ModelProto:
    """Return a model with VGG16's graph and tensor shapes: 138,357,544 weights in 32 tensors."""
    network = Network("vgg16", 224)
    value, channels = "image", 3
    for block, (convs, width) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for index in range(1, convs + 1):
            name = f"block{block}_conv{index}"
            value = network.conv(name, value, (channels, width, 3))
            value = network.add("Relu", f"{name}_relu", [value])
            channels = width
        value = network.add(
            "MaxPool", f"block{block}_pool", [value], kernel_shape=[2, 2], strides=[2, 2]
        )
    value = network.add("Flatten", "flatten", [value], axis=1)
    for name, sizes in {"fc1": (25088, 4096), "fc2": (4096, 4096)}.items():
        value = network.dense(name, value, sizes)
        value = network.add("Relu", f"{name}_relu", [value])
    return network.finish(network.dense("predictions", value, (4096, 1000), LOGITS_GAIN))


def resnet50() -> onnx.ModelProto:
    """Return a model with ResNet50's graph and tensor shapes: 25,636,712 weights in 320 tensors."""
    network = Network("resnet50", 224)
    value = network.conv("conv1_conv", "image", (3, 64, 7), stride=2)
    value = network.add("Relu", "conv1_relu", [network.norm("conv1_bn", value, 64)])
    value = network.add(
        "MaxPool", "pool1", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    )
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 2):
        for block in range(1, blocks + 1):
            stride = 2 if block == 1 and stage > 2 else 1
            name = f"conv{stage}_block{block}"
            value = _bottleneck(network, name, value, (channels, width, stride))
            channels = 4 * width
    value = network.add("GlobalAveragePool", "avg_pool", [value])
    value = network.add("Flatten", "flatten", [value], axis=1)
    return network.finish(network.dense("predictions", value, (2048, 1000), LOGITS_GAIN))


def _bottleneck(network: Network, name: str, value: str, sizes: tuple[int, int, int]) -> str:
    channels, width, stride = sizes
    shortcut = value
    if channels != 4 * width:
        shortcut = network.conv(f"{name}_0_conv", value, (channels, 4 * width, 1), stride)
        shortcut = network.norm(f"{name}_0_bn", shortcut, 4 * width)
    for index, (inputs, size, step) in enumerate([(channels, 1, stride), (width, 3, 1)], 1):
        value = network.conv(f"{name}_{index}_conv", value, (inputs, width, size), step)
        value = network.norm(f"{name}_{index}_bn", value, width)
        value = network.add("Relu", f"{name}_{index}_relu", [value])
    value = network.conv(f"{name}_3_conv", value, (width, 4 * width, 1))
    value = network.norm(f"{name}_3_bn", value, 4 * width, gain=0.3)
    value = network.add("Add", f"{name}_add", [shortcut, value])
    return network.add("Relu", f"{name}_out", [value])


def write_large(path: Path, layers: int = LARGE_LAYERS) -> None:
    """Write a chain of MatMul and Relu whose weights, 512 MiB each, stand in `path` + ".data".

    Needs about 200 MB of memory whatever the number of layers.
    """
    network = Network("large", 0)
    value = "features"
    offset = 0
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as file:
        for layer in range(layers):
            name = f"layer{layer}"
            shape = (LARGE_WIDTHS[layer % 2], LARGE_WIDTHS[(layer + 1) % 2])
            deviation = math.sqrt(2 / shape[0])
            for values in heavy_tailed(generator(name), math.prod(shape), deviation):
                values.astype("<f4", copy=False).tofile(file)
            length = 4 * math.prod(shape)
            network.initializers.append(
                _external(f"{name}/kernel", shape, (data.name, offset, length))
            )
            value = network.add("MatMul", name, [value, f"{name}/kernel"])
            value = network.add("Relu", f"{name}_relu", [value])
            offset += length
    network.nodes[-1].output[0] = "result"
    sides: list[int | str] = ["batch", LARGE_WIDTHS[0]]
    onnx.save(_model(network, sides, ("features", "result"), LARGE_WIDTHS[layers % 2]), str(path))


def _external(name: str, shape: Sequence[int], place: tuple[str, int, int]) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in zip(("location", "offset", "length"), place, strict=True):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate a model for the benchmarks.")
    parser.add_argument("model", choices=["vgg16", "resnet50", "large"])
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.model == "large":
        write_large(arguments.out)
    else:
        model = vgg16() if arguments.model == "vgg16" else resnet50()
        arguments.out.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
