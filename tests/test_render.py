import dataclasses
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from onnxq.checks import Check
from onnxq.console import factor_tables, render, report_tables
from onnxq.report import AnyReport, ConsumerRow, FileSize, Report, RestoreReport, SkipRow
from tests import reports

every_report = pytest.mark.parametrize("made", reports.ALL.values(), ids=reports.ALL)


def text_of(
    made: AnyReport, *, width: int = 80, verbose: bool = False, colour: bool = False
) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, force_terminal=colour)
    render.render(made, console, verbose=verbose)
    return out.getvalue()


def row_of(text: str, start: str) -> list[str]:
    lines = [line.split() for line in text.splitlines()]
    (cells,) = [cells for cells in lines if cells[:1] == [start] and re.search(r"\d", cells[1])]
    return cells


@every_report
@pytest.mark.parametrize("verbose", [False, True])
def test_a_report_fits_80_columns_and_has_no_colour_in_a_file(
    made: AnyReport, verbose: bool
) -> None:
    text = text_of(made, verbose=verbose)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_a_terminal_gets_colour() -> None:
    assert "\x1b[" in text_of(reports.CONVERTED, colour=True)


def test_the_headline_of_convert() -> None:
    lines = text_of(reports.CONVERTED).splitlines()
    assert lines[:5] == [
        "models/in.onnx -> out[6].onnx",
        "10,000 -> 2,500 bytes: 4.00 times smaller, 7.50 bits per weight",
        "1,100 bytes as published work counts (CE2 bytes, no graph)",
        "output SNR 28.50 dB, off by at most 0.125 ('y', worst of 2, 1 random sample)",
        "load time 500.0 ms -> 625.0 ms (1.25 times)",
    ]


def test_the_table_of_widths_has_shares_and_a_total() -> None:
    text = text_of(reports.CONVERTED)
    assert row_of(text, "6") == ["6", "2", "1,728", "85.7", "%", "6,912", "904", "84.3", "%"]
    assert row_of(text, "kept")[:3] == ["kept", "1", "32"]
    assert row_of(text, "all") == ["all", "4", "2,016", "8,064", "1,072"]


def test_the_ledger_ends_with_the_size_of_the_file() -> None:
    assert row_of(text_of(reports.CONVERTED), "total") == ["total", "2,500"]


def test_skipped_tensors_are_grouped_by_reason() -> None:
    many = dataclasses.replace(reports.CONVERTED, skipped=reports.SKIPPED * 3)
    assert row_of(text_of(many), "not-smaller")[:4] == ["not-smaller", "3", "96", "384"]


def test_an_unknown_reason_is_shown_as_it_is() -> None:
    row = SkipRow(name="a", graph="main", elements=1, bytes=4, reason="brand-new")
    assert "brand-new" in text_of(dataclasses.replace(reports.CONVERTED, skipped=(row,)))


def test_the_worst_tensors_are_those_of_the_least_snr() -> None:
    first = reports.TENSORS[0]
    rows = [dataclasses.replace(first, name=str(n), snr_db=float(n)) for n in range(9, 0, -1)]
    rows += [dataclasses.replace(first, name="tied", snr_db=0.0, same_as="9")]
    rows += [dataclasses.replace(first, name="exact", snr_db=None)]
    assert [row.name for row in render.worst(rows)] == ["1", "2", "3", "4", "5"]


def test_nothing_gained_is_said_plainly() -> None:
    text = text_of(reports.NOTHING_GAINED)
    assert "1,000 -> 1,000 bytes: nothing was gained" in text
    assert "the output is the equivalent model" in text
    assert "outputs not compared: x: onnxruntime cannot load it: why" in text


def test_equal_outputs_are_said_to_be_equal() -> None:
    check = dataclasses.replace(reports.CHECK, outputs=reports.CHECK.outputs[1:], samples=2)
    made = dataclasses.replace(reports.CONVERTED, check=check)
    assert "outputs are equal (2 random samples)" in text_of(made)


def test_random_inputs_without_a_finite_output_are_told() -> None:
    made = dataclasses.replace(reports.CONVERTED, check=reports.UNDEFINED_CHECK)
    text = text_of(made)
    assert "output 'y': no finite value to compare: both models gave only NaN" in text
    assert NOT_EXERCISED in text
    assert "equal" not in text
    assert "output SNR" not in text


NOT_EXERCISED = "these random inputs do not exercise the weights; validate with --data"


