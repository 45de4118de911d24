"""Print the accuracy of a digits classifier on the held-out images, as one JSON line.

python tools/score_digits.py models/digits.onnx
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime

HELD_OUT = Path(__file__).parent.parent / "models" / "digits_test.npz"


def accuracy(model: Path, data: Path = HELD_OUT) -> tuple[int, int]:
    """Return how many held-out images the model classifies rightly, and how many there are."""
    with np.load(data) as held_out:
        image, label = held_out["image"], held_out["label"]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {"image": image})
    return int(np.sum(probabilities.argmax(axis=1) == label)), len(label)


def main() -> None:
    parser = argparse.ArgumentParser(description="Score a digits classifier.")
    parser.add_argument("model", type=Path)
    model: Path = parser.parse_args().model
    right, images = accuracy(model)
    print(
        json.dumps(
            {"model": str(model), "accuracy": right / images, "right": right, "images": images}
        )
    )


if __name__ == "__main__":
    main()
