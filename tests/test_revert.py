"""Plain weights back in the place of encoded ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from onnx import ModelProto, numpy_helper

import onnxq
from onnxq import model, revert
from onnxq.errors import InputError
from onnxq.files import DataFileStore, InlineStore
from onnxq.forms import Form
from onnxq.graphs import Document
from onnxq.recognise import find
from tests import graphs, reading, runs
from tests.encoded import LAYOUTS, built, holding, make_form, payloads, values
from tests.property import strategies


def reverted(document: Document, store: Any = None) -> ModelProto:
    revert.replace_all(document, find(document), store or InlineStore())
    return document.proto


def converted(proto: ModelProto, **options: Any) -> Document:
    _, made = onnxq.convert(proto, check=0, **{"bits": 4, **options})
    return model.wrap(made)


@given(strategies.forms())
def test_stored_arrays_come_back(form: Form) -> None:
    document = built(form)
    (found,) = find(document)
    read = revert.payloads(document, found)
    expected = payloads(form)
    assert read.keys() == expected.keys()
    for role, array in expected.items():
        assert read[role].tobytes() == array.tobytes()


@given(strategies.forms())
def test_weight_comes_back_and_nothing_else_stays(form: Form) -> None:
    proto = reverted(built(form))
    (tensor,) = proto.graph.initializer
    assert tensor.name == "w"
    runs.assert_equal(numpy_helper.to_array(tensor), values(form))
    assert [node.op_type for node in proto.graph.node] == ["Neg"]
    expected = holding(form)
    expected.graph.initializer[0].raw_data = values(form).tobytes()
    if expected.ir_version < 4:
        assert [value.name for value in proto.graph.input] == ["w"]
    assert proto == expected


@pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)
def test_only_values_differ_from_the_original(case: graphs.Case) -> None:
    original = case.build()
    document = converted(original, only_smaller=False, init="uniform", max_iterations=1)
    gone = set(reading.floats(original)) - set(reading.floats(document.proto))
    plain = reverted(document)
    assert reading.floats(plain).keys() == reading.floats(original).keys()
    assert reading.without(plain, gone) == reading.without(original, gone)


def test_weights_of_functions_are_constants_again() -> None:
    plain = reverted(converted(graphs.functions()))
    for function in plain.functions:
        constants = [node for node in function.node if node.op_type == "Constant"]
        assert [node.output[0] for node in constants] == ["w"]
        assert constants[0].attribute[0].t.name == ""
        assert function.node[0].op_type == "Constant"
    onnx.checker.check_model(plain, full_check=True)


def test_weights_before_ir_4_are_inputs_again() -> None:
    original = graphs.ir3()
    plain = reverted(converted(original))
    names = {value.name for value in original.graph.input}
    assert {value.name for value in plain.graph.input} == names
    onnx.checker.check_model(plain, full_check=True)


def test_equal_tensors_are_separate_again() -> None:
    document = converted(graphs.equal_tensors())
    plain = reverted(document)
    arrays = {name: array for (_, name), array in reading.floats(plain).items()}
    assert arrays.keys() == {"first", "second", "third"}
    assert arrays["first"].tobytes() == arrays["second"].tobytes() == arrays["third"].tobytes()
    assert arrays["third"].shape == (32, 128)
    assert not any(node.name.startswith("onnxq_") for node in plain.graph.node)


def test_storage_between_branches_goes_too() -> None:
    proto = graphs.branches(lambda shape, seed: graphs.normal(shape, 7 if seed > 9 else seed))
    document = converted(proto)
    plain = reverted(document)
    assert [tensor.name for tensor in plain.graph.initializer] == ["outer"]
    assert [node.op_type for node in plain.graph.node] == ["MatMul", "If", "Add"]


def test_constants_that_somebody_else_uses_stay() -> None:
    """Another tool may have merged one of our constants with one of the model's own."""
    document = built(make_form("portable", 4, (4, 6)))
    shape = next(t for t in document.proto.graph.initializer if list(t.dims) == [2])
    document.proto.graph.node.append(graphs.node("Reshape", f"y,{shape.name}", "z"))
    name = shape.name
    plain = reverted(document)
    assert sorted(t.name for t in plain.graph.initializer) == sorted(["w", name])
    document = built(make_form("portable", 4, (4, 6)))
    document.proto.graph.output.append(graphs.value(name, 2, dtype=graphs.INT64))
    assert name in {t.name for t in reverted(document).graph.initializer}


