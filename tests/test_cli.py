import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import junitparser
import pytest
from typer.testing import CliRunner, Result

import onnxq
from onnxq import report
from onnxq.cli import app
from onnxq.errors import BudgetError, InputError, OnnxqError, OutputError
from onnxq.sweeps import working_points
from tests import reports, sweeps
from tests.tiny_models import from_text, scaled

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "models" / "digits.onnx"


class FakeApi(types.ModuleType):
    """Stand for `onnxq.api`: note the calls and answer with a report, or raise."""

    def __init__(self) -> None:
        super().__init__("onnxq.api")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.converted = reports.CONVERTED
        self.validated = reports.VALIDATED

    def _called(self, name: str, answer: Any, args: Any, options: Any) -> Any:
        self.calls.append((name, args, options))
        if self.error is not None:
            raise self.error
        return answer

    def convert(self, *args: Any, **options: Any) -> Any:
        return self._called("convert", self.converted, args, options)

    def inspect(self, *args: Any, **options: Any) -> Any:
        return self._called("inspect", reports.INSPECTED, args, options)

    def restore(self, *args: Any, **options: Any) -> Any:
        return self._called("restore", reports.RESTORED, args, options)

    def validate(self, *args: Any, **options: Any) -> Any:
        return self._called("validate", self.validated, args, options)

    def sweep(self, *args: Any, **options: Any) -> Any:
        answer = dataclasses.replace(sweeps.SWEPT, command_line=options["command_line"])
        return self._called("sweep", answer, args, options)


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
    return CliRunner().invoke(app, list(arguments))


def process(*arguments: str, shell: str = 'exec "$@"', **settings: Any) -> Any:
    """Run the real program; `shell` may redirect."""
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "onnxq", *arguments]
    settings = {"capture_output": True, "text": True, **settings}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(command, check=False, env=environment, **settings)


# Options


def test_convert_passes_on_nothing_that_was_not_given(api: FakeApi) -> None:
    assert run("convert", "in.onnx", "out.onnx").exit_code == 0
    assert api.calls == [
        (
            "convert",
            (Path("in.onnx"), Path("out.onnx")),
            {
                "check": None,
                "requantize": False,
                "plan": None,
                "save_plan": None,
                "force": False,
                "progress": None,
            },
        )
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--bits 4", {"bits": 4}),
        ("-b 6", {"bits": 6}),
        ("--tensor a=b*=3 --tensor c[0]=16", {"tensor_bits": [("a=b*", 3), ("c[0]", 16)]}),
        ("--preset ce2 --bits 6", {"preset": "ce2", "bits": 6}),
        ("--include a --include b*", {"include": ["a", "b*"]}),
        ("--exclude a", {"exclude": ["a"]}),
        ("--op-types Conv,Gemm --op-types MatMul", {"op_types": ["Conv", "Gemm", "MatMul"]}),
        ("--min-elements 9", {"min_elements": 9}),
        ("--keep-bias --keep-norm", {"quantize_bias": False, "quantize_norm": False}),
        ("--quantize-bias --quantize-norm", {"quantize_bias": True, "quantize_norm": True}),
        ("--quantize-variance", {"quantize_variance": True}),
        ("--keep-variance", {"quantize_variance": False}),
        ("--requantize", {"requantize": True}),
        ("--init bounded-pdf --pdf-factor 0.9", {"init": "bounded-pdf", "pdf_factor": 0.9}),
        ("--max-iterations 7", {"max_iterations": 7}),
        ("--layout native", {"layout": "native"}),
        ("--codebook-dtype float16", {"codebook_dtype": "float16"}),
        ("--external-data always", {"external_data": "always"}),
        ("--check 3", {"check": 3}),
        ("--no-check", {"check": 0}),
        ("--plan p.json", {"plan": Path("p.json")}),
        ("--save-plan p.json", {"save_plan": Path("p.json")}),
        ("-j 2", {"jobs": 2}),
        ("--force", {"force": True}),
    ],
)
def test_each_option_of_convert_reaches_the_api(
    api: FakeApi, arguments: str, expected: dict[str, Any]
) -> None:
    result = run("convert", "in.onnx", "out.onnx", *arguments.split())
    assert result.exit_code == 0, result.output
    (_, _, options) = api.calls[0]
    defaults = {"check": None, "requantize": False, "plan": None, "save_plan": None}
    defaults |= {"force": False, "progress": None}
    assert options == {**defaults, **expected}


