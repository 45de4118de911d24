"""Plots of quality against size, as PNG or SVG, drawn by matplotlib.

Owns the look of a picture for print and slides; the data is `figures`'. Needs the `plot` extra.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxq import files, textfile
from onnxq.errors import MissingDependencyError, OptionError
from onnxq.pages import figures, overlay
from onnxq.pages.figures import Chart, FloatLine, Series
from onnxq.pages.overlay import Entry
from onnxq.quantities import size_text
from onnxq.report import AnyReport
from onnxq.sweeps.working_points import SweepReport

COLOURS = ("#1676d1", "#c35216", "#235a41", "#9c2084", "#553b01", "#1f1f1f")
"""Colours of series, of at least 4.5 : 1 against white, apart for colour-blind readers too."""
FRONT = "#f0cf65"
"""Colour of the Pareto front, lighter than series, and not grey as the float model's band."""
_MARKERS = "osD^vP"
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_SUFFIXES = (".png", ".svg")
_LABELLED = 2
"""Series whose points bear their bits; with more the labels would cover each other."""
_STYLE = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "text.parse_math": False,
    "svg.hashsalt": "onnxq",
    "svg.fonttype": "path",
    "savefig.dpi": 160,
}


def check_target(path: Path, *, force: bool) -> None:
    """Check before any work that a plot can be drawn and written.

    Raises:
        OptionError: the suffix is neither .png nor .svg.
        OutputError: the file may not be written.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise OptionError(f"--plot {path}: found suffix {path.suffix!r}, expected .png or .svg")
    textfile.check_target(path, force=force)
    _matplotlib()


def save(
    reports: Sequence[AnyReport | SweepReport],
    path: Path,
    metric: str | None = None,
    *,
    force: bool = False,
) -> None:
    """Draw the working points of reports, whole or not at all; the same bytes every time.

    Args:
        reports: of convert, validate or sweep; those of one model share a picture's line.
        path: PNG or SVG file, by its suffix.
        metric: label or name of the measure; None for the first task metric, else the SNR.
        force: overwrite an existing file.

    Raises:
        OptionError: the suffix is unknown, or the metric was not measured.
        InputError: a report of another command.
        OutputError: the file cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    check_target(path, force=force)
    shown = overlay.entries(reports)
    chart = figures.chart(shown, overlay.choose_measure(shown, metric))
    files.write_bytes(path, draw(shown, chart, path.suffix.lower().removeprefix(".")))


def draw(shown: Sequence[Entry], chart: Chart, kind: str) -> bytes:
    """Return a chart as the bytes of a "png" or "svg" file.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib, figure_type = _matplotlib()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in letters that the font lacks is drawn with boxes, which is no news to anyone.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = figure_type(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for number, series in enumerate(chart.series):
            _draw_series(axes, shown, series, number, is_labelled=len(chart.series) <= _LABELLED)
        for line in chart.float_lines:
            _draw_float(axes, line, chart)
        _draw_fronts(axes, chart)
        _finish(figure, axes, shown, chart)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _matplotlib() -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as err:
        raise MissingDependencyError(
            "--plot: needs matplotlib; pip install matplotlib, or onnxq[plot]"
        ) from err
    return matplotlib, Figure


def _draw_series(
    axes: Any, shown: Sequence[Entry], series: Series, number: int, *, is_labelled: bool
) -> None:
    colour = COLOURS[number % len(COLOURS)]
    dash = _DASHES[number % len(_DASHES)]
    sizes = [dot.size for dot in series.dots]
    values = [dot.value for dot in series.dots]
    known = [dot for dot in series.dots if dot.low is not None and dot.high is not None]
    axes.errorbar(
        [dot.size for dot in known],
        [dot.value for dot in known],
        yerr=[
            [max(0.0, dot.value - dot.low) for dot in known if dot.low is not None],
            [max(0.0, dot.high - dot.value) for dot in known if dot.high is not None],
        ],
        fmt="none",
        ecolor=colour,
        elinewidth=1.0,
        capsize=3,
        alpha=0.7,
    )
    look = {
        "color": colour,
        "linestyle": dash if series.is_line else "none",
        "linewidth": 1.5,
        "marker": _MARKERS[number % len(_MARKERS)],
        "markersize": 6,
        "markeredgewidth": 1.4,
    }
    axes.plot(sizes, values, **look, markerfacecolor="white", zorder=3)
    front = [dot for dot in series.dots if dot.is_front]
    filled = {**look, "linestyle": "none"}
    axes.plot([dot.size for dot in front], [dot.value for dot in front], **filled, zorder=4)
    axes.plot([], [], **look, label=_legend(series.name))
    if is_labelled:
        _label_points(axes, shown, series, colour)


def _label_points(axes: Any, shown: Sequence[Entry], series: Series, colour: str) -> None:
    for dot in series.dots:
        axes.annotate(
            shown[dot.entry].label.removesuffix(" bits").removesuffix(" bit"),
            (dot.size, dot.value),
            xytext=(-6, 5) if dot.is_upper else (6, -5),
            textcoords="offset points",
            ha="right" if dot.is_upper else "left",
            va="bottom" if dot.is_upper else "top",
            fontsize=9,
            color=colour,
            zorder=5,
        )


def _draw_float(axes: Any, line: FloatLine, chart: Chart) -> None:
    """Draw the float model's line: grey for one model, else in the colour of its first series."""
    models = [series.model for series in chart.series]
    is_one_model = len(set(models)) <= 1
    colour = "#333333" if is_one_model else COLOURS[models.index(line.model) % len(COLOURS)]
    if line.low is not None and line.high is not None and is_one_model:
        band = f"{_legend(line.name)}, 95 %"
        axes.axhspan(line.low, line.high, color=colour, alpha=0.08, linewidth=0, label=band)
    axes.axhline(
        line.value, color=colour, linewidth=1.2, linestyle=(0, (2, 2)), label=_legend(line.name)
    )


def _draw_fronts(axes: Any, chart: Chart) -> None:
    """Draw the front of each model as a broad line under its points; one point is no front."""
    label = "Pareto front (filled)"
    for model in dict.fromkeys(series.model for series in chart.series):
        front = sorted(
            (dot.size, dot.value)
            for series in chart.series
            if series.model == model
            for dot in series.dots
            if dot.is_front
        )
        if len(front) > 1:
            places = zip(*front, strict=True)
            axes.plot(*places, color=FRONT, linewidth=7, solid_capstyle="round", label=label)
            label = "_nolegend_"


def _finish(figure: Any, axes: Any, shown: Sequence[Entry], chart: Chart) -> None:
    axes.set_xlabel(chart.size_axis)
    axes.set_ylabel(chart.measure.axis)
    axes.margins(x=0.06, y=0.1)
    models = list(dict.fromkeys(entry.model for entry in shown))
    if len(models) == 1:
        size = size_text(shown[0].model_bytes)
        axes.set_title(f"{models[0]}, {size} as float", loc="left", fontsize=11)
    if chart.series:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    if chart.undrawn:
        axes.set_title(f"not drawn: {len(chart.undrawn)}", loc="right", fontsize=8)


def _legend(name: str) -> str:
    """Return a name that matplotlib shows; it hides those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name
