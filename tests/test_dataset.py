"""What a path holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxq.data.batches import DataOptions
from onnxq.data.dataset import open_dataset
from onnxq.data.preprocess import PRESETS, Preprocess
from onnxq.errors import InputError, OptionError
from onnxq.runtime import InputSpec

X = [InputSpec(name="x", dtype="float32", shape=("N", 3))]


def test_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such file or folder$"):
        open_dataset(tmp_path / "none", X, DataOptions())


def test_npz_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 3), np.float32))
    data = open_dataset(tmp_path / "x.npz", X, DataOptions())
    assert (data.kind, data.path) == ("npz", str(tmp_path / "x.npz"))
    assert [batch.samples for batch in data.batches()] == [3]


def test_folder_of_npz_files_is_sorted(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        np.savez(tmp_path / f"{name}.npz", x=np.full((2, 3), ord(name), np.float32))
    (tmp_path / ".DS_Store").touch()
    data = open_dataset(tmp_path, X, DataOptions())
    assert (data.kind, data.available) == ("npz-folder", 6)
    assert [chr(int(batch.feeds["x"][0, 0])) for batch in data.batches()] == ["a", "b", "c"]
    assert all(batch.is_start for batch in data.batches())


def test_preprocessing_of_a_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 3), np.float32))
    options = DataOptions(preprocess=PRESETS["imagenet-tf"])
    with pytest.raises(OptionError, match=r"preprocess: .*found the file .*x\.npz; leave it out"):
        open_dataset(tmp_path / "x.npz", X, options)


@pytest.mark.parametrize(("name", "kind"), [("0.JPG", "an image"), ("a.wav", "a sound")])
@pytest.mark.parametrize("preprocess", [None, PRESETS["imagenet-tf"]])
def test_the_folder_is_asked_for_where_a_file_of_it_is_given(
    tmp_path: Path, name: str, kind: str, preprocess: Preprocess | None
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{name}: is {kind}, expected a folder of them"):
        open_dataset(tmp_path / name, X, DataOptions(preprocess=preprocess))


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is an empty folder, expected an \.npz file"):
        open_dataset(tmp_path, X, DataOptions())


@pytest.mark.parametrize("name", ["readme.txt", "x.jpg", "folder.npz/x"])
def test_odd_file_among_npz_files_is_named(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3), np.float32))
    odd = tmp_path / name
    odd.parent.mkdir(exist_ok=True)
    odd.touch()
    with pytest.raises(InputError, match=rf"{name.split('/')[0]}: found a f.*expected an \.npz"):
        open_dataset(tmp_path, X, DataOptions())