def test_inspect_takes_the_options_that_decide(api: FakeApi) -> None:
    assert run("inspect", "in.onnx", "--bits", "3", "--exclude", "a", "-j", "1").exit_code == 0
    assert api.calls == [("inspect", (Path("in.onnx"),), {"bits": 3, "exclude": ["a"], "jobs": 1})]


def test_restore_and_validate_pass_on_their_options(api: FakeApi) -> None:
    assert run("restore", "a.onnx", "b.onnx", "-f").exit_code == 0
    arguments = ["a.onnx", "b.onnx", "--inputs", "x.npz", "--min-snr", "9", "--samples", "2"]
    assert run("validate", *arguments).exit_code == 0
    assert api.calls == [
        ("restore", (Path("a.onnx"), Path("b.onnx")), {"force": True}),
        (
            "validate",
            (Path("a.onnx"), Path("b.onnx")),
            {"inputs": Path("x.npz"), "progress": None, "min_snr": 9.0, "samples": 2},
        ),
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        ("--data d", {"data": Path("d")}),
        ("--data d --preprocess p.yaml", {"data": Path("d"), "preprocess": "p.yaml"}),
        ("--data d --batch 4 --limit 9", {"data": Path("d"), "batch": 4, "limit": 9}),
        ("--metric top1@y --metric a.b:c", {"metrics": ["top1@y", "a.b:c"]}),
        ("--dim N=2 --dim T=8", {"dims": {"N": 2, "T": 8}}),
        ("--input ids:0=0:9", {"ranges": {"ids:0": (0.0, 9.0)}}),
        ("--carry h_out=h_in", {"carry": {"h_out": "h_in"}}),
        ("--samples 3", {"samples": 3}),
        ("--provider auto --threads 2", {"provider": "auto", "threads": 2}),
        ("--session-option a.b=1=2", {"session_options": {"a.b": "1=2"}}),
        ("--keep-packed", {"is_packed": True}),
        ("--layers", {"layers": True}),
        ("--no-performance", {"performance": False}),
        ("--performance", {"performance": True}),
        ("--min-snr -3", {"min_snr": -3.0}),
        ("--max-drop top1=0.01 --max-drop f1=2%", {"max_drop": {"top1": "0.01", "f1": "2%"}}),
        ("--max-latency-ratio 1.5", {"max_latency_ratio": 1.5}),
        ("--max-size-ratio 0.3", {"max_size_ratio": 0.3}),
    ],
)
def test_each_option_of_validate_reaches_the_api(
    api: FakeApi, arguments: str, expected: dict[str, Any]
) -> None:
    result = run("validate", "a.onnx", "b.onnx", *arguments.split())
    assert result.exit_code == 0, result.output
    assert api.calls == [
        (
            "validate",
            (Path("a.onnx"), Path("b.onnx")),
            {"inputs": None, "progress": None, **expected},
        )
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        ("--bits 2,4", {"bits": "2,4"}),
        ("--init optimal,uniform", {"grid": {"init": ("optimal", "uniform")}}),
        ("--init optimal --init uniform", {"grid": {"init": ("optimal", "uniform")}}),
        (
            "--layout native --grid layout=bytes --grid quantize-bias=yes,no",
            {"grid": {"layout": ("native", "bytes"), "quantize_bias": (True, False)}},
        ),
        ("--codebook-dtype float16", {"grid": {"codebook_dtype": ("float16",)}}),
        ("--data d --limit 3 --metric top1", {"data": Path("d"), "limit": 3, "metrics": ["top1"]}),
        ("--state s -j 2", {"state": Path("s"), "jobs": 2}),
        ("--csv c.csv", {"state": Path("c.csv.sweep")}),
        ("--csv c.csv --json j.json", {"state": Path("j.json.sweep")}),
        ("--json - --csv c.csv", {"state": Path("c.csv.sweep")}),
        ("--json -", {}),
    ],
)
def test_each_option_of_sweep_reaches_the_api(
    api: FakeApi, arguments: str, expected: dict[str, Any]
) -> None:
    result = run("sweep", "a.onnx", *arguments.split())
    assert result.exit_code == 0, result.output
    defaults = {"bits": "2-8", "grid": {}, "state": None, "jobs": 0, "progress": None}
    defaults |= {"plot_metric": None}
    line = " ".join(["onnxq sweep a.onnx", *arguments.split()])
    assert api.calls == [
        ("sweep", (Path("a.onnx"),), {**defaults, "command_line": line, **expected})
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--plot a.jpg", "--plot a.jpg: found suffix '.jpg', expected .png or .svg"),
        ("--plot-metric top1", "--plot-metric is for --plot, which is not given"),
        ("--csv a --json a", "--json a: is the same file as that of --csv"),
        ("--csv a.onnx", "--csv a.onnx: is the same file as that of MODEL"),
        ("--csv -", "--csv '-': would be a file"),
        ("--state a.onnx", "--state a.onnx: is the same file as that of MODEL"),
        ("--grid layout", "--grid: found 'layout'"),
        ("--grid nope=1", "--grid: found 'nope', expected a convert option"),
        ("--limit 3", "--limit is for inputs of --data"),
    ],
)
def test_a_sweep_that_cannot_be_made_is_refused_before_any_work(
    api: FakeApi, arguments: str, message: str
) -> None:
    result = run("sweep", "a.onnx", *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert api.calls == []


def test_a_sweep_writes_what_was_asked_for(api: FakeApi, tmp_path: Path) -> None:
    files = ["--csv", "s.csv", "--json", "s.json", "--plot", "s.svg", "--html", "s.html"]
    result = run("sweep", "a.onnx", *files)
    assert result.exit_code == 0, result.output
    assert "bits" in result.stdout
    assert (tmp_path / "s.csv").read_text().startswith("model,")
    data = json.loads((tmp_path / "s.json").read_text())
    command_line = " ".join(["onnxq sweep a.onnx", *files])
    assert data["command_line"] == command_line
    assert "<svg" in (tmp_path / "s.svg").read_text()
    assert command_line in (tmp_path / "s.html").read_text()
    again = run("sweep", "a.onnx", *files)
    assert again.exit_code == OutputError.exit_code
    assert len(api.calls) == 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_a_place_where_no_state_can_be_kept_is_told_by_the_option(api: FakeApi) -> None:
    result = run("sweep", "a.onnx", "--csv", "/proc/x.csv")
    assert result.exit_code == OutputError.exit_code
    assert "/proc/x.csv: " in result.stderr
    assert ".sweep" not in result.stderr
    assert api.calls == []


def test_an_interrupted_sweep_says_how_it_continues(api: FakeApi, tmp_path: Path) -> None:
    api.error = KeyboardInterrupt()
    assert run("sweep", "a.onnx", "--json", "s.json").stderr == "interrupted\n"
    (tmp_path / "s.json.sweep").write_text("points")
    result = run("sweep", "a.onnx", "--json", "s.json")
    assert result.exit_code == 130
    assert result.stderr == (
        "finished points are in s.json.sweep; the same command continues\ninterrupted\n"
    )


def test_reports_of_earlier_commands_are_shown(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(working_points.dumps(sweeps.SWEPT))
    (tmp_path / "v.json").write_text(report.dumps(reports.VALIDATED))
    shown = run("report", "s.json", "v.json")
    assert shown.exit_code == 0, shown.output
    assert "bits/w" in shown.stdout
    assert "top1@y" in shown.stdout or "top1" in shown.stdout
    made = run("report", "s.json", "v.json", "--html", "p.html", "--plot", "p.png")
    assert (made.exit_code, made.output) == (0, "")
    assert "onnxq report s.json v.json --html p.html" in (tmp_path / "p.html").read_text()
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert api.calls == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "r.json: cannot be read: No such file or directory"),
        ("{", "r.json: is no JSON, expected a report of --json"),
        ("[" * 100_000, "r.json: is no JSON, expected a report of --json"),
        ("[]", "r.json: report: found no report of onnxq"),
        ('{"file": "onnxq sweep state", "version": 1}\n', "r.json: is the state file of a sweep"),
        ('{"command": "sweep", "schema_version": 0}', "r.json: report: found schema version 0"),
    ],
)
def test_what_is_no_report_is_an_input_error(
    content: str | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    result = run("report", "r.json")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dim N", "--dim: found 'N', expected NAME=SIZE"),
        ("--dim N=0", "--dim: found 'N=0', expected a size >= 1"),
        ("--dim N=1 --dim N=2", "--dim: found 'N' twice"),
        ("--input x=1", "--input: found 'x=1', expected NAME=LOW:HIGH"),
        ("--input x=1:1", "--input: found 'x=1:1', expected finite bounds"),
        ("--carry a", "--carry: found 'a'"),
        ("--session-option a", "--session-option: found 'a'"),
        ("--max-drop top1", "--max-drop: found 'top1', expected METRIC=X"),
        ("--max-drop top1=x", "--max-drop top1: found 'x'"),
        ("--max-drop top1=1 --max-drop top1=2", "--max-drop: found 'top1' twice"),
        ("--max-size-ratio 0", "--max-size-ratio: found 0.0, expected a ratio above 0"),
        ("--limit 3", "--limit is for inputs of --data, which is not given"),
        ("--data d --samples 2", "--samples is for random inputs, and --data is given"),
        ("--junit -", "--junit '-': would be a file of this name"),
        ("--junit j --json j", "--json j: is the same file as that of --junit"),
        ("--data d --junit d", "--junit d: is the same file as that of --data"),
    ],
)
def test_measuring_that_cannot_be_done_is_refused_before_any_work(
    api: FakeApi, arguments: str, message: str
) -> None:
    result = run("validate", "a.onnx", "b.onnx", *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert api.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "frob",
        "convert",
        "convert in.onnx",
        "convert in.onnx out.onnx --frob",
        "convert in.onnx out.onnx --bits 0",
        "convert in.onnx out.onnx --bits 17",
        "convert in.onnx out.onnx --bits many",
        "convert in.onnx out.onnx --init best",
        "convert in.onnx out.onnx --layout wide",
        "convert in.onnx out.onnx --preset ce3",
        "convert in.onnx out.onnx --check -1",
        "convert in.onnx out.onnx --jobs -1",
        "validate a.onnx b.onnx --samples 0",
    ],
)
def test_usage_errors_end_with_2_and_say_nothing_on_stdout(api: FakeApi, arguments: str) -> None:
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert api.calls == []
    if arguments:
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert result.stderr.endswith(" --help lists what is allowed\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("convert a b --tensor x", "--tensor: found 'x', expected PATTERN=BITS"),
        ("convert a b -q -v", "--quiet and --verbose exclude each other"),
        ("convert a b --check 2 --no-check", "--check and --no-check exclude each other"),
        ("convert a b --op-types ,", "--op-types: found ',', an operator type is missing"),
        ("convert a b --op-types Conv,", "--op-types: found 'Conv,', an operator type is missing"),
        ("inspect a --op-types=", "--op-types: found '', an operator type is missing"),
        ("convert a -", "OUT '-': would be a file of this name; give a file"),
        ("restore a -", "OUT '-': would be a file of this name; give a file"),
        ("convert a b --save-plan -", "--save-plan '-': would be a file of this name"),
        ("convert a b --json b", "--json b: is the same file as that of OUT"),
        ("convert a b --json a", "--json a: is the same file as that of IN"),
        ("convert a b --plan p --save-plan p", "--save-plan p: is the same file as that of --plan"),
        ("validate a b --json b", "--json b: is the same file as that of CANDIDATE"),
        ("validate a b --min-snr nan", "--min-snr: found nan, expected a number of decibels"),
        ("validate a b --min-snr inf", "--min-snr: found inf, expected a number of decibels"),
    ],
)
def test_options_that_cannot_be_obeyed_end_with_2(
    api: FakeApi, arguments: str, message: str
) -> None:
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert api.calls == []


