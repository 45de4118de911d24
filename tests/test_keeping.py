"""Values kept beside a codebook: chosen, decoded by all runtimes, recognised and restored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxq
from onnxq import keeping, model
from onnxq.clustering.cluster import fit
from onnxq.encode import decode, encode, fitted
from onnxq.errors import InputError
from onnxq.forms import ALIAS_NAME, Form
from onnxq.plans import TensorPlan
from onnxq.radixpack import RADIXES
from onnxq.recognise import find
from onnxq.trees import DOUBLE, FLOAT, FLOAT16
from tests import graphs, runs
from tests.encoded import make_form, planned
from tests.test_decoders import assert_three_agree, collection
from tests.test_planned_forms import HOLDING, convert, folded, planned_with

Array = np.ndarray[Any, np.dtype[Any]]


def heavy(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> Array:
    """Return values with outliers, among them equal magnitudes."""
    drawn = np.random.default_rng(seed).standard_t(2, shape).astype(dtype)
    drawn.reshape(-1)[[3, 7, 11]] = 60, -60, 60
    return drawn


def tensors(dtype: Any = np.float32) -> dict[str, Array]:
    shapes = {"flat": (137,), "matrix": (12, 31), "kernel": (6, 4, 3, 3), "whole": (16, 16)}
    return {name: heavy(shape, i, dtype) for i, (name, shape) in enumerate(shapes.items())}


def kept(tensor: TensorPlan, dtype: str | None = "float16") -> Mapping[str, Any]:
    """Return the changes that keep 2 % of a tensor's values, if it can keep some."""
    count = tensor.elements // 50
    if tensor.same_as is not None or tensor.dtype not in ("float32", "float64") or not count:
        return {}
    return {"kept_values": count, "kept_dtype": dtype or tensor.dtype}


def in_radix(tensor: TensorPlan) -> Mapping[str, Any]:
    base = RADIXES[tensor.bit_width].base
    return {"layout": "radix", "centroids": min(base, tensor.centroids), **kept(tensor)}


def kept_form(values: Array, count: int, stored: int = FLOAT, bits: int = 2) -> Form:
    data_type = DOUBLE if values.dtype == np.float64 else FLOAT
    return make_form(
        "portable", bits, values.shape, data_type=data_type, kept=count, kept_type=stored
    )


# Which values


def test_largest_magnitudes_are_kept_and_the_first_of_equal_ones() -> None:
    values = np.array([[1, -5, 5], [0, 5, np.inf], [-np.inf, 2, -5]], np.float32)
    assert keeping.largest(values, 4).tolist() == [1, 2, 5, 6]
    assert keeping.largest(values, 2).tolist() == [5, 6]
    assert keeping.largest(values, 0).tolist() == []
    assert keeping.largest(values, 9).tolist() == list(range(9))


def test_codebook_is_that_of_the_other_values() -> None:
    values = heavy((20, 30))
    form = kept_form(values, 5)
    places = keeping.largest(values, 5)
    found = fitted(values, planned(form))
    alone = fit(np.delete(values.reshape(-1), places), 4)
    np.testing.assert_array_equal(found.centroids, alone.centroids)
    np.testing.assert_array_equal(
        np.delete(found.indices.reshape(-1), places), alone.indices.reshape(-1)
    )
    assert np.abs(found.centroids).max() < np.abs(values.reshape(-1)[places]).min()


@pytest.mark.parametrize("stored", [FLOAT, FLOAT16])
def test_kept_values_are_exact_in_the_stored_type(stored: int) -> None:
    values = heavy((20, 30))
    form = kept_form(values, 5, stored)
    made = encode(values, planned(form), form)
    decoded = decode(made.payloads, made.form, values.dtype)
    places = keeping.largest(values, 5)
    expected = values.reshape(-1)[places]
    if stored == FLOAT16:
        expected = expected.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(decoded.reshape(-1)[places], expected)
    error = float(np.sum((values.astype(np.float64) - decoded) ** 2))
    assert made.distortion == pytest.approx(error, rel=1e-12)
    plain = make_form("portable", 2, values.shape)
    assert made.distortion < encode(values, planned(plain), plain).distortion / 2
    assert made.gap is None


