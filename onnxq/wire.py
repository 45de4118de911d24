"""Sizes of ONNX protobuf messages, by arithmetic.

Owns the wire format's length rules, so that a size can be predicted without building a message.
Field numbers are those of onnx.proto; all our strings are ASCII. Nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TAG = 1
"""Bytes of a tag with a field number up to 15."""


def varint_bytes(value: int) -> int:
    """Return the bytes of a protobuf varint; negative int64 take ten.

    >>> [varint_bytes(v) for v in (0, 127, 128, 16384, -1)]
    [1, 1, 2, 3, 10]
    """
    if value < 0:
        return 10
    return max(1, (value.bit_length() + 6) // 7)


def field_bytes(length: int) -> int:
    """Return the bytes of a length-delimited field (number <= 15) with a payload of `length`."""
    return TAG + varint_bytes(length) + length


def text_bytes(text: str) -> int:
    """Return the bytes of a string field (number <= 15)."""
    return field_bytes(len(text.encode()))


def tensor_bytes(name: str, dims: Sequence[int], data_type: int, raw: int | None) -> int:
    """Return the bytes of a TensorProto body with `raw` bytes of raw_data (None: no such field)."""
    size = sum(TAG + varint_bytes(dim) for dim in dims) + TAG + varint_bytes(data_type)
    if name:
        size += text_bytes(name)
    return size + (field_bytes(raw) if raw is not None else 0)


def external_bytes(location: str, offset: int, length: int) -> int:
    """Return the bytes that external_data entries and data_location add to a TensorProto."""
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    pairs = sum(field_bytes(text_bytes(key) + text_bytes(value)) for key, value in entries.items())
    return pairs + TAG + 1


def attribute_bytes(name: str, value: int | Sequence[int]) -> int:
    """Return the bytes of an AttributeProto body holding one int or a list of ints."""
    head = text_bytes(name) + 3
    if isinstance(value, int):
        return head + TAG + varint_bytes(value)
    return head + sum(TAG + varint_bytes(item) for item in value)


def tensor_attribute_bytes(name: str, tensor: int) -> int:
    """Return the bytes of an AttributeProto body holding a tensor of `tensor` bytes."""
    return text_bytes(name) + 3 + field_bytes(tensor)


def value_info_bytes(name: str, dims: Sequence[int], data_type: int) -> int:
    """Return the bytes of a ValueInfoProto body for a tensor of known dims."""
    shape = sum(field_bytes(TAG + varint_bytes(dim)) for dim in dims)
    tensor_type = TAG + varint_bytes(data_type) + field_bytes(shape)
    return text_bytes(name) + field_bytes(field_bytes(tensor_type))


def node_bytes(
    op_type: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, int | Sequence[int]],
) -> int:
    """Return the bytes of a NodeProto body without name, domain or doc string."""
    names = sum(text_bytes(name) for name in (*inputs, *outputs))
    extra = sum(field_bytes(attribute_bytes(key, value)) for key, value in attributes.items())
    return names + text_bytes(op_type) + extra


def constant_node_bytes(tensor: int, output: str) -> int:
    """Return the bytes of a `Constant` NodeProto body holding a tensor of `tensor` bytes."""
    attribute = field_bytes(tensor_attribute_bytes("value", tensor))
    return text_bytes(output) + text_bytes("Constant") + attribute
