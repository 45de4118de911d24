"""Forms that only a plan asks for: converted, run by all runtimes, recognised and restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

import onnxq
from onnxq import model
from onnxq.choose import choice_of, half_form
from onnxq.conversion import workers
from onnxq.errors import InputError, UnsupportedError
from onnxq.facts import gather_facts
from onnxq.forms import ALIAS_NAME, Form
from onnxq.options import make_options
from onnxq.plans import Plan, TensorPlan, make_plan, tensor_plan
from onnxq.pooling import settle
from onnxq.radixpack import RADIXES
from onnxq.recognise import find
from onnxq.report import Report
from onnxq.trees import FLOAT16
from tests import graphs, runs
from tests.test_decoders import assert_three_agree, collection

Array = np.ndarray[Any, np.dtype[Any]]
HOLDING = [case for case in graphs.CASES if case.converts and case.is_runnable]
Change = Callable[[TensorPlan], Mapping[str, Any]]


def planned_with(proto: ModelProto, change: Change, **options: Any) -> Plan:
    """Return a model's plan, every tensor of it changed."""
    settings = {"only_smaller": False, "fewer_bits": False, "pool_indices": False, **options}
    document = model.wrap(proto)
    plan = make_plan(document, model.weights(document), make_options(settings), 1)
    changed = tuple(replace(tensor, **change(tensor)) for tensor in plan.tensors)
    return Plan(tensors=changed, skips=plan.skips)


def convert(
    proto: ModelProto, change: Change, folder: Path, **options: Any
) -> tuple[Report, ModelProto]:
    """Return what a conversion with a changed plan gives; its size was foreseen to the byte."""
    path = folder / "plan.json"
    path.write_text(planned_with(proto, change, **options).dumps())
    report, converted = onnxq.convert(proto, plan=path, check=0)
    assert report.predicted_bytes == report.output.file_bytes == converted.ByteSize()
    return report, converted


def scaled(tensor: TensorPlan, axis: int = 0, dtype: str | None = "float16") -> dict[str, Any]:
    """Return the changes that give a tensor scales, if it can have some."""
    if tensor.same_as is not None or tensor.shape[axis] < 2 or tensor.dtype not in (
        "float32", "float64",
    ):  # fmt: skip
        return {}
    kept = {"centroids": min(1 << tensor.bit_width, tensor.elements)}
    return {"scale_axis": axis, "scale_dtype": dtype or tensor.dtype, **kept}


def tensors(dtype: Any = np.float32) -> dict[str, Array]:
    """Return tensors of several shapes whose channels along every axis differ in size."""
    shapes = {"flat": (37,), "matrix": (12, 31), "kernel": (6, 4, 3, 3), "whole": (16, 16)}
    grown = {}
    for number, (name, shape) in enumerate(shapes.items()):
        steps = np.geomspace(0.01, 10, shape[0]).reshape(-1, *(1 for _ in shape[1:]))
        grown[name] = (graphs.normal(shape, number) * steps).astype(dtype)
    return grown


