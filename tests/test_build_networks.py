"""The four networks have the layers and parameters of the tables, and run."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxq
from tools import build_networks, networks
from tools.networks import random_weights

SCRIPT = Path(__file__).parent.parent / "tools" / "build_networks.py"
COUNTS = {
    "vgg16": (138_357_544, 32),
    "resnet50": (25_636_712, 320),
    "imagecomp": (76_179, 18),
    "dcase": (116_815, 16),
}
CONFIGURED = {"imagecomp": (3, 64, 48), "dcase": (1, 40, 500), "resnet50": (3, 224, 224)}
ORIGIN = {"weights": "trained", "generator": "a test"}


@pytest.fixture(scope="module")
def models() -> dict[str, onnx.ModelProto]:
    return {name: networks.synthetic(name) for name in CONFIGURED}


def floats(model: onnx.ModelProto) -> tuple[int, int]:
    """Count float values and tensors in all that a file can hold them in."""
    constants = [
        attribute
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
    ]
    assert {attribute.name for attribute in constants} <= {"value_int", "value_ints"}
    tensors = model.graph.initializer
    assert {tensor.data_type for tensor in tensors} == {onnx.TensorProto.FLOAT}
    return sum(math.prod(tensor.dims) for tensor in tensors), len(tensors)


def outputs(model: onnx.ModelProto, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: values})
    return np.asarray(found)


def random_input(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("network", CONFIGURED)
def test_parameters_are_those_of_the_tables(
    network: str, models: dict[str, onnx.ModelProto]
) -> None:
    model = models[network]
    onnx.checker.check_model(model, full_check=True)
    assert floats(model) == COUNTS[network]
    assert (model.ir_version, model.producer_name) == (8, "onnxq")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]


@pytest.mark.parametrize("network", COUNTS)
def test_the_list_of_tensors_adds_up(network: str) -> None:
    slots = networks.tensors(network)
    assert (sum(slot.elements for slot in slots), len({slot.name for slot in slots})) == (
        COUNTS[network]
    )


@pytest.mark.slow
def test_vgg16_has_the_parameters_of_the_tables_and_runs(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.onnx"
    assert build_networks.main(["vgg16", "-o", str(path)]) == 0
    assert floats(onnx.load(path)) == COUNTS["vgg16"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": random_input(1, 3, 224, 224)})
    probabilities = np.asarray(found)
    assert probabilities.shape == (1, 1000)
    assert 0.01 < probabilities.max() < 0.99


@pytest.mark.parametrize("network", ["dcase", "resnet50"])
def test_classifiers_give_probabilities_neither_flat_nor_saturated(
    network: str, models: dict[str, onnx.ModelProto]
) -> None:
    probabilities = outputs(models[network], random_input(2, *CONFIGURED[network]))
    assert probabilities.shape == (2, {"dcase": 15, "resnet50": 1000}[network])
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (probabilities.max(axis=1) > 3 / probabilities.shape[1]).all()
    assert (probabilities.max(axis=1) < 0.99).all()
    assert not np.array_equal(probabilities[0], probabilities[1])


@pytest.mark.parametrize("size", [(64, 48), (4, 4), (20, 100)])
def test_the_image_network_gives_pixels_of_the_size_of_its_input(
    size: tuple[int, int], models: dict[str, onnx.ModelProto]
) -> None:
    pixels = outputs(models["imagecomp"], random_input(2, 3, *size))
    assert pixels.shape == (2, 3, *size)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert 0.02 < pixels.std() < 0.4


def test_the_latent_is_a_sigmoid_of_16_channels_at_a_quarter_of_the_size(
    models: dict[str, onnx.ModelProto],
) -> None:
    model = onnx.ModelProto.FromString(models["imagecomp"].SerializeToString())
    latent = next(node for node in model.graph.node if node.name == "latent")
    assert latent.op_type == "Sigmoid"
    del model.graph.output[:]
    model.graph.output.add(name=latent.output[0]).type.tensor_type.elem_type = 1
    assert outputs(model, random_input(1, 3, 64, 48)).shape == (1, 16, 16, 12)


def test_resnet50_keeps_batch_normalization_and_strides_as_keras_has_them(
    models: dict[str, onnx.ModelProto],
) -> None:
    nodes = {node.name: node for node in models["resnet50"].graph.node}
    operators = Counter(node.op_type for node in nodes.values())
    assert (operators["Conv"], operators["BatchNormalization"]) == (53, 53)
    strides = {
        name: tuple(next(a.ints for a in node.attribute if a.name == "strides"))
        for name, node in nodes.items()
        if node.op_type == "Conv"
    }
    assert {name for name, stride in strides.items() if stride == (2, 2)} == {
        "conv1_conv",
        *(f"conv{stage}_block1_{index}_conv" for stage in (3, 4, 5) for index in (0, 1)),
    }
    for node in nodes.values():
        if node.op_type == "BatchNormalization":
            assert node.attribute[0].f == pytest.approx(1.001e-5)


def test_tensors_are_named_by_their_layers() -> None:
    names = {network: [slot.name for slot in networks.tensors(network)] for network in COUNTS}
    assert names["vgg16"][:2] == ["block1_conv1.weight", "block1_conv1.bias"]
    assert names["vgg16"][-6:] == [
        f"{layer}.{end}" for layer in ("fc1", "fc2", "predictions") for end in ("weight", "bias")
    ]
    assert {f"conv2_block1_1_bn.{end}" for end in ("scale", "bias", "mean", "var")} <= {
        *names["resnet50"]
    }
    assert (names["imagecomp"][0], names["imagecomp"][-1]) == (
        "encoder_conv1.weight",
        "decoder_conv6.bias",
    )
    assert [name for name in names["dcase"] if "1" in name.partition(".")[0]] == [
        "conv1.weight", "conv1.bias", "bn1.scale", "bn1.bias", "bn1.mean", "bn1.var",
        "dense1.weight", "dense1.bias",
    ]  # fmt: skip


def test_inspect_lists_the_parameters_and_nothing_else(tmp_path: Path) -> None:
    build_networks.main(["imagecomp", "-o", str(tmp_path / "m.onnx")])
    weights = onnxq.inspect(tmp_path / "m.onnx").weights
    assert (sum(weight.elements for weight in weights), len(weights)) == COUNTS["imagecomp"]


@pytest.mark.parametrize("network", ["imagecomp", "dcase"])
def test_a_seed_gives_the_same_bytes_and_another_gives_others(network: str, tmp_path: Path) -> None:
    written = []
    for name, seed in [("a", "3"), ("b", "3"), ("c", "4")]:
        build_networks.main([network, "-o", str(tmp_path / name), "--seed", seed])
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]
    first, other = onnx.load_from_string(written[0]), onnx.load_from_string(written[2])
    for mine, yours in zip(first.graph.initializer, other.graph.initializer, strict=True):
        assert mine.raw_data != yours.raw_data, mine.name


def test_metadata_say_that_weights_are_synthetic(models: dict[str, onnx.ModelProto]) -> None:
    properties = {item.key: item.value for item in models["dcase"].metadata_props}
    assert properties["weights"] == "synthetic"
    assert properties["seed"] == "0"
    assert properties["generator"] == "tools/build_networks.py dcase"


def test_kernels_are_laplacian_with_the_variance_of_he() -> None:
    slot = next(slot for slot in networks.tensors("resnet50") if slot.name == "conv1_conv.weight")
    large = slot.__class__(name="w", kind="kernel", shape=(512, 256, 3, 3), level=0.5)
    drawn = random_weights.values(large, seed=1).astype(np.float64)
    # 1.2 million values and 512 channel scales: the mean of the scales' squares has a standard
    # error of 0.4 / sqrt(512) = 1.8 %.
    assert drawn.var() == pytest.approx(0.25 * 2 / (256 * 9), rel=0.09)
    # A Laplacian has kurtosis 6; the spread of channels, log-normal with 0.2, raises it by 17 %.
    kurtosis = (drawn**4).mean() / drawn.var() ** 2
    assert 6.2 < kurtosis < 8.0


def test_a_network_takes_the_weights_given() -> None:
    weights = {
        slot.name: random_weights.values(slot, seed=9) for slot in networks.tensors("imagecomp")
    }
    model = networks.imagecomp(weights, ORIGIN)
    found = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name], weights[name]) for name in weights)
    assert {item.key: item.value for item in model.metadata_props} == ORIGIN


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    weights = {slot.name: random_weights.values(slot, seed=9) for slot in networks.tensors("dcase")}
    kernel = weights["conv1.weight"]
    with pytest.raises(ValueError, match=r"missing: \['bn1.mean'\]; not of this network: \['x'\]"):
        networks.dcase(
            {**{k: v for k, v in weights.items() if k != "bn1.mean"}, "x": kernel}, ORIGIN
        )
    with pytest.raises(ValueError, match=r"'conv1.weight' is float32 \[32, 49\]; expected float32"):
        networks.dcase(weights | {"conv1.weight": kernel.reshape(32, 49)}, ORIGIN)
    double: Any = kernel.astype(np.float64)
    with pytest.raises(ValueError, match=r"'conv1.weight' is float64"):
        networks.dcase(weights | {"conv1.weight": double}, ORIGIN)
    with pytest.raises(ValueError, match=r"'conv1.weight' has values that are not finite"):
        networks.dcase(weights | {"conv1.weight": kernel * np.float32(np.inf)}, ORIGIN)


def test_an_existing_file_is_kept_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("mine")
    assert build_networks.main(["dcase", "-o", str(path)]) == 1
    assert path.read_text() == "mine"
    assert "exists; give another name, or --force" in capsys.readouterr().err
    assert build_networks.main(["dcase", "-o", str(path), "--force"]) == 0
    assert floats(onnx.load(path)) == COUNTS["dcase"]
    assert "116,815 parameters in 16 tensors, synthetic" in capsys.readouterr().out
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("mine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert build_networks.main(["dcase", "-o", str(path), "--force"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


def test_a_missing_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_networks.main(["dcase", "-o", str(tmp_path / "no" / "m.onnx")]) == 1
    assert "is not a folder; make it first" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["lenet"], ["dcase"], ["dcase", "--seed", "-1"]])
def test_bad_arguments_end_with_exit_code_2(words: list[str], tmp_path: Path) -> None:
    output = ["-o", str(tmp_path / "m.onnx")] if words != ["dcase"] else []
    with pytest.raises(SystemExit) as caught:
        build_networks.main([*words, *output])
    assert caught.value.code == 2


def test_the_script_runs_from_any_folder_without_onnxq(tmp_path: Path) -> None:
    code = "import sys, runpy; sys.modules['onnxq'] = None; sys.argv = sys.argv[1:]; " + (
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-P", "-c", code, str(SCRIPT), "imagecomp", "-o", "m.onnx"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert floats(onnx.load(tmp_path / "m.onnx")) == COUNTS["imagecomp"]
