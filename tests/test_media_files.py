"""What lies in a folder of data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from onnxq.data.media_files import IMAGES, entries, labelled, listing, paired
from onnxq.errors import InputError

PNG = (".png",)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder: Path, *classes: str, offset: int = 0) -> list[tuple[str, int | None]]:
    found = labelled(folder, PNG, classes, offset)
    return [(item.path.relative_to(folder).as_posix(), item.label) for item in found.samples]


def test_order_is_that_of_the_bytes_and_litter_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "B.png", "10.png", "9.png", ".DS_Store", "Thumbs.db", "desktop.ini")
    assert [path.name for path in listing(tmp_path)] == ["10.png", "9.png", "B.png", "b.png"]


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: cannot be read: No such file"):
        listing(tmp_path / "none")


def test_endings_in_capitals_count(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPEG", "b.Png")
    assert len(entries(tmp_path, IMAGES, "images")) == 2


def test_odd_things_are_named(tmp_path: Path) -> None:
    for name, found in (("notes.txt", r"a file ending in '\.txt'"), ("README", "a file of no")):
        touch(tmp_path, "a.png", name)
        with pytest.raises(InputError, match=rf"{name}: found {found}.*, expected images; move"):
            entries(tmp_path, PNG, "images")
        (tmp_path / name).unlink()
    (tmp_path / "z.png").mkdir()
    with pytest.raises(InputError, match=r"z\.png: found a folder, expected images"):
        entries(tmp_path, PNG, "images")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_and_broken_ones_named(tmp_path: Path) -> None:
    touch(tmp_path / "store", "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "store")
    (tmp_path / "data" / "dog").mkdir()
    (tmp_path / "data" / "dog" / "b.png").symlink_to(tmp_path / "store" / "a.png")
    assert names(tmp_path / "data") == [("cat/a.png", 0), ("dog/b.png", 1)]
    (tmp_path / "store" / "a.png").unlink()
    with pytest.raises(InputError, match=r"b\.png: found a broken link"):
        entries(tmp_path / "data" / "dog", PNG, "images")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    touch(tmp_path / "store", "a.png")
    with pytest.raises(InputError, match="cat: found a folder"):  # and not followed for ever
        names(tmp_path / "data")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_pipe_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: found a device or pipe"):
        entries(tmp_path, PNG, "images")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_are_no_text_are_read_and_shown(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    bad = os.fsdecode(b"\xff\x1b[2J.png")
    touch(tmp_path / "cat", bad, "a.png")
    assert [item.path.name for item in labelled(tmp_path, PNG, (), 0).samples] == ["a.png", bad]
    touch(tmp_path / "cat", bad + ".txt")
    with pytest.raises(InputError) as caught:
        labelled(tmp_path, PNG, (), 0)
    assert str(caught.value).isprintable()


def test_classes_are_the_sorted_folders_and_take_turns(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.png", "cat/1.png", "cat/2.png", "cat/3.png", "ant/1.png", "ant/2.png")
    assert names(tmp_path) == [
        ("ant/1.png", 0), ("cat/1.png", 1), ("dog/1.png", 2), ("ant/2.png", 0), ("cat/2.png", 1),
        ("cat/3.png", 1),
    ]  # fmt: skip
    assert labelled(tmp_path, PNG, (), 0).classes == 3
    assert names(tmp_path, offset=1)[0] == ("ant/1.png", 1)


def test_named_classes_number_a_part_of_them(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "ant/1.png")
    assert names(tmp_path, "dog", "cat", "ant") == [("cat/1.png", 1), ("ant/1.png", 2)]
    assert labelled(tmp_path, PNG, ("dog", "cat", "ant"), 0).classes == 3
    with pytest.raises(InputError, match=r"ant: found .* of the 2 .*'classes' \(dog, cat\); add"):
        names(tmp_path, "dog", "cat")


def test_empty_folders_and_loose_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is an empty folder, expected class folders with files"):
        names(tmp_path)
    touch(tmp_path, "cat/1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match=r"dog: is an empty folder, expected files ending"):
        names(tmp_path)
    (tmp_path / "dog").rmdir()
    touch(tmp_path, "1.png")
    with pytest.raises(InputError, match=r"1\.png: found a file .*, expected class folders"):
        names(tmp_path)


def test_pairs_have_equal_names(tmp_path: Path) -> None:
    touch(tmp_path, "input/a.png", "input/b.png", "target/a.png", "target/b.png")
    found = [(item.path.name, item.target and item.target.name) for item in paired(tmp_path, PNG)]
    assert found == [("a.png", "a.png"), ("b.png", "b.png")]
    touch(tmp_path, "target/c.png")
    with pytest.raises(InputError, match=r"c\.png: has no counterpart of this name in .*input"):
        paired(tmp_path, PNG)
