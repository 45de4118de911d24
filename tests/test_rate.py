"""Size arithmetic: the published sizes, and what records cost in a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, NodeProto, helper

from onnxq.emission import ConstantRecord, NodeRecord
from onnxq.forms import Form, expression
from onnxq.graphs import Holder
from onnxq.rate import (
    EXTERNAL_THRESHOLD,
    Placement,
    align,
    bits_per_weight,
    ce2_bytes,
    constant_cost,
    expression_cost,
    load_bytes,
    node_cost,
    nominal_emission,
    own_cost,
    typed_bytes,
)
from onnxq.tensors import make_tensor, nominal_bytes
from onnxq.trees import (
    FLOAT,
    INT64,
    UINT4,
    UINT8,
    Const,
    Part,
    part_bytes,
    parts,
    shared_expressions,
)
from tests.encoded import Evaluator, make_form, payloads
from tests.graphs import point_outside
from tests.property.strategies import forms

HOLDERS: tuple[Holder, ...] = ("initializer", "input", "node")


# The published sizes (CE2)


def vgg16() -> Iterator[int]:
    """Yield the elements of the 32 tensors of VGG16: 13 convolutions and 3 dense layers."""
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            yield from (9 * channels * width, width)
            channels = width
    for inputs, outputs in ((7 * 7 * 512, 4096), (4096, 4096), (4096, 1000)):
        yield from (inputs * outputs, outputs)


@pytest.mark.parametrize(("bits", "size"), [(2, 34_589_898), (5, 86_477_561)])
def test_published_sizes_of_vgg16(bits: int, size: int) -> None:
    tensors = list(vgg16())
    assert (len(tensors), sum(tensors)) == (32, 138_357_544)
    assert ce2_bytes([(bits, n, 2**bits) for n in tensors], 0) == size


def test_published_size_of_the_audio_network() -> None:
    """16 tensors, all encoded: two convolutions with normalisation, two dense layers."""
    tensors = [7 * 7 * 32, 7 * 7 * 32 * 64, 128 * 100, 100 * 15, 100, 15]
    tensors += [32] * 5 + [64] * 5
    assert (len(tensors), sum(tensors)) == (16, 116_815)
    assert ce2_bytes([(2, n, 4) for n in tensors], 0) == 29_460


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(0, 10**9), st.integers(1, 2**16))))
def test_published_size_rounds_once_over_the_total(rows: list[tuple[int, int, int]]) -> None:
    bits = sum(width * elements for width, elements, _ in rows)
    used = sum(centroids for _, _, centroids in rows)
    assert 8 * (ce2_bytes(rows, 12) - 12 - 4 * used) - bits in range(8)


def test_kept_floats_count_in_full() -> None:
    assert ce2_bytes([], 4 * 26_560) == 106_240
    assert ce2_bytes([(3, 1, 1), (3, 2, 1)], 0) == 2 + 8


# Offsets in a data file


@given(st.lists(st.integers(1, 3 << 20), max_size=20))
def test_values_in_a_data_file_are_aligned_and_apart(lengths: list[int]) -> None:
    placement = Placement("w.data")
    spans = [(placement.place(length), length) for length in lengths]
    for offset, length in spans:
        assert offset % (4096 if length >= 1 << 20 else 64) == 0
    for (start, length), (following, _) in pairwise(spans):
        assert start + length <= following < start + length + 4096
    assert placement.end == (sum(spans[-1]) if spans else 0)


def test_aligned_end_stays() -> None:
    assert align(0, 1) == align(0, 1 << 20) == 0
    assert align(64, (1 << 20) - 1) == 64
    assert align(65, 1) == 128
    assert align(4096, 1 << 20) == 4096


# Records against messages


def written(graph: GraphProto) -> int:
    return len(graph.SerializeToString())


def constants() -> st.SearchStrategy[ConstantRecord]:
    dims = st.lists(st.integers(0, 300), max_size=3).map(tuple)
    parts = st.builds(Part, st.just("plane0.0"), st.sampled_from((FLOAT, UINT8, UINT4)), dims)
    fixed = st.lists(st.integers(-9, 9), max_size=9).map(
        lambda values: Const(INT64, (len(values),), tuple(values))
    )
    return st.builds(ConstantRecord, name=st.text(min_size=1, max_size=9), source=parts | fixed)


@given(constants(), st.sampled_from(HOLDERS))
def test_constant_costs_what_it_adds_to_a_graph(record: ConstantRecord, held: Holder) -> None:
    source = record.source
    payload = nominal_bytes(source.data_type, math.prod(source.dims))
    tensor = make_tensor("" if held == "node" else record.name, source.data_type, source.dims)
    if isinstance(source, Const) and typed_bytes(source) is not None:
        tensor.int64_data.extend(source.values)
    else:
        tensor.raw_data = bytes(payload)
    graph = GraphProto()
    if held == "node":
        node = NodeProto(op_type="Constant", output=[record.name])
        node.attribute.add(name="value", type=AttributeProto.TENSOR, t=tensor)
        graph.node.append(node)
    else:
        graph.initializer.append(tensor)
    if held == "input":
        info = helper.make_tensor_value_info(record.name, source.data_type, source.dims)
        graph.input.append(info)
    assert constant_cost(record, held) == written(graph)


@given(constants(), st.sampled_from(HOLDERS), st.integers(0, 10**9))
def test_long_constant_costs_a_reference_beside_a_data_file(
    record: ConstantRecord, held: Holder, end: int
) -> None:
    source = record.source
    payload = nominal_bytes(source.data_type, math.prod(source.dims))
    placement = Placement("model.onnx.01234567.data")
    placement.end = end
    found = constant_cost(record, held, placement)
    if payload < EXTERNAL_THRESHOLD or held == "node":
        assert found == constant_cost(record, held)
        assert placement.end == end
        return
    tensor = make_tensor(record.name, source.data_type, source.dims)
    offset = align(end, payload)
    point_outside(tensor, placement.location, offset=offset, length=payload)
    graph = GraphProto(initializer=[tensor])
    if held == "input":
        info = helper.make_tensor_value_info(record.name, source.data_type, source.dims)
        graph.input.append(info)
    assert found == written(graph)
    assert placement.end == offset + payload


@pytest.mark.parametrize("name", ["", "onnxq_q7"])
def test_node_costs_what_it_adds_to_a_graph(name: str) -> None:
    record = NodeRecord(
        op_type="Slice",
        inputs=("q1",),
        outputs=("w",),
        attributes=(("starts", (0,)), ("ends", (1000,)), ("axis", 1)),
        name=name,
    )
    node = helper.make_node("Slice", ["q1"], ["w"], starts=[0], ends=[1000], axis=1)
    if name:
        node.name = name
    assert node_cost(record) == written(GraphProto(node=[node]))


# Tensors


@given(forms(), st.sampled_from(HOLDERS))
def test_cost_of_a_tensor_is_split_and_sums_up(form: Form, held: Holder) -> None:
    emission = nominal_emission(form, "weight")
    cost = own_cost(emission, form, held)
    stored = payloads(form)
    is_beside = [not role.startswith(("plane", "values")) for role in stored]
    beside = [
        stored.pop(role) for role, found in zip(list(stored), is_beside, strict=True) if found
    ]
    extra = (form.scale_axis is not None) + 2 * (form.kept > 0)
    assert len(beside) == (form.layout != "half") + extra
    assert cost.codebook_bytes == sum(array.nbytes for array in beside)
    assert cost.index_bytes == sum(plane.nbytes for plane in stored.values())
    records = sum(constant_cost(record, held) for record in emission.constants)
    nodes = sum(node_cost(record) for record in emission.nodes)
    assert cost.total == cost.index_bytes + cost.codebook_bytes + cost.graph_bytes
    assert cost.total == records + nodes


def test_shared_expressions_cost_what_their_records_cost() -> None:
    tree = expression(make_form("portable", 6, (5, 7)))
    shared = shared_expressions(tree)
    emission = nominal_emission(make_form("portable", 6, (5, 7)), "w")
    records = sum(constant_cost(record, "initializer") for record in emission.shared_constants)
    records += sum(node_cost(record) for record in emission.shared_nodes)
    counted = sum(expression_cost(expr, "initializer") for expr in shared)
    # Names differ by a byte or two an end.
    names = 4 * (len(emission.shared_constants) + 4 * len(emission.shared_nodes))
    assert abs(counted - records) <= names
    assert counted > 0


def test_bits_per_weight_count_the_codebook_and_padding() -> None:
    assert bits_per_weight(5, 8) == 5.0
    assert bits_per_weight(5, [3, 5]) == 5.0
    assert bits_per_weight(0, 0) == bits_per_weight(7, []) == 0.0


# Memory at load


@given(forms())
def test_memory_at_load_is_that_of_all_nodes_and_stored_parts(form: Form) -> None:
    evaluator = Evaluator(payloads(form))
    evaluator.value(expression(form))
    stored = sum(part_bytes(part) for part in parts(expression(form)))
    held = sum(array.nbytes for array in evaluator.outputs.values())
    assert load_bytes(form) == held + stored


def test_memory_at_load_by_hand() -> None:
    """The indices, the codebook, the indices as int32 and the decoded tensor."""
    assert load_bytes(make_form("portable", 8, (10, 10))) == 100 + 256 * 4 + 100 * 4 + 100 * 4


@pytest.mark.parametrize("bits", [1, 4, 7, 12])
def test_tables_count_once_for_all_tensors(bits: int) -> None:
    form = make_form("portable", bits, (10, 10))
    evaluator = Evaluator(payloads(form))
    evaluator.value(expression(form))
    tables = sum(a.nbytes for op, a in evaluator.outputs.items() if op.is_shared)  # type: ignore[union-attr]
    assert load_bytes(form, form, form) == 3 * load_bytes(form) - 2 * tables
    other = make_form("bytes", 4, (10, 10))
    assert load_bytes(form, other) == load_bytes(form) + load_bytes(other)
    assert load_bytes() == 0
