"""Tools of a sweep for tests: real conversions, a stand-in for the measurement.

Run as a program, it sweeps slowly and is meant to be killed:
`python -m tests.sweep_tools MODEL STATE SECONDS`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxq import api
from onnxq.checks import Check
from onnxq.differences import OutputDifference
from onnxq.report import Report
from onnxq.sweeps.sweeping import SweepRequest, Tools, sweep
from onnxq.validation import metrics
from onnxq.validation.evaluation import Evaluation
from onnxq.validation.measure_options import MeasureOptions
from onnxq.validation.measure_setup import Look, Measure
from onnxq.validation.measurements import DataUsed, Estimate, MetricRow

BITS = (2, 3, 4, 5, 6, 7)


def measured(candidate: Path) -> Evaluation:
    """Return figures that depend on the candidate alone."""
    size = float(candidate.stat().st_size)
    output = OutputDifference(name="y", snr_db=size, max_abs=1.0, cosine=0.5, is_equal=False)
    metric = MetricRow(
        name="cosine",
        output="y",
        kind="fidelity",
        better="higher",
        samples=3,
        candidate=Estimate(value=1 / size),
    )
    check = Check(status="ok", samples=3, outputs=(output,))
    return Evaluation(check=check, metrics=(metric,), data=DataUsed(kind="random", samples=3))


@dataclass
class Bench:
    """Count what is done; `before` runs before each measurement, with the options and
    the target of the point."""

    before: Callable[[Mapping[str, Any]], None] = lambda options: None
    converted: list[int] = field(default_factory=list)
    opened: int = 0
    most_at_once: int = 0
    jobs: set[int] = field(default_factory=set)
    _running: int = 0
    _options: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def tools(self) -> Tools:
        """Return the tools of a sweep."""
        return Tools(convert=self._convert, open_measure=self._open)

    def _convert(self, source: Any, target: Path, options: Mapping[str, Any]) -> Report:
        with self._guard:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
            self.converted.append(options["bits"])
            self.jobs.add(options["jobs"])
            self._options[target.name] = {**options, "target": target}
        return api.convert(source, target, check=0, **options)

    @contextmanager
    def _open(self, document: Any, options: MeasureOptions, look: Look) -> Iterator[Measure]:
        look(metrics.resolve(["cosine"]), ["y"])
        self.opened += 1
        yield self._measure

    def _measure(self, candidate: Path) -> Evaluation:
        try:
            self.before(self._options[candidate.name])
            return measured(candidate)
        finally:
            with self._guard:
                self._running -= 1


if __name__ == "__main__":
    slow = Bench(before=lambda options: time.sleep(float(sys.argv[3])))
    request = SweepRequest(bits=BITS, state=Path(sys.argv[2]), jobs=2)
    sweep(sys.argv[1], request, slow.tools)
