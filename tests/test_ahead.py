"""Codebooks fitted ahead of encoding: sizes foreseen to the byte, nothing fitted twice."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import onnxq
from onnxq import encode as encoding
from onnxq import model
from onnxq.ahead import fit_open, open_tensors, working_bytes
from onnxq.clustering import cluster
from onnxq.encode import encode
from onnxq.options import make_options
from onnxq.plans import form_of, make_plan
from tests import graphs
from tests.encoded import make_form, planned

INITS = ["optimal", "bounded-pdf", "uniform", "quantile"]


def two_tensors(dtype: Any) -> ModelProto:
    """Return a model of an odd and an equal pair of weights, some of them close together."""
    first = graphs.normal((50, 31), 3).astype(dtype)
    second = graphs.normal((31, 40), 4)
    second[:, :20] = np.float32(1) + np.float32(2**-13) * np.round(second[:, :20] * 400)
    floats = graphs.tensors(w=first, same=first.copy(), v=second.astype(dtype))
    nodes = [
        graphs.node("MatMul", "x,w", "a"),
        graphs.node("MatMul", "x,same", "b"),
        graphs.node("Add", "a,b", "c"),
        graphs.node("MatMul", "c,v", "y"),
    ]
    kind = graphs.DATA_TYPES[np.dtype(dtype)]
    inputs = [graphs.value("x", 2, 50, dtype=kind)]
    outputs = [graphs.value("y", 2, 40, dtype=kind)]
    return graphs.model(graphs.graph(nodes, inputs, outputs, floats), 25)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("codebook", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["portable", "native", "bytes"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, graphs.BFLOAT16])
def test_predicted_size_is_the_written_one(
    init: Any, codebook: Any, layout: Any, dtype: Any
) -> None:
    """docs/adr/0006: to the byte, also where centroids drop out or are rounded to the same."""
    made = two_tensors(dtype)
    fallen = 0
    for bits in (2, 4, 7, 8):
        chosen = {"bits": bits, "init": init, "layout": layout, "codebook_dtype": codebook}
        found = onnxq.inspect(made, **chosen)
        report, written = onnxq.convert(made, check=0, **chosen)
        size = written.ByteSize()
        assert report.predicted_bytes == report.output.file_bytes == size
        assert found.predicted_file_bytes == size
        fallen += sum(row.centroids < 1 << bits for row in report.tensors)
    assert fallen or init != "uniform"


def test_predicted_size_is_the_written_one_for_any_magnitude() -> None:
    made = two_tensors(np.float64)
    (held,) = [tensor for tensor in made.graph.initializer if tensor.name == "v"]
    values = np.concatenate(([1e300], np.arange(1239) * 5e-324)).reshape(31, 40)
    held.raw_data = values.tobytes()
    report, written = onnxq.convert(made, check=0, bits=8)
    assert report.predicted_bytes == written.ByteSize()
    assert report.tensors[-1].centroids < 256


@pytest.mark.parametrize(
    ("init", "codebook", "layout", "ahead_of"),
    [
        ("optimal", "float32", "bytes", 0),
        ("uniform", "float32", "portable", 0),
        ("uniform", "float32", "bytes", 2),
        ("optimal", "float16", "bytes", 2),
    ],
)
def test_no_tensor_is_fitted_twice(
    monkeypatch: pytest.MonkeyPatch, init: Any, codebook: Any, layout: Any, ahead_of: int
) -> None:
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return cluster.fit(*args, **kwargs)

    monkeypatch.setattr(encoding, "fit", counted)
    made, stages = two_tensors(np.float32), []
    onnxq.convert(
        made,
        check=0,
        bits=7,
        init=init,
        layout=layout,
        codebook_dtype=codebook,
        pool_indices=False,
        progress=lambda event: stages.append(event.stage),
    )
    assert len(calls) == 2  # equal tensors once
    assert stages.count("fitting") == ahead_of
    calls.clear()
    onnxq.inspect(
        made, bits=7, init=init, layout=layout, codebook_dtype=codebook, pool_indices=False
    )
    assert len(calls) == ahead_of


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("layout", ["portable", "native", "bytes"])
def test_predicted_size_is_the_written_one_under_a_saved_plan(
    tmp_path: Path, init: Any, layout: Any
) -> None:
    made, path = two_tensors(np.float32), tmp_path / "plan.json"
    given = {"bits": 8, "init": init, "layout": layout}
    report, first = onnxq.convert(made, check=0, save_plan=path, force=True, **given)
    again, second = onnxq.convert(made, check=0, plan=path)
    assert again.predicted_bytes == report.predicted_bytes == second.ByteSize()
    assert second.SerializeToString() == first.SerializeToString()
    # The next version of the model may have fewer distinct values.
    for tensor in made.graph.initializer:
        values = np.round(numpy_helper.to_array(tensor) * 40) / 40
        tensor.raw_data = values.astype(np.float32).tobytes()
    other, changed = onnxq.convert(made, check=0, plan=path)
    assert max(row.centroids for row in other.tensors) < 100
    assert other.predicted_bytes == changed.ByteSize()


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("jobs", [1, 3])
def test_codebooks_fitted_ahead_are_those_that_encoding_finds(init: Any, jobs: int) -> None:
    document = model.wrap(two_tensors(np.float32))
    weights = model.weights(document)
    for layout, codebook in (("bytes", "float16"), ("native", "float32")):
        given = {"bits": 7, "init": init, "layout": layout, "codebook_dtype": codebook}
        plan = make_plan(document, weights, make_options(given), 1)
        fits = fit_open(document, open_tensors(plan, weights), weights, jobs)
        assert all(found.indices.size == 0 for found in fits.values())
        for tensor, weight in zip(plan.tensors, weights, strict=True):
            if tensor.key in fits:
                values, form = model.read(document, weight), form_of(tensor, 25, weight.data_type)
                one = encode(values, tensor, form)
                two = encode(values, tensor, form, known=fits[tensor.key])
                assert (one.form, one.distortion, one.gap) == (two.form, two.distortion, two.gap)
                for role, payload in one.payloads.items():
                    assert payload.tobytes() == two.payloads[role].tobytes()


@pytest.mark.parametrize("elements", [140_000, 1_000_000, 4_000_000])
@pytest.mark.parametrize("bits", [4, 12, 16])
@pytest.mark.parametrize("data_type", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("init", ["optimal", "uniform"])
def test_a_tensor_takes_no_more_than_it_is_charged_for(
    elements: int, bits: int, data_type: int, init: Any
) -> None:
    values = np.random.default_rng(bits).standard_normal(elements, dtype=np.float32)
    values = values.astype(np.float16) if data_type == TensorProto.FLOAT16 else values
    form = make_form("portable", bits, (elements,), data_type=data_type, centroids=1 << bits)
    tensor = planned(form, init=init, max_iterations=2)
    encode(values, tensor, form)  # compiling takes memory once
    tracemalloc.start()
    try:
        encode(values, tensor, form, jobs=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tensor.original_bytes == values.nbytes
    assert values.nbytes + peak <= working_bytes(tensor)
