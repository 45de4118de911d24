"""Sweeps: every point once, whatever is killed, fails, or runs beside it."""

from __future__ import annotations

import dataclasses
import importlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxq
from onnxq import api, memory
from onnxq.errors import (
    InputError,
    MissingDependencyError,
    OptionError,
    OutputError,
    UnsupportedError,
    ValidationError,
)
from onnxq.report import Report
from onnxq.sweeps import sweeping
from onnxq.sweeps.grid import make_grid
from onnxq.sweeps.sweep_pace import SweepEvent
from onnxq.sweeps.sweeping import SweepRequest, sweep
from onnxq.sweeps.working_points import SweepReport, WorkingPoint, load_report
from onnxq.validation.measure_options import MeasureOptions
from onnxq.validation.measure_setup import open_measure
from tests import graphs
from tests.sweep_tools import BITS, Bench

ROOT = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a small model's path."""
    made = tmp_path / "small.onnx"
    onnx.save(graphs.matmul_add(), made)
    return made


def figures(report: SweepReport) -> list[WorkingPoint]:
    """Return the points without the time that they took."""
    return [dataclasses.replace(point, seconds=0.0) for point in report.points]


def test_a_point_has_the_figures_of_its_conversion(path: Path, tmp_path: Path) -> None:
    report = sweep(path, SweepRequest(bits="2-3", command_line="onnxq sweep"), Bench().tools)
    assert [point.settings for point in report.points] == [{"bits": 2}, {"bits": 3}]
    assert report.model.file_bytes == path.stat().st_size
    for point in report.points:
        made = api.convert(path, tmp_path / f"{point.settings['bits']}.onnx", **point.settings)
        assert made.output is not None
        assert point.file_bytes == made.output.file_bytes
        assert point.ratio == made.output.ratio
        assert point.ce2_bytes == made.ce2_bytes
        assert point.bits_per_weight == made.bits_per_weight
        assert point.ledger == made.ledger
        assert point.tensors == made.tensors
        assert point.check is not None
        assert point.check.worst_snr_db == made.output.file_bytes
    assert report.command_line == "onnxq sweep"
    assert report.data.samples == 3


def test_the_command_of_a_point_names_the_model_and_the_settings(path: Path) -> None:
    request = SweepRequest(bits=3, axes={"init": ["optimal", "uniform"]})
    report = sweep(path, request, Bench().tools)
    assert report.points[1].command == (
        f"onnxq convert {path} small-uniform-3-bits.onnx --init uniform --bits 3"
    )
    assert [point.series for point in report.points] == ["optimal", "uniform"]


def test_nothing_is_left_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent / "scratch"))
    present: list[int] = []
    folder = path.parent / "scratch"

    def look(options: Mapping[str, Any]) -> None:
        present.append(len(list(folder.rglob("*.onnx"))))

    request = SweepRequest(bits="2-5", axes={"external_data": "always"}, jobs=1)
    sweep(path, request, Bench(look).tools)
    assert present == [1] * 4
    assert list(folder.iterdir()) == []


def test_finished_points_are_not_made_again(path: Path, tmp_path: Path) -> None:
    state = tmp_path / "s"
    first = sweep(path, SweepRequest(bits="2-4", state=state), Bench().tools)
    bench = Bench()
    second = sweep(path, SweepRequest(bits="2-5", state=state), bench.tools)
    assert bench.converted == [5]
    assert (first.reused, second.reused) == (0, 3)
    assert second.points[:3] == first.points


def test_a_finished_sweep_opens_nothing(path: Path, tmp_path: Path) -> None:
    request = SweepRequest(bits="2-3", state=tmp_path / "s")
    first, bench = sweep(path, request, Bench().tools), Bench()
    again = sweep(path, request, bench.tools)
    assert (bench.opened, bench.converted, again.reused) == (0, [], 2)
    assert again.points == first.points
    assert again.data == first.data


def test_without_a_state_file_nothing_is_remembered(path: Path) -> None:
    before = set(path.parent.iterdir())
    for _ in range(2):
        assert sweep(path, SweepRequest(bits=2), Bench().tools).reused == 0
    assert set(path.parent.iterdir()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="nothing can be killed like that there")
def test_a_killed_sweep_goes_on_where_it_was(path: Path, tmp_path: Path) -> None:
    state = tmp_path / "s"
    command = [sys.executable, "-m", "tests.sweep_tools", str(path), str(state), "0.15"]
    running = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (state.exists() and state.read_bytes().count(b"\n") >= 3):
        assert running.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    before = state.read_bytes()
    finished = before.count(b"\n") - 1
    assert 2 <= finished < len(BITS)

    bench = Bench()
    report = sweep(path, SweepRequest(bits=BITS, state=state), bench.tools)
    assert report.reused == finished
    assert len(bench.converted) == len(BITS) - finished
    assert state.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    whole = sweep(path, SweepRequest(bits=BITS), Bench().tools)
    assert figures(report) == figures(whole)


