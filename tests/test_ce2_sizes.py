"""The published tables without the errors of their source, and the arithmetic of sizes."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

import onnxq
from tools.ce2 import published, sizes
from tools.ce2.published import Row, read, table

DIGITS = Path(__file__).parent.parent / "models" / "digits.onnx"


def row_of(number: int, bits: int) -> Row:
    (row,) = [row for row in table(number) if row.bits == bits]
    return row


def test_no_published_row_stands_twice() -> None:
    keys = [(row.table, row.bits) for row in read()]
    assert len(keys) == len(set(keys)) == 36
    assert [len(table(number)) for number in range(1, 6)] == [5, 6, 10, 5, 10]


def test_the_two_bit_accuracy_of_the_audio_network_is_unknown() -> None:
    two = row_of(5, 2)
    assert two.metrics[0].quantized is None
    assert two.working_point == ""
    assert "repeats that of 4 bits" in two.note
    assert [row.bits for row in read() if row.metrics[0].quantized is None] == [2]


def test_a_label_that_belongs_to_another_row_is_left_out() -> None:
    labels = {row.bits: row.working_point for row in table(2)}
    assert labels == {3: "WP1", 4: "", 5: "WP2", 6: "", 7: "WP3", 8: ""}
    for number in (1, 2, 3, 5):
        known = [row.working_point for row in table(number) if row.working_point]
        assert len(known) == len(set(known))


def test_the_low_rank_widths_are_those_that_fit_the_sizes() -> None:
    assert [row.bits for row in table(4)] == [8, 9, 10, 11, 12]
    for row, label in zip(table(4), (7, 8, 9, 10, 11), strict=True):
        assert row.note.startswith(f"Q-Bits says {label} in the source")
        parameters = 8 * row.quantized_bytes / row.bits  # at most: codebooks and floats come on top
        assert parameters < row.original_bytes


def test_no_column_is_shifted() -> None:
    for row in read():
        scores = [score for m in row.metrics for score in (m.original, m.quantized)]
        if row.network == "imagecomp":
            assert all(9 < score < 31 for score in scores if score is not None)
        else:
            assert all(0 < score < 1 for score in scores if score is not None)
        assert row.parameters > 2 * row.bits
        assert row.quantized_bytes > row.bits * row.parameters / 8 * (0.6 if row.table == 4 else 1)
    for row in table(2):
        top1, top5 = row.metrics
        assert (top1.name, top5.name) == ("top1", "top5")
        assert (top1.original, top5.original) == (0.74736, 0.91932)
        assert top1.quantized is not None
        assert top5.quantized is not None
        assert top1.quantized < top5.quantized


def test_widths_rise_and_sizes_with_them() -> None:
    for number in range(1, 6):
        rows = table(number)
        assert [row.bits for row in rows] == sorted(row.bits for row in rows)
        assert [row.quantized_bytes for row in rows] == sorted(r.quantized_bytes for r in rows)


def test_what_is_odd_has_a_note() -> None:
    assert "printed twice" in row_of(1, 2).note
    assert "below that of 5 bits" in row_of(1, 6).note
    assert all("shifted" in row.note for row in table(2))
    assert all("jumps" in row_of(4, bits).note for bits in (11, 12))


def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    lines = list(csv.reader(published.PATH.read_text("utf-8").splitlines()))
    lines[1][5] = "5"
    path = tmp_path / "published.csv"
    path.write_text("\n".join(",".join(f'"{c}"' for c in line) for line in lines), "utf-8")
    with pytest.raises(ValueError, match="table 1, 2 bits: found 5 centroids, expected 4"):
        read(path)


@pytest.mark.parametrize(
    ("number", "bits", "tensors", "missing"), [(1, 2, 32, 0), (1, 5, 32, 0), (1, 3, 32, 2)]
)
def test_published_sizes_leave_room_for_the_codebooks_they_had(
    number: int, bits: int, tensors: int, missing: int
) -> None:
    row = row_of(number, bits)
    found = published.implied_centroids(row.quantized_bytes, bits, row.parameters, 0)
    assert found == tensors * 2**bits - missing


def test_kept_floats_take_room_from_codebooks() -> None:
    row = row_of(2, 4)
    kept = 26_560  # the variances of BatchNormalization
    found = published.implied_centroids(row.quantized_bytes, 4, row.parameters - kept, kept)
    assert 0 < found <= 267 * 16


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> onnxq.report.Report:
    out = tmp_path_factory.mktemp("digits") / "out.onnx"
    return onnxq.convert(DIGITS, out, bits=4, preset="ce2", check=0)


def test_the_parts_of_a_file_sum_to_it(digits: onnxq.report.Report) -> None:
    found = sizes.sizes(digits)
    own = sizes.own_graph_bytes(digits)
    assert own == DIGITS.stat().st_size - 4 * 90_410
    assert found.net_bytes == found.file_bytes - own
    parts = found.index_padding + found.codebook_filling + found.graph_growth
    assert found.net_bytes == found.ce2_bytes + parts
    assert found.encoded_weights + found.kept_floats == 90_410
    assert 0 < found.centroids <= found.full_centroids == 16 * found.encoded_tensors


def measured(row: Row, **changed: int) -> sizes.Sizes:
    """Return sizes of a network of one tensor, all of it quantized, with a full codebook."""
    ce2 = -(-row.bits * row.parameters // 8) + 4 * 2**row.bits
    values = {
        "file_bytes": ce2 + 500,
        "ratio": 4.0,
        "net_bytes": ce2 + 100,
        "ce2_bytes": ce2,
        "encoded_tensors": 1,
        "encoded_weights": row.parameters,
        "kept_floats": 0,
        "centroids": 2**row.bits,
        "full_centroids": 2**row.bits,
        "index_padding": 0,
        "codebook_filling": 0,
        "graph_growth": 100,
    }
    return sizes.Sizes(**{**values, **changed})


def with_size(row: Row, extra: int) -> Row:
    """Return a row whose size is that of `measured` and so many bytes."""
    return dataclasses.replace(row, quantized_bytes=measured(row).ce2_bytes + extra)


def test_full_codebooks_explain_what_empty_clusters_spared() -> None:
    row = with_size(row_of(3, 4), -12)
    ours = measured(row)
    assert sizes.implied(row, ours) == 13
    goal = sizes.ce2_goal(row, ours)
    assert goal["is_met"]
    assert goal["limit"] == goal["found"] == ours.ce2_bytes


def test_a_larger_network_than_full_codebooks_explain_misses_the_goal() -> None:
    row = with_size(row_of(3, 4), -12)
    ours = measured(row)
    goal = sizes.ce2_goal(row, dataclasses.replace(ours, ce2_bytes=ours.ce2_bytes + 8))
    assert not goal["is_met"]
    assert goal["why"] == (
        "16 centroids in use, +3 against those that the published size leaves room for: "
        "+20 bytes (+0.05%)"
    )


def test_room_for_fewer_centroids_than_codebooks_explains_nothing() -> None:
    row = with_size(row_of(3, 4), -4 * 16 - 40)  # 10 centroids below none
    ours = dataclasses.replace(measured(row), kept_floats=0)
    assert sizes.implied(row, ours) == -10
    goal = sizes.ce2_goal(row, ours)
    assert goal["limit"] == row.quantized_bytes + 4 * 15
    assert not goal["is_met"]
    kept = sizes.ce2_goal(row, dataclasses.replace(ours, kept_floats=96))
    assert kept["why"].endswith(
        "; the 96 floats kept would take 336 bytes less as indices, codebooks not counted"
    )


def test_a_published_size_beyond_full_codebooks_is_the_limit_itself() -> None:
    row = with_size(row_of(3, 4), 400)
    assert sizes.ce2_goal(row, measured(row))["limit"] == row.quantized_bytes


def test_a_missed_file_goal_says_where_the_bytes_are_the_largest_first() -> None:
    row = with_size(row_of(3, 4), 0)
    size = row.quantized_bytes
    ours = measured(row, net_bytes=size + 3_000, graph_growth=2_900, codebook_filling=100)
    assert sizes.file_goal(row, ours, 0.1)["is_met"]
    goal = sizes.file_goal(row, ours, 0.05)
    assert not goal["is_met"]
    assert goal["limit"] == int(1.05 * size)
    assert goal["why"] == (
        f"decode graph of 1 tensors: +2,900 bytes ({2_900 / size:+.2%}); "
        f"codebooks filled up: +100 bytes ({100 / size:+.2%})"
    )


def test_the_published_accuracies_are_shares_of_810_recordings() -> None:
    known = [row.metrics[0].quantized for row in table(5) if row.metrics[0].quantized is not None]
    assert len(known) == 9
    for share in known:
        assert abs(810 * share - round(810 * share)) < 0.05
