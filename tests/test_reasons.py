"""The reasons for keeping tensors: those of the code are those of the tables.

(`test_render` compares the tables with docs/report.md.)
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from onnxq.console import factor_tables, report_tables

PACKAGE = Path(__file__).parent.parent / "onnxq"
JUDGES = ("reason_by_kind", "_by_role", "_by_option")
FACTOR_JUDGES = (
    "_layer",
    "_reason_by_place",
    "_reason_by_nodes",
    "_form",
    "_conv_form",
    "_gemm_form",
    "_matmul_form",
    "_sized",
)


def literal(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def returned(tree: ast.AST, judges: tuple[str, ...] = JUDGES) -> Iterator[str]:
    """Yield the reasons of the pairs that functions which judge tensors return."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in judges:
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
                    yield from literal(node.value.elts[0])


def recorded(tree: ast.AST) -> Iterator[str]:
    """Yield the reasons that calls of `skip` and `Skip` name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else None
            name = node.func.id if isinstance(node.func, ast.Name) else name
            if name == "skip" and len(node.args) > 1:
                yield from literal(node.args[1])
            if name in ("skip", "Skip"):
                for keyword in node.keywords:
                    if keyword.arg == "reason":
                        yield from literal(keyword.value)


def trees(*, of_factors: bool) -> list[ast.Module]:
    paths = [path for path in PACKAGE.rglob("*.py") if ("low_rank" in path.parts) == of_factors]
    return [ast.parse(path.read_text(encoding="utf-8")) for path in paths]


def test_reasons_of_the_tables_are_those_that_the_code_gives() -> None:
    found = {
        reason for tree in trees(of_factors=False) for reason in (*returned(tree), *recorded(tree))
    }
    assert found == set(report_tables.REASONS)


def test_reasons_of_weights_that_stay_whole_are_those_that_the_code_gives() -> None:
    found = {
        reason
        for tree in trees(of_factors=True)
        for reason in (*returned(tree, FACTOR_JUDGES), *recorded(tree))
    }
    assert found == set(factor_tables.REASONS)
