"""Keras applications become ONNX with every weight as it was, or an error says why not."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxq
from tools import from_keras, networks
from tools.networks import random_weights

SCRIPT = Path(__file__).parent.parent / "tools" / "from_keras.py"
WITHOUT = """
import runpy, sys
sys.modules[sys.argv[1]] = None
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
needs_keras = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in from_keras.PACKAGES),
    reason="needs the 'keras' extra",
)


def run(
    *words: str, folder: Path, program: tuple[str, ...] = (str(SCRIPT),)
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def without(package: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script where importing a package fails as it does where it is not installed."""
    words = ("resnet50", "-o", "m.onnx", "--weights", "random")
    return run(*words, folder=folder, program=("-c", WITHOUT, package, str(SCRIPT)))


def test_a_missing_package_is_named_with_the_extra_that_has_it(tmp_path: Path) -> None:
    finished = without("tensorflow", tmp_path)
    assert finished.returncode == 1
    assert finished.stderr == (
        "from_keras.py: error: the package 'tensorflow' is missing; "
        "install the extra: pip install '.[keras]'\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lenet", "-o", "m.onnx", "--weights", "random"], "invalid choice: 'lenet'"),
        (["vgg16", "--weights", "random"], "the following arguments are required: -o"),
        (["vgg16", "-o", "m.onnx"], "the following arguments are required: --weights"),
        (
            ["vgg16", "-o", "m.onnx", "--weights", "no.h5"],
            "--weights no.h5: no such file; expected",
        ),
        (["vgg16", "-o", "m.onnx", "--weights", "random", "--seed", "-1"], "--seed -1: expected"),
    ],
)
def test_bad_arguments_end_with_exit_code_2(words: list[str], message: str, tmp_path: Path) -> None:
    finished = run(*words, folder=tmp_path)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_refused_before_anything_is_imported(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("mine")
    finished = without("tensorflow", tmp_path)
    assert (finished.returncode, (tmp_path / "m.onnx").read_text()) == (1, "mine")
    assert "m.onnx: exists; give another name, or --force to overwrite it" in finished.stderr


def failing(error: Exception) -> SimpleNamespace:
    """Stand in for the package whose applications cannot get their weights."""

    def make(weights: str | None) -> None:
        raise error

    return SimpleNamespace(applications=SimpleNamespace(ResNet50=make, VGG16=make))


def test_weights_that_cannot_be_downloaded_are_told_with_the_address_and_the_way_out() -> None:
    # The message is that of tf_keras.utils.get_file.
    error = Exception("URL fetch failure on https://example.org/w.h5: None -- [Errno -2] unknown")
    with pytest.raises(from_keras.ConversionError) as caught:
        from_keras.keras_model(failing(error), "vgg16", "imagenet", 0)
    assert "https://example.org/w.h5" in str(caught.value)
    assert "--weights FILE.h5" in str(caught.value)


def test_weights_of_another_network_are_told_with_the_file() -> None:
    error = ValueError("Layer count mismatch when loading weights from file.\nmore")
    with pytest.raises(from_keras.ConversionError, match=r"mine\.h5: does not fit resnet50: Layer"):
        from_keras.keras_model(failing(error), "resnet50", "mine.h5", 0)


def test_a_model_that_lost_parameters_is_refused_with_both_counts() -> None:
    model = networks.synthetic("dcase")
    assert from_keras.check_parameters("dcase", model) == (116_815, 16)
    del model.graph.initializer[-1]
    with pytest.raises(from_keras.ConversionError, match="has 116,800 float parameters in 15 tens"):
        from_keras.check_parameters("dcase", model)


def test_outputs_that_differ_from_keras_are_refused(tmp_path: Path) -> None:
    model = networks.synthetic("dcase")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    sounds = np.random.default_rng(0).standard_normal((2, 1, 40, 500), dtype=np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected: Any = session.run(None, {"logmel": sounds})[0]
    path = tmp_path / "m.onnx"
    assert from_keras.check_outputs(onnxruntime, path, sounds, expected) <= 1e-6
    with pytest.raises(from_keras.ConversionError, match="differ from Keras's by up to"):
        from_keras.check_outputs(onnxruntime, path, sounds, expected + np.float32(2e-5))
    with pytest.raises(from_keras.ConversionError, match="up to nan"):
        from_keras.check_outputs(onnxruntime, path, sounds, expected * np.float32(np.nan))


def test_images_are_of_both_ranges_that_weights_are_made_for() -> None:
    images = from_keras.inputs()
    assert (images.shape, images.dtype) == ((from_keras.SAMPLES, 224, 224, 3), np.float32)
    assert images[:2].std() == pytest.approx(1, rel=0.01)
    assert images[2:].std() > 50
    assert images[2:].min() == pytest.approx(-123.68)


def test_kernels_get_the_axes_of_keras() -> None:
    slots = {slot.name: slot for slot in networks.tensors("vgg16")}
    conv = slots["block1_conv1.weight"]
    ours = random_weights.values(conv, seed=0)
    theirs = from_keras.to_keras(conv, ours)
    assert theirs.shape == (3, 3, 3, 64)
    assert theirs[2, 1, 0, 63] == ours[63, 0, 2, 1]


def test_the_rows_of_fc1_stand_in_the_order_of_a_flatten_with_channels_last() -> None:
    slot = next(slot for slot in networks.tensors("vgg16") if slot.name == "fc1.weight")
    ours = np.arange(2 * 25088, dtype=np.float32).reshape(2, 25088)
    image = np.random.default_rng(0).integers(0, 3, (512, 7, 7)).astype(np.float64)
    first = ours.astype(np.float64) @ image.ravel()
    second = image.transpose(1, 2, 0).ravel() @ from_keras.to_keras(slot, ours).astype(np.float64)
    assert np.array_equal(first, second)


def test_libraries_are_heard_only_where_something_unforeseen_fails(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from tools import from_keras\n"
        "with from_keras.silence():\n"
        "    os.write(2, b'chatter')\n"
        "    if sys.argv[1] == 'bug': raise RuntimeError('boom')\n"
    )
    program = ("-c", f"import sys; sys.path.insert(0, {str(SCRIPT.parent.parent)!r})\n{code}")
    assert run("fine", folder=tmp_path, program=program).stderr == ""
    failed = run("bug", folder=tmp_path, program=program).stderr
    assert "chatter" in failed
    assert "boom" in failed


@needs_keras
@pytest.mark.keras
@pytest.mark.parametrize("network", ["resnet50", "vgg16"])
def test_the_builder_and_keras_are_one_network(network: str, tmp_path: Path) -> None:
    finished = run(network, "-o", "k.onnx", "--weights", "random", "--seed", "3", folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    (tmp_path / "b.onnx").write_bytes(networks.synthetic(network, 3).SerializeToString())
    image = np.random.default_rng(1).standard_normal((1, 3, 224, 224), dtype=np.float32)
    found: list[Any] = []
    for name, values in [("b.onnx", image), ("k.onnx", image.transpose(0, 2, 3, 1))]:
        session = onnxruntime.InferenceSession(
            str(tmp_path / name), providers=["CPUExecutionProvider"]
        )
        found.append(session.run(None, {session.get_inputs()[0].name: values})[0])
    assert np.abs(found[0] - found[1]).max() <= 1e-5
    assert found[0].max() > 0.01


@needs_keras
@pytest.mark.keras
def test_resnet50_of_keras_keeps_its_batch_normalization_and_converts(tmp_path: Path) -> None:
    finished = run("resnet50", "-o", "k.onnx", "--weights", "random", folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "25,636,712 parameters in 320 tensors" in finished.stdout
    model = onnx.load(tmp_path / "k.onnx")
    assert sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type == 1) == 25_636_712
    operators = Counter(node.op_type for node in model.graph.node)
    assert (operators["Conv"], operators["BatchNormalization"]) == (53, 53)
    properties = {item.key: item.value for item in model.metadata_props}
    assert (properties["weights"], properties["seed"]) == ("synthetic", "0")
    report = onnxq.convert(tmp_path / "k.onnx", tmp_path / "k6.onnx", bits=6)
    assert report.output.ratio > 5
