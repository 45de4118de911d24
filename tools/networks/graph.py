"""Put a network together, layer by layer, with weights from any source.

A network is a function that draws its layers on a `Graph`. Each layer asks for its tensors by a
`Slot`: the name, the shape and what an untrained tensor there would look like. A `Source` answers
with the values. So one drawing serves trained weights, synthetic ones, and a list of what there is.

Layouts are ONNX's: Conv weights [out, in, height, width], Gemm weights [out, in] (transB), images
[batch, channels, height, width]. All tensors are float32 initializers. Numbers that configure an
operator (scales of Resize, bounds of Clip) are integers of `Constant` nodes, cast: the floats of
the file are exactly the network's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

OPSET = 17
IR_VERSION = 8
PRODUCER = "onnxq"

FloatArray = NDArray[np.float32]
Kind = Literal["kernel", "bias", "scale", "mean", "variance"]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one tensor.

    `shape` of a kernel is [out, in, ...]; that of anything else is one axis of channels. `level`
    says where synthetic values lie: a factor of He's deviation for a kernel, the median of scales
    and variances, the mean of biases and of means.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    level: float

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def fan_in(self) -> int:
        """Number of values that one output is summed from; 1 for what is no kernel."""
        return math.prod(self.shape[1:])


Source = Callable[[Slot], FloatArray]


@dataclass(frozen=True, kw_only=True)
class Conv:
    """Sizes of a two-dimensional convolution with a square kernel, padded by half of it."""

    inputs: int
    outputs: int
    size: int
    stride: int = 1


class Graph:
    """A network under construction. `add` and the layers return the name of what they put out."""

    def __init__(self, name: str, source: Source | None) -> None:
        """Start a graph; without a source, tensors are listed and not stored."""
        self.name = name
        self.slots: list[Slot] = []
        self._source = source
        self.model = ModelProto(ir_version=IR_VERSION, producer_name=PRODUCER)
        self.model.opset_import.append(helper.make_opsetid("", OPSET))
        self.model.graph.name = name

    def start(self, name: str, shape: Sequence[int | str]) -> str:
        """Declare the float32 input."""
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        self.model.graph.input.append(value)
        return name

    def finish(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Rename a value, that of the last node, and declare it as the float32 output."""
        last = self.model.graph.node[-1]
        if value != last.output[0]:
            raise ValueError(f"{self.name}: {value!r} is not what the last node puts out")
        last.output[0] = name
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        self.model.graph.output.append(output)

    def add(self, op_type: str, name: str, inputs: Sequence[str], **attributes: object) -> str:
        """Append one node."""
        output = f"{name}_out"
        node = self.model.graph.node.add(op_type=op_type, name=name, input=inputs, output=[output])
        for key, value in attributes.items():
            node.attribute.append(helper.make_attribute(key, value))
        return output

    def numbers(self, name: str, numbers: int | list[int]) -> str:
        """Append whole numbers that configure an operator, as float32 values.

        They are stored as integers and cast, so that no reader counts them among the parameters.
        """
        attribute = "value_ints" if isinstance(numbers, list) else "value_int"
        value = self.add("Constant", f"{name}_int", [], **{attribute: numbers})
        return self.add("Cast", name, [value], to=TensorProto.FLOAT)

    def tensor(self, name: str, kind: Kind, shape: tuple[int, ...], level: float) -> str:
        """Store one initializer."""
        slot = Slot(name=name, kind=kind, shape=shape, level=level)
        self.slots.append(slot)
        if self._source is not None:
            values = self._source(slot)
            self.model.graph.initializer.add(
                name=name,
                data_type=TensorProto.FLOAT,
                dims=shape,
                raw_data=np.ascontiguousarray(values, dtype="<f4").tobytes(),
            )
        return name

    def conv(self, name: str, value: str, sizes: Conv, gain: float = 1, bias: float = 0) -> str:
        """Append a Conv with bias."""
        shape = (sizes.outputs, sizes.inputs, sizes.size, sizes.size)
        weight = self.tensor(f"{name}.weight", "kernel", shape, gain)
        offset = self.tensor(f"{name}.bias", "bias", (sizes.outputs,), bias)
        return self.add(
            "Conv",
            name,
            [value, weight, offset],
            kernel_shape=[sizes.size] * 2,
            pads=[sizes.size // 2] * 4,
            strides=[sizes.stride] * 2,
        )

    def dense(self, name: str, value: str, sizes: tuple[int, int], gain: float = 1) -> str:
        """Append a Gemm with bias; `sizes` are input and output features."""
        inputs, outputs = sizes
        weight = self.tensor(f"{name}.weight", "kernel", (outputs, inputs), gain)
        offset = self.tensor(f"{name}.bias", "bias", (outputs,), 0)
        return self.add("Gemm", name, [value, weight, offset], transB=1)

    def norm(self, name: str, value: str, channels: int, **levels: float) -> str:
        """Append a BatchNormalization; `levels` may be `epsilon`, `scale` and `variance`."""
        parts: tuple[tuple[str, Kind, float], ...] = (
            ("scale", "scale", levels.get("scale", 1)),
            ("bias", "bias", 0),
            ("mean", "mean", 0),
            ("var", "variance", levels.get("variance", 1)),
        )
        names = [self.tensor(f"{name}.{end}", kind, (channels,), at) for end, kind, at in parts]
        epsilon = levels.get("epsilon", 1e-5)
        return self.add("BatchNormalization", name, [value, *names], epsilon=epsilon)

    def relu(self, name: str, value: str) -> str:
        """Append a Relu."""
        return self.add("Relu", name, [value])

    def max_pool(self, name: str, value: str, sizes: tuple[int, int]) -> str:
        """Append a MaxPool whose windows, of the given height and width, do not overlap."""
        return self.add("MaxPool", name, [value], kernel_shape=list(sizes), strides=list(sizes))

    def double(self, name: str, value: str) -> str:
        """Append a Resize to twice the height and width, each pixel repeated."""
        scales = self.numbers(f"{name}_scales", [1, 1, 2, 2])
        return self.add(
            "Resize",
            name,
            [value, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
