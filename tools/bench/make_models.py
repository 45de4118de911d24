"""Generate the largest model that the benchmarks convert: 6 GiB of weights as external data.

    python tools/bench/make_models.py OUT

VGG16 and ResNet50 come from tools/build_networks.py. Nothing is trained. The weights are drawn to
look like trained ones to a clusterer: a scale mixture of Gaussians (heavy tails, many small values)
with He's variance. Each tensor's values depend on the seed and its layer's name alone.
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
WIDTHS = (8192, 16384)
LAYERS = 12
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


def write_large(path: Path, layers: int = LAYERS) -> None:
    """Write a chain of MatMul and Relu whose weights, 512 MiB each, stand in `path` + ".data".

    Needs about 200 MB of memory whatever the number of layers.
    """
    graph = onnx.GraphProto(name="large")
    value = "features"
    offset = 0
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as file:
        for layer in range(layers):
            name = f"layer{layer}"
            shape = (WIDTHS[layer % 2], WIDTHS[(layer + 1) % 2])
            deviation = math.sqrt(2 / shape[0])
            for values in heavy_tailed(generator(name), math.prod(shape), deviation):
                values.astype("<f4", copy=False).tofile(file)
            length = 4 * math.prod(shape)
            graph.initializer.append(
                _external(f"{name}/kernel", shape, (data.name, offset, length))
            )
            graph.node.append(helper.make_node("MatMul", [value, f"{name}/kernel"], [name]))
            graph.node.append(helper.make_node("Relu", [name], [f"{name}/out"]))
            value = f"{name}/out"
            offset += length
    graph.node[-1].output[0] = "result"
    graph.input.append(_features("features", WIDTHS[0]))
    graph.output.append(_features("result", WIDTHS[layers % 2]))
    onnx.save(_model(graph), str(path))


def _features(name: str, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tools/bench/make_models.py",
    )


def _external(name: str, shape: Sequence[int], place: tuple[str, int, int]) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in zip(("location", "offset", "length"), place, strict=True):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the large model for the benchmarks.")
    parser.add_argument("out", type=Path)
    write_large(parser.parse_args().out)


if __name__ == "__main__":
    main()
