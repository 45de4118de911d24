"""The attributes of the operators that take factors, divided among two nodes.

Owns what strides, pads, dilations and kernel shapes mean along each axis of a kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnx import AttributeProto, NodeProto

_ABSENT: Mapping[str, int] = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0}
"""What stands along an axis that a factor does not cover."""


def along(node: NodeProto, axes: Collection[int]) -> list[AttributeProto]:
    """Return a convolution's attributes for a factor that covers some axes of the kernel.

    Along the others it has extent, stride and dilation 1 and no pads. An `auto_pad` stays: along
    an axis of extent and stride 1 it pads nothing. What then holds only defaults is left out.
    """
    kept: list[AttributeProto] = []
    for item in node.attribute:
        if item.name in _ABSENT:
            item = _limited(item, axes)
            if item.name != "kernel_shape" and set(item.ints) <= {_ABSENT[item.name]}:
                continue
        if item.name == "auto_pad" and not axes:
            continue
        kept.append(item)
    return kept


def _limited(item: AttributeProto, axes: Collection[int]) -> AttributeProto:
    """Return a list attribute with the values of other axes replaced; pads count axes twice."""
    count = len(item.ints) // 2 if item.name == "pads" else len(item.ints)
    limited = AttributeProto()
    limited.CopyFrom(item)
    for index in range(len(limited.ints)):
        if index % count not in axes:
            limited.ints[index] = _ABSENT[item.name]
    return limited
