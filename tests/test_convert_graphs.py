"""What a conversion does to whole models: outputs, structure, names, skips, sizes, determinism."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, ModelProto

import onnxq
from onnxq.errors import InputError, OnnxqError
from onnxq.report import Report
from tests import graphs, reading, runs

RUNNABLE = tuple(case for case in graphs.CASES if case.is_runnable)
FAST: tuple[dict[str, Any], ...] = (
    {"bits": 4},
    {"bits": 5, "layout": "bytes"},
    {"bits": 7, "codebook_dtype": "float16"},
    {"bits": 3, "only_smaller": False, "fewer_bits": False, "share_equal": False},
)
SLOW: tuple[dict[str, Any], ...] = (
    {"bits": 1},
    {"bits": 3},
    {"bits": 4, "layout": "native"},
    {"bits": 8},
    {"bits": 11},
    {"preset": "ce2", "bits": 2},
    {"bits": 12, "only_smaller": False, "fewer_bits": False, "layout": "portable"},
)
SETTINGS = FAST + SLOW
AT_4_BITS = 0
"""The place of {"bits": 4} in SETTINGS."""


def _label(item: Any) -> str:
    if isinstance(item, graphs.Case):
        return item.name
    return "-".join(str(v) if k != "only_smaller" else "all" for k, v in item.items())


each_case = pytest.mark.parametrize("case", graphs.CASES, ids=_label)
each_runnable = pytest.mark.parametrize("case", RUNNABLE, ids=_label)
each_setting = pytest.mark.parametrize(
    "setting", [*FAST, *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)], ids=_label
)


def convert(model: ModelProto | str | Path, **options: Any) -> tuple[Report, ModelProto]:
    report, converted = onnxq.convert(model, check=0, **options)
    assert isinstance(converted, ModelProto)
    return report, converted


def restore(model: ModelProto) -> ModelProto:
    """Return the restored twin; a model that holds nothing encoded is its own."""
    if not onnxq.inspect(model).is_converted:
        return model
    _, restored = onnxq.restore(model)
    assert isinstance(restored, ModelProto)
    return restored


@cache
def _converted(name: str, setting: int) -> tuple[ModelProto, Report, ModelProto]:
    model = graphs.BY_NAME[name].build()
    report, converted = convert(model, **SETTINGS[setting])
    return model, report, converted


def fixture(case: graphs.Case, setting: dict[str, Any]) -> tuple[ModelProto, Report, ModelProto]:
    return _converted(case.name, SETTINGS.index(setting))


def encoded(model: ModelProto, converted: ModelProto) -> set[tuple[reading.Key, str]]:
    """Return the float tensors that the converted model no longer holds."""
    return set(reading.floats(model)) - set(reading.floats(converted))


def passes_full_check(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


# Outputs


@each_setting
@each_runnable
def test_converted_computes_what_its_restored_twin_computes(
    case: graphs.Case, setting: dict[str, Any]
) -> None:
    _, _, converted = fixture(case, setting)
    restored = restore(converted)
    for seed in (0, 1):
        feeds = graphs.feeds(converted, seed)
        runs.assert_same(runs.run(converted, feeds), runs.run(restored, feeds))
    plain = runs.run(converted, feeds, optimize=False)
    runs.assert_same(plain, runs.run(restored, feeds, optimize=False))


@each_setting
@each_runnable
def test_default_session_folds_every_decode_node(
    case: graphs.Case, setting: dict[str, Any], tmp_path: Path
) -> None:
    """After onnxruntime's own optimisation nothing is left that the restored twin has not."""
    _, _, converted = fixture(case, setting)
    found = runs.optimized(converted, tmp_path / "converted.onnx")
    expected = runs.optimized(restore(converted), tmp_path / "restored.onnx")
    for key, scope in reading.scopes(expected).items():
        kinds = Counter(node.op_type for node in reading.scopes(found)[key].node)
        assert kinds == Counter(node.op_type for node in scope.node)


