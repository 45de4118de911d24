"""Damage models in ways that a disk, a network or an attacker would, the same way for a seed.

`bytes_of` damages serialised bytes, `fields_of` damages messages (and so gets past the parser).
Run as a script it is the child of test_mutations: it damages models by the hundred, under limits on
memory and time, and prints as JSON whatever ended neither well nor in an OnnxqError.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto

import onnxq
from onnxq import model
from onnxq.errors import OnnxqError
from onnxq.options import make_options
from onnxq.plans import make_plan
from tests import graphs

EXTRA_MEMORY_BYTES = 1 << 30
"""Address space that may be taken beyond that of a normal conversion."""
SECONDS_EACH = 20
NUMBERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 255, 2**20, 2**31 - 1, 2**40, 2**63 - 1)
Random = np.random.Generator


def bytes_of(data: bytes, rng: Random, places: Sequence[int] = ()) -> bytes:
    """Return bytes with one to four places flipped, overwritten, inserted, deleted or cut off.

    Two of three hits are among `places`, where they are given.
    """
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(0, len(damaged) + 1))
        if places and rng.integers(0, 3):
            place = min(places[int(rng.integers(0, len(places)))], len(damaged))
        span = int(rng.integers(1, 9))
        kind = rng.integers(0, 7)
        if kind == 0 and place < len(damaged):
            damaged[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            damaged[place : place + span] = rng.bytes(span)
        elif kind == 2:
            damaged[place:place] = rng.bytes(span)
        elif kind == 3:
            del damaged[place : place + span]
        elif kind == 4:
            damaged[place:place] = b"\xff" * span
        elif kind == 5:
            damaged[place:place] = damaged[max(0, place - 40) : place]
        elif rng.integers(0, 3) == 0:
            del damaged[place:]
    return bytes(damaged)


def structure(model: ModelProto, data: bytes) -> list[int]:
    """Return the positions of a model's bytes that hold no tensor's values."""
    is_structure = np.ones(len(data), bool)
    for message in _messages(model):
        if isinstance(message, TensorProto) and len(message.raw_data) > 16:
            start = data.find(message.raw_data)
            is_structure[start : start + len(message.raw_data)] = False
    return np.flatnonzero(is_structure).tolist()


def fields_of(model: ModelProto, rng: Random) -> ModelProto:
    """Return a copy with one to three fields somewhere inside dropped, doubled or changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    texts = sorted({t for m in _messages(copy) for t in _texts(m)})
    for _ in range(int(rng.integers(1, 4))):
        every = [m for m in _messages(copy) if m.ListFields()]
        message = every[int(rng.integers(0, len(every)))]
        fields = [field for field, _ in message.ListFields()]
        _damage(message, fields[int(rng.integers(0, len(fields)))], rng, texts)
    return copy


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, content in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in content if field.is_repeated else [content]:
                yield from _messages(inner)


def _texts(message: Message) -> Iterator[str]:
    for field, content in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            yield from content if field.is_repeated else [content]


def _damage(message: Message, field: FieldDescriptor, rng: Random, texts: list[str]) -> None:
    content = getattr(message, field.name)
    kind = int(rng.integers(0, 4))
    if kind == 0:
        message.ClearField(field.name)
    elif field.is_repeated:
        place = int(rng.integers(0, len(content)))
        if kind == 1:
            del content[place]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            content.add().CopyFrom(content[place])
        elif kind == 2:
            content.append(content[place])
        else:
            content[place] = _other(field, content[place], rng, texts)
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        setattr(message, field.name, _other(field, content, rng, texts))


def _other(field: FieldDescriptor, value: Any, rng: Random, texts: list[str]) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return texts[int(rng.integers(0, len(texts)))] if rng.integers(0, 3) else ""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes_of(value, rng)
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return (np.nan, np.inf, 0.0, -1.0)[int(rng.integers(0, 4))]
    if field.type == FieldDescriptor.TYPE_ENUM:
        numbers = [v.number for v in field.enum_type.values]
        return numbers[int(rng.integers(0, len(numbers)))]
    number = NUMBERS[int(rng.integers(0, len(NUMBERS)))]
    is_short = field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32)
    return int(np.clip(number, -(2**31), 2**31 - 1)) if is_short else number


# What is damaged, and what is then tried


