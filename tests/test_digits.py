"""The digits model of `models/` is what `models/README.md` says it is."""

from pathlib import Path

import numpy as np
import onnx
import pytest

MODELS = Path(__file__).parent.parent / "models"
RIGHT = 594


@pytest.fixture(scope="module")
def held_out() -> dict[str, np.ndarray]:
    with np.load(MODELS / "digits_test.npz") as data:
        return dict(data)


def test_the_held_out_images_are_keyed_by_the_models_input(held_out) -> None:
    assert set(held_out) == {"image", "label"}
    assert held_out["image"].shape == (597, 1, 8, 8)
    assert held_out["image"].dtype == np.float32
    assert held_out["label"].shape == (597,)
    assert held_out["label"].dtype == np.int64
    assert (held_out["image"].min(), held_out["image"].max()) == (0, 1)


def test_the_model_has_the_documented_weights_and_unfused_normalization() -> None:
    model = onnx.load(MODELS / "digits.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer) == 90_410
    assert len(model.graph.initializer) == 19
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 3


def test_the_model_classifies_the_held_out_images(held_out) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        MODELS / "digits.onnx", providers=["CPUExecutionProvider"]
    )
    (probabilities,) = session.run(["probabilities"], {"image": held_out["image"]})
    right = int(np.sum(probabilities.argmax(axis=1) == held_out["label"]))
    assert right >= 0.97 * len(held_out["label"])
    # One image may lie on an edge that another processor rounds differently.
    assert abs(right - RIGHT) <= 1
