"""A model as callers have it: a path, an `onnx.ModelProto` or an `onnx_ir.Model`.

Owns the difference between the three, which the rest of the program does not know. What is given is
never changed. onnx_ir need not be installed; it is imported only for a model of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from onnxq import files, model
from onnxq.errors import InputError
from onnxq.graphs import Document

ModelLike: TypeAlias = Any
"""A path, an `onnx.ModelProto` or an `onnx_ir.Model` (which need not be installed)."""


def open_model(source: ModelLike) -> Document:
    """Return the structure of a model, whatever it is given as.

    Raises:
        InputError: it is no model, or cannot be read.
    """
    if is_path(source):
        return model.load(Path(source))
    return model.wrap(to_proto(source), _folder(source))


def is_path(source: ModelLike) -> bool:
    """Tell whether a model is given as a path."""
    return isinstance(source, (str, os.PathLike))


def to_proto(source: ModelLike) -> onnx.ModelProto:
    """Return the message of a model in memory: the given one itself, or one made of an onnx_ir.

    Raises:
        InputError: it is neither.
    """
    if isinstance(source, onnx.ModelProto):
        return source
    if type(source).__module__.startswith("onnx_ir") and hasattr(source, "opset_imports"):
        import onnx_ir

        return onnx_ir.to_proto(source)
    raise InputError(
        f"model: found {type(source).__name__}, expected a path, an onnx.ModelProto or an "
        "onnx_ir.Model"
    )


def like(source: ModelLike, proto: onnx.ModelProto) -> Any:
    """Return a message as a model of the source's kind; a message where that is a path."""
    if is_path(source) or isinstance(source, onnx.ModelProto):
        return proto
    import onnx_ir

    return onnx_ir.from_proto(proto)


def runnable(document: Document) -> Path | bytes:
    """Return what onnxruntime can open of a model: its file, or the bytes of one in memory.

    The file has the name that the caller used, as messages should, while that leads to it.

    Raises:
        OutputError: it is in memory, and larger than protobuf can write.
    """
    if document.path is not None and Path(document.label).absolute() == document.path:
        return Path(document.label)
    return document.path or files.serialize(document.proto, document.label)


def name_of(document: Document) -> str | None:
    """Return the path that a model was opened by; None for one in memory."""
    return document.label if document.path is not None else None


def output_path(
    output: str | os.PathLike[str] | None, source: ModelLike, force: bool
) -> Path | None:
    """Return where a model is written, None for one kept in memory.

    Raises:
        OutputError: it cannot be written there, or something is there and `force` is not given.
    """
    if output is None:
        return None
    inputs = (Path(source),) if is_path(source) else ()
    files.check_output(Path(output), force=force, inputs=inputs)
    return Path(output).absolute()


def path_text(path: str | os.PathLike[str] | None) -> str | None:
    """Return a path as a report names it."""
    return os.fspath(path) if path is not None else None


def _folder(source: ModelLike) -> Path | None:
    """Return the folder that an onnx_ir model's external tensors lie in."""
    if isinstance(source, onnx.ModelProto):
        return None
    for value in source.graph.initializers.values():
        folder = getattr(value.const_value, "base_dir", None)
        if folder:
            return Path(folder).absolute()
    return None
