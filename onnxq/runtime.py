"""Run a model in onnxruntime on the CPU, silently, and draw inputs for it.

Owns everything onnxruntime: sessions, feeds, and the translation of its exceptions into ours. It
does not compare anything. onnxruntime is imported only when a session is opened, because most
commands never run a model and the import takes longer than they do.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import math
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.errors import InputError, MissingDependencyError, OnnxqError, UnsupportedError

Feeds = dict[str, np.ndarray]

FREE_SIZES = (64, 1, 16, 224, 256, 512, 1024)
"""Sizes tried in turn for dimensions the model leaves open, until the model runs."""

MAX_FEED_BYTES = 1 << 30
"""Largest random input drawn; a damaged model may declare any shape."""

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


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Describe one input: numpy name of the dtype (or ONNX type string), shape with open sizes."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Hold a loaded model; `run` computes every output."""

    where: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    load_seconds: float
    _inner: Any
    _output_types: tuple[str, ...]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return every output by name: an array, or what onnxruntime gives for other types.

        Raises:
            InputError: a feed is missing, unknown, or of a wrong dtype, rank or size.
            UnsupportedError: the model cannot be computed for another reason.
        """
        self._check(feeds)
        feeds = {k: v if isinstance(v, (list, dict)) else np.asarray(v) for k, v in feeds.items()}
        try:
            if "bfloat16" in [spec.dtype for spec in self.inputs] + list(self._output_types):
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


def open_session(source: Path | bytes, *, optimize: bool = True, threads: int = 0) -> Session:
    """Load a model on the CPU and return it ready to run; nothing is written to stderr.

    Args:
        source: file (external data beside it is found) or serialised model.
        optimize: let onnxruntime rewrite the graph, its default; False also keeps constants
            unfolded, so that decode nodes run on every call.
        threads: threads within an operator; 0 is onnxruntime's choice.

    Raises:
        InputError: the file is missing or holds no valid model.
        UnsupportedError: onnxruntime has no implementation for something in the model.
        MissingDependencyError: onnxruntime is not installed.
    """
    ort = _import_onnxruntime()
    where = "model in memory" if isinstance(source, bytes) else str(source)
    if isinstance(source, Path) and not source.is_file():
        raise InputError(f"{where}: no such file")
    if where.encode("utf-8", "replace").decode() != where:
        raise UnsupportedError(f"{where}: onnxruntime opens only paths that are valid Unicode")
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.intra_op_num_threads = threads
    if not optimize:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    start = time.perf_counter()
    try:
        model = source if isinstance(source, bytes) else str(source)
        inner = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except Exception as err:
        raise _refusal(f"{where}: onnxruntime cannot load it", err) from err
    return Session(
        where=where,
        inputs=tuple(_input_spec(item) for item in inner.get_inputs()),
        outputs=tuple(item.name for item in inner.get_outputs()),
        load_seconds=time.perf_counter() - start,
        _inner=inner,
        _output_types=tuple(_NUMPY_NAMES.get(i.type, i.type) for i in inner.get_outputs()),
    )


def random_feeds(
    session: Session,
    sample: int,
    seed: int,
    dims: Mapping[str, int] | None = None,
    free_size: int = 1,
) -> Feeds:
    """Return one random value per input, determined by seed, sample and input name alone.

    Floats are standard normal, integers 0 or 1, booleans even odds, strings 'a'.

    Args:
        session: what to draw for.
        sample: number of the draw.
        seed: seed of all draws.
        dims: sizes of named open dimensions, at least 0.
        free_size: size of other open dimensions; those that lead an input are 1 (the batch).

    Raises:
        UnsupportedError: an input is no tensor of a known dtype, or is larger than 1 GiB.
    """
    batch = {spec.shape[0] for spec in session.inputs if spec.shape} - {None}
    sizes = {**{name: 1 for name in batch if isinstance(name, str)}, **(dims or {})}
    return {
        spec.name: _draw(session.where, spec, _shape(spec, sizes, free_size), [seed, sample])
        for spec in session.inputs
    }


def run_random(
    session: Session, sample: int, seed: int, dims: Mapping[str, int] | None = None
) -> tuple[Feeds, dict[str, Any]]:
    """Return the first random feeds that the model accepts, and its outputs for them.

    Open dimensions are tried at each of `FREE_SIZES`; each try that fails is repeated with
    integer inputs at zero, since a random index or length may be out of range.

    Raises:
        OnnxqError: no try succeeded; the error of the first one.
    """
    first: OnnxqError | None = None
    tried: set[tuple[Any, ...]] = set()
    for free_size in FREE_SIZES:
        feeds = random_feeds(session, sample, seed, dims, free_size)
        shapes = tuple(value.shape for value in feeds.values())
        if shapes in tried:
            break  # nothing is open, so no size makes a difference
        tried.add(shapes)
        for candidate in _variants(feeds):
            try:
                return candidate, session.run(candidate)
            except OnnxqError as err:
                first = first or err
    assert first is not None
    raise first


def _variants(feeds: Feeds) -> Iterator[Feeds]:
    yield feeds
    if any(value.dtype.kind in "iu" and value.any() for value in feeds.values()):
        yield {k: np.zeros_like(v) if v.dtype.kind in "iu" else v for k, v in feeds.items()}


def _shape(spec: InputSpec, sizes: Mapping[str, int], free: int) -> tuple[int, ...]:
    return tuple(
        size if isinstance(size, int) and size >= 0 else sizes.get(str(size), free if axis else 1)
        for axis, size in enumerate(spec.shape)
    )


def _draw(where: str, spec: InputSpec, shape: tuple[int, ...], seeds: list[int]) -> np.ndarray:
    if spec.dtype not in _NUMPY_NAMES.values():
        raise UnsupportedError(
            f"{where}: no random value can be drawn for input {spec.name!r} of type {spec.dtype}"
        )
    if math.prod(shape) * 8 > MAX_FEED_BYTES:
        raise UnsupportedError(f"{where}: input {spec.name!r} of shape {list(shape)} is too large")
    digest = hashlib.sha256(spec.name.encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng([*seeds, int.from_bytes(digest[:8], "little")])
    if spec.dtype == "str":
        return np.full(shape, "a")
    if spec.dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if "int" in spec.dtype:
        return rng.integers(0, 2, shape).astype(spec.dtype)
    return np.asarray(rng.standard_normal(shape)).astype(_float_dtype(spec.dtype))


def _float_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        bfloat16: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        return bfloat16
    return np.dtype(name)


def _misfit(spec: InputSpec, value: Any) -> str | None:
    """Return what is wrong with a feed; None where it fits, or the input is no plain tensor."""
    if spec.dtype not in _NUMPY_NAMES.values():
        return None
    array = np.asarray(value)
    is_text = array.dtype.kind in "OUS"
    if is_text != (spec.dtype == "str") or not (is_text or array.dtype.name == spec.dtype):
        return f"found dtype {array.dtype.name}, expected {spec.dtype}"
    fits = len(array.shape) == len(spec.shape) and all(
        not isinstance(size, int) or size < 0 or size == found
        for size, found in zip(spec.shape, array.shape, strict=True)
    )
    return None if fits else f"found shape {list(array.shape)}, expected {_text(spec.shape)}"


def _text(shape: tuple[int | str | None, ...]) -> str:
    """Return a shape as text, with names and question marks for its open sizes."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _from_value(value: Any) -> Any:
    if not value.is_tensor() or value.data_type() != "tensor(bfloat16)":
        return value.numpy() if value.is_tensor() else value.to_sequence()
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
    return np.frombuffer(raw, dtype=_float_dtype("bfloat16")).reshape(shape)


def _input_spec(item: Any) -> InputSpec:
    return InputSpec(
        name=item.name, dtype=_NUMPY_NAMES.get(item.type, item.type), shape=tuple(item.shape)
    )


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
        with _silent_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ort = importlib.import_module("onnxruntime")
    except ImportError as err:
        raise MissingDependencyError(
            f"running a model needs onnxruntime: {_one_line(str(err))}; "
            "install onnxruntime, or use --no-check"
        ) from err
    ort.set_default_logger_severity(_SILENT)
    return ort


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 to a scratch file for the duration, where there is one."""
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        with tempfile.TemporaryFile() as scratch:
            os.dup2(scratch.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)
