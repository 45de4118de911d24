"""Pages and plots from the results file alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnxq import files
from tools.ce2 import markdown, plots, results
from tools.ce2.results import Section

PAGE = "ce2.md"


def draw(folder: Path) -> list[Path]:
    """Write the page and the plots of what was measured; return their paths.

    A plot needs what it shows: curves of scores are drawn of trained networks only. Plots of an
    earlier results file stay where nothing replaces them.
    """
    sections = results.read(folder)
    if not sections:
        return []
    pictures = {}
    written = []
    for shows, data in _plots(sections):
        path = folder / f"ce2-{shows}.png"
        files.write_bytes(path, data)
        pictures[shows] = path.name
        written.append(path)
    page = folder / PAGE
    files.write_bytes(page, markdown.page(sections, pictures).encode())
    return [*written, page]


def _plots(sections: dict[str, Section]) -> Iterator[tuple[str, bytes]]:
    """Yield what a plot shows, and its bytes."""
    tables = [s for name, s in sections.items() if name.startswith("table") and "tolerance" in s]
    if tables:
        yield "sizes", plots.sizes(tables)
    for section in tables:
        if section["metric"]:
            yield section["network"], plots.curve(section)
    versions = [s for name, s in sections.items() if name.startswith("lowrank-")]
    for section in versions:
        if section["metric"]:
            yield f"lowrank-{section['network']}", plots.lowrank(section)
    unscored = [section for section in versions if not section["metric"]]
    if unscored:
        yield "lowrank-sizes", plots.lowrank_sizes(unscored)
