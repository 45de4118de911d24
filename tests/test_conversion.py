"""The steps of a conversion: what is stored where, what is dropped, what is told meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

import onnxq
from onnxq import conversion, model
from onnxq.checks import Check
from onnxq.conversion import Job, ProgressEvent, workers
from onnxq.errors import InputError
from onnxq.options import ConvertOptions, make_options
from onnxq.plans import make_plan
from tests import graphs, runs
from tests.encoded import limited

FAST: dict[str, Any] = {"bits": 4, "init": "quantile", "max_iterations": 1}


def job_of(proto: ModelProto, target: Path | None = None, **options: Any) -> Job:
    document = model.wrap(proto)
    chosen = make_options({**FAST, **options})
    return Job(
        document=document,
        options=chosen,
        plan=make_plan(document, model.weights(document), chosen, 1),
        target=target,
        input_bytes=model.total_bytes(document),
        inputs=frozenset(),
        is_requantized=False,
        reopen=lambda: model.wrap(proto),
    )


def no_check(candidate: Path | bytes) -> None:
    return None


def run(proto: ModelProto, **options: Any) -> conversion.Outcome:
    return conversion.run(job_of(proto, **options), no_check, None)


# The outcome


def test_outcome_holds_what_was_done() -> None:
    outcome = run(graphs.conv_bn_relu(), include="w")
    assert set(outcome.encoded) == {("main", "w")}
    assert all(made.payloads == {} for made in outcome.encoded.values())  # released
    assert [w.name for w in outcome.kept] == ["b", "scale", "bias", "mean", "var"]
    assert outcome.output_bytes == outcome.document.proto.ByteSize() == outcome.predicted_bytes
    assert (outcome.check, list(outcome.notes), outcome.moved_bytes) == (None, [], 0)


def test_model_is_checked_before_it_is_put_in_place(tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    seen: list[Path | bytes] = []

    def check(candidate: Path | bytes) -> Check:
        seen.append(candidate)
        assert not output.exists()
        onnx.checker.check_model(onnx.load(candidate))  # type: ignore[arg-type]
        return Check(status="skipped", reason="enough", samples=0)

    outcome = conversion.run(job_of(graphs.attention(), output), check, None)
    assert outcome.check is not None
    assert outcome.check.reason == "enough"
    assert len(seen) == 1
    assert output.stat().st_size == outcome.output_bytes


@pytest.mark.parametrize("external", ["never", "always"])
def test_failing_check_leaves_nothing(tmp_path: Path, external: str) -> None:
    def check(candidate: Path | bytes) -> Check:
        raise InputError("no")

    job = job_of(graphs.attention(), tmp_path / "m.onnx", external_data=external)
    with pytest.raises(InputError):
        conversion.run(job, check, None)
    assert list(tmp_path.iterdir()) == []


# Nothing gained


@pytest.mark.parametrize("name", ["tiny", "int8_qdq", "integers_only"])
def test_model_that_gains_nothing_is_kept_as_it_is(name: str) -> None:
    proto = graphs.BY_NAME[name].build()
    outcome = run(proto)
    assert outcome.document.proto == proto
    assert outcome.plan.tensors == ()
    (note,) = outcome.notes
    assert note.startswith("nothing was gained: ")


def test_file_that_gains_nothing_is_copied_byte_by_byte(tmp_path: Path) -> None:
    """Fields in another order than protobuf writes them stay in that order."""
    body = graphs.tiny().graph.SerializeToString()
    head = graphs.tiny()
    head.ClearField("graph")
    prefix = b"\x3a" + bytes([len(body) & 127 | 128, len(body) >> 7])
    data = prefix + body + head.SerializeToString()
    assert data != graphs.tiny().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    onnxq.convert(tmp_path / "m.onnx", tmp_path / "out.onnx", check=0)
    assert (tmp_path / "out.onnx").read_bytes() == data


def test_plan_whose_tables_cost_too_much_together_is_dropped_with_its_reason() -> None:
    """12 and 14 bits share a table, below opset 11 a stored one, that neither family pays for."""
    few = graphs.few(5)
    held = graphs.tensors(a=few((150,), 1), b=few((700,), 2))
    proto = graphs.model(graphs.graph([], [], [graphs.value("a", 150)], held), 9)
    job = job_of(proto, bits=12, tensor_bits={"b": 14}, fewer_bits=False)
    assert [planned.bit_width for planned in job.plan.tensors] == [12, 14]
    outcome = conversion.run(job, no_check, None)
    assert outcome.document.proto == proto
    assert outcome.plan.tensors == ()
    details = {record.detail for record in outcome.plan.skips}
    assert details == {"with its decoding tables the whole model would not get smaller"}


def test_growing_on_request_is_told() -> None:
    outcome = run(graphs.tiny(), only_smaller=False)
    assert outcome.output_bytes > graphs.tiny().ByteSize()
    assert list(outcome.notes) == ["nothing was gained: the output is not smaller than the input"]


# Data files


def saved(tmp_path: Path, proto: ModelProto, count: int) -> Path:
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    if count:
        graphs.save_external(proto, path, count)
    else:
        onnx.save(proto, path)
    return path


@pytest.mark.parametrize(
    ("count", "external", "expected"),
    [
        (0, "auto", False), (2, "auto", True), (0, "always", True),
        (2, "never", False), (2, "always", True),
    ],
)  # fmt: skip
def test_values_go_where_they_were_or_where_they_are_wanted(
    tmp_path: Path, count: int, external: str, expected: bool
) -> None:
    proto = graphs.attention()
    proto.graph.initializer.append(graphs.tensor("kept", graphs.normal((300,), 8)))
    proto.graph.initializer.append(graphs.tensor("ints", np.arange(300)))
    path, output = saved(tmp_path, proto, count), tmp_path / "m.onnx"
    report = onnxq.convert(path, output, external_data=external, exclude=["kept"], check=0, **FAST)
    assert len(list(tmp_path.glob("m.onnx.*.data"))) == expected
    written = onnx.load(output, load_external_data=False)
    outside = {t.name for t in written.graph.initializer if t.data_location == TensorProto.EXTERNAL}
    assert ({"kept", "ints"} <= outside) == expected
    assert report.output.file_bytes == report.predicted_bytes
    whole = onnx.load(output)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in whole.graph.initializer}
    runs.assert_equal(arrays["kept"], graphs.normal((300,), 8))
    runs.assert_equal(arrays["ints"], np.arange(300))


def test_model_in_memory_takes_external_values_in(tmp_path: Path) -> None:
    path = saved(tmp_path, graphs.attention(), 2)
    _, converted = onnxq.convert(path, check=0, **FAST)
    assert not any(t.external_data for t in converted.graph.initializer)
    _, plain = onnxq.convert(graphs.attention(), check=0, **FAST)
    assert converted == plain


def test_nothing_gained_with_external_data_is_no_larger(tmp_path: Path) -> None:
    arrays = {f"i{number}": np.arange(150) + number for number in range(20)}
    proto = graphs.model(
        graphs.graph([], [], [graphs.value("i0", 150, dtype=7)], graphs.tensors(**arrays))
    )
    path, output = saved(tmp_path, proto, 1), tmp_path / "m.onnx"
    report = onnxq.convert(path, output, check=0)
    assert report.output.file_bytes <= report.input.file_bytes
    assert onnx.load(output).graph == proto.graph


def test_typed_fields_stay_in_the_message(tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    onnxq.convert(
        graphs.typed_fields(), output, external_data="always", include=["f"], check=0, **FAST
    )
    written = onnx.load(output, load_external_data=False)
    kept = {t.name for t in graphs.typed_fields().graph.initializer}  # the rest are new tables
    assert {t.name for t in written.graph.initializer if len(t.int32_data)} & kept == {"h", "b"}


def test_restored_data_go_where_the_converted_ones_were(tmp_path: Path) -> None:
    proto = graphs.attention()
    for external, expected in (("always", 1), ("never", 0)):
        output = tmp_path / f"{external}.onnx"
        onnxq.convert(proto, output, external_data=external, check=0, **FAST)
        restored = tmp_path / f"{external} restored.onnx"
        report = onnxq.restore(output, restored)
        files = [p for p in tmp_path.iterdir() if p.name.startswith(restored.name)]
        assert len(files) == 1 + expected
        assert report.output.file_bytes == sum(file.stat().st_size for file in files)
    feeds = graphs.feeds(proto)
    runs.assert_same(
        runs.run(tmp_path / "always restored.onnx", feeds),
        runs.run(tmp_path / "never restored.onnx", feeds),
    )


def test_restored_model_too_large_for_one_file_gets_a_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.onnx"
    onnxq.convert(graphs.attention(), output, check=0, **FAST)
    monkeypatch.setattr(conversion, "MAX_INLINE_BYTES", 50_000)
    onnxq.restore(output, tmp_path / "plain.onnx")
    assert len(list(tmp_path.glob("plain.onnx.*.data"))) == 1


def test_kept_tensor_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, graphs.attention(), 1)
    (path.parent / "w0.bin").write_bytes(bytes(100))
    with pytest.raises(InputError, match=r"m\.onnx: tensor 'q'.*truncated"):
        onnxq.convert(path, tmp_path / "m.onnx", exclude="*", check=0)
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_failing_restore_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "m.onnx"
    onnxq.convert(graphs.attention(), source, external_data="always", check=0, **FAST)
    made = onnx.load(source, load_external_data=False)
    last = [tensor for tensor in made.graph.initializer if tensor.external_data][-1]
    del last.external_data[2:]
    last.external_data.add(key="length", value="1")
    source.write_bytes(made.SerializeToString())
    with pytest.raises(InputError, match="damaged"):
        onnxq.restore(source, tmp_path / "plain.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


# Workers and progress


def test_workers_are_those_asked_for_or_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers(ConvertOptions(jobs=3)) == 3
    assert workers(ConvertOptions()) == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert workers(ConvertOptions()) == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert workers(ConvertOptions()) == 1


@pytest.mark.parametrize("jobs", [1, 4])
def test_progress_counts_tensors_and_bytes_of_every_stage(jobs: int) -> None:
    events: list[ProgressEvent] = []
    onnxq.convert(graphs.equal_tensors(), progress=events.append, check=0, jobs=jobs, **FAST)
    for stage in ("planning", "encoding"):
        own = [event for event in events if event.stage == stage]
        assert [event.tensor for event in own] == ["first", "second", "third"]
        assert [event.done_tensors for event in own] == [1, 2, 3]
        assert {event.total_tensors for event in own} == {3}
        assert [event.done_bytes for event in own] == [16_384, 32_768, 49_152]
        assert {event.total_bytes for event in own} == {49_152}
    assert [event.stage for event in events] == ["planning"] * 3 + ["encoding"] * 3


def test_interrupt_in_progress_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(event: ProgressEvent) -> None:
        if event.stage == "encoding" and event.done_tensors == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        onnxq.convert(
            graphs.attention(), tmp_path / "m.onnx", external_data="always",
            progress=interrupt, check=0, jobs=2, **FAST,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


# Tiles


@pytest.mark.parametrize("bits", [3, 4, 8, 11])
def test_tiled_tensors_are_computed_and_restored_alike(bits: int) -> None:
    """With a limit of a kilobyte a node, every weight of the model is stored in tiles."""
    proto = graphs.conv_bn_relu()
    with limited(1024):
        report, converted = onnxq.convert(
            proto,
            check=0,
            only_smaller=False,
            fewer_bits=False,
            pool_indices=False,
            **{**FAST, "bits": bits},
        )
        assert [n.output[0] for n in converted.graph.node if n.op_type == "Concat"] == ["w"]
        assert report.predicted_bytes == converted.ByteSize()
        found = onnxq.inspect(converted)
        assert [row.name for row in found.tensors] == [row.name for row in report.tensors]
        _, restored = onnxq.restore(converted)
    feeds = graphs.feeds(proto)
    runs.assert_same(runs.run(converted, feeds), runs.run(restored, feeds))
