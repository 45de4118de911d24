"""Conversions to a quality: what is kept on which data, what is refused, halves of data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxq
from onnxq.errors import BudgetError, InputError, OptionError, UnsupportedError
from onnxq.plans import Plan
from tests import graphs as g
from tests.runs import run
from tests.tiny_models import from_text

SAMPLES, CLASSES = 240, 4


@pytest.fixture(scope="module")
def net() -> ModelProto:
    """Return a classifier of four directions in 16 dimensions, its first layer ten times wider."""
    rng = np.random.default_rng(5)
    first = rng.normal(size=(16, 160)).astype(np.float32)
    second = rng.normal(size=(160, CLASSES)).astype(np.float32) / 40
    nodes = [
        g.node("MatMul", "x,a", "h"),
        g.node("Relu", "h", "r"),
        g.node("MatMul", "r,b", "s"),
        g.node("Softmax", "s", "y", axis=-1),
    ]
    ends = [g.value("x", "n", 16)], [g.value("y", "n", CLASSES)]
    return g.model(g.graph(nodes, *ends, g.tensors(a=first, b=second)))


@pytest.fixture(scope="module")
def labelled(net: ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return inputs with the classes that the model itself gives, one in ten changed."""
    rng = np.random.default_rng(6)
    values = rng.normal(size=(SAMPLES, 16)).astype(np.float32)
    label = outputs(net, values).argmax(1)
    label[::10] = (label[::10] + 1) % CLASSES
    path = tmp_path_factory.mktemp("data") / "labelled.npz"
    np.savez(path, x=values, label=label)
    return path


@pytest.fixture(scope="module")
def inputs(labelled: Path) -> Path:
    """Return the same inputs without labels."""
    path = labelled.with_name("inputs.npz")
    np.savez(path, x=np.load(labelled)["x"][:64])
    return path


def outputs(model: ModelProto, values: Any) -> Any:
    return run(model, {"x": values})["y"]


def converted(model: ModelProto, **options: Any) -> tuple[Any, ModelProto]:
    report, proto = onnxq.convert(model, **{"check": 0, "refine_runs": 0, **options})
    assert report.output.file_bytes == report.predicted_bytes < report.input.file_bytes
    return report, proto


def snr(model: ModelProto, proto: ModelProto, data: Path | None, **options: Any) -> float:
    report = onnxq.validate(model, proto, data=data, performance=False, **options)
    assert report.check.worst_snr_db is not None
    return report.check.worst_snr_db


@pytest.mark.parametrize("decibels", [15, 40.0])
def test_the_worst_output_has_the_ratio_on_the_calibration_data(
    net: ModelProto, inputs: Path, decibels: float
) -> None:
    report, proto = converted(net, target_snr=decibels, calibration=inputs)
    found = snr(net, proto, inputs)
    assert found >= decibels - 1e-3
    assert f"{found:.1f}"[:-1] in report.notes[0]
    assert "64 samples" in report.notes[0]


def test_without_data_the_ratio_is_that_of_random_inputs(net: ModelProto) -> None:
    report, proto = converted(net, target_snr=25, samples=7)
    assert snr(net, proto, None, samples=7) >= 25 - 1e-3
    assert "random inputs, 7 samples" in report.notes[0]


def test_a_higher_ratio_takes_more_bytes(net: ModelProto, inputs: Path) -> None:
    sizes = [
        converted(net, target_snr=ratio, calibration=inputs)[0].output.file_bytes
        for ratio in (15, 25, 40)
    ]
    assert sizes == sorted(set(sizes))


def test_a_step_below_the_file_found_is_not_enough(net: ModelProto, inputs: Path) -> None:
    size = converted(net, target_snr=25, calibration=inputs)[0].output.file_bytes
    _, smaller = converted(net, target_size=round(0.9 * size), calibration=inputs)
    assert snr(net, smaller, inputs) < 25


def test_a_ratio_that_only_the_model_itself_has_is_refused_with_the_best(
    net: ModelProto, inputs: Path
) -> None:
    with pytest.raises(BudgetError, match=r"--target-snr 250\.0: .* the best has \d+") as caught:
        converted(net, target_snr=250, calibration=inputs)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("target", [{"target_snr": 20}, {"auto": True}])
