"""Arrays of .npz files, a few rows at a time."""

from __future__ import annotations

import contextlib
import io
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.data import npy_stream
from onnxq.data.npy_stream import open_archive
from onnxq.errors import InputError

SAVERS: dict[str, Callable[..., None]] = {
    "stored": np.savez,
    "compressed": np.savez_compressed,
}


def read_by(path: Path, name: str, steps: int) -> np.ndarray[Any, Any]:
    with open_archive(path) as archive, archive.rows(name) as rows:
        total = archive.heads[name].shape[0]
        parts = [rows.read(min(steps, total - start)) for start in range(0, total, steps)]
    return np.concatenate(parts)


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("steps", [1, 3, 7, 100])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "u1", "i8", "?", ">f4", "U5", "S3", "c8"])
def test_rows_are_those_that_were_saved(tmp_path: Path, saver: str, steps: int, dtype: str) -> None:
    values = np.arange(7 * 2 * 3).reshape(7, 2, 3).astype(dtype)
    SAVERS[saver](tmp_path / "x.npz", x=values)
    found = read_by(tmp_path / "x.npz", "x", steps)
    assert np.array_equal(found, values)
    assert found.dtype == values.dtype.newbyteorder("=")


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("shape", [(7, 2, 3), (7, 0), (7,), (1, 1)])
def test_fortran_order_is_read_by_rows(tmp_path: Path, saver: str, shape: tuple[int, ...]) -> None:
    values = np.asfortranarray(np.random.default_rng(0).random(shape))
    SAVERS[saver](tmp_path / "x.npz", x=values)
    found = read_by(tmp_path / "x.npz", "x", 3)
    assert np.array_equal(found, values)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 3)])
def test_whole_arrays_of_any_rank(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.full(shape, 7, ">i4")
    np.savez(tmp_path / "x.npz", x=values)
    with open_archive(tmp_path / "x.npz") as archive, archive.rows("x") as rows:
        found = rows.read_all()
    assert (found.shape, found.dtype) == (shape, np.dtype("int32"))
    assert np.array_equal(found, values)


def test_arrays_are_read_side_by_side(tmp_path: Path) -> None:
    a, b = np.arange(50.0).reshape(10, 5), np.arange(10)
    np.savez_compressed(tmp_path / "x.npz", a=a, b=b)
    with open_archive(tmp_path / "x.npz") as archive:
        assert list(map(str, archive.heads.values())) == [
            "'a' (float64 [10, 5])", "'b' (int64 [10])",
        ]  # fmt: skip
        with archive.rows("a") as first, archive.rows("b") as second:
            for start in range(0, 10, 2):
                assert np.array_equal(first.read(2), a[start : start + 2])
                assert np.array_equal(second.read(2), b[start : start + 2])


@pytest.mark.parametrize("saver", SAVERS)
def test_memory_is_that_of_the_rows(tmp_path: Path, saver: str) -> None:
    SAVERS[saver](tmp_path / "x.npz", x=np.zeros((400, 1 << 14)))  # 52 MB
    tracemalloc.start()
    try:
        with open_archive(tmp_path / "x.npz") as archive, archive.rows("x") as rows:
            for _ in range(400):
                rows.read(1)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def damaged(data: bytes) -> bytes:
    """Return the archive with one changed byte in the values of its first array."""
    changed = bytearray(data)
    changed[300] ^= 1
    return bytes(changed)


def test_checksum_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((8, 100)))
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(InputError, match=r"x\.npz: array 'x' is damaged: Bad CRC-32"):
        read_by(path, "x", 3)


def saved(tmp_path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def npy(values: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (npy(np.array([{}], dtype=object)), "holds pickled objects, expected plain numbers"),
        (header((10**12,)), r"says float64 \[1000000000000\] and holds 0 bytes"),
        (header((-1, -8)) + bytes(64), r"says float64 \[-1, -8\] and holds 64 bytes"),
        (header((4,)) + bytes(33), r"says float64 \[4\] and holds 33 bytes"),
        (b"", "cannot be read: "),
        (b"\x93NUMPY\x09\x00" + bytes(9), "cannot be read: "),
        (b"\x93NUMPY\x01\x00\x00", "cannot be read: "),
        (b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000, "cannot be read: "),
        (header((4,), descr="nonsense") + bytes(32), "cannot be read: "),
    ],
    ids=["pickle", "terabyte", "negative", "odd", "empty", "version", "cut", "deep", "dtype"],
)
def test_bad_array_is_known_and_does_not_hide_the_others(
    tmp_path: Path, member: bytes, problem: str
) -> None:
    path = saved(tmp_path, {"bad.npy": member, "good.npy": npy(np.arange(3))})
    with open_archive(path) as archive:
        assert archive.heads["good"].problem is None
        found = archive.heads["bad"].problem
        assert found is not None
        assert re.match(problem, found)
        assert str(archive.heads["bad"]).startswith("'bad' (which ")


def test_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy_stream, "MAX_READ_BYTES", 1 << 20)
    data = header((2, 1 << 18)) + bytes(1 << 22)
    path = saved(tmp_path, {"x.npy": data}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 14
    with (
        open_archive(path) as archive,
        archive.rows("x") as rows,
        pytest.raises(InputError, match=r"\(float64 \[2, 262144\]\) needs 2097152 bytes at a time"),
    ):
        rows.read(1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with (
        pytest.raises(InputError, match=r"x\.npz: is not an \.npz file of plain arrays"),
        open_archive(tmp_path / "x.npz"),
    ):
        pass


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"), open_archive(tmp_path / "x.npz"):
        pass
    with pytest.raises(InputError, match="is no file"), open_archive(tmp_path):
        pass


def test_cut_archive_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).random(1000))
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="is not an"), open_archive(tmp_path / "x.npz"):
        pass


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA,
                                    zipfile.ZIP_BZIP2])  # fmt: skip
@given(data=st.data())
@settings(max_examples=60)
def test_any_bytes_give_arrays_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, method: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = saved(folder, {"x.npy": npy(np.arange(40.0).reshape(8, 5))}, method)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(InputError), open_archive(path) as archive:
        for name, head in archive.heads.items():
            if head.problem is None:
                with archive.rows(name) as rows:
                    assert rows.read_all().shape == head.shape
