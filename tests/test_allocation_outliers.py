"""Ways that keep outliers: offered where they pay, and carried out as they were planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxq
from onnxq import encode, model
from onnxq.allocation import outliers
from onnxq.allocation.candidates import Unit, make_units
from onnxq.allocation.trials import Decoder, Methods
from onnxq.options import make_options
from onnxq.plans import Plan, tensor_plan
from tests import graphs
from tests.test_decoders import assert_three_agree, collection

Array = np.ndarray[Any, np.dtype[Any]]


def heavy(seed: int = 0, dtype: Any = np.float32) -> Array:
    """Return a tensor of which one value in 200 is far from all others."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(80, 100))
    drawn.reshape(-1)[rng.permutation(8000)[:40]] *= 30
    return drawn.astype(dtype)


def units_of(proto: ModelProto) -> tuple[model.Document, list[Unit]]:
    document = model.wrap(proto)
    return document, make_units(document, model.weights(document), make_options({}), 1)[0]


def kept_ways(unit: Unit) -> list[int]:
    return [at for at, item in enumerate(unit.candidates) if item.form and item.form.kept]


def test_outliers_are_counted() -> None:
    assert outliers.counts(heavy(), 2) == [64]


def test_nothing_is_kept_where_nothing_stands_out() -> None:
    uniform = np.random.default_rng(1).uniform(-1, 1, (80, 100)).astype(np.float32)
    assert outliers.counts(uniform, 2) == []
    assert outliers.counts(np.sign(uniform), 2) == []
    assert outliers.counts(heavy()[:10], 2) == []


@pytest.mark.parametrize(("opset", "dtype"), [(17, np.float16), (10, np.float32)])
def test_ways_with_kept_values_are_offered_only_where_they_can_be(opset: int, dtype: Any) -> None:
    _, (unit,) = units_of(collection({"w": heavy(0, dtype)}, opset))
    assert kept_ways(unit) == []


def test_infinite_values_are_no_outliers() -> None:
    values = heavy()
    values[0, 0] = np.inf
    _, (unit,) = units_of(collection({"w": values}))
    assert kept_ways(unit) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_what_is_offered_is_what_is_made(dtype: Any, size: float) -> None:
    values = heavy(3, dtype) * dtype(size)
    proto = collection({"w": values})
    document, (unit,) = units_of(proto)
    decoder = Decoder(document=document, calibration=None, methods=Methods())
    ways = kept_ways(unit)
    assert ways
    for way in ways:
        item = unit.candidates[way]
        assert item.form is not None
        assert item.label.endswith(f", {item.form.kept} kept")
        (choice,) = unit.choices(document, way)
        planned = tensor_plan(choice, make_options({}))
        planned = replace(planned, ce2_bits=None)
        decoded = decoder.decoded(unit, way)
        known = encode.fitted(values, planned)
        np.testing.assert_array_equal(decoded, encode.decoded(values, planned, known))
        error = float(np.sum((values.astype(np.float64) - decoded) ** 2))
        assert error == pytest.approx(item.distortion, rel=0.02)
        plan = Plan(tensors=(planned,), skips=())
        report, converted = onnxq.convert(proto, plan=plan, check=0)
        assert report.predicted_bytes == converted.ByteSize()
        np.testing.assert_array_equal(assert_three_agree(converted)["w_out"], decoded)


def test_a_plan_of_a_size_keeps_outliers(tmp_path: Any) -> None:
    proto = collection({"a": heavy(1), "b": heavy(2), "c": graphs.normal((40, 50), 3)})
    report, converted = onnxq.convert(proto, target_size=8000, check=0)
    assert any(row.kept_values for row in report.tensors)
    assert report.output.file_bytes == converted.ByteSize() <= 8000
    assert_three_agree(converted)
