import os
import threading
from pathlib import Path

import pytest

from onnxq import textfile
from onnxq.errors import OptionError, OutputError


def test_save_writes_utf8_and_leaves_nothing_else(tmp_path: Path) -> None:
    textfile.save(tmp_path / "a.json", "ä\n", force=False)
    assert (tmp_path / "a.json").read_bytes() == "ä\n".encode()
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_that_exists_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        textfile.save(path, "new", force=False)
    assert path.read_text() == "old"
    textfile.save(path, "new", force=True)
    assert path.read_text() == "new"


def test_a_folder_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        textfile.check_target(tmp_path, force=True)
    with pytest.raises(OutputError, match="does not exist"):
        textfile.check_target(tmp_path / "no" / "a.json", force=True)


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    textfile.save(tmp_path / "link", "new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_device_is_written_without_force_and_stays() -> None:
    textfile.save(Path("/dev/null"), "text", force=False)
    assert not Path("/dev/null").is_file()


def test_a_full_device_is_an_output_error() -> None:
    with pytest.raises(OutputError, match="No space left"):
        textfile.save(Path("/dev/full"), "text", force=False)


def test_a_pipe_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    textfile.save(pipe, "text", force=False)
    reader.join()
    assert found == ["text"]


def test_files_must_be_distinct(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.touch()
    (tmp_path / "link").symlink_to(path)
    textfile.check_distinct({"OUT": other, "--json": None}, {"IN": path, "--plan": path})
    textfile.check_distinct({"OUT": path}, {"IN": path})
    textfile.check_distinct({"OUT": Path("/dev/null"), "--json": Path("/dev/null")}, {})
    with pytest.raises(OptionError, match=r"--json .*: is the same file as that of OUT"):
        textfile.check_distinct({"OUT": other, "--json": other}, {})
    with pytest.raises(OptionError, match=r"--json .*: is the same file as that of IN"):
        textfile.check_distinct({"--json": tmp_path / "link"}, {"IN": path})
    with pytest.raises(OptionError, match=r"OUT .*: is the same file as that of --plan"):
        textfile.check_distinct({"OUT": other}, {"IN": path, "--plan": other})
