"""The page and the plots of the published tables, from results alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import ce2_sections
from tools.ce2 import cells, pages, results


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of results with the page and the plots drawn from them."""
    folder = tmp_path_factory.mktemp("results")
    results.update(folder, "table3", ce2_sections.table_section(growth=2_000))
    results.update(folder, "table4", ce2_sections.table4_section())
    results.update(folder, "table2", ce2_sections.table_section(2, is_scored=False))
    results.update(folder, "lowrank-imagecomp", ce2_sections.lowrank_section())
    results.update(folder, "lowrank-vgg16", ce2_sections.lowrank_section(is_scored=False))
    pages.draw(folder)
    return folder


@pytest.fixture(scope="module")
def text(drawn: Path) -> str:
    return (drawn / "ce2.md").read_text("utf-8")


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading."""
    lines = text.partition(heading)[2].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_every_target_has_its_part_of_the_page(text: str) -> None:
    for heading in ("## Table 2", "## Table 3", "## Table 4", "## Low rank", "## Reproduce"):
        assert heading in text
    assert "lowrank-imagecomp" in text.partition("## Reproduce")[2]


def test_published_and_own_sizes_stand_in_one_row(text: str) -> None:
    (eight,) = [row for row in rows_of(text, "## Table 3") if row[0] == "8 (WP2)"]
    assert eight[1:] == ["82,164", "3.71", "82,164", "0", "126", "4,352", "4,352"]


def test_a_missed_goal_is_named_with_its_reason(text: str) -> None:
    lines = re.findall(r"^- (\d+) bits, net bytes: .*: a reason\.$", text, re.MULTILINE)
    assert lines == ["3", "4"]
    (row,) = [row for row in rows_of(text, "## Goals") if row[0].startswith("3:")]
    assert row[2:5] == ["10 of 10", "8 of 10", "5.0%"]


def test_scores_bear_their_intervals_and_the_float_row(text: str) -> None:
    part = text.partition("## Table 3")[2]
    assert "| float | 30.14 | 31.25 ±0.50 | 31.25 ±0.50 |" in part
    assert "| 12 | 30.14 | 32.00 ±0.50 | 32.00 ±0.50 |" in part


def test_a_remark_on_several_published_rows_stands_once(text: str) -> None:
    assert "- 3, 4, 5, 6, 7, 8 bits: columns shifted in the source." in text
    assert text.count("columns shifted in the source") == 1


def test_large_networks_show_how_they_load_and_run(text: str) -> None:
    part = text.partition("## Table 2")[2].partition("## Table 3")[0]
    assert "| bits | preset: s | peak MB | output SNR, dB | load s | run s | load peak MB |" in part
    assert "| 1.5 | 120.0 | 15.0 | 0.25 | 0.125 | 64.0 | 1.5 |" in part
    assert "built in 62 s with a peak of 1,200.0 MB" in part
    assert "The float model loads in 0.25 s with a peak of 64.0 MB and runs in 0.125 s." in part


def test_low_rank_versions_are_set_against_the_original_and_each_other(text: str) -> None:
    rows = {row[0]: row for row in rows_of(text, "### Image compression, low rank")}
    assert rows["original"][-2:] == ["-", "-"]
    assert rows["0.4, from weights"][-2:] == ["-1.25 ±0.50", "-"]
    assert rows["0.4, from activations"][-2:] == ["-1.25 ±0.50", "+0.75 ±0.50"]


def test_every_picture_of_the_page_is_drawn(drawn: Path, text: str) -> None:
    pictures = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))
    assert pictures == {path.name for path in drawn.glob("*.png")}
    assert len(pictures) == 4


def test_a_picture_shows_its_curves(drawn: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.asarray(image.open(drawn / "ce2-imagecomp.png").convert("RGB")).reshape(-1, 3)
    for colour in ((0x16, 0x76, 0xD1), (0xC3, 0x52, 0x16), (0x8A, 0x8A, 0x8A)):
        assert ((pixels == colour).all(axis=1)).sum() > 200


def test_the_same_results_give_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    shutil.copy(drawn / "ce2.json", tmp_path)
    again = pages.draw(tmp_path)
    assert len(again) == 5
    for path in again:
        assert path.read_bytes() == (drawn / path.name).read_bytes()


def test_without_scores_the_page_shows_sizes_alone(tmp_path: Path) -> None:
    results.update(tmp_path, "table3", ce2_sections.table_section(is_scored=False))
    assert [path.name for path in pages.draw(tmp_path)] == ["ce2-sizes.png", "ce2.md"]
    assert "our PSNR" not in (tmp_path / "ce2.md").read_text("utf-8")


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert pages.draw(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_section_is_replaced_and_others_stay(drawn: Path, tmp_path: Path) -> None:
    shutil.copy(drawn / "ce2.json", tmp_path)
    before = results.read(tmp_path)
    results.update(tmp_path, "table3", {"title": "new", "share": 0.123456789})
    after = results.read(tmp_path)
    assert after.pop("table3") == {"title": "new", "share": 0.123457}
    del before["table3"]
    assert after == before


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ce2.json").write_text('{"version": 99, "sections": {}}')
    with pytest.raises(ValueError, match="found version 99, expected 1; move it away"):
        results.update(tmp_path, "table3", {})


def test_an_undefined_score_is_a_dash() -> None:
    assert cells.score("psnr", {"value": None, "low": None, "high": None}) == "-"
    assert cells.score("top1", {"value": 0.5, "low": None, "high": None}) == "0.500"
