"""Cells of a page's tables: their texts, and what they are sorted by."""

from __future__ import annotations

import dataclasses

from onnxq.pages import overlay, page_tables
from onnxq.pages.page_tables import Cell
from tests import reports, sweeps
from tests.digits_sweep import digits_sweep


def columns(table) -> list[str]:
    return [column.title for column in table.columns]


def test_a_working_point_has_a_row_with_all_its_figures() -> None:
    sweep = digits_sweep()
    shown = overlay.entries([sweep])
    table = page_tables.points_table(shown, overlay.choose_measure(shown, "top1"))
    assert len(table.rows) == len(sweep.points)
    row = dict(zip(columns(table), table.rows[4], strict=True))
    assert row["Working point"].text == "optimal, 6 bits"
    assert row["File size"] == Cell(text="73.9 kB", sort=sweep.points[4].file_bytes)
    assert row["Top-1 accuracy"].text.startswith("0.995 [")
    assert row["Change of Top-1 accuracy"] == Cell(text="0, within noise", sort=0.0)
    fronts = {cells[-1].text for cells in table.rows}
    assert fronts == {"yes", "no"}


def test_points_are_sorted_by_bits_as_numbers() -> None:
    sweep = digits_sweep(("optimal",), (2, 4))
    point = dataclasses.replace(sweep.points[0], settings={"bits": 10})
    shown = overlay.entries([dataclasses.replace(sweep, points=(*sweep.points, point))])
    keys = [row[0].sort for row in page_tables.points_table(shown, None).rows]
    assert keys == sorted(keys)


def test_a_point_that_failed_says_why_and_an_exact_one_that_it_is() -> None:
    table = page_tables.points_table(overlay.entries([sweeps.SWEPT]), None)
    assert table.rows[4][columns(table).index("Error")].text.startswith("x: the reference runs")
    assert table.rows[4][1] == Cell(text="-")
    exact = table.rows[3][columns(table).index("Output SNR, worst output (dB)")]
    assert exact.text == "exact"
    assert exact.sort > 1000


def test_the_parts_of_a_ledger_sum_to_the_file() -> None:
    table = page_tables.ledger_table(overlay.entries([digits_sweep()]))
    for row in table.rows:
        assert sum(cell.sort for cell in row[1:-1]) == row[-1].sort


def test_columns_that_say_nothing_are_left_out() -> None:
    table = page_tables.outputs_table(reports.VALIDATED)
    plain = dataclasses.replace(table, rows=table.rows[:1])
    assert "Remark" in columns(page_tables.without_blanks(table))
    assert "Remark" not in columns(page_tables.without_blanks(plain))
    assert table.caption == "Differences of the outputs over 1 sample"
