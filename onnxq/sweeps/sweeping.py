"""The steps of a sweep: which points there are, which are finished, and how the others are made.

Owns the order of work, how many points are made at a time, and what happens when one fails. Each
point is converted into a temporary folder, measured there, and written to the journal before its
model is removed; how a model is converted and measured belongs to the `Tools`.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from onnxq import conversion, memory, model, recognise, scratch, sources, summary
from onnxq.errors import MissingDependencyError, OnnxqError, OptionError, UnsupportedError
from onnxq.graphs import Document
from onnxq.options import ConvertOptions
from onnxq.parallel import ordered_map
from onnxq.report import FileSize, Report
from onnxq.sources import ModelLike
from onnxq.sweeps import sweep_keys
from onnxq.sweeps.commands import convert_command
from onnxq.sweeps.grid import GridPoint, make_grid
from onnxq.sweeps.journal import Entry, Journal
from onnxq.sweeps.sweep_pace import Meter, Progress
from onnxq.sweeps.working_points import SweepReport, WorkingPoint
from onnxq.validation import measure_setup, metrics
from onnxq.validation.measure_options import MeasureOptions
from onnxq.validation.measure_setup import Look, Measure, open_measure
from onnxq.validation.measurements import DataUsed, named
from onnxq.validation.metrics import Metric

POINT_BYTES = 64 << 20
"""Memory that a point takes, however small the model."""
POINT_FACTOR, WIDE_FACTOR = 10, 15
"""Times the model's size that a point of up to 8 bits, or more, takes while its model is loaded:
floats, intermediates of the decoding (docs/design.md, "Sizes"), the runtime's own copies. Measured
for four float32 matrices of 2560 x 2560: 6.0 at 3 bits, 8.9 at 7, 10.8 at 11, 13.8 at 15."""
_SHARE = 0.8
"""Share of the free memory to use."""


OpenMeasure = Callable[[Document, MeasureOptions, Look], AbstractContextManager[Measure]]
Convert = Callable[[ModelLike, Path, Mapping[str, Any]], Report]


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Hold what makes and measures the files of a sweep.

    Attributes:
        convert: Convert a model into a file by options, without a check.
        open_measure: Run the reference on the data, and give what measures a candidate; shows the
            metrics first.
    """

    convert: Convert
    open_measure: OpenMeasure = open_measure


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """Hold what a sweep is asked to do.

    Attributes:
        bits: Widths, or their text such as "2-8".
        axes: One or several values by the name of a convert option; see `grid.make_grid`.
        measure: What to measure on, and how.
        state: File of finished points; None to remember none.
        jobs: Points at a time; 0 for one for each processor. Never more than memory allows.
        command_line: Command that asks for this.
        plot_metric: Metric that the points will be drawn by, which must be measured.

    Raises:
        OptionError: `jobs` is no such number, or layers are asked for.
    """

    bits: str | int | Sequence[int] = tuple(range(2, 9))
    axes: Mapping[str, Any] = field(default_factory=dict)
    measure: MeasureOptions = field(default_factory=MeasureOptions)
    state: Path | None = None
    jobs: int = 0
    command_line: str = ""
    plot_metric: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.jobs, bool) or not isinstance(self.jobs, int) or self.jobs < 0:
            raise OptionError(f"--jobs: found {self.jobs!r}, expected a whole number >= 0")
        if self.measure.layers:
            raise OptionError("--layers: a sweep measures whole models; use validate")

    def look(self, chosen: Sequence[Metric], outputs: Sequence[str]) -> None:
        """Check before the reference runs that the metric of the plot will be measured.

        Raises:
            OptionError: it will not be.
        """
        name = self.plot_metric
        if name in (None, "snr") and chosen:  # that of the worst output is always known
            return
        if name is not None and not named(name, chosen, outputs):
            there = ", ".join(metric.label for metric in chosen) or "(none)"
            raise OptionError(
                f"--plot-metric {name}: is not measured; add --metric {name}, or choose of {there}"
            )


