"""Encoded tensors are found again, whatever their form; nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper

import onnxq
from onnxq import model
from onnxq.forms import Form
from onnxq.options import LayoutName
from onnxq.recognise import Found, find
from onnxq.revert import decoded
from onnxq.trees import FLOAT, INT32, UINT8, UINT16
from tests import encoded, graphs, reading, runs
from tests.encoded import FLOATS, LAYOUTS, OPSETS, built, limited, make_form, values
from tests.property import strategies

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_width = pytest.mark.parametrize("bits", range(1, 17))
SMALL = (1, 2, 3, 5, 8, 13, 16, 40)


def found_in(proto: ModelProto) -> list[Found]:
    return find(model.wrap(proto))


def assert_found_again(form: Form) -> None:
    document = built(form)
    (found,) = find(document)
    assert (found.name, found.scope.path, found.shape) == ("w", "main", form.shape)
    # A group table does not tell how many of its centroids are in use.
    assert found.form == replace(form, centroids=form.codebook_length)
    assert found.same_as is None
    assert found.storage is found
    runs.assert_equal(decoded(document, found), values(form))


# Our own


@each_layout
@each_width
def test_every_form_is_found_again(layout: LayoutName, bits: int) -> None:
    shapes = [*((size,) for size in SMALL), (1, 7), (3, 5), (2, 3, 1, 4)]
    for opset, shape in product((7, 10, 25), shapes):
        assert_found_again(make_form(layout, bits, shape, opset=opset))
    for opset in (9, 11, 13, 21):
        assert_found_again(make_form(layout, bits, (7,), opset=opset))
    for data_type in FLOATS:
        assert_found_again(make_form(layout, bits, (3, 7), opset=25, data_type=data_type))


@given(strategies.forms())
def test_any_form_is_found_again(form: Form) -> None:
    assert_found_again(form)


@given(strategies.forms(100), st.integers(8, 300))
def test_tiled_form_is_found_again(form: Form, limit: int) -> None:
    is_told_by_its_planes = len(form.shape) == 1 and form.layout == "portable"
    assume(not is_told_by_its_planes)  # see the next test
    with limited(limit):
        assert_found_again(form)


def test_tiled_vector_is_found_again() -> None:
    for bits in range(1, 17):
        for opset in OPSETS:
            with limited(64):
                assert_found_again(make_form("portable", bits, (99,), opset=opset))


@pytest.mark.parametrize("bits", [1, 3, 4, 5, 7, 8, 9, 12, 15])
def test_names_and_order_of_new_nodes_play_no_part(bits: int) -> None:
    form = make_form("portable", bits, (3, 5))
    proto = built(form).proto
    names = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    renamed = {name: f"renamed {number}" for number, name in enumerate(sorted(names))}
    for node in proto.graph.node:
        node.input[:] = [renamed[name] for name in node.input]
        node.output[:] = [renamed[name] for name in node.output]
        node.name = f"node of {node.output[0]}"
    for tensor in proto.graph.initializer:
        tensor.name = renamed[tensor.name]
    proto.graph.output[0].name = renamed["y"]
    initializers = list(proto.graph.initializer)[::-1]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(initializers)
    (found,) = found_in(proto)
    assert (found.name, found.shape) == (renamed["w"], (3, 5))


@pytest.mark.parametrize("bits", [1, 3, 4, 5, 7, 8, 9, 12, 15])
def test_constants_may_stand_as_nodes(bits: int) -> None:
    form = make_form("portable", bits, (3, 5))
    document = built(form)
    graph = document.proto.graph
    nodes = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in graph.initializer
    ]
    nodes += list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.node.extend(nodes)
    (found,) = find(document)
    runs.assert_equal(decoded(document, found), values(form))


def test_parts_and_nodes_are_those_of_the_tensor() -> None:
    document = built(make_form("portable", 5, (3, 5)))
    (found,) = find(document)
    graph = document.proto.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    assert set(found.parts) == {"codebook", "plane0.0", "plane0.1"}
    assert all(any(part is t for t in held.values()) for part in found.parts.values())
    assert {id(node) for node in found.nodes} == {
        id(node) for node in graph.node if node.name != "user"
    }


@pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)
def test_plain_models_hold_nothing_encoded(case: graphs.Case) -> None:
    assert found_in(case.build()) == []


def test_tensors_are_found_in_file_order_scope_by_scope() -> None:
    report, converted = onnxq.convert(graphs.nested_branches(), bits=4, check=0)
    rows = [(found.scope.path, found.name) for found in found_in(converted)]
    assert rows == [(row.graph, row.name) for row in report.tensors]


def test_equal_tensors_name_their_storage() -> None:
    _, converted = onnxq.convert(graphs.equal_tensors(), bits=4, check=0)
    first, second, third = found_in(converted)
    assert first.same_as is None
    assert second.same_as is first
    assert third.storage is first
    assert [found.shape for found in (first, second, third)] == [(64, 64), (64, 64), (32, 128)]
    assert third.parts == {}


def test_storage_without_an_original_name_passes_to_its_first_user() -> None:
    proto = graphs.branches(lambda shape, seed: graphs.normal(shape, 7 if seed > 9 else seed))
    report, converted = onnxq.convert(proto, bits=4, check=0)
    found = found_in(converted)
    assert [(f.scope.path, f.name) for f in found] == [(r.graph, r.name) for r in report.tensors]
    outer, lead, follower = found
    assert outer.same_as is lead.same_as is None
    assert follower.same_as is lead
    assert lead.nodes[-1].op_type == "Identity"
    assert {f.name for f in found} == {"outer", "w"}


def test_storage_that_is_an_output_or_used_by_name_stays_itself() -> None:
    proto = graphs.equal_tensors()
    proto.graph.output.append(graphs.value("first", 64, 64))
    proto.graph.node[0].input[1] = "second"  # nobody but the aliases uses the first
    _, converted = onnxq.convert(proto, bits=4, check=0)
    assert [found.name for found in found_in(converted)] == ["first", "second", "third"]


def test_alias_that_does_not_fit_is_a_node_like_any_other() -> None:
    """Only with our name, one output, and a constant shape of as many elements."""
    document = built(make_form("portable", 4, (4, 6)))
    shapes = {"s": [6, 4], "minus": [-1], "less": [4, 5], "both": [-4, -6], "zero": [0, 0]}
    for name, shape in shapes.items():
        document.proto.graph.initializer.append(tensor_of(name, np.array(shape)))
    nodes = [
        graphs.node("Reshape", f"w,{name}", f"to {name}", name=f"onnxq_{name}") for name in shapes
    ]
    nodes += [
        graphs.node("Identity", "w", "same", name="onnxq_same"),
        graphs.node("Identity", "w", "foreign", name="foreign"),
        graphs.node("Identity", "y", "of y", name="onnxq_y"),
        graphs.node("Identity", "w", "", name="onnxq_nothing"),
        graphs.node("Identity", "", "from nothing", name="onnxq_from"),
        graphs.node("Reshape", "w,y", "computed", name="onnxq_computed"),
        graphs.node("Neg", "w", "minus w", name="onnxq_neg"),
    ]
    document.proto.graph.node.extend(nodes)
    assert [(found.name, found.shape) for found in find(document)] == [
        ("w", (4, 6)), ("to s", (6, 4)), ("same", (4, 6)),
    ]  # fmt: skip


def test_alias_in_a_branch_sees_the_storage_around_it() -> None:
    document = built(make_form("portable", 4, (4, 6)))
    branch = graphs.graph(
        [graphs.node("Identity", "w", "inner", name="onnxq_inner")], [], [graphs.value("inner")]
    )
    document.proto.graph.node.append(
        graphs.node("If", "flag", "u", then_branch=branch, else_branch=graphs.graph([], [], []))
    )
    _, inner = find(document)
    assert (inner.name, inner.scope.path) == ("inner", "main/If(u).then_branch")


# Look-alikes


def model_of(*nodes: NodeProto, opset: int = 17, **arrays: Any) -> ModelProto:
    held = [
        value if isinstance(value, TensorProto) else tensor_of(name, value)
        for name, value in arrays.items()
    ]
    inputs = [graphs.value("ids", 4, dtype=UINT8), graphs.value("x", 4)]
    return graphs.model(graphs.graph(nodes, inputs, [graphs.value("y")], held), opset)


def tensor_of(name: str, array: Any) -> TensorProto:
    array = np.asarray(array)
    made = TensorProto(name=name, dims=array.shape, raw_data=array.tobytes())
    made.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    return made


BOOK = np.linspace(-1, 1, 200).astype(np.float32)
IDS = np.arange(12, dtype=np.uint8)
GATHER = graphs.node("Gather", "book,wide", "y")
CAST = graphs.node("Cast", "ids_", "wide", to=INT32)
LOOK_ALIKES = {
    "a lookup by an input": model_of(
        graphs.node("Cast", "ids", "wide", to=INT32), GATHER, book=BOOK
    ),
    "an embedding of fixed positions": model_of(CAST, GATHER, book=BOOK.reshape(50, 4), ids_=IDS),
    "a lookup of integers": model_of(CAST, GATHER, book=np.arange(200, dtype=np.int32), ids_=IDS),
    "indices that are int64 already": model_of(
        graphs.node("Gather", "book,ids_", "y"), book=BOOK, ids_=IDS.astype(np.int64)
    ),
    "indices cast to int64": model_of(
        graphs.node("Cast", "ids_", "wide", to=7), GATHER, book=BOOK, ids_=IDS
    ),
    "int8 indices": model_of(CAST, GATHER, book=BOOK, ids_=IDS.astype(np.int8)),
    "indices of more bits than the table needs": model_of(
        CAST, GATHER, book=BOOK, ids_=IDS.astype(np.uint16)
    ),
    "a lookup along another axis": model_of(
        CAST, graphs.node("Gather", "book,wide", "y", axis=-1), book=BOOK, ids_=IDS
    ),
    "a scalar table": model_of(CAST, GATHER, book=BOOK[0], ids_=IDS),
    "an empty table": model_of(CAST, GATHER, book=BOOK[:0], ids_=IDS),
    "no indices": model_of(CAST, GATHER, book=BOOK, ids_=IDS[:0]),
    "a table that is computed": model_of(
        CAST, graphs.node("Add", "book,book", "sum"), graphs.node("Gather", "sum,wide", "y"),
        book=BOOK, ids_=IDS,
    ),
    "operators of another domain": model_of(
        CAST, graphs.node("Gather", "book,wide", "y", domain="com.example"), book=BOOK, ids_=IDS
    ),
    "a reshape of a constant": model_of(
        graphs.node("Reshape", "book,shape", "y"), book=BOOK, shape=np.array([10, 20])
    ),
    "a slice of a constant": model_of(
        graphs.node("Slice", "book,s,e", "y"), book=BOOK, s=np.array([0]), e=np.array([7])
    ),
    "a slice from behind": model_of(
        graphs.node("Cast", "ids", "wide", to=INT32), graphs.node("Gather", "book,wide", "g"),
        graphs.node("Slice", "g,s,e", "y"), book=BOOK, s=np.array([0]), e=np.array([-1]),
    ),
    "two constants joined": model_of(
        graphs.node("Concat", "book,other", "y", axis=0), book=BOOK, other=BOOK
    ),
    "a cast of a constant": model_of(graphs.node("Cast", "book", "y", to=10), book=BOOK),
    "a shared table alone": model_of(
        graphs.node("Range", "a,b,c", "y"),
        a=np.int32(0), b=np.int32(256), c=np.int32(1),
    ),
    "a node without inputs": model_of(graphs.node("Concat", "", "y", axis=0)),
}  # fmt: skip


@pytest.mark.parametrize("what", LOOK_ALIKES)
def test_look_alike_is_not_taken_for_ours(what: str) -> None:
    assert found_in(LOOK_ALIKES[what]) == []


def test_what_is_exactly_a_form_is_one() -> None:
    """An 8-bit lookup written by others decodes by the same rule, so it may be called ours."""
    (found,) = found_in(model_of(CAST, GATHER, book=BOOK, ids_=IDS))
    assert (found.form.bit_width, found.form.centroids, found.shape) == (8, 200, (12,))
    wide = model_of(CAST, GATHER, book=np.zeros(300, np.float32), ids_=IDS.astype(np.uint16))
    (found,) = found_in(wide)
    assert found.parts["plane0.0"].data_type == UINT16


def test_table_that_is_too_long_is_no_codebook() -> None:
    table = np.zeros(70_000, np.float32)
    assert found_in(model_of(CAST, GATHER, book=table, ids_=IDS.astype(np.uint16))) == []


def test_table_that_a_caller_may_override_is_no_codebook() -> None:
    proto = model_of(CAST, GATHER, book=BOOK, ids_=IDS)
    for name, dims, dtype in (("book", (200,), FLOAT), ("ids_", (12,), UINT8)):
        open_to_callers = ModelProto()
        open_to_callers.CopyFrom(proto)
        open_to_callers.graph.input.append(graphs.value(name, *dims, dtype=dtype))
        assert found_in(open_to_callers) == []
        open_to_callers.ir_version = 3  # where every initializer is listed
        assert len(found_in(open_to_callers)) == 1


@pytest.mark.parametrize("ends", [0, -1, 5])
def test_slice_of_a_lookup_is_the_models_own(ends: int) -> None:
    nodes = CAST, graphs.node("Gather", "book,wide", "g"), graphs.node("Slice", "g,s,e", "y")
    proto = model_of(*nodes, book=BOOK, ids_=IDS, s=np.array([0]), e=np.array([ends]))
    assert [found.name for found in found_in(proto)] == ["g"]


def changed(form: Form, change: Any) -> list[Found]:
    """Return what is found after a change of the graph; `find` says whether it was one."""
    proto = built(form).proto
    before = proto.SerializeToString()
    change(proto.graph)
    assert proto.SerializeToString() != before
    return found_in(proto)


def other_digits(graph: Any) -> None:
    powers = next(t for t in graph.initializer if t.data_type == INT32 and t.dims)
    powers.int32_data[:] = powers.int32_data[::-1]


def other_modulus(graph: Any) -> None:
    name = next(node.input[1] for node in graph.node if node.op_type == "Mod")
    next(t for t in graph.initializer if t.name == name).int32_data[:] = [7]


def other_operator(graph: Any) -> None:
    next(node for node in graph.node if node.op_type == "Mod").op_type = "Sub"


def other_axis(graph: Any) -> None:
    for node in graph.node:
        if node.op_type == "Gather":
            node.attribute.add(name="axis", i=1, type=2)


def other_type(graph: Any) -> None:
    for node in graph.node:
        if node.op_type == "Cast":
            node.attribute[0].i = 7


def other_domain(graph: Any) -> None:
    for node in graph.node:
        if node.op_type == "Gather":
            node.domain = "com.example"


@pytest.mark.parametrize("bits", [3, 4, 6, 9])
@pytest.mark.parametrize(
    "change",
    [other_digits, other_modulus, other_operator, other_axis, other_type, other_domain],
    ids=lambda change: change.__name__,
)
def test_changed_graph_is_no_form(bits: int, change: Any) -> None:
    assert changed(make_form("portable", bits, (3, 5)), change) == []


@pytest.mark.parametrize("bits", [3, 4, 6, 9])
def test_other_shape_at_the_end_is_another_form_or_none(bits: int) -> None:
    def reshape(graph: Any) -> None:
        shapes = [t for t in graph.initializer if t.data_type == 7 and list(t.dims) == [2]]
        shapes[-1].raw_data = np.array([4, 4]).tobytes()

    padded = make_form("portable", bits, (3, 5))
    assert all(found.shape != (3, 5) for found in changed(padded, reshape))
    (found,) = changed(make_form("portable", bits, (2, 8)), reshape)
    assert found.shape == (4, 4)


def test_two_codebooks_are_no_form() -> None:
    """Tiles of one tensor share one codebook; joined tensors have their own."""
    form = make_form("bytes", 4, (4, 3))
    proto = built(form).proto
    other = built(form, holding_named("v")).proto
    for tensor in other.graph.initializer:
        tensor.name += "'"
    for node in other.graph.node[:-1]:
        node.input[:] = [f"{name}'" for name in node.input]
        node.output[:] = [f"{name}'" for name in node.output]
    proto.graph.initializer.extend(other.graph.initializer)
    for number, node in enumerate(other.graph.node[:-1]):
        proto.graph.node.insert(number, node)
    proto.graph.node.append(graphs.node("Concat", "w,v'", "z", axis=0))
    assert sorted(found.name for found in found_in(proto)) == ["v'", "w"]


def holding_named(name: str) -> ModelProto:
    return encoded.holding(make_form("bytes", 4, (4, 3)), name)


# Nodes of the model itself behind an encoded tensor


def behind(node: NodeProto, shape: tuple[int, ...], arrays: dict[str, Any]) -> ModelProto:
    """Return a model whose weight `w` goes through a node, and to a Neg of its own."""
    held = [tensor_of(name, value) for name, value in arrays.items()]
    body = graphs.graph(
        [node, graphs.node("Neg", "w", "z"), graphs.node("Neg", "w2", "y")],
        [], [graphs.value("y"), graphs.value("z", *shape)],
        [graphs.tensor("w", graphs.normal(shape, 3)), *held],
    )  # fmt: skip
    return graphs.model(body)


BEHIND = {
    "Identity": (graphs.node("Identity", "w", "w2"), {}),
    "Reshape": (graphs.node("Reshape", "w,shape", "w2"), {"shape": np.array([1, -1])}),
    "Reshape to the same": (graphs.node("Reshape", "w,shape", "w2"), {"shape": np.array([-1])}),
    "Slice": (
        graphs.node("Slice", "w,a,b", "w2"), {"a": np.array([0]), "b": np.array([398])},
    ),
    "Cast": (graphs.node("Cast", "w", "w2", to=10), {}),
    "Concat": (graphs.node("Concat", "w,w", "w2", axis=0), {}),
    "Concat of one": (graphs.node("Concat", "w", "w2", axis=0), {}),
    "Add": (graphs.node("Add", "w,w", "w2"), {}),
    "Gather": (graphs.node("Gather", "w,i", "w2"), {"i": np.array([0, 2], np.int32)}),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(399,), (400,), (19, 21)], ids=str)
@pytest.mark.parametrize("what", BEHIND)
def test_own_node_behind_a_weight_is_no_part_of_it(what: str, shape: tuple[int, ...]) -> None:
    node, arrays = BEHIND[what]
    for bits, is_used_twice in product((4, 5, 8), (False, True)):
        proto = behind(node, shape, arrays)
        if not is_used_twice:
            del proto.graph.node[1], proto.graph.output[1]
        assert_own_node_stays(proto, shape, bits)


def assert_own_node_stays(proto: ModelProto, shape: tuple[int, ...], bits: int) -> None:
    report, converted = onnxq.convert(
        proto, bits=bits, only_smaller=False, init="uniform", max_iterations=1, check=0
    )
    assert [row.name for row in report.tensors] == ["w"]
    found = found_in(converted)
    assert [(f.name, f.shape) for f in found] == [("w", shape)]
    _, plain = onnxq.restore(converted)
    assert reading.without(plain, {(("main",), "w")}) == reading.without(proto, {(("main",), "w")})


# Files of other tools


def test_small_constants_may_stand_in_a_data_file(tmp_path: Path) -> None:
    """Shapes and table entries are read from there too."""
    report, converted = onnxq.convert(graphs.gemm(), bits=5, only_smaller=False, check=0)
    path, (_, plain) = tmp_path / "m.onnx", onnxq.restore(converted)
    onnx.save_model(converted, path, save_as_external_data=True, size_threshold=0)
    found = find(model.load(path))
    assert [item.name for item in found] == [row.name for row in report.tensors] == list("wbvc")
    onnxq.restore(path, tmp_path / "plain.onnx")
    feeds = graphs.feeds(plain)
    runs.assert_same(runs.run(tmp_path / "plain.onnx", feeds), runs.run(plain, feeds))


@pytest.mark.parametrize("op_type", ["Reshape", "Concat", "Slice"])
def test_cycle_in_a_damaged_graph_ends(op_type: str) -> None:
    nodes = [graphs.node(op_type, "b,s", "a"), graphs.node(op_type, "a,s", "b")]
    assert found_in(model_of(*nodes, s=np.array([4]))) == []
    assert found_in(model_of(graphs.node(op_type, "a,s", "a"), s=np.array([4]))) == []
