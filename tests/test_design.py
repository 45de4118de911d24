"""docs/design.md: the sizes in its table are those of `rate`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxq import bitpack, rate
from onnxq.forms import Form, expression
from onnxq.trees import FLOAT, shared_expressions

PAGE = (Path(__file__).parent.parent / "docs" / "design.md").read_text(encoding="utf-8")
SHAPE = (1024, 1024)
NAME = "layer.weight"


def form(bits: int, opset: int) -> Form:
    return Form(
        layout="portable",
        bit_width=bits,
        data_type=FLOAT,
        codebook_type=FLOAT,
        shape=SHAPE,
        centroids=1 << bits,
        opset=opset,
    )


def table_bytes(bits: int, opset: int) -> int:
    shared = shared_expressions(expression(form(bits, opset)))
    return sum(rate.expression_cost(expr, "initializer") for expr in shared)


@pytest.mark.parametrize("bits", range(1, 17))
def test_sizes_are_those_of_the_table(bits: int) -> None:
    section = PAGE.partition("\n## Sizes\n")[2].partition("\n## ")[0]
    (line,) = re.findall(rf"^\| {bits} \|(.*)\|$", section, flags=re.MULTILINE)
    chosen = form(bits, 17)
    cost = rate.own_cost(rate.nominal_emission(chosen, NAME), chosen, "initializer")
    assert cost.index_bytes == bitpack.packed_bytes(chosen.elements, bits)
    found = [
        f"{cost.index_bytes:,}",
        f"{cost.codebook_bytes:,}",
        f"{cost.graph_bytes:,}",
        f"{table_bytes(bits, 17):,}",
        f"{table_bytes(bits, 10):,}",
        f"{rate.load_bytes(chosen) / chosen.elements:.1f}",
    ]
    assert [cell.strip() for cell in line.split("|")] == found


def test_the_name_has_the_length_that_the_page_gives() -> None:
    assert f"a name of {len(NAME)} letters" in PAGE
    assert "{} x {}".format(*SHAPE) in PAGE