def sweep(
    source: ModelLike, request: SweepRequest, tools: Tools, progress: Progress | None = None
) -> SweepReport:
    """Convert a model by every point of a grid and return what each costs and does.

    Points that the state file has are not made again. A point that fails is in the report with its
    error, and the others are made. No figure depends on `jobs`. `progress` may be called from any
    thread, by one at a time.

    Raises:
        OptionError: an option or a value is none that there is; nothing was done.
        UnsupportedError: the model is converted already.
        OnnxqError: the model or the data cannot be read, the state cannot be written, or every
            point failed: the first error.
    """
    started = time.monotonic()
    points = make_grid(request.bits, request.axes)
    metrics.resolve(request.measure.metrics)  # imports users' metrics, whose source is in the keys
    document = sources.open_model(source)
    if recognise.find(document):
        raise UnsupportedError(
            f"{document.label}: is converted already; restore it first, and sweep what comes out"
        )
    size = FileSize(path=sources.name_of(document), file_bytes=model.total_bytes(document))
    wanted = sweep_keys.keys(document, request.measure, points)
    with Journal(request.state) as journal:
        missing = {key: point for key, point in wanted.items() if journal.get(key) is None}
        work = _Work(source, size, tools.convert, journal)
        meter = Meter(len(wanted), len(wanted) - len(missing), progress)
        at_once = points_at_once(tuple(missing.values()), request.jobs, size.file_bytes)
        if missing:
            with (
                tools.open_measure(document, request.measure, request.look) as measure,
                scratch.folder() as folder,
            ):
                work.make_all(missing, at_once, measure, folder, meter)
        work.check_any(wanted)
        return SweepReport(
            model=size,
            data=work.data(wanted),
            points=tuple(work.point(key, point) for key, point in wanted.items()),
            reused=len(wanted) - len(missing),
            notes=(*_notes(journal, request, at_once, len(missing)), *work.notes(wanted)),
            options=_options(request, points),
            versions=summary.versions(),
            environment=_environment(request.measure),
            command_line=request.command_line,
            seconds=time.monotonic() - started,
        )


