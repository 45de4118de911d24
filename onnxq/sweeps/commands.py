"""The command that makes a file again: options as a shell line, or as Python where none has them.

Owns the spelling of options on the command line; their meaning is that of `ConvertOptions`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

_FLAGS = {
    "quantize_bias": ("--quantize-bias", "--keep-bias"),
    "quantize_norm": ("--quantize-norm", "--keep-norm"),
    "quantize_variance": ("--quantize-variance", "--keep-variance"),
}
_VALUES = frozenset(
    {
        "bits",
        "codebook_dtype",
        "external_data",
        "init",
        "layout",
        "max_iterations",
        "min_elements",
        "pdf_factor",
        "preset",
    }
)
_PATTERNS = frozenset({"include", "exclude"})


def convert_command(model: str, output: str, settings: Mapping[str, Any]) -> str:
    """Return the command that converts a model with settings, by Python name and JSON-ready.

    >>> convert_command("a b.onnx", "c.onnx", {"init": "optimal", "bits": 4})
    "onnxq convert 'a b.onnx' c.onnx --init optimal --bits 4"
    >>> convert_command("a.onnx", "c.onnx", {"only_smaller": False, "bits": 4})
    "onnxq.convert('a.onnx', 'c.onnx', only_smaller=False, bits=4)"
    """
    if all(_is_on_the_line(name, value) for name, value in settings.items()):
        words = [word for name, value in settings.items() for word in _words(name, value)]
        paths = [f"./{path}" if path.startswith("-") else path for path in (model, output)]
        return shlex.join(["onnxq", "convert", *paths, *words])
    arguments = [repr(model), repr(output), *(f"{k}={v!r}" for k, v in settings.items())]
    return f"onnxq.convert({', '.join(arguments)})"


def _is_on_the_line(name: str, value: Any) -> bool:
    if name == "op_types":
        return not any("," in kind for kind in value)
    return name in _FLAGS or name in _VALUES or name in _PATTERNS or name == "tensor_bits"


def _words(name: str, value: Any) -> Iterator[str]:
    """Yield the words of one option; none where it says what is the case without it."""
    option = f"--{name.replace('_', '-')}"
    if name in _FLAGS:
        yield _FLAGS[name][0 if value else 1]
    elif name in _VALUES:
        if value is not None:
            yield from (option, f"{value}")
    elif name == "tensor_bits":
        for pattern, bits in value:
            yield from ("--tensor", f"{pattern}={bits}")
    elif name in _PATTERNS:
        for pattern in value:
            # A pattern that begins with a dash would be taken for an option.
            yield from (f"{option}={pattern}",) if pattern.startswith("-") else (option, pattern)
    elif value:
        yield from (option, ",".join(value))
