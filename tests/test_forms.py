"""The table of forms: what each computes, which operators it uses and how large its nodes are."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.bitpack import PACKINGS, plane_bytes
from onnxq.forms import (
    MAX_NODE_BYTES,
    Form,
    alias,
    canonical,
    expression,
    is_plain,
    largest_node_bytes,
    tile_rows,
)
from onnxq.options import LayoutName
from onnxq.radixpack import RADIXES
from onnxq.tensors import FLOAT_TYPES
from onnxq.trees import (
    FLOAT,
    FLOAT16,
    UINT2,
    UINT4,
    UINT8,
    UINT16,
    Const,
    Expr,
    Op,
    Part,
    Value,
    part_bytes,
    parts,
    shared_expressions,
)
from tests.encoded import FLOATS, LAYOUTS, OPSETS, Evaluator, make_form, payloads, values
from tests.property.strategies import bit_widths, forms, layouts

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_width = pytest.mark.parametrize("bits", range(1, 17))


def nodes(expr: Expr) -> list[Op]:
    """Return the distinct operators of a tree."""
    found: dict[Op, None] = {}
    stack = [expr]
    while stack:
        item = stack.pop()
        if isinstance(item, Op):
            found[item] = None
            stack += item.inputs
    return list(found)


def evaluated(form: Form, limit: int = MAX_NODE_BYTES) -> tuple[np.ndarray[Any, Any], Evaluator]:
    evaluator = Evaluator(payloads(form, limit=limit))
    return evaluator.value(expression(form, limit)), evaluator


def assert_decodes(form: Form, limit: int = MAX_NODE_BYTES) -> Evaluator:
    found, evaluator = evaluated(form, limit)
    expected = values(form)
    assert (found.dtype, found.shape) == (expected.dtype, form.shape)
    assert found.tobytes() == expected.tobytes()
    return evaluator


# What a form computes


@each_layout
@each_width
def test_form_computes_the_centroids_of_the_indices(layout: LayoutName, bits: int) -> None:
    for opset in OPSETS:
        for shape in ((1,), (3,), (16,), (33,), (2, 3), (1, 1), (4, 2, 3, 1)):
            assert_decodes(make_form(layout, bits, shape, opset=opset))


@given(forms())
def test_any_form_computes_the_centroids_of_the_indices(form: Form) -> None:
    assert_decodes(form)


@given(forms(), st.integers(1, 400))
def test_tiles_compute_the_same(form: Form, limit: int) -> None:
    assert_decodes(form, limit)


@pytest.mark.parametrize("data_type", FLOATS)
def test_half_codebook_is_cast_to_the_type_of_the_tensor(data_type: int) -> None:
    form = make_form("portable", 6, data_type=data_type, codebook_type=FLOAT16)
    casts = [op for op in nodes(expression(form)) if op.op_type == "Cast"]
    to_float = [op for op in casts if op.attributes == (("to", data_type),)]
    assert len(to_float) == (0 if data_type == FLOAT16 else 1)
    assert form.codebook_bytes == 2 * 64
    assert_decodes(form)


@pytest.mark.parametrize("bits", RADIXES)
@pytest.mark.parametrize("scale_axis", [None, 0, 1])
def test_radix_form_computes_the_centroids_of_the_indices(
    bits: int, scale_axis: int | None
) -> None:
    base = RADIXES[bits].base
    scale_type = None if scale_axis is None else FLOAT16
    for opset, shape, used in product((11, 17), ((3, 5), (4, 15), (2, 3, 7)), (2, base)):
        form = make_form(
            "radix", bits, shape, opset=opset, centroids=used,
            scale_axis=scale_axis, scale_type=scale_type,
        )  # fmt: skip
        assert (form.layout, form.codebook_length) == ("radix", base)
        assert_decodes(form)
        assert_decodes(form, 100)


def test_radix_form_is_portable_where_it_cannot_be() -> None:
    assert canonical("radix", 2, 3, 11) == ("radix", 2)
    assert canonical("radix", 2, 3, 10) == ("portable", 2)
    assert canonical("radix", 2, 4, 11) == ("portable", 2)
    assert canonical("radix", 5, 9, 17) == ("portable", 5)


# Structure


@each_layout
@each_width
def test_stored_parts_are_the_planes_and_the_codebook(layout: LayoutName, bits: int) -> None:
    form = make_form(layout, bits, (5, 41), opset=25)
    stored = {part.role: part for part in parts(expression(form))}
    book = stored.pop("codebook")
    assert book == Part("codebook", FLOAT, (form.codebook_length,))
    if form.layout == "native":
        kind = {2: UINT2, 4: UINT4}[form.bit_width]
        assert stored == {"plane0.0": Part("plane0.0", kind, (5, 41))}
    elif is_plain(form.layout, form.bit_width):
        kind = UINT8 if bits <= 8 else UINT16
        assert stored == {"plane0.0": Part("plane0.0", kind, (5, 41))}
    else:
        assert list(stored) == [f"plane0.{i}" for i in range(len(PACKINGS[bits].planes))]
        assert [part_bytes(part) for part in stored.values()] == list(plane_bytes(205, bits))
        assert {part.data_type for part in stored.values()} == {UINT8}


OWN_OPERATORS = {
    **dict.fromkeys((1, 2, 4), "Cast Gather Gather Reshape"),
    **dict.fromkeys((3, 5, 6), "Cast Cast Gather Gather Gather Add Reshape"),
    7: "Cast Cast Cast Gather Gather Gather Gather Add Add Reshape",
    **dict.fromkeys((8, 16), "Cast Gather"),
    **dict.fromkeys((9, 10, 12), "Cast Cast Gather Gather Add Reshape"),
    **dict.fromkeys((11, 13, 14), "Cast Cast Cast Gather Gather Gather Add Add Reshape"),
    15: "Cast Cast Cast Cast Gather Gather Gather Gather Add Add Add Reshape",
}


@each_width
def test_portable_form_of_a_width_has_a_fixed_set_of_operators(bits: int) -> None:
    tree = expression(make_form("portable", bits, (16, 16)))
    own = Counter(op.op_type for op in nodes(tree) if not op.is_shared)
    assert own == Counter(OWN_OPERATORS[bits].split())
    shared = {op.op_type for op in nodes(tree) if op.is_shared}
    assert shared <= {"Range", "Reshape", "Div", "Mod", "Gather"}
    padded = expression(make_form("portable", bits, (3, 5)))
    extra = Counter(op.op_type for op in nodes(padded) if not op.is_shared) - own
    assert extra == ({} if bits in (8, 16) else {"Slice": 1, "Reshape": 1})


@each_layout
@each_width
def test_operators_exist_in_the_opset(layout: LayoutName, bits: int) -> None:
    for opset, shape in product(OPSETS, ((5,), (16,))):
        tree = expression(make_form(layout, bits, shape, opset=opset))
        found = {op.op_type for op in nodes(tree)}
        allowed = {"Cast", "Gather", "Add", "Reshape", "Slice"}
        if opset >= 11:
            allowed |= {"Range", "Div", "Mod"}
        assert found <= allowed
        for op in nodes(tree):
            if op.op_type == "Slice":
                assert len(op.inputs) == (1 if opset < 10 else 3)
        native = {part.data_type for part in parts(tree)} & {UINT2, UINT4}
        assert opset >= {UINT2: 25, UINT4: 21}.get(max(native, default=0), 0)


@each_width
def test_tensors_of_any_shape_share_their_tables(bits: int) -> None:
    one = shared_expressions(expression(make_form("portable", bits, (4, 100))))
    two = shared_expressions(expression(make_form("portable", bits, (8, 50))))
    tables = {item for item in one if isinstance(item, Op)}
    assert tables == {item for item in two if isinstance(item, Op)}
    assert bool(tables) == (bits not in (8, 16))
    assert all(isinstance(item, (Op, Const)) for item in one)


def test_parts_come_once_in_the_order_of_first_use() -> None:
    a, b = Part("a", FLOAT, (1,)), Part("b", FLOAT, (2,))
    tree = Op("Add", (Op("Add", (a, b)), Op("Gather", (b, Op("Cast", (a,))))))
    assert list(parts(tree)) == [a, b]


@pytest.mark.parametrize(
    ("part", "size"),
    [
        (Part("p", UINT4, (7,)), 4),
        (Part("p", UINT2, (9,)), 3),
        (Part("p", UINT16, (3, 3)), 18),
        (Part("p", FLOAT, ()), 4),
    ],
)
def test_part_bytes(part: Part, size: int) -> None:
    assert part_bytes(part) == size


def test_alias_copies_or_reshapes() -> None:
    assert alias("q1", (2, 3), (2, 3)) == Op("Identity", (Value("q1"),))
    reshaped = alias("q1", (3, 2), [2, 3])
    assert reshaped.op_type == "Reshape"
    assert reshaped.inputs == (Value("q1"), Const(7, (2,), (3, 2)))


# The codebook


@each_width
def test_group_tables_need_every_centroid_and_other_forms_those_in_use(bits: int) -> None:
    used = max(1, (1 << bits) - 1)
    form = make_form("portable", bits, centroids=used)
    if bits <= 7:
        assert form.codebook_length == 1 << bits
    else:
        assert form.codebook_length == used
    assert form.codebook_bytes == 4 * form.codebook_length
    assert make_form("bytes", bits, centroids=used).codebook_length == used


# Names


def test_unpacked_forms_are_named_by_what_the_centroids_need() -> None:
    assert canonical("bytes", 8, 256, 17) == ("portable", 8)
    assert canonical("bytes", 6, 200, 17) == ("portable", 8)
    assert canonical("bytes", 16, 257, 17) == ("bytes", 9)
    assert canonical("portable", 16, 2**15 + 1, 17) == ("portable", 16)
    assert canonical("native", 8, 1, 25) == ("bytes", 1)


def test_widths_that_native_lacks_are_portable() -> None:
    assert canonical("native", 4, 16, 20) == ("portable", 4)
    assert canonical("native", 4, 16, 21) == ("native", 4)
    assert canonical("native", 2, 4, 24) == ("portable", 2)
    assert canonical("native", 2, 4, 25) == ("native", 2)
    assert canonical("native", 5, 32, 25) == ("portable", 5)


@given(layouts, bit_widths, st.data(), st.sampled_from(OPSETS))
def test_canonical_name_is_its_own(
    layout: LayoutName, bits: int, data: st.DataObject, opset: int
) -> None:
    used = data.draw(st.integers(1, 1 << bits))
    named = canonical(layout, bits, used, opset)
    assert canonical(*named, used, opset) == named
    assert used <= 1 << named[1] <= max(2, 1 << bits)


@given(layouts, layouts, bit_widths, bit_widths, st.data(), st.sampled_from(OPSETS))
def test_one_structure_has_one_name(
    layout: LayoutName, other: LayoutName, bits: int, other_bits: int,
    data: st.DataObject, opset: int,
) -> None:  # fmt: skip
    """Forms of the same centroids that build the same tree have the same layout and width."""
    used = data.draw(st.integers(1, 1 << min(bits, other_bits)))
    first = make_form(layout, bits, (3, 4), centroids=used, opset=opset)
    second = make_form(other, other_bits, (3, 4), centroids=used, opset=opset)
    assert (expression(first) == expression(second)) == (first == second)


# Tiles and node sizes


@given(forms(200), st.integers(1, 800))
def test_tiles_cover_the_rows_and_keep_the_limit(form: Form, limit: int) -> None:
    rows = tile_rows(form, limit)
    assert sum(rows) == form.shape[0]
    assert min(rows) >= 1
    assert max(rows) - min(rows[:-1], default=max(rows)) == 0
    row_elements = math.prod(form.shape[1:])
    if len(rows) == 1:
        assert largest_node_bytes(form, limit) <= max(limit, 4 * row_elements, 8 * row_elements)
    for op, output in evaluated(form, limit)[1].outputs.items():
        is_table = op.is_shared or not _holds_plane(op)  # type: ignore[union-attr]
        if not is_table and op.op_type != "Concat" and max(rows) > 1:  # type: ignore[union-attr]
            assert output.nbytes <= limit + _padding_bytes(form)


@given(forms(200), st.integers(1, 1500))
def test_largest_node_is_found(form: Form, limit: int) -> None:
    outputs = evaluated(form, limit)[1].outputs
    largest = max(array.nbytes for op, array in outputs.items() if _holds_plane(op))
    claimed = largest_node_bytes(form, limit)
    assert largest - _padding_bytes(form) <= claimed <= largest


def _holds_plane(expr: Expr) -> bool:
    return any(part.role.startswith(("plane", "values")) for part in parts(expr))


def _padding_bytes(form: Form) -> int:
    """Return the most that padding adds to a node: up to a block of the widest elements."""
    is_radix = form.layout == "radix"
    block = RADIXES[form.bit_width].group if is_radix else PACKINGS[form.bit_width].block
    return block * max(4, FLOAT_TYPES[form.data_type].itemsize)


def test_tensor_under_the_limit_is_not_tiled() -> None:
    assert tile_rows(make_form("portable", 4, (2**14, 2**14))) == [2**14]
    assert tile_rows(make_form("portable", 4, (2**14 + 1, 2**14))) == [2**14, 1]
    assert tile_rows(make_form("bytes", 4, (2**14, 2**14), data_type=FLOAT16)) == [2**14]
    assert tile_rows(make_form("bytes", 4, (2**15, 2**14), data_type=FLOAT16)) == [2**14, 2**14]
    assert tile_rows(make_form("portable", 4, (2**15, 2**14), data_type=FLOAT16)) == [2**15]


def test_single_row_cannot_be_split() -> None:
    form = make_form("portable", 4, (3, 2**30))
    assert tile_rows(form) == [1, 1, 1]
    assert largest_node_bytes(form) == 3 * 2**32
    assert largest_node_bytes(make_form("portable", 4, (1, 2**30))) == 2**32


def test_largest_node_of_the_usual_forms() -> None:
    shape = (100, 16)
    assert largest_node_bytes(make_form("portable", 4, shape)) == 1600 * 4
    assert largest_node_bytes(make_form("bytes", 4, shape, data_type=FLOAT16)) == 1600 * 4
    assert largest_node_bytes(make_form("portable", 4, shape, data_type=FLOAT16)) == 1600 * 2
    assert largest_node_bytes(make_form("portable", 4, shape, data_type=FLOAT16), 320) == 1600 * 2