@pytest.mark.parametrize("bits", [1, 3, 4, 6])
@each_runnable
def test_few_valued_weights_are_stored_without_loss(case: graphs.Case, bits: int) -> None:
    # Room is left for the infinities that one of the models adds.
    model = case.build(graphs.few(max(1, 2**bits - 2)))
    report, converted = convert(
        model, bits=max(bits, 2) if case.name == "nan_and_infinity" else bits
    )
    restored = restore(converted)
    before, after = reading.floats(model), reading.floats(restored)
    assert before.keys() == after.keys()
    for key, array in before.items():
        runs.assert_equal(after[key], array, str(key))
    assert all(row.is_lossless and row.snr_db is None for row in report.tensors)
    feeds = graphs.feeds(model)
    runs.assert_same(runs.run(converted, feeds), runs.run(model, feeds))


@each_setting
@each_case
def test_restored_model_differs_from_the_original_only_in_values(
    case: graphs.Case, setting: dict[str, Any]
) -> None:
    model, _, converted = fixture(case, setting)
    restored = restore(converted)
    gone = encoded(model, converted)
    for key, array in reading.floats(model).items():
        decoded = reading.floats(restored)[key]
        assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
    assert reading.without(restored, gone) == reading.without(model, gone)


@pytest.mark.parametrize("bits", [4, 8])
def test_infinities_are_exact(bits: int) -> None:
    model = graphs.nan_and_infinity()
    wide = reading.floats(model)[("main",), "wide"]
    restored = restore(convert(model, bits=bits)[1])
    decoded = reading.floats(restored)[("main",), "wide"]
    assert np.array_equal(np.isinf(wide), np.isinf(decoded))
    assert np.array_equal(wide[np.isinf(wide)], decoded[np.isinf(wide)])
    finite = np.isfinite(wide)
    error = np.abs(decoded[finite] - wide[finite]).max()
    assert error < 4 * np.ptp(wide[finite]) / 2**bits


# Structure


@each_setting
@each_case
def test_converted_passes_the_checker(case: graphs.Case, setting: dict[str, Any]) -> None:
    model, _, converted = fixture(case, setting)
    onnx.checker.check_model(converted, full_check=passes_full_check(model))


@each_setting
@each_case
def test_everything_but_the_weights_is_preserved(
    case: graphs.Case, setting: dict[str, Any]
) -> None:
    model, _, converted = fixture(case, setting)
    gone = encoded(model, converted)
    assert reading.frame(converted) == reading.frame(model)
    before, after = reading.scopes(model), reading.scopes(converted)
    assert list(before) == list(after)
    for key, scope in before.items():
        names = {name for scope_key, name in gone if scope_key == key}
        _assert_nodes_preserved(scope, after[key], names)
        _assert_values_preserved(scope, after[key], names)


def _assert_nodes_preserved(before: Any, after: Any, gone: set[str]) -> None:
    constants = reading.constant_names(before) & gone
    kept = [node for node in before.node if node.output[0] not in constants]
    outputs = {tuple(node.output) for node in kept}
    still = [node for node in after.node if tuple(node.output) in outputs]
    assert [reading.bare(node) for node in still] == [reading.bare(node) for node in kept]


def _assert_values_preserved(before: Any, after: Any, gone: set[str]) -> None:
    assert after.name == before.name
    assert after.doc_string == before.doc_string
    assert list(after.metadata_props) == list(before.metadata_props)
    assert list(after.output) == list(before.output)
    assert [v for v in after.value_info if v in before.value_info] == list(before.value_info)
    if isinstance(before, FunctionProto):
        for field in ("domain", "overload", "input", "attribute", "opset_import"):
            assert getattr(after, field) == getattr(before, field)
        return
    held = {tensor.name for tensor in before.initializer}
    inputs = [value for value in before.input if value.name not in held]
    fresh = {tensor.name for tensor in after.initializer}
    assert [value for value in after.input if value.name not in fresh] == inputs
    kept = [t.SerializeToString() for t in before.initializer if t.name not in gone]
    still = [t.SerializeToString() for t in after.initializer if t.name in held - gone]
    assert still == kept
    assert list(after.sparse_initializer) == list(before.sparse_initializer)
    assert list(after.quantization_annotation) == list(before.quantization_annotation)


