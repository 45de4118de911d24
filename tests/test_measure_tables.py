import dataclasses
import io

from rich.console import Console
from rich.table import Table

from onnxq.console import measure_tables as tables
from onnxq.validation.measurements import Estimate, GateRow, LayerRow
from tests import reports


def rows(table: Table, width: int = 120) -> list[list[str]]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(table)
    lines = [line for line in out.getvalue().splitlines() if "─" not in line]
    return [[cell for cell in line.split("  ") if cell.strip()] for line in lines if line.strip()]


def cells(table: Table, row: int) -> list[str]:
    return [cell.strip() for cell in rows(table)[row]]


def test_a_metric_shows_both_models_the_difference_and_whether_it_is_noise() -> None:
    table = tables.metric_table([reports.TOP1])
    assert cells(table, 0) == [
        *["metric", "REF", "CANDIDATE", "difference", "(REF-C)/C", "n", "noise?"]
    ]
    assert cells(table, 1) == ["top1", "0.97", "0.96", "-0.01 ±0.014", "+1.04 %", "200", "yes"]


def test_a_fidelity_metric_has_no_reference() -> None:
    assert cells(tables.metric_table([reports.SNR]), 1) == [
        *["snr (dB)", "-", "28.50 ±0.4", "-", "-", "200", "-"]
    ]


def test_outputs_are_named_where_there_are_several() -> None:
    other = dataclasses.replace(reports.TOP1, output="z")
    table = tables.metric_table([reports.TOP1, other])
    assert [row[0].strip() for row in rows(table)[1:]] == ["top1@y", "top1@z"]


def test_functions_are_named_without_their_modules_where_that_is_enough() -> None:
    def named(*names: str) -> list[str]:
        return tables.short_labels(
            [dataclasses.replace(reports.TOP1, name=name, output=None) for name in names]
        )

    assert named("tasks.metrics:score", "psnr:1.0") == ["score", "psnr:1.0"]
    assert named("a:score", "b:score", "b:other") == ["a:score", "b:score", "other"]


def test_infinite_and_undefined_figures_are_told_apart() -> None:
    nothing = Estimate(value=None)
    equal = dataclasses.replace(reports.SNR, candidate=nothing, is_equal=True)
    assert cells(tables.metric_table([equal]), 1)[2] == "equal"
    undefined = dataclasses.replace(reports.TOP1, candidate=nothing, difference=nothing)
    assert cells(tables.metric_table([undefined]), 1)[2:4] == ["-", "-"]


def test_details_are_told() -> None:
    row = dataclasses.replace(reports.SNR, detail="peak 1.0")
    assert tables.metric_details([row, reports.TOP1]) == ["snr: peak 1.0"]


def test_times_and_memory_have_units_and_ratios() -> None:
    table = tables.performance_table(reports.PERFORMANCE)
    assert cells(table, 1) == ["load, median", "500 ms", "625 ms", "1.25"]
    assert cells(table, 2) == ["run, median", "2.00 ms", "2.20 ms", "1.10"]
    assert cells(table, 4) == ["memory to load", "10.0 MB", "-"]
    tail = ", turn about; ratio of times: median of the turns"
    line = tables.performance_line(reports.PERFORMANCE)
    assert line == f"CPU, 300 runs of 32 samples{tail}"
    packed = dataclasses.replace(reports.PERFORMANCE, is_packed=True, threads=1, samples=1)
    assert tables.performance_line(packed) == (
        f"CPU, 1 thread, weights of CANDIDATE kept packed, 300 runs of 1 sample{tail}"
    )
    unknown = dataclasses.replace(reports.PERFORMANCE, samples=None)
    assert tables.performance_line(unknown) == f"CPU, 300 runs{tail}"


def test_tensors_stand_with_what_each_does() -> None:
    table = tables.layer_table(reports.LAYERS, "tensors")
    assert cells(table, 1) == ["conv[1].weight", "6", "864", "904", "31.25", "29.50"]
    assert cells(table, 2) == ["mask in main/loop:body", "-", "16", "64", "exact", "equal"]
    two = LayerRow(**{**reports.LAYERS[0].__dict__, "output": "z"})
    assert cells(tables.layer_table([*reports.LAYERS, two], "t"), 0)[-1] == "output"


def test_gates_say_what_was_found() -> None:
    gate = GateRow(
        gate="--min-snr 30", subject="output 'y'", found=28.5, limit=30, passed=False, message=""
    )
    table = tables.gate_table([gate, dataclasses.replace(gate, found=None, passed=True)])
    assert cells(table, 1) == ["--min-snr 30", "output 'y'", "28.5", "failed"]
    assert cells(table, 2) == ["--min-snr 30", "output 'y'", "-", "ok"]
    assert cells(tables.gate_table([gate]), 1) == ["--min-snr 30", "28.5", "failed"]


def test_names_are_never_markup() -> None:
    bad = "[red]y\x1b[2J"
    gate = GateRow(gate=bad, subject=bad, found=1, limit=1, passed=True, message="")
    metric = dataclasses.replace(reports.TOP1, name=bad)
    layer = LayerRow(**{**reports.LAYERS[0].__dict__, "name": bad})
    for table in (
        tables.gate_table([gate]),
        tables.metric_table([metric]),
        tables.layer_table([layer], "t"),
    ):
        assert "[red]y\\x1b[2J" in rows(table)[1][0]
