"""How a model is loaded and run: settings, and onnxruntime's session options of them.

Owns the choice and its check, not the session (`runtime`).
"""

from __future__ import annotations

import difflib
import functools
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxq.errors import OptionError

_SILENT = 4
_SWITCHES = (
    "enable_cpu_mem_arena",
    "enable_mem_pattern",
    "enable_mem_reuse",
    "use_deterministic_compute",
)
_NEAR = 0.7  # share of letters in common from which a name may be a slip of another
_CONFIG_KEYS = rb"\x00((?:session|optimization|memory|mlas|ep)(?:\.[a-z0-9_]+)+)(?=\x00)"


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """Say how onnxruntime loads and runs a model.

    Attributes:
        provider: "cpu", "cuda", or "auto": CUDA where it works, else the CPU.
        threads: Threads within an operator; 0 is onnxruntime's choice.
        options: Session options by name: those of `add_session_config_entry`
            ("session.disable_prepacking"), and the switches of `SessionOptions`
            ("enable_cpu_mem_arena"); values are text, 0 and 1 for switches.
        is_optimized: Let onnxruntime rewrite the graph, its default; False also keeps constants
            unfolded, so that decode nodes run on every call.
        is_packed: Keep constants unfolded and rewrite the graph otherwise: weights stay packed in
            memory, and decode nodes run on every call.
    """

    provider: Literal["auto", "cpu", "cuda"] = "cpu"
    threads: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    is_optimized: bool = True
    is_packed: bool = False


DEFAULT = SessionSettings()
"""The CPU, with onnxruntime's defaults."""


def make_options(ort: Any, settings: SessionSettings) -> Any:
    """Return onnxruntime's `SessionOptions` for settings, which log nothing.

    Args:
        ort: the module `onnxruntime`.
        settings: what to set; `provider` and `is_packed` are none of these options.

    Raises:
        OptionError: there is no session option of a given name, or a switch is not 0 or 1.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = settings.threads
    if not settings.is_optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in settings.options.items():
        if name in _SWITCHES:
            if value not in ("0", "1"):
                raise OptionError(f"--session-option {name}: found {value!r}, expected 0 or 1")
            setattr(options, name, value == "1")
            continue
        known = _config_keys(ort.capi.onnxruntime_pybind11_state.__file__)
        if known and name not in known:
            near = difflib.get_close_matches(name, sorted({*_SWITCHES, *known}), 3, _NEAR)
            hint = f"near are {', '.join(near)}" if near else "its documentation lists them"
            raise OptionError(
                f"--session-option {name}: onnxruntime {ort.__version__} has no such session "
                f"option; {hint}"
            )
        options.add_session_config_entry(name, value)
    return options


@functools.cache
def _config_keys(library: str) -> frozenset[str]:
    """Return the session options that onnxruntime looks for, empty where they cannot be told.

    It takes any name and says nothing of one that it does not know. The names that it asks for
    stand in its library as text, which is true of every version.
    """
    try:
        with (
            open(library, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return frozenset(key.decode() for key in re.findall(_CONFIG_KEYS, data))
    except (OSError, ValueError):
        return frozenset()