def with_ratio(snr_db: float | None) -> Check:
    output = dataclasses.replace(reports.CHECK.outputs[0], snr_db=snr_db, is_equal=snr_db is None)
    return dataclasses.replace(reports.CHECK, outputs=(output,))


@pytest.mark.parametrize(("snr_db", "is_told"), [(None, True), (-3.0, True), (3.0, False)])
def test_outputs_that_tell_nothing_of_the_weights_are_said_to(
    snr_db: float | None, is_told: bool
) -> None:
    made = dataclasses.replace(reports.CONVERTED, check=with_ratio(snr_db))
    assert (NOT_EXERCISED in text_of(made)) is is_told
    exact = dataclasses.replace(made, tensors=reports.TENSORS[2:])
    assert (NOT_EXERCISED in text_of(exact)) is False
    random = dataclasses.replace(reports.DATA, kind="random", path=None)
    validated = dataclasses.replace(reports.VALIDATED, check=with_ratio(snr_db), data=random)
    assert ("below 0 dB" in text_of(validated)) is (snr_db == -3.0)


def test_without_a_gate_nothing_is_said_to_have_passed() -> None:
    text = text_of(dataclasses.replace(reports.VALIDATED, min_snr=None, gates=()))
    assert "compared (200 samples" in text
    assert row_of(text, "y")[-1] == "compared"
    assert "passed" not in text
    assert row_of(text_of(reports.VALIDATED), "y")[-1] == "ok"


def test_load_times_without_a_ratio_are_shown() -> None:
    check = dataclasses.replace(reports.CHECK, load_ratio=None)
    text = text_of(dataclasses.replace(reports.CONVERTED, check=check))
    assert "load time 500.0 ms -> 625.0 ms\n" in text


def test_memory_at_load_is_told_where_something_is_decoded() -> None:
    kept = dataclasses.replace(reports.INSPECTED, weights=reports.INSPECTED.weights[1:])
    assert "decoding at load" in text_of(reports.INSPECTED)
    assert "decoding at load" not in text_of(kept)


def test_a_broken_output_is_named() -> None:
    made = dataclasses.replace(reports.CONVERTED, check=reports.FAILED_CHECK)
    assert "output 'y' is broken: shape [3] instead of [2]" in text_of(made)


@pytest.mark.parametrize("made", [reports.CONVERTED, reports.RESTORED])
def test_the_data_file_is_named(made: Report | RestoreReport) -> None:
    size = FileSize(path="o.onnx", file_bytes=1, data_files=("o.onnx.01234567.data",))
    text = text_of(dataclasses.replace(made, output=size))
    assert "with its data in o.onnx.01234567.data, which belongs beside it" in text


def test_notes_are_shown() -> None:
    assert "note: the opset was raised from 10 to 11" in text_of(reports.CONVERTED)


def test_verbose_lists_every_tensor_and_the_cost() -> None:
    text = text_of(reports.CONVERTED, verbose=True)
    for name in ("conv[1].weight", "conv2.weight in main/loop:body", "mask", "bias", "shape"):
        assert name in text
    assert "took 0.50 s, at most 100 MB of memory" in text


def test_inspect_says_what_convert_would_do() -> None:
    text = text_of(reports.INSPECTED)
    assert "convert at 6 bits would write 2,500 bytes: 4.00 times smaller" in text
    assert row_of(text, "conv[1].weight")[1:] == [
        *["f32", "32x3x3x3", "3,456", "Conv", "6", "bits", "904"]
    ]
    assert row_of(text, "bias")[1:] == ["f32", "32", "128", "-", "not-smaller"]
    assert "128 bytes now, 310 encoded" not in text
    assert "128 bytes now, 310 encoded" in text_of(reports.INSPECTED, verbose=True, width=200)


def test_inspect_hides_integers_unless_verbose() -> None:
    integers = dataclasses.replace(reports.INSPECTED.weights[1], name="axes", reason="not-float")
    made = dataclasses.replace(reports.INSPECTED, weights=(integers,))
    assert "axes" not in text_of(made)
    assert "1 more tensor holds no floats; --verbose lists them" in text_of(made)
    assert "no floats" not in text_of(made, verbose=True)
    assert "axes" in text_of(made, verbose=True)


def test_inspect_of_a_converted_model_has_tensors_and_ledger() -> None:
    text = text_of(reports.INSPECTED_CONVERTED)
    assert "converted by onnxq, 7.50 bits per weight" in text
    assert row_of(text, "total") == ["total", "2,500"]
    assert "conv[1].weight" in text


