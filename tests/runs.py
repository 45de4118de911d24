"""Run models in onnxruntime and the reference evaluator, and compare values bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

Array = np.ndarray[Any, np.dtype[Any]]


def run(
    model: ModelProto | bytes | str | Path, feeds: Mapping[str, Array], optimize: bool = True
) -> dict[str, Any]:
    """Return a model's outputs by name from onnxruntime on the CPU.

    Without `optimize`, graph optimisation is off and so is the repacking of constant matrices:
    it could round differently for a matrix that is computed than for one that is stored.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    source = model.SerializeToString() if isinstance(model, ModelProto) else model
    source = str(source) if isinstance(source, Path) else source
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def optimized(model: ModelProto, path: Path) -> ModelProto:
    """Return what onnxruntime makes of a model at load, with default options; `path` is scratch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    source = model.SerializeToString()
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def run_reference(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Any]:
    """Return a model's outputs by name from onnx's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the evaluator's own arithmetic
        evaluator = ReferenceEvaluator(model)
        return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Assert that outputs agree in names, types, shapes and every bit."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert_equal(found[name], value, name)


def assert_equal(found: Any, expected: Any, name: str = "") -> None:
    """Assert that two values agree bit for bit; sequences item by item, None with None."""
    if isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple), name
        assert len(found) == len(expected), name
        for position, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{name}[{position}]")
    elif isinstance(expected, np.ndarray) and expected.dtype != object:
        assert found.dtype == expected.dtype, name
        assert found.shape == expected.shape, name
        if found.tobytes() != expected.tobytes():
            differing = _bits(found) != _bits(expected)
            first = tuple(np.argwhere(differing)[0]) if differing.ndim else ()
            raise AssertionError(
                f"{name}: {int(differing.sum())} of {found.size} values differ, first at {first}: "
                f"{found[first]!r} instead of {expected[first]!r}"
            )
    elif isinstance(expected, np.ndarray):
        assert found.tolist() == expected.tolist(), name
    else:
        assert found == expected, name


def _bits(array: Array) -> Array:
    return array.view(np.dtype(f"V{array.itemsize}")) if array.dtype.kind == "V" else _words(array)


def _words(array: Array) -> Array:
    if array.itemsize not in (1, 2, 4, 8):
        return array
    return np.ascontiguousarray(array).reshape(array.shape).view(f"u{array.itemsize}")
