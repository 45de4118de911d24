"""Rows and ledger: every byte in one part, every tensor in one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

import onnxq
from onnxq import summary
from onnxq.forms import canonical
from onnxq.report import InspectReport, Report
from onnxq.trees import FLOAT16
from tests import graphs
from tests.encoded import make_form

FAST: dict[str, Any] = {"init": "quantile", "max_iterations": 1, "check": 0}


def converted(proto: ModelProto, **options: Any) -> tuple[Report, ModelProto]:
    report, made = onnxq.convert(proto, **{**FAST, "bits": 4, **options})
    return report, made


def inspected(proto: ModelProto) -> InspectReport:
    return onnxq.inspect(proto)


# The ledger


def test_parts_of_the_ledger_are_what_they_say() -> None:
    proto = graphs.conv_bn_relu()
    report, made = converted(proto, bits=8)
    ledger = report.ledger
    assert ledger is not None
    planes = [t for t in made.graph.initializer if t.data_type == TensorProto.UINT8]
    assert ledger.indices == sum(len(t.raw_data) for t in planes) == 4608
    assert ledger.codebooks == 4 * 256
    kept = [t for t in made.graph.initializer if t.name in ("b", "scale", "bias", "mean", "var")]
    assert ledger.kept_weights == sum(len(t.raw_data) for t in kept) == 5 * 256
    bare = ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.initializer[0]
    assert ledger.original_graph == bare.ByteSize() - 5 * 256
    assert ledger.total == made.ByteSize()
    assert ledger.added_graph == made.ByteSize() - bare.ByteSize() - 4608 - 1024


def test_model_that_is_kept_is_all_original() -> None:
    report, made = converted(graphs.tiny())
    ledger = report.ledger
    assert ledger is not None
    assert (ledger.indices, ledger.codebooks, ledger.added_graph) == (0, 0, 0)
    assert ledger.kept_weights == 4 * 20
    assert ledger.original_graph == made.ByteSize() - 80


@pytest.mark.parametrize("source", ["inline", "external"])
@pytest.mark.parametrize("target", ["always", "never"])
@pytest.mark.parametrize("name", ["attention", "typed_fields", "sparse", "parameters", "constants"])
def test_ledger_sums_to_the_files(tmp_path: Path, name: str, source: str, target: str) -> None:
    proto = graphs.BY_NAME[name].build()
    proto.graph.initializer.append(graphs.tensor("ints", np.arange(500)))
    path, output = tmp_path / "m.onnx", tmp_path / "out" / "m.onnx"
    output.parent.mkdir()
    if source == "inline":
        onnx.save(proto, path)
    else:
        graphs.save_external(proto, path)
    report = onnxq.convert(path, output, external_data=target, **{**FAST, "bits": 4})
    written = sum(file.stat().st_size for file in output.parent.iterdir())
    assert report.ledger is not None
    assert report.ledger.total == written
    inline, _ = converted(proto)
    assert inline.ledger is not None
    for part in ("indices", "codebooks", "kept_weights"):
        assert getattr(report.ledger, part) == getattr(inline.ledger, part)
    # References and padding of what is kept count as original, of what is new as added.
    assert report.ledger.original_graph >= inline.ledger.original_graph
    assert report.ledger.added_graph >= inline.ledger.added_graph


# CE2


def test_published_size_counts_no_graph_and_no_padding() -> None:
    proto = graphs.conv_bn_relu(channels=61)
    report, _ = converted(proto, preset="ce2", bits=3, init="uniform")
    sizes = [61 * 72, 61, 61, 61, 61]
    assert [row.elements for row in report.tensors] == sizes
    used = sum(row.centroids for row in report.tensors)
    assert report.ce2_bytes == -(-3 * sum(sizes) // 8) + 4 * 61 + 4 * used


def test_published_size_counts_the_width_asked_for() -> None:
    report, _ = converted(graphs.matmul_add(graphs.few(5)), preset="ce2", bits=8, include="w")
    (row,) = report.tensors
    assert (row.bit_width, row.centroids) == (3, 5)
    assert report.ce2_bytes == 6144 + 4 * 5 + 4 * 96


def test_published_size_counts_shared_storage_once() -> None:
    shared, _ = converted(graphs.equal_tensors())
    apart, _ = converted(graphs.equal_tensors(), share_equal=False)
    assert shared.ce2_bytes == 4096 // 2 + 4 * 16
    assert apart.ce2_bytes == 3 * shared.ce2_bytes


def test_published_size_of_a_model_that_is_kept_is_that_of_its_floats() -> None:
    report, _ = converted(graphs.tiny())
    assert report.ce2_bytes == 4 * 20


# Rows


def test_row_of_an_encoded_tensor() -> None:
    report, _ = converted(graphs.matmul_add(), bits=5, init="optimal", max_iterations=300)
    row = report.tensors[0]
    assert (row.name, row.graph, row.shape, row.dtype) == ("w", "main", (64, 96), "float32")
    assert (row.elements, row.bit_width, row.centroids, row.layout) == (6144, 5, 32, "portable")
    assert (row.index_bytes, row.codebook_bytes) == (6144 * 5 // 8, 128)
    assert (row.original_bytes, row.stored_bytes) == (24_576, 6144 * 5 // 8 + 128)
    assert (row.scheme, row.is_lossless, row.same_as) == ("optimal", False, None)
    assert row.snr_db is not None
    assert 20 < row.snr_db < 40


def test_row_of_an_equal_tensor_has_no_bytes_of_its_own() -> None:
    report, made = converted(graphs.equal_tensors())
    for rows in (report.tensors, inspected(made).tensors):
        first, second, third = rows
        assert (first.same_as, second.same_as, third.same_as) == (None, "first", "first")
        assert first.stored_bytes == 2048 + 64
        assert second.stored_bytes == third.stored_bytes == 0
        assert third.shape == (32, 128)
        assert third.elements == 4096


def test_bits_per_weight_count_shared_storage_once() -> None:
    report, made = converted(graphs.equal_tensors())
    expected = 8 * (2048 + 64) / (3 * 4096)
    assert report.bits_per_weight == pytest.approx(expected)
    assert inspected(made).bits_per_weight == pytest.approx(expected)
    assert converted(graphs.tiny())[0].bits_per_weight is None


def test_lossless_row_says_so() -> None:
    report, _ = converted(graphs.matmul_add(graphs.few(5)))
    for row in report.tensors:
        assert (row.is_lossless, row.scheme, row.snr_db, row.gap) == (True, "lossless", None, 0)
        assert row.centroids == 5


def test_found_row_counts_the_centroids_in_use() -> None:
    _, made = converted(graphs.matmul_add(graphs.few(5)), fewer_bits=False, pool_indices=False)
    row = inspected(made).tensors[0]
    assert (row.bit_width, row.centroids, row.codebook_bytes) == (4, 5, 64)
    assert (row.scheme, row.snr_db) == ("unknown", None)


# Notes


def test_note_of_a_width_that_a_layout_lacks() -> None:
    forms = [
        ("a", make_form(*canonical("native", bits, 2**bits, 21), (3, 3), opset=21))
        for bits in (3, 4, 5, 8)
    ]
    assert summary.form_notes(forms, "native") == [
        "layout native has no form for 3 bits; portable was used",
        "layout native has no form for 5 bits; portable was used",
    ]
    older = [("a", make_form("portable", 4, (3, 3), opset=17))]
    assert summary.form_notes(older, "native") == [
        "layout native needs opset 21 for 4 bits and this model has 17; portable was used"
    ]
    assert summary.form_notes(forms[:1], "portable") == []
    assert summary.form_notes([("a", make_form("bytes", 8, (3, 3)))], "bytes") == []


def test_note_of_a_tensor_too_large_to_fold() -> None:
    form = make_form("portable", 4, (2**15, 2**15))
    (note,) = summary.form_notes([("wide", form)], "portable")
    assert note.startswith("tensor 'wide': decodes to 4,294,967,296 bytes; onnxruntime folds")
    small = make_form("bytes", 4, (2**14, 2**14), data_type=FLOAT16)
    assert summary.form_notes([("a", small)], "bytes") == []


# Surroundings


def test_versions_name_what_the_bytes_depend_on() -> None:
    found = summary.versions()
    assert {"onnx", "numpy", "numba"} <= set(found)
    assert found["onnxq"] == onnxq.__version__
    assert found["onnx"] == onnx.__version__
    assert found["numpy"] == np.__version__


def test_peak_memory_is_in_bytes() -> None:
    peak = summary.peak_memory_bytes()
    assert peak is None or 10 << 20 < peak < 1 << 40


# Iterations


def test_rows_tell_the_rounds_of_the_clustering() -> None:
    proto = graphs.conv_bn_relu()
    report, made = converted(proto, max_iterations=3, include="w")
    assert [row.iterations for row in report.tensors] == [3]
    report, _ = converted(proto, init="optimal", include="w", codebook_dtype="float16")
    (row,) = report.tensors
    assert row.iterations is not None
    assert row.iterations > 0
    report, _ = converted(graphs.BY_NAME["equal_tensors"].build(), max_iterations=2)
    assert [row.iterations for row in report.tensors] == [2, 2, 2]
    assert [row.iterations for row in inspected(made).tensors] == [None]


def test_lossless_row_took_no_rounds() -> None:
    proto = graphs.conv_bn_relu(lambda shape, seed: graphs.normal(shape, seed).round())
    report, _ = converted(proto, include="w")
    assert [(row.scheme, row.iterations) for row in report.tensors] == [("lossless", 0)]
