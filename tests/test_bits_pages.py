"""The page, the plots and the figures of tools/bits, from made-up rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.bits import draw, figures, markdown, methods, plots, results
from tools.bits.methods import METHODS, Subject
from tools.bits.rows import Row
from tools.bits.tasks import TASKS

ENVIRONMENT = {
    "commit": "0123456789abcdef",
    "uncommitted_changes": False,
    "machine": {"cpu": "a processor", "cores": 2, "memory_bytes": 2**33, "system": "Linux"},
    "versions": {"python": "3.11.7", "onnxruntime": "1.31.1"},
}
GRAPH, WEIGHTS = 10_000, 400_000


def estimate(value: float | None, error: float | None = 0.01) -> dict[str, Any]:
    return {"value": value, "standard_error": error, "low": None, "high": None}


def metric(name: str, score: float | None) -> dict[str, Any]:
    found = {
        "name": name,
        "output": "probabilities",
        "unit": "",
        "better": "higher",
        "samples": 450,
        "reference": estimate(0.7) if name == "top1" else None,
        "candidate": estimate(score),
        "difference": None,
        "is_within_noise": None,
        "is_equal": score is None,
        "detail": "",
    }
    if name == "top1" and score is not None:
        found["difference"] = estimate(score - 0.7, 0.005)
    return found


def row(method: str, setting: str, file_bytes: int, score: float) -> Row:
    snr = None if method == "float" else 30.0 * score
    return {
        "key": {},
        "task": "dcase",
        "method": method,
        "setting": setting,
        "asked": {},
        "original_bytes": GRAPH + WEIGHTS,
        "weight_bytes": WEIGHTS,
        "calibration_samples": 90,
        "command": "onnxq convert dcase.onnx out.onnx",
        "seconds": 1.5,
        "peak_bytes": 120_000_000,
        "failure": None,
        "file_bytes": file_bytes,
        "ratio": file_bytes / (GRAPH + WEIGHTS),
        "metrics": [metric("top1", score), metric("snr", snr)],
        "samples": 450,
        "evaluated_by": "onnxq validate dcase.onnx out.onnx",
        "source": "abc",
        "environment": ENVIRONMENT,
        "measured": "2026-01-01T00:00:00+00:00",
    }


def failed(method: str, setting: str) -> Row:
    found = row(method, setting, 0, 0.0)
    for name in ("file_bytes", "ratio", "metrics", "samples", "evaluated_by"):
        del found[name]
    return {
        **found,
        "failure": {"stage": "making it", "exit_status": 1, "message": "a reason"},
    }


ROWS = [
    row("optimal", "4 bits", 62_000, 0.694),
    row("float", "original", GRAPH + WEIGHTS, 0.7),
    row("optimal", "3 bits", 47_000, 0.66),
    row("ce2", "4 bits", 61_000, 0.68),
    row("ort-dynamic", "per tensor", 110_000, 0.69),
    failed("onnxsim-kmeans", "simplified"),
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    draw.write_all(folder, results.merged([], ROWS))
    return folder


@pytest.fixture(scope="module")
def text(drawn: Path) -> str:
    return (drawn / "bits.md").read_text("utf-8")


def cells_of(text: str, start: str) -> list[str]:
    """Return the cells of the only table line that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_shows_score_difference_and_snr_with_standard_errors(text: str) -> None:
    cells = cells_of(text, "uniform, optimal | 4 bits |")
    assert cells[2:4] == ["62,000", "0.151"]
    assert cells[4:7] == ["0.694 ±0.010", "-0.006 ±0.005", "20.8 ±0.0"]
    assert cells[7:] == ["1.5", "120.0"]


def test_the_float_model_is_equal_to_itself(text: str) -> None:
    assert cells_of(text, "float | original |")[6] == "equal"


