"""Which data files of an earlier output may go."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from onnxq import leftovers
from onnxq.leftovers import unmentioned

PATTERN = re.compile(r"m\.onnx\.[0-9a-f]{8}\.data")
OLD = "m.onnx.01234567.data"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in unmentioned(folder / "m.onnx", PATTERN))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model and its data file."""
    (tmp_path / OLD).write_bytes(b"values")
    (tmp_path / "m.onnx").write_bytes(b"model with " + OLD.encode())
    return tmp_path


def test_data_that_only_the_output_names_is_left_over(folder: Path) -> None:
    (folder / "m.onnx.89abcdef.data").write_bytes(b"of one that crashed")
    (folder / "m.onnx.0.data").write_bytes(b"of somebody else")
    (folder / "folder").mkdir()
    (folder / "m.onnx.aaaaaaaa.data").mkdir()
    (folder / "empty").touch()
    (folder / ".m.onnx.abc.tmp").write_bytes(OLD.encode())
    assert left(folder) == [OLD, "m.onnx.89abcdef.data"]


@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 7, (2 << 20) - 19, 2 << 20])
def test_data_that_another_file_names_stays(folder: Path, before: int) -> None:
    (folder / "copy.onnx").write_bytes(bytes(before) + OLD.encode() + b"\0")
    (folder / "m.onnx.89abcdef.data").write_bytes(b"of one that crashed")
    assert left(folder) == ["m.onnx.89abcdef.data"]


def test_data_stays_beside_a_file_that_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "secret.onnx").write_bytes(b"?")

    def refuse(path: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(leftovers, "open", refuse, raising=False)
    assert left(folder) == []


def test_nothing_is_left_over_in_a_folder_that_cannot_be_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    assert left(folder) == []


def test_search_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of many files or bytes is not searched: its data files stay."""
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(b"picture" * 10)
    assert left(folder) == [OLD]
    for limit, value in (("MAX_FILES", 3), ("MAX_BYTES", 279)):
        with monkeypatch.context() as patched:
            patched.setattr(leftovers, limit, value)
            patched.setattr(leftovers, "_mentioned", None)  # no file is opened
            assert left(folder) == []


def test_other_files_are_not_looked_at_without_a_data_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / OLD).unlink()
    (folder / "other.onnx").write_bytes(b"model")
    monkeypatch.setattr(leftovers, "_models", None)
    assert left(folder) == []


def test_what_is_too_large_to_be_a_model_is_not_searched(folder: Path) -> None:
    with (folder / "disk.img").open("wb") as file:
        file.truncate(1 << 40)
    assert left(folder) == [OLD]
