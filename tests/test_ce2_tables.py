"""Rows of the published tables measured on the small networks, end to end, and the command."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxq
from tools import ce2_tables
from tools.ce2 import commands, lowrank, networks, pages, results, tables
from tools.ce2.networks import Setup
from tools.ce2.published import Row, table

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="measuring needs wait4")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def _at_the_root() -> Any:
    """Run where the commands' child processes find the package without an installation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module")
def synthetic(built: Path) -> Setup:
    return Setup(trained=built / "none", built=built)


@pytest.fixture(scope="module")
def trained(synthetic: Setup, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Return setup with an audio network that passes for a trained one, and random data for it."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(networks.find("dcase", synthetic).path, folder)
    rng = np.random.default_rng(5)
    for name, count in (("dcase_eval.npz", 12), ("dcase_calibration.npz", 4)):
        logmel = rng.standard_normal((count, 1, 40, 500), dtype=np.float32)
        labels = {"label": rng.integers(0, 15, count)} if name == "dcase_eval.npz" else {}
        np.savez(folder / name, logmel=logmel, **labels)
    return Setup(trained=folder, built=synthetic.built)


def row_of(number: int, bits: int) -> Row:
    (row,) = [row for row in table(number) if row.bits == bits]
    return row


@pytest.fixture(scope="module")
def images(synthetic: Setup) -> dict[str, Any]:
    return tables.measure(3, synthetic, [row_of(3, 3)])


@pytest.fixture(scope="module")
def sounds(trained: Setup) -> dict[str, Any]:
    return tables.measure(5, trained, [row_of(5, 2)])


def test_a_row_has_the_sizes_that_convert_reports(images: dict[str, Any], built: Path) -> None:
    (row,) = images["rows"]
    for key, preset in (("preset", "ce2"), ("default", None)):
        out = built / "own.onnx"
        report = onnxq.convert(
            built / "imagecomp.onnx", out, bits=3, preset=preset, check=0, force=True
        )
        assert row[key]["file_bytes"] == out.stat().st_size
        assert row[key]["ce2_bytes"] == report.ce2_bytes
        assert row[key]["net_bytes"] == out.stat().st_size - images["model"]["own_graph_bytes"]
        assert row[key]["seconds"] > 0
        assert row[key]["peak_bytes"] > 10_000_000
    assert row["preset"]["kept_floats"] == 3  # the bias of the last layer: 3 < 1.6 * 2**3


def test_a_network_with_synthetic_weights_runs_and_is_not_scored(images: dict[str, Any]) -> None:
    assert images["weights"] == "synthetic"
    assert images["metric"] is None
    (row,) = images["rows"]
    for key in ("preset", "default"):
        assert row[key]["run"]["samples"] == 1
        assert row[key]["run"]["output_snr_db"] > 0
        assert "score" not in row[key]


def test_a_section_names_its_network_and_the_commands_without_folders(
    images: dict[str, Any], built: Path
) -> None:
    assert images["model"]["parameters"] == 76_179
    assert images["model"]["tensors"] == 18
    assert images["model"]["file_bytes"] == (built / "imagecomp.onnx").stat().st_size
    assert images["built"]["seconds"] > 0
    command = images["rows"][0]["preset"]["command"]
    assert command.startswith("onnxq convert imagecomp.onnx out.onnx --bits 3 --preset ce2")
    assert str(built) not in str(images)


def test_ce2_bytes_are_within_what_full_codebooks_explain(images: dict[str, Any]) -> None:
    (row,) = images["rows"]
    accounting, file = row["goals"]
    assert accounting["is_met"]
    assert accounting["found"] == row["preset"]["ce2_bytes"]
    assert file["is_met"] == (row["preset"]["net_bytes"] <= 1.05 * 29_082)
    assert bool(file["why"]) != file["is_met"]


def test_a_trained_network_is_scored_on_held_out_data(
    sounds: dict[str, Any], trained: Setup
) -> None:
    assert (sounds["weights"], sounds["metric"]) == ("trained", "top1")
    (row,) = sounds["rows"]
    report = onnxq.validate(
        trained.trained / "dcase.onnx",
        trained.trained / "dcase.onnx",
        data=trained.trained / "dcase_eval.npz",
        metrics="top1",
        performance=False,
    )
    for key in ("preset", "default"):
        found = row[key]["score"]["metric"]
        assert found["samples"] == 12
        assert found["reference"]["value"] == report.metrics[0].reference.value
        assert 0 <= found["candidate"]["low"] <= found["candidate"]["value"]


def test_measured_sections_become_a_page(
    images: dict[str, Any], sounds: dict[str, Any], tmp_path: Path
) -> None:
    results.update(tmp_path, "table3", images)
    results.update(tmp_path, "table5", sounds)
    names = {path.name for path in pages.draw(tmp_path)}
    assert names == {"ce2.md", "ce2-sizes.png", "ce2-dcase.png"}
    text = (tmp_path / "ce2.md").read_text("utf-8")
    assert "29,082" in text
    assert "| 2 | - |" in text  # the published accuracy at 2 bits


def test_a_network_with_other_weights_is_refused(synthetic: Setup, tmp_path: Path) -> None:
    shutil.copy(ROOT / "models" / "digits.onnx", tmp_path / "imagecomp.onnx")
    setup = Setup(trained=tmp_path, built=synthetic.built)
    with pytest.raises(ValueError, match="found 90,410 parameters, expected 76,179 of table 3"):
        tables.measure(3, setup, [row_of(3, 3)])


def test_what_is_scored_must_have_the_size_of_what_was_converted() -> None:
    converted = {"command": "onnxq convert", "file_bytes": 10}
    with pytest.raises(ValueError, match="10 bytes, but the sweep's model has 11"):
        tables.same_size({"file_bytes": 11}, converted)


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="exit status 3"):
        commands.run(["inspect", Path("absent.onnx")])


