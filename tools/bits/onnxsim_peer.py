"""Quantize a model by onnxsim's k-means, in a Python of its own that has onnxsim.

    PYTHON tools/bits/onnxsim_peer.py IN OUT kmeans [simplified]

`simplified` runs onnxsim's simplification before, and once more after, which drops the weights that
were replaced. The last line of stdout is JSON with the versions.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from typing import Any

import onnx


def main(words: list[str]) -> dict[str, Any]:
    """Quantize; return versions."""
    onnxsim = importlib.import_module("onnxsim")  # not there where types are checked
    is_simplified = "simplified" in words[3:]
    model = onnx.load(words[0])
    if is_simplified:
        model, _ = onnxsim.simplify(model)
    model = onnxsim.quantize_weight_only_kmeans(model)
    if is_simplified:
        model, _ = onnxsim.simplify(model)
    onnx.save(model, words[1])
    return {"versions": {"onnxsim": version("onnxsim"), "onnx": version("onnx")}, "note": ""}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
