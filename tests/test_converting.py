"""Conversions to a target and with calibration data: sizes, saved plans, data, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.errors import BudgetError, InputError, OptionError, UnsupportedError
from onnxq.plans import Plan
from tests import graphs as g
from tests.runs import run

MODELS = Path(__file__).parent.parent / "models"
DIGITS = MODELS / "digits.onnx"
DCASE = MODELS / "dcase.onnx"


def converted(source: Any, **options: Any) -> tuple[Any, bytes]:
    report, proto = onnxq.convert(source, **{"check": 0, **options})
    assert report.output.file_bytes == len(proto.SerializeToString())
    assert report.predicted_bytes == report.output.file_bytes
    return report, proto.SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return calibration data of the digits."""
    found = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(found, image=np.load(MODELS / "digits_test.npz")["image"][:48])
    return found


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small classifier of the same inputs and outputs as the digits'."""
    held = g.tensors(
        w1=2 * g.normal((16, 1, 3, 3), 1),
        w2=g.normal((32, 16, 3, 3), 2),
        b2=g.normal((32,), 3),
        w3=g.normal((32, 10), 4),
        b3=g.normal((10,), 5),
        scale=g.positive(g.normal((16,), 6)),
        shift=g.normal((16,), 7),
        mean=g.normal((16,), 8),
        var=g.positive(g.normal((16,), 9)),
    )
    nodes = [
        g.node("Conv", "image,w1", "c1", pads=[1, 1, 1, 1]),
        g.node("BatchNormalization", "c1,scale,shift,mean,var", "n1"),
        g.node("Relu", "n1", "r1"),
        g.node("Conv", "r1,w2,b2", "c2"),
        g.node("Relu", "c2", "r2"),
        g.node("GlobalAveragePool", "r2", "p"),
        g.node("Flatten", "p", "f"),
        g.node("Gemm", "f,w3,b3", "z"),
        g.node("Softmax", "z", "probabilities"),
    ]
    ends = ([g.value("image", "n", 1, 8, 8)], [g.value("probabilities", "n", 10)])
    found = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(g.model(g.graph(nodes, *ends, held)), found)
    return found


@pytest.mark.parametrize("ratio", [0.1, 0.137, 0.2, 0.4])
def test_a_file_of_a_target_ratio_is_no_larger_and_half_a_percent_smaller_at_most(
    ratio: float,
) -> None:
    report, data = converted(DIGITS, target_ratio=ratio)
    size = DIGITS.stat().st_size
    assert 0.995 * ratio * size <= len(data) <= ratio * size
    assert "--target-ratio" in report.notes[0]


def test_each_way_to_ask_for_a_size_is_kept() -> None:
    size = DIGITS.stat().st_size
    for target in ({"target_size": 50_000}, {"target_size": "50kB"}):
        assert 49_750 <= len(converted(DIGITS, **target)[1]) <= 50_000
    report, data = converted(DIGITS, target_bpw=3.5)
    weights = sum(w.elements for w in onnxq.inspect(DIGITS).tensors)
    assert len(data) <= size - 4 * weights + 3.5 * weights / 8 + 1000
    assert "3.5" in report.notes[0]


def test_more_bytes_are_never_worse_and_the_model_still_runs(images: Path) -> None:
    feeds = {"image": np.load(images)["image"][:16]}
    expected = run(onnx.load(DIGITS), feeds)["probabilities"]
    errors = []
    for size in (20_000, 40_000, 90_000):
        _, data = converted(DIGITS, target_size=size)
        found = run(onnx.load_from_string(data), feeds)["probabilities"]
        errors.append(float(np.square(found - expected).sum()))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", [case.name for case in g.CASES if "opset" not in case.name])
def test_every_construct_is_converted_to_a_size_or_the_least_is_said(name: str) -> None:
    proto = g.BY_NAME[name].build()
    before = proto.SerializeToString(deterministic=True)
    target = proto.ByteSize() // 2
    try:
        _, data = converted(proto, target_size=target, check=None)
    except BudgetError as err:
        least = int(str(err).split("the least is ")[1].split()[0])
        assert least > target
        if least < proto.ByteSize():
            assert len(converted(proto, target_size=least)[1]) <= least
    else:
        assert len(data) <= target
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "name", ["branches", "constants", "ir3", "functions", "equal_tensors", "nan_and_infinity",
             "bfloat16", "nested_branches", "loop", "weight_aliases", "repeated_constants"],
)  # fmt: skip
def test_losses_measured_on_random_inputs_serve_every_construct(name: str) -> None:
    proto = g.BY_NAME[name].build()
    target = int(proto.ByteSize() * 0.6)
    options: dict[str, Any] = {"sensitivity": "outputs", "samples": 2, "refine_runs": 3}
    report, data = converted(proto, target_size=target, check=None, **options)
    assert len(data) <= target
    assert report.check.status == "ok"


