"""Biases that take mean errors: which, how far, and that nothing else is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxq
from onnxq import model
from onnxq.calibration.calibrated import Calibration, Fitting
from onnxq.calibration.corrections import corrected_values, planned_corrections, put
from onnxq.calibration.fitters import fitter_of
from onnxq.calibration.maps import linear_maps
from onnxq.calibration.moments import collect
from onnxq.clustering.codebook import decode
from onnxq.clustering.feedback import output_error
from onnxq.data.drawn_data import GivenData
from onnxq.errors import InputError
from onnxq.plans import Plan
from tests import graphs as g
from tests.runs import run

Array = np.ndarray[Any, np.dtype[Any]]
KEY = ("main", "w")


def layer(kind: str = "initializer") -> ModelProto:
    """Return y = x w + b."""
    arrays = {"w": g.normal((48, 40), 1), "b": g.normal((40,), 2)}
    nodes = [g.node("Gemm", "x,w,b", "y")]
    if kind == "constant":
        nodes = [g.node("Constant", "", "b", value=g.tensor("b", arrays.pop("b"))), *nodes]
    ends = ([g.value("x", "n", 48)], [g.value("y", "n", 40)])
    return g.model(g.graph(nodes, *ends, g.tensors(**arrays)))


def inputs() -> Array:
    found: Array = (g.normal((200, 48), 3) * 5 + g.normal((48,), 4) * 9).astype(np.float32)
    return found


def known(proto: ModelProto, folder: Path) -> Calibration:
    document = model.wrap(proto)
    maps = linear_maps(document, model.weights(document))
    moments = collect(document, maps, GivenData([{"x": inputs()}]), folder)
    return Calibration(maps=maps, moments=moments)


def plan_of(proto: ModelProto) -> Plan:
    return onnxq.plan(proto, bits=2, exclude="b")


@pytest.mark.parametrize("kind", ["initializer", "constant"])
def test_a_corrected_bias_takes_the_whole_mean_error_of_the_outputs(
    kind: str, tmp_path: Path
) -> None:
    proto = layer(kind)
    data = tmp_path / "x.npz"
    np.savez(data, x=inputs())
    means = {}
    for corrects in (False, True):
        made = onnxq.convert(
            proto, bits=2, exclude="b", calibration=data, corrects_bias=corrects,
            has_feedback=False, samples=200, check=0,
        )[1]  # fmt: skip
        missed = run(made, {"x": inputs()})["y"] - run(proto, {"x": inputs()})["y"]
        means[corrects] = float(np.abs(missed.mean(axis=0)).max())
    assert 1000 * means[True] < means[False]


def test_the_plan_names_the_bias_and_its_weight_and_no_other(tmp_path: Path) -> None:
    proto = layer()
    document = model.wrap(proto)
    found = planned_corrections(document, plan_of(proto), known(proto, tmp_path))
    assert [(item.name, item.graph, item.weight) for item in found] == [("b", "main", KEY)]


def test_without_data_a_layer_of_unknown_inputs_has_no_correction() -> None:
    proto = layer()
    assert planned_corrections(model.wrap(proto), plan_of(proto), None) == ()


def test_a_bias_that_two_layers_share_takes_no_correction(tmp_path: Path) -> None:
    proto = layer()
    proto.graph.node.append(g.node("Gemm", "x,v,b", "z"))
    proto.graph.initializer.append(g.tensor("v", g.normal((48, 40), 6)))
    proto.graph.output.append(g.value("z", "n", 40))
    found = planned_corrections(model.wrap(proto), plan_of(proto), known(proto, tmp_path))
    assert found == ()


def test_a_correction_whose_layer_is_not_known_is_refused(tmp_path: Path) -> None:
    proto = layer()
    document, calibration = model.wrap(proto), known(proto, tmp_path)
    plan = plan_of(proto)
    plan = replace(plan, corrections=planned_corrections(document, plan, calibration))
    with pytest.raises(InputError, match="whose inputs are not known"):
        corrected_values(document, plan, {}, None, fitter_of(None))


def test_only_the_bias_of_the_document_is_changed_and_not_the_message_it_is_a_copy_of(
    tmp_path: Path,
) -> None:
    proto = layer()
    proto.graph.initializer[1].doc_string = "of the layer"
    before = proto.SerializeToString(deterministic=True)
    document, calibration = model.wrap(proto), known(proto, tmp_path)
    plan = plan_of(proto)
    plan = replace(plan, corrections=planned_corrections(document, plan, calibration))
    found = corrected_values(document, plan, {}, calibration, fitter_of(calibration))
    put(document, found)
    assert proto.SerializeToString(deterministic=True) == before
    weight, bias = document.proto.graph.initializer
    assert weight == proto.graph.initializer[0]
    assert (bias.name, bias.doc_string) == ("b", "of the layer")
    values = onnx.numpy_helper.to_array(bias)
    assert np.array_equal(values, found["main", "b"])
    assert not np.array_equal(values, onnx.numpy_helper.to_array(proto.graph.initializer[1]))


def test_a_layer_without_a_bias_is_left_as_it_is(tmp_path: Path) -> None:
    proto = layer()
    del proto.graph.node[0].input[2]
    del proto.graph.initializer[1]
    made = onnxq.plan(proto, bits=2)
    assert planned_corrections(model.wrap(proto), made, known(proto, tmp_path)) == ()


def clustered(calibration: Calibration, **how: bool) -> tuple[float, float]:
    """Return the squared error of the values, and that of the layer's outputs."""
    values = g.normal((48, 40), 1)
    fitting = Fitting(
        centroids=8,
        is_weighted=how.get("is_weighted", False),
        has_feedback=how.get("has_feedback", False),
        is_half=how.get("is_half", False),
    )
    found = calibration.clustering(KEY, values, fitting)
    assert found.indices.shape == values.shape or found.indices.size == values.size
    if fitting.is_half:
        assert np.array_equal(found.centroids.astype(np.float16), found.centroids)
    decoded = decode(found.indices, found.centroids).reshape(values.shape)
    one, second = calibration.maps[KEY], calibration.moments[KEY].load().second
    real = float(np.square(decoded.astype(np.float64) - values).sum())
    return real, output_error(one.rows(values), one.rows(decoded), np.asarray(second))