def test_the_same_call_gives_the_same_bytes_in_any_number_of_threads(
    net: ModelProto, inputs: Path, target: dict[str, Any]
) -> None:
    first, second = (
        converted(net, calibration=inputs, jobs=jobs, **target)[1].SerializeToString()
        for jobs in (1, 3)
    )
    assert first == second


def test_labels_are_of_no_matter_to_a_ratio(
    net: ModelProto, labelled: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.npz"
    np.savez(plain, x=np.load(labelled)["x"])
    first, second = (
        converted(net, target_snr=20, calibration=path)[1].SerializeToString()
        for path in (labelled, plain)
    )
    assert first == second


def accuracy(model: ModelProto, data: Path) -> float:
    held = np.load(data)
    return float((outputs(model, held["x"]).argmax(1) == held["label"]).mean())


@pytest.mark.parametrize(("limit", "most"), [("1%", 0.01 * 0.9), (0.05, 0.05)])
def test_a_metric_drops_by_the_limit_at_most_on_both_halves(
    net: ModelProto, labelled: Path, limit: float | str, most: float
) -> None:
    report, proto = converted(net, max_drop={"top1": limit}, data=labelled)
    assert accuracy(proto, labelled) >= accuracy(net, labelled) - most
    assert "planning half, 120 samples" in report.notes[0]
    assert "validation half, 120 samples" in report.notes[1]
    assert all("top1@y" in note or "'top1" in note for note in report.notes[:2])


def test_a_larger_drop_gives_a_smaller_file(net: ModelProto, labelled: Path) -> None:
    strict, loose = (
        converted(net, max_drop={"top1": limit}, data=labelled)[0].output.file_bytes
        for limit in (0.0, 0.2)
    )
    assert loose < strict


def test_a_saved_plan_is_followed_with_the_same_data(
    net: ModelProto, labelled: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "plan.json"
    _, first = converted(net, max_drop={"top1": "2%"}, data=labelled, save_plan=saved)
    followed = onnxq.convert(net, plan=saved, data=labelled, check=0)[1]
    assert followed.SerializeToString() == first.SerializeToString()
    assert Plan.from_json(json.loads(saved.read_text()), "plan").data is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": {"top1": 0.01}}, "--data"),
        ({"max_drop": {"snr": 0.01}, "data": "labelled"}, "infinite"),
        ({"max_drop": {"mse": 0.01}, "data": "labelled"}, "target"),
        ({"target_snr": 20, "data": "labelled"}, "--calibration"),
        ({"target_snr": 20, "auto": True}, "exclude each other"),
        ({"auto": 1}, "True or False"),
    ],
)
def test_what_a_target_cannot_go_by_is_refused(
    net: ModelProto, labelled: Path, options: dict[str, Any], message: str
) -> None:
    if "data" in options:
        options = {**options, "data": labelled}
    with pytest.raises(OptionError, match=message):
        converted(net, **options)


def test_one_sample_cannot_be_split(net: ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    np.savez(path, x=np.zeros((1, 16), np.float32), label=np.zeros(1, np.int64))
    with pytest.raises(InputError, match="fewer than two samples"):
        converted(net, max_drop={"top1": 0.1}, data=path)


@pytest.mark.parametrize("way", ["calibration", "data"])
def test_auto_of_a_classifier_is_a_ratio_of_thirty_decibels(
    net: ModelProto, labelled: Path, way: str
) -> None:
    report, proto = converted(net, auto=True, **{way: labelled})
    assert snr(net, proto, labelled) >= 30 - 1e-3
    assert report.notes[0].startswith("--auto: ")
    assert f"data labelled.npz, {SAMPLES} samples" in report.notes[0]


def test_auto_without_data_is_a_ratio_on_random_inputs() -> None:
    proto = g.matmul_add()
    _, found = converted(proto, auto=True)
    assert snr(proto, found, None, samples=64) >= 30 - 1e-3


def test_a_model_that_no_random_input_fits_needs_data() -> None:
    text = (
        "g (float[N, 5] x) => (float[7] y) <int64[1] s = {7}> "
        "{ w = ConstantOfShape<value = float[1] {2}>(s) r = Reshape(x, s) y = Mul(r, w) }"
    )
    with pytest.raises(UnsupportedError, match="give --calibration"):
        onnxq.convert(onnx.load_from_string(from_text(text)), auto=True)


def test_onnx_checks_what_is_made(net: ModelProto, inputs: Path) -> None:
    onnx.checker.check_model(converted(net, auto=True, calibration=inputs)[1])
