"""The arithmetic of `wire` gives the sizes that protobuf writes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxq import wire

texts = st.text(max_size=300)
names = st.text(min_size=1, max_size=300)
dims = st.lists(st.integers(0, 2**63 - 1), max_size=6)
data_types = st.integers(1, 200)  # a type number of two bytes may come
int64s = st.integers(-(2**63), 2**63 - 1)
lengths = st.one_of(st.integers(0, 300), st.sampled_from((127, 128, 16_383, 16_384, 70_000)))
attribute_values = st.one_of(int64s, st.lists(int64s, max_size=5))


def tensor(name: str, dims: list[int], data_type: int, raw: int | None) -> TensorProto:
    made = TensorProto(dims=dims, data_type=data_type)
    if name:
        made.name = name
    if raw is not None:
        made.raw_data = bytes(raw)
    return made


def attribute(name: str, value: int | list[int]) -> AttributeProto:
    if isinstance(value, int):
        return AttributeProto(name=name, type=AttributeProto.INT, i=value)
    return AttributeProto(name=name, type=AttributeProto.INTS, ints=value)


@given(int64s)
def test_varint(value: int) -> None:
    assert wire.TAG + wire.varint_bytes(value) == AttributeProto(i=value).ByteSize()


@given(texts)
def test_text(text: str) -> None:
    assert wire.text_bytes(text) == NodeProto(op_type=text).ByteSize()


@given(lengths)
def test_field(length: int) -> None:
    node = NodeProto(doc_string="x" * length)
    assert wire.field_bytes(node.ByteSize()) == GraphProto(node=[node]).ByteSize()


@given(texts, dims, data_types, st.none() | lengths)
def test_tensor(name: str, dims: list[int], data_type: int, raw: int | None) -> None:
    expected = tensor(name, dims, data_type, raw).ByteSize()
    assert wire.tensor_bytes(name, dims, data_type, raw) == expected


@given(texts, st.integers(0, 2**62), st.integers(0, 2**62))
def test_external_data(location: str, offset: int, length: int) -> None:
    made = TensorProto(data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        made.external_data.add(key=key, value=str(value))
    assert wire.external_bytes(location, offset, length) == made.ByteSize()


@given(names, attribute_values)
def test_attribute(name: str, value: int | list[int]) -> None:
    assert wire.attribute_bytes(name, value) == attribute(name, value).ByteSize()


@given(names, lengths)
def test_tensor_attribute(name: str, raw: int) -> None:
    held = tensor("", [raw], TensorProto.UINT8, raw)
    made = AttributeProto(name=name, type=AttributeProto.TENSOR, t=held)
    assert wire.tensor_attribute_bytes(name, held.ByteSize()) == made.ByteSize()


@given(texts, dims, st.sampled_from(TensorProto.DataType.values()))
def test_value_info(name: str, dims: list[int], data_type: int) -> None:
    made = ValueInfoProto(name=name)
    made.type.tensor_type.elem_type = data_type
    made.type.tensor_type.shape.SetInParent()
    for dim in dims:
        made.type.tensor_type.shape.dim.add(dim_value=dim)
    assert wire.value_info_bytes(name, dims, data_type) == made.ByteSize()


@given(
    names, st.lists(texts, max_size=4), st.lists(texts, max_size=3),
    st.dictionaries(names, attribute_values, max_size=3),
)  # fmt: skip
def test_node(
    op_type: str,
    inputs: list[str],
    outputs: list[str],
    attributes: dict[str, int | list[int]],
) -> None:
    made = NodeProto(op_type=op_type, input=inputs, output=outputs)
    made.attribute.extend(attribute(*item) for item in attributes.items())
    assert wire.node_bytes(op_type, inputs, outputs, attributes) == made.ByteSize()


@given(names, lengths)
def test_constant_node(output: str, raw: int) -> None:
    held = tensor("", [raw], TensorProto.UINT8, raw)
    made = helper.make_node("Constant", [], [output], value=held)
    assert wire.constant_node_bytes(held.ByteSize(), output) == made.ByteSize()