def folded(converted: ModelProto, folder: Path) -> list[str]:
    """Return the operators that onnxruntime is left with after it has loaded a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "folded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        converted.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [node.op_type for node in onnx.load(folder / "folded.onnx").graph.node]


# Scales


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_tensors_are_decoded_alike(bits: int, dtype: Any, tmp_path: Path) -> None:
    proto = collection(tensors(dtype))
    is_half = bits % 2 == 0
    stored = "float16" if is_half else None
    report, converted = convert(proto, lambda t: scaled(t, dtype=stored), tmp_path, bits=bits)
    assert {row.scale_axis for row in report.tensors} == {0}
    assert_three_agree(converted)
    assert folded(converted, tmp_path) == []
    codebooks = {row.name: row.codebook_bytes for row in report.tensors}
    for item in find(model.wrap(converted)):
        assert item.form.scale_axis == 0
        assert (item.form.scale_type == FLOAT16) == is_half
        assert item.form.codebook_bytes == codebooks[item.name]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layout", ["portable", "native", "bytes", "pooled"])
def test_scales_go_with_every_layout(layout: str, axis: int, tmp_path: Path) -> None:
    arrays = {name: array for name, array in tensors().items() if array.ndim > 1}
    is_pooled = layout == "pooled"
    options = {
        "bits": 4, "layout": "portable" if is_pooled else layout, "pool_indices": is_pooled,
    }  # fmt: skip
    report, converted = convert(collection(arrays), lambda t: scaled(t, axis), tmp_path, **options)
    found = find(model.wrap(converted))
    assert {item.form.scale_axis for item in found} == {axis}
    assert {item.form.pool is not None for item in found} == {is_pooled}
    assert len(report.tensors) == len(arrays)
    assert_three_agree(converted)


def test_half_codebook_and_half_scales(tmp_path: Path) -> None:
    _, converted = convert(
        collection(tensors()), scaled, tmp_path, bits=5, codebook_dtype="float16"
    )
    for item in find(model.wrap(converted)):
        assert (item.form.codebook_type, item.form.scale_type) == (FLOAT16, FLOAT16)
    assert_three_agree(converted)


def test_equal_tensors_share_scales_too(tmp_path: Path) -> None:
    report, converted = convert(graphs.equal_tensors(), scaled, tmp_path, bits=4)
    assert [row.same_as for row in report.tensors] == [None, "first", "first"]
    assert [row.scale_axis for row in report.tensors] == [0, None, None]
    assert [item.shape for item in find(model.wrap(converted))] == [(64, 64), (64, 64), (32, 128)]
    _, plain = onnxq.restore(converted)
    feeds = graphs.feeds(plain)
    runs.assert_same(runs.run(converted, feeds), runs.run(plain, feeds))


@pytest.mark.parametrize("case", HOLDING, ids=lambda case: case.name)
def test_scales_stand_wherever_weights_stand(case: graphs.Case, tmp_path: Path) -> None:
    proto = case.build()
    report, converted = convert(proto, scaled, tmp_path, bits=4)
    found = find(model.wrap(converted))
    assert sorted(item.name for item in found) == sorted(row.name for row in report.tensors)
    _, plain = onnxq.restore(converted)
    assert find(model.wrap(plain)) == []
    feeds = graphs.feeds(plain)
    runs.assert_same(runs.run(converted, feeds), runs.run(plain, feeds))


def test_scaled_model_is_refused_as_converted_and_requantized(tmp_path: Path) -> None:
    _, converted = convert(collection(tensors()), scaled, tmp_path, bits=4)
    with pytest.raises(UnsupportedError):
        onnxq.convert(converted, check=0)
    _, again = onnxq.convert(converted, bits=4, requantize=True, check=0, only_smaller=False)
    assert all(item.form.scale_axis is None for item in find(model.wrap(again)))


def test_jobs_do_not_change_the_bytes_of_scaled_tensors(tmp_path: Path) -> None:
    proto = collection(tensors())
    path = tmp_path / "plan.json"
    path.write_text(planned_with(proto, scaled, bits=5).dumps())
    one, four = (onnxq.convert(proto, plan=path, check=0, jobs=jobs)[1] for jobs in (1, 4))
    assert one.SerializeToString() == four.SerializeToString()


def test_own_product_behind_a_tensor_is_no_part_of_it() -> None:
    arrays = {"w": graphs.normal((20, 31), 3), "s": graphs.normal((20, 1), 4)}
    body = graphs.graph(
        [graphs.node("Mul", "w,s", "p", name="mul"), graphs.node("Neg", "p", "y")],
        [], [graphs.value("y", 20, 31)], graphs.tensors(**arrays),
    )  # fmt: skip
    _, converted = onnxq.convert(
        graphs.model(body), bits=4, exclude="s", only_smaller=False, check=0
    )
    (found,) = find(model.wrap(converted))
    assert (found.name, found.form.scale_axis) == ("w", None)


def test_product_that_lost_its_name_leaves_what_it_scales(tmp_path: Path) -> None:
    """The indices are still found, as a tensor of their own, and the model computes the same."""
    arrays = {"w": tensors()["matrix"]}
    _, converted = convert(collection(arrays), scaled, tmp_path, bits=4)
    before = runs.run(converted, {})
    (product,) = [node for node in converted.graph.node if node.op_type == "Mul"]
    assert product.name.startswith(ALIAS_NAME)
    product.name = "other"
    (found,) = find(model.wrap(converted))
    assert (found.name, found.form.scale_axis) == (product.input[0], None)
    _, plain = onnxq.restore(converted)
    runs.assert_same(runs.run(plain, {}), before)


# Bases that are no powers of two


def in_radix(tensor: TensorPlan) -> dict[str, Any]:
    """Return the changes that store a tensor in the radix of its width."""
    base = RADIXES[tensor.bit_width].base
    return {"layout": "radix", "centroids": min(base, tensor.centroids)}


def in_radix_with_scales(tensor: TensorPlan) -> dict[str, Any]:
    return in_radix(tensor) | {"scale_axis": 0, "scale_dtype": "float16"}


@pytest.mark.parametrize("bits", RADIXES)
@pytest.mark.parametrize("change", [in_radix, in_radix_with_scales], ids=["plain", "scaled"])
def test_radix_tensors_are_decoded_alike(bits: int, change: Change, tmp_path: Path) -> None:
    proto = collection({**tensors(), "row": graphs.normal((3, 5), 9)})
    report, converted = convert(proto, change, tmp_path, bits=bits)
    assert {(row.layout, row.bit_width) for row in report.tensors} == {("radix", bits)}
    radix = RADIXES[bits]
    for row in report.tensors:
        assert row.index_bytes == -(-row.elements // radix.group) * radix.word_bytes
        assert row.centroids <= radix.base
    found = find(model.wrap(converted))
    assert {(item.form.layout, item.form.bit_width) for item in found} == {("radix", bits)}
    assert_three_agree(converted)
    assert folded(converted, tmp_path) == []


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_radix_of_other_types_is_decoded_alike(dtype: str, tmp_path: Path) -> None:
    _, converted = convert(collection(tensors(np.dtype(dtype))), in_radix, tmp_path, bits=4)
    assert {item.form.layout for item in find(model.wrap(converted))} == {"radix"}
    assert_three_agree(converted)


def test_radix_word_that_stands_for_no_group_is_refused(tmp_path: Path) -> None:
    arrays = {"w": graphs.normal((4, 10), 3)}
    _, converted = convert(collection(arrays), in_radix, tmp_path, bits=2)
    for tensor in converted.graph.initializer:
        if tensor.data_type == TensorProto.UINT8:
            tensor.raw_data = b"\xf3" + tensor.raw_data[1:]
    with pytest.raises(InputError, match="words: found 243, expected less than 243"):
        onnxq.restore(converted)


def test_radix_needs_opset_11(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layout radix has no form for 2 bits"):
        convert(collection(tensors(), 10), in_radix, tmp_path, bits=2)


# Values as float16


def as_half(tensor: TensorPlan) -> dict[str, Any]:
    """Return the changes that store a tensor's values as float16, if its type is wider."""
    if tensor.dtype not in ("float32", "float64"):
        return {}
    return {
        "layout": "half", "bit_width": 16, "centroids": 0, "codebook_dtype": "float16",
        "is_pooled": False,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("opset", [7, 17, 21])
def test_values_as_float16_are_decoded_alike(dtype: Any, opset: int, tmp_path: Path) -> None:
    arrays = tensors(dtype)
    report, converted = convert(collection(arrays, opset), as_half, tmp_path, bits=8)
    ours = assert_three_agree(converted)
    assert folded(converted, tmp_path) == []
    for row in report.tensors:
        expected = arrays[row.name].astype(np.float16).astype(dtype)
        np.testing.assert_array_equal(ours[f"{row.name}_out"], expected)
        error = np.sum((arrays[row.name].astype(np.float64) - expected) ** 2)
        assert row.distortion == pytest.approx(float(error), rel=1e-12)
        assert (row.layout, row.scheme, row.is_lossless) == ("half", "float16", False)
        assert (row.bit_width, row.centroids, row.codebook_bytes) == (16, 0, 0)
        assert row.index_bytes == 2 * row.elements
    found = onnxq.inspect(converted).tensors
    assert [(row.layout, row.centroids, row.index_bytes) for row in found] == [
        ("half", 0, row.index_bytes) for row in report.tensors
    ]


def test_values_that_float16_holds_are_lossless(tmp_path: Path) -> None:
    arrays = {"w": np.array([[0.5, -2.0, np.inf, -0.0], [65504, 2**-24, -np.inf, 0]], np.float32)}
    report, converted = convert(collection(arrays), as_half, tmp_path, bits=8)
    (row,) = report.tensors
    assert (row.scheme, row.is_lossless, row.snr_db, row.distortion) == ("float16", True, None, 0)
    assert assert_three_agree(converted)["w_out"].tobytes() == arrays["w"].tobytes()


def test_values_beyond_float16_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    arrays = {"w": np.array([[1.0, 65520.0]], np.float32)}
    path = tmp_path / "plan.json"
    path.write_text(planned_with(collection(arrays), as_half, bits=8).dumps())
    with pytest.raises(InputError, match="tensor 'w': holds values beyond the range of float16"):
        onnxq.convert(collection(arrays), tmp_path / "out.onnx", plan=path)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("case", HOLDING, ids=lambda case: case.name)
def test_halves_stand_wherever_weights_stand(case: graphs.Case, tmp_path: Path) -> None:
    report, converted = convert(case.build(), as_half, tmp_path, bits=4)
    found = find(model.wrap(converted))
    assert sorted(item.name for item in found) == sorted(row.name for row in report.tensors)
    _, plain = onnxq.restore(converted)
    assert find(model.wrap(plain)) == []
    feeds = graphs.feeds(plain)
    runs.assert_same(runs.run(converted, feeds), runs.run(plain, feeds))


def test_own_cast_of_float16_is_no_encoded_tensor() -> None:
    held = graphs.tensors(w=graphs.normal((4, 5), 1).astype(np.float16))
    body = graphs.graph(
        [graphs.node("Cast", "w", "wide", to=1, name="cast"), graphs.node("Neg", "wide", "y")],
        [], [graphs.value("y", 4, 5)], held,
    )  # fmt: skip
    assert find(model.wrap(graphs.model(body))) == []
    body.node[0].name = ALIAS_NAME + "q0"
    (found,) = find(model.wrap(graphs.model(body)))
    assert (found.form.layout, found.name, found.shape) == ("half", "wide", (4, 5))


def test_half_choice_stands_alone_beside_a_pool() -> None:
    proto = collection({f"b{i}": graphs.normal((8, 9), i) for i in range(12)})
    document = model.wrap(proto)
    options = make_options({"bits": 4})
    weights = model.weights(document)
    found = gather_facts(document, weights, options, 1)
    choices = [
        choice_of(document, weight, facts, half_form(weight))
        for weight, facts in zip(weights, found, strict=True)
    ]
    plans = [tensor_plan(choice, options) for choice in settle(document, choices, options)]
    assert len(plans) == 12
    assert {(plan.layout, plan.is_pooled) for plan in plans} == {("half", False)}


# What a planner hands in


def test_choices_keep_their_scales_and_are_pooled_where_that_is_smaller() -> None:
    proto = collection({f"b{i}": graphs.normal((8, 9), i) for i in range(12)})
    document = model.wrap(proto)
    options = make_options({"bits": 4})
    weights = model.weights(document)
    choices = []
    for weight, facts in zip(
        weights, gather_facts(document, weights, options, workers(options)), strict=True
    ):
        form = Form(
            layout="portable", bit_width=3, data_type=weight.data_type,
            codebook_type=weight.data_type, shape=weight.shape, centroids=8,
            opset=weight.scope.opset, scale_axis=0, scale_type=FLOAT16,
        )  # fmt: skip
        choices.append(replace(choice_of(document, weight, facts, form), is_weighted=True))
    settled = settle(document, choices, options)
    assert len(settled) == 12
    plans = [tensor_plan(choice, options) for choice in settled]
    assert {plan.is_pooled for plan in plans} == {True}
    assert {(plan.bit_width, plan.scale_axis, plan.scale_dtype) for plan in plans} == {
        (3, 0, "float16")
    }
    assert all(plan.is_weighted and not plan.has_feedback for plan in plans)
