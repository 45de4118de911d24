"""Run a model in onnxruntime, silently.

Owns everything onnxruntime: sessions, whether a GPU can be used, and the translation of its
exceptions into ours. It does not compare anything. onnxruntime is imported only when a session is
opened, because most commands never run a model and the import takes longer than they do.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import io
import math
import re
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.errors import InputError, MissingDependencyError, OnnxqError, UnsupportedError
from onnxq.plaintext import dtype_text
from onnxq.quiet import silent_stderr, silent_warnings
from onnxq.session_settings import DEFAULT as DEFAULT
from onnxq.session_settings import SessionSettings as SessionSettings
from onnxq.session_settings import make_options

Feeds = dict[str, np.ndarray]

_SILENT = 4
_BFLOAT16 = 16  # TensorProto.BFLOAT16; onnxruntime has no numpy path for it
_REASON_LENGTH = 400
_INTEGERS = ("int", "uint")
_NUMPY_NAMES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in _INTEGERS for bits in (8, 16, 32, 64)},
}
_INPUT_ERRORS = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoSuchFile",
)
_UNSUPPORTED_HINTS = (
    "is not a registered function/op",
    "Unsupported model IR version",
    "under development and support for this is limited",
    "is currently not registered or supported",
    "is not currently registered or supported",
)


_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_PROBE = """<ir_version: 8, opset_import: ["" : 13]>
g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y)
<float[1, 1, 1, 1] w = {2.0}, float[2, 2] m = {1.0, 0.0, 0.0, 1.0}>
{ c = Conv (x, w) y = MatMul (c, m) }"""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Describe one input: numpy name of the dtype (or ONNX type string), shape with open sizes."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """Describe one output as `InputSpec` does an input."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Hold a loaded model; `run` computes every output.

    `provider` is onnxruntime's name of what runs it first: "CPUExecutionProvider".
    """

    where: str
    inputs: tuple[InputSpec, ...]
    output_specs: tuple[OutputSpec, ...]
    provider: str
    load_seconds: float
    _inner: Any

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(spec.name for spec in self.output_specs)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return every output by name: an array, or what onnxruntime gives for other types.

        Raises:
            InputError: a feed is missing, unknown, or of a wrong dtype, rank or size.
            UnsupportedError: the model cannot be computed for another reason.
        """
        self._check(feeds)
        feeds = {k: v if isinstance(v, (list, dict)) else np.asarray(v) for k, v in feeds.items()}
        try:
            if "bfloat16" in [spec.dtype for spec in self.inputs] + [
                spec.dtype for spec in self.output_specs
            ]:
                return dict(zip(self.outputs, self._run_values(feeds), strict=True))
            return dict(zip(self.outputs, self._inner.run(None, feeds), strict=True))
        except Exception as err:
            raise _refusal(f"{self.where}: cannot be run", err) from err

    def _check(self, feeds: Mapping[str, Any]) -> None:
        """Check names, dtypes and shapes, and say what was expected: onnxruntime is terse."""
        expected = {spec.name: spec for spec in self.inputs}
        known = {*expected, *(item.name for item in self._inner.get_overridable_initializers())}
        names = ", ".join(map(repr, expected)) or "none"
        for name in feeds:
            if name not in known:
                raise InputError(f"{self.where}: has no input {name!r}; its inputs are {names}")
        for name, spec in expected.items():
            if name in feeds:
                if wrong := _misfit(spec, feeds[name]):
                    raise InputError(f"{self.where}: input {name!r}: {wrong}")
            elif not spec.dtype.startswith("optional"):
                raise InputError(f"{self.where}: input {name!r} is missing; its inputs are {names}")

    def _run_values(self, feeds: Mapping[str, Any]) -> list[Any]:
        ort = importlib.import_module("onnxruntime")
        values = {}
        for name, array in feeds.items():
            contiguous = np.ascontiguousarray(array)
            if contiguous.dtype.name == "bfloat16":
                make = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
                values[name] = make(contiguous.view(np.uint16), _BFLOAT16)
            else:
                values[name] = ort.OrtValue.ortvalue_from_numpy(contiguous)
        results = self._inner.run_with_ort_values(None, values)
        return [_from_value(value) for value in results]


