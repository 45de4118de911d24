"""Inputs for a model from files and mappings."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from onnxq.data.feeds import load_feeds, without_labels
from onnxq.errors import InputError


def test_archive_gives_its_arrays_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, image=np.arange(6.0).reshape(2, 3), ids=np.array([1, 2]))
    for source in (path, str(path)):
        feeds = load_feeds(source)
        assert list(feeds) == ["image", "ids"]
        assert feeds["image"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert feeds["ids"].dtype == np.int64


def test_mapping_gives_arrays() -> None:
    feeds = load_feeds({"x": [1.0, 2.0], "n": 3})
    assert feeds["x"].tolist() == [1.0, 2.0]
    assert feeds["n"].shape == ()


def test_labels_are_passed_over_unless_they_are_inputs() -> None:
    given = {"x": np.zeros(1), "label": np.ones(1), "target": np.ones(2), "other": np.ones(3)}
    assert list(load_feeds(given)) == list(given)
    assert list(without_labels(given, {"x"})) == ["x", "other"]
    assert list(without_labels(given, {"x", "label"})) == ["x", "label", "other"]


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz: cannot be read: No such file"):
        load_feeds(tmp_path / "none.npz")


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{}], dtype=object))
    return buffer.getvalue()


def single() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def truncated() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3000))
    return buffer.getvalue()[:-100]


def damaged() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(3000))
    data = bytearray(buffer.getvalue())
    data[200:260] = bytes(60)
    return bytes(data)


def header_of_a_terabyte() -> bytes:
    import zipfile

    buffer, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", array.getvalue())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"PK\x03\x04", b"no archive", b"\x93NUMPY", single(), pickled(), truncated(),
        damaged(), header_of_a_terabyte(),
    ],
    ids=["empty", "zip", "text", "npy head", "npy", "pickled", "cut", "damaged", "terabyte"],
)  # fmt: skip
def test_what_is_no_archive_of_plain_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz: (is not an \.npz file of plain arrays|claims)"):
        load_feeds(path)


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_feeds(tmp_path)
