"""How weights leave a model and encoded tensors enter it, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from onnxq import layout, model
from onnxq.files import DataFileStore, InlineStore
from onnxq.graphs import Document, holder, scopes, taken_names
from onnxq.options import make_options
from onnxq.plans import Plan, make_plan
from onnxq.rate import Placement
from onnxq.trees import FLOAT, FLOAT16, INT64, UINT8
from tests import graphs, reading, runs
from tests.encoded import FLOATS, LAYOUTS, built, encoded, holding, make_form, planned, values
from tests.property.strategies import bit_widths, forms, layouts, models

each_case = pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)
EVERYTHING: dict[str, Any] = {"only_smaller": False, "fewer_bits": False}


def plan_of(document: Document, **options: Any) -> Plan:
    return make_plan(document, model.weights(document), make_options(options), 1)


def assembled(
    document: Document, plan: Plan, store: Any = None, at: Placement | None = None
) -> tuple[int, int]:
    """Insert random indices as a plan says; return (predicted, written) bytes of the model."""
    weights, taken = model.weights(document), taken_names(document)
    layout.strip(document, plan, weights)
    predicted = layout.predict(document, plan, weights, taken, at)
    assembler = layout.Assembler(document, taken, weights, plan)
    inserter = layout.Inserter(document, assembler, store or InlineStore())
    for one in plan.tensors:
        made = encoded(inserter.form(one), one) if one.same_as is None else None
        inserter.insert(one, made)
    return predicted, document.proto.ByteSize()


# Taking out


@each_case
def test_strip_takes_out_the_planned_weights_and_nothing_else(case: graphs.Case) -> None:
    proto = case.build()
    document = model.wrap(proto)
    plan = plan_of(document, bits=4)
    layout.strip(document, plan, model.weights(document))
    keys = {tensor.key for tensor in plan.tensors}
    gone = set(reading.floats(proto)) - set(reading.floats(document.proto))
    assert len(gone) == len(keys)
    assert {name for _, name in gone} == {name for _, name in keys}
    assert document.proto == reading.without(proto, gone)


def test_weights_stay_readable_after_strip() -> None:
    document = model.wrap(graphs.branches())
    weights = model.weights(document)
    before = [model.read(document, weight) for weight in weights]
    layout.strip(document, plan_of(document, bits=4), weights)
    for weight, array in zip(weights, before, strict=True):
        runs.assert_equal(model.read(document, weight), array)


def test_stripping_by_an_empty_plan_changes_nothing() -> None:
    document = model.wrap(graphs.branches())
    layout.strip(document, Plan(tensors=(), skips=()), model.weights(document))
    assert document.proto == graphs.branches()


def test_inputs_go_with_their_initializers_before_ir_4() -> None:
    document = model.wrap(graphs.ir3())
    layout.strip(document, plan_of(document, bits=4), model.weights(document))
    assert [value.name for value in document.proto.graph.input] == ["x", "var"]
    assert [tensor.name for tensor in document.proto.graph.initializer] == ["var"]


# Putting in


def test_nodes_stand_in_front_in_the_order_of_the_plan() -> None:
    document = model.wrap(graphs.gemm())
    assembled(document, plan_of(document, bits=8, **EVERYTHING))
    nodes = document.proto.graph.node
    old = [node.op_type for node in graphs.gemm().graph.node]
    assert [node.op_type for node in nodes[-len(old) :]] == old
    new = [node.output[0] for node in nodes[: -len(old)] if node.op_type == "Gather"]
    assert new == ["w", "b", "v", "c"]


@each_case
def test_every_graph_stays_sorted(case: graphs.Case) -> None:
    document = model.wrap(case.build())
    assembled(document, plan_of(document, bits=5, **EVERYTHING))
    for scope in scopes(document):
        made = {name for node in scope.proto.node for name in node.output}
        seen: set[str] = set()
        for node in scope.proto.node:
            assert not (set(node.input) & made) - seen, scope.path
            seen.update(node.output)


@pytest.mark.parametrize("data_type", FLOATS)
@pytest.mark.parametrize("bits", [3, 8, 12])
def test_inserted_tensor_is_what_the_runtime_computes(data_type: int, bits: int) -> None:
    for wanted in LAYOUTS:
        form = make_form(wanted, bits, (5, 7), data_type=data_type, opset=21)
        proto = holding(form)
        proto.graph.node[0].CopyFrom(graphs.node("Cast", "w", "y", to=FLOAT))
        proto.graph.output[0].CopyFrom(graphs.value("y", 5, 7))
        document = built(form, proto)
        onnx.checker.check_model(document.proto, full_check=True)
        found = runs.run(document.proto, {})["y"]
        runs.assert_equal(found, values(form).astype(np.float32))


@pytest.mark.parametrize("opset", [7, 9])
def test_before_ir_4_constants_are_initializers_listed_as_inputs(opset: int) -> None:
    document = model.wrap(graphs.conv_bn_relu(opset=opset))
    document.proto.ir_version = 3
    del document.proto.graph.input[1:]
    for tensor in document.proto.graph.initializer:
        layout.add_input(document.proto.graph, tensor)
    assembled(document, plan_of(document, bits=3, **EVERYTHING))
    graph = document.proto.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    assert [value.name for value in graph.input] == ["x", *held]
    for value in graph.input[1:]:
        kind = value.type.tensor_type
        assert kind.elem_type == held[value.name].data_type
        assert [dim.dim_value for dim in kind.shape.dim] == list(held[value.name].dims)
    assert {node.op_type for node in graph.node}.isdisjoint({"Constant"})
    onnx.checker.check_model(document.proto, full_check=True)


def test_functions_get_constant_nodes() -> None:
    document = model.wrap(graphs.functions())
    assembled(document, plan_of(document, bits=4, **EVERYTHING))
    for function in document.proto.functions:
        kinds = [node.op_type for node in function.node]
        assert kinds[0] == "Constant"
        for node in function.node:
            if node.op_type == "Constant" and node.attribute[0].t.data_type == UINT8:
                assert node.attribute[0].t.name == ""
    branch = document.proto.functions[0].node[-1].attribute[1].g
    assert not branch.initializer
    assert "Constant" in {node.op_type for node in branch.node}


def test_weight_of_a_branch_is_decoded_in_the_branch_by_tables_of_the_main_graph() -> None:
    document = model.wrap(graphs.branches())
    assembled(document, plan_of(document, bits=4, pool_indices=False, **EVERYTHING))
    graph = document.proto.graph
    shared = {name for node in graph.node for name in node.output}
    shared |= {tensor.name for tensor in graph.initializer}
    choice = next(node for node in graph.node if node.op_type == "If")
    for attribute in choice.attribute:
        body = attribute.g
        assert [t.data_type for t in body.initializer] == [FLOAT, UINT8]
        assert [n.op_type for n in body.node[:4]] == ["Gather", "Cast", "Gather", "Reshape"]
        own = {name for node in body.node for name in node.output}
        own |= {tensor.name for tensor in body.initializer}
        captured = {name for node in body.node[:4] for name in node.input} - own
        assert captured <= shared
        assert len(captured) == 2  # digits of a word, and the shape


def test_equal_tensors_have_one_storage_and_named_aliases() -> None:
    document = model.wrap(graphs.equal_tensors())
    assembled(document, plan_of(document, bits=4))
    aliases = [node for node in document.proto.graph.node if node.name.startswith("onnxq_")]
    assert [(n.op_type, n.input[0], n.output[0]) for n in aliases] == [
        ("Identity", "first", "second"), ("Reshape", "first", "third"),
    ]  # fmt: skip
    planes = [t for t in document.proto.graph.initializer if t.data_type == UINT8]
    assert len(planes) == 1


def test_storage_of_two_branches_has_a_fresh_name_around_them() -> None:
    proto = graphs.branches(lambda shape, seed: graphs.normal(shape, 7 if seed > 9 else seed))
    document = model.wrap(proto)
    plan = plan_of(document, bits=4)
    assert [(t.key[0], t.storage_graph) for t in plan.tensors[1:]] == [
        ("main/If(u).else_branch", "main"), ("main/If(u).then_branch", "main"),
    ]  # fmt: skip
    assembled(document, plan)
    choice = next(node for node in document.proto.graph.node if node.op_type == "If")
    sources = {attribute.g.node[0].input[0] for attribute in choice.attribute}
    assert len(sources) == 1
    (source,) = sources
    assert source.startswith("q")
    assert source in {name for node in document.proto.graph.node for name in node.output}
    runs.assert_same(
        runs.run(document.proto, graphs.feeds(proto)),
        runs.run(restored(document), graphs.feeds(proto)),
    )


def restored(document: Document) -> ModelProto:
    import onnxq

    _, plain = onnxq.restore(document.proto)
    assert isinstance(plain, ModelProto)
    return plain


def test_equal_tensor_needs_no_payload() -> None:
    document = model.wrap(graphs.equal_tensors())
    plan = plan_of(document, bits=4)
    assert [tensor.same_as is None for tensor in plan.tensors] == [True, False, False]
    weights, taken = model.weights(document), taken_names(document)
    layout.strip(document, plan, weights)
    assembler = layout.Assembler(document, taken, weights, plan)
    inserter = layout.Inserter(document, assembler, InlineStore())
    form = inserter.form(plan.tensors[0])
    for tensor in plan.tensors:
        inserter.insert(tensor, encoded(form, tensor) if tensor.same_as is None else None)
    assert document.proto.graph.node[-5].output[0] == "h"


# Sizes


@given(models(), layouts, bit_widths, st.booleans(), st.sampled_from(("float32", "float16")))
def test_predicted_size_is_the_written_one(
    proto: ModelProto, wanted: Any, bits: int, is_shared: bool, codebook: str
) -> None:
    document = model.wrap(proto)
    plan = plan_of(
        document, bits=bits, layout=wanted, share_equal=is_shared, codebook_dtype=codebook,
        **EVERYTHING,
    )  # fmt: skip
    predicted, written = assembled(document, plan)
    assert predicted == written


@pytest.mark.parametrize("bits", [4, 12])
@each_case
def test_predicted_size_of_known_models(case: graphs.Case, bits: int) -> None:
    document = model.wrap(case.build())
    predicted, written = assembled(document, plan_of(document, bits=bits))
    assert predicted == written


@given(forms(300))
def test_predicted_size_of_one_tensor(form: Any) -> None:
    document = model.wrap(holding(form))
    weights, taken = model.weights(document), taken_names(document)
    plan = Plan(tensors=(planned(form),), skips=())
    layout.strip(document, plan, weights)
    predicted = layout.predict(document, plan, weights, taken, None)
    assert predicted == built(form).proto.ByteSize()


def test_predicting_changes_nothing() -> None:
    document = model.wrap(graphs.branches())
    plan = plan_of(document, bits=4)
    weights, taken = model.weights(document), taken_names(document)
    layout.strip(document, plan, weights)
    before = document.proto.SerializeToString(deterministic=True)
    placement = Placement("w.data")
    placement.place(1000)
    sizes = {layout.predict(document, plan, weights, taken, placement) for _ in range(3)}
    assert len(sizes) == 1
    assert document.proto.SerializeToString(deterministic=True) == before
    assert placement.end == 1000


def test_growth_of_a_graph_lengthens_the_prefixes_around_it() -> None:
    """A branch that grows over 127 and 16,383 bytes needs longer lengths around it."""
    for size in (1, 20, 100, 4000, 16_300):
        document = model.wrap(graphs.nested_branches())
        name = "n" * size
        for scope in scopes(document):
            for node in scope.proto.node:
                for place, used in enumerate(node.input):
                    node.input[place] = name if used == "deep_w" else used
                for place, used in enumerate(node.output):
                    node.output[place] = name if used == "deep_w" else used
        predicted, written = assembled(document, plan_of(document, bits=3, **EVERYTHING))
        assert predicted == written


@pytest.mark.parametrize("start", [0, 100, 5000])
def test_predicted_size_beside_a_data_file(tmp_path: Path, start: int) -> None:
    document = model.wrap(graphs.attention())
    store = DataFileStore(tmp_path / "m.onnx")
    if start:
        store.put(TensorProto(), np.zeros(max(start, 1024), np.uint8))
    predicted, written = assembled(document, plan_of(document, bits=6), store, store.placement)
    assert predicted == written + store.placement.end
    store.finish()
    assert store.final is not None
    assert store.final.stat().st_size == store.placement.end
    assert predicted == document.proto.ByteSize() + store.final.stat().st_size


# Parts


def test_new_constants_stand_as_the_scope_allows() -> None:
    document = model.wrap(graphs.functions())
    plan = plan_of(document, bits=4, **EVERYTHING)
    assembler = layout.Assembler(document, (), model.weights(document), plan)
    by_path: dict[str, str] = {scope.path: holder(document, scope) for scope in scopes(document)}
    for tensor in plan.tensors:
        assert assembler.holder(tensor) == by_path[tensor.graph]
        assert assembler.form(tensor).opset == 17


def test_input_of_a_constant_tells_its_type_and_dims() -> None:
    graph = graphs.graph([], [graphs.value("x", 1)], [])
    layout.add_input(graph, TensorProto(name="a", data_type=INT64))
    layout.add_input(graph, TensorProto(name="b", data_type=FLOAT16, dims=[2, 0]))
    scalar, matrix = graph.input[1].type.tensor_type, graph.input[2].type.tensor_type
    assert scalar.HasField("shape")
    assert (scalar.elem_type, len(scalar.shape.dim)) == (INT64, 0)
    assert (matrix.elem_type, [d.dim_value for d in matrix.shape.dim]) == (FLOAT16, [2, 0])
    layout.remove_inputs(graph, {"x", "b"})
    assert [value.name for value in graph.input] == ["a"]