def test_a_target_that_fails_leaves_its_old_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Setup) -> dict[str, Any]:
        raise RuntimeError("no room")

    monkeypatch.setitem(ce2_tables.TARGETS, "table3", fails)
    assert ce2_tables.main(["table3", "--out", str(tmp_path)]) == 1
    assert "table3: no room" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ce2_tables.main(["draw", "--out", str(tmp_path)]) == 1
    assert "nothing is measured yet" in capsys.readouterr().err


def test_the_command_runs_as_a_file() -> None:
    line = [sys.executable, "tools/ce2_tables.py", "--help"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("table1", "lowrank-dcase", "all", "draw"):
        assert target in done.stdout


@pytest.mark.slow
def test_low_rank_versions_are_measured_from_weights_and_from_activations(
    trained: Setup, tmp_path: Path
) -> None:
    section = lowrank.measure("dcase", trained, ratios=(0.6,), widths=(3, 5))
    original, weights, activations = section["versions"]
    assert original["ratio"] is None
    assert [version["method"] for version in (weights, activations)] == ["weights", "activations"]
    for version in (weights, activations):
        share = version["model"]["parameters"] / original["model"]["parameters"]
        assert 0.5 < share <= 0.6
        assert "dcase_calibration.npz" in version["command"] or version is weights
        keys = [(point["bits"], point["kind"]) for point in version["points"]]
        assert keys == [(3, "preset"), (3, "default"), (5, "preset"), (5, "default")]
        assert version["points"][1]["file_bytes"] < original["points"][1]["file_bytes"]
    assert "against_weights" in activations
    assert "against_weights" not in weights
    results.update(tmp_path, "lowrank-dcase", section)
    assert [path.name for path in pages.draw(tmp_path)] == ["ce2-lowrank-dcase.png", "ce2.md"]


@pytest.mark.slow
def test_table_4_sets_the_low_rank_image_network_beside_the_published_one(
    synthetic: Setup, tmp_path: Path
) -> None:
    section = lowrank.measure_table(synthetic, [row_of(4, 9)])
    assert section["methods"] == ["weights"]  # there is no calibration set
    (row,) = section["rows"]
    assert row["published"]["bytes"] == 77_644
    assert row["weights"]["preset"]["ce2_bytes"] < 94_144  # of the original at 9 bits
    results.update(tmp_path, "table4", section)
    pages.draw(tmp_path)
    assert "77,644" in (tmp_path / "ce2.md").read_text("utf-8")


@pytest.mark.large
@pytest.mark.parametrize(("number", "bits", "kept"), [(1, 2, 0), (2, 8, None)])
def test_the_large_networks_meet_their_goals(
    number: int, bits: int, kept: int | None, synthetic: Setup
) -> None:
    section = tables.measure(number, synthetic, [row_of(number, bits)])
    (row,) = section["rows"]
    assert all(goal["is_met"] for goal in row["goals"]), row["goals"]
    assert kept is None or row["preset"]["kept_floats"] == kept
    assert row["preset"]["run"]["candidate"]["load_seconds"] > 0
