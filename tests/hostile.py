"""Crafted files: each function writes one into a folder and returns the path to hand to onnxq."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

import onnxq
from tests import graphs

SECRET = b"secret of another folder" * 1000
Maker = Callable[[Path], Path]


def _write(folder: Path, model: ModelProto) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _raw(folder: Path, data: bytes) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(data)
    return path


def _weight(change: Callable[[TensorProto], None]) -> Maker:
    """Return a maker of a small model whose weight is changed."""

    def make(folder: Path) -> Path:
        model = graphs.matmul_add(size=16)
        change(model.graph.initializer[0])
        return _write(folder, model)

    return make


def _external(location: str | None, setup: Callable[[Path], None] = lambda folder: None,
              **entries: int | str) -> Maker:  # fmt: skip
    """Return a maker of a model whose weight of 64*96 floats lies in another file."""

    def make(folder: Path) -> Path:
        (folder / "secret.bin").write_bytes(SECRET)
        inner = folder / "inner"
        inner.mkdir()
        (inner / "w.bin").write_bytes(bytes(64 * 96 * 4))
        setup(inner)
        model = graphs.matmul_add()
        item = model.graph.initializer[0]
        item.ClearField("raw_data")
        place = None if location is None else location.format(folder=folder)
        graphs.point_outside(item, place, **entries)
        return _write(inner, model)

    return make


def _set_dims(*dims: int) -> Callable[[TensorProto], None]:
    def change(item: TensorProto) -> None:
        item.dims[:] = dims

    return change


def _set_raw(data: bytes) -> Callable[[TensorProto], None]:
    def change(item: TensorProto) -> None:
        item.raw_data = data

    return change


def _set_type(data_type: int) -> Callable[[TensorProto], None]:
    def change(item: TensorProto) -> None:
        item.data_type = data_type

    return change


def _typed_claim(item: TensorProto) -> None:
    item.ClearField("raw_data")
    item.float_data.append(1.0)
    item.dims[:] = [10**13 // 4]


def _both_fields(item: TensorProto) -> None:
    item.float_data.append(1.0)


def _wrong_field(item: TensorProto) -> None:
    item.ClearField("raw_data")
    item.double_data.extend([1.0] * (16 * 96))


def _huge_half(item: TensorProto) -> None:
    item.ClearField("raw_data")
    item.data_type = TensorProto.FLOAT16
    item.int32_data.extend([-1, 2**31 - 1] * (8 * 96))


def _changed(change: Callable[[ModelProto], None], name: str = "matmul_add") -> Maker:
    """Return a maker of a model of the table, changed."""

    def make(folder: Path) -> Path:
        model = graphs.BY_NAME[name].build(graphs.few(4))
        change(model)
        return _write(folder, model)

    return make


def _recursive_functions(model: ModelProto) -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for one, other in (("A", "B"), ("B", "A")):
        call = graphs.node(other, "x", "y", domain="local")
        model.functions.append(helper.make_function("local", one, ["x"], ["y"], [call], imports))
    model.graph.node.append(graphs.node("A", "y", "z", domain="local"))


def _nested(depth: int) -> Maker:
    def make(folder: Path) -> Path:
        body = graphs.graph([graphs.node("Identity", "x", "z")], [], [graphs.value("z", 2, 64)])
        for level in range(depth):
            other = graphs.graph([graphs.node("Neg", "x", "n")], [], [graphs.value("n", 2, 64)])
            choice = graphs.node("If", "flag", f"v{level}", then_branch=body, else_branch=other)
            body = graphs.graph([choice], [], [graphs.value(f"v{level}", 2, 64)])
        inputs = [graphs.value("x", 2, 64), graphs.value("flag", dtype=graphs.BOOL)]
        outer = graphs.graph(body.node, inputs, body.output)
        return _write(folder, graphs.model(outer))

    return make


def _too_deep(folder: Path) -> Path:
    """Nest by hand: the message classes refuse to build what they refuse to read."""
    inner = graphs.graph([graphs.node("Identity", "x", "z")], [], [graphs.value("z", 2, 64)])
    body = inner.SerializeToString()
    for level in range(2000):
        output = graphs.value(f"v{level}", 2, 64)
        branch = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH)
        node = graphs.node("If", "flag", f"v{level}")
        attribute = branch.SerializeToString() + _field(6, body)
        choice = node.SerializeToString() + _field(5, attribute)
        body = graphs.graph([], [], [output]).SerializeToString() + _field(1, choice)
    model = graphs.matmul_add()
    model.ClearField("graph")
    return _raw(folder, model.SerializeToString() + _field(7, body))


def _field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited field of the wire format."""
    length, text = len(payload), bytearray([number << 3 | 2])
    while length > 127:
        text.append(length & 127 | 128)
        length >>= 7
    text.append(length)
    return bytes(text) + payload


