"""Plots of the results, drawn from rows alone; the same rows give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from onnxq.pages.plots import COLOURS
from tools.bits import figures
from tools.bits.methods import METHODS
from tools.bits.rows import Row
from tools.bits.tasks import Task
from tools.ce2.plots import STYLE

MORE_COLOURS = (*COLOURS, "#b3123f", "#4d6b00", "#0b6e69", "#6a4fa0")
MARKERS = "osD^vPX<>h"
FLOAT = "#333333"
FLOOR = "#8a8a8a"
LARGEST = 0.45
"""Share of the original file up to which files are drawn; larger ones stand in the tables."""
Look = dict[str, Any]
Found = Mapping[str, Any]


def draw(task: Task, rows: Sequence[Row]) -> bytes:
    """Return a PNG with a panel for each metric of a task and one for the output SNR."""
    names = (*task.metrics, task.snr)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1 + 4.9 * len(names), 5.2), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for panel, name, words in zip(panels, names, (*task.words, "output SNR, dB"), strict=True):
            _panel(panel, task, rows, name)
            panel.set_ylabel(words)
        panels[0].set_title(task.title)
        _legend(figure, panels)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panel(panel: Any, task: Task, rows: Sequence[Row], name: str) -> None:
    """Draw one metric against bytes: curves of methods, the float model, the floors."""
    drawn = [method for method in METHODS if METHODS[method].is_drawn]
    for number, method in enumerate(drawn):
        points = _points(figures.of_method(rows, method), name)
        look: Look = {
            "color": MORE_COLOURS[number % len(MORE_COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "-" if METHODS[method].maker == "onnxq" else "none",
            "label": METHODS[method].title,
        }
        if points:
            _series(panel, points, look)
    _float_line(panel, rows, name)
    for verdict in figures.verdicts(rows, task, "float"):
        panel.axvline(verdict.limit_bytes / 1e3, color=FLOOR, linewidth=1, linestyle=(0, (1, 2)))
        at = (verdict.limit_bytes / 1e3, 0.01)
        text = f"{verdict.share:g}"
        panel.annotate(
            text, at, xycoords=("data", "axes fraction"), fontsize=8, color=FLOOR, ha="right"
        )
    _finish(panel)


def _points(rows: Sequence[Row], name: str) -> list[tuple[float, Found]]:
    """Return thousands of bytes and the figure, of files that are small and have one."""
    found = []
    for row in rows:
        metric = figures.metric_of(row, name)
        if metric is None or metric["candidate"]["value"] is None:
            continue
        if row["file_bytes"] <= LARGEST * row["original_bytes"]:
            found.append((row["file_bytes"] / 1e3, metric["candidate"]))
    return sorted(found, key=lambda point: point[0])


def _series(panel: Any, points: Sequence[tuple[float, Found]], look: Look) -> None:
    """Draw figures with a standard error to either side."""
    panel.errorbar(
        [x for x, _ in points],
        [found["value"] for _, found in points],
        yerr=[found["standard_error"] or 0.0 for _, found in points],
        **{"linewidth": 1.5, "markersize": 5, "elinewidth": 0.9, "capsize": 2, **look},
    )


def _float_line(panel: Any, rows: Sequence[Row], name: str) -> None:
    """Draw the float model's figure, with a standard error to either side."""
    known = (figures.metric_of(row, name) for row in rows)
    reference = next((m["reference"] for m in known if m and m["reference"]), None)
    if reference is None:
        return
    value, error = reference["value"], reference["standard_error"] or 0.0
    panel.axhspan(value - error, value + error, color=FLOAT, alpha=0.08, linewidth=0)
    label = "float, ± its standard error"
    panel.axhline(value, color=FLOAT, linewidth=1.1, linestyle=(0, (2, 2)), label=label)


def _finish(panel: Any) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("file, thousands of bytes")


def _legend(figure: Any, panels: Sequence[Any]) -> None:
    """Put one legend under all panels, each name once."""
    named: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    figure.legend(
        named.values(), named, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
