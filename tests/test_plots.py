"""Plots as files: the formats, the curves in them, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

from onnxq.errors import MissingDependencyError, OptionError, OutputError
from onnxq.pages import overlay, page, plots
from onnxq.pages.figures import chart
from onnxq.report import FileSize
from tests import reports
from tests.digits_sweep import digits_sweep
from tests.hostile_names import HOSTILE

pytest.importorskip("matplotlib")


def drawn(kind: str, *shown_reports, measure: str | None = None) -> bytes:
    shown = overlay.entries(shown_reports)
    return plots.draw(shown, chart(shown, overlay.choose_measure(shown, measure)), kind)


def test_a_png_shows_a_colour_for_each_series(tmp_path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "plot.png"
    plots.save([digits_sweep()], path)
    pixels = np.asarray(image.open(path).convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 500_000
    for colour in plots.COLOURS[:2]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == rgb).all(axis=1).sum() > 200


def test_an_svg_is_well_formed_and_needs_no_other_file(tmp_path) -> None:
    path = tmp_path / "plot.SVG"
    plots.save([digits_sweep()], path, "snr")
    text = path.read_text(encoding="utf-8")
    xml.etree.ElementTree.fromstring(text)
    assert "<image" not in text
    assert "@import" not in text


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_reports_give_the_same_bytes(kind) -> None:
    assert drawn(kind, digits_sweep()) == drawn(kind, digits_sweep())


def test_names_are_drawn_as_they_are_whatever_they_hold() -> None:
    sweep = digits_sweep()
    points = tuple(
        dataclasses.replace(point, series=f"_{HOSTILE}{point.series}\u6587")
        for point in sweep.points
    )
    model = FileSize(path=f"x/{HOSTILE}", file_bytes=1000)
    assert drawn("svg", dataclasses.replace(sweep, points=points, model=model))


def test_several_models_and_single_points_are_drawn() -> None:
    other = dataclasses.replace(digits_sweep(), model=FileSize(path="b.onnx", file_bytes=10**6))
    assert drawn("png", digits_sweep(), other, reports.CONVERTED, reports.VALIDATED)
    assert drawn("png", reports.VALIDATED)


def test_what_cannot_be_drawn_is_refused_before_any_work(tmp_path) -> None:
    with pytest.raises(OptionError, match=r"found suffix '.pdf', expected .png or .svg"):
        plots.check_target(tmp_path / "plot.pdf", force=False)
    (tmp_path / "plot.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="--force"):
        plots.save([digits_sweep()], tmp_path / "plot.png")
    with pytest.raises(OptionError, match="'f1' was not measured"):
        plots.save([digits_sweep()], tmp_path / "plot.png", "f1", force=True)
    assert (tmp_path / "plot.png").read_bytes() == b"mine"


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install matplotlib, or onnxq\[plot\]"):
        plots.check_target(Path("plot.png"), force=True)


def test_the_legend_has_what_is_drawn_as_it_is_drawn(monkeypatch) -> None:
    made = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda self, *_, **__: made.append(self)
    )
    sweep = digits_sweep()
    lone = dataclasses.replace(sweep, points=sweep.points[:1])
    for shown in (sweep, lone):
        drawn("png", shown)
    whole, single = (figure.axes[0].get_legend_handles_labels() for figure in made)
    band = ["float model, 95 %", "float model"]
    assert whole[1] == ["optimal", "bounded-pdf", *band, "Pareto front (filled)"]
    assert single[1] == ["optimal", *band]
    for series, colour in zip(whole[0], plots.COLOURS[:2], strict=False):
        assert series.get_markerfacecolor() == colour
    assert whole[0][-1].get_color() == plots.FRONT


def palettes() -> dict[str, tuple[str, list[str]]]:
    """Return background and series colours of the plot, and of the page in light and dark."""
    light, dark = page._template("page.css").split("@media (prefers-color-scheme: dark)")
    found = {"plot": ("#ffffff", list(plots.COLOURS))}
    for name, text in (("light", light), ("dark", dark)):
        value = {
            key.strip(): colour.strip()
            for key, _, colour in (part.partition(":") for part in text.split("--")[1:])
        }
        colours = {key: colour[:7] for key, colour in value.items()}
        found[name] = (colours["back"], [colours[f"s{n}"] for n in range(1, 7)])
    return found


def linear(colour: str) -> np.ndarray:
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    weights = np.array([0.2126, 0.7152, 0.0722])
    high, low = sorted((weights @ linear(one), weights @ linear(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# Machado, Oliveira and Fernandes 2009, severity 1: how a reader without one kind of cone sees.
SEEN = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", ["plot", "light", "dark"])
def test_colours_stand_out_from_the_ground(name) -> None:
    back, colours = palettes()[name]
    for colour in colours:
        assert contrast(colour, back) >= 4.5, colour


@pytest.mark.parametrize("name", ["plot", "light", "dark"])
@pytest.mark.parametrize("kind", SEEN)
def test_colour_blind_readers_tell_series_apart(name, kind) -> None:
    for one, other in itertools.combinations(palettes()[name][1], 2):
        seen = [lab(np.array(SEEN[kind]) @ linear(colour)) for colour in (one, other)]
        assert np.linalg.norm(seen[0] - seen[1]) > 20, (one, other)
