"""Commands of points: the parser of the command line reads the settings that they were made of."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer.main

from onnxq.cli import app
from onnxq.console import cli_options
from onnxq.options import make_options
from onnxq.sweeps import commands

SETTINGS: list[dict[str, Any]] = [
    {"bits": 3},
    {"init": "bounded-pdf", "pdf_factor": 0.25, "max_iterations": 7, "bits": 16},
    {"preset": "ce2", "bits": 2},
    {"preset": None, "bits": 2},
    {"layout": "bytes", "codebook_dtype": "float16", "external_data": "always", "bits": 5},
    {"include": ["a b*", "-x"], "exclude": ["$HOME;ls"], "bits": 4},
    {"op_types": ["Conv", "Gemm"], "min_elements": 10, "bits": 4},
    {"quantize_bias": False, "quantize_norm": True, "quantize_variance": True, "bits": 4},
    {"tensor_bits": [["a=b", 2], ["*", 9]], "include": [], "op_types": [], "bits": 4},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(settings))
def test_the_command_says_what_the_settings_say(settings: dict[str, Any]) -> None:
    words = shlex.split(commands.convert_command("-in.onnx", "my out.onnx", settings))
    assert words[:4] == ["onnxq", "convert", "./-in.onnx", "my out.onnx"]
    group: Any = typer.main.get_command(app)
    with group.commands["convert"].make_context("convert", words[2:]) as context:
        found = cli_options.given(context, context.params)
    assert make_options(found) == make_options(settings)


@pytest.mark.parametrize("settings", [{"fewer_bits": False, "bits": 4}, {"op_types": ["a,b"]}])
def test_what_has_no_option_is_a_line_of_python(settings: dict[str, Any]) -> None:
    line = commands.convert_command("a.onnx", "b.onnx", settings)
    given = eval(line, {"onnxq": type("onnxq", (), {"convert": lambda *paths, **options: options})})
    assert given == settings
