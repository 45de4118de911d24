"""The state file of a sweep: what is finished stays, what a crash cut off goes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from onnxq.checks import Check
from onnxq.differences import OutputDifference
from onnxq.errors import InputError, OutputError
from onnxq.sweeps import journal
from onnxq.sweeps.journal import Entry, Journal
from onnxq.sweeps.working_points import WorkingPoint
from onnxq.validation.measurements import DataUsed, Estimate, MetricRow
from tests import reports

DATA = DataUsed(kind="npz", path="val.npz", samples=3, truths=("label",))


def entry(key: str) -> Entry:
    output = OutputDifference(name="y", snr_db=-math.inf, max_abs=None, cosine=None, is_equal=False)
    metric = MetricRow(
        name="top1",
        output="y",
        kind="task",
        better="higher",
        samples=3,
        reference=Estimate(value=0.5),
        candidate=Estimate(value=0.25, standard_error=0.1, low=0.0, high=0.5),
    )
    point = WorkingPoint(
        key=key,
        settings={"bits": 4, "exclude": ["a*"], "preset": None},
        command="onnxq convert a b --bits 4",
        file_bytes=10,
        check=Check(status="ok", samples=3, outputs=(output,)),
        metrics=(metric,),
        ledger=reports.LEDGER,
        tensors=reports.TENSORS,
        seconds=1.5,
    )
    return Entry(point=point, data=DATA)


def filled(path: Path, *keys: str) -> bytes:
    with Journal(path) as state:
        for key in keys:
            state.add(entry(key))
    return path.read_bytes()


def test_a_finished_point_comes_back_as_it_was(tmp_path: Path) -> None:
    filled(tmp_path / "s", "a", "b")
    with Journal(tmp_path / "s") as state:
        assert state.get("a") == entry("a")
        assert state.get("b") == entry("b")
        assert state.get("c") is None
        assert state.dropped == 0


def test_a_point_is_in_the_file_when_add_returns(tmp_path: Path) -> None:
    with Journal(tmp_path / "s") as state:
        for count, key in enumerate("abc", 2):
            state.add(entry(key))
            assert (tmp_path / "s").read_bytes().count(b"\n") == count


def test_every_cut_leaves_the_lines_before_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    content = filled(path, "a", "b")
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(0, len(content), 7):
        path.write_bytes(content[:cut])
        with Journal(path) as state:
            assert (state.get("a") is not None) == (cut >= ends[1])
            assert state.get("b") is None
            state.add(entry("c"))
        with Journal(path) as state:
            assert state.get("c") == entry("c")
            assert state.dropped == 0


def test_a_damaged_line_is_counted_and_nothing_else_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "s"
    lines = filled(path, "a", "b", "c").splitlines(keepends=True)
    lines[2] = b"\x00\xff" + lines[2][:20] + b"\n"
    lines.insert(3, json.dumps({"point": {}, "data": {}}).encode() + b"\n")
    path.write_bytes(b"".join(lines))
    with Journal(path) as state:
        assert state.dropped == 2
        assert state.get("b") is None
        assert state.get("a") == entry("a")
        assert state.get("c") == entry("c")


@pytest.mark.parametrize("content", [b"\n", b"my notes\n", b"\x08\x00onnx", b'{"file": "x"}\n{}\n'])
def test_any_other_file_is_refused_and_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(InputError, match="notes: is no state file"), Journal(path):
        pass
    assert path.read_bytes() == content


def test_what_cannot_be_opened_is_an_output_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "s"):
        with pytest.raises(OutputError, match="cannot be opened"), Journal(path):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_one_sweep_at_a_time_writes_a_file(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from onnxq.sweeps.journal import Journal\n"
        "with Journal(pathlib.Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "s")]
    with Journal(tmp_path / "s"):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "another sweep is writing it" in ended.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_without_a_file_it_remembers_in_memory() -> None:
    with Journal(None) as state:
        state.add(entry("a"))
        assert state.get("a") == entry("a")


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    keys = [f"{number}" for number in range(24)]
    with Journal(tmp_path / "s") as state:
        threads = [threading.Thread(target=state.add, args=(entry(key),)) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Journal(tmp_path / "s") as state:
        assert all(state.get(key) == entry(key) for key in keys)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with Journal(tmp_path / "s") as state:
        state.add(entry("a"))
        before = (tmp_path / "s").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(journal.os, "fsync", full)
            with pytest.raises(OutputError, match="No space left"):
                state.add(entry("b"))
        assert (tmp_path / "s").read_bytes() == before
