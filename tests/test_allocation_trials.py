"""Values as they would be decoded, and joint errors: against conversions really carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxq import model
from onnxq.allocation.candidates import Unit, make_units
from onnxq.allocation.probing import Probe
from onnxq.allocation.trials import Decoder, Methods, Trials
from onnxq.calibration.calibrated import Calibration
from onnxq.calibration.maps import linear_maps
from onnxq.calibration.moments import collect
from onnxq.data.drawn_data import GivenData
from onnxq.options import ConvertOptions
from tests import graphs as g
from tests.runs import run

Array = np.ndarray[Any, np.dtype[Any]]


def trials_of(proto: ModelProto, folder: Path, jobs: int = 1) -> tuple[list[Unit], Decoder, Trials]:
    document, again = model.wrap(proto), model.wrap(proto)
    weights = model.weights(document)
    units, _ = make_units(document, weights, ConvertOptions(jobs=1), 1)
    keys = {(w.graph, w.name) for unit in units for w in unit.weights}
    exchanged = [w for w in model.weights(again) if (w.graph, w.name) in keys]
    folder.mkdir(exist_ok=True)
    probe = Probe(again, exchanged, folder)
    probe.record(GivenData([g.feeds(proto)]), {}, 1)
    decoder = Decoder(document=document, calibration=None, methods=Methods())
    return units, decoder, Trials(units, decoder, probe, jobs)


def changed(proto: ModelProto, units: list[Unit], decoder: Decoder, picks: list[int]) -> ModelProto:
    copied = ModelProto()
    copied.CopyFrom(proto)
    held = {item.name: item for item in copied.graph.initializer}
    for unit, pick in zip(units, picks, strict=True):
        values = decoder.decoded(unit, pick)
        for weight in unit.weights:
            made = onnx.numpy_helper.from_array(values.reshape(weight.shape), weight.name)
            held[weight.name].CopyFrom(made)
    return copied


def error(before: dict[str, Array], after: dict[str, Array]) -> float:
    return sum(
        float(np.square(after[name].astype(np.float64) - values).sum())
        / float(np.square(values.astype(np.float64)).sum())
        for name, values in before.items()
    )


@pytest.mark.parametrize("name", ["gemm", "equal_tensors", "conv_bn_relu", "ir3", "lstm"])
def test_errors_are_those_of_the_model_with_decoded_values(name: str, tmp_path: Path) -> None:
    proto = g.BY_NAME[name].build()
    units, decoder, trials = trials_of(proto, tmp_path)
    floats = [len(unit.candidates) - 1 for unit in units]
    before = run(proto, g.feeds(proto))
    for number in range(len(units)):
        picks = [*floats[:number], 2, *floats[number + 1 :]]
        real = error(before, run(changed(proto, units, decoder, picks), g.feeds(proto)))
        assert trials.alone([(number, 2)]) == [pytest.approx(real, rel=1e-3, abs=1e-12)]
    everything = [1] * len(units)
    real = error(before, run(changed(proto, units, decoder, everything), g.feeds(proto)))
    assert trials.joint(tuple(everything)) == pytest.approx(real, rel=1e-3)


def test_a_joint_error_depends_on_the_picks_alone_not_on_those_before(tmp_path: Path) -> None:
    units, _, trials = trials_of(g.attention(), tmp_path / "one")
    floats = tuple(len(unit.candidates) - 1 for unit in units)
    coarse = tuple(0 for _ in units)
    middle = tuple(min(3, last) for last in floats)
    asked = [coarse, middle, floats, (1, *floats[1:])]
    first = [trials.joint(picks) for picks in asked]
    assert first[2] == 0
    assert first[0] > first[1] > 0
    assert first[0] > first[3] > 0
    assert [trials.joint(picks) for picks in reversed(asked)] == first[::-1]
    _, _, fresh = trials_of(g.attention(), tmp_path / "two", jobs=3)
    assert [fresh.joint(picks) for picks in asked] == first


def test_single_errors_are_the_same_with_any_number_of_threads_and_in_any_order(
    tmp_path: Path,
) -> None:
    units, _, one = trials_of(g.attention(), tmp_path / "one")
    _, _, four = trials_of(g.attention(), tmp_path / "four", jobs=4)
    wanted = [(number, pick) for number in range(4) for pick in (0, 2, 5)]
    told: list[str] = []
    found = one.alone(wanted, told.append)
    assert four.alone(wanted) == found
    assert four.alone(wanted[::-1]) == found[::-1]
    assert told == [units[number].lead.name for number, _ in wanted]


def test_tensors_of_functions_cannot_be_tried_and_do_not_count_in_joint_errors(
    tmp_path: Path,
) -> None:
    units, _, trials = trials_of(g.functions(), tmp_path)
    able = [trials.can_try(number) for number in range(len(units))]
    assert able == [not unit.lead.scope.root.is_function for unit in units]
    assert any(able)
    assert not all(able)
    picks = [len(unit.candidates) - 1 if can else 0 for unit, can in zip(units, able, strict=True)]
    assert trials.joint(tuple(picks)) == 0


def calibrated(proto: ModelProto, folder: Path) -> Calibration:
    document = model.wrap(proto)
    maps = linear_maps(document, model.weights(document))
    data = GivenData([g.feeds(proto, seed) for seed in range(40)])
    return Calibration(maps=maps, moments=collect(document, maps, data, folder))


def test_methods_apply_where_inputs_are_known_and_values_are_finite(tmp_path: Path) -> None:
    proto = g.gemm()
    infinite = g.normal((64, 64), 5)
    infinite[0, 0] = np.inf
    proto.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(
            np.resize(infinite, tuple(proto.graph.initializer[0].dims)),
            proto.graph.initializer[0].name,
        )
    )
    name = proto.graph.initializer[0].name
    known = calibrated(g.gemm(), tmp_path)
    document = model.wrap(proto)
    units, _ = make_units(document, model.weights(document), ConvertOptions(jobs=1), 1)
    both = Methods(is_weighted=True, has_feedback=True)
    decoder = Decoder(document=document, calibration=known, methods=both)
    for unit in units:
        form = unit.candidates[3].form
        assert form is not None
        fitting = decoder.fitting(unit, form)
        assert fitting.is_weighted == known.has_moments(unit.key)
        expected = known.has_pairs(unit.key) and unit.lead.name != name
        assert fitting.has_feedback == expected
        plain = Decoder(document=document, calibration=None, methods=both).fitting(unit, form)
        assert not plain.is_weighted
        assert not plain.has_feedback
    assert any(known.has_pairs(unit.key) for unit in units)


def test_equal_tensors_which_meet_different_inputs_are_fitted_by_their_values_alone(
    tmp_path: Path,
) -> None:
    proto = g.equal_tensors()
    known = calibrated(proto, tmp_path)
    document = model.wrap(proto)
    units, _ = make_units(document, model.weights(document), ConvertOptions(jobs=1), 1)
    decoder = Decoder(document=document, calibration=known, methods=Methods(has_feedback=True))
    shared = [unit for unit in units if len(unit.weights) > 1]
    assert shared
    for unit in shared:
        form = unit.candidates[3].form
        assert form is not None
        assert not decoder.fitting(unit, form).has_feedback