@each_setting
@each_case
def test_no_name_is_defined_twice(case: graphs.Case, setting: dict[str, Any]) -> None:
    _, _, converted = fixture(case, setting)
    for key, scope in reading.scopes(converted).items():
        names = [name for node in scope.node for name in node.output]
        if not isinstance(scope, FunctionProto):
            names += [tensor.name for tensor in scope.initializer]
            names += [tensor.values.name for tensor in scope.sparse_initializer]
        doubled = [name for name, count in Counter(names).items() if count > 1]
        assert doubled == [], key


@each_case
def test_added_names_are_short(case: graphs.Case) -> None:
    model, _, converted = _converted(case.name, AT_4_BITS)
    before = _all_names(model)
    added = _all_names(converted) - before
    assert all(len(name) <= 6 for name in added), added


def _all_names(model: ModelProto) -> set[str]:
    names = set()
    for scope in reading.scopes(model).values():
        names |= {name for node in scope.node for name in (*node.input, *node.output)}
        if not isinstance(scope, FunctionProto):
            names |= {tensor.name for tensor in scope.initializer}
    return names


def test_plain_model_holds_nothing_to_restore() -> None:
    with pytest.raises(InputError, match="nothing to restore"):
        onnxq.restore(graphs.matmul_add())


def test_the_given_model_is_not_changed() -> None:
    model = graphs.branches()
    before = model.SerializeToString()
    _, converted = convert(model, bits=4)
    after = converted.SerializeToString()
    restore(converted)
    assert model.SerializeToString() == before
    assert converted.SerializeToString() == after


# What is converted and what is not


@each_case
def test_expected_weights_are_converted_and_others_skipped_with_the_reason(
    case: graphs.Case,
) -> None:
    _, report, _ = _converted(case.name, AT_4_BITS)
    assert case.converts <= {row.name for row in report.tensors}
    reasons = {row.name: row.reason for row in report.skipped}
    for name, expected in case.skips.items():
        assert reasons[name] in expected, name


@each_setting
@each_case
def test_report_accounts_for_every_tensor_once(case: graphs.Case, setting: dict[str, Any]) -> None:
    model, report, converted = fixture(case, setting)
    rows = Counter((row.graph, row.name) for row in (*report.tensors, *report.skipped))
    assert all(count == 1 for count in rows.values())
    assert Counter(row.name for row in report.tensors) == Counter(
        name for _, name in encoded(model, converted)
    )
    held = Counter(name for scope in reading.scopes(model).values() for name in reading.held(scope))
    listed = Counter(row.name for row in (*report.tensors, *report.skipped))
    assert held <= listed
    arrays = {name: array for (_, name), array in reading.floats(model).items()}
    for row in report.tensors:
        assert row.elements == arrays[row.name].size
        assert row.shape == arrays[row.name].shape
        assert 1 <= row.centroids <= 2**row.bit_width
        assert row.bit_width <= report.options["bits"]


@each_setting
@each_case
def test_output_is_never_larger_than_the_input(case: graphs.Case, setting: dict[str, Any]) -> None:
    model, report, converted = fixture(case, setting)
    if setting.get("only_smaller", True) and setting.get("preset") is None:
        assert converted.ByteSize() <= model.ByteSize()
        if converted.ByteSize() == model.ByteSize():
            assert report.tensors == ()
    assert report.input.file_bytes == model.ByteSize()


@pytest.mark.parametrize(
    "entry",
    [
        graphs.value("w", 64, 96),
        graphs.value("w", "rows", "columns"),
        graphs.value("w", 1, 2, 3),
        graphs.value("w", 64, 96, dtype=graphs.DATA_TYPES[np.dtype(np.float16)]),
        graphs.value("w", 64, 96, dtype=0),
        onnx.ValueInfoProto(name="w"),
    ],
    ids=["right", "symbolic", "other-shape", "other-type", "no-type", "empty"],
)
def test_what_value_info_says_of_a_weight_never_breaks_the_model(
    entry: onnx.ValueInfoProto,
) -> None:
    """A runtime that ignores the entry of an initializer may trust that of a node's output."""
    model = graphs.matmul_add()
    model.graph.value_info.append(entry)
    feeds = graphs.feeds(model)
    runs.run(model, feeds)
    _, converted = convert(model, bits=4)
    runs.assert_same(runs.run(converted, feeds), runs.run(restore(converted), feeds))


