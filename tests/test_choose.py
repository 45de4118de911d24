"""The form of one tensor: the smallest, or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxq import model
from onnxq.choose import Choice, choose, container_bytes, too_large
from onnxq.facts import gather_facts
from onnxq.graphs import holder
from onnxq.options import make_options
from onnxq.rate import nominal_emission, own_cost
from onnxq.selection import Skip
from onnxq.trees import FLOAT, FLOAT16
from tests import graphs
from tests.property.strategies import Array


def chosen(source: ModelProto | Array, opset: int = 17, **options: Any) -> Choice | Skip:
    """Return the choice for the first weight of a model, or for an array in one."""
    if not isinstance(source, ModelProto):
        held = graphs.tensors(w=source)
        source = graphs.model(graphs.graph([], [], [graphs.value("w")], held), opset)
    document = model.wrap(source)
    given = make_options(options)
    weight = model.weights(document)[0]
    (seen,) = gather_facts(document, [weight], given, 1)
    return choose(document, weight, seen, given)


def choice(source: ModelProto | Array, **options: Any) -> Choice:
    found = chosen(source, **options)
    assert isinstance(found, Choice)
    return found


def skipped(source: ModelProto | Array, **options: Any) -> Skip:
    found = chosen(source, **options)
    assert isinstance(found, Skip)
    return found


NORMAL = graphs.normal((64, 64), 1)


@pytest.mark.parametrize("bits", range(1, 11))
def test_width_asked_for_is_taken_where_every_centroid_is_needed(bits: int) -> None:
    form = choice(NORMAL, bits=bits).form
    assert (form.layout, form.bit_width, form.centroids) == ("portable", bits, 2**bits)
    assert (form.data_type, form.codebook_type, form.shape) == (FLOAT, FLOAT, (64, 64))


@pytest.mark.parametrize(("count", "width"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (9, 4)])
def test_fewer_bits_are_taken_where_they_suffice(count: int, width: int) -> None:
    values = graphs.few(count)((200, 200), 2)
    form = choice(values, bits=7).form
    assert (form.bit_width, form.centroids) == (width, count)
    form = choice(values, bits=7, fewer_bits=False).form
    assert (form.bit_width, form.centroids) == (7, count)


def test_short_tensor_may_take_a_wider_form_with_fewer_nodes() -> None:
    form = choice(graphs.few(5)((300,), 2), bits=8, only_smaller=False).form
    assert form.centroids == 5
    assert form.bit_width != 3 or form.layout == "bytes"


@pytest.mark.parametrize("bits", [3, 5, 6, 7, 9, 11, 13])
@pytest.mark.parametrize("count", [3, 30, 500])
@pytest.mark.parametrize("size", [600, 5000])
def test_no_width_asked_for_gives_a_smaller_tensor(bits: int, count: int, size: int) -> None:
    """What `choose` takes costs no more than the least width and the one asked for."""
    values = graphs.few(count)((size,), 3)
    document = model.wrap(graphs.model(graphs.graph([], [], [graphs.value("w")],
                                                    graphs.tensors(w=values))))  # fmt: skip
    held = holder(document, model.weights(document)[0].scope)

    def cost(found: Choice) -> int:
        return own_cost(nominal_emission(found.form, "w"), found.form, held).total

    best = cost(choice(values, bits=bits, only_smaller=False))
    fixed = choice(values, bits=bits, only_smaller=False, fewer_bits=False)
    assert best <= cost(fixed)
    least = max(1, (count - 1).bit_length())
    if least <= bits:
        exact = choice(values, bits=least, only_smaller=False, fewer_bits=False)
        assert best <= cost(exact)


def test_saving_is_the_original_less_the_cost() -> None:
    found = choice(NORMAL, bits=4)
    cost = own_cost(nominal_emission(found.form, "w"), found.form, "initializer")
    assert found.saved == 4 * 4096 + container_bytes(found.weight) - cost.total
    assert found.storage is found.weight.scope
    assert found.same_as is None


def test_tensor_that_would_grow_alone_says_so_with_both_sizes() -> None:
    found = choice(graphs.normal((8,), 1), bits=8)
    assert found.saved < 0
    record = too_large(found)
    assert record.reason == "not-smaller"
    container = 2 + len("w") + 8
    assert record.detail.endswith(f"of {32 + container}")
    assert int(record.detail.split("would take ")[1].split()[0]) >= 32 + container
    assert found.original_bytes == 32 + container


def test_tensor_that_saves_but_not_enough_is_kept_for_the_tables() -> None:
    found = choice(NORMAL, bits=4)
    assert found.saved > 0
    assert "tables" in too_large(found).detail


def test_nan_is_kept() -> None:
    values = NORMAL.copy()
    values[3, 4] = np.nan
    assert skipped(values, only_smaller=False).reason == "nan"


def test_infinities_need_centroids_of_their_own() -> None:
    values = NORMAL.copy()
    values[0, 0] = np.inf
    assert choice(values, bits=1).form.centroids == 2
    values[0, 1] = -np.inf
    assert skipped(values, bits=1).reason == "infinite"
    assert choice(values, bits=2).form.centroids == 4
    values[:] = -np.inf
    values[0] = np.inf
    assert choice(values, bits=1).form.centroids == 2  # nothing finite to hold


def test_half_codebook_is_taken_where_it_saves_more_than_its_cast() -> None:
    def kind(bits: int, values: Array = NORMAL) -> int:
        return choice(values, bits=bits, codebook_dtype="float16").form.codebook_type

    assert [kind(bits) for bits in (3, 4, 5, 8)] == [FLOAT, FLOAT, FLOAT16, FLOAT16]
    assert kind(8, NORMAL.astype(np.float64)) == FLOAT16
    assert kind(8, NORMAL * np.float32(1e9)) == FLOAT
    assert choice(NORMAL, bits=8).form.codebook_type == FLOAT


def test_layout_asked_for_is_taken_where_the_opset_has_it() -> None:
    assert choice(NORMAL, bits=4, layout="native", opset=21).form.layout == "native"
    assert choice(NORMAL, bits=4, layout="native", opset=20).form.layout == "portable"
    form = choice(NORMAL, bits=5, layout="bytes").form
    assert (form.layout, form.bit_width) == ("bytes", 5)


@pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)
def test_container_bytes_are_a_lower_bound(case: graphs.Case) -> None:
    """What a weight takes beside its values is at least this much, and not much more."""
    for weight in model.weights(model.wrap(case.build())):
        if weight.kind == "initializer" and weight.tensor is not None:
            size = weight.tensor.ByteSize() + 2
            spent = size - weight.data_bytes
            assert container_bytes(weight) <= spent
            if weight.tensor.HasField("raw_data") and len(weight.name) < 100:
                assert spent <= container_bytes(weight) + 4 + 2 * len(weight.shape)
