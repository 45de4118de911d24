"""Fingerprints: what counts as the same model, the same data, the same code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxq import model
from onnxq.errors import InputError
from onnxq.sweeps import fingerprints
from tests import graphs


def test_a_model_is_its_bytes_whatever_its_name(tmp_path: Path) -> None:
    data = graphs.matmul_add().SerializeToString()
    for name, content in (("a", data), ("b", data), ("c", data[:-1] + b"\x01")):
        (tmp_path / name).write_bytes(content)
    found = [fingerprints.of_model(model.load(tmp_path / name)) for name in "ab"]
    assert found[0] == found[1]
    other = graphs.matmul_add()
    other.doc_string = "another"
    (tmp_path / "c").write_bytes(other.SerializeToString())
    assert fingerprints.of_model(model.load(tmp_path / "c")) != found[0]


def test_a_model_in_memory_is_its_message() -> None:
    one, other = model.wrap(graphs.matmul_add()), model.wrap(graphs.gemm())
    assert fingerprints.of_model(one) == fingerprints.of_model(model.wrap(graphs.matmul_add()))
    assert fingerprints.of_model(one) != fingerprints.of_model(other)


def test_external_data_is_part_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graphs.save_external(graphs.matmul_add(), path)
    before = fingerprints.of_model(model.load(path))
    data = next(iter(model.data_files(model.load(path))))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    assert fingerprints.of_model(model.load(path)) != before


def folder(path: Path) -> Path:
    (path / "b").mkdir(parents=True)
    (path / "a.npz").write_bytes(b"one")
    (path / "b" / "c.npz").write_bytes(b"two")
    return path


def test_small_data_is_its_names_and_content(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one"), folder(tmp_path / "other")
    os.utime(other / "a.npz", (1, 1))
    (other / ".hidden").write_bytes(b"x")
    same = fingerprints.of_data(one)
    assert fingerprints.of_data(other) == same
    (other / "a.npz").write_bytes(b"eno")
    assert fingerprints.of_data(other) != same
    (one / "a.npz").rename(one / "z.npz")
    assert fingerprints.of_data(one) != same


def test_large_data_is_its_names_sizes_and_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "CONTENT_BYTES", 5)
    data = folder(tmp_path / "data")
    os.utime(data / "a.npz", (1, 1))
    before = fingerprints.of_data(data)
    (data / "a.npz").write_bytes(b"eno")
    os.utime(data / "a.npz", (1, 1))
    assert fingerprints.of_data(data) == before
    os.utime(data / "a.npz", (2, 2))
    assert fingerprints.of_data(data) != before


def test_a_file_is_data_whatever_its_name(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"same")
    assert fingerprints.of_data(tmp_path / "a") == fingerprints.of_data(tmp_path / "b")


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.npz: cannot be read"):
        fingerprints.of_data(tmp_path / "nothing.npz")


def test_a_module_is_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "my_metric_source.py"
    source.write_text("raise RuntimeError('is never run')")
    before = fingerprints.of_module("my_metric_source")
    source.write_text("x = 1")
    assert before is not None
    assert fingerprints.of_module("my_metric_source") not in (None, before)
    assert fingerprints.of_module("no_such_module_anywhere.at_all") is None
    assert fingerprints.of_module("sys") is None