@pytest.mark.parametrize("is_half", [False, True])
def test_codebooks_that_know_the_inputs_lose_more_of_the_values_and_less_of_the_outputs(
    is_half: bool, tmp_path: Path
) -> None:
    calibration = known(layer(), tmp_path)
    assert calibration.has_pairs(KEY)
    plain = clustered(calibration, is_half=is_half)
    for how in ({"is_weighted": True}, {"has_feedback": True}):
        found = clustered(calibration, is_half=is_half, **how)
        assert found[0] > plain[0]
        assert found[1] < plain[1]
    assert clustered(calibration, has_feedback=True)[1] < 0.5 * plain[1]


def test_a_fitter_refuses_a_tensor_whose_inputs_it_does_not_know(tmp_path: Path) -> None:
    calibration = known(layer(), tmp_path)
    planned = replace(plan_of(layer()).tensors[0], has_feedback=True)
    values = g.normal((48, 40), 1)
    assert fitter_of(calibration)(values, planned, 1).centroids.size == 4
    unknown = replace(planned, name="another")
    with pytest.raises(InputError, match="'another': the plan goes by its inputs"):
        fitter_of(calibration)(values, unknown, 1)
    with pytest.raises(InputError, match="planned with calibration data"):
        fitter_of(None)(values, planned, 1)


def test_a_fitter_gives_the_same_codebook_with_any_number_of_threads(tmp_path: Path) -> None:
    calibration = known(layer(), tmp_path)
    planned = replace(plan_of(layer()).tensors[0], has_feedback=True, is_weighted=True)
    values = g.normal((48, 40), 1)
    one, three = (fitter_of(calibration)(values, planned, jobs) for jobs in (1, 3))
    assert one.centroids.tobytes() == three.centroids.tobytes()
    assert np.array_equal(one.indices, three.indices)