def _name_without_utf8(folder: Path) -> Path:
    data = graphs.matmul_add(size=16).SerializeToString()
    return _raw(folder, data.replace(b"proj", b"\xff\xfe\xfdj"))


def _weight_name_without_utf8(folder: Path) -> Path:
    model = graphs.matmul_add()
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "weight"
    return _raw(folder, model.SerializeToString().replace(b"weight", b"\xff\xfe\xfdght"))


def _function_name_without_utf8(folder: Path) -> Path:
    data = graphs.functions(graphs.few(4)).SerializeToString()
    return _raw(folder, data.replace(b"Layer", b"\xff\xfe\xfdyr"))


def _endless_dims(item: TensorProto) -> None:
    item.dims[:] = [2**62] * 300


def _sparse_and_dense_of_one_name(model: ModelProto) -> None:
    model.graph.sparse_initializer[0].values.name = model.graph.initializer[0].name


def _alias_of_another_size(folder: Path) -> Path:
    """A converted model in which the shape of an equal tensor does not fit its storage."""
    _, model = onnxq.convert(graphs.equal_tensors(), bits=4, check=0)
    for item in model.graph.initializer:
        if item.raw_data == struct.pack("<qq", 32, 128):
            item.raw_data = struct.pack("<qq", 32, 130)
    return _write(folder, model)


def _doc_without_utf8(folder: Path) -> Path:
    model = graphs.matmul_add()
    model.doc_string = "documentation"
    return _raw(folder, model.SerializeToString().replace(b"documentation", b"\xe9" * 13))


def _length_prefix(folder: Path) -> Path:
    """A graph field that claims 2 GiB in a file of a few bytes."""
    return _raw(folder, b"\x08\x08\x3a" + b"\xff\xff\xff\xff\x07" + b"\x00" * 20)


def _many_dims(item: TensorProto) -> None:
    item.dims[:] = [1] * 5000 + [16, 96]


def _folder(folder: Path) -> Path:
    path = folder / "m.onnx"
    path.mkdir()
    return path


def _fifo(folder: Path) -> Path:
    path = folder / "m.onnx"
    os.mkfifo(path)
    return path


def _loop_link(folder: Path) -> Path:
    path = folder / "m.onnx"
    path.symlink_to(path)
    return path


def _device_link(folder: Path) -> Path:
    path = folder / "m.onnx"
    path.symlink_to("/dev/zero")
    return path


def _add(field: str, make: Callable[[], object]) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        getattr(model.graph, field).append(make())

    return change


def _link(target: str) -> Callable[[Path], None]:
    return lambda inner: (inner / "link").symlink_to(target)


