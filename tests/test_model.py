"""Opening models and listing every tensor they hold."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxq import model
from onnxq.errors import InputError
from onnxq.model import Weight
from tests import graphs, reading, runs


def weights(proto: ModelProto) -> dict[tuple[str, str], Weight]:
    found = model.weights(model.wrap(proto))
    listed = {(weight.graph, weight.name): weight for weight in found}
    assert len(listed) == len(found)
    return listed


def main(proto: ModelProto) -> dict[str, Weight]:
    return {name: weight for (graph, name), weight in weights(proto).items() if graph == "main"}


# Opening


def test_file_and_memory_give_the_same_document(tmp_path: Path) -> None:
    made = graphs.branches()
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    loaded, wrapped = model.load(path), model.wrap(made)
    assert loaded.proto == wrapped.proto == made
    assert loaded.file_bytes == wrapped.file_bytes == path.stat().st_size
    assert (loaded.path, loaded.folder, loaded.label) == (path, tmp_path, str(path))
    assert (wrapped.path, wrapped.folder, wrapped.label) == (None, None, "model")
    assert wrapped.proto is not made


def test_path_is_named_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(graphs.tiny(), tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    document = model.load(Path("m.onnx"))
    assert (document.label, document.path) == ("m.onnx", tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, expected an .onnx file"),
        (b"not a model at all", "is not an ONNX model, or was cut off or damaged"),
        (ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
        (ModelProto(graph=graphs.tiny().graph).SerializeToString(), "names no opset"),
        (graphs.tiny().SerializeToString()[:-3], "is not an ONNX model, or was cut off or damaged"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"m.onnx: {message}"):
        model.load(path)


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        model.load(tmp_path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        model.load(tmp_path / "none.onnx")
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(InputError, match="cannot be read"):
        model.load(tmp_path / "loop")


def test_what_is_no_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="is a device or pipe"):
            model.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "an HTML or XML page"),
    ],
)
def test_usual_mistakes_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match=message):
        model.load(tmp_path / "m.onnx")


def test_file_larger_than_protobuf_reads_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    os.truncate(path, 2**31)
    with pytest.raises(InputError, match="found 2,147,483,648 bytes, an ONNX file can hold"):
        model.load(path)


def test_model_in_memory_without_graph_is_refused() -> None:
    with pytest.raises(InputError, match="model: holds no graph"):
        model.wrap(ModelProto(ir_version=8))


@pytest.mark.parametrize("count", [1, 3])
def test_data_files_are_counted_once_each(tmp_path: Path, count: int) -> None:
    path = tmp_path / "m.onnx"
    graphs.save_external(graphs.attention(), path, count)
    (tmp_path / "other.bin").write_bytes(bytes(1000))
    document = model.load(path)
    assert document.has_data_files
    total = sum(file.stat().st_size for file in tmp_path.iterdir()) - 1000
    assert model.total_bytes(document) == total
    assert document.file_bytes == path.stat().st_size < 3000


def test_data_file_of_a_tensor_in_a_branch_or_function_is_known(tmp_path: Path) -> None:
    made = graphs.functions()
    tensor = made.functions[1].node[1].attribute[0].t
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    graphs.point_outside(tensor, "w.bin")
    onnx.save(made, tmp_path / "m.onnx")
    document = model.load(tmp_path / "m.onnx")
    assert document.has_data_files
    assert [name for name, _ in model.external_tensors(document)] == ["w"]


def test_missing_data_file_is_found_when_sizes_are_summed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graphs.save_external(graphs.attention(), path)
    (tmp_path / "w0.bin").unlink()
    with pytest.raises(InputError, match=r"m.onnx: tensor 'q'.*is missing"):
        model.total_bytes(model.load(path))


# Listing


@pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)
def test_every_tensor_is_listed_and_read(case: graphs.Case) -> None:
    made = case.build()
    document = model.wrap(made)
    found = model.weights(document)
    expected = reading.floats(made)
    dense = [w for w in found if w.is_float and w.kind in ("initializer", "constant")]
    assert sorted(w.name for w in dense) == sorted(name for _, name in expected)
    arrays: dict[str, list[bytes]] = {}
    for (_, name), array in expected.items():
        arrays.setdefault(name, []).append(array.tobytes())
    for weight in dense:
        values = model.read(document, weight)
        assert values.shape == weight.shape
        assert values.size == weight.elements
        assert values.tobytes() in arrays[weight.name]


def test_weight_records_what_the_model_says() -> None:
    found = main(graphs.decorated())
    w = found["w"]
    assert (w.kind, w.position, w.shape, w.dtype) == ("initializer", 0, (64, 8, 3, 3), "float32")
    assert (w.elements, w.data_bytes, w.is_float) == (4608, 18_432, True)
    assert [(use.op_type, use.node, use.index) for use in w.consumers] == [("Conv", "conv", 1)]
    assert (w.is_graph_input, w.is_graph_output, w.is_ambiguous) == (False, False, False)
    assert list(found) == ["w", "b", "scale", "bias", "mean", "var"]


def test_constants_are_weights_of_their_node() -> None:
    found = main(graphs.constants())
    assert {name: (w.kind, w.position, w.shape) for name, w in found.items()} == {
        "w": ("constant", 0, (64, 64)),
        "v": ("constant", 2, (4096,)),
        "one": ("constant", 6, ()),
    }
    assert found["v"].data_bytes == 4 * 4096


def test_sparse_constant_and_initializer_are_told_apart_from_dense_ones() -> None:
    made = graphs.sparse()
    held = made.graph.sparse_initializer[0]
    made.graph.node.append(helper.make_node("Constant", [], ["sc"], sparse_value=held))
    found = main(made)
    assert {name: w.kind for name, w in found.items()} == {
        "w": "initializer", "s": "sparse", "sc": "sparse",
    }  # fmt: skip
    assert found["s"].data_bytes == 4 * 600


def test_tensors_in_attributes_are_listed_by_node_and_attribute() -> None:
    one, two = (graphs.tensor("t", graphs.normal((5,), seed)) for seed in (1, 2))
    nodes = [
        graphs.node("Odd", "", "y", name="named", table=one, domain="com.example"),
        graphs.node("Odd", "", "z", tables=[one, two], domain="com.example"),
        graphs.node("Odd", "", "", only=[one], domain="com.example"),
        # A Constant of another domain, or with a second attribute, is a node like any other.
        graphs.node("Constant", "", "c", value=one, domain="com.example"),
        graphs.node("Constant", "", "d", value=one, extra=1),
    ]
    found = main(graphs.model(graphs.graph(nodes, [], [])))
    assert {name: w.kind for name, w in found.items()} == dict.fromkeys(
        ["named.table", "z.tables[0]", "z.tables[1]", ".only", "c.value", "d.value"], "attribute"
    )


def test_captured_use_counts_for_the_outer_weight() -> None:
    found = weights(graphs.branches())
    assert len(found["main", "outer"].consumers) == 3
    assert [use.op_type for use in found["main/If(u).then_branch", "w"].consumers] == ["MatMul"]


def test_initializer_that_is_an_input_may_be_overridden_from_ir_4_on() -> None:
    made = graphs.initializer_is_input()
    assert main(made)["w"].is_graph_input
    assert not main(made)["v"].is_graph_input
    made.ir_version = 3
    assert not main(made)["w"].is_graph_input


def test_output_that_is_an_initializer_is_known() -> None:
    assert main(graphs.initializer_is_output())["w"].is_graph_output
    made = graphs.functions()
    made.functions[1].output.append("w")
    assert weights(made)["function local:Outer", "w"].is_graph_output
    assert not weights(made)["function local:Layer", "w"].is_graph_output


def test_name_defined_twice_or_empty_is_ambiguous() -> None:
    made = graphs.tiny()
    made.graph.initializer.add().CopyFrom(made.graph.initializer[0])
    found = model.weights(model.wrap(made))
    assert [(w.name, w.is_ambiguous) for w in found] == [("w", True), ("b", False), ("w", True)]
    made = graphs.tiny()
    made.graph.node[0].output.append("b")
    made.graph.initializer[0].name = ""
    assert [w.is_ambiguous for w in model.weights(model.wrap(made))] == [True, True]


def test_external_bytes_are_those_of_the_length_or_the_dims(tmp_path: Path) -> None:
    made = graphs.tiny()
    for tensor, entries in zip(made.graph.initializer, ({"length": 64}, {}), strict=True):
        tensor.ClearField("raw_data")
        graphs.point_outside(tensor, "w.bin", **entries)
    (tmp_path / "w.bin").write_bytes(bytes(64))
    onnx.save(made, tmp_path / "m.onnx")
    document = model.load(tmp_path / "m.onnx")
    found = model.weights(document)
    assert [w.data_bytes for w in found] == [64, 16]
    runs.assert_equal(model.read(document, found[1]), np.zeros(4, np.float32))


def test_negative_dims_are_refused_with_the_name() -> None:
    made = graphs.tiny()
    made.graph.initializer[0].dims[0] = -4
    with pytest.raises(InputError, match=r"model: tensor 'w'.*negative"):
        model.weights(model.wrap(made))


def test_values_that_do_not_fit_are_refused_with_the_name() -> None:
    made = graphs.tiny()
    made.graph.initializer[0].dims[0] = 400
    document = model.wrap(made)
    with pytest.raises(InputError, match="model: tensor 'w': found 64 bytes"):
        model.read(document, model.weights(document)[0])


def test_tensor_of_no_type_is_listed_and_not_read() -> None:
    made = graphs.tiny()
    made.graph.initializer[0].data_type = TensorProto.UNDEFINED
    document = model.wrap(made)
    weight = model.weights(document)[0]
    assert not weight.is_float
    with pytest.raises(InputError, match="cannot read values of undefined"):
        model.read(document, weight)
