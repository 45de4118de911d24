"""What is seen from a scope, and which forms a node could end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from onnx import ModelProto, NodeProto

from onnxq import model
from onnxq.forms import Form
from onnxq.graphs import scopes
from onnxq.propose import proposals, reshaped
from onnxq.sights import Sight, look
from onnxq.trees import FLOAT, FLOAT16, INT32
from tests import graphs
from tests.encoded import LAYOUTS, built, make_form
from tests.property import strategies


def sights(proto: ModelProto) -> dict[str, Sight]:
    found: dict[str, Sight] = {}
    document = model.wrap(proto)
    for scope in scopes(document):
        outer = found.get(scope.parent.path) if scope.parent else None
        found[scope.path] = look(document, scope, outer)
    return found


def main(proto: ModelProto) -> Sight:
    return sights(proto)["main"]


def proposed(proto: ModelProto, name: str = "w") -> list[Form]:
    sight = main(proto)
    node = sight.producer(name)
    assert node is not None
    return list(proposals(sight, node, {}))


# Sight


def test_values_are_looked_up_outwards() -> None:
    found = sights(graphs.nested_branches())
    deep = found["main/If(y).then_branch/If(mid_h).then_branch"]
    assert deep.constant("deep_w") is not None
    assert deep.constant("mid_w") is found["main/If(y).then_branch"].constant("mid_w")
    assert deep.constant("outer") is found["main"].constant("outer")
    assert deep.constant("nowhere") is None
    assert found["main"].constant("mid_w") is None
    producer = deep.producer("deep_h")
    assert producer is not None
    assert producer.op_type == "MatMul"
    assert found["main"].producer("deep_h") is None


def test_inner_value_hides_the_outer_one() -> None:
    proto = graphs.branches()
    proto.graph.initializer.append(graphs.tensor("then_branchh", graphs.normal((3,), 1)))
    proto.graph.node.append(graphs.node("Neg", "z", "w"))
    inner = sights(proto)["main/If(u).then_branch"]
    assert inner.constant("then_branchh") is None
    assert inner.producer("then_branchh") is not None
    assert inner.producer("w") is None
    assert inner.constant("w") is not None


def test_function_sees_its_constants_only() -> None:
    found = sights(graphs.functions())["function local:Outer"]
    assert found.constant("w") is not None
    assert found.constant("if_w") is None
    assert found.producer("w") is None  # a Constant is no producer


@pytest.mark.parametrize(
    ("shape", "expected"),
    [(np.array([3, -1]), (3, -1)), (np.array(5), (5,)), (np.array([], np.int64), ())],
)
def test_shape_of_a_reshape_is_read(shape: graphs.Array, expected: tuple[int, ...]) -> None:
    proto = graphs.tiny()
    proto.graph.initializer.append(graphs.tensor("s", shape))
    assert reshaped(main(proto), graphs.node("Reshape", "w,s", "r")) == expected


def test_shape_that_is_no_constant_of_int64_is_not_known() -> None:
    sight = main(graphs.tiny())
    for inputs in ("w,b", "w,x", "w", "w,nowhere", "w,b,b"):
        assert reshaped(sight, graphs.node("Reshape", inputs, "r")) is None


# Proposals


@given(strategies.forms())
def test_the_form_is_among_the_few_proposals(form: Form) -> None:
    forms = proposed(built(form).proto)
    assert replace(form, centroids=form.codebook_length) in forms
    assert len(forms) <= 40
    assert len(set(forms)) == len(forms)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_proposals_agree_with_the_codebook(layout: str) -> None:
    for bits in (1, 3, 8, 11):
        form = make_form(layout, bits, (3, 7), opset=25)  # type: ignore[arg-type]
        for one in proposed(built(form).proto):
            assert (one.data_type, one.codebook_type, one.opset) == (FLOAT, FLOAT, 25)
            assert one.centroids == form.codebook_length
            assert one.centroids <= 1 << one.bit_width


def test_cast_of_a_half_codebook_tells_the_type() -> None:
    form = make_form("portable", 6, (3, 7), codebook_type=FLOAT16)
    assert {(f.codebook_type, f.data_type) for f in proposed(built(form).proto)} == {
        (FLOAT16, FLOAT)
    }


def lookup(*nodes: NodeProto) -> ModelProto:
    held = graphs.tensors(book=graphs.normal((16,), 1), ids=np.zeros(5, np.uint8))
    return graphs.model(graphs.graph(nodes, [graphs.value("x", 5)], [graphs.value("w", 5)], held))


CAST = graphs.node("Cast", "ids", "wide", to=INT32)


def test_node_that_stands_on_an_input_ends_no_form() -> None:
    assert proposed(lookup(graphs.node("Gather", "book,x", "w"))) == []
    assert proposed(lookup(CAST, graphs.node("Gather", "book,wide", "w"))) != []


def test_other_operators_in_between_are_no_form() -> None:
    neg = graphs.node("Neg", "wide", "minus")
    assert proposed(lookup(CAST, neg, graphs.node("Gather", "book,minus", "w"))) == []


def test_node_that_stands_on_no_codebook_or_no_plane_ends_no_form() -> None:
    assert proposed(lookup(CAST, graphs.node("Concat", "wide,wide", "w", axis=0))) == []
    assert proposed(lookup(graphs.node("Concat", "book,book", "w", axis=0))) == []


def test_cycle_in_a_damaged_graph_ends() -> None:
    proto = lookup(graphs.node("Add", "v,wide", "w"), graphs.node("Add", "w,wide", "v"), CAST)
    assert proposed(proto) == []
    loop = lookup(CAST, graphs.node("Concat", "w,wide", "w", axis=0))
    assert proposed(loop) == []


def test_long_chain_of_own_nodes_is_followed_without_recursion() -> None:
    nodes = [graphs.node("Reshape", f"r{number},s", f"r{number + 1}") for number in range(3000)]
    proto = lookup(CAST, graphs.node("Gather", "book,wide", "r0"), *nodes)
    proto.graph.initializer.append(graphs.tensor("s", np.array([5])))
    for form in proposed(proto, "r3000"):
        assert form.shape == (5,)