def test_losses_beyond_what_is_allowed_are_bold(text: str) -> None:
    # at 0.15 of 400,000 the limit is 70,000 bytes, at 0.12 58,000
    optimal = cells_of(text, "uniform, optimal | 4 bits: 62,000 |")
    assert optimal[1:4] == ["4 bits: 62,000", "+0.6", "20.8 ±0.0"]
    assert optimal[4:] == ["3 bits: 47,000", "**+4.0**", "19.8 ±0.0"]
    ce2 = cells_of(text, "uniform, preset ce2 | 4 bits: 61,000 |")
    assert ce2[1:] == ["4 bits: 61,000", "**+2.0**", "20.4 ±0.0", "-", "-", "-"]
    names = "uniform, preset ce2; uniform, optimal"
    assert f"Within both: none. Not within both: {names}." in text


def test_what_planning_costs_stands_apart_with_how_it_ended() -> None:
    plan = {**failed("planning", "data-free"), "failure": None}
    broken = failed("planning", "calibrated, 32 samples")
    text = markdown.page([plan, broken], {})
    assert cells_of(text, "Acoustic scenes | data-free |")[2:] == ["1.5", "120.0", "done"]
    assert cells_of(text, "Acoustic scenes | calibrated, 32 samples |")[4] == "a reason"


def test_a_file_of_a_published_size_stands_beside_the_presets() -> None:
    rows = [
        row("published-size", "row of 4 bits", 56_000, 0.69),
        row("published-preset", "row of 4 bits", 61_000, 0.68),
    ]
    lines = [line for line in markdown.page(rows, {}).splitlines() if "| row of 4 bits |" in line]
    assert lines[-2:] == [
        "| row of 4 bits | size as published, data-free | 56,000 | 0.690 ±0.010 | 20.7 ±0.0 |",
        "| row of 4 bits | preset ce2 as published | 61,000 | 0.680 ±0.010 | 20.4 ±0.0 |",
    ]


def test_the_default_is_summed_up_without_and_with_calibration_data() -> None:
    rows = [
        row("allocated", "0.15 of the weights", 62_000, 0.68),
        row("corrected", "0.12 of the weights", 57_000, 0.7),
    ]
    found = cells_of(markdown.page(rows, {}), "Acoustic scenes |")
    assert found[1:] == ["0.15: **+2.0**", "0.12: -", "0.15: +0.0", "0.12: +0.0"]


def test_sizes_that_are_missed_are_counted() -> None:
    asked = {"asked": {"file_bytes": 60_000}}
    rows = [
        {**row("optimal", "3 bits", 59_400, 0.69), **asked},
        {**row("optimal", "4 bits", 60_001, 0.69), **asked},
    ]
    assert (
        "Of 2 sizes that were met, 1 are above what was asked; the farthest below is -1.00%."
        in markdown.page(rows, {})
    )


def test_a_peer_that_failed_is_named_with_its_reason(text: str) -> None:
    assert "- onnxsim k-means, 4 bits, simplified: making it failed: a reason" in text


def test_the_page_names_the_commit_and_its_rows(text: str) -> None:
    assert cells_of(text, "0123456789ab |")[1] == "6"


def test_rows_stand_in_the_order_of_methods_and_settings() -> None:
    found = [(r["method"], r["setting"]) for r in results.merged([], ROWS)]
    assert found[:4] == [
        ("float", "original"),
        ("ce2", "4 bits"),
        ("optimal", "3 bits"),
        ("optimal", "4 bits"),
    ]


def test_a_row_that_was_measured_again_replaces_its_former_self() -> None:
    again = row("optimal", "4 bits", 61_999, 0.7)
    found = results.merged(ROWS, [again])
    assert len(found) == len(ROWS)
    assert [r["file_bytes"] for r in found if r["setting"] == "4 bits"] == [61_000, 61_999]


def test_rows_of_settings_that_there_are_no_more_are_left_out() -> None:
    assert results.merged([row("optimal", "99 bits", 1, 0.1)], ROWS) == results.merged([], ROWS)


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    kept = results.merged([], ROWS)
    results.write(tmp_path, kept)
    assert results.read(tmp_path) == json.loads(json.dumps(results.rounded(kept)))


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / results.NAME).write_text('{"version": 99}')
    with pytest.raises(ValueError, match="99"):
        results.read(tmp_path)


