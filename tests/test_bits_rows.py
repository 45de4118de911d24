"""Rows of tools/bits measured on a tiny model, end to end, and kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_models
from tools.bits import benches, child, measure, measuring, onnxq_runs, rows
from tools.bits.benches import Bench
from tools.bits.methods import METHODS, Method, Point, settings
from tools.bits.onnxq_runs import Broken
from tools.bits.rows import Row
from tools.bits.tasks import TASKS, Places

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="measuring needs wait4")

ROOT = Path(__file__).parent.parent
TINY = """
g (float[N, 64] logmel) => (float[N, 15] probabilities) <float[64, 15] weight = {{{values}}}> {{
  probabilities = MatMul(logmel, weight)
}}
"""
"""A model that passes for that of the audio task."""


@pytest.fixture(scope="module", autouse=True)
def _at_the_root() -> Any:
    """Run where the child processes find the package without an installation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny audio model and random data for it."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(5)
    values = ", ".join(f"{x:.7f}" for x in rng.standard_normal(64 * 15))
    (folder / "dcase.onnx").write_bytes(tiny_models.from_text(TINY.format(values=values)))
    for part, count in (("eval", 40), ("calibration", 6)):
        logmel = rng.standard_normal((count, 64), dtype=np.float32)
        labels = {"label": rng.integers(0, 15, count)} if part == "eval" else {}
        np.savez(folder / f"dcase_{part}.npz", logmel=logmel, **labels)
    return folder


@pytest.fixture(scope="module")
def bench(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    where = Places(work=tmp_path_factory.mktemp("work"), models=models)
    return benches.prepare(TASKS["dcase"], where)


def measured(bench: Bench, method: str, setting: str) -> Row:
    chosen = METHODS[method]
    (point,) = [p for p in chosen.points(bench.subject) if p.setting == setting]
    return measuring.measure(bench, chosen, point, None)


def figure(row: Row, name: str) -> dict[str, Any]:
    (found,) = [m for m in row["metrics"] if m["name"] == name]
    return dict(found)


def test_bytes_of_weights_and_graph_make_the_file(bench: Bench) -> None:
    assert bench.subject.weight_bytes == 4 * 64 * 15
    assert bench.subject.graph_bytes + bench.subject.weight_bytes == bench.model.stat().st_size
    assert bench.split["calibration"] == 6


def test_a_row_has_the_real_bytes_and_figures_over_held_out_samples(bench: Bench) -> None:
    row = measured(bench, "optimal", "4 bits")
    assert row["failure"] is None
    assert row["file_bytes"] == row["ledger"]["total"] < row["original_bytes"]
    assert row["ratio"] == pytest.approx(row["file_bytes"] / bench.model.stat().st_size)
    assert figure(row, "top1")["samples"] == row["samples"] == 40
    assert 10 < figure(row, "snr")["candidate"]["value"] < 40
    assert row["seconds"] > 0
    assert row["peak_bytes"] > 2**20
    assert str(bench.model.parent) not in str({**row, "command": "", "evaluated_by": ""})


def test_the_float_model_has_no_cost_and_loses_nothing(bench: Bench) -> None:
    row = measured(bench, "float", "original")
    assert row["file_bytes"] == row["original_bytes"]
    assert row["seconds"] is None
    assert figure(row, "top1")["difference"]["value"] == 0
    assert figure(row, "snr")["is_equal"]


def test_a_peer_is_measured_like_a_file_of_ours(bench: Bench) -> None:
    row = measured(bench, "ort-dynamic", "per tensor")
    assert row["failure"] is None
    assert "onnxruntime" in row["peer_versions"]
    assert row["ratio"] < 0.8
    assert figure(row, "snr")["candidate"]["value"] > 20


def test_a_peer_that_fails_leaves_a_row_with_the_reason(bench: Bench) -> None:
    row = measuring.measure(
        bench, METHODS["onnxsim-kmeans"], Point(setting="x", words=("kmeans",)), sys.executable
    )
    assert row["failure"]["stage"] == "making it"
    assert "onnxsim" in row["failure"]["message"]
    assert "metrics" not in row


def test_an_option_that_onnxq_does_not_know_leaves_no_row(bench: Bench) -> None:
    method = Method(name="x", title="x", maker="onnxq", points=settings(only=("--no-such-option",)))
    (point,) = method.points(bench.subject)
    with pytest.raises(Broken, match="no-such-option"):
        measuring.measure(bench, method, point, None)


def test_a_finished_row_is_not_measured_again(
    bench: Bench, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-m", "dcase", "--method", "optimal", "--setting", "3 bits"]
    words += ["--work", str(tmp_path), "--models", str(models)]
    assert measure.main(words) == 0
    (row,) = rows.read_all(tmp_path / "rows")
    assert (row["task"], row["method"], row["setting"]) == ("dcase", "optimal", "3 bits")
    asked: list[str] = []

    def refuse(bench: Bench, method: Method, point: Point, onnxsim: str | None) -> Row:
        asked.append(point.setting)
        raise Broken("measured again")

    monkeypatch.setattr(measuring, "measure", refuse)
    assert measure.main(words) == 0
    assert not asked
    monkeypatch.setattr(measuring, "source_digest", lambda: "other sources")
    assert measure.main([*words, "--changed"]) == 1
    assert measure.main([*words, "--again"]) == 1
    assert asked == ["3 bits"] * 2
    (kept,) = rows.read_all(tmp_path / "rows")
    assert kept == row


def test_a_row_of_another_key_does_not_count(tmp_path: Path) -> None:
    path = rows.path_of(tmp_path, "dcase", "optimal", "3 bits")
    rows.save(path, {"key": {"data": "1"}, "value": 0.123456789})
    assert rows.load(path, {"data": "1"}) == {"key": {"data": "1"}, "value": 0.123457}
    assert rows.load(path, {"data": "2"}) is None
    assert rows.load(tmp_path / "none.json", {"data": "1"}) is None


def test_a_model_that_is_not_there_is_told_and_the_others_are_measured(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "imagecomp", "-m", "dcase", "--method", "float"]
    assert measure.main([*words, "--work", str(tmp_path), "--models", str(models)]) == 1
    assert "imagecomp: found no imagecomp.onnx" in capsys.readouterr().err
    assert [row["task"] for row in rows.read_all(tmp_path / "rows")] == ["dcase"]


def test_a_program_that_ends_badly_is_a_finding() -> None:
    code = "import sys; print('out'); print('first', file=sys.stderr); sys.exit('last')"
    ended = child.run([sys.executable, "-c", code])
    assert (ended.exit_status, ended.stdout.strip(), ended.said) == (1, "out", "first; last")
    assert ended.peak_bytes > 2**20


def test_an_exit_code_that_is_a_finding_raises_nothing(models: Path) -> None:
    model = str(models / "dcase.onnx")
    words = ["validate", model, model, "--no-performance", "--max-size-ratio", "0.5"]
    done = onnxq_runs.run(words, allowed=[onnxq_runs.FAILED])
    assert done.report is not None
    assert not done.report["passed"]
    with pytest.raises(Broken, match="ended with 6"):
        onnxq_runs.run(words)