@pytest.mark.parametrize("name", ["tiny", "int8_qdq", "integers_only"])
def test_where_nothing_can_be_gained_the_model_is_equivalent_and_a_note_says_so(name: str) -> None:
    model, report, converted = _converted(name, AT_4_BITS)
    assert converted == model
    assert report.tensors == ()
    assert any("nothing" in note.lower() for note in report.notes)


def test_tied_weights_share_one_index_tensor() -> None:
    model, report, converted = _converted("tied", AT_4_BITS)
    assert [row.name for row in report.tensors] == ["w"]
    consumers = [node.op_type for node in converted.graph.node if "w" in node.input]
    assert consumers == ["MatMul", "Gemm"]
    elements = reading.floats(model)[("main",), "w"].size
    assert _large(converted, elements // 2) == 1


@pytest.mark.parametrize(("name", "count"), [("equal_tensors", 3), ("repeated_constants", 3)])
def test_equal_tensors_are_stored_once(name: str, count: int) -> None:
    _, report, converted = _converted(name, AT_4_BITS)
    assert len(report.tensors) == count
    assert sum(row.same_as is None for row in report.tensors) == 1
    assert _large(converted, 2048) == 1
    assert sum(row.index_bytes for row in report.tensors) == 2048


def test_equal_tensors_are_stored_apart_on_request() -> None:
    _, converted = convert(graphs.equal_tensors(), bits=4, share_equal=False, pool_indices=False)
    assert _large(converted, 2048) == 3


def _large(model: ModelProto, least: int) -> int:
    """Count the tensors of a model with that many bytes of values."""
    every = (t for scope in reading.scopes(model).values() for t in reading.held(scope).values())
    return sum(len(tensor.raw_data) >= least for tensor in every)


@pytest.mark.parametrize("opset", [9, 10, 11, 17, 26])
@pytest.mark.parametrize("bits", range(1, 17))
def test_every_width_works_at_every_opset(opset: int, bits: int) -> None:
    model = graphs.matmul_add(opset=opset)
    _, converted = convert(model, bits=bits, only_smaller=False, fewer_bits=False)
    assert converted.opset_import == model.opset_import
    assert converted.ir_version == model.ir_version
    onnx.checker.check_model(converted, full_check=True)
    feeds = graphs.feeds(model)
    runs.assert_same(runs.run(converted, feeds), runs.run(restore(converted), feeds))


# Sizes and determinism


@each_setting
@each_case
def test_ledger_sums_to_the_model(case: graphs.Case, setting: dict[str, Any]) -> None:
    _, report, converted = fixture(case, setting)
    assert report.ledger is not None
    assert report.ledger.total == converted.ByteSize()
    assert report.ledger.indices == sum(row.index_bytes for row in report.tensors)
    assert report.ledger.codebooks == sum(row.codebook_bytes for row in report.tensors)


FILED = (
    "attention", "branches", "functions", "nan_and_infinity", "integers_only", "int8_qdq", "loop",
    "initializer_is_input", "ir3", "equal_tensors", "sparse", "bfloat16", "no_nodes",
)  # fmt: skip


@pytest.mark.parametrize("external", ["auto", "always", "never"])
@pytest.mark.parametrize("source", ["inline", "three"])
@pytest.mark.parametrize("name", FILED)
def test_written_files_are_whole_and_of_the_predicted_size(
    tmp_path: Path, name: str, source: str, external: str
) -> None:
    model = graphs.BY_NAME[name].build()
    path, output = tmp_path / "in" / "m.onnx", tmp_path / "out" / "m.onnx"
    path.parent.mkdir()
    output.parent.mkdir()
    if source == "inline":
        onnx.save(model, path)
    else:
        graphs.save_external(model, path, files=3)
    report = onnxq.convert(path, output, bits=4, check=0, external_data=external)
    written = {p.name: p.stat().st_size for p in output.parent.iterdir()}
    assert report.ledger.total == sum(written.values()) == report.output.file_bytes
    assert report.predicted_bytes == report.output.file_bytes
    assert all(part >= 0 for part in report.ledger.to_json().values())
    assert report.input.file_bytes == sum(p.stat().st_size for p in path.parent.iterdir())
    is_external = external == "always" or (external == "auto" and source != "inline")
    assert len(written) <= 1 + is_external
    shutil.rmtree(path.parent)  # the output stands alone
    onnx.checker.check_model(output, full_check=passes_full_check(model))
    feeds = graphs.feeds(model)
    if not report.tensors:
        runs.assert_same(runs.run(output, feeds), runs.run(model, feeds))
        return
    onnxq.restore(output, tmp_path / "restored.onnx")
    runs.assert_same(runs.run(output, feeds), runs.run(tmp_path / "restored.onnx", feeds))
    direct = restore(convert(model, bits=4)[1])
    runs.assert_same(runs.run(output, feeds), runs.run(direct, feeds))


@each_case
def test_converting_twice_and_with_any_jobs_gives_the_same_bytes(case: graphs.Case) -> None:
    model = case.build()
    _, _, first = _converted(case.name, AT_4_BITS)
    for jobs in (1, 4):
        _, again = convert(model, bits=4, jobs=jobs)
        assert again.SerializeToString() == first.SerializeToString()


@each_case
def test_saved_plan_gives_the_same_bytes(case: graphs.Case, tmp_path: Path) -> None:
    model = case.build()
    plan = tmp_path / "plan.json"
    _, first = convert(model, bits=5, save_plan=plan)
    _, again = convert(model, plan=plan)
    assert again.SerializeToString() == first.SerializeToString()


@pytest.mark.parametrize("name", ["attention", "branches", "functions", "float16"])
def test_file_and_memory_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    model = graphs.BY_NAME[name].build()
    onnx.save(model, tmp_path / "in.onnx")
    onnxq.convert(tmp_path / "in.onnx", tmp_path / "out.onnx", bits=4, check=0)
    onnxq.convert(str(tmp_path / "in.onnx"), str(tmp_path / "out2.onnx"), bits=4, check=0)
    expected = convert(model, bits=4)[1].SerializeToString(deterministic=True)
    assert (tmp_path / "out.onnx").read_bytes() == expected
    assert (tmp_path / "out2.onnx").read_bytes() == expected


# Converted models as input


@each_case
def test_converted_model_is_refused_and_requantize_decodes_it_first(case: graphs.Case) -> None:
    _, report, converted = _converted(case.name, AT_4_BITS)
    if not report.tensors:
        assert convert(converted, bits=4)[1] == converted
        return
    with pytest.raises(OnnxqError, match="requantize"):
        convert(converted, bits=4)
    _, again = convert(converted, bits=3, requantize=True)
    _, direct = convert(restore(converted), bits=3)
    assert again.SerializeToString() == direct.SerializeToString()


@each_case
def test_requantizing_at_the_same_width_loses_nothing(case: graphs.Case) -> None:
    _, report, converted = _converted(case.name, AT_4_BITS)
    again_report, again = convert(converted, bits=4, requantize=True)
    first, second = reading.floats(restore(converted)), reading.floats(restore(again))
    for key, array in first.items():
        runs.assert_equal(second[key], array, str(key))
    assert {row.name for row in again_report.tensors} >= {row.name for row in report.tensors}


@each_setting
@each_case
def test_inspect_agrees_with_convert(case: graphs.Case, setting: dict[str, Any]) -> None:
    model, report, converted = fixture(case, setting)
    before = onnxq.inspect(model, **setting)
    assert not before.is_converted
    planned = {(w.graph, w.name): w.action for w in before.weights}
    assert {k for k, action in planned.items() if action == "convert"} == {
        (row.graph, row.name) for row in report.tensors
    }
    after = onnxq.inspect(converted)
    assert after.is_converted == bool(report.tensors)
    found = {(r.graph, r.name): _facts(r) for r in after.tensors}
    assert found == {(r.graph, r.name): _facts(r) for r in report.tensors}
    if report.tensors:
        assert after.ledger is not None
        assert after.ledger.total == converted.ByteSize()


def _facts(row: Any) -> tuple[Any, ...]:
    stored = (row.index_bytes, row.codebook_bytes, row.centroids, row.layout)
    return row.shape, row.dtype, row.elements, row.bit_width, *stored
