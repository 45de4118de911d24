"""The walk over a model's scopes: their paths, their names, and who consumes what.

(`test_graphs` is about the builders of the models that tests use.)
"""

from __future__ import annotations

import pytest
from onnx import ModelProto, helper

from onnxq.graphs import (
    Consumer,
    Document,
    Scope,
    common_scope,
    consumers,
    holder,
    initializers,
    purposes,
    scopes,
    taken_names,
)
from tests import graphs


def document(proto: ModelProto) -> Document:
    return Document(proto=proto, path=None, folder=None, file_bytes=proto.ByteSize())


def by_path(proto: ModelProto) -> dict[str, Scope]:
    found = scopes(document(proto))
    assert len({scope.path for scope in found}) == len(found)
    return {scope.path: scope for scope in found}


def use(op_type: str, index: int, node: str = "", domain: str = "") -> Consumer:
    return Consumer(op_type=op_type, domain=domain, node=node, index=index)


# Scopes


def test_scopes_are_named_by_what_leads_to_them_in_file_order() -> None:
    assert list(by_path(graphs.nested_branches())) == [
        "main",
        "main/If(y).else_branch",
        "main/If(y).then_branch",
        "main/If(y).then_branch/If(mid_h).else_branch",
        "main/If(y).then_branch/If(mid_h).then_branch",
    ]
    assert list(by_path(graphs.functions())) == [
        "main",
        "function local:Layer",
        "function local:Layer/If(y).else_branch",
        "function local:Layer/If(y).then_branch",
        "function local:Outer",
    ]


def test_path_of_a_scope_does_not_depend_on_its_place() -> None:
    made = graphs.branches()
    before = list(by_path(made))
    made.graph.node.insert(0, graphs.node("Neg", "x", "other"))
    assert list(by_path(made)) == before


def test_node_without_outputs_is_named_by_its_place() -> None:
    empty = graphs.graph([], [], [])
    body = [graphs.node("Neg", "x", "y"), graphs.node("Odd", "x", "", then_branch=empty)]
    made = graphs.model(graphs.graph(body, [], []))
    assert list(by_path(made))[1] == "main/Odd(#1).then_branch"
    del made.graph.node[1].output[:]
    assert list(by_path(made))[1] == "main/Odd(#1).then_branch"


def test_graphs_of_a_list_are_numbered() -> None:
    first, second = graphs.graph([], [], [], name="a"), graphs.graph([], [], [], name="b")
    made = graphs.model(graphs.graph([graphs.node("Odd", "", "y", both=[first, second])], [], []))
    found = by_path(made)
    assert list(found)[1:] == ["main/Odd(y).both[0]", "main/Odd(y).both[1]"]
    assert [scope.proto.name for scope in found.values()] == ["g", "a", "b"]


def test_overloads_of_a_function_are_told_apart() -> None:
    made = graphs.functions()
    made.functions[1].CopyFrom(made.functions[0])
    made.functions[1].overload = "wide"
    assert {"function local:Layer", "function local:Layer:wide"} <= set(by_path(made))


def test_scope_knows_what_is_around_it() -> None:
    made = graphs.functions()
    found = by_path(made)
    main, layer = found["main"], found["function local:Layer"]
    branch = found["function local:Layer/If(y).then_branch"]
    assert branch.parent is layer
    assert branch.root is layer
    assert main.root is main
    assert branch.enclosing == (made, layer.proto, layer.proto.node[2], *branch.enclosing[3:])
    assert branch.enclosing[-1].g == branch.proto
    assert [scope.is_function for scope in (main, layer, branch)] == [False, True, False]


def test_function_has_its_own_opset() -> None:
    made = graphs.functions()
    made.functions[0].opset_import[0].version = 13
    found = by_path(made)
    assert {path: scope.opset for path, scope in found.items()} == {
        "main": 17,
        "function local:Layer": 13,
        "function local:Layer/If(y).then_branch": 13,
        "function local:Layer/If(y).else_branch": 13,
        "function local:Outer": 17,
    }


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ([("com.example", 3)], 0),
        ([("com.example", 3), ("ai.onnx", 12)], 12),
        ([("ai.onnx", 12), ("", 14)], 14),
    ],
)
def test_opset_is_that_of_the_default_domain(imports: list[tuple[str, int]], expected: int) -> None:
    made = graphs.tiny()
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid(*item) for item in imports)
    assert by_path(made)["main"].opset == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("/If(y).then_branch/If(mid_h).then_branch", "/If(y).then_branch", "/If(y).then_branch"),
        ("/If(y).then_branch/If(mid_h).then_branch", "/If(y).else_branch", ""),
        (
            "/If(y).then_branch/If(mid_h).then_branch",
            "/If(y).then_branch/If(mid_h).else_branch",
            "/If(y).then_branch",
        ),
        ("", "/If(y).else_branch", ""),
        ("", "", ""),
    ],
)
def test_common_scope_is_the_innermost_around_both(first: str, second: str, expected: str) -> None:
    found = by_path(graphs.nested_branches())
    one, other = found[f"main{first}"], found[f"main{second}"]
    assert common_scope(one, other) is found[f"main{expected}"]
    assert common_scope(other, one) is found[f"main{expected}"]


def test_new_constants_stand_where_the_model_allows_them() -> None:
    made = graphs.functions()
    held = {path: holder(document(made), scope) for path, scope in by_path(made).items()}
    assert held["main"] == "initializer"
    assert {kind for path, kind in held.items() if path != "main"} == {"node"}
    made = graphs.branches()
    made.ir_version = 3
    assert {holder(document(made), scope) for scope in by_path(made).values()} == {"input"}


