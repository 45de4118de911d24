"""The public functions: what goes in, what comes back, what the options mean."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import onnxq
from onnxq import checks
from onnxq.errors import InputError, OnnxqError, OptionError, OutputError, UnsupportedError
from onnxq.plans import Plan
from onnxq.report import Report, from_json
from tests import graphs, reading, runs

FAST: dict[str, Any] = {"init": "quantile", "max_iterations": 1, "check": 0}


def convert(source: Any, **options: Any) -> tuple[Report, ModelProto]:
    report, converted = onnxq.convert(source, **{**FAST, "bits": 4, **options})
    assert isinstance(converted, ModelProto)
    return report, converted


def widths(report: Report) -> dict[str, int]:
    return {row.name: row.bit_width for row in report.tensors}


def reasons(report: Report) -> dict[str, str]:
    return {row.name: row.reason for row in report.skipped}


def arrays(proto: ModelProto) -> dict[str, graphs.Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


# Sources and what comes back


def saved(tmp_path: Path, proto: ModelProto) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    return path


def test_every_kind_of_source_gives_the_same_model(tmp_path: Path) -> None:
    proto = graphs.attention()
    path = saved(tmp_path, proto)
    expected = convert(proto)[1]
    assert convert(path)[1] == expected
    assert convert(str(path))[1] == expected
    report, made = onnxq.convert(onnx_ir.from_proto(proto), **FAST, bits=4)
    assert isinstance(made, onnx_ir.Model)
    again = onnx_ir.to_proto(made)
    assert [t.SerializeToString() for t in again.graph.initializer] == [
        t.SerializeToString() for t in expected.graph.initializer
    ]
    feeds = graphs.feeds(proto)
    runs.assert_same(runs.run(again, feeds), runs.run(expected, feeds))
    assert [row.name for row in report.tensors] == [*"qkvo", "mask"]


def test_with_an_output_only_the_report_comes_back(tmp_path: Path) -> None:
    proto = graphs.attention()
    for source in (saved(tmp_path, proto), proto, onnx_ir.from_proto(proto)):
        output = tmp_path / "out.onnx"
        report = onnxq.convert(source, output, force=True, **FAST, bits=4)
        assert isinstance(report, Report)
        assert report.output.path == os.fspath(output)
        assert report.output.file_bytes == output.stat().st_size
        assert report.input.path == (os.fspath(source) if isinstance(source, Path) else None)
        assert len(onnx.load(output).graph.initializer) > 5


def test_restore_gives_back_a_model_of_the_kind_of_its_source(tmp_path: Path) -> None:
    _, converted = convert(graphs.attention())
    report, plain = onnxq.restore(converted)
    assert isinstance(plain, ModelProto)
    assert [row.name for row in report.tensors] == [*"qkvo", "mask"]
    assert report.output.path is None
    assert report.output.file_bytes == plain.ByteSize()
    _, again = onnxq.restore(onnx_ir.from_proto(converted))
    assert isinstance(again, onnx_ir.Model)
    onnx.save(converted, tmp_path / "c.onnx")
    report = onnxq.restore(tmp_path / "c.onnx", tmp_path / "plain.onnx")
    assert report.output.file_bytes == (tmp_path / "plain.onnx").stat().st_size
    assert onnx.load(tmp_path / "plain.onnx") == plain


def test_external_values_of_an_ir_model_are_found(tmp_path: Path) -> None:
    proto = graphs.attention()
    graphs.save_external(proto, tmp_path / "m.onnx")
    model = onnx_ir.load(tmp_path / "m.onnx")
    _, made = onnxq.convert(model, **FAST, bits=4)
    expected = arrays(convert(proto)[1])
    found = arrays(onnx_ir.to_proto(made))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        runs.assert_equal(found[name], array, name)


def test_given_models_are_never_changed(tmp_path: Path) -> None:
    proto = graphs.branches()
    _, converted = convert(proto)
    before = proto.SerializeToString(), converted.SerializeToString()
    model = onnx_ir.from_proto(proto)
    text = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    for source in (proto, model):
        onnxq.convert(source, **FAST)
        onnxq.convert(source, tmp_path / "c.onnx", force=True, **FAST)
        onnxq.inspect(source)
    for operation in (onnxq.inspect, onnxq.restore):
        operation(converted)
    onnxq.convert(converted, requantize=True, **FAST)
    onnxq.validate(proto, converted, performance=False)
    assert (proto.SerializeToString(), converted.SerializeToString()) == before
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == text


@pytest.mark.parametrize("source", [None, 3, b"bytes", graphs.tiny().graph, ["m.onnx"]])
def test_what_is_no_model_is_refused(source: Any) -> None:
    for operation in (onnxq.convert, onnxq.inspect, onnxq.restore):
        with pytest.raises(InputError, match=r"model: found .*, expected a path"):
            operation(source)


def test_public_names_are_there_at_once() -> None:
    assert set(onnxq.__all__) == {
        "__version__",
        "convert",
        "inspect",
        "lowrank",
        "plan",
        "restore",
        "sweep",
        "validate",
    }
    assert set(onnxq.__all__) <= set(dir(onnxq))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        onnxq.nothing  # noqa: B018


def test_report_comes_back_from_its_json(tmp_path: Path) -> None:
    report, _ = convert(graphs.conv_bn_relu(), check=1)
    assert from_json(json.loads(json.dumps(report.to_json()))) == report
    assert report.check is not None
    assert report.check.status == "ok"


def test_one_sample_is_checked_by_default_and_as_many_as_asked_for() -> None:
    given = {"init": "quantile", "max_iterations": 1}
    report, _ = onnxq.convert(graphs.matmul_add(), **given)
    assert report.check is not None
    assert report.check.samples == 1
    assert report.check.worst_snr_db is not None
    report, _ = onnxq.convert(graphs.matmul_add(), check=3, **given)
    assert report.check is not None
    assert report.check.samples == 3
    assert convert(graphs.matmul_add(), check=0)[0].check is None
    with pytest.raises(OptionError, match="--check"):
        onnxq.convert(graphs.matmul_add(), check=-1)


def test_random_indices_reach_the_whole_table() -> None:
    reference = graphs.embedding()
    table = max(reference.graph.initializer, key=lambda tensor: tensor.ByteSize())
    values = numpy_helper.to_array(table).copy()
    values[-1] += 1
    candidate = ModelProto()
    candidate.CopyFrom(reference)
    for tensor in candidate.graph.initializer:
        if tensor.name == table.name:
            tensor.CopyFrom(numpy_helper.from_array(values, table.name))
    assert not onnxq.validate(reference, candidate, samples=300, performance=False).check.is_equal


def test_large_model_is_checked_on_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LIMIT_BYTES", 1000)
    report, _ = onnxq.convert(graphs.matmul_add())
    assert report.check is not None
    assert (report.check.status, report.check.samples) == ("skipped", 0)
    report, _ = onnxq.convert(graphs.matmul_add(), check=1)
    assert report.check is not None
    assert report.check.status == "ok"


# Which tensors


def test_include_and_exclude_choose_tensors_by_their_name_or_node() -> None:
    proto = graphs.attention()
    assert set(widths(convert(proto, include=["q", "k"])[0])) == {"q", "k"}
    report, converted = convert(proto, include="*", exclude=["q", "mask"])
    assert set(widths(report)) == set("kvo")
    assert reasons(report)["q"] == "excluded"
    runs.assert_equal(arrays(converted)["q"], arrays(proto)["q"])
    assert set(widths(convert(graphs.matmul_add(), include="proj")[0])) == {"w"}


def test_op_types_choose_consumers() -> None:
    report, _ = convert(graphs.attention(), op_types=["Add"])
    assert set(widths(report)) == {"mask"}
    assert reasons(report)["q"] == "op-type"


def test_tensor_bits_choose_widths() -> None:
    report, _ = convert(graphs.attention(), tensor_bits={"[qk]": 3, "k": 5})
    assert widths(report) == {"q": 3, "k": 5, "v": 4, "o": 4, "mask": 1}


def test_min_elements_keep_short_tensors() -> None:
    report, _ = convert(graphs.conv_bn_relu(), min_elements=65, only_smaller=False)
    assert set(widths(report)) == {"w"}
    assert reasons(report)["b"] == "too-few-elements"
    report, _ = convert(graphs.conv_bn_relu(), min_elements=64, only_smaller=False)
    assert set(widths(report)) == {"w", "b", "scale", "bias", "mean"}


def test_biases_and_normalisation_are_kept_on_request() -> None:
    proto = graphs.conv_bn_relu()
    report, _ = convert(proto, only_smaller=False, quantize_bias=False, quantize_norm=False)
    assert set(widths(report)) == {"w"}
    assert reasons(report) == {
        "b": "bias-kept", **dict.fromkeys(("scale", "bias", "mean"), "norm-kept"),
        "var": "variance",
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"include": "nothing"}, {"exclude": ["w", "nothing"]}, {"op_types": "LSTM"},
        {"tensor_bits": {"nothing": 4}}, {"tensor_bits": {"w": 0}}, {"bits": 0}, {"bits": 17},
        {"layout": "zip"}, {"unknown": 1}, {"init": "best"}, {"jobs": -1}, {"preset": "ce1"},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_option_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(OptionError):
        onnxq.convert(graphs.matmul_add(), tmp_path / "m.onnx", **{**FAST, **options})
    assert list(tmp_path.iterdir()) == []


# The published scheme


@pytest.mark.parametrize("bits", range(1, 13))
def test_published_scheme_encodes_every_tensor_of_enough_elements(bits: int) -> None:
    proto = graphs.conv_bn_relu()
    report, converted = convert(proto, preset="ce2", bits=bits, init=None)
    enough = {name for name, array in arrays(proto).items() if array.size >= 1.6 * 2**bits}
    assert set(widths(report)) == enough - {"var"}
    assert set(widths(report).values()) <= {bits}
    kept = {name: reason for name, reason in reasons(report).items() if name != "var"}
    assert set(kept.values()) <= {"too-few-elements"}
    assert reasons(report)["var"] == "variance"
    assert {row.scheme for row in report.tensors} <= {"bounded-pdf", "lossless"}
    assert report.options["init"] == "bounded-pdf"
    sizes = [arrays(proto)[name].size for name in widths(report)]
    kept_floats = sum(array.size for array in arrays(proto).values()) - sum(sizes)
    used = sum(row.centroids for row in report.tensors)
    assert report.ce2_bytes == -(-bits * sum(sizes) // 8) + 4 * kept_floats + 4 * used
    onnx.checker.check_model(converted, full_check=True)


def test_published_scheme_gives_equal_tensors_codebooks_of_their_own() -> None:
    report, _ = convert(graphs.equal_tensors(), preset="ce2")
    assert [row.same_as for row in report.tensors] == [None] * 3


# Codebooks of float16


@pytest.mark.parametrize("bits", [5, 8, 11])
def test_half_codebook_halves_the_codebook(bits: int) -> None:
    proto = graphs.matmul_add()
    full, _ = convert(proto, bits=bits, include="w")
    half, converted = convert(proto, bits=bits, include="w", codebook_dtype="float16")
    assert 2 * half.tensors[0].codebook_bytes <= full.tensors[0].codebook_bytes
    assert half.tensors[0].dtype == "float32"
    assert half.tensors[0].snr_db is not None
    decoded = reading.floats(onnxq.restore(converted)[1])[("main",), "w"]
    assert decoded.dtype == np.float32
    runs.assert_equal(decoded.astype(np.float16).astype(np.float32), decoded)


def test_half_codebook_is_not_forced_where_it_loses_exactness() -> None:
    proto = graphs.matmul_add(graphs.few(30))
    report, converted = convert(proto, bits=5, codebook_dtype="float16")
    assert all(row.is_lossless for row in report.tensors)
    feeds = graphs.feeds(proto)
    runs.assert_same(runs.run(converted, feeds), runs.run(proto, feeds))


# Lossless, infinities, NaN


@pytest.mark.parametrize("layout", ["portable", "native", "bytes"])
@pytest.mark.parametrize("bits", [1, 4, 9])
def test_lossless_conversion_computes_the_same_bits(layout: str, bits: int) -> None:
    proto = graphs.attention(graphs.few(min(2**bits, 400)))
    report, converted = convert(proto, bits=bits, layout=layout)
    assert {row.scheme for row in report.tensors} == {"lossless"}
    feeds = graphs.feeds(proto)
    runs.assert_same(runs.run(converted, feeds), runs.run(proto, feeds))


def test_mask_of_infinities_is_exact_at_one_bit() -> None:
    proto = graphs.attention()
    report, converted = convert(proto, bits=1)
    row = next(row for row in report.tensors if row.name == "mask")
    assert (row.is_lossless, row.centroids, row.bit_width) == (True, 2, 1)
    _, plain = onnxq.restore(converted)
    runs.assert_equal(arrays(plain)["mask"], arrays(proto)["mask"])


def test_infinities_among_weights_keep_centroids_of_their_own() -> None:
    report, converted = convert(graphs.nan_and_infinity(), init="optimal")
    assert reasons(report)["bad"] == "nan"
    _, plain = onnxq.restore(converted)
    wide, decoded = arrays(graphs.nan_and_infinity())["wide"], arrays(plain)["wide"]
    assert np.array_equal(np.isposinf(wide), np.isposinf(decoded))
    assert np.array_equal(np.isneginf(wide), np.isneginf(decoded))
    assert np.unique(decoded[np.isfinite(decoded)]).size <= 14


# Ties


def test_tied_weight_stays_one_tensor() -> None:
    report, converted = convert(graphs.tied())
    assert [row.name for row in report.tensors] == ["w"]
    assert sum(t.data_type == TensorProto.UINT8 for t in converted.graph.initializer) == 1
    _, plain = onnxq.restore(converted)
    assert [t.name for t in plain.graph.initializer] == ["w"]


def test_equal_tensors_under_other_names_are_stored_once() -> None:
    report, converted = convert(graphs.equal_tensors())
    assert [row.same_as for row in report.tensors] == [None, "first", "first"]
    assert sum(t.data_type == TensorProto.UINT8 for t in converted.graph.initializer) == 1


# Converted models


def test_converted_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    _, converted = convert(graphs.attention())
    with pytest.raises(UnsupportedError, match=r"converted already .*'q'.*--requantize") as caught:
        onnxq.convert(converted, tmp_path / "m.onnx", **FAST)
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_requantizing_is_converting_the_restored_model(bits: int) -> None:
    _, converted = convert(graphs.attention())
    _, again = convert(converted, bits=bits, requantize=True)
    _, direct = convert(onnxq.restore(converted)[1], bits=bits)
    assert again == direct


def test_plain_model_may_be_requantized() -> None:
    assert convert(graphs.attention(), requantize=True)[1] == convert(graphs.attention())[1]


def test_plain_model_holds_nothing_to_restore(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to restore"):
        onnxq.restore(graphs.attention(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


# Plans


def test_saved_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    proto, plan = graphs.attention(), tmp_path / "plan.json"
    _, first = convert(proto, save_plan=plan, tensor_bits={"q": 3})
    for given in (plan, str(plan), Plan.from_json(json.loads(plan.read_text()), "plan")):
        _, again = onnxq.convert(proto, plan=given, check=0)
        assert again == first


def test_plan_is_not_overwritten_without_force(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("precious")
    with pytest.raises(OutputError, match="force"):
        convert(graphs.tiny(), save_plan=plan)
    assert plan.read_text() == "precious"
    convert(graphs.tiny(), save_plan=plan, force=True)
    assert json.loads(plan.read_text())["plan_version"] == 3


def test_part_of_a_plan_converts_that_part(tmp_path: Path) -> None:
    proto, path = graphs.attention(), tmp_path / "plan.json"
    convert(proto, save_plan=path)
    plan = Plan.from_json(json.loads(path.read_text()), "plan")
    report, _ = onnxq.convert(
        proto, plan=dataclasses.replace(plan, tensors=plan.tensors[:2]), check=0
    )
    assert set(widths(report)) == {"q", "k"}
    assert reasons(report)["v"] == "not-in-plan"


# Validation


def test_equal_models_are_valid() -> None:
    report = onnxq.validate(graphs.attention(), graphs.attention(), min_snr=300, performance=False)
    assert (report.passed, report.failures) == (True, ())
    assert report.check.is_equal
    assert report.reference.file_bytes == report.candidate.file_bytes


def test_candidate_below_the_least_ratio_fails_by_name(tmp_path: Path) -> None:
    proto = graphs.matmul_add()
    _, converted = convert(proto, bits=2)
    path = saved(tmp_path, converted)
    for candidate in (converted, path, onnx_ir.from_proto(converted)):
        report = onnxq.validate(proto, candidate, min_snr=60, samples=2, performance=False)
        assert not report.passed
        assert len(report.failures) == 1
        assert report.failures[0].startswith("--min-snr 60: output 'y' has ")
        assert onnxq.validate(proto, candidate, min_snr=1, performance=False).passed
    assert report.candidate.ratio is not None
    assert report.candidate.ratio > 5


def test_inputs_of_the_caller_are_used(tmp_path: Path) -> None:
    proto = graphs.matmul_add()
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 64), np.float32), label=np.zeros(2))
    _, converted = convert(proto, bits=2, include="w")
    for inputs in (tmp_path / "x.npz", {"x": np.zeros((2, 64), np.float32)}):
        report = onnxq.validate(proto, converted, inputs=inputs, performance=False)
        assert report.check.is_equal  # nothing but the bias is left
    with pytest.raises(OnnxqError):
        onnxq.validate(proto, converted, inputs={"x": np.zeros((2, 3), np.float32)})


# Reproducibility


@pytest.mark.parametrize("name", ["attention", "branches", "functions", "lstm"])
def test_jobs_and_repetition_do_not_change_the_bytes(name: str) -> None:
    proto = graphs.BY_NAME[name].build()
    made = [
        convert(proto, init="optimal", jobs=jobs)[1].SerializeToString(deterministic=True)
        for jobs in (1, 1, 4)
    ]
    assert len(set(made)) == 1
