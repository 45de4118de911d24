"""Load and run models in a process of its own, and report times and peak memory.

`python -m onnxq.validation.probe FOLDER` does what `job.json` in the folder asks and leaves
`result.json`; `profiling` starts it. A process of its own, because the peak of a process cannot be
told apart from what it did before. Memory is the host's, whatever the provider.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from onnxq import record_json
from onnxq.errors import OnnxqError
from onnxq.runtime import Session, SessionSettings, float_dtype, open_session, prepare

if sys.platform != "win32":
    import resource

JOB, RESULT, FEEDS = "job.json", "result.json", "feeds.npz"
_BFLOAT16 = "bfloat16"
_WARM_UPS = 2
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Name one model by its file, with how to load it."""

    model: str
    settings: SessionSettings


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Say how often something is timed for every subject in turn.

    Attributes:
        seconds: Time to spend.
        least: Turns all the same, unless they take `patience`.
        most: Turns to stop at.
        patience: Seconds after which the `fewest` turns are enough.
        fewest: Turns whatever they take.
    """

    seconds: float
    least: int
    most: int
    patience: float
    fewest: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """Say what to measure.

    Attributes:
        kind: "memory": load and run the one subject once. "latency": load all, then run them in
            turn.
        subjects: The models.
        feeds: Name and dtype of each input, in the order of the arrays in `feeds.npz`.
        loads: How often a "latency" job loads the subjects.
        runs: How often it runs them.
    """

    kind: Literal["memory", "latency"]
    subjects: tuple[Subject, ...]
    feeds: tuple[tuple[str, ...], ...]
    loads: Turns = field(
        default_factory=lambda: Turns(seconds=2.0, least=5, most=300, patience=10.0, fewest=1)
    )
    runs: Turns = field(
        default_factory=lambda: Turns(seconds=3.0, least=10, most=300, patience=60.0, fewest=3)
    )


@dataclass(frozen=True, kw_only=True)
class Result:
    """Hold what was measured, for each subject in the order of the job.

    Attributes:
        error: Name of our exception's class and its message, in place of everything else.
        provider: What ran the first subject.
        load_seconds: Time of opening each session.
        run_seconds: Time of each run.
        load_peak_bytes: Most memory while loading, above that before; "memory" jobs only. None
            where the system does not tell.
        run_peak_bytes: Most memory while loading and running, likewise.
    """

    error: tuple[str, ...] = ()
    provider: str = ""
    load_seconds: tuple[tuple[float, ...], ...] = ()
    run_seconds: tuple[tuple[float, ...], ...] = ()
    load_peak_bytes: int | None = None
    run_peak_bytes: int | None = None


def save_feeds(folder: Path, feeds: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Write inputs for a probe into its folder and return the `feeds` of its job."""
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    arrays = {k: v.astype(str) if v.dtype.kind in "OS" else v for k, v in arrays.items()}
    plain = [v.view(np.uint16) if v.dtype.name == _BFLOAT16 else v for v in arrays.values()]
    np.savez(folder / FEEDS, *plain)  # by position: a name may be none that savez can take
    return tuple((name, array.dtype.name) for name, array in arrays.items())


def _load_feeds(folder: Path, described: tuple[tuple[str, ...], ...]) -> dict[str, np.ndarray]:
    with np.load(folder / FEEDS, allow_pickle=False) as archive:
        arrays = [archive[f"arr_{number}"] for number in range(len(described))]
    return {
        name: array.view(float_dtype(_BFLOAT16)) if dtype == _BFLOAT16 else array
        for (name, dtype), array in zip(described, arrays, strict=True)
    }


def run(folder: Path) -> None:
    """Do the job of a folder and leave its result there; our own errors are results too."""
    job = record_json.from_json(Job, json.loads((folder / JOB).read_text(encoding="utf-8")), "job")
    work = {"memory": measure_memory, "latency": measure_latency}[job.kind]
    try:
        result = work(job, _load_feeds(folder, job.feeds))
    except OnnxqError as err:
        result = Result(error=(type(err).__name__, str(err)))
    text = json.dumps(record_json.to_json(result))
    (folder / RESULT).write_text(text, encoding="utf-8")


def measure_memory(job: Job, feeds: Mapping[str, Any]) -> Result:
    """Return the peak memory of loading and of running the job's subject once.

    Raises:
        OnnxqError: it cannot be loaded or run.
    """
    subject = job.subjects[0]
    prepare(subject.settings)  # what the runtime itself takes is not the model's
    peak = _Peak()
    session = open_session(Path(subject.model), subject.settings)
    load_peak = peak.rise()
    seconds = _timed(session, feeds)
    return Result(
        provider=session.provider,
        load_seconds=((session.load_seconds,),),
        run_seconds=((seconds,),),
        load_peak_bytes=load_peak,
        run_peak_bytes=peak.rise(),
    )


def measure_latency(job: Job, feeds: Mapping[str, Any]) -> Result:
    """Return the times of loading and running the job's subjects, in turn and in one process.

    Raises:
        OnnxqError: one cannot be loaded or run.
    """
    prepare(job.subjects[0].settings)
    sessions: dict[int, Session] = {}

    def load(number: int) -> float:
        subject = job.subjects[number]
        # Takes the place of the one before, so that one more than needed is in memory.
        sessions[number] = open_session(Path(subject.model), subject.settings)
        return sessions[number].load_seconds

    numbers = range(len(job.subjects))
    loads = _in_turn(numbers, load, job.loads)
    ready = [sessions[number] for number in numbers]
    for session in ready * _WARM_UPS:
        session.run(feeds)
    runs = _in_turn(ready, lambda session: _timed(session, feeds), job.runs)
    return Result(provider=ready[0].provider, load_seconds=loads, run_seconds=runs)


def _in_turn(
    items: Sequence[_Item], time_of: Callable[[_Item], float], turns: Turns
) -> tuple[tuple[float, ...], ...]:
    """Return the times of each item, taken in turns of changing order.

    Neither then always has the other's caches, or a clock that slows down, before it.
    """
    times: list[list[float]] = [[] for _ in items]
    order = list(zip(items, times, strict=True))
    gc.disable()
    start = time.perf_counter()
    while _goes_on(turns, len(times[0]), time.perf_counter() - start):
        for item, found in order:
            found.append(time_of(item))
        order.reverse()
    gc.enable()
    return tuple(map(tuple, times))


def _goes_on(turns: Turns, done: int, seconds: float) -> bool:
    if done >= turns.most or (done >= turns.fewest and seconds >= turns.patience):
        return False
    return done < turns.least or seconds < turns.seconds


def _timed(session: Session, feeds: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start


class _Peak:
    """Tell by how much the most memory of this process has risen.

    Linux can forget an earlier peak; elsewhere it may hide a rise below it.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _peak_bytes()

    def rise(self) -> int | None:
        now = _peak_bytes()
        return None if now is None or self._before is None else max(0, now - self._before)


def _peak_bytes() -> int | None:
    """Return the most memory of this process: its own, not that of the one which started it.

    getrusage gives the parent's peak too on Linux: it survives fork and exec.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    if sys.platform == "win32":
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    run(Path(sys.argv[1]))