# Where output goes


def test_json_on_stdout_is_all_there_is(api: FakeApi) -> None:
    result = run("convert", "a", "b", "--json", "-")
    assert report.from_json(json.loads(result.stdout)) == reports.CONVERTED
    assert "4.00 times smaller" in result.stderr


def test_json_in_a_file(api: FakeApi, tmp_path: Path) -> None:
    result = run("inspect", "a", "--json", "r.json", "-q")
    assert (result.exit_code, result.output) == (0, "")
    data = json.loads((tmp_path / "r.json").read_text())
    assert report.from_json(data) == reports.INSPECTED


@pytest.mark.parametrize("option", ["--json", "--save-plan"])
def test_files_that_exist_need_force_before_any_work(
    api: FakeApi, tmp_path: Path, option: str
) -> None:
    (tmp_path / "r.json").write_text("old")
    result = run("convert", "a", "b", option, "r.json")
    assert result.exit_code == OutputError.exit_code
    assert result.stderr.startswith("error: r.json: exists already")
    assert api.calls == []
    assert (tmp_path / "r.json").read_text() == "old"
    assert run("convert", "a", "b", option, "r.json", "--force").exit_code == 0


def test_an_output_without_a_name_is_refused(api: FakeApi) -> None:
    result = run("convert", "a", "")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: OUT '.': is no file name")
    assert api.calls == []