def points_at_once(points: Sequence[GridPoint], jobs: int, input_bytes: int) -> int:
    """Return how many points to make at a time: as many as wanted, as far as memory is free."""
    wanted = min(len(points), jobs or conversion.workers(ConvertOptions()))
    free = memory.available_bytes()
    if free is None:
        return max(1, wanted)
    is_wide = any(point.bits > 8 for point in points)
    cost = (WIDE_FACTOR if is_wide else POINT_FACTOR) * input_bytes + POINT_BYTES
    return max(1, min(wanted, int(free * _SHARE) // cost))


class _Work:
    """Make points, and remember what became of each."""

    def __init__(
        self,
        source: ModelLike,
        size: FileSize,
        convert: Convert,
        journal: Journal,
    ) -> None:
        self._source, self._size = source, size
        self._convert, self._journal = convert, journal
        self._errors: dict[str, Exception] = {}

    def make_all(
        self,
        points: Mapping[str, GridPoint],
        at_once: int,
        measure: Measure,
        folder: Path,
        meter: Meter,
    ) -> None:
        """Make all points, some of them at a time.

        Raises:
            MissingDependencyError: what no point can do without is not installed.
            OutputError: the state file cannot be written.
        """
        threads = max(1, conversion.workers(ConvertOptions()) // at_once)
        meter.begin()

        def make(key: str) -> None:
            point = points[key]
            target = folder / f"{key[:16]}.onnx"
            try:
                entry = self._entry(key, point, target, threads, measure)
            except MissingDependencyError:
                raise
            except (OnnxqError, MemoryError) as err:
                self._errors[key] = _told(err, target, point)
            else:
                self._journal.add(entry)
            finally:
                _remove(target)
            meter.step(point.label)

        for _ in ordered_map(make, points, jobs=at_once):
            pass

    def _entry(
        self, key: str, point: GridPoint, target: Path, threads: int, measure: Measure
    ) -> Entry:
        started = time.monotonic()
        report = self._convert(self._source, target, {**point.settings, "jobs": threads})
        output = report.output
        assert output is not None  # it was written to a file
        found = measure(target)
        made = WorkingPoint(
            key=key,
            series=point.series,
            settings=point.settings,
            command=self._command(point),
            file_bytes=output.file_bytes,
            ratio=output.ratio,
            ce2_bytes=report.ce2_bytes,
            bits_per_weight=report.bits_per_weight,
            check=found.check,
            metrics=found.metrics,
            ledger=report.ledger,
            tensors=report.tensors,
            seconds=time.monotonic() - started,
        )
        return Entry(point=made, data=found.data)

    def check_any(self, wanted: Mapping[str, GridPoint]) -> None:
        """Raise the first error if there is nothing but errors."""
        if len(self._errors) == len(wanted):
            raise next(self._errors[key] for key in wanted)

    def data(self, wanted: Mapping[str, GridPoint]) -> DataUsed:
        """Return what the finished points were measured on."""
        return next(entry.data for entry in map(self._journal.get, wanted) if entry is not None)

    def notes(self, wanted: Mapping[str, GridPoint]) -> Iterator[str]:
        """Yield why nothing is known of the outputs, or what is odd of the inputs."""
        for entry in filter(None, map(self._journal.get, wanted)):
            check = entry.point.check
            if check is not None and check.status == "skipped":
                yield f"outputs not compared: {check.reason}"
                return
            if check is not None and check.notes:
                yield from check.notes
                return

    def point(self, key: str, point: GridPoint) -> WorkingPoint:
        """Return a point with its figures or its error, named as in this sweep."""
        entry = self._journal.get(key)
        made = entry.point if entry is not None else None
        if made is None:
            error = self._errors[key]
            text = str(error) or "there is not enough memory; --jobs 1 needs the least"
            made = WorkingPoint(key=key, settings={}, command="", error=text)
        return replace(
            made, series=point.series, settings=point.settings, command=self._command(point)
        )

    def _command(self, point: GridPoint) -> str:
        path = PurePath(self._size.path or "model.onnx")
        slug = re.sub(r"[^\w.]+", "-", point.label).strip("-")
        return convert_command(str(path), f"{path.stem}-{slug}.onnx", point.settings)


def _told(err: Exception, target: Path, point: GridPoint) -> Exception:
    """Return an error that names the point in place of its temporary file."""
    text = " ".join(str(err).replace(str(target), f"the model of {point.label}").split())
    return type(err)(text)


def _remove(target: Path) -> None:
    """Remove a model and its data files."""
    for path in target.parent.glob(f"*{target.name}*"):
        path.unlink(missing_ok=True)


def _notes(journal: Journal, request: SweepRequest, at_once: int, missing: int) -> Iterator[str]:
    """Yield what a user should know of how the sweep went."""
    if journal.dropped:
        lines = "1 line" if journal.dropped == 1 else f"{journal.dropped} lines"
        yield f"{request.state}: {lines} could not be read; what they held was made anew"
    if at_once < min(request.jobs, missing):
        yield f"memory was free for {at_once} at a time of the {request.jobs} points asked for"


def _options(request: SweepRequest, points: Sequence[GridPoint]) -> dict[str, Any]:
    """Return what was asked for, JSON-ready: every value of each setting, then the measurement."""
    values: dict[str, list[Any]] = {}
    for point in points:
        for name, value in point.settings.items():
            listed = values.setdefault(name, [])
            if value not in listed:
                listed.append(value)
    measure = request.measure.to_json()
    del measure["layers"], measure["performance"]
    return {**values, **measure}


def _environment(measure: MeasureOptions) -> dict[str, str]:
    return {
        "provider": measure_setup.used_provider(measure),
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": str(os.cpu_count() or 1),
        "python": platform.python_version(),
    }
