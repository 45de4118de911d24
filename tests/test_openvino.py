"""A converted real model gives the same outputs as its restored twin in other runtimes.

OpenVINO runs on the CPU at float32 (it would otherwise pick a narrower type where the processor
has one); run with `-m openvino`.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxq
from tests import graphs, real_models, runs
from tests.test_decoders import collection
from tools.make_golden import changed_plan

WIDTHS = range(1, 17)
LAYOUTS = ("portable", "bytes")
EVALUATED = tuple(name for name in real_models.NAMES if name != "magika_v3_3")
"""Models that onnx's reference evaluator can run."""


def converted_pair(name: str, bits: int, layout: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    path = real_models.path_of(name)
    _, converted = onnxq.convert(path, bits=bits, layout=layout, check=0, only_smaller=bits < 13)
    _, restored = onnxq.restore(converted)
    return converted, restored


@cache
def _core() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return core


def run_openvino(model: onnx.ModelProto, feeds: dict[str, Any], path: Path) -> dict[str, Any]:
    onnx.save(model, path)
    compiled = _core().compile_model(str(path), "CPU")
    results = compiled(feeds)
    return {output.get_any_name(): np.array(results[output]) for output in compiled.outputs}


@pytest.mark.openvino
@pytest.mark.shared_models
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("name", real_models.NAMES)
def test_openvino_computes_what_the_restored_twin_computes(
    name: str, bits: int, layout: str, tmp_path: Path
) -> None:
    feeds = real_models.feeds_of(name)
    converted, restored = converted_pair(name, bits, layout)
    try:
        expected = run_openvino(restored, feeds, tmp_path / "restored.onnx")
    except RuntimeError as err:
        pytest.skip(f"OpenVINO cannot load the float model: {str(err).splitlines()[0]}")
    found = run_openvino(converted, feeds, tmp_path / "converted.onnx")
    assert all(np.isfinite(value).all() for value in expected.values())
    runs.assert_same(found, expected)


@pytest.mark.openvino
@pytest.mark.parametrize("bits", [1, 3, 5, 8, 11])
def test_openvino_agrees_with_onnxruntime(bits: int, tmp_path: Path) -> None:
    feeds = real_models.feeds_of("digits")
    converted, _ = converted_pair("digits", bits, "portable")
    found = run_openvino(converted, feeds, tmp_path / "converted.onnx")
    for name, value in runs.run(converted, feeds).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.openvino
@pytest.mark.parametrize(
    "change",
    [
        {"scale_axis": 0, "scale_dtype": "float16"},
        {"scale_axis": 1, "scale_dtype": "float32"},
        {"layout": "radix", "centroids": 6},
        {"layout": "radix", "centroids": 6, "scale_axis": 0, "scale_dtype": "float16"},
        {"kept_values": 6, "kept_dtype": "float16"},
        {"layout": "radix", "centroids": 6, "kept_values": 5, "kept_dtype": "float32"},
        {"layout": "half", "bit_width": 16, "centroids": 0, "codebook_dtype": "float16"},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_openvino_decodes_what_only_a_plan_asks_for(change: dict[str, Any], tmp_path: Path) -> None:
    arrays = {"a": graphs.normal((20, 31), 1), "b": graphs.normal((8, 6, 3, 3), 2)}
    proto = collection(arrays, 17)
    settings = {"bits": 3, "pool_indices": False, "only_smaller": False, "fewer_bits": False}
    plan = changed_plan(proto, lambda _: change, settings)
    _, converted = onnxq.convert(proto, plan=plan, check=0)
    found = run_openvino(converted, {}, tmp_path / "converted.onnx")
    # It drops the Transpose that changes nothing, and names outputs by what went in.
    expected = runs.run(converted, {})
    for one, other in zip(found.values(), expected.values(), strict=True):
        runs.assert_equal(one, other)


@pytest.mark.parametrize("bits", [1, 3, 6, 11])
def test_reference_evaluator_computes_what_the_restored_twin_computes(bits: int) -> None:
    _check_reference("digits", bits, "portable")


@pytest.mark.slow
@pytest.mark.shared_models
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("name", EVALUATED)
def test_reference_evaluator_at_every_width(name: str, bits: int, layout: str) -> None:
    _check_reference(name, bits, layout)


def _check_reference(name: str, bits: int, layout: str) -> None:
    feeds = real_models.feeds_of(name)
    converted, restored = converted_pair(name, bits, layout)
    found = runs.run_reference(converted, feeds)
    runs.assert_same(found, runs.run_reference(restored, feeds))


def _sometimes(bits: int) -> Any:
    return bits if bits in (3, 8, 11) else pytest.param(bits, marks=pytest.mark.slow)


@pytest.mark.shared_models
@pytest.mark.parametrize("bits", [_sometimes(bits) for bits in WIDTHS])
@pytest.mark.parametrize("name", real_models.NAMES)
def test_onnxruntime_computes_what_the_restored_twin_computes(name: str, bits: int) -> None:
    feeds = real_models.feeds_of(name)
    converted, restored = converted_pair(name, bits, "portable")
    onnx.checker.check_model(converted)
    runs.assert_same(runs.run(converted, feeds), runs.run(restored, feeds))