def test_the_plan_is_the_same_with_any_number_of_threads(net: Path, images: Path) -> None:
    options: dict[str, Any] = {"target_ratio": 0.12, "samples": 16, "refine_runs": 6}
    plans = [
        onnxq.plan(net, calibration=images, jobs=jobs, **options).dumps() for jobs in (1, 2, 3)
    ]
    assert plans[0] == plans[1] == plans[2]
    assert onnxq.plan(net, target_ratio=0.12, jobs=1) == onnxq.plan(net, target_ratio=0.12, jobs=2)


@pytest.mark.parametrize(
    "methods",
    [
        {},
        {"is_weighted": True, "has_feedback": False, "corrects_bias": False},
        {"is_weighted": True},
        {"has_feedback": False},
        {"has_feedback": False, "corrects_bias": False},
    ],
)
@pytest.mark.parametrize("way", [{"target_ratio": 0.1}, {"bits": 3}])
def test_a_saved_plan_and_the_same_data_give_the_same_bytes(
    net: Path, methods: dict[str, Any], way: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    options = {**way, **methods, "calibration": images}
    if "target_ratio" in way:
        options["refine_runs"] = 2
    _, data = converted(net, save_plan=plan, **options)
    assert converted(net, plan=plan, calibration=images, jobs=1)[1] == data
    record = json.loads(plan.read_text())
    if "target_ratio" in way or methods != {"has_feedback": False, "corrects_bias": False}:
        assert record["data"]["samples"] == 48
    has_feedback = any(item["has_feedback"] for item in record["tensors"])
    assert has_feedback == methods.get("has_feedback", True)
    is_weighted = any(item["is_weighted"] for item in record["tensors"])
    assert is_weighted == methods.get("is_weighted", False)
    assert ("corrections" in record) == methods.get("corrects_bias", True)


def test_a_plan_of_random_inputs_needs_no_data_afterwards(net: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    _, data = converted(
        net, target_ratio=0.12, save_plan=plan, sensitivity="outputs", samples=2, refine_runs=2
    )
    assert converted(net, plan=plan)[1] == data


def test_biases_are_corrected_without_data_where_a_normalisation_tells_the_means(
    tmp_path: Path,
) -> None:
    plan = tmp_path / "plan.json"
    _, data = converted(DIGITS, target_ratio=0.1, save_plan=plan)
    found = Plan.from_json(json.loads(plan.read_text()), "plan")
    assert converted(DIGITS, plan=plan)[1] == data
    assert found.data is None


def test_a_plan_refuses_other_data_and_none(net: Path, images: Path, tmp_path: Path) -> None:
    plan, other = tmp_path / "plan.json", tmp_path / "other.npz"
    converted(net, bits=3, calibration=images, save_plan=plan)
    np.savez(other, image=np.load(images)["image"][::-1])
    with pytest.raises(InputError, match="give the same data, or make a new plan"):
        converted(net, plan=plan, calibration=other)
    with pytest.raises(InputError, match="calibration data"):
        converted(net, plan=plan)


def test_a_plan_with_corrections_alone_refuses_to_go_without_its_data(
    net: Path, images: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    converted(net, bits=3, calibration=images, save_plan=plan, has_feedback=False)
    with pytest.raises(InputError, match="data"):
        converted(net, plan=plan)


def test_a_plan_edited_by_hand_is_obeyed(net: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    converted(net, target_ratio=0.1, save_plan=plan)
    record = json.loads(plan.read_text())
    big = max(record["tensors"], key=lambda item: item["elements"])
    assert big["bit_width"] != 7
    big |= {"bit_width": 7, "centroids": 128, "layout": "portable"}
    plan.write_text(json.dumps(record))
    report, data = converted(net, plan=plan)
    row = next(item for item in report.tensors if item.name == big["name"])
    assert row.bit_width == 7
    assert len(data) > 0.1 * net.stat().st_size


def test_a_target_below_reach_says_the_least_and_has_exit_code_7(net: Path) -> None:
    with pytest.raises(BudgetError, match=r"the least is (\d+) bytes") as caught:
        converted(net, target_size=1_000)
    assert caught.value.exit_code == 7
    least = int(str(caught.value).split("the least is ")[1].split()[0])
    assert len(converted(net, target_size=least)[1]) <= least
    with pytest.raises(BudgetError):
        converted(net, target_size=least - 1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target_ratio": 0.1, "bits": 3}, "leave out --bits"),
        ({"target_ratio": 0.1, "tensor_bits": {"*": 3}}, "leave out --tensor"),
        ({"target_ratio": 0.1, "preset": "ce2"}, "leave out --preset"),
        ({"target_ratio": 0.1, "layout": "bytes"}, "leave out --layout"),
        ({"target_ratio": 0.1, "init": "uniform"}, "leave out --init"),
        ({"target_ratio": 0.1, "codebook_dtype": "float16"}, "leave out --codebook-dtype"),
        ({"target_ratio": 0.1, "target_size": 9}, "exclude each other"),
        ({"target_ratio": 0.1, "plan": "plan.json"}, "leave out --target-ratio"),
        ({"bits": 3, "plan": "plan.json"}, "leave out --bits"),
        ({"samples": 3}, "goes with a target"),
        ({"is_weighted": True, "bits": 4}, "goes with a target"),
        ({"calibration": "x.npz", "init": "uniform"}, "--init optimal"),
        ({"calibration": "x.npz", "preset": "ce2"}, "--init optimal"),
        ({"target_ratio": 0.1, "refine_runs": -1}, "--refine"),
        ({"target_ratio": 0.1, "nothing": 1}, "unknown option 'nothing'"),
        ({"check": -1}, "--check"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_a_file_is_read(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(OptionError, match=told):
        onnxq.convert("no such model.onnx", **options)


def test_a_pattern_that_matches_nothing_is_refused_beside_a_target(net: Path) -> None:
    with pytest.raises(OptionError, match="matches no float tensor"):
        converted(net, target_ratio=0.2, exclude="nothing")


def test_error_feedback_loses_less_than_plain_codebooks_of_the_same_size() -> None:
    data = MODELS / "dcase_calibration.npz"
    feeds = {"logmel": np.load(MODELS / "dcase_calibration.npz")["logmel"][:12]}
    source = onnx.load(DCASE)
    output = source.graph.output[0].name
    source.graph.output.append(
        onnx.ValueInfoProto(name=next(
            node.input[0] for node in source.graph.node if node.op_type == "Softmax"
        ))
    )  # fmt: skip
    logits = source.graph.output[-1].name
    assert logits != output
    expected = run(source, feeds)[logits]
    errors, sizes = [], []
    options: dict[str, Any] = {"bits": 3, "calibration": data, "corrects_bias": False}
    for has_feedback in (False, True):
        _, found = converted(source, has_feedback=has_feedback, samples=12, **options)
        got = run(onnx.load_from_string(found), feeds)[logits]
        errors.append(float(np.square(got - expected).sum() / np.square(expected).sum()))
        sizes.append(len(found))
    assert sizes[0] == sizes[1]
    assert errors[1] < 0.7 * errors[0]


def test_a_converted_model_is_decoded_first_and_meets_a_target(
    net: Path, images: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first.onnx"
    onnxq.convert(net, first, bits=6, check=0)
    size = first.stat().st_size
    with pytest.raises(UnsupportedError, match="--requantize"):
        converted(first, target_ratio=0.7)
    ways: list[dict[str, Any]] = [{}, {"calibration": images, "refine_runs": 2}]
    for options in ways:
        report, data = converted(first, target_ratio=0.7, requantize=True, **options)
        assert 0.9 * 0.7 * size <= len(data) <= 0.7 * size
        assert report.input.file_bytes == size


@pytest.mark.parametrize("way", [{"target_ratio": 0.1, "refine_runs": 2}, {"bits": 3}])
def test_nothing_of_a_message_in_memory_is_changed(
    net: Path, way: dict[str, Any], images: Path
) -> None:
    proto = onnx.load(net)
    before = proto.SerializeToString(deterministic=True)
    _, data = converted(proto, calibration=images, **way)
    assert proto.SerializeToString(deterministic=True) == before
    assert data == converted(net, calibration=images, **way)[1]


def test_nothing_of_an_onnx_ir_model_is_changed(net: Path, images: Path) -> None:
    onnx_ir = pytest.importorskip("onnx_ir")
    source = onnx_ir.from_proto(onnx.load(net))
    before = onnx_ir.to_proto(source).SerializeToString(deterministic=True)
    made = onnxq.convert(source, calibration=images, bits=3, check=0)[1]
    assert type(made) is type(source)
    assert len(onnx_ir.to_proto(made).SerializeToString()) < 0.5 * len(before)
    assert onnx_ir.to_proto(source).SerializeToString(deterministic=True) == before


def test_a_model_with_a_data_file_meets_its_target_with_biases_corrected(
    net: Path, images: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    g.save_external(onnx.load(net), source)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    report = onnxq.convert(
        source, out, target_ratio=0.12, calibration=images, refine_runs=2, check=1
    )
    assert report.output is not None
    assert report.output.file_bytes <= 0.12 * total
    assert report.predicted_bytes == report.output.file_bytes
    assert report.check is not None
    assert report.check.status == "ok"
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_the_bytes_of_a_plan_are_those_of_its_conversion(net: Path, images: Path) -> None:
    options: dict[str, Any] = {"target_ratio": 0.11, "calibration": images, "refine_runs": 2}
    plan = onnxq.plan(net, **options)
    _, data = converted(net, **options)
    assert converted(net, plan=plan, calibration=images)[1] == data
    assert plan.reasons
    for reason in plan.reasons:
        assert reason.picked in {way.way for way in reason.ways}


def test_data_that_do_not_fit_the_model_are_refused(net: Path, tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "missing": {"other": np.zeros((4, 1, 8, 8), np.float32)},
        r"shape|expected": {"image": np.zeros((4, 3), np.float32)},
    }
    for number, (told, arrays) in enumerate(wrong.items()):
        path = tmp_path / f"{number}.npz"
        np.savez(path, **arrays)
        ways: list[dict[str, Any]] = [{"bits": 3}, {"target_ratio": 0.1}]
        for way in ways:
            with pytest.raises(InputError, match=told):
                converted(net, calibration=path, **way)
    with pytest.raises(InputError, match="no such file"):
        converted(net, calibration=tmp_path / "nothing.npz", bits=3)


@pytest.mark.parametrize("way", [{"target_ratio": 0.3, "refine_runs": 2}, {"bits": 3}])
@pytest.mark.parametrize("methods", [{}, {"is_weighted": True}])
def test_a_weight_with_infinities_is_fitted_without_feedback(
    methods: dict[str, Any], way: dict[str, Any], tmp_path: Path
) -> None:
    weight = g.normal((64, 64), 1)
    weight[3, 4] = np.inf
    ends = ([g.value("x", "n", 64)], [g.value("y", "n", 64)])
    proto = g.model(g.graph([g.node("MatMul", "x,w", "y")], *ends, g.tensors(w=weight)))
    np.savez(tmp_path / "x.npz", x=g.normal((16, 64), 2))
    _, data = converted(proto, calibration=tmp_path / "x.npz", **methods, **way)
    restored = onnxq.restore(onnx.load_from_string(data))[1]
    found = onnx.numpy_helper.to_array(restored.graph.initializer[0])
    assert np.array_equal(np.isinf(found), np.isinf(weight))


def test_data_are_of_no_matter_where_nothing_is_to_be_encoded(tmp_path: Path) -> None:
    proto = g.tiny()
    arrays: dict[str, Any] = dict(g.feeds(proto))
    np.savez(tmp_path / "x.npz", **arrays)
    _, data = converted(proto, calibration=tmp_path / "x.npz", bits=3)
    assert data == proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("way", [{"target_ratio": 0.1, "refine_runs": 2}, {"bits": 3}])
def test_samples_of_nan_and_infinity_are_left_out(
    net: Path, odd: float, way: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    values = np.load(images)["image"].copy()
    values[3, 0, 4, 4] = odd
    path = tmp_path / "odd.npz"
    np.savez(path, image=values)
    _, data = converted(net, calibration=path, **way)
    found = run(onnx.load_from_string(data), {"image": values[:1]})["probabilities"]
    expected = run(onnx.load(net), {"image": values[:1]})["probabilities"]
    assert np.abs(found - expected).max() < 0.5


def test_data_of_nothing_but_nan_are_refused_where_outputs_are_measured(
    net: Path, tmp_path: Path
) -> None:
    path = tmp_path / "nan.npz"
    np.savez(path, image=np.full((8, 1, 8, 8), np.nan, np.float32))
    with pytest.raises(UnsupportedError, match="nothing tells what bits are worth"):
        converted(net, calibration=path, target_ratio=0.1)


def test_progress_is_told_of_each_stage(net: Path, images: Path) -> None:
    stages: list[str] = []
    converted(
        net, calibration=images, target_ratio=0.1, refine_runs=2,
        progress=lambda event: stages.append(event.stage),
    )  # fmt: skip
    assert {"inputs", "tensors", "encoding"} <= set(stages)


def test_a_target_above_the_size_of_the_model_loses_nothing() -> None:
    proto = g.matmul_add()
    _, data = converted(proto, target_size=10 * proto.ByteSize())
    feeds = g.feeds(proto)
    assert np.array_equal(run(onnx.load_from_string(data), feeds)["y"], run(proto, feeds)["y"])
    assert len(data) <= proto.ByteSize()
