"""Equal tensors share storage, and shared tables must pay for themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto

from onnxq import model
from onnxq.choose import Choice, choose
from onnxq.facts import gather_facts
from onnxq.forms import expression
from onnxq.graphs import Document
from onnxq.options import make_options
from onnxq.rate import expression_cost
from onnxq.selection import reason_to_keep
from onnxq.sharing import tie, unpaid
from onnxq.trees import shared_expressions
from tests import graphs


def choices(proto: ModelProto, **options: Any) -> tuple[Document, list[Choice]]:
    """Return the choices of a model, each tensor as if it stood alone."""
    document = model.wrap(proto)
    given = make_options({"only_smaller": False, **options})
    found = [w for w in model.weights(document) if reason_to_keep(w, given) is None]
    seen = gather_facts(document, found, given, 1)
    made = [choose(document, w, facts, given) for w, facts in zip(found, seen, strict=True)]
    return document, [one for one in made if isinstance(one, Choice)]


def tied(proto: ModelProto, **options: Any) -> dict[str, tuple[str | None, str]]:
    """Return (name of the tensor shared, graph of the storage) of each tensor."""
    _, made = choices(proto, **options)
    return {
        one.weight.name: (one.same_as.name if one.same_as else None, one.storage.path)
        for one in tie(made)
    }


def test_equal_tensors_share_the_storage_of_the_first() -> None:
    assert tied(graphs.equal_tensors(), bits=4) == {
        "first": (None, "main"), "second": ("first", "main"), "third": ("first", "main"),
    }  # fmt: skip


def test_sharing_can_be_switched_off() -> None:
    found = tied(graphs.equal_tensors(), bits=4, share_equal=False)
    assert {same for same, _ in found.values()} == {None}


def test_different_tensors_stay_apart() -> None:
    assert {same for same, _ in tied(graphs.attention(), bits=4).values()} == {None}


def test_storage_stands_around_all_its_users() -> None:
    assert tied(graphs.repeated_constants(), bits=4) == {
        "iw": (None, "main"), "cw": ("iw", "main"), "bw": ("iw", "main"),
    }  # fmt: skip


def test_storage_of_two_branches_stands_in_the_graph_around_them() -> None:
    made = graphs.nested_branches()
    values = graphs.normal((64, 64), 3)
    by_name = {w.name: w for w in model.weights(model.wrap(made))}
    assert by_name["deep_w"].graph.count("/") == 2
    middle = next(a.g for a in made.graph.node[0].attribute if a.name == "then_branch")
    other = next(a.g for a in made.graph.node[0].attribute if a.name == "else_branch")
    flat = next(a.g for a in middle.node[0].attribute if a.name == "else_branch")
    flat.initializer.append(graphs.tensor("flat_w", values))
    flat.node[0].CopyFrom(graphs.node("MatMul", "x,flat_w", "flat"))
    found = tied(made, bits=4)
    lead, follower = ("flat_w", "deep_w") if found["flat_w"][0] is None else ("deep_w", "flat_w")
    assert found[lead] == (None, "main/If(y).then_branch")
    assert found[follower] == (lead, "main/If(y).then_branch")
    # A third user in the other branch moves the storage outwards, for all three.
    other.initializer.append(graphs.tensor("other_w", values))
    other.node[0].CopyFrom(graphs.node("MatMul", "x,other_w", "other"))
    found = tied(made, bits=4)
    names = ("flat_w", "deep_w", "other_w")
    assert {found[name][1] for name in names} == {"main"}
    assert sum(found[name][0] is None for name in names) == 1


def test_functions_and_the_main_graph_share_nothing() -> None:
    made = graphs.functions(lambda shape, seed: graphs.normal(shape, 1))
    _, all_choices = choices(made, bits=4)
    for one in tie(all_choices):
        if one.same_as is not None:
            assert one.same_as.scope.root is one.weight.scope.root
    # Layer and its branch hold one each, Outer one, the main graph one.
    assert sum(one.same_as is None for one in tie(all_choices)) == 3


def test_equal_values_at_other_widths_or_types_stay_apart() -> None:
    found = tied(graphs.equal_tensors(), bits=4, tensor_bits={"second": 5})
    assert found["second"] == (None, "main")
    assert found["third"] == ("first", "main")
    values = np.full((64, 64), 0.5, np.float32)
    held = graphs.tensors(a=values, b=values.astype(np.float16), c=values.astype(np.float64))
    made = graphs.model(graphs.graph([], [], [graphs.value("a", 64, 64)], held))
    assert {same for same, _ in tied(made).values()} == {None}


def test_order_of_the_choices_is_kept() -> None:
    _, made = choices(graphs.equal_tensors(), bits=4)
    assert [one.weight for one in tie(made)] == [one.weight for one in made]


# Shared tables


def small_and_large(bits_small: int) -> tuple[Document, list[Choice]]:
    held = graphs.tensors(large=graphs.normal((64, 64), 1), small=graphs.normal((300,), 2))
    made = graphs.model(graphs.graph([], [], [graphs.value("large", 64, 64)], held))
    return choices(made, bits=6, tensor_bits={"small": bits_small})


def test_family_that_does_not_pay_for_its_tables_is_named() -> None:
    """A table of 3-bit words costs more than 40 floats save."""
    held = graphs.tensors(w=graphs.normal((40,), 1))
    document, made = choices(
        graphs.model(graphs.graph([], [], [graphs.value("w", 40)], held), 9), bits=3
    )
    assert [one.weight.name for one in unpaid(document, made)] == ["w"]


def test_family_that_pays_is_kept() -> None:
    document, made = small_and_large(6)
    assert unpaid(document, made) == []
    assert unpaid(document, []) == []


def test_tables_that_another_family_needs_are_free() -> None:
    """What 12 bits need is a part of what 14 bits need; below opset 11 tables are stored."""
    few = graphs.few(5)
    held = graphs.tensors(short=few((250,), 1), long=few((100, 100), 2))
    document, (short, long) = choices(
        graphs.model(graphs.graph([], [], [graphs.value("long", 100, 100)], held), 9),
        bits=12, tensor_bits={"long": 14}, fewer_bits=False,
    )  # fmt: skip
    assert (short.form.bit_width, long.form.bit_width) == (12, 14)
    assert 0 < short.saved < table_bytes(short) < long.saved
    assert unpaid(document, [short]) == [short]
    assert unpaid(document, [short, long]) == []


def table_bytes(one: Choice) -> int:
    shared = shared_expressions(expression(one.form))
    return sum(expression_cost(expr, "initializer") for expr in shared)


def test_members_of_one_family_pay_together() -> None:
    arrays = {name: graphs.normal((3, 1000), seed) for seed, name in enumerate("abcdefgh")}
    held = graphs.tensors(**arrays)
    document, made = choices(
        graphs.model(graphs.graph([], [], [graphs.value("a", 3, 1000)], held), 9), bits=7
    )
    needed = 1 + table_bytes(made[0]) // made[0].saved
    assert 1 < needed < len(made)
    assert unpaid(document, made[: needed - 1]) == made[: needed - 1]
    assert unpaid(document, made[:needed]) == []


def test_every_function_pays_for_its_own_tables() -> None:
    made = graphs.functions()
    for function in made.functions:
        function.opset_import[0].version = 9
    document, left = choices(made, bits=7)
    refused = []
    while dear := unpaid(document, left):
        refused.append({one.weight.scope.root.path for one in dear})
        left = [one for one in left if one not in dear]
    assert refused == [{"function local:Layer"}, {"function local:Outer"}]
    assert [one.weight.graph for one in left] == ["main"]
