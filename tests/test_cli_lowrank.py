"""The command `lowrank`: its options, where its results go, and its exit codes."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import onnxq
from onnxq import report as reporting
from onnxq.cli import app
from onnxq.low_rank.options import LowRankOptions
from tests import reports
from tests.test_lowrank import correlated, dense

ROOT = Path(__file__).parent.parent


class FakeApi(types.ModuleType):
    """Stand for `onnxq.api`: note the calls and answer with a report."""

    def __init__(self) -> None:
        super().__init__("onnxq.api")
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.report = reports.REDUCED

    def lowrank(self, *args: Any, **options: Any) -> Any:
        self.calls.append((args, options))
        return self.report


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "onnxq.api", fake)
    monkeypatch.setattr(onnxq, "api", fake, raising=False)
    return fake


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["lowrank", "in.onnx", "out.onnx", *arguments])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--ratio 0.7", {"ratio": 0.7}),
        ("--energy 0.9", {"energy": 0.9}),
        ("--max-snr-loss 0.1", {"max_snr_loss": 0.1}),
        ("--rank a=b*=3 --rank c[0]=16", {"ranks": [("a=b*", 3), ("c[0]", 16)]}),
        ("--ratio 0.7 --rank a=3", {"ratio": 0.7, "ranks": [("a", 3)]}),
        ("--ratio 0.7 --split channel", {"ratio": 0.7, "split": "channel"}),
        ("--ratio 0.7 --include a --include b*", {"ratio": 0.7, "include": ["a", "b*"]}),
        ("--ratio 0.7 --exclude a", {"ratio": 0.7, "exclude": ["a"]}),
        (
            "--ratio 0.7 --data d --preprocess p.yaml --batch 2 --limit 9",
            {
                "ratio": 0.7,
                "data": Path("d"),
                "preprocess": "p.yaml",
                "batch": 2,
                "limit": 9,
            },
        ),
        ("--ratio 0.7 --external-data always", {"ratio": 0.7, "external_data": "always"}),
        ("--ratio 0.7 -j 2", {"ratio": 0.7, "jobs": 2}),
        ("--ratio 0.7 --check 3", {"ratio": 0.7, "check": 3}),
        ("--ratio 0.7 --no-check", {"ratio": 0.7, "check": 0}),
        ("--ratio 0.7 --force", {"ratio": 0.7, "force": True}),
    ],
)
def test_each_option_reaches_the_api_and_nothing_else_does(
    api: FakeApi, arguments: str, expected: dict[str, Any]
) -> None:
    assert run(*arguments.split()).exit_code == 0
    ((args, options),) = api.calls
    assert args == (Path("in.onnx"), Path("out.onnx"))
    assert options == {"check": None, "force": False, "progress": None, **expected}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "nothing says how small the model shall be"),
        ("--ratio 1", "--ratio: found 1.0, expected a number above 0 and below 1"),
        ("--ratio x", "--ratio"),
        ("--ratio 0.5 --energy 0.9", "--ratio and --energy exclude each other"),
        ("--rank a", "--rank: found 'a', expected PATTERN=R"),
        ("--rank a=0", "--rank 'a': found 0"),
        ("--ratio 0.5 --split x", "--split"),
        ("--ratio 0.5 --limit 3", "--limit is for inputs of --data"),
        ("--ratio 0.5 --check 2 --no-check", "--check and --no-check"),
        ("--ratio 0.5 --quiet --verbose", "--quiet and --verbose"),
        ("--ratio 0.5 --json out.onnx", "out.onnx"),
    ],
)
def test_bad_options_end_with_2_before_anything_is_read(
    api: FakeApi, arguments: str, message: str
) -> None:
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert api.calls == []


def test_the_summary_goes_to_stderr_and_json_to_stdout(api: FakeApi) -> None:
    result = run("--ratio", "0.5", "--json", "-")
    assert json.loads(result.stdout) == reports.REDUCED.to_json()
    assert "28,464 -> 6,792 parameters (23.9 % are kept), 2 weights as factors" in result.stderr
    assert run("--ratio", "0.5", "--quiet").stderr == ""


def test_a_model_whose_outputs_are_broken_ends_with_6(api: FakeApi) -> None:
    api.report = dataclasses.replace(reports.REDUCED, check=reports.FAILED_CHECK)
    result = run("--ratio", "0.5")
    assert result.exit_code == 6
    assert "was written, but its outputs are broken" in result.stderr


def test_the_real_command_writes_a_model_and_a_report(tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(dense().SerializeToString())
    np.savez(tmp_path / "data.npz", x=correlated(40))
    result = run("--ratio", "0.5", "--data", "data.npz", "--json", "r.json", "--verbose")
    assert result.exit_code == 0, result.stderr
    data = json.loads((tmp_path / "r.json").read_text())
    jsonschema.Draft202012Validator(reporting.schema()).validate(data)
    assert data["output"]["file_bytes"] == (tmp_path / "out.onnx").stat().st_size
    assert "40 samples of data" in result.stderr
    assert max(map(len, result.stderr.splitlines())) < 200
    shown = CliRunner().invoke(app, ["report", "r.json"])
    assert shown.exit_code == 0, shown.stderr
    assert "parameters" in shown.stdout


def test_a_share_that_cannot_be_reached_ends_with_7(tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(dense().SerializeToString())
    result = run("--ratio", "0.01")
    assert result.exit_code == 7
    assert "the least is" in result.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_a_pattern_that_matches_nothing_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(dense().SerializeToString())
    assert run("--rank", "conv=3").exit_code == 2


def test_the_keywords_are_those_of_the_python_page() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    section = page.partition("## `onnxq.lowrank(")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)
    written = {pair for cell in cells for pair in re.findall(r"`(\w+=.+?)`", cell)}
    own = {"check=None", "force=False", "progress=None"}
    fields = {
        f"{name}={json.dumps(field.default) if isinstance(field.default, str) else field.default}"
        for name, field in LowRankOptions.__dataclass_fields__.items()
    }
    assert written == own | fields