@pytest.mark.parametrize("codebook_type", [FLOAT, FLOAT16])
def test_clustering_without_indices_gives_the_same_bytes(codebook_type: int) -> None:
    values = heavy((20, 30))
    form = make_form(
        "portable", 3, values.shape, codebook_type=codebook_type, kept=7, kept_type=FLOAT
    )
    plan = planned(form)
    whole = fitted(values, plan)
    bare = type(whole)(**{**whole.__dict__, "indices": np.zeros(0, np.uint8)})
    found = [encode(values, plan, form, known=known) for known in (None, whole, bare)]
    for other in found[1:]:
        assert other.payloads.keys() == found[0].payloads.keys()
        for role, stored in other.payloads.items():
            assert stored.tobytes() == found[0].payloads[role].tobytes()


def test_few_distinct_values_beside_kept_ones_are_lossless() -> None:
    values = np.where(np.arange(400) % 3 == 0, -1, 1).astype(np.float32).reshape(20, 20)
    values.reshape(-1)[[5, 50, 250]] = 0.1, 123.456, np.inf
    values.reshape(-1)[5] = 7.7
    form = kept_form(values, 3, FLOAT, 1)
    made = encode(values, planned(form), form)
    assert (made.is_lossless, made.gap, made.snr_db, made.distortion) == (True, 0.0, None, 0.0)
    assert decode(made.payloads, made.form, values.dtype).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "places", [[3, 3], [4, 1], [-1, 2], [0, 600], [600, 601]], ids=lambda item: str(item)
)
def test_places_that_are_none_are_refused(places: list[int]) -> None:
    values = heavy((20, 30))
    form = kept_form(values, 2)
    stored = dict(encode(values, planned(form), form).payloads)
    stored["places"] = np.array(places, np.int32)
    with pytest.raises(InputError, match="kept values: found places from"):
        decode(stored, form, values.dtype)


# In models


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_with_kept_values_are_decoded_alike(bits: int, dtype: Any, tmp_path: Path) -> None:
    arrays = tensors(dtype)
    stored = "float16" if bits % 2 == 0 else None
    report, converted = convert(collection(arrays), lambda t: kept(t, stored), tmp_path, bits=bits)
    ours = assert_three_agree(converted)
    assert folded(converted, tmp_path) == []
    inspected = {row.name: row for row in onnxq.inspect(converted).tensors}
    _, plain = onnxq.restore(converted)
    restored = {held.name: numpy_helper.to_array(held) for held in plain.graph.initializer}
    for row in report.tensors:
        other = inspected[row.name]
        assert row.kept_values == other.kept_values == row.elements // 50
        assert (row.index_bytes, row.codebook_bytes) == (other.index_bytes, other.codebook_bytes)
        np.testing.assert_array_equal(ours[f"{row.name}_out"], restored[row.name])
        places = keeping.largest(arrays[row.name], row.kept_values)
        rounded = np.float16 if stored else dtype
        expected = arrays[row.name].reshape(-1)[places].astype(rounded).astype(dtype)
        np.testing.assert_array_equal(restored[row.name].reshape(-1)[places], expected)


@pytest.mark.parametrize("opset", [11, 13, 17, 21, 25])
@pytest.mark.parametrize("layout", ["portable", "native", "bytes", "pooled", "radix"])
def test_kept_values_go_with_every_layout(layout: str, opset: int, tmp_path: Path) -> None:
    options = {
        "bits": 4, "layout": layout if layout in ("native", "bytes") else "portable",
        "pool_indices": layout == "pooled",
    }  # fmt: skip
    change = in_radix if layout == "radix" else kept
    report, converted = convert(collection(tensors(), opset), change, tmp_path, **options)
    found = find(model.wrap(converted))
    assert [item.form.kept for item in found] == [row.kept_values for row in report.tensors]
    assert {item.form.pool is not None for item in found} == {layout == "pooled"}
    assert len(found) == len(tensors())
    assert_three_agree(converted)
    assert folded(converted, tmp_path) == []


def test_half_codebook_and_half_kept_values(tmp_path: Path) -> None:
    _, converted = convert(collection(tensors()), kept, tmp_path, bits=5, codebook_dtype="float16")
    for item in find(model.wrap(converted)):
        assert (item.form.codebook_type, item.form.kept_type) == (FLOAT16, FLOAT16)
    assert_three_agree(converted)


