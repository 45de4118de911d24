"""Models of a few nodes, written in ONNX's text form."""

from __future__ import annotations

import onnx.parser


def from_text(graph: str, *, opset: int = 17, ir_version: int = 8) -> bytes:
    """Return the serialised model of a graph such as `g (float[1] x) => (float[1] y) {...}`."""
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "x" : 1]>'
    return onnx.parser.parse_model(f"{head} {graph}").SerializeToString()


def scaled(factor: float) -> bytes:
    """Return y = x * factor over an open number of rows of 3."""
    return from_text(
        f"g (float[N, 3] x) => (float[N, 3] y) <float f = {{{factor}}}> {{ y = Mul(x, f) }}"
    )