def test_unused_initializer_of_the_model_stays() -> None:
    plain = reverted(converted(graphs.unused(), include=["w"]))
    assert "orphan" in {tensor.name for tensor in plain.graph.initializer}


def test_values_go_to_the_store_one_by_one(tmp_path: Path) -> None:
    document = converted(graphs.attention())
    store = DataFileStore(tmp_path / "m.onnx")
    plain = reverted(document, store)
    store.finish()
    assert store.final is not None
    external = {t.name for t in plain.graph.initializer if t.data_location == t.EXTERNAL}
    assert external == set("qkvo") | {"mask"}
    assert store.final.stat().st_size >= 5 * 4 * 4096


def planes(proto: ModelProto) -> Iterator[Any]:
    for tensor in proto.graph.initializer:
        if tensor.data_type != 7 and len(tensor.dims) >= 1:
            yield tensor


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_part_is_named(layout: str) -> None:
    form = make_form(layout, 4, (5, 7), opset=21)  # type: ignore[arg-type]
    for number in range(2):
        document = built(form)
        (found,) = find(document)
        part = found.parts[["codebook", "plane0.0"][number]]
        part.raw_data = part.raw_data[:-1]
        with pytest.raises(InputError, match=r"tensor 'w'.*truncated or damaged"):
            revert.decoded(document, found)


def test_index_beyond_the_codebook_is_refused() -> None:
    form = make_form("bytes", 4, (5, 7), centroids=10)
    document = built(form)
    (found,) = find(document)
    found.parts["plane0.0"].raw_data = bytes([10] * 35)
    with pytest.raises(InputError, match="found 10, expected less than 10"):
        revert.decoded(document, found)


def test_decoded_tensor_has_the_shape_of_its_alias() -> None:
    document = converted(graphs.equal_tensors())
    first, _, third = find(document)
    assert revert.decoded(document, third).shape == (32, 128)
    np.testing.assert_array_equal(
        revert.decoded(document, third).reshape(-1), revert.decoded(document, first).reshape(-1)
    )


def documented(proto: ModelProto) -> dict[tuple[str, str], str]:
    """Return the doc string of each float tensor by graph and name."""
    return {
        (weight.graph, weight.name): weight.tensor.doc_string
        for weight in model.weights(model.wrap(proto))
        if weight.is_float and weight.tensor is not None
    }


@pytest.mark.parametrize("name", ["functions", "equal_tensors", "branches", "ir3"])
def test_doc_strings_of_tensors_come_back(name: str) -> None:
    made = graphs.BY_NAME[name].build()
    for weight in model.weights(document := model.wrap(made)):
        if weight.tensor is not None:
            weight.tensor.doc_string = f"what {weight.name} in {weight.graph} is: größer"
    before = onnxq.inspect(document.proto, bits=4)
    document = model.wrap(document.proto)
    report, smaller = onnxq.convert(document.proto, check=0, bits=4)
    assert smaller.ByteSize() == report.predicted_bytes == before.predicted_file_bytes
    assert len(report.tensors) > 0
    assert onnxq.inspect(smaller).ledger == report.ledger
    _, restored = onnxq.restore(smaller)
    assert documented(restored) == documented(document.proto)
    assert all(text.endswith("größer") for text in documented(restored).values())


def test_doc_string_that_is_no_text_is_left_out() -> None:
    made = graphs.matmul_add()
    made.graph.initializer[0].doc_string = "xyzzy"
    data = made.SerializeToString().replace(b"xyzzy", b"\xff" * 5)
    proto = ModelProto.FromString(data)
    smaller = reverted(converted(proto))
    assert documented(smaller)["main", made.graph.initializer[0].name] == ""
