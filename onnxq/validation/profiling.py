"""Measure what two models cost at load and at a run: time and memory.

Owns the processes (`probe`) that are started for it, and what their times mean. Each model's memory
is that of a process which does nothing else; latencies are those of one process in which both
models run in turn, so that a busy moment of the machine meets both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxq import errors, record_json, scratch
from onnxq.errors import OnnxqError, UnsupportedError
from onnxq.runtime import SessionSettings
from onnxq.validation import probe
from onnxq.validation.measurements import Performance, Timing
from onnxq.validation.probe import Job, Result, Subject

_STOP_SPINNING = "session.force_spinning_stop"
"""Threads of a session wait busily after a run; those of the model whose turn is not would cost the
other one's time."""
_PROVIDERS = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}
_REASON_LENGTH = 300
_WITHOUT = "pass --no-performance to go without"

PATIENCE = 900.0
"""Seconds that a process may take before anything is known of the models."""

_TURNS = 20
"""Loads and runs of both models for which the time of one of each suffices, over `PATIENCE`."""


def measure(
    reference: Path | bytes,
    candidate: Path | bytes,
    feeds: Mapping[str, Any],
    settings: SessionSettings,
    *,
    is_candidate_packed: bool,
    samples: int | None = None,
) -> Performance:
    """Return times and memory of two models on the same inputs.

    Loads take about 2 seconds in all, runs 3, but each model has at least 5 loads and 10 runs, and
    at most 300 of each.

    Args:
        reference: file or serialised model to compare with.
        candidate: file or serialised model to judge.
        feeds: inputs by name, as tensors; one run is one call with them.
        settings: how to load and run both.
        is_candidate_packed: load the candidate with `is_packed`.
        samples: how many samples the inputs hold, for the record.

    Raises:
        OnnxqError: a model cannot be loaded or run, or its process ended before it was done, or
            did not end.
    """
    packed = replace(settings, is_packed=is_candidate_packed)
    with scratch.folder() as folder:
        subjects = (
            Subject(model=_file(reference, folder / "reference.onnx"), settings=settings),
            Subject(model=_file(candidate, folder / "candidate.onnx"), settings=packed),
        )
        described = probe.save_feeds(folder, feeds)
        memory = [
            _result(folder, Job(kind="memory", subjects=(subject,), feeds=described), PATIENCE)
            for subject in subjects
        ]
        quiet = tuple(map(_without_spinning, subjects))
        latency = _result(
            folder,
            Job(kind="latency", subjects=quiet, feeds=described),
            PATIENCE + _TURNS * sum(map(_once, memory)),
        )
    return replace(_performance(memory, latency, packed), samples=samples)


def _file(source: Path | bytes, path: Path) -> str:
    """Return the file of a model, written to a path where there is none yet."""
    if isinstance(source, Path):
        return str(source.absolute())
    path.write_bytes(source)
    return str(path)


def _without_spinning(subject: Subject) -> Subject:
    options = {_STOP_SPINNING: "1", **subject.settings.options}
    return replace(subject, settings=replace(subject.settings, options=options))


def _once(memory: Result) -> float:
    """Return the seconds of the load and the run of a "memory" job."""
    return memory.load_seconds[0][0] + memory.run_seconds[0][0]


def _result(folder: Path, job: Job, limit: float) -> Result:
    """Return what a process of its own finds for a job in at most `limit` seconds."""
    text = json.dumps(record_json.to_json(job))
    (folder / probe.JOB).write_text(text, encoding="utf-8")
    (folder / probe.RESULT).unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "onnxq.validation.probe", str(folder)]
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as err:
        raise UnsupportedError(
            f"{_models(job)}: the process that measures times and memory was not done after "
            f"{limit:.0f} seconds, and was ended; use a smaller --batch, or {_WITHOUT}"
        ) from err
    except OSError as err:
        raise UnsupportedError(
            f"no process can be started to measure times and memory in: {err}; {_WITHOUT}"
        ) from err
    try:
        text = (folder / probe.RESULT).read_text(encoding="utf-8")
    except OSError as err:
        raise _ended(job, done.returncode, done.stderr) from err
    result = record_json.from_json(Result, json.loads(text), "result")
    if result.error:
        name, message = result.error
        raise _error_class(name)(message)
    return result


def _environment() -> dict[str, str]:
    """Return an environment in which a process finds this very package."""
    paths = [str(Path(probe.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _error_class(name: str) -> type[OnnxqError]:
    found = getattr(errors, name, OnnxqError)
    return found if isinstance(found, type) and issubclass(found, OnnxqError) else OnnxqError


def _models(job: Job) -> str:
    return ", ".join(subject.model for subject in job.subjects)


def _ended(job: Job, status: int, stderr: bytes) -> OnnxqError:
    """Return what to say of a process that left no result."""
    lines = stderr.decode("utf-8", "replace").split("\n")
    said = " ".join(next((line for line in reversed(lines) if line.strip()), "").split())
    reason = f": {said[:_REASON_LENGTH]}" if said else ""
    who = f"{_models(job)}: the process that measures times and memory"
    how = f"by signal {-status} (9 means out of memory)" if status < 0 else f"with status {status}"
    return UnsupportedError(f"{who} ended {how}{reason}; {_WITHOUT}")


def _performance(
    memory: Sequence[Result], latency: Result, candidate: SessionSettings
) -> Performance:
    first, second = (_timing(memory[index], latency, index) for index in range(2))
    return Performance(
        provider=_PROVIDERS.get(latency.provider, latency.provider),
        threads=candidate.threads,
        is_packed=candidate.is_packed,
        reference=first,
        candidate=second,
        load_ratio=_turn_ratio(*latency.load_seconds),
        latency_ratio=_turn_ratio(*latency.run_seconds),
        load_memory_ratio=_ratio(second.load_peak_bytes, first.load_peak_bytes),
        run_memory_ratio=_ratio(second.run_peak_bytes, first.run_peak_bytes),
    )


def _timing(memory: Result, latency: Result, index: int) -> Timing:
    runs = latency.run_seconds[index]
    return Timing(
        load_seconds=float(np.median(latency.load_seconds[index])),
        median_seconds=float(np.median(runs)),
        p90_seconds=float(np.quantile(runs, 0.9, method="inverted_cdf")),
        runs=len(runs),
        load_peak_bytes=memory.load_peak_bytes,
        run_peak_bytes=memory.run_peak_bytes,
    )


def _turn_ratio(reference: Sequence[float], candidate: Sequence[float]) -> float:
    """Return the median of each turn's ratio.

    On a busy machine loads and runs are either fast or several times slower, and a median jumps
    between the two; equal models have a ratio of 1 all the same, since either may be the slow one
    of a turn.
    """
    return float(np.median(np.divide(candidate, reference)))


def _ratio(candidate: float | None, reference: float | None) -> float | None:
    return candidate / reference if candidate is not None and reference else None