def open_session(source: Path | bytes, settings: SessionSettings = DEFAULT) -> Session:
    """Load a model and return it ready to run; nothing is written to stdout or stderr.

    Args:
        source: file (external data beside it is found) or serialised model.
        settings: how to load and run it.

    Raises:
        OptionError: onnxruntime has no session option of a given name.
        InputError: the file is missing or holds no valid model.
        UnsupportedError: onnxruntime has no implementation for something in the model, or CUDA is
            asked for and does not work.
        MissingDependencyError: onnxruntime is not installed.
    """
    ort = _import_onnxruntime()
    where = "model in memory" if isinstance(source, bytes) else str(source)
    if isinstance(source, Path) and not source.is_file():
        raise InputError(f"{where}: no such file")
    if where.encode("utf-8", "replace").decode() != where:
        raise UnsupportedError(f"{where}: onnxruntime opens only paths that are valid Unicode")
    options, providers = make_options(ort, settings), _providers(settings.provider)
    disabled = ["ConstantFolding"] if settings.is_packed else None
    start = time.perf_counter()
    try:
        model = source if isinstance(source, bytes) else str(source)
        inner = ort.InferenceSession(
            model, options, providers, disabled_optimizers=disabled, enable_fallback=0
        )
    except Exception as err:
        raise _refusal(f"{where}: onnxruntime cannot load it", err) from err
    seconds = time.perf_counter() - start
    if inner.get_providers()[0] != providers[0]:
        raise UnsupportedError(f"{where}: CUDA does not start; pass --provider cpu")
    return Session(
        where=where,
        inputs=tuple(InputSpec(**_spec(item)) for item in inner.get_inputs()),
        output_specs=tuple(OutputSpec(**_spec(item)) for item in inner.get_outputs()),
        provider=providers[0],
        load_seconds=seconds,
        _inner=inner,
    )


def prepare(settings: SessionSettings) -> None:
    """Load onnxruntime and run a tiny model, so that the next session costs like any other.

    Raises:
        OptionError: onnxruntime has no session option of a given name.
        UnsupportedError: CUDA is asked for and does not work.
        MissingDependencyError: onnxruntime is not installed.
    """
    ort = _import_onnxruntime()
    make_options(ort, settings)
    _computes(ort, _providers(settings.provider))


def _providers(wanted: str) -> list[str]:
    if wanted == "cpu" or (wanted == "auto" and not cuda_works()):
        return [_CPU]
    if cuda_works():
        return [_CUDA, _CPU]
    raise UnsupportedError(
        "--provider cuda: onnxruntime cannot compute with CUDA here, expected an NVIDIA GPU with "
        "its driver, onnxruntime-gpu, and the CUDA and cuDNN libraries that this asks for; install "
        "what is missing, or pass --provider cpu"
    )


@functools.cache
def cuda_works() -> bool:
    """Return whether onnxruntime computes with CUDA here: a tiny model must give its result.

    Nothing is raised or written, whatever is wrong. The answer is kept for the process.
    """
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        ort = _import_onnxruntime()
        if _CUDA not in ort.get_available_providers():
            return False
        with silent_stderr(), redirect_stdout(io.StringIO()), silent_warnings():
            ort.preload_dlls()
            return _computes(ort, [_CUDA])
    except Exception:
        return False


