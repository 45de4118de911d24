import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxq import record_json
from onnxq.errors import InputError
from onnxq.runtime import SessionSettings
from onnxq.validation import probe
from onnxq.validation.probe import Job, Result, Subject, Turns
from tests.tiny_models import from_text, scaled

NEEDS_RESET = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is never reset"
)
ONES = {"x": np.ones((2, 3), np.float32)}


def job(folder: Path, kind: str, *models: bytes, **limits: Any) -> Job:
    """Return a job for models, which are written into its folder."""
    subjects = []
    for number, model in enumerate(models):
        path = folder / f"{number}.onnx"
        path.write_bytes(model)
        subjects.append(Subject(model=str(path), settings=SessionSettings(threads=1)))
    values = {"kind": kind, "feeds": (), "subjects": tuple(subjects), **limits}
    return Job(**values)


def done(folder: Path, wanted: Job) -> Result:
    """Return the result that a folder holds after its job."""
    (folder / probe.JOB).write_text(json.dumps(record_json.to_json(wanted)), encoding="utf-8")
    probe.run(folder)
    data = json.loads((folder / probe.RESULT).read_text(encoding="utf-8"))
    return record_json.from_json(Result, data)


def test_a_job_comes_back_from_its_json(tmp_path: Path) -> None:
    settings = SessionSettings(
        provider="auto", options={"session.disable_prepacking": "1"}, is_packed=True
    )
    subject = Subject(model="m.onnx", settings=settings)
    wanted = Job(kind="latency", subjects=(subject, subject), feeds=(("x", "float32"),))
    data = json.loads(json.dumps(record_json.to_json(wanted)))
    assert record_json.from_json(Job, data) == wanted


def test_memory_is_measured_of_one_load_and_one_run(tmp_path: Path) -> None:
    feeds = probe.save_feeds(tmp_path, ONES)
    result = done(tmp_path, job(tmp_path, "memory", scaled(2), feeds=feeds))
    assert result.error == ()
    assert result.provider == "CPUExecutionProvider"
    assert [len(times) for times in result.load_seconds + result.run_seconds] == [1, 1]
    if os.name == "posix":
        assert result.load_peak_bytes is not None
        assert result.run_peak_bytes is not None
        assert 0 <= result.load_peak_bytes <= result.run_peak_bytes


def in_its_own_process(folder: Path, wanted: Job) -> Result:
    """Return the result of a job as it is in earnest: of a process that has done nothing else."""
    (folder / probe.JOB).write_text(json.dumps(record_json.to_json(wanted)), encoding="utf-8")
    command = [sys.executable, "-m", "onnxq.validation.probe", str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    data = json.loads((folder / probe.RESULT).read_text(encoding="utf-8"))
    return record_json.from_json(Result, data)


@NEEDS_RESET
def test_what_the_runtime_takes_for_itself_does_not_count(tmp_path: Path) -> None:
    feeds = probe.save_feeds(tmp_path, ONES)
    result = in_its_own_process(tmp_path, job(tmp_path, "memory", scaled(2), feeds=feeds))
    assert result.run_peak_bytes is not None
    assert result.run_peak_bytes < 2_000_000


@NEEDS_RESET
def test_the_peak_of_a_run_is_that_of_what_it_computes(tmp_path: Path) -> None:
    text = (
        "g (float[N] x) => (float s) <int64[1] n = {16000000}>"
        "{ e = Expand(x, n) r = Neg(e) s = ReduceSum<keepdims = 0>(r) }"
    )
    feeds = probe.save_feeds(tmp_path, {"x": np.ones(1, np.float32)})
    result = done(tmp_path, job(tmp_path, "memory", from_text(text), feeds=feeds))
    assert result.load_peak_bytes is not None
    assert result.run_peak_bytes is not None
    assert result.run_peak_bytes - result.load_peak_bytes > 60 << 20


def test_every_subject_is_loaded_and_run_as_often(tmp_path: Path) -> None:
    feeds = probe.save_feeds(tmp_path, ONES)
    limits = {
        name: Turns(seconds=0.0, least=turns, most=9, patience=60.0, fewest=1)
        for name, turns in (("runs", 4), ("loads", 3))
    }
    wanted = job(tmp_path, "latency", scaled(2), scaled(3), feeds=feeds, **limits)
    result = done(tmp_path, wanted)
    assert [len(loads) for loads in result.load_seconds] == [3, 3]
    assert [len(runs) for runs in result.run_seconds] == [4, 4]
    assert min(map(min, result.load_seconds + result.run_seconds)) > 0


def test_the_order_changes_with_every_turn() -> None:
    asked: list[str] = []

    def time_of(item: str) -> float:
        asked.append(item)
        return float(len(asked))

    turns = Turns(seconds=0.0, least=3, most=9, patience=60.0, fewest=1)
    assert probe._in_turn("ab", time_of, turns) == ((1.0, 4.0, 5.0), (2.0, 3.0, 6.0))
    assert asked == list("abbaab")


@pytest.mark.parametrize(
    ("runs", "seconds", "goes_on"),
    [
        (0, 99.0, True),
        (2, 99.0, True),
        (3, 99.0, False),
        (9, 59.0, True),
        (10, 2.9, True),
        (10, 3.0, False),
        (299, 0.1, True),
        (300, 0.1, False),
    ],
)
def test_runs_are_bounded_by_time_and_number(runs: int, seconds: float, goes_on: bool) -> None:
    turns = Job(kind="latency", subjects=(), feeds=()).runs
    assert probe._goes_on(turns, runs, seconds) == goes_on


def test_a_load_that_takes_long_is_not_repeated() -> None:
    turns = Job(kind="latency", subjects=(), feeds=()).loads
    assert not probe._goes_on(turns, 1, 20.0)
    assert probe._goes_on(turns, 4, 9.0)
    assert not probe._goes_on(turns, 5, 2.0)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3, dtype=np.int64),
        np.float32(2),
        np.array([True, False]),
        np.arange(3).astype(ml_dtypes.bfloat16),
        np.array(["a", "\u00fc"]),
        np.array(["a", "bc"], dtype=object),
    ],
)
@pytest.mark.parametrize("name", ["x", "file", "a/b", "\u00fc.npy", ""])
def test_feeds_come_back(tmp_path: Path, array: Any, name: str) -> None:
    described = probe.save_feeds(tmp_path, {"first": np.zeros(1), name: array})
    loaded = probe._load_feeds(tmp_path, described)
    assert list(loaded) == ["first", name]
    expected = np.asarray(array)
    assert loaded[name].shape == expected.shape
    assert loaded[name].tolist() == expected.tolist()
    assert expected.dtype == object or loaded[name].dtype == expected.dtype


def test_a_refusal_is_a_result(tmp_path: Path) -> None:
    wanted = job(tmp_path, "memory", b"garbage", feeds=probe.save_feeds(tmp_path, {}))
    name, message = done(tmp_path, wanted).error
    assert name == InputError.__name__
    assert "0.onnx: onnxruntime cannot load it" in message
