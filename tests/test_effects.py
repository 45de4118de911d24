from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxq
from onnxq import model
from onnxq.data.drawn_data import GivenData
from onnxq.errors import InputError
from onnxq.validation.effects import rank_layers
from onnxq.validation.measurements import LayerRow
from onnxq.validation.reference_runs import ReferenceRuns
from tests import graphs


def ranked(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, seen: list[object] | None = None
) -> tuple[LayerRow, ...]:
    told = None if seen is None else lambda *event: seen.append(event)
    data = GivenData([graphs.feeds(reference)])
    with ReferenceRuns(reference.SerializeToString(), data) as runs:
        return rank_layers(model.wrap(reference), model.wrap(candidate), runs, told)


@pytest.mark.parametrize(
    "name",
    ["conv_bn_relu", "lstm", "constants", "branches", "functions", "equal_tensors",
     "weight_aliases", "ir3", "float16", "typed_fields", "tied", "loop"],
)  # fmt: skip
def test_every_encoded_tensor_has_a_row_with_the_loss_of_the_conversion(name: str) -> None:
    case = graphs.BY_NAME[name]
    reference = case.build()
    report, candidate = onnxq.convert(reference, bits=3, check=0)
    rows = {(row.graph, row.name): row for row in ranked(reference, candidate)}
    assert set(rows) == {(row.graph, row.name) for row in report.tensors}
    for tensor in report.tensors:
        row = rows[tensor.graph, tensor.name]
        assert row.bit_width == tensor.bit_width
        assert row.elements == tensor.elements
        assert row.stored_bytes == tensor.stored_bytes
        assert (row.snr_db is None) == (tensor.snr_db is None)
        if tensor.snr_db is not None:
            assert row.snr_db == pytest.approx(tensor.snr_db, abs=0.01)


def two_layers(second: float) -> onnx.ModelProto:
    """Return y = (x @ a) + second * (x @ b): the larger `second`, the more b matters."""
    rng = np.random.default_rng(7)
    a = rng.standard_normal((32, 32)).astype(np.float32)
    b = rng.standard_normal((32, 32)).astype(np.float32)
    return graphs.model(
        graphs.graph(
            [
                graphs.node("MatMul", "x,a", "p"),
                graphs.node("MatMul", "x,b", "q"),
                graphs.node("Mul", "q,f", "r"),
                graphs.node("Add", "p,r", "y"),
            ],
            [graphs.value("x", 4, 32)],
            [graphs.value("y", 4, 32)],
            graphs.tensors(a=a, b=b, f=np.float32(second)),
        )
    )


@pytest.mark.parametrize(("second", "first"), [(100.0, "b"), (0.01, "a")])
def test_the_tensor_that_decides_the_output_comes_first(second: float, first: str) -> None:
    reference = two_layers(second)
    _, candidate = onnxq.convert(reference, bits=2, check=0)
    rows = ranked(reference, candidate)
    assert rows[0].name == first
    assert rows[0].output == "y"
    assert rows[0].output_snr_db is not None
    assert rows[1].output_snr_db is not None
    assert rows[0].output_snr_db + 20 < rows[1].output_snr_db


def test_the_effect_is_that_of_the_model_with_this_tensor_alone_converted() -> None:
    reference = two_layers(1.0)
    _, candidate = onnxq.convert(reference, bits=2, check=0)
    rows = {row.name: row for row in ranked(reference, candidate)}
    for name in "ab":
        _, alone = onnxq.convert(reference, bits=2, check=0, include=(name,))
        report = onnxq.validate(reference, alone, inputs=graphs.feeds(reference))
        assert rows[name].output_snr_db == pytest.approx(report.check.worst_snr_db)


def test_an_exact_tensor_is_last_and_equal() -> None:
    reference = two_layers(1.0)
    for tensor in reference.graph.initializer:
        if tensor.name == "a":
            tensor.CopyFrom(graphs.tensor("a", graphs.few(4)((32, 32), 1)))
    _, candidate = onnxq.convert(reference, bits=2, check=0)
    last = ranked(reference, candidate)[-1]
    assert (last.name, last.snr_db, last.output_snr_db, last.is_equal) == ("a", None, None, True)


def test_a_plain_candidate_is_compared_by_the_tensors_that_differ() -> None:
    reference, candidate = two_layers(1.0), two_layers(1.0)
    changed = onnx.numpy_helper.to_array(candidate.graph.initializer[1]) * np.float32(1.01)
    candidate.graph.initializer[1].CopyFrom(graphs.tensor("b", changed))
    (row,) = ranked(reference, candidate)
    assert (row.name, row.bit_width) == ("b", None)
    assert row.snr_db == pytest.approx(40.0, abs=0.1)


def test_a_broken_output_comes_before_all_others() -> None:
    reference, candidate = two_layers(1.0), two_layers(1.0)
    noisy = onnx.numpy_helper.to_array(candidate.graph.initializer[0]) * np.float32(1.5)
    candidate.graph.initializer[0].CopyFrom(graphs.tensor("a", noisy))
    broken = np.full((32, 32), np.nan, np.float32)
    candidate.graph.initializer[1].CopyFrom(graphs.tensor("b", broken))
    first = ranked(reference, candidate)[0]
    assert (first.name, first.is_equal, first.output_snr_db) == ("b", False, -np.inf)


def test_progress_is_told_of_every_tensor_and_the_reference_is_left_as_it_was() -> None:
    reference = two_layers(1.0)
    before = reference.SerializeToString(deterministic=True)
    _, candidate = onnxq.convert(reference, bits=2, check=0)
    seen: list[object] = []
    document = model.wrap(reference)
    data = GivenData([graphs.feeds(reference)])
    with ReferenceRuns(before, data) as runs:
        rank_layers(document, model.wrap(candidate), runs, lambda *event: seen.append(event))
    assert seen == [("a", 1, 2), ("b", 2, 2)]
    assert document.proto.SerializeToString(deterministic=True) == before


def test_a_reference_with_external_data(tmp_path: Path) -> None:
    reference = two_layers(1.0)
    _, candidate = onnxq.convert(reference, bits=2, check=0)
    path = tmp_path / "m.onnx"
    graphs.save_external(two_layers(1.0), path)
    with ReferenceRuns(path, GivenData([graphs.feeds(reference)])) as runs:
        rows = rank_layers(model.load(path), model.wrap(candidate), runs)
    assert rows == ranked(reference, candidate)


def test_models_without_a_common_tensor_are_refused() -> None:
    with pytest.raises(InputError, match="holds no tensor that"):
        ranked(two_layers(1.0), graphs.BY_NAME["gemm"].build())
