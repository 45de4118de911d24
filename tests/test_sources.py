from pathlib import Path

import onnx
import onnx_ir
import pytest

from onnxq import sources
from onnxq.errors import InputError
from tests.tiny_models import scaled


def proto() -> onnx.ModelProto:
    return onnx.ModelProto.FromString(scaled(2.0))


def test_every_kind_opens_as_the_same_structure(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(scaled(2.0))
    for source in (path, str(path), proto(), onnx_ir.from_proto(proto())):
        document = sources.open_model(source)
        assert [node.op_type for node in document.proto.graph.node] == ["Mul"]


def test_a_path_is_run_as_it_is_and_a_model_in_memory_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(scaled(2.0))
    document = sources.open_model(path)
    assert sources.runnable(document) == path
    assert sources.name_of(document) == str(path)
    document = sources.open_model(proto())
    assert isinstance(sources.runnable(document), bytes)
    assert sources.name_of(document) is None


def test_a_model_comes_back_as_the_kind_it_was_given_as() -> None:
    assert isinstance(sources.like("m.onnx", proto()), onnx.ModelProto)
    assert isinstance(sources.like(proto(), proto()), onnx.ModelProto)
    assert isinstance(sources.like(onnx_ir.from_proto(proto()), proto()), onnx_ir.Model)


@pytest.mark.parametrize("source", [None, 3, b"bytes", object()])
def test_what_is_no_model_is_refused_with_what_it_is(source: object) -> None:
    with pytest.raises(InputError, match=f"found {type(source).__name__}, expected a path"):
        sources.open_model(source)


def test_a_file_runs_under_the_name_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_bytes(scaled(1))
    monkeypatch.chdir(tmp_path)
    document = sources.open_model("m.onnx")
    assert sources.runnable(document) == Path("m.onnx")
    monkeypatch.chdir("/")
    assert sources.runnable(document) == tmp_path / "m.onnx"
