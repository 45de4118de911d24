"""A file read without its long values holds what the plain parse holds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper

from onnxq import model, skeleton
from onnxq.errors import InputError
from onnxq.skeleton import DEFER_BYTES, NotReadableError, read_skeleton
from tests import graphs

LONG = DEFER_BYTES // 4
Message = Any


def big(name: str, seed: int, count: int = LONG) -> TensorProto:
    return graphs.tensor(name, graphs.normal((count,), seed))


def field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    text = b""
    while value > 127:
        text, value = text + bytes([value & 127 | 128]), value >> 7
    return text + bytes([value])


def everywhere() -> ModelProto:
    """Return a model with long and short tensors in every place that can hold one."""
    then = graphs.graph(
        [graphs.node("Constant", "", "bw", value=big("", 3))],
        [], [graphs.value("bw", LONG)], [big("bi", 4), big("short", 5, 8)],
    )  # fmt: skip
    layer = helper.make_function(
        "local", "Layer", [], ["fw"],
        [graphs.node("Constant", "", "fw", value=big("", 6))],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        graphs.node("Constant", "", "cw", value=big("", 2, LONG + 1)),
        graphs.node("If", "flag", "u", then_branch=then, else_branch=then),
        graphs.node("Layer", "", "v", domain="local"),
        graphs.node("Odd", "", "o", domain="local", many=[big("a", 7), big("b", 8, 4)]),
        graphs.node("Odd", "", "p", domain="local", bodies=[then, then]),
        graphs.node("Constant", "", "s", value_string="long text " * DEFER_BYTES),
        graphs.node("Constant", "", "f", value_floats=[0.5] * LONG),
        graphs.node("Constant", "", "i", value_ints=range(DEFER_BYTES)),
    ]
    # One value shorter than what is deferred, one of just that length.
    held = [big("w", 1), big("under", 9, LONG - 1), big("typed", 0, 4)]
    held[2].ClearField("raw_data")
    held[2].float_data.extend([0.25] * LONG)
    held[2].dims[:] = [LONG]
    made = graphs.model(
        graphs.graph(nodes, [graphs.value("flag", dtype=graphs.BOOL)], [], held),
        functions=[layer],
        imports={"local": 1},
    )
    made.doc_string = "doc" * DEFER_BYTES
    made.graph.doc_string = "doc" * DEFER_BYTES
    return made


def deferred(message: Message) -> list[TensorProto]:
    """Return every tensor in a message that refers to a file."""
    if isinstance(message, TensorProto):
        return [message] if message.data_location == TensorProto.EXTERNAL else []
    found = []
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for item in [value] if not hasattr(value, "__len__") else value:
                found += deferred(item)
    return found


def resolved(data: bytes, path: Path) -> bytes:
    """Return a skeleton's model with its values filled in, serialised."""
    made = ModelProto.FromString(data)
    whole = path.read_bytes()
    for tensor in deferred(made):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries["location"] != path.name:
            continue
        start = int(entries["offset"])
        tensor.raw_data = whole[start : start + int(entries["length"])]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return made.SerializeToString(deterministic=True)


