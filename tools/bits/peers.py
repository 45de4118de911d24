"""Quantize a model by what onnxruntime offers: dynamic int8, or MatMulNBits at 4 bits.

    python -m tools.bits.peers IN OUT dynamic [prepared] [per-channel]
    python -m tools.bits.peers IN OUT matmul-4bit [prepared]

`prepared` is the preprocessing that onnxruntime's documentation recommends (constant folding and
fusions, `quant_pre_process`), and lets the quantizer into subgraphs. Symbolic shape inference, a
part of it, is left out where it fails. The last line of stdout is JSON with the versions.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process


def dynamic(source: Path, target: Path, settings: set[str]) -> None:
    """Write a model with int8 weights whose activations are quantized as it runs."""
    options = {"EnableSubgraph": True} if "prepared" in settings else {}
    quantize_dynamic(
        source, target, per_channel="per-channel" in settings, extra_options=dict(options)
    )


def matmul(source: Path, target: Path) -> None:
    """Write a model whose MatMul weights have 4 bits in blocks of onnxruntime's default size."""
    quantizer = MatMulNBitsQuantizer(onnx.load(source))
    quantizer.process()
    quantizer.model.save_model_to_file(str(target))


def prepare(source: Path, target: Path) -> str:
    """Write the preprocessed model; return what had to be left out."""
    try:
        quant_pre_process(source, target)
    except Exception as err:  # shape inference raises whatever it stumbles over
        quant_pre_process(source, target, skip_symbolic_shape=True)
        return f"without symbolic shape inference, which raised {type(err).__name__}"
    return ""


def main(words: list[str]) -> dict[str, Any]:
    """Quantize; return versions and what was left out."""
    source, target = Path(words[0]), Path(words[1])
    kind, settings = words[2], set(words[3:])
    left_out = ""
    with tempfile.TemporaryDirectory() as folder:
        if "prepared" in settings:
            prepared = Path(folder) / source.name
            left_out = prepare(source, prepared)
            source = prepared
        if kind == "dynamic":
            dynamic(source, target, settings)
        else:
            matmul(source, target)
    return {
        "versions": {"onnxruntime": onnxruntime.__version__, "onnx": version("onnx")},
        "note": left_out,
    }


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(main(sys.argv[1:])))
