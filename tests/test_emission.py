"""Names, sharing and order of the records that expressions become."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnxq.emission import Emission, Emitter, Names, base36, free_prefix
from onnxq.forms import ALIAS_NAME, Form, alias, expression
from onnxq.trees import FLOAT, INT64, UINT8, Const, Op, Part, Value
from tests.encoded import make_form
from tests.property.strategies import forms

names_near_ours = st.lists(st.text(alphabet="qwz_0a", max_size=4) | st.text(max_size=4))


def outputs(emission: Emission) -> list[str]:
    constants = (*emission.shared_constants, *emission.constants)
    nodes = (*emission.shared_nodes, *emission.nodes)
    return [record.name for record in constants] + [
        name for record in nodes for name in record.outputs
    ]


@given(st.integers(0, 10**9))
def test_base36_is_read_back(number: int) -> None:
    assert int(base36(number), 36) == number
    assert base36(number) == base36(number).lower()


@given(names_near_ours)
def test_no_taken_name_starts_with_the_prefix(taken: list[str]) -> None:
    prefix = free_prefix(taken)
    assert not any(name.startswith(prefix) for name in taken)
    names = Names(taken)
    assert {names.take() for _ in range(40)}.isdisjoint(taken)


def test_prefix_is_short_while_it_can_be() -> None:
    assert free_prefix([]) == "q"
    assert free_prefix(["q1"]) == "w"
    assert free_prefix(["query", "w"]) == "z"
    assert free_prefix(["q", "w", "z"]) == "q_"
    assert free_prefix(["q_", "q__x", "w", "z"]) == "q___"


def test_names_are_given_in_order() -> None:
    names = Names(())
    assert [names.take() for _ in range(37)][-2:] == ["qz", "q10"]


def test_expression_becomes_records_inputs_first() -> None:
    book, plane = Part("codebook", FLOAT, (4,)), Part("plane0.0", UINT8, (3,))
    shape = Const(INT64, (1,), (-1,))
    tree = Op("Reshape", (Op("Gather", (book, Op("Cast", (plane,), (("to", 6),)))), shape))
    emission = Emitter(Names(())).emit(tree, "w")
    assert [(r.name, r.source) for r in emission.constants] == [("q0", book), ("q1", plane)]
    assert [(r.name, r.source) for r in emission.shared_constants] == [("q4", shape)]
    assert [(r.op_type, r.inputs, r.outputs[0], r.attributes) for r in emission.nodes] == [
        ("Cast", ("q1",), "q2", (("to", 6),)),
        ("Gather", ("q0", "q2"), "q3", ()),
        ("Reshape", ("q3", "q4"), "w", ()),
    ]
    assert all(record.name == "" for record in emission.nodes)


def test_same_part_is_stored_once_in_a_tensor_and_again_for_the_next() -> None:
    book = Part("codebook", FLOAT, (4,))
    emitter = Emitter(Names(()))
    for output in ("a", "b"):
        emission = emitter.emit(Op("Add", (book, Op("Cast", (book,)))), output)
        assert len(emission.constants) == 1


def test_shared_records_come_with_the_first_user_only() -> None:
    emitter = Emitter(Names(()))
    form = make_form("portable", 6)
    first = emitter.emit(expression(form), "a")
    second = emitter.emit(expression(form), "b")
    assert first.shared_nodes
    assert first.shared_constants
    assert (second.shared_nodes, second.shared_constants) == ([], [])
    assert len(second.nodes) == len(first.nodes)
    # Another emitter (another main graph or function) has tables of its own.
    assert Emitter(Names(())).emit(expression(form), "c").shared_nodes == first.shared_nodes


@given(st.lists(forms(), min_size=1, max_size=4))
def test_every_value_is_made_once_and_before_it_is_used(drawn: list[Form]) -> None:
    emitter = Emitter(Names(["x", "q0"]))
    known: list[str] = []
    for number, form in enumerate(drawn):
        emission = emitter.emit(expression(form), f"tensor {number}")
        shared = [record.name for record in emission.shared_constants]
        own = [record.name for record in emission.constants]
        known_shared = {*known, *shared}
        for node in emission.shared_nodes:
            assert set(node.inputs) <= known_shared  # the root needs nothing of a tensor's own
            known_shared.update(node.outputs)
        available = {*known_shared, *own}
        for node in emission.nodes:
            assert set(node.inputs) <= available
            available.update(node.outputs)
        assert emission.nodes[-1].outputs == (f"tensor {number}",)
        known += outputs(emission)
    assert len(known) == len(set(known))


def test_alias_node_carries_a_name_that_tells_it_apart() -> None:
    emitter = Emitter(Names(["q"]))
    same = emitter.emit_alias(alias("stored", (2,), (2,)), "a")
    other = emitter.emit_alias(alias("stored", (2, 1), (2,)), "b")
    (first,), (second,) = same.nodes, other.nodes
    assert (first.op_type, first.inputs, first.outputs) == ("Identity", ("stored",), ("a",))
    assert second.op_type == "Reshape"
    assert first.name.startswith(ALIAS_NAME)
    assert second.name.startswith(ALIAS_NAME)
    assert first.name != second.name


def test_standing_value_needs_no_record() -> None:
    emission = Emitter(Names(())).emit(Op("Identity", (Value("here"),)), "w")
    assert outputs(emission) == ["w"]