def test_the_same_rows_give_the_same_picture(drawn: Path) -> None:
    data = (drawn / "bits-dcase.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert plots.draw(TASKS["dcase"], results.merged([], ROWS)) == data


def test_the_page_is_drawn_from_the_results_alone(drawn: Path, text: str, tmp_path: Path) -> None:
    (tmp_path / results.NAME).write_bytes((drawn / results.NAME).read_bytes())
    assert draw.main(["--only-json", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "bits.md").read_text("utf-8") == text


def test_without_rows_nothing_is_drawn(tmp_path: Path) -> None:
    assert draw.main(["--work", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert not list(tmp_path.iterdir())


def test_a_loss_is_counted_in_standard_errors_of_the_float_score() -> None:
    assert figures.loss(metric("top1", 0.68)) == pytest.approx(2.0)
    assert figures.loss(metric("top1", 0.71)) == pytest.approx(-1.0)
    assert figures.loss(metric("snr", 30.0)) is None  # there is no float figure to lose
    lower = {**metric("top1", 0.71), "better": "lower"}
    assert figures.loss(lower) == pytest.approx(1.0)


def test_no_file_within_a_size_meets_no_floor() -> None:
    (wide, narrow) = figures.verdicts(ROWS, TASKS["dcase"], "ce2")
    assert wide.limit_bytes == GRAPH + 0.15 * WEIGHTS
    assert narrow.row is None
    assert not narrow.is_met


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_settings_of_a_method_are_unique(task: Any) -> None:
    subject = Subject(task=task, file_bytes=GRAPH + WEIGHTS, weight_bytes=WEIGHTS)
    for method in METHODS.values():
        names = [point.setting for point in method.points(subject)]
        assert len(set(names)) == len(names)


def test_target_sizes_include_the_floors_of_the_task() -> None:
    task = TASKS["orientation"]
    subject = Subject(task=task, file_bytes=GRAPH + WEIGHTS, weight_bytes=WEIGHTS)
    points = {p.setting: p for p in methods.by_share("--calibration", "{calibration}")(subject)}
    for share in task.floors:
        size = GRAPH + share * WEIGHTS
        point = points[f"{share:g} of the weights"]
        assert point.asked == {"file_bytes": size}
        assert point.words == ("--target-size", f"{size:.0f}", "--calibration", "{calibration}")


def test_ten_targets_and_an_impossible_one_are_asked_for() -> None:
    subject = Subject(task=TASKS["dcase"], file_bytes=GRAPH + WEIGHTS, weight_bytes=WEIGHTS)
    points = {p.setting: p for p in methods.by_target()(subject)}
    assert len(points) == 11
    assert points["size 70000"].asked == {"file_bytes": 70_000}
    assert points["snr 30"].words == ("--target-snr", "30")


def test_targets_are_set_beside_what_was_reached() -> None:
    targets = []
    for name, asked, found in (
        ("file_bytes", 70_000, 69_900),
        ("output_snr_db", 30.0, 29.5),
        ("ratio", 0.02, None),
    ):
        reached = {"method": "optimal", "setting": name, "asked": {name: asked}, name: found}
        targets.append({**failed("optimal", name), "failure": None, **reached})
    text = markdown.page(targets, {})
    assert cells_of(text, "uniform, optimal | file_bytes |")[2:] == ["70,000", "69,900", "-0.14%"]
    assert cells_of(text, "uniform, optimal | output_snr_db |")[2:] == ["30", "29.50", "-0.50 dB"]
    assert cells_of(text, "uniform, optimal | ratio |")[2:] == ["0.02", "refused", "-"]


def test_published_rows_become_presets_and_targets() -> None:
    subject = Subject(task=TASKS["dcase"], file_bytes=468_824, weight_bytes=467_260)
    presets = list(methods.as_published(is_preset=True)(subject))
    targets = list(methods.as_published(is_preset=False)(subject))
    assert [p.setting for p in presets] == [p.setting for p in targets]
    assert "--quantize-variance" in presets[0].words
    few = list(methods.by_share(are_few=True)(subject))
    assert [p.setting.split()[0] for p in few] == ["0.08", "0.12", "0.15", "0.2"]
    assert targets[0].words == ("--target-size", str(targets[0].asked["file_bytes"]))
