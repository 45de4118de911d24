"""The attributes of operators that multiply by a weight: read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import AttributeProto, NodeProto


@dataclass(frozen=True, kw_only=True, eq=False)
class Attributes:
    """Hold a node's attributes by name."""

    by_name: Mapping[str, AttributeProto]

    @property
    def has_references(self) -> bool:
        """Whether an attribute's value is known only where a function is called."""
        return any(item.ref_attr_name for item in self.by_name.values())

    def integer(self, name: str, default: int) -> int:
        """Return an integer, or the operator's default."""
        return int(self.by_name[name].i) if name in self.by_name else default

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return a list of integers, None where it is not given."""
        return tuple(self.by_name[name].ints) if name in self.by_name else None

    def conv_fault(self, shape: Sequence[int]) -> str:
        """Return what of a convolution does not fit a weight of this shape; empty if all fits."""
        axes, groups = len(shape) - 2, self.integer("group", 1)
        if axes < 1:
            return f"Conv takes weights of 3 dimensions and more, found {len(shape)}"
        if groups < 1 or shape[0] % groups:
            return f"{shape[0]} outputs cannot be divided into {groups} groups"
        kernel = self.integers("kernel_shape")
        if kernel is not None and kernel != tuple(shape[2:]):
            return f"kernel_shape is {list(kernel)}, the weight has {list(shape[2:])}"
        for name, length in (("strides", axes), ("dilations", axes), ("pads", 2 * axes)):
            values = self.integers(name)
            if values is not None and len(values) != length:
                return f"{name} has {len(values)} values, expected {length}"
        return ""


def read_attributes(node: NodeProto) -> Attributes:
    """Return a node's attributes."""
    return Attributes(by_name={item.name: item for item in node.attribute})