def _computes(ort: Any, providers: list[str]) -> bool:
    """Return whether the first provider gives the result of a convolution and a product.

    CUDA needs cuDNN for them. On any provider the first session and its first run load and keep
    what all later ones share, about 9 MB.
    """
    model = importlib.import_module("onnx.parser").parse_model(_PROBE).SerializeToString()
    session = ort.InferenceSession(model, make_options(ort, DEFAULT), providers, enable_fallback=0)
    ones = np.ones((1, 1, 2, 2), np.float32)
    (found,) = session.run(None, {"x": ones})
    return bool(session.get_providers()[0] == providers[0] and np.array_equal(found, 2 * ones))


def float_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a float type by its name; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        bfloat16: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        return bfloat16
    return np.dtype(name)


def is_known_dtype(name: str) -> bool:
    """Return whether a spec's dtype is the numpy name of a tensor's element type."""
    return name in _NUMPY_NAMES.values()


def _misfit(spec: InputSpec, value: Any) -> str | None:
    """Return what is wrong with a feed; None where it fits, or the input is no plain tensor."""
    if not is_known_dtype(spec.dtype):
        return None
    array = np.asarray(value)
    is_text = array.dtype.kind in "OUS"
    if is_text != (spec.dtype == "str") or not (is_text or array.dtype.name == spec.dtype):
        return f"found dtype {dtype_text(array.dtype)}, expected {spec.dtype}"
    fits = len(array.shape) == len(spec.shape) and all(map(is_size, spec.shape, array.shape))
    return None if fits else f"found shape {list(array.shape)}, expected {_text(spec.shape)}"


def is_size(expected: int | str | None, found: int) -> bool:
    """Tell whether an array may have a size along an axis that a model declares."""
    return not isinstance(expected, int) or expected < 0 or expected == found


def _text(shape: tuple[int | str | None, ...]) -> str:
    """Return a shape as text, with names and question marks for its open sizes."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _from_value(value: Any) -> Any:
    if not value.is_tensor() or value.data_type() != "tensor(bfloat16)":
        return value.numpy() if value.is_tensor() else value.to_sequence()
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
    return np.frombuffer(raw, dtype=float_dtype("bfloat16")).reshape(shape)


def _spec(item: Any) -> dict[str, Any]:
    dtype = _NUMPY_NAMES.get(item.type, item.type)
    return {"name": item.name, "dtype": dtype, "shape": tuple(item.shape)}


def _refusal(what: str, err: Exception) -> OnnxqError:
    """Return our error for one of onnxruntime's, whose classes are told apart by name only."""
    reason = _one_line(str(err))
    kind = type(err).__name__
    unsupported = kind == "NotImplemented" or any(hint in reason for hint in _UNSUPPORTED_HINTS)
    at_fault = kind in _INPUT_ERRORS
    known = UnsupportedError if unsupported or not at_fault else InputError
    return known(f"{what}: {reason}")


def _one_line(reason: str) -> str:
    r"""Return onnxruntime's reason without its prefix, source locations and line breaks.

    >>> _one_line("[ONNXRuntimeError] : 1 : FAIL : Node (a) Op (B)\n is bad")
    'Node (a) Op (B) is bad'
    """
    reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", reason)
    reason = re.sub(r"/\S+\.(?:cc|h):\d+ \S.*?\)(?: \[.*?\])? (?=\S)", "", reason)
    reason = " ".join(reason.split())
    return reason if len(reason) <= _REASON_LENGTH else reason[: _REASON_LENGTH - 3] + "..."


def _import_onnxruntime() -> Any:
    """Return onnxruntime; a first import is kept from writing to stderr.

    Its GPU build looks for devices while it is imported and warns on the C level where it finds
    none, before any log level can be set (microsoft/onnxruntime#27092).
    """
    loaded = sys.modules.get("onnxruntime")
    if loaded is not None:
        return loaded
    try:
        with silent_stderr(), silent_warnings():
            ort = importlib.import_module("onnxruntime")
    except ImportError as err:
        raise MissingDependencyError(
            f"running a model needs onnxruntime: {_one_line(str(err))}; "
            "install onnxruntime, or use --no-check"
        ) from err
    ort.set_default_logger_severity(_SILENT)
    return ort