def _no_shape_constant(model: ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Constant":
            del node.attribute[:]


def _two_attributes(model: ModelProto) -> None:
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    constants[0].attribute.append(constants[1].attribute[0])


def _untyped_attribute(model: ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.type = onnx.AttributeProto.UNDEFINED


def _no_opset(model: ModelProto) -> None:
    del model.opset_import[:]


def _set_opset(version: int) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def _set_ir(version: int) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.ir_version = version

    return change


def _cycle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[1].output[0]


def _backwards(model: ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


def _rename_output(model: ModelProto) -> None:
    model.graph.node[0].output[0] = "w"


def _empty_names(model: ModelProto) -> None:
    for item in model.graph.initializer:
        item.name = ""


def _same_names(model: ModelProto) -> None:
    for item in model.graph.initializer:
        item.name = "w"


def _no_branch(model: ModelProto) -> None:
    del model.graph.node[1].attribute[:]


def _function_without_opset(model: ModelProto) -> None:
    for function in model.functions:
        del function.opset_import[:]


def _sparse_out_of_range(model: ModelProto) -> None:
    indices = model.graph.sparse_initializer[0].indices
    indices.raw_data = struct.pack("<q", 10**15) * (len(indices.raw_data) // 8)


def _sparse_dims(model: ModelProto) -> None:
    model.graph.sparse_initializer[0].dims[:] = [2**40, -3]


def _segment(item: TensorProto) -> None:
    item.segment.begin, item.segment.end = -5, 2**60


REFUSED: dict[str, Maker] = {
    "empty file": lambda folder: _raw(folder, b""),
    "text file": lambda folder: _raw(folder, b"this is no model\n" * 40),
    "html page": lambda folder: _raw(folder, b"<!DOCTYPE html><html><body>404</body></html>"),
    "zeros": lambda folder: _raw(folder, bytes(4096)),
    "noise": lambda folder: _raw(folder, np.random.default_rng(1).bytes(5000)),
    "folder": _folder,
    "missing": lambda folder: folder / "none.onnx",
    "fifo": _fifo,
    "link to itself": _loop_link,
    "huge length prefix": _length_prefix,
    "too deeply nested": _too_deep,
    "10 TB claimed": _weight(_set_dims(10**13 // 4)),
    "10 TB claimed by one float": _weight(_typed_claim),
    "dims overflow": _weight(_set_dims(2**40, 2**40, 2**40)),
    "dims of thousands of digits": _weight(_endless_dims),
    "negative dims": _weight(_set_dims(-16, -96)),
    "raw data short": _weight(_set_raw(bytes(16 * 96 * 4 - 1))),
    "raw data long": _weight(_set_raw(bytes(16 * 96 * 4 + 4))),
    "raw data empty": _weight(_set_raw(b"")),
    "values in the wrong field": _weight(_wrong_field),
    "no opset": _changed(_no_opset),
    "location missing": _external(None),
    "location empty": _external(""),
    "location absent file": _external("none.bin"),
    "location folder": _external("."),
    "location parent": _external("../secret.bin"),
    "location deep parent": _external("a/../../secret.bin"),
    "location absolute": _external("{folder}/secret.bin"),
    "location device": _external("/dev/zero"),
    "location nul": _external("w.bin\0"),
    "location url": _external("file:///etc/passwd"),
    "location link": _external("link", _link("../secret.bin")),
    "location linked folder": _external("link/secret.bin", _link("..")),
    "location link to device": _external("link", _link("/dev/zero")),
    "location fifo": _external("pipe", lambda inner: os.mkfifo(inner / "pipe")),
    "location link loop": _external("link", _link("link")),
    "location endless": _external("x" * 5000),
    "offset beyond": _external("w.bin", offset=10**6),
    "offset negative": _external("w.bin", offset=-64),
    "offset huge": _external("w.bin", offset=2**63),
    "offset no number": _external("w.bin", offset="0x10"),
    "offset superscript": _external("w.bin", offset="\u00b2"),
    "length short": _external("w.bin", length=64 * 96 * 4 - 4),
    "length long": _external("w.bin", length=64 * 96 * 4 + 4),
    "length 10 TB": _external("w.bin", length=10**13),
    "length negative": _external("w.bin", length=-1),
    "length endless": _external("w.bin", length="9" * 5000),
}
"""Files that inspect, convert and restore must refuse with an InputError or UnsupportedError."""

ENDLESS: dict[str, Maker] = {
    "device": lambda folder: Path("/dev/zero"),
    "link to device": _device_link,
}
"""Like REFUSED, but to be tried only where memory is limited."""

SURVIVED: dict[str, Maker] = {
    "nested 20 deep": _nested(20),
    "name without utf-8": _name_without_utf8,
    "weight name without utf-8": _weight_name_without_utf8,
    "function name without utf-8": _function_name_without_utf8,
    "doc string without utf-8": _doc_without_utf8,
    "sparse and dense of one name": _changed(_sparse_and_dense_of_one_name, "sparse"),
    "equal tensor of another size": _alias_of_another_size,
    "many dims": _weight(_many_dims),
    "type 0": _weight(_set_type(0)),
    "type 99": _weight(_set_type(99)),
    "type string": _weight(_set_type(TensorProto.STRING)),
    "type complex": _weight(_set_type(TensorProto.COMPLEX128)),
    "type int4": _weight(_set_type(TensorProto.INT4)),
    "type float8": _weight(_set_type(TensorProto.FLOAT8E4M3FN)),
    "half beyond 16 bits": _weight(_huge_half),
    "two value fields": _weight(_both_fields),
    "segment": _weight(_segment),
    "zero dims with data": _weight(_set_dims(0, 96)),
    "recursive functions": _changed(_recursive_functions),
    "opset 0": _changed(_set_opset(0)),
    "opset 1": _changed(_set_opset(1)),
    "opset 999": _changed(_set_opset(999)),
    "opset negative": _changed(_set_opset(-(2**62))),
    "ir 0": _changed(_set_ir(0)),
    "ir 999": _changed(_set_ir(999)),
    "cycle": _changed(_cycle),
    "nodes backwards": _changed(_backwards),
    "node defines a weight again": _changed(_rename_output),
    "weights without names": _changed(_empty_names),
    "weights of one name": _changed(_same_names),
    "node without anything": _changed(_add("node", onnx.NodeProto)),
    "initializer without anything": _changed(_add("initializer", onnx.TensorProto)),
    "sparse without anything": _changed(_add("sparse_initializer", onnx.SparseTensorProto)),
    "output without anything": _changed(_add("output", onnx.ValueInfoProto)),
    "constant without attribute": _changed(_no_shape_constant, "constants"),
    "constant of two values": _changed(_two_attributes, "constants"),
    "attributes without type": _changed(_untyped_attribute, "constants"),
    "if without branches": _changed(_no_branch, "branches"),
    "function without opset": _changed(_function_without_opset, "functions"),
    "sparse indices out of range": _changed(_sparse_out_of_range, "sparse"),
    "sparse dims": _changed(_sparse_dims, "sparse"),
    "length padded": _external("w.bin", length=f" {64 * 96 * 4} "),
}
"""Files that may be converted or refused, but never end in a trace."""