def small(name: str) -> ModelProto:
    """Return a model of the table, made smaller so that damage hits its structure."""
    if name == "matmul_add":
        return graphs.matmul_add(size=16)
    if name == "conv_bn_relu":
        return graphs.conv_bn_relu(channels=16)
    return graphs.BY_NAME[name].build(graphs.few(4))


def planned(proto: ModelProto) -> ModelProto:
    """Return a model converted by a plan: scaled, in a radix, as float16, with a kept value."""
    ways: list[dict[str, Any]] = [
        {"scale_axis": 0, "scale_dtype": "float16"},
        {"layout": "radix", "centroids": 6},
        {"layout": "half", "bit_width": 16, "centroids": 0, "codebook_dtype": "float16"},
        {"kept_values": 1, "kept_dtype": "float16"},
    ]
    document = model.wrap(proto)
    options = make_options(
        {"bits": 3, "only_smaller": False, "fewer_bits": False, "pool_indices": False,
         "share_equal": False}
    )  # fmt: skip
    plan = make_plan(document, model.weights(document), options, 1)
    changed = tuple(replace(one, **way) for one, way in zip(plan.tensors, ways, strict=True))
    converted = onnxq.convert(proto, plan=replace(plan, tensors=changed), check=0)[1]
    assert isinstance(converted, ModelProto)
    return converted


def write_base(name: str, folder: Path) -> Path:
    """Write the model that a base names, `external`, `converted` or of the table; return where."""
    path = folder / "m.onnx"
    if name == "external":
        graphs.save_external(graphs.matmul_add(), path, 2)
    elif name.startswith("planned"):
        onnx.save(planned(small(name.partition(" ")[2])), path)
    elif name.startswith("converted"):
        _, converted = onnxq.convert(
            small(name.partition(" ")[2]), bits=3, check=0, only_smaller=False
        )
        onnx.save(converted, path)
    else:
        onnx.save(small(name), path)
    return path


BASES = (
    "matmul_add", "conv_bn_relu", "branches", "functions", "constants", "sparse", "decorated",
    "external", "typed_fields", "converted matmul_add", "converted equal_tensors",
    "converted branches", "converted functions", "converted bfloat16", "planned gemm",
)  # fmt: skip


def attempts(path: Path, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield every operation to try on a file, by name."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"bits": 4, "check": 0, "force": True, "jobs": 1}
    yield "inspect", lambda: onnxq.inspect(path)
    yield "convert", lambda: onnxq.convert(path, out / "c.onnx", **settings)
    yield "restore", lambda: onnxq.restore(path, out / "r.onnx", force=True)
    yield (
        "requantize",
        lambda: onnxq.convert(
            path, out / "q.onnx", requantize=True, only_smaller=False, **settings
        ),
    )


def outcome(operation: Callable[[], Any]) -> str | None:
    """Return None for success or an OnnxqError, else the trace of what was raised."""
    try:
        with time_limit():
            operation()
    except OnnxqError as err:
        return None if str(err) and "\n" not in str(err) else f"message {str(err)!r}"
    except Exception:
        return "".join(traceback.format_exc()[-1500:])
    return None


class TooSlow(Exception):
    """Signal that an operation went over its time."""


@contextlib.contextmanager
def time_limit(seconds: int = SECONDS_EACH) -> Iterator[None]:
    """Raise TooSlow when the body takes longer, even where it waits for the system."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def limit_memory(extra: int = EXTRA_MEMORY_BYTES) -> None:
    """Forbid this process to take more than `extra` bytes of address space from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    total = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (total, total))


def run_batch(base: str, seed: int, count: int, how: str) -> list[dict[str, Any]]:
    """Damage a base `count` times and return what went wrong."""
    failures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_base(base, folder)
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
        places = structure(model, data)
        for _, operation in attempts(path, folder):
            outcome(operation)  # loads and compiles everything that will be needed
        limit_memory()
        for number in range(count):
            rng = np.random.default_rng((seed, number))
            damaged = fields_of(model, rng).SerializeToString() if how == "fields" else None
            path.write_bytes(bytes_of(data, rng, places) if damaged is None else damaged)
            for operation_name, operation in attempts(path, folder):
                trace = outcome(operation)
                if trace is not None:
                    failures.append({"number": number, "in": operation_name, "trace": trace})
        shutil.rmtree(folder / "out")
    return failures


if __name__ == "__main__":
    base_name, seed_text, count_text, how_name = sys.argv[1:]
    found = run_batch(base_name, int(seed_text), int(count_text), how_name)
    sys.stdout.write(json.dumps(found))
