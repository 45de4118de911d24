"""The ways to store each tensor: what they cost and lose, against tensors really stored so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxq import model
from onnxq.allocation.candidates import WIDTHS, Candidate, Unit, make_units
from onnxq.allocation.trials import Decoder, Methods
from onnxq.errors import OptionError
from onnxq.forms import Form
from onnxq.graphs import Document
from onnxq.options import ConvertOptions, make_options
from onnxq.selection import Skip
from onnxq.trees import FLOAT16
from tests import graphs as g

Array = np.ndarray[Any, np.dtype[Any]]
FAST = ConvertOptions(jobs=1)


def units_of(
    proto: ModelProto, options: ConvertOptions = FAST
) -> tuple[Document, list[Unit], list[Skip]]:
    document = model.wrap(proto)
    units, skips = make_units(document, model.weights(document), options, 1)
    return document, units, skips


def one_unit(proto: ModelProto, name: str = "w") -> tuple[Document, Unit]:
    document, units, _ = units_of(proto)
    return document, next(unit for unit in units if unit.lead.name == name)


def labels(unit: Unit) -> list[str]:
    return [item.label for item in unit.candidates]


def form(unit: Unit, label: str) -> Form:
    found = next(item for item in unit.candidates if item.label == label).form
    assert found is not None
    return found


def single(array: Array) -> ModelProto:
    """Return a model that adds a tensor to its input."""
    held = [g.tensor("w", array)]
    kind = g.DATA_TYPES[array.dtype]
    ends = (
        g.value("x", *array.shape, dtype=kind),
        g.value("y", *array.shape, dtype=kind),
    )
    return g.model(g.graph([g.node("Add", "x,w", "y")], ends[:1], ends[1:], held))


def test_a_tensor_may_be_stored_at_every_width_between_two_and_the_codebooks_that_pay() -> None:
    _, unit = one_unit(g.matmul_add(size=128))
    found = labels(unit)
    assert found[-1] == "float"
    plain = {item for item in found if item.endswith("bits")}
    assert plain >= {f"{bits} bits" for bits in range(1, 11)}
    assert plain >= {"1.6 bits", "2.67 bits", "3.2 bits", "5.33 bits"}
    assert {f"{item}, scaled" for item in plain} & set(found)
    assert "float16" in found


def test_the_ways_take_fewer_bytes_than_the_tensor_as_it_is_does() -> None:
    for case in (g.gemm(), g.conv_bn_relu(), g.branches(), g.tiny()):
        for unit in units_of(case)[1]:
            keep = unit.candidates[-1]
            assert (keep.form, keep.distortion, keep.label) == (None, 0.0, "float")
            assert all(item.bytes < keep.bytes for item in unit.candidates[:-1])
            assert all(item.bytes > 0 for item in unit.candidates)


@pytest.mark.parametrize("build", [g.matmul_add, g.conv_transpose, g.embedding, g.loop])
def test_the_distortion_is_that_of_the_decoded_values(
    build: Callable[[], ModelProto],
) -> None:
    document, units, _ = units_of(build())
    decoder = Decoder(document=document, calibration=None, methods=Methods())
    for unit in units:
        values = model.read(document, unit.lead).astype(np.float64)
        assert unit.power == pytest.approx(float(np.square(values).sum()))
        for pick, item in enumerate(unit.candidates):
            decoded = decoder.decoded(unit, pick).astype(np.float64)
            real = float(np.square(decoded - values).sum())
            if item.form is None:
                assert real == 0
            elif item.form.codebook_type == item.form.data_type and not item.is_scaled:
                assert real == pytest.approx(item.distortion, rel=1e-6)
            else:
                # What rounding to float16 adds is foreseen for values of all magnitudes, and a
                # channel's share of the noise of normalised values for channels that are alike.
                rel = 0.3 if unit.lead.elements > 1000 else 2.0
                assert real == pytest.approx(item.distortion, rel=rel), item.label


def test_wider_ways_of_a_kind_lose_less_and_take_more() -> None:
    _, unit = one_unit(g.matmul_add(size=128))
    for is_scaled in (False, True):
        kind: list[Candidate] = [
            item
            for item in unit.candidates
            if item.form is not None
            and item.form.layout == "portable"
            and item.is_scaled == is_scaled
        ]
        kind.sort(key=lambda item: item.form.centroids if item.form else 0)
        assert len(kind) > 5
        assert np.all(np.diff([item.distortion for item in kind]) < 0)
        assert np.all(np.diff([item.bytes for item in kind]) > 0)


def test_a_tensor_of_few_values_has_a_way_without_loss_and_none_wider() -> None:
    _, unit = one_unit(g.matmul_add(g.few(11)))
    sizes = {item.form.centroids for item in unit.candidates if item.form and item.form.centroids}
    assert max(sizes) == 11
    exact = [item for item in unit.candidates if item.form and item.form.centroids == 11]
    assert exact
    assert all(item.distortion == 0 for item in exact if not item.is_scaled)


def test_a_constant_tensor_can_be_stored_as_one_centroid() -> None:
    _, unit = one_unit(single(np.full((40, 50), 2.5, np.float32)))
    lossless = [item for item in unit.candidates[:-1] if item.form and item.form.centroids == 1]
    assert lossless[0].distortion == 0


def test_scales_are_offered_by_output_channel_and_not_where_channels_are_short() -> None:
    _, conv = one_unit(g.grouped_conv())
    assert {item.form.scale_axis for item in conv.candidates if item.is_scaled and item.form} == {0}
    _, transposed = one_unit(g.conv_transpose())
    axes = {item.form.scale_axis for item in transposed.candidates if item.is_scaled and item.form}
    assert axes == {1}
    short = np.arange(600, dtype=np.float32).reshape(200, 3)
    held = g.tensors(w=short)
    nodes = [g.node("Gemm", "x,w", "y", transB=1)]
    body = g.graph(nodes, [g.value("x", 2, 3)], [g.value("y", 2, 200)], held)
    _, unit = one_unit(g.model(body))
    assert not any(item.is_scaled for item in unit.candidates)


def test_float16_is_offered_for_values_within_its_range_only() -> None:
    small = g.normal((64, 64), 1)
    assert "float16" in labels(one_unit(single(small))[1])
    assert "float16" not in labels(one_unit(single(small * np.float32(1e6)))[1])
    assert "float16" not in labels(one_unit(single(small * np.float32(1e-7)))[1])
    assert "float16" not in labels(one_unit(single(small.astype(np.float16)))[1])


def test_codebooks_of_float16_keep_a_tensor_of_few_values_exact() -> None:
    whole = np.random.default_rng(0).integers(-99, 99, (64, 64)).astype(np.float32)
    for values, is_half in ((whole, True), (whole / np.float32(3), False)):
        document, unit = one_unit(single(values))
        sizes = [
            0 if one.form is None or one.is_scaled else one.form.centroids
            for one in unit.candidates
        ]
        widest = int(np.argmax(sizes))
        item = unit.candidates[widest]
        assert item.form is not None
        assert (item.form.codebook_type == FLOAT16) == is_half
        assert item.distortion == 0
        decoder = Decoder(document=document, calibration=None, methods=Methods())
        assert np.array_equal(decoder.decoded(unit, widest), values)


def test_codebooks_of_small_tensors_are_float16_where_they_lose_anything() -> None:
    _, unit = one_unit(single(g.normal((64, 64), 1)))
    assert form(unit, "8 bits").codebook_type == FLOAT16
    assert form(unit, "2 bits").codebook_type != FLOAT16  # four numbers do not pay for a Cast


def test_infinities_leave_no_way_of_too_few_centroids() -> None:
    values = g.normal((64, 64), 1)
    values[0, 0], values[1, 1] = np.inf, -np.inf
    document, unit = one_unit(single(values))
    sizes = {item.form.centroids for item in unit.candidates if item.form and item.form.centroids}
    assert min(sizes) == 3  # both infinities, and one for the others
    decoder = Decoder(document=document, calibration=None, methods=Methods())
    for pick, item in enumerate(unit.candidates):
        decoded = decoder.decoded(unit, pick)
        assert (decoded[0, 0], decoded[1, 1]) == (np.inf, -np.inf), item.label
        assert np.isfinite(item.distortion)


def test_tensors_with_nan_are_kept_and_the_reason_is_given() -> None:
    _, units, skips = units_of(g.nan_and_infinity())
    assert [unit.lead.name for unit in units] == ["wide"]
    assert [(item.name, item.reason) for item in skips if item.reason == "nan"] == [("bad", "nan")]


def test_a_tensor_that_is_no_candidate_is_kept_and_its_reason_given() -> None:
    for name in ("parameters", "branches", "functions", "constants", "sparse", "tiny"):
        document, units, skips = units_of(g.BY_NAME[name].build())
        found = {(w.graph, w.name) for unit in units for w in unit.weights}
        kept = {(item.graph, item.name) for item in skips}
        assert not found & kept
        assert found | kept == {(w.graph, w.name) for w in model.weights(document)}


def test_equal_tensors_are_one_unit_whose_bytes_as_they_are_count_for_each() -> None:
    _, units, _ = units_of(g.equal_tensors())
    groups = {tuple(weight.name for weight in unit.weights) for unit in units}
    assert any(len(names) > 1 for names in groups)
    shared = next(unit for unit in units if len(unit.weights) > 1)
    alone = sum(weight.data_bytes for weight in shared.weights)
    assert shared.candidates[-1].bytes >= alone
    assert all(item.bytes < shared.lead.data_bytes for item in shared.candidates[:-1])


def test_equal_tensors_are_units_of_their_own_where_nothing_is_to_be_shared() -> None:
    units = units_of(g.equal_tensors(), make_options({"share_equal": False, "jobs": 1}))[1]
    assert all(len(unit.weights) == 1 for unit in units)


def test_the_choices_of_a_way_have_the_shape_of_each_equal_tensor() -> None:
    document, units, _ = units_of(g.equal_tensors())
    for unit in units:
        choices = unit.choices(document, 0)
        assert [choice.form.shape for choice in choices] == [w.shape for w in unit.weights]
        assert unit.choices(document, len(unit.candidates) - 1) == []


def test_tensors_of_a_function_have_ways() -> None:
    _, units, _ = units_of(g.functions())
    assert any(unit.lead.scope.root.is_function for unit in units)
    assert all(len(unit.candidates) > 5 for unit in units)


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_old_opsets_have_no_ways_that_they_cannot_decode(opset: int) -> None:
    _, unit = one_unit(g.matmul_add(opset=opset))
    assert not any(item.form.layout == "radix" for item in unit.candidates if item.form)
    assert len(unit.candidates) > 3


@pytest.mark.parametrize("dtype", [np.float16, g.BFLOAT16, np.float64])
def test_tensors_of_other_types_have_ways_that_decode_to_their_type(dtype: Any) -> None:
    document, unit = one_unit(g.half(dtype)())
    decoder = Decoder(document=document, calibration=None, methods=Methods())
    for pick in range(len(unit.candidates)):
        assert decoder.decoded(unit, pick).dtype == np.dtype(dtype)
    assert any(item.is_scaled for item in unit.candidates) == (dtype is np.float64)


def test_the_units_are_the_same_with_any_number_of_threads() -> None:
    found = []
    for jobs in (1, 2, 5):
        document = model.wrap(g.attention())
        units, skips = make_units(document, model.weights(document), FAST, jobs)
        found.append(([(unit.key, unit.candidates, unit.power) for unit in units], skips))
    assert found[0] == found[1] == found[2]


def test_tensors_left_out_by_the_options_are_kept() -> None:
    options = make_options({"exclude": ["w"], "jobs": 1})
    _, units, skips = units_of(g.gemm(), options)
    assert "w" not in {unit.lead.name for unit in units}
    assert next(item for item in skips if item.name == "w").reason == "excluded"


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(OptionError, match="matches no float tensor"):
        units_of(g.gemm(), make_options({"exclude": ["nothing"], "jobs": 1}))


def test_the_widths_asked_for_are_not_looked_at() -> None:
    narrow = units_of(g.gemm(), replace(FAST, bits=2))[1]
    assert [unit.candidates for unit in narrow] == [
        unit.candidates for unit in units_of(g.gemm())[1]
    ]
    assert WIDTHS[-1] == 12