def test_equal_tensors_share_kept_values_too(tmp_path: Path) -> None:
    report, converted = convert(graphs.equal_tensors(), kept, tmp_path, bits=4)
    assert [row.same_as for row in report.tensors] == [None, "first", "first"]
    assert [row.kept_values for row in report.tensors] == [81, 0, 0]
    assert [item.shape for item in find(model.wrap(converted))] == [(64, 64), (64, 64), (32, 128)]
    _, plain = onnxq.restore(converted)
    feeds = graphs.feeds(plain)
    runs.assert_same(runs.run(converted, feeds), runs.run(plain, feeds))


@pytest.mark.parametrize("case", HOLDING, ids=lambda case: case.name)
def test_kept_values_stand_wherever_weights_stand(case: graphs.Case, tmp_path: Path) -> None:
    proto = case.build()
    if min(item.version for item in proto.opset_import if item.domain == "") < 11:
        pytest.skip("ScatterElements came with opset 11")
    report, converted = convert(proto, kept, tmp_path, bits=4)
    found = find(model.wrap(converted))
    assert sorted((item.name, item.form.kept) for item in found if item.same_as is None) == sorted(
        (row.name, row.kept_values) for row in report.tensors if row.same_as is None
    )
    _, plain = onnxq.restore(converted)
    assert find(model.wrap(plain)) == []
    feeds = graphs.feeds(plain)
    runs.assert_same(runs.run(converted, feeds), runs.run(plain, feeds))


def test_jobs_do_not_change_the_bytes_of_kept_values(tmp_path: Path) -> None:
    proto = collection(tensors())
    path = tmp_path / "plan.json"
    path.write_text(planned_with(proto, kept, bits=5).dumps())
    one, four = (onnxq.convert(proto, plan=path, check=0, jobs=jobs)[1] for jobs in (1, 4))
    assert one.SerializeToString() == four.SerializeToString()


def one_matrix(folder: Path) -> ModelProto:
    return convert(collection({"w": heavy((12, 31))}), kept, folder, bits=4)[1]


def test_reshape_that_lost_its_name_leaves_what_stands_before_it(tmp_path: Path) -> None:
    """The indices are still found, as a tensor of their own, and the model computes the same."""
    converted = one_matrix(tmp_path)
    before = runs.run(converted, {})
    (last,) = [node for node in converted.graph.node if node.name.startswith(ALIAS_NAME)]
    assert last.op_type == "Reshape"
    last.name = "other"
    (found,) = find(model.wrap(converted))
    assert (found.form.kept, found.shape) == (0, (372,))
    _, plain = onnxq.restore(converted)
    runs.assert_same(runs.run(plain, {}), before)


def test_nested_kept_values_are_not_ours(tmp_path: Path) -> None:
    """A model's own correction of a corrected tensor stays, however often it is repeated."""
    converted = one_matrix(tmp_path)
    (scatter,) = [node for node in converted.graph.node if node.op_type == "ScatterElements"]
    place = list(converted.graph.node).index(scatter) + 1
    for number in range(2000):
        again = onnx.NodeProto()
        again.CopyFrom(scatter)
        again.input[0], again.output[0] = scatter.output[0], f"again{number}"
        converted.graph.node[place].input[0] = again.output[0]
        converted.graph.node.insert(place, again)
        scatter, place = again, place + 1
    (found,) = find(model.wrap(converted))
    assert found.form.kept == 0


def test_kept_values_need_opset_11(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kept values need opset 11, found 10"):
        convert(collection(tensors(), 10), kept, tmp_path, bits=4)


def test_values_beyond_float16_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    arrays = {"w": heavy((12, 31))}
    arrays["w"][0, 0] = 65520.0
    path = tmp_path / "plan.json"
    path.write_text(planned_with(collection(arrays), kept, bits=4).dumps())
    with pytest.raises(InputError, match="expected none in values kept as float16"):
        onnxq.convert(collection(arrays), tmp_path / "out.onnx", plan=path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_damaged_places_of_a_file_are_refused(tmp_path: Path) -> None:
    converted = one_matrix(tmp_path)
    (scatter,) = [node for node in converted.graph.node if node.op_type == "ScatterElements"]
    for held in converted.graph.initializer:
        if held.name == scatter.input[1]:
            held.raw_data = b"\xff\xff\xff\x7f" + held.raw_data[4:]
    with pytest.raises(InputError, match="found places from"):
        onnxq.restore(converted)