# Names


def test_consumers_are_found_by_node_and_place() -> None:
    uses = consumers(scopes(document(graphs.conv_bn_relu())))
    assert uses["main", "w"] == [use("Conv", 1, "conv")]
    assert uses["main", "var"] == [use("BatchNormalization", 4, "bn")]
    assert uses["main", "x"] == [use("Conv", 0, "conv")]
    assert ("main", "y") not in uses


def test_one_value_may_have_many_consumers_and_one_consumer_take_it_twice() -> None:
    made = graphs.tied()
    made.graph.node.append(graphs.node("Add", "w,w", "z", name="sum", domain="com.example"))
    uses = consumers(scopes(document(made)))
    assert uses["main", "w"] == [
        use("MatMul", 1), use("Gemm", 1),
        use("Add", 0, "sum", "com.example"), use("Add", 1, "sum", "com.example"),
    ]  # fmt: skip


def test_captured_value_belongs_to_the_graph_that_defines_it() -> None:
    uses = consumers(scopes(document(graphs.branches())))
    assert uses["main", "outer"] == [use("MatMul", 1)] * 3
    for branch in ("then_branch", "else_branch"):
        assert uses[f"main/If(u).{branch}", "w"] == [use("MatMul", 1)]
    assert ("main", "w") not in uses


def test_inner_definition_hides_the_outer_one() -> None:
    made = graphs.branches()
    made.graph.initializer.append(graphs.tensor("w", graphs.normal((4,), 1)))
    assert ("main", "w") not in consumers(scopes(document(made)))
    loop = graphs.loop()
    loop.graph.initializer.append(graphs.tensor("carried", graphs.normal((4,), 1)))
    assert ("main", "carried") not in consumers(scopes(document(loop)))


def test_function_sees_nothing_of_the_main_graph() -> None:
    made = graphs.functions()
    made.functions[1].node[2].input[1] = "elsewhere"
    made.graph.initializer.append(graphs.tensor("elsewhere", graphs.normal((4,), 1)))
    uses = consumers(scopes(document(made)))
    assert ("main", "elsewhere") not in uses
    assert uses["function local:Layer", "x"] == [use("MatMul", 0)]


def test_omitted_and_dangling_inputs_are_no_uses() -> None:
    made = graphs.model(
        graphs.graph([graphs.node("Clip", "x,,nowhere", "y")], [graphs.value("x", 1)], [])
    )
    assert set(consumers(scopes(document(made)))) == {("main", "x")}


def test_purpose_lies_behind_what_preserves_values() -> None:
    nodes = [
        graphs.node("Identity", "w", "a"), graphs.node("Cast", "a", "b", to=1),
        graphs.node("Reshape", "b,shape", "c"), graphs.node("Clip", "x,c", "y"),
        graphs.node("Transpose", "b", "unused"), graphs.node("Reshape", "x,w", "z"),
        graphs.node("Identity", "w", "d", domain="com.example"), graphs.node("Neg", "d", "e"),
    ]  # fmt: skip
    made = graphs.model(graphs.graph(nodes, [], [], graphs.tensors(w=graphs.normal((4,), 1))))
    all_scopes = scopes(document(made))
    assert set(purposes(all_scopes).of("main", "w")) == {
        use("Clip", 1), use("Transpose", 0), use("Reshape", 1),
        use("Identity", 0, domain="com.example"),
    }  # fmt: skip
    direct = consumers(all_scopes)["main", "w"]
    assert [item.op_type for item in direct] == ["Identity", "Reshape", "Identity"]
    assert purposes(all_scopes).of("main", "nowhere") == ()


def test_purpose_lies_inside_functions_be_they_recursive() -> None:
    body = [
        graphs.node("Clip", "a,b", "c"),
        graphs.node("F", "a,b", "d", domain="local"),
        graphs.node("F", "b,a", "e", domain="local"),
    ]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    made = graphs.model(graphs.graph([graphs.node("F", "w,v,more", "y", domain="local")], [], []))
    made.functions.append(helper.make_function("local", "F", ["a", "b"], ["c"], body, imports))
    made.graph.initializer.extend(
        graphs.tensor(name, graphs.normal((4,), 1)) for name in ("w", "v", "more")
    )
    found = purposes(scopes(document(made)))
    assert set(found.of("main", "w")) == {use("Clip", 0), use("Clip", 1)}
    assert found.of("main", "more") == (use("F", 2, domain="local"),)


def test_initializers_are_those_of_every_graph() -> None:
    names = [tensor.name for tensor in initializers(document(graphs.branches()))]
    assert sorted(names) == ["outer", "w", "w"]
    assert [tensor.name for tensor in initializers(document(graphs.functions()))] == ["w"]


def test_every_name_of_the_model_is_taken() -> None:
    names = taken_names(document(graphs.decorated()))
    assert {"x", "c", "n", "y", "w", "b", "var", "conv", "bn", "relu"} <= names
    names = taken_names(document(graphs.functions()))
    assert {"flag", "neg", "if_w", "call 1", "mm", "h2"} <= names
    names = taken_names(document(graphs.sparse()))
    assert {"s", "w"} <= names
    made = graphs.loop()
    made.graph.value_info.append(graphs.value("only a hint", 1))
    assert {"only a hint", "going_on", "carried"} <= taken_names(document(made))