def test_what_an_interrupt_stops_is_made_later(path: Path, tmp_path: Path) -> None:
    def stop(options: Mapping[str, Any]) -> None:
        if options["bits"] == 4:
            raise KeyboardInterrupt

    request = SweepRequest(bits="2-6", state=tmp_path / "s", jobs=1)
    with pytest.raises(KeyboardInterrupt):
        sweep(path, request, Bench(stop).tools)
    bench = Bench()
    assert sweep(path, request, bench.tools).reused == 2
    assert bench.converted == [4, 5, 6]


@pytest.mark.parametrize("jobs", [0, 1, 4])
def test_figures_do_not_depend_on_jobs(path: Path, jobs: int) -> None:
    axes = {"init": ["optimal", "uniform"]}
    report = sweep(path, SweepRequest(bits="2-5", axes=axes, jobs=jobs), Bench().tools)
    alone = sweep(path, SweepRequest(bits="2-5", axes=axes, jobs=1), Bench().tools)
    assert figures(report) == figures(alone)


def test_points_are_made_at_the_same_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 40)
    bench = Bench(lambda options: time.sleep(0.05))
    sweep(path, SweepRequest(bits="2-7", jobs=3), bench.tools)
    assert bench.most_at_once == 3


def test_little_memory_means_few_points_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    bench = Bench()
    report = sweep(path, SweepRequest(bits="2-4", jobs=3), bench.tools)
    assert bench.most_at_once == 1
    assert report.notes == ("memory was free for 1 at a time of the 3 points asked for",)


@pytest.mark.parametrize(
    ("free", "narrow", "wide"),
    [(None, 7, 7), (1 << 40, 7, 7), (10 << 30, 3, 2), (4 << 30, 1, 1), (0, 1, 1)],
)
def test_a_point_takes_several_times_the_models_size(
    free: int | None, narrow: int, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: free)
    assert sweeping.points_at_once(make_grid("2-8", {}), 9, 220 << 20) == narrow
    assert sweeping.points_at_once(make_grid("6-12", {}), 9, 220 << 20) == wide
    assert sweeping.points_at_once((), 9, 220 << 20) == 1


def test_a_point_that_fails_is_told_and_the_others_are_made(path: Path, tmp_path: Path) -> None:
    def fail(options: Mapping[str, Any]) -> None:
        if options["bits"] == 3:
            raise ValidationError("it does not run")
        if options["bits"] == 4:
            raise MemoryError

    request = SweepRequest(bits="2-5", state=tmp_path / "s")
    report = sweep(path, request, Bench(fail).tools)
    assert [point.error for point in report.points] == [
        None,
        "it does not run",
        "there is not enough memory; --jobs 1 needs the least",
        None,
    ]
    failed = report.points[1]
    assert (failed.settings, failed.file_bytes) == ({"bits": 3}, None)
    assert "--bits 3" in failed.command
    bench = Bench()
    assert not any(point.error for point in sweep(path, request, bench.tools).points)
    assert sorted(bench.converted) == [3, 4]


def test_an_error_names_the_point_and_no_temporary_file(path: Path) -> None:
    def fail(options: Mapping[str, Any]) -> None:
        if options["bits"] == 3:
            raise ValidationError(f"{options['target']}: why\nand how")

    report = sweep(path, SweepRequest(bits="2-3"), Bench(fail).tools)
    assert report.points[1].error == "the model of 3 bits: why and how"


def test_a_pattern_that_matches_nothing_fails_its_points_alone(path: Path) -> None:
    axes = {"tensor_bits": [{}, {"nothing-like-that": 4}]}
    report = sweep(path, SweepRequest(bits=2, axes=axes), Bench().tools)
    assert report.points[0].error is None
    assert "nothing-like-that" in (report.points[1].error or "")


def test_where_every_point_fails_the_first_error_is_raised(path: Path) -> None:
    def fail(options: Mapping[str, Any]) -> None:
        raise ValidationError(f"{options['bits']} bits do not run")

    with pytest.raises(ValidationError, match="2 bits do not run"):
        sweep(path, SweepRequest(bits="2-5"), Bench(fail).tools)


def test_a_missing_package_ends_the_sweep(path: Path) -> None:
    def fail(options: Mapping[str, Any]) -> None:
        raise MissingDependencyError("install it")

    bench = Bench(fail)
    with pytest.raises(MissingDependencyError):
        sweep(path, SweepRequest(bits="2-5", jobs=1), bench.tools)
    assert bench.converted == [2]


