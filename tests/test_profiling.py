import os
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxq.errors import InputError, OptionError, UnsupportedError
from onnxq.runtime import SessionSettings
from onnxq.validation import profiling
from onnxq.validation.measurements import Performance
from onnxq.validation.probe import Job, Result
from tests.tiny_models import scaled

ONES = {"x": np.ones((2, 3), np.float32)}
ONE_THREAD = SessionSettings(threads=1)


def measured(
    reference: Path | bytes, candidate: Path | bytes, settings: SessionSettings = ONE_THREAD
) -> Performance:
    return profiling.measure(reference, candidate, ONES, settings, is_candidate_packed=True)


def test_both_models_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.onnx").write_bytes(scaled(2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)  # may be "."
    # The folder of the user's data is none to import from.
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    found = measured(Path("a.onnx"), scaled(3))
    assert (found.provider, found.threads, found.is_packed) == ("cpu", 1, True)
    for timing in (found.reference, found.candidate):
        assert 10 <= timing.runs <= 300
        assert 0 < timing.median_seconds <= timing.p90_seconds
        assert timing.load_seconds > 0
        assert os.name != "posix" or timing.run_peak_bytes is not None
    assert found.latency_ratio is not None
    assert found.latency_ratio > 0
    assert found.load_ratio is not None
    assert found.load_ratio > 0
    assert found.samples is None


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"bad\.onnx: onnxruntime cannot load it"):
        measured(scaled(2), path)


def test_a_wrong_session_option_is_an_option_error() -> None:
    with pytest.raises(OptionError, match="--session-option nonsense"):
        measured(scaled(2), scaled(2), SessionSettings(options={"nonsense": "1"}))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("kill -9 $$", r"reference\.onnx: the process .* by signal 9 \(9 means out of memory\); "),
        ("echo no; echo oh no >&2; exit 3", "ended with status 3: oh no; pass --no-performance"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_process_that_dies_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, message: str
) -> None:
    shell = tmp_path / "python"
    shell.write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
    shell.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(shell))
    with pytest.raises(UnsupportedError, match=message):
        measured(scaled(2), scaled(2))


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_process_that_does_not_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shell = tmp_path / "python"
    shell.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n", encoding="utf-8")
    shell.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(shell))
    monkeypatch.setattr(profiling, "PATIENCE", 1.0)
    with pytest.raises(UnsupportedError, match=r"was not done after 1 seconds.*--no-performance"):
        measured(scaled(2), scaled(2))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(UnsupportedError, match="no process can be started"):
        measured(scaled(2), scaled(2))


def test_figures_are_those_of_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []
    latency = Result(
        provider="CPUExecutionProvider",
        load_seconds=((2.0, 9.0, 2.0), (8.0, 9.0, 1.0)),
        run_seconds=((1.0, 8.0, 2.0, 2.0), (2.0, 4.0, 1.0, 9.0)),
    )
    memory = [
        Result(
            load_seconds=((4.0,),), run_seconds=((1.0,),), load_peak_bytes=10, run_peak_bytes=20
        ),
        Result(
            load_seconds=((6.0,),), run_seconds=((1.0,),), load_peak_bytes=5, run_peak_bytes=None
        ),
    ]

    limits: list[float] = []

    def answer(folder: Path, job: Job, limit: float) -> Result:
        jobs.append(job)
        limits.append(limit)
        return [*memory, latency][len(jobs) - 1]

    monkeypatch.setattr(profiling, "_result", answer)
    found = profiling.measure(
        scaled(2), scaled(2), ONES, ONE_THREAD, is_candidate_packed=True, samples=2
    )
    assert found.samples == 2
    assert limits == [profiling.PATIENCE] * 2 + [profiling.PATIENCE + 20 * (4 + 1 + 6 + 1)]
    assert [job.kind for job in jobs] == ["memory", "memory", "latency"]
    packed = [subject.settings.is_packed for job in jobs for subject in job.subjects]
    assert packed == [False, True, False, True]
    assert (found.reference.load_seconds, found.candidate.load_seconds) == (2.0, 8.0)
    assert (found.reference.median_seconds, found.reference.p90_seconds) == (2.0, 8.0)
    assert (found.candidate.median_seconds, found.candidate.p90_seconds) == (3.0, 9.0)
    assert (found.load_ratio, found.latency_ratio) == (1.0, 1.25)  # of turns, not of medians
    assert (found.load_memory_ratio, found.run_memory_ratio) == (0.5, None)