def test_restore_counts_what_was_decoded() -> None:
    assert "2,500 -> 10,000 bytes, 3 tensors decoded" in text_of(reports.RESTORED)


def test_validate_names_the_failing_outputs() -> None:
    assert "passed (200 samples of 1,000 of val.npz, 1 gate)" in text_of(reports.VALIDATED)
    text = text_of(reports.INVALID)
    assert "FAILED (1 random sample)" in text
    assert "failed: output 'y': shape [3] instead of [2]" in text


def test_names_are_never_markup_nor_escape_sequences() -> None:
    tensor = dataclasses.replace(reports.TENSORS[0], name="[red]a\x1b[2J\n[/red]")
    made = dataclasses.replace(
        reports.CONVERTED,
        tensors=(tensor,),
        output=FileSize(path="[bold]o\x07.onnx", file_bytes=1),
    )
    text = text_of(made)
    assert "[red]a\\x1b[2J\\n[/red]" in text
    assert "[bold]o\\x07.onnx" in text


def test_a_long_name_is_folded_not_cut() -> None:
    tensor = dataclasses.replace(reports.TENSORS[0], name="x" * 200)
    text = text_of(dataclasses.replace(reports.CONVERTED, tensors=(tensor,)))
    assert text.count("x") >= 200
    assert max(map(len, text.splitlines())) <= 80


def test_other_texts_are_folded_before_names() -> None:
    weight = dataclasses.replace(
        reports.INSPECTED.weights[0],
        name="a_name_of_34_characters_it.weight1",
        shape=(1024, 1024, 3, 3),
        consumers=tuple(
            ConsumerRow(op_type=kind, node="", input=1) for kind in ("Conv", "MatMul", "Gather")
        ),
    )
    text = text_of(dataclasses.replace(reports.INSPECTED, weights=(weight,)))
    assert weight.name in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_terminal_without_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    render.render(reports.CONVERTED, Console(file=out, width=80))
    out.flush()
    assert b"not-smaller" in raw.getvalue()


def test_the_words_of_reasons_are_those_of_the_documents() -> None:
    page = Path(__file__).parent.parent.joinpath("docs", "report.md").read_text(encoding="utf-8")
    section = page.partition("### skipped")[2].partition("### check")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    assert {word for cell in cells for word in re.findall(r"`(.+?)`", cell)} == set(
        report_tables.REASONS
    )


def test_the_words_of_reasons_of_low_rank_are_those_of_the_documents() -> None:
    page = Path(__file__).parent.parent.joinpath("docs", "report.md").read_text(encoding="utf-8")
    section = page.partition("Reasons in `skipped` are those of `convert`")[2].partition("##")[0]
    words = re.findall(r"^\| `(.*?)` \|", section, flags=re.MULTILINE)
    assert set(words) == set(factor_tables.REASONS)


def test_the_headline_of_lowrank() -> None:
    lines = text_of(reports.REDUCED).splitlines()
    assert lines[2:5] == [
        "120,000 -> 35,000 bytes: 3.43 times smaller",
        "28,464 -> 6,792 parameters (23.9 % are kept), 2 weights as factors",
        "output SNR 28.50 dB, off by at most 0.125 ('y', worst of 2, 1 sample of data)",
    ]


def test_factors_that_lose_most_at_their_outputs_come_first() -> None:
    first = reports.FACTORS[0]
    rows = [
        dataclasses.replace(first, name=name, output_snr_db=ratio)
        for name, ratio in (("exact", None), ("good", 30.0), ("bad", 3.0))
    ]
    assert [row.name for row in factor_tables.worst_first(rows)] == ["bad", "good", "exact"]
    many = dataclasses.replace(reports.REDUCED, layers=tuple(rows) * 5)
    assert "3 more weights; --verbose lists them" in text_of(many)
    assert "more weights" not in text_of(many, verbose=True)


def test_an_snr_that_is_not_known_is_not_called_exact() -> None:
    unknown = dataclasses.replace(reports.TENSORS[0], snr_db=None, scheme="unknown")
    made = dataclasses.replace(reports.INSPECTED_CONVERTED, tensors=(unknown,))
    assert "SNR" not in text_of(made)
    made = dataclasses.replace(made, tensors=(unknown, *reports.TENSORS[1:]))
    assert row_of(text_of(made), "conv[1].weight")[-1] == "?"


def test_without_performance_no_load_time_is_told() -> None:
    text = text_of(dataclasses.replace(reports.VALIDATED, performance=None))
    assert "load" not in text