def saved(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    return path


def assert_same_as_parse(path: Path) -> bytes:
    slim = read_skeleton(path)
    plain = ModelProto.FromString(path.read_bytes())
    assert resolved(slim, path) == plain.SerializeToString(deterministic=True)
    return slim


def test_skeleton_with_its_values_is_the_model(tmp_path: Path) -> None:
    slim = assert_same_as_parse(saved(tmp_path, everywhere().SerializeToString()))
    names = [tensor.name for tensor in deferred(ModelProto.FromString(slim))]
    # Branches occur four times: then, else and two in a list.
    assert sorted(names) == sorted(["w", "", "", "a", *["", "bi"] * 4])


def test_only_short_values_are_in_the_skeleton(tmp_path: Path) -> None:
    made = graphs.model(graphs.graph([], [], [], [big("w", 1, 10 * LONG), big("s", 2, 10)]))
    slim = read_skeleton(saved(tmp_path, made.SerializeToString()))
    assert len(slim) < 1000
    parsed = ModelProto.FromString(slim)
    assert parsed.graph.initializer[1] == made.graph.initializer[1]


def test_tensor_with_external_data_is_left_alone(tmp_path: Path) -> None:
    held = [big("w", 1), big("v", 2)]
    graphs.point_outside(held[0], "other.bin", offset=0, length=4)
    held[1].data_location = TensorProto.DEFAULT
    path = saved(tmp_path, graphs.model(graphs.graph([], [], [], held)).SerializeToString())
    assert read_skeleton(path) == path.read_bytes()


def test_unknown_fields_are_kept(tmp_path: Path) -> None:
    long = b"?" * DEFER_BYTES
    tensor = big("w", 1).SerializeToString() + field(200, long) + field(201, b"short")
    graph = field(5, tensor) + field(300, long) + varint(301 << 3) + varint(2**64 - 1)
    fixed = varint(302 << 3 | 1) + bytes(range(8)) + varint(303 << 3 | 5) + bytes(range(4))
    data = field(7, graph) + fixed + field(400, long)
    slim = assert_same_as_parse(saved(tmp_path, data))
    assert slim.count(long) == 3
    assert slim.endswith(field(400, long))


def test_split_and_repeated_messages_are_merged_as_the_parser_does(tmp_path: Path) -> None:
    """A message may come in pieces: the last value of a field counts, lists are joined."""
    first = field(5, big("w", 1).SerializeToString() + field(9, bytes(DEFER_BYTES)))
    second = field(5, big("v", 2).SerializeToString())
    assert_same_as_parse(saved(tmp_path, field(7, first) + field(7, second)))


def kind_of_load(data: bytes) -> str:
    """Return what loading a file ends with: ok, or the error's name."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.load(saved(Path(folder), data))
        except InputError as err:
            return str(err).split(": ", 1)[1][:20]
    return "ok"


@given(st.data())
def test_damaged_file_ends_as_without_deferring(data: st.DataObject) -> None:
    whole = bytearray(graphs.tiny().SerializeToString())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=3)):
        whole[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    plain = kind_of_load(bytes(whole))
    with (
        mock.patch.object(skeleton, "DEFER_BYTES", 4),
        mock.patch.object(model, "DEFER_FROM_BYTES", 0),
    ):
        assert kind_of_load(bytes(whole)) == plain


@given(st.data())
def test_cut_file_is_refused(data: st.DataObject) -> None:
    """A cut inside the graph leaves a length that is too long."""
    whole = graphs.conv_bn_relu().SerializeToString()
    length = data.draw(st.integers(100, len(whole) - 100))
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(skeleton, "DEFER_BYTES", 64):
        path = saved(Path(folder), whole[:length])
        with pytest.raises(NotReadableError):
            read_skeleton(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x3a\x05abc", "ends beyond its message"),
        (b"\x09abc", "ends beyond its message"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x08" + b"\xff" * 11 + b"\0", "does not end"),
        (b"\x3a\x80", "does not end"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(NotReadableError, match=message):
        read_skeleton(saved(tmp_path, data))


# As the loader uses it


@pytest.fixture
def always_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "DEFER_FROM_BYTES", 0)


@pytest.mark.usefixtures("always_deferred")
def test_loaded_values_are_read_from_the_file(tmp_path: Path) -> None:
    made = everywhere()
    document = model.load(saved(tmp_path, made.SerializeToString()))
    assert not document.has_data_files
    assert document.file_bytes == made.ByteSize()
    plain = {(w.graph, w.name): w for w in model.weights(model.wrap(made))}
    found = model.weights(document)
    assert len(found) == len(plain) == 20
    for weight in found:
        twin = plain[weight.graph, weight.name]
        assert weight.data_bytes == twin.data_bytes
        np.testing.assert_array_equal(
            model.read(document, weight), model.read(model.wrap(made), twin), strict=True
        )
    assert model.total_bytes(document) == made.ByteSize()


@pytest.mark.usefixtures("always_deferred")
def test_damaged_file_falls_back_to_the_parser(tmp_path: Path) -> None:
    data = everywhere().SerializeToString()
    for damaged in (data[:-100], b"\x0b" + data, b"\x3a\xff\xff\xff\xff\x0f" + data):
        with pytest.raises(InputError, match="is not an ONNX model"):
            model.load(saved(tmp_path, damaged))


@pytest.mark.usefixtures("always_deferred")
def test_what_only_the_parser_knows_falls_back_to_it(tmp_path: Path) -> None:
    """A group is an old wire type that the walk does not follow and the parser skips."""
    made = everywhere()
    group = varint(500 << 3 | 3) + varint(500 << 3 | 4)
    document = model.load(saved(tmp_path, made.SerializeToString() + group))
    assert deferred(document.proto) == []
    assert document.proto.graph == made.graph


@pytest.mark.usefixtures("always_deferred")
def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    """Graph in attribute in node in graph, a thousand times around one long value."""
    data = big("w", 1).SerializeToString()
    body = field(5, data)
    for _ in range(1000):
        attribute = AttributeProto(name="body", type=AttributeProto.GRAPH).SerializeToString()
        body = field(1, field(5, attribute + field(6, body)))
    with pytest.raises(InputError, match="is not an ONNX model"):
        model.load(saved(tmp_path, field(7, body)))
