"""What the documents say of the commands, options, errors and files, held against the code."""

import ast
import dataclasses
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

import onnxq
from onnxq import errors, options
from onnxq.allocation import targets
from onnxq.allocation.planning_options import PlanningOptions
from onnxq.cli import app
from onnxq.validation.measure_options import MeasureOptions

ROOT = Path(__file__).parent.parent
FOLDERS = ("*.md", "docs/**/*.md", "models/*.md", "tools/**/*.md")
DOCUMENTS = sorted(path for pattern in FOLDERS for path in ROOT.glob(pattern))


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def first_screen() -> str:
    return text_of("README.md").partition("\n## ")[0]


def shell_blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def error_classes() -> list[type[errors.OnnxqError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, errors.OnnxqError)]


def option_names() -> Iterator[tuple[str, str]]:
    """Yield (command, long option) for everything that `onnxq --help` leads to."""
    group = typer.main.get_command(app)
    for command_name, command in group.commands.items():
        for parameter in command.params:
            for option in [*parameter.opts, *parameter.secondary_opts]:
                if option.startswith("--"):
                    yield command_name, option


def test_the_first_screen_has_exactly_two_one_line_commands() -> None:
    blocks = shell_blocks(first_screen())
    assert [block.count("\n") for block in blocks] == [1, 1]
    assert "onnxq convert models/digits.onnx digits-6bit.onnx --bits 6" in blocks[0]
    assert blocks[1].endswith("-m pytest -q\n")


def test_the_commands_need_nothing_but_python() -> None:
    for block in shell_blocks(first_screen()):
        assert block.startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_the_output_of_the_first_command_is_ignored_by_git() -> None:
    assert "/digits-*bit.onnx" in text_of(".gitignore").splitlines()


@pytest.mark.parametrize(("command", "option"), sorted(set(option_names())))
def test_every_option_is_documented(command: str, option: str) -> None:
    documented = text_of("README.md") + text_of("docs/cli.md")
    assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", documented), f"{command} {option}"


def test_every_command_is_documented() -> None:
    for command, _ in option_names():
        assert f"onnxq {command}" in text_of("README.md")


def test_no_document_names_an_option_that_does_not_exist() -> None:
    known = {option for _, option in option_names()} | {"--help", "--version"}
    known |= {"--install-completion", "--show-completion"}
    for line in text_of("docs/cli.md").splitlines():
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line):
            assert option in known, line


@pytest.mark.parametrize("error", error_classes())
def test_every_error_and_its_exit_code_is_documented(error: type[errors.OnnxqError]) -> None:
    lines = [
        line for line in text_of("docs/errors.md").splitlines() if f"`{error.__name__}`" in line
    ]
    assert any(re.search(rf"(?<!\d){error.exit_code}(?!\d)", line) for line in lines), lines


def test_the_readme_lists_every_exit_code() -> None:
    listed = re.findall(r"^\| (\d+) \|", text_of("README.md"), flags=re.MULTILINE)
    codes = {error.exit_code for error in error_classes()}
    assert {int(code) for code in listed} == codes | {0, 1, 130, 143}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), target


def test_the_public_functions_are_those_of_the_readme() -> None:
    for name in ("convert", "inspect", "lowrank", "plan", "restore", "sweep", "validate"):
        assert callable(getattr(onnxq, name))
        assert name in onnxq.__all__


def test_the_keywords_of_convert_are_those_of_the_python_page() -> None:
    page = text_of("docs/python.md")
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", page, flags=re.MULTILINE)
    fields = {field.name: field.default for field in dataclasses.fields(options.ConvertOptions)}
    fields |= PlanningOptions().__dict__ | dict.fromkeys(targets.KEYS)
    own = inspect.signature(onnxq.convert).parameters.values()
    fields |= {each.name: each.default for each in own if each.kind is each.KEYWORD_ONLY}
    assert {name: ast.literal_eval(default) for name, default in rows} == fields


def test_the_keywords_of_validate_are_those_of_the_python_page() -> None:
    page = (
        text_of("docs/python.md").partition("## `onnxq.validate")[2].partition("## `onnxq.sweep")[0]
    )
    cells = re.findall(r"^\| (`.+?) \|", page, flags=re.MULTILINE)
    written = [pair.split("=") for cell in cells for pair in re.findall(r"`(\w+=.+?)`", cell)]
    own = inspect.signature(onnxq.validate).parameters.values()
    expected = {each.name: each.default for each in own if each.kind is each.KEYWORD_ONLY}
    expected |= MeasureOptions().__dict__
    assert {name: ast.literal_eval(default) for name, default in written} == expected


def test_the_sizes_of_the_report_page_are_those_of_the_model() -> None:
    page = text_of("docs/report.md")
    assert f'"file_bytes": {(ROOT / "models" / "digits.onnx").stat().st_size}' in page
    report, _ = onnxq.convert(ROOT / "models" / "digits.onnx", check=0)
    assert report.output is not None
    assert report.ledger is not None
    assert f'"file_bytes": {report.output.file_bytes}, "ratio": {report.output.ratio}' in page
    ledger = page.partition('"ledger": ')[2].partition("}")[0] + "}"
    assert json.loads(ledger) == report.ledger.to_json()


def test_every_marker_is_documented() -> None:
    settings = tomllib.loads(text_of("pyproject.toml"))["tool"]["pytest"]["ini_options"]
    for marker in settings["markers"]:
        assert f"| `{marker.partition(':')[0]}` |" in text_of("CONTRIBUTING.md")
