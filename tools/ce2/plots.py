"""Plots of the results, drawn from their sections alone; the same sections give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from onnxq.pages.plots import COLOURS
from tools.ce2 import markdown_lowrank, published
from tools.ce2.results import Section

Point = tuple[int, int, Mapping[str, Any]]
"""Bits, file bytes, and the estimate of the score."""
STYLE = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "text.parse_math": False,
    "savefig.dpi": 160,
}
PUBLISHED = "#8a8a8a"
OTHERS = "(other weights and data; no graph counted)"
AXES = {"psnr": "PSNR, dB (held-out photographs)", "top1": "accuracy (held-out clips)"}
SHARE_COLOURS = {None: "#1f1f1f", 0.8: "#1676d1", 0.7: "#9c2084", 0.6: "#c35216", 0.4: "#235a41"}
"""Colours of versions by the share of parameters that they keep."""


def draw(width: float, height: float, panels: int, fill: Callable[[Sequence[Any]], None]) -> bytes:
    """Return a PNG of panels side by side; `fill` draws into their axes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        fill(axes)
        _legend(figure, axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    """Put one legend under all panels, each name once."""
    named: dict[str, Any] = {}
    for each in axes:
        for handle, name in zip(*each.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    columns = 3 if len(axes) > 1 else 2
    figure.legend(
        named.values(), named, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def sizes(sections: Sequence[Section]) -> bytes:
    """Return net bytes against published ones at every width, with the goals."""
    large = [section for section in sections if section["tolerance"] < 0.01]
    small = [section for section in sections if section["tolerance"] >= 0.01]

    def fill(axes: Sequence[Any]) -> None:
        for panel, group in zip(axes, filter(None, (large, small)), strict=True):
            for section in group:
                _excess(panel, section, COLOURS[sections.index(section)])
            _goal(panel, group[0]["tolerance"])
            panel.set_xlabel("bits")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylabel("net bytes against published")

    return draw(8.6, 3.8, bool(large) + bool(small), fill)


def _excess(panel: Any, section: Section, colour: str) -> None:
    rows = section["rows"]
    values = [row["preset"]["net_bytes"] / row["published"]["bytes"] - 1 for row in rows]
    ideal = [row["preset"]["ce2_bytes"] / row["published"]["bytes"] - 1 for row in rows]
    bits = [row["bits"] for row in rows]
    panel.plot(bits, values, "o-", color=colour, label=f"{section['title']}: file less own graph")
    panel.plot(
        bits, ideal, "x:", color=colour, linewidth=1.0, label=f"{section['title']}: CE2 bytes"
    )


def _goal(panel: Any, tolerance: float) -> None:
    panel.axhline(0, color=PUBLISHED, linewidth=1.2, label="published")
    panel.axhline(
        tolerance, color="#555555", linewidth=1.2, linestyle=(0, (2, 2)), label="goal: at most"
    )
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    panel.set_title(f"allowed {tolerance:.1%}")


def curve(section: Section) -> bytes:
    """Return score against bytes of a trained network, and the published curve apart."""
    metric = section["metric"]

    def fill(axes: Sequence[Any]) -> None:
        (panel,) = axes
        _published(panel, section["table"], f"published {OTHERS}", "s")
        for key, name, colour in (
            ("preset", "ours, --preset ce2 (whole file)", COLOURS[1]),
            ("default", "ours, default options (whole file)", COLOURS[0]),
        ):
            points = [_point(row["bits"], row[key]) for row in section["rows"]]
            _series(panel, points, {"color": colour, "marker": "o", "label": name})
            _widths(panel, points, colour)
        first = section["rows"][0]["preset"]["score"]["metric"]["reference"]
        _float_line(panel, first, "ours as floats")
        _finish(panel, metric, section["title"])

    return draw(7.6, 4.8, 1, fill)


def _point(bits: int, found: Mapping[str, Any]) -> Point:
    return bits, found["file_bytes"], found["score"]["metric"]["candidate"]


def _series(panel: Any, points: Sequence[Point], look: dict[str, Any]) -> None:
    """Draw scores against kilobytes with their 95 % intervals; undefined scores are left out."""
    known = [(size / 1e3, found) for _, size, found in points if found["value"] is not None]
    spread = [(x, f) for x, f in known if f["low"] is not None and f["high"] is not None]
    panel.errorbar(
        [x for x, _ in spread],
        [found["value"] for _, found in spread],
        yerr=[
            [max(0.0, found["value"] - found["low"]) for _, found in spread],
            [max(0.0, found["high"] - found["value"]) for _, found in spread],
        ],
        fmt="none",
        ecolor=look["color"],
        elinewidth=0.8,
        capsize=2,
        alpha=0.45,
    )
    panel.plot(
        [x for x, _ in known],
        [found["value"] for _, found in known],
        **{"linewidth": 1.5, "markersize": 4.5, **look},
    )


def _widths(panel: Any, points: Sequence[Point], colour: str) -> None:
    is_upper = colour == COLOURS[0]
    for bits, size, found in points:
        if found["value"] is not None:
            panel.annotate(
                str(bits),
                (size / 1e3, found["value"]),
                xytext=(-5, 5) if is_upper else (5, -5),
                textcoords="offset points",
                ha="right" if is_upper else "left",
                va="bottom" if is_upper else "top",
                fontsize=8,
                color=colour,
            )


def _published(panel: Any, number: int, name: str, marker: str) -> None:
    """Draw the first score of a published table against its bytes, where it is known."""
    known = [
        (row.quantized_bytes / 1e3, row.metrics[0].quantized)
        for row in published.table(number)
        if row.metrics[0].quantized is not None
    ]
    panel.plot(
        *zip(*known, strict=True),
        color=PUBLISHED,
        linestyle=(0, (1, 1.2)),
        linewidth=1.3,
        marker=marker,
        markersize=4,
        markerfacecolor="white",
        label=name,
    )


def _float_line(panel: Any, estimate: Mapping[str, Any], name: str) -> None:
    panel.axhline(
        estimate["value"], color="#333333", linewidth=1.1, linestyle=(0, (2, 2)), label=name
    )


def _finish(panel: Any, metric: str, title: str) -> None:
    panel.set_xlabel("size, thousands of bytes")
    panel.set_ylabel(AXES[metric])
    panel.set_title(title)
    panel.set_xlim(left=0)


def lowrank(section: Section) -> bytes:
    """Return score against bytes of low-rank versions: a panel for each way to find ranks."""
    methods = section["methods"]

    def fill(axes: Sequence[Any]) -> None:
        for panel, method in zip(axes, methods, strict=True):
            _panel(panel, section, method)
            _finish(panel, section["metric"], f"{section['title']}, {_by(method)}")
        for panel in axes[1:]:
            panel.sharey(axes[0])
            panel.set_ylabel("")

    return draw(5.0 * len(methods), 5.2, len(methods), fill)


def _by(method: str) -> str:
    return f"ranks {markdown_lowrank.BY[method]}"


def _panel(panel: Any, section: Section, method: str) -> None:
    for variant, marker in (("original", "s"), ("low-rank", "^")):
        for number in _tables(section["network"], variant):
            _published(panel, number, f"published {variant} {OTHERS}", marker)
    for version in (v for v in section["versions"] if v["method"] in (None, method)):
        points = [
            (point["bits"], point["file_bytes"], point["metric"]["candidate"])
            for point in version["points"]
            if point["kind"] == "default"
        ]
        look = {"color": _colour(version), "marker": "o", "label": _ratio(version)}
        _series(panel, points, look)
    reference = section["versions"][0]["points"][0]["metric"]["reference"]
    _float_line(panel, reference, "original as floats")


def _tables(network: str, variant: str) -> list[int]:
    """Return the published tables of a network's variant: one, or none."""
    rows = published.read()
    return sorted({r.table for r in rows if (r.network, r.variant) == (network, variant)})


def _colour(version: Mapping[str, Any]) -> str:
    return SHARE_COLOURS.get(version["ratio"], PUBLISHED)


def _ratio(version: Mapping[str, Any]) -> str:
    return f"{version['ratio']:g} of the parameters" if version["ratio"] else "original"


def lowrank_sizes(sections: Sequence[Section]) -> bytes:
    """Return file bytes at every width of low-rank versions, beside the published ones."""

    def fill(axes: Sequence[Any]) -> None:
        for panel, section in zip(axes, sections, strict=True):
            for version in section["versions"]:
                points = [point for point in version["points"] if point["kind"] == "default"]
                panel.plot(
                    [point["bits"] for point in points],
                    [point["file_bytes"] / 1e6 for point in points],
                    "o-",
                    color=_colour(version),
                    markersize=4.5,
                    label=_ratio(version),
                )
            _published_sizes(panel, section["network"])
            panel.set_title(f"{section['title']}, default options")
            panel.set_xlabel("bits")
            panel.set_ylabel("file, millions of bytes")
            panel.set_ylim(bottom=0)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))

    return draw(4.6 * len(sections), 4.0, len(sections), fill)


def _published_sizes(panel: Any, network: str) -> None:
    for number in _tables(network, "original"):
        rows = published.table(number)
        panel.plot(
            [row.bits for row in rows],
            [row.quantized_bytes / 1e6 for row in rows],
            "s",
            color=PUBLISHED,
            markersize=7,
            markerfacecolor="none",
            label="published, original network (no graph counted)",
        )