@pytest.mark.parametrize("command", ["convert", "restore"])
def test_a_report_that_cannot_be_written_does_not_deny_the_model(
    api: FakeApi, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxq.files.os.replace", full)
    result = run(command, "a", "b", "--json", "r.json")
    assert result.exit_code == OutputError.exit_code
    assert result.stderr == (
        "error: b: was written, but its report was not: "
        "r.json: cannot be written: No space left on device\n"
    )


def test_a_missing_folder_is_told_before_any_work(api: FakeApi) -> None:
    result = run("convert", "a", "b", "--json", "no/r.json")
    assert result.exit_code == OutputError.exit_code
    assert api.calls == []


def test_quiet_is_quiet_and_verbose_says_more(api: FakeApi) -> None:
    assert run("convert", "a", "b", "-q").output == ""
    plain, verbose = run("convert", "a", "b"), run("convert", "a", "b", "-v")
    assert plain.stdout == verbose.stdout == ""
    assert "mask" not in plain.stderr
    assert "mask" in verbose.stderr


# Exit codes


@pytest.mark.parametrize("kind", OnnxqError.__subclasses__(), ids=lambda kind: str(kind.exit_code))
def test_a_refusal_is_one_line_with_the_exit_code_of_its_class(
    api: FakeApi, kind: type[OnnxqError]
) -> None:
    api.error = kind("x[bold].onnx:\n  tensor 'a\x1b[2J'")
    result = run("restore", "a", "b")
    assert result.exit_code == kind.exit_code
    assert result.output == "error: x[bold].onnx: tensor 'a\\x1b[2J'\n"


def test_every_command_refuses_alike(api: FakeApi) -> None:
    api.error = BudgetError("no")
    for arguments in ("convert a b", "inspect a", "restore a b", "validate a b"):
        result = run(*arguments.split())
        assert (result.exit_code, result.output) == (7, "error: no\n")


def test_an_interrupt_ends_with_130(api: FakeApi) -> None:
    api.error = KeyboardInterrupt()
    result = run("convert", "a", "b")
    assert (result.exit_code, result.output) == (130, "interrupted\n")


def test_too_little_memory_is_no_bug(api: FakeApi) -> None:
    api.error = MemoryError()
    result = run("convert", "a", "b")
    assert result.exit_code == 4
    assert result.output.startswith("error: there is not enough memory")


def test_a_bug_ends_with_1_and_its_trace(api: FakeApi) -> None:
    api.error = ZeroDivisionError("[bold]odd[/bold]")
    result = run("convert", "a", "b")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Traceback" in result.stderr
    assert "ZeroDivisionError: [bold]odd[/bold]" in result.stderr
    assert "this is a bug in onnxq, please report it" in result.stderr


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_a_failed_validation_ends_with_6_and_names_each_gate(
    api: FakeApi, quiet: list[str], tmp_path: Path
) -> None:
    failures = ("output 'y': shape [3] instead of [2]", "--max-drop top1=1%: it fell")
    api.validated = dataclasses.replace(reports.INVALID, failures=failures)
    result = run("validate", "a", "b", "--json", "r.json", "--junit", "j.xml", *quiet)
    assert result.exit_code == 6
    assert result.stderr == "".join(f"error: {failure}\n" for failure in failures)
    assert ("failed: output 'y': shape" in result.stdout) is (not quiet)
    assert report.from_json(json.loads((tmp_path / "r.json").read_text())) == api.validated
    suites = junitparser.JUnitXml.fromfile(str(tmp_path / "j.xml"))
    assert (suites.tests, suites.failures) == (1, 1)


def test_a_candidate_that_cannot_be_run_is_reported_before_the_command_ends(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(scaled(2.0))
    odd = from_text("g (float[N, 3] x) => (float[N, 3] y) { y = x.Odd(x) }")
    (tmp_path / "b.onnx").write_bytes(odd)
    result = run("validate", "a.onnx", "b.onnx", "--json", "r.json", "--junit", "j.xml")
    assert result.exit_code == 6
    assert result.stderr.startswith("error: the reference runs, the candidate does not: b.onnx")
    assert "failed: the reference runs, the candidate does not" in result.stdout
    found = report.from_json(json.loads((tmp_path / "r.json").read_text()))
    assert isinstance(found, report.ValidateReport)
    assert f"error: {found.check.reason}\n" == result.stderr
    (suite,) = junitparser.JUnitXml.fromfile(str(tmp_path / "j.xml"))
    assert [(case.name, case.result[0].message) for case in suite] == [
        ("candidate", found.check.reason)
    ]


def test_junit_of_what_passed_has_no_failure(api: FakeApi, tmp_path: Path) -> None:
    assert run("validate", "a", "b", "--junit", "j.xml", "-q").exit_code == 0
    suites = junitparser.JUnitXml.fromfile(str(tmp_path / "j.xml"))
    assert (suites.tests, suites.failures) == (3, 0)
    again = run("validate", "a", "b", "--junit", "j.xml", "-q")
    assert again.exit_code == OutputError.exit_code
    assert run("validate", "a", "b", "--junit", "j.xml", "-q", "--force").exit_code == 0


def test_a_conversion_that_breaks_an_output_ends_with_6(api: FakeApi) -> None:
    api.converted = dataclasses.replace(reports.CONVERTED, check=reports.FAILED_CHECK)
    result = run("convert", "a", "b")
    assert result.exit_code == 6
    assert "output 'y' is broken: shape [3] instead of [2]" in result.stderr
    assert result.stderr.endswith("error: b: was written, but its outputs are broken\n")


# The program itself


def test_help_is_light() -> None:
    code = (
        "import sys; from onnxq.cli import app\n"
        "try: app(['convert', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'onnx', 'onnx_ir', 'numba', 'scipy', 'numpy', 'onnxruntime'}\n"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "\n")
    assert "--bits" in done.stdout


def test_a_conversion_loads_nothing_of_what_measures() -> None:
    code = (
        "import sys; import onnxq.api\n"
        "heavy = {'scipy', 'sklearn', 'numba', 'matplotlib', 'PIL', 'yaml', 'onnxruntime'}\n"
        "heavy |= {'rich', 'onnxq.validation.metrics', 'onnxq.sweeps.sweeping'}\n"
        "heavy |= {'onnxq.low_rank.reducing', 'onnxq.low_rank.factors'}\n"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "\n")


COMMANDS = ["convert", "inspect", "lowrank", "report", "restore", "sweep", "validate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_of_the_command(command: str) -> None:
    text = run(command, "--help").stdout
    assert f"onnxq {command} " in text.partition("Example")[2]


def test_help_fits_80_columns_and_cuts_no_option() -> None:
    for command in COMMANDS:
        lines = run(command, "--help").stdout.splitlines()
        assert max(map(len, lines)) <= 80
        assert not any("…" in line or "<bool>" in line for line in lines)
    text = run("convert", "--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "<bool>" not in text
    assert "bounded-pdf" in text


def test_the_version_is_shown() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"onnxq {onnxq.__version__}\n"


def test_completion_knows_commands_options_and_values() -> None:
    def complete(line: str) -> str:
        environment = {"_ONNXQ_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
        return CliRunner().invoke(app, [], prog_name="onnxq", env=environment).output

    assert "convert" in complete("onnxq conv")
    assert "--op-types" in complete("onnxq convert --op")
    assert "bounded-pdf" in complete("onnxq convert --init b")


def test_a_model_is_converted_inspected_restored_and_validated(tmp_path: Path) -> None:
    small, plain = str(tmp_path / "small.onnx"), str(tmp_path / "plain.onnx")
    schema = jsonschema.Draft202012Validator(reports.closed(report.schema()))
    for arguments in (
        ["convert", str(DIGITS), small, "--save-plan", "p.json"],
        ["convert", str(DIGITS), "again.onnx", "--plan", "p.json", "--no-check"],
        ["inspect", str(DIGITS)],
        ["inspect", small],
        ["restore", small, plain],
        ["validate", small, plain, "--min-snr", "300", "--no-performance"],
    ):
        result = run(*arguments, "--json", "-")
        assert result.exit_code == 0, result.output
        data = json.loads(result.stdout)
        schema.validate(data)
        assert report.from_json(data).to_json() == data
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()
    assert run("validate", str(DIGITS), small, "--min-snr", "90", "--no-performance").exit_code == 6
    assert run("convert", small, plain).exit_code == OutputError.exit_code


def test_a_missing_model_is_an_input_error() -> None:
    result = run("inspect", "no[1].onnx")
    assert result.exit_code == InputError.exit_code
    assert "no[1].onnx" in result.stderr


def test_runs_are_silent_and_no_bar_is_drawn_in_a_file(tmp_path: Path) -> None:
    done = process("convert", str(DIGITS), str(tmp_path / "o.onnx"))
    assert (done.returncode, done.stdout) == (0, "")
    assert "\x1b" not in done.stderr
    assert "onnxruntime" not in done.stderr.replace(str(tmp_path), "")
    assert done.stderr.startswith(str(DIGITS))
    assert process("convert", str(DIGITS), str(tmp_path / "p.onnx"), "-q").stderr == ""


@pytest.mark.parametrize(
    ("shell", "code", "message"),
    [
        ('exec "$@" > /dev/full', 5, "error: stdout: cannot be written: No space left on device\n"),
        ('exec "$@" >&-', 5, "error: stdout: is closed, the report cannot be written\n"),
        ('{ "$@"; echo "exit $?" >&2; } | true', 0, "exit 0\n"),
    ],
)
def test_stdout_that_takes_nothing(shell: str, code: int, message: str) -> None:
    done = process("inspect", str(DIGITS), "--json", "-", "-q", shell=shell)
    assert (done.returncode, done.stderr) == (code, message)


PRINTING = """
import os
import sys

print("imported")

def score(outputs, sample):
    print("called", flush=True)
    os.system("echo child")
    return sample["label"]

def leave(outputs, sample):
    sys.exit(0)
"""


def test_what_a_metric_prints_is_no_product(tmp_path: Path) -> None:
    (tmp_path / "printing.py").write_text(PRINTING, encoding="utf-8")
    data = ["--data", str(DIGITS.with_name("digits_test.npz")), "--limit", "2", "--json", "-"]
    for arguments in (
        ["validate", str(DIGITS), str(DIGITS), "--no-performance"],
        ["sweep", str(DIGITS), "--bits", "8"],
    ):
        done = process(*arguments, *data, "--metric", "printing:score")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
        for text in ("imported", "called", "child"):
            assert f"{text}\n" in done.stderr
        pipe = '{ "$@"; echo "exit $?" >&2; } | true'
        gone = process(*arguments, *data, "--metric", "printing:score", shell=pipe)
        assert "exit 0\n" in gone.stderr


def test_a_metric_that_ends_the_process_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "printing.py").write_text(PRINTING, encoding="utf-8")
    data = ["--data", str(DIGITS.with_name("digits_test.npz")), "--metric", "printing:leave"]
    for arguments in (["validate", str(DIGITS), str(DIGITS)], ["sweep", str(DIGITS)]):
        result = run(*arguments, *data)
        assert result.exit_code == InputError.exit_code
        assert "metric printing:leave: ends the process (SystemExit: 0)" in result.stderr


@pytest.mark.parametrize(
    "shell", ['exec "$@" 2>&-', 'exec "$@" 2> /dev/full', '{ "$@"; echo $?; } 2>&1 >&3 3>&- | true']
)
def test_a_conversion_does_not_need_stderr(shell: str, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    done = process("convert", str(DIGITS), str(output), "--check", "1", shell=f"exec 3>&1; {shell}")
    assert done.returncode == 0
    assert done.stdout in ("", "0\n")
    assert output.stat().st_size < DIGITS.stat().st_size


@contextlib.contextmanager
def terminal(columns: int) -> Iterator[tuple[int, Callable[[], str]]]:
    """Open a pseudo-terminal; yield its end for a program, and what gives all it wrote."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, bytes([24, 0, columns, 0, 0, 0, 0, 0]))

    def written() -> str:
        os.close(theirs)
        parts = []
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 65536):
                parts.append(part)
        return b"".join(parts).decode()

    try:
        yield theirs, written
    finally:
        os.close(ours)


def test_a_terminal_gets_a_bar_and_then_the_report(tmp_path: Path) -> None:
    with terminal(80) as (end, written):
        settings: dict[str, Any] = {
            "capture_output": False,
            "stdout": subprocess.PIPE,
            "stderr": end,
        }
        done = process("convert", str(DIGITS), str(tmp_path / "o.onnx"), **settings)
        drawn = written()
    assert (done.returncode, done.stdout) == (0, "")
    assert "reading" in drawn
    assert "times smaller" in drawn
    assert "\x1b[" in drawn