def test_a_bug_is_not_taken_for_a_failed_point(path: Path) -> None:
    def fail(options: Mapping[str, Any]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep(path, SweepRequest(bits="2-5"), Bench(fail).tools)


def test_the_metric_of_the_plot_is_checked_before_the_first_point(path: Path) -> None:
    bench = Bench()
    for name in ("nosuch", "cosine@z", "snr@y"):
        with pytest.raises(OptionError, match=rf"--plot-metric {name}: is not measured; .*cosine"):
            sweep(path, SweepRequest(bits=2, plot_metric=name), bench.tools)
    assert (bench.opened, bench.converted) == (0, [])
    for name in ("cosine", "cosine@y", "snr"):
        sweep(path, SweepRequest(bits=2, plot_metric=name), bench.tools)
    assert bench.converted == [2, 2, 2]


def test_what_does_not_fit_a_metric_ends_a_sweep_before_the_first_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "floats.npz"
    digits = ROOT / "models" / "digits.onnx"
    np.savez(path, image=np.zeros((8, 1, 8, 8), np.float32), label=np.zeros(8, np.float32))
    bench = Bench()
    tools = dataclasses.replace(bench.tools, open_measure=open_measure)
    for name, error in (("top1", InputError), ("mse", OptionError), ("snr@z", OptionError)):
        measure = MeasureOptions(data=path, metrics=(name,))
        with pytest.raises(error, match=f"metric {name}"):
            sweep(digits, SweepRequest(bits="2-8", measure=measure), tools)
    assert bench.converted == []


def test_progress_counts_and_foretells(path: Path, tmp_path: Path) -> None:
    events: list[SweepEvent] = []
    request = SweepRequest(bits="2-3", state=tmp_path / "s", jobs=1)
    sweep(path, request, Bench().tools, events.append)
    assert [(event.done, event.total, event.reused) for event in events] == [
        (0, 2, 0),
        (1, 2, 0),
        (2, 2, 0),
    ]
    assert [event.point for event in events] == ["", "2 bits", "3 bits"]
    assert events[0].eta_seconds is None
    assert 0 < (events[1].eta_seconds or 0) < events[1].seconds  # the rest is the reference's
    assert events[2].eta_seconds == 0
    events.clear()
    sweep(
        path, SweepRequest(bits="2-5", state=tmp_path / "s", jobs=1), Bench().tools, events.append
    )
    assert [(event.done, event.total, event.reused) for event in events][:2] == [
        (2, 4, 2),
        (3, 4, 2),
    ]


@pytest.mark.parametrize("kind", ["proto", "text"])
def test_a_model_may_be_given_in_other_ways(path: Path, kind: str) -> None:
    source: Any = onnx.load(path) if kind == "proto" else str(path)
    report = sweep(source, SweepRequest(bits=2), Bench().tools)
    assert report.model.path == (None if kind == "proto" else str(path))
    assert report.points[0].command.startswith("onnxq convert ")


def test_a_converted_model_is_refused_at_once(path: Path, tmp_path: Path) -> None:
    onnxq.convert(path, tmp_path / "out.onnx", bits=4)
    bench = Bench()
    with pytest.raises(UnsupportedError, match="is converted already; restore it first"):
        sweep(tmp_path / "out.onnx", SweepRequest(), bench.tools)
    assert bench.opened == 0


def test_settings_are_checked_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--bits"):
        sweep(tmp_path / "missing.onnx", SweepRequest(bits="0-3"), Bench().tools)
    with pytest.raises(InputError, match=r"missing\.onnx"):
        sweep(tmp_path / "missing.onnx", SweepRequest(), Bench().tools)


@pytest.mark.parametrize("jobs", [-1, True, "2", 1.5])
def test_jobs_are_a_whole_number(jobs: Any) -> None:
    with pytest.raises(OptionError, match="--jobs"):
        SweepRequest(jobs=jobs)


def test_layers_belong_to_validate() -> None:
    with pytest.raises(OptionError, match="--layers"):
        SweepRequest(measure=MeasureOptions(layers=True))


def test_a_state_that_cannot_be_written_ends_the_sweep(path: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="state"):
        sweep(path, SweepRequest(state=tmp_path / "none" / "state"), Bench().tools)


def test_damaged_lines_are_told_and_made_anew(path: Path, tmp_path: Path) -> None:
    state = tmp_path / "s"
    sweep(path, SweepRequest(bits="2-3", state=state), Bench().tools)
    state.write_bytes(state.read_bytes() + b"{}\n")
    report = sweep(path, SweepRequest(bits="2-3", state=state), Bench().tools)
    assert report.reused == 2
    assert report.notes == (f"{state}: 1 line could not be read; what they held was made anew",)


def test_the_report_says_what_was_asked_for_and_where(path: Path) -> None:
    axes = {"init": ["optimal", "uniform"], "min_elements": 3}
    report = sweep(path, SweepRequest(bits="2,4", axes=axes), Bench().tools)
    assert report.options["bits"] == [2, 4]
    assert report.options["init"] == ["optimal", "uniform"]
    assert report.options["min_elements"] == [3]
    assert report.options["samples"] == 1
    assert {"system", "machine", "processors", "python"} <= report.environment.keys()
    assert report.environment["provider"] == "cpu"
    assert load_report(report.to_json()) == report


def convert(source: Any, target: Path, options: Mapping[str, Any]) -> Report:
    return api.convert(source, target, check=0, **options)


def test_a_sweep_measures_on_data(tmp_path: Path) -> None:
    digits = ROOT / "models" / "digits.onnx"
    measure = MeasureOptions(data=ROOT / "models" / "digits_test.npz", limit=64)
    state = tmp_path / "s"
    request = SweepRequest(bits="2,8", measure=measure, state=state, jobs=2)
    report = sweep(digits, request, sweeping.Tools(convert=convert))
    assert (report.data.kind, report.data.samples) == ("npz", 64)
    low, high = report.points
    assert low.check is not None
    assert high.check is not None
    assert (low.check.worst_snr_db or 0) + 30 < (high.check.worst_snr_db or 0)
    accuracy = high.metric("top1")
    assert accuracy is not None
    assert accuracy.reference is not None
    assert accuracy.samples == 64
    assert (accuracy.reference.value or 0) > 0.9
    again = sweep(digits, request, sweeping.Tools(convert=convert))
    assert again.reused == 2
    assert load_report(again.to_json()) == load_report(
        {**report.to_json(), "reused": 2, "seconds": again.seconds}
    )


def test_data_that_do_not_fit_end_a_sweep_before_its_first_point(
    path: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "other.npz", nothing=np.zeros(3))
    made: list[Path] = []

    def count(source: Any, target: Path, options: Mapping[str, Any]) -> Report:
        made.append(target)
        return convert(source, target, options)

    measure = MeasureOptions(data=tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"other\.npz"):
        sweep(path, SweepRequest(measure=measure), sweeping.Tools(convert=count))
    assert made == []


def test_a_model_that_cannot_be_run_has_sizes_alone(path: Path) -> None:
    custom = onnx.load(path)
    custom.opset_import.add(domain="unheard.of", version=1)
    custom.graph.node.add(
        op_type="Unheard",
        domain="unheard.of",
        input=[custom.graph.node[-1].output[0]],
        output=["z"],
    )
    onnx.save(custom, path)
    report = sweep(path, SweepRequest(bits="2-3"), sweeping.Tools(convert=convert))
    assert [point.metrics for point in report.points] == [(), ()]
    assert all(point.file_bytes for point in report.points)
    assert len(report.notes) == 1
    assert "outputs not compared" in report.notes[0]
    assert "Unheard" in report.notes[0]


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_the_table_of_the_sweep_page_has_the_sizes_of_the_model(bits: int) -> None:
    page = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8")
    report, _ = onnxq.convert(ROOT / "models" / "digits.onnx", bits=bits, check=0)
    assert report.output is not None
    cells = [f"{report.output.file_bytes:,}", f"{report.output.ratio:.2f}"]
    cells += [f"{report.bits_per_weight:.2f}", f"{report.ce2_bytes:,}"]
    assert any(line.split()[:5] == [str(bits), *cells] for line in page.splitlines())


def test_a_users_metric_that_changed_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    digits, source = ROOT / "models" / "digits.onnx", Path("metric_of_a_sweep_test.py")
    measure = MeasureOptions(metrics=("metric_of_a_sweep_test:score",))
    request = SweepRequest(bits=2, measure=measure, state=tmp_path / "s")
    found = []
    for value in (1.0, 1.0, 2.5):
        source.write_text(f"def score(outputs, sample): return [{value}]")
        sys.modules.pop("metric_of_a_sweep_test", None)
        importlib.invalidate_caches()
        report = sweep(digits, request, sweeping.Tools(convert=convert))
        found.append((report.reused, report.points[0].metrics[0].candidate.value))
    assert found == [(0, 1.0), (1, 1.0), (0, 2.5)]


def test_an_unknown_metric_is_told_before_the_model_is_read(tmp_path: Path) -> None:
    request = SweepRequest(measure=MeasureOptions(metrics=("frob",)))
    with pytest.raises(OptionError, match="frob"):
        sweep(tmp_path / "missing.onnx", request, Bench().tools)
