"""Find trained models to test on: the shipped one, and others kept beside the repository.

The others lie in the folder that ONNXQ_SHARED_MODELS names, or in ../shared/models; a test that
needs one skips without it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, np.dtype[Any]]
ROOT = Path(__file__).resolve().parent.parent
SHARED_NAMES = (
    "ch_ppocr_mobile_v2.0_cls_mobile",
    "crepe_tiny",
    "magika_v3_3",
    "silero_vad_16k_op15",
)
NAMES = ("digits", *SHARED_NAMES)


def shared_folder() -> Path:
    """Return where the models beside the repository would lie."""
    return Path(os.environ.get("ONNXQ_SHARED_MODELS", ROOT.parent / "shared" / "models"))


def path_of(name: str) -> Path:
    """Return where a model lies; skip the test where it does not."""
    if name == "digits":
        return ROOT / "models" / "digits.onnx"
    path = shared_folder() / "onnx" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"{name}.onnx is not kept beside the repository")
    return path


def feeds_of(name: str, seed: int = 0) -> dict[str, Array]:
    """Return inputs that the model accepts."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    if name == "digits":
        return {"image": floats(4, 1, 8, 8)}
    if name == "crepe_tiny":
        return {"frames": floats(2, 1024)}
    if name == "magika_v3_3":
        return {"bytes": rng.integers(0, 256, (1, 2048)).astype(np.int32)}
    if name == "silero_vad_16k_op15":
        state = np.zeros((2, 1, 128), np.float32)
        return {"input": floats(1, 576), "state": state, "sr": np.array(16000, np.int64)}
    return {"x": floats(1, 3, 48, 192)}
