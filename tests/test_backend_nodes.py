"""The node tests that onnx ships, with float inputs made weights, converted without loss.

Every test of one operator becomes a model whose float inputs are initializers. Converted at 16
bits it must compute, in onnxruntime, what the unconverted one computes, bit for bit. The tests
that onnxruntime cannot run, that are random, or that hold no float are counted, not hidden.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxq
from tests import graphs, runs

FLOAT_DTYPES = (np.float32, np.float16, graphs.BFLOAT16, np.float64)
LAYOUTS = ("portable", "native", "bytes")


@dataclass(kw_only=True)
class Counts:
    """Count what became of the tests; `failed` names those whose outputs changed."""

    cases: int = 0
    without_floats: int = 0
    not_run: int = 0
    random: int = 0
    kept: int = 0
    too_many_values: int = 0
    converted: int = 0
    tensors: int = 0
    native: int = 0
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.cases} node tests: {self.converted} converted ({self.tensors} tensors, "
            f"{self.native} in native form), "
            f"{self.too_many_values} of more than 65,536 distinct values, "
            f"{self.kept} with nothing to convert, {self.without_floats} without float inputs, "
            f"{self.not_run} that onnxruntime cannot run, {self.random} random, "
            f"{len(self.failed)} failed"
        )


@cache
def node_tests() -> tuple[Any, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the arithmetic that makes onnx's expected outputs
        from onnx.backend.test.loader import load_model_tests

        return tuple(sorted(load_model_tests(kind="node"), key=lambda test: test.name))


def with_weights(test: Any) -> tuple[ModelProto, dict[str, Any]] | None:
    """Return a test's model with float inputs as initializers, and feeds; None without floats."""
    model = ModelProto()
    model.CopyFrom(test.model)
    inputs = list(model.graph.input)
    values = [np.asarray(v) if isinstance(v, np.generic) else v for v in test.data_sets[0][0]]
    feeds = {}
    del model.graph.input[:]
    for value, array in zip(inputs, values, strict=False):
        is_float = isinstance(array, np.ndarray) and array.dtype in FLOAT_DTYPES
        if is_float and value.type.HasField("tensor_type"):
            model.graph.initializer.append(graphs.tensor(value.name, array))
        else:
            model.graph.input.append(value)
            feeds[value.name] = array
    if not model.graph.initializer:
        return None
    model.ir_version = min(max(model.ir_version, 4), 13)  # onnxruntime takes no newer one
    return model, feeds


def check(test: Any, layout: str, counts: Counts) -> None:
    counts.cases += 1
    made = with_weights(test)
    if made is None:
        counts.without_floats += 1
        return
    model, feeds = made
    try:
        expected = runs.run(model, feeds)
        plain = runs.run(model, feeds, optimize=False)
    except Exception:  # whatever onnxruntime says, the original does not run
        counts.not_run += 1
        return
    if not _is_same(runs.run(model, feeds), expected):
        counts.random += 1
        return
    try:
        report, converted = onnxq.convert(
            model,
            bits=16,
            layout=layout,
            check=0,
            only_smaller=False,
            fewer_bits=layout == "native",
        )
        if not report.tensors:
            counts.kept += 1
            return
        if not all(row.is_lossless for row in report.tensors):
            counts.too_many_values += 1
            assert all(row.is_lossless or row.centroids == 2**16 for row in report.tensors)
            return
        counts.converted += 1
        counts.tensors += len(report.tensors)
        counts.native += sum(row.layout == "native" for row in report.tensors)
        runs.assert_same(runs.run(converted, feeds), expected)
        runs.assert_same(runs.run(converted, feeds, optimize=False), plain)
    except Exception as err:  # a failure is reported with the others, by name
        counts.failed.append(f"{test.name}: {type(err).__name__}: {str(err)[:300]}")


def _is_same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    try:
        runs.assert_same(found, expected)
    except AssertionError:
        return False
    return True


def sweep(tests: Iterable[Any], layout: str = "portable") -> Counts:
    counts = Counts()
    for test in tests:
        check(test, layout, counts)
    return counts


def test_one_in_eight_node_tests_is_unchanged() -> None:
    counts = sweep(node_tests()[::8])
    print(counts)  # noqa: T201
    assert counts.failed == []
    assert counts.converted > 80


def test_native_forms_of_some_node_tests_are_unchanged() -> None:
    counts = sweep(node_tests()[::16], "native")
    print(counts)  # noqa: T201
    assert counts.failed == []
    assert counts.native > 0


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_node_test_is_unchanged(layout: str) -> None:
    counts = sweep(node_tests(), layout)
    print(counts)  # noqa: T201
    assert counts.failed == []
    assert counts.converted > 800
    assert (counts.native > 0) == (layout == "native")
