"""Laws of whole conversions, over generated models and options."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto

import onnxq
from onnxq import model
from onnxq.report import Report
from tests import graphs, reading, runs
from tests.property.strategies import bit_widths, layouts, models

some = settings(max_examples=settings.default.max_examples // 2)  # type: ignore[union-attr]
Options = dict[str, Any]


@st.composite
def options(draw: st.DrawFn, bits: st.SearchStrategy[int] = bit_widths) -> Options:
    return {
        "bits": draw(bits),
        "init": draw(st.sampled_from(("quantile", "uniform", "optimal"))),
        "max_iterations": 1,
        "layout": draw(layouts),
        "codebook_dtype": draw(st.sampled_from(("float32", "float16"))),
        "only_smaller": draw(st.booleans()),
        "fewer_bits": draw(st.booleans()),
        "share_equal": draw(st.booleans()),
        "pool_indices": draw(st.booleans()),
    }


def convert(proto: ModelProto, given: Options, **more: Any) -> tuple[Report, ModelProto]:
    report, converted = onnxq.convert(proto, check=0, **given, **more)
    return report, converted


def restored(converted: ModelProto) -> ModelProto:
    """Return a converted model with decoded weights; itself where it holds no encoded tensor."""
    if not onnxq.inspect(converted).is_converted:
        return converted
    _, plain = onnxq.restore(converted)
    assert isinstance(plain, ModelProto)
    return plain


def data(proto: ModelProto) -> bytes:
    return proto.SerializeToString(deterministic=True)


@given(models(), options())
def test_written_size_is_the_predicted_one(proto: ModelProto, given: Options) -> None:
    report, converted = convert(proto, given)
    written = converted.ByteSize()
    assert report.output is not None
    assert report.output.file_bytes == written
    assert report.predicted_bytes == written
    assert onnxq.inspect(proto, **given).predicted_file_bytes == written


@some
@given(models(), options(), st.sampled_from(("inline", "external")))
def test_written_size_with_a_data_file_is_the_predicted_one(
    proto: ModelProto, given: Options, source: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if source == "inline":
            onnx.save(proto, folder / "in.onnx")
        else:
            graphs.save_external(proto, folder / "in.onnx", 2)
        (folder / "out").mkdir()
        report = onnxq.convert(
            folder / "in.onnx", folder / "out" / "m.onnx", check=0, external_data="always", **given
        )
        sizes = [path.stat().st_size for path in (folder / "out").iterdir()]
        assert sum(sizes) == report.output.file_bytes == report.predicted_bytes
        assert report.ledger.total == sum(sizes)


@some
@given(models(), options())
def test_twice_and_with_four_jobs_the_bytes_are_the_same(proto: ModelProto, given: Options) -> None:
    first = data(convert(proto, given, jobs=1)[1])
    assert data(convert(proto, given, jobs=1)[1]) == first
    assert data(convert(proto, given, jobs=4)[1]) == first


@given(models(("normal", "few", "inf", "nan")), options())
def test_what_is_not_encoded_is_byte_identical(proto: ModelProto, given: Options) -> None:
    report, converted = convert(proto, given)
    encoded = {(row.graph, row.name) for row in report.tensors}
    skipped = {(row.graph, row.name) for row in report.skipped}
    assert encoded.isdisjoint(skipped)
    before, after = reading.scopes(proto), reading.scopes(converted)
    assert list(before) == list(after)
    for key, scope in before.items():
        held, still = reading.held(scope), reading.held(after[key])
        for name, tensor in held.items():
            is_encoded = any(row == name for _, row in encoded)
            assert (name not in still) == is_encoded
            if not is_encoded:
                assert still[name].SerializeToString() == tensor.SerializeToString()
        gone = set(held) - set(still)
        kept = [node for node in scope.node if not set(node.output) & gone]
        added = len(after[key].node) - len(kept)
        assert [reading.bare(n) for n in after[key].node[added:]] == [reading.bare(n) for n in kept]
        assert list(after[key].output) == list(scope.output)
        if isinstance(scope, GraphProto):
            assert [v for v in after[key].input if v in scope.input] == [
                v for v in scope.input if v.name not in gone
            ]
    assert reading.frame(converted) == reading.frame(proto)


@given(models(("few", "constant")), options(st.integers(2, 16)))
def test_few_valued_weights_come_back_bit_for_bit(proto: ModelProto, given: Options) -> None:
    report, converted = convert(proto, given)
    assert all(row.is_lossless and row.snr_db is None for row in report.tensors)
    before, after = reading.floats(proto), reading.floats(restored(converted))
    assert before.keys() == after.keys()
    for key, array in before.items():
        runs.assert_equal(after[key], array, str(key))


@some
@given(models(), options())
def test_restored_model_has_every_weight_again(proto: ModelProto, given: Options) -> None:
    report, converted = convert(proto, given)
    plain = restored(converted)
    encoded = {row.name for row in report.tensors}
    before, after = reading.floats(proto), reading.floats(plain)
    assert before.keys() == after.keys()
    for (_, name), array in before.items():
        twin = next(value for (_, other), value in after.items() if other == name)
        assert (twin.dtype, twin.shape) == (array.dtype, array.shape)
        if name not in encoded:
            runs.assert_equal(twin, array, name)
    gone = {key for key in before if key[1] in encoded}
    assert reading.without(plain, gone) == reading.without(proto, gone)


@given(models(), options())
def test_model_never_grows(proto: ModelProto, given: Options) -> None:
    given["only_smaller"] = True
    report, converted = convert(proto, given)
    assert converted.ByteSize() <= proto.ByteSize()
    if not report.tensors:
        assert data(converted) == data(proto)
    else:
        assert converted.ByteSize() < proto.ByteSize()


@given(models(("normal", "few", "inf", "nan")), options())
def test_report_accounts_for_every_byte_and_tensor(proto: ModelProto, given: Options) -> None:
    report, converted = convert(proto, given)
    assert report.ledger is not None
    assert report.ledger.total == converted.ByteSize()
    parts = (report.ledger.indices, report.ledger.codebooks, report.ledger.kept_weights)
    assert min(*parts, report.ledger.original_graph) >= 0
    assert report.ledger.added_graph >= 0
    rows = [(row.graph, row.name) for row in (*report.tensors, *report.skipped)]
    document = model.wrap(proto)
    assert sorted(rows) == sorted((w.graph, w.name) for w in model.weights(document))


@some
@given(models(), options())
def test_inspect_finds_what_convert_reports(proto: ModelProto, given: Options) -> None:
    report, converted = convert(proto, given)
    found = onnxq.inspect(converted)
    assert found.is_converted == bool(report.tensors)

    def facts(row: Any) -> tuple[Any, ...]:
        return (row.graph, row.name, row.shape, row.dtype, row.layout, row.bit_width, row.centroids,
                row.index_bytes, row.codebook_bytes)  # fmt: skip

    if found.is_converted:
        assert {facts(row) for row in found.tensors} == {facts(row) for row in report.tensors}
        assert found.ledger is not None
        assert found.ledger.total == converted.ByteSize()
