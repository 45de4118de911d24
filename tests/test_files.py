"""Output appears whole or not at all, with its data file."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import EncodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from onnxq import files, model
from onnxq.errors import OutputError
from onnxq.files import DataFileStore, InlineStore, check_output, pending_model, write_bytes
from onnxq.rate import EXTERNAL_THRESHOLD, align
from tests import graphs


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def some_bytes(length: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, length).astype(np.uint8)


# Stores


def test_inline_store_keeps_values_in_the_message(tmp_path: Path) -> None:
    store = InlineStore()
    tensor = TensorProto()
    store.put(tensor, np.arange(3, dtype=np.float32))
    assert tensor.raw_data == np.arange(3, dtype=np.float32).tobytes()
    (tmp_path / "w.bin").write_bytes(bytes(range(100)))
    graphs.point_outside(tensor, "w.bin")
    store.copy(tensor, tmp_path / "w.bin", 10, 5)
    assert tensor == TensorProto(raw_data=bytes(range(10, 15)))
    assert (store.placement, store.tensors) == (None, [])


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8))
def test_data_file_holds_long_values_at_their_offsets(lengths: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "m.onnx"
        store = DataFileStore(output)
        held = [TensorProto(name=str(number)) for number in range(len(lengths))]
        arrays = [some_bytes(length, length) for length in lengths]
        for tensor, array in zip(held, arrays, strict=True):
            store.put(tensor, array)
        store.finish()
        data = store.final.read_bytes() if store.final else b""
        end = 0
        for tensor, array in zip(held, arrays, strict=True):
            if array.nbytes < EXTERNAL_THRESHOLD:
                assert tensor.raw_data == array.tobytes()
                continue
            assert not tensor.HasField("raw_data")
            offset = int(entries(tensor)["offset"])
            assert offset == align(end, array.nbytes)
            assert data[end:offset] == bytes(offset - end)
            end = offset + array.nbytes
            assert entries(tensor)["length"] == str(array.nbytes)
            assert data[offset:end] == array.tobytes()
            assert entries(tensor)["location"] == store.final.name  # type: ignore[union-attr]
        assert len(data) == end == store.placement.end
        assert (store.final is None) == (end == 0)
        assert names(Path(folder)) == ([store.final.name] if store.final else [])


def test_data_file_is_named_by_its_content(tmp_path: Path) -> None:
    digests = set()
    for seed in (1, 1, 2):
        store = DataFileStore(tmp_path / "m.onnx")
        store.put(TensorProto(), some_bytes(2000, seed))
        store.finish()
        assert store.final is not None
        digests.add(store.final.name)
    assert len(digests) == 2
    assert names(tmp_path) == sorted(digests)
    for name in digests:
        prefix, digest, suffix = name.rsplit(".", 2)
        assert (prefix, suffix) == ("m.onnx", "data")
        assert len(digest) == 8
        assert int(digest, 16) >= 0


def test_any_array_is_stored_in_row_order(tmp_path: Path) -> None:
    array = np.arange(4000, dtype=np.float64).reshape(50, 80)
    store = DataFileStore(tmp_path / "m.onnx")
    first, second = TensorProto(), TensorProto()
    store.put(first, array.T)
    store.put(second, array[::2])
    store.finish()
    assert store.final is not None
    data = store.final.read_bytes()
    for tensor, expected in ((first, array.T), (second, array[::2])):
        start, length = int(entries(tensor)["offset"]), int(entries(tensor)["length"])
        assert data[start : start + length] == expected.tobytes()


def test_values_are_copied_from_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CHUNK", 1000)
    source = tmp_path / "source.bin"
    source.write_bytes(some_bytes(9000).tobytes())
    (tmp_path / "out").mkdir()
    store = DataFileStore(tmp_path / "out" / "m.onnx")
    long, short = TensorProto(), TensorProto()
    for tensor in (long, short):
        graphs.point_outside(tensor, "source.bin", offset=1)
    store.copy(long, source, 100, 4321)
    store.copy(short, source, 200, 30)
    store.finish()
    assert store.final is not None
    assert store.final.read_bytes() == source.read_bytes()[100:4421]
    assert short == TensorProto(raw_data=source.read_bytes()[200:230])
    assert len(long.external_data) == 3


def test_source_that_ends_early_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(3000))
    store = DataFileStore(tmp_path / "m.onnx")
    with pytest.raises(OutputError, match=r"source\.bin: ended while it was being copied"):
        store.copy(TensorProto(), source, 1000, 2500)
    store.abandon()
    assert names(tmp_path) == ["source.bin"]


def test_inline_values_are_moved_when_long(tmp_path: Path) -> None:
    store = DataFileStore(tmp_path / "m.onnx")
    long = TensorProto(raw_data=some_bytes(EXTERNAL_THRESHOLD).tobytes())
    short = TensorProto(raw_data=bytes(EXTERNAL_THRESHOLD - 1))
    expected = long.raw_data
    store.move(long)
    store.move(short)
    store.finish()
    assert store.final is not None
    assert store.final.read_bytes() == expected
    assert not long.HasField("raw_data")
    assert short.raw_data == bytes(EXTERNAL_THRESHOLD - 1)


def test_abandoned_store_leaves_nothing_new(tmp_path: Path) -> None:
    for is_finished in (False, True):
        store = DataFileStore(tmp_path / "m.onnx")
        store.put(TensorProto(), some_bytes(2000))
        if is_finished:
            store.finish()
        store.abandon()
        store.abandon()
        assert names(tmp_path) == []


def test_abandoned_store_leaves_the_same_file_of_before(tmp_path: Path) -> None:
    for number in range(2):
        store = DataFileStore(tmp_path / "m.onnx")
        store.put(TensorProto(), some_bytes(2000))
        store.finish()
        if number:
            store.abandon()
    assert len(names(tmp_path)) == 1


# Kept values


def test_moving_leaves_what_stands_there_already(tmp_path: Path) -> None:
    document = model.wrap(graphs.attention())
    store = DataFileStore(tmp_path / "m.onnx")
    files.move_kept(document, store)
    places = [t.external_data[1].value for t in document.proto.graph.initializer[:5]]
    assert len(set(places)) == 5
    files.move_kept(document, store)
    assert [t.external_data[1].value for t in document.proto.graph.initializer[:5]] == places
    store.abandon()
    inline = model.wrap(graphs.attention())
    files.move_kept(inline, InlineStore())
    assert inline.proto == graphs.attention()


# Models


def write(output: Path, data: bytes = b"model", store: Any = None) -> None:
    with pending_model(output, lambda: data, store or InlineStore()):
        pass


def filled(output: Path, seed: int) -> DataFileStore:
    store = DataFileStore(output)
    store.put(TensorProto(), some_bytes(2000, seed))
    return store


def test_model_appears_when_the_body_is_done(tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    output.write_bytes(b"before")
    with pending_model(output, lambda: b"after", InlineStore()) as candidate:
        assert candidate.read_bytes() == b"after"
        assert candidate.parent == tmp_path
        assert output.read_bytes() == b"before"
    assert output.read_bytes() == b"after"
    assert names(tmp_path) == ["m.onnx"]


def test_model_knows_its_data_file_when_it_is_serialized(tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    store = DataFileStore(output)
    tensor = TensorProto()
    store.put(tensor, some_bytes(2000))
    with pending_model(output, tensor.SerializeToString, store) as candidate:
        location = entries(TensorProto.FromString(candidate.read_bytes()))["location"]
        assert (tmp_path / location).is_file()
    assert names(tmp_path) == ["m.onnx", location]


@pytest.mark.parametrize("is_external", [False, True])
def test_failure_in_the_body_changes_nothing(tmp_path: Path, is_external: bool) -> None:
    output = tmp_path / "m.onnx"
    write(output, b"before", filled(output, 1) if is_external else None)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    store = filled(output, 2) if is_external else InlineStore()
    with pytest.raises(RuntimeError), pending_model(output, lambda: b"after", store):
        raise RuntimeError
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_failure_to_serialize_changes_nothing(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise OutputError("too large")

    output = tmp_path / "m.onnx"
    with pytest.raises(OutputError), pending_model(output, fail, filled(output, 1)):
        pass
    assert names(tmp_path) == []


def test_data_file_of_the_replaced_model_goes(tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    for seed in (1, 2):
        write(output, b"model", filled(output, seed))
        assert len(names(tmp_path)) == 2
    write(output, b"model", filled(output, 2))
    assert len(names(tmp_path)) == 2


def test_failing_system_call_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    output = tmp_path / "m.onnx"
    output.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    message = r"m\.onnx: cannot be written: No space left on device; nothing was changed"
    with pytest.raises(OutputError, match=message):
        write(output, b"after")
    with pytest.raises(OutputError, match=message):
        write_bytes(output, b"after")
    with pytest.raises(OutputError, match=message):
        write(output, b"after", filled(output, 1))
    assert names(tmp_path) == ["m.onnx"]
    assert output.read_bytes() == b"before"


def test_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    old = os.umask(0o027)
    try:
        write(output)
        assert stat.S_IMODE(output.stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    for data in (b"one", b"", b"two" * 100_000):
        write_bytes(path, data)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["plan.json"]


def test_temporary_files_of_the_dead_are_removed_and_those_of_the_living_are_not(
    tmp_path: Path,
) -> None:
    dead, living = tmp_path / ".m.onnx.abc.tmp", tmp_path / ".m.onnx.def.tmp"
    other, foreign = tmp_path / ".n.onnx.abc.tmp", tmp_path / "m.onnx.tmp"
    for path in (dead, living, other, foreign):
        path.write_bytes(b"debris")
    with living.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write(tmp_path / "m.onnx")
    assert names(tmp_path) == sorted([living.name, other.name, foreign.name, "m.onnx"])


@pytest.mark.parametrize("name", ["m[1].onnx", "*.onnx", "ü 模型.onnx", "-rf", ".onnx", "a\nb"])
def test_odd_names_are_written_and_cleaned_up(tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    (tmp_path / "m1.onnx.00000000.data").write_bytes(b"of another model")
    for seed in (1, 2):
        write(output, b"model", filled(output, seed))
    assert len(names(tmp_path)) == 3


def test_name_that_is_no_text_is_refused_where_a_model_must_hold_it(tmp_path: Path) -> None:
    output = tmp_path / os.fsdecode(b"a\xff.onnx")
    write(output)
    with pytest.raises(OutputError, match="is no UTF-8 name"):
        DataFileStore(output)
    assert os.listdir(os.fsencode(tmp_path)) == [b"a\xff.onnx"]


# Checks before the work


def test_output_may_be_new_or_forced(tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    check_output(output, force=False)
    output.touch()
    with pytest.raises(OutputError, match=r"m\.onnx: exists already; pass --force"):
        check_output(output, force=False)
    check_output(output, force=True)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "is a folder"),
        ("none/m.onnx", "does not exist; create it first"),
        ("file/m.onnx", "does not exist"),
    ],
)
def test_output_in_a_wrong_place_is_refused(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / place, force=True)


def test_output_is_no_input(tmp_path: Path) -> None:
    source, link = tmp_path / "m.onnx", tmp_path / "link.onnx"
    source.touch()
    os.link(source, link)
    for output in (source, link, tmp_path / "x" / ".." / "m.onnx"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="is the input itself"):
            check_output(output, force=True, inputs=(tmp_path / "none", source))


def test_relative_output_is_checked_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_output(Path("m.onnx"), force=False)


# Bytes


def test_serialized_model_is_the_same_every_time() -> None:
    made = graphs.decorated()
    assert files.serialize(made, "m") == files.serialize(made, "m")
    assert graphs.ModelProto.FromString(files.serialize(made, "m")) == made


@pytest.mark.parametrize("error", [EncodeError("too large"), ValueError("over 2 GiB")])
def test_model_too_large_for_protobuf_names_the_way_out(error: Exception) -> None:
    class Huge:
        def SerializeToString(self, **_: Any) -> bytes:
            raise error

    with pytest.raises(OutputError, match="m: larger than an ONNX file can be; use --external"):
        files.serialize(Huge(), "m")  # type: ignore[arg-type]
