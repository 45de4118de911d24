"""Open a model and find every tensor that it holds, wherever it stands.

Owns reading: initializers of all graphs, `Constant` nodes, tensors in attributes. A weight belongs
to the scope that holds its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxq import tensors
from onnxq.errors import InputError
from onnxq.graphs import (
    DEFAULT_DOMAINS,
    Consumer,
    Document,
    Purposes,
    Scope,
    check_names,
    consumers,
    purposes,
    scopes,
)
from onnxq.skeleton import NotReadableError, read_skeleton

Kind = Literal["initializer", "constant", "sparse", "attribute"]
MAX_PROTO_BYTES = 2**31 - 1
"""The largest message that protobuf can read or write."""
DEFER_FROM_BYTES = 8 << 20
"""A file of at least this size is read without its long values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight:
    """Hold one tensor of a model, of any type; `plan` decides whether it is encoded.

    `position` is the place of its container: in the scope's initializer list, or of its node in
    the scope's node list. `data_bytes` are the bytes its values take in the file. `purposes` are
    the uses that its values end up in, be it behind nodes that hand them on or inside functions.
    """

    name: str
    scope: Scope
    kind: Kind
    position: int
    tensor: TensorProto | None
    shape: tuple[int, ...]
    data_type: int
    elements: int
    data_bytes: int
    consumers: tuple[Consumer, ...] = ()
    purposes: tuple[Consumer, ...] = ()
    is_graph_input: bool = False
    is_graph_output: bool = False
    is_ambiguous: bool = False

    @property
    def graph(self) -> str:
        """The path of the scope."""
        return self.scope.path

    @property
    def dtype(self) -> str:
        """The name of the element type."""
        return tensors.type_name(self.data_type)

    @property
    def is_float(self) -> bool:
        """Whether the element type is one that can be encoded."""
        return self.data_type in tensors.FLOAT_TYPES


def load(path: Path) -> Document:
    """Return the document at a path, external data left on disk.

    Raises:
        InputError: the file is missing, unreadable, too large for protobuf or no ONNX model.
    """
    label, path = str(path), Path(path).absolute()
    if path.is_dir():
        raise InputError(f"{label}: is a folder, expected an .onnx file")
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{label}: is a device or pipe, expected an .onnx file")
        if size == 0:
            raise InputError(f"{label}: is empty, expected an .onnx file")
        if size > MAX_PROTO_BYTES:
            raise InputError(
                f"{label}: found {size:,} bytes, an ONNX file can hold {MAX_PROTO_BYTES:,}; "
                "save the model with external data"
            )
        data = _read(path, size)
    except OSError as err:
        raise InputError(f"{label}: cannot be read: {err.strerror or err}") from err
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RecursionError) as err:
        raise InputError(f"{label}: {_what_it_is(data)}") from err
    del data
    document = Document(proto=proto, path=path, folder=path.parent, file_bytes=size, label=label)
    _check(document)
    own = path.name
    locations = {
        tensors.external_entries(tensor, f"{label}: tensor {name!r}")[0]
        for name, tensor in external_tensors(document)
    }
    return replace(document, has_data_files=bool(locations - {own}))


def _what_it_is(data: bytes) -> str:
    """Return what a file is that is no ONNX model, as far as its first bytes tell."""
    if data.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model itself; run 'git lfs pull'"
    if data[:100].lstrip()[:1] == b"<":
        return "is an HTML or XML page, not an ONNX model; download the model again"
    return "is not an ONNX model, or was cut off or damaged; download or export it again"


def _read(path: Path, size: int) -> bytes:
    """Return a model's bytes, long values deferred when the file is large."""
    if size >= DEFER_FROM_BYTES:
        try:
            return read_skeleton(path)
        except (NotReadableError, RecursionError):
            pass  # the parser says what is wrong, or accepts what this walk does not know
    return path.read_bytes()


def wrap(proto: ModelProto, folder: Path | None = None) -> Document:
    """Return a document over a copy of a model in memory; the given model is never changed.

    `folder` is where its external data lies, if it has any.

    Raises:
        InputError: it has no graph.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    document = Document(proto=copy, path=None, folder=folder, file_bytes=copy.ByteSize())
    _check(document)
    return replace(document, has_data_files=any(True for _ in external_tensors(document)))


def _check(document: Document) -> None:
    proto = document.proto
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{document.label}: holds no graph; expected an ONNX model")
    check_names(document)
    if not proto.opset_import:
        raise InputError(f"{document.label}: names no opset; the file is damaged or very old")


def weights(document: Document) -> list[Weight]:
    """Return every tensor that the model holds, floats or not, in file order.

    Raises:
        InputError: a tensor's dims are negative.
    """
    all_scopes = scopes(document)
    uses, ends = consumers(all_scopes), purposes(all_scopes)
    found: list[Weight] = []
    for scope in all_scopes:
        found += _scope_weights(document, scope, uses, ends)
    shadowed = _shadowed(all_scopes)
    return [
        replace(weight, is_ambiguous=True) if (weight.graph, weight.name) in shadowed else weight
        for weight in found
    ]


def _shadowed(all_scopes: list[Scope]) -> set[tuple[str, str]]:
    """Return the (scope path, name) of values whose name a graph around or inside defines too."""
    names: dict[str, set[str]] = {}
    found: set[tuple[str, str]] = set()
    for scope in all_scopes:  # outer scopes come first
        own = {name for node in scope.proto.node for name in node.output}
        if isinstance(scope.proto, GraphProto):
            own |= {value.name for value in scope.proto.input}
            own |= {tensor.name for tensor in scope.proto.initializer}
        else:
            own |= set(scope.proto.input)
        names[scope.path] = own
        outer = scope.parent
        while outer is not None:
            for name in own & names[outer.path]:
                found |= {(scope.path, name), (outer.path, name)}
            outer = outer.parent
    return found


def _scope_weights(
    document: Document,
    scope: Scope,
    uses: Mapping[tuple[str, str], list[Consumer]],
    ends: Purposes,
) -> Iterator[Weight]:
    proto = scope.proto
    counts: dict[str, int] = {}
    for name in (name for node in proto.node for name in node.output):
        counts[name] = counts.get(name, 0) + 1
    inputs: set[str] = set()
    if isinstance(proto, GraphProto):
        sparse = (tensor.values for tensor in proto.sparse_initializer)
        for tensor in (*proto.initializer, *sparse):
            counts[tensor.name] = counts.get(tensor.name, 0) + 1
        # Before IR 4 every initializer had to be listed as an input and none could be overridden.
        if document.proto.ir_version >= 4 or scope.parent is not None:
            inputs = {value.name for value in proto.input}
        outputs = {value.name for value in proto.output}
    else:
        outputs = set(proto.output)
    for name, kind, position, tensor, shape in _held(scope, document.label):
        yield Weight(
            name=name,
            scope=scope,
            kind=kind,
            position=position,
            tensor=tensor,
            shape=shape,
            data_type=tensor.data_type,
            elements=tensors.count_elements(shape, f"{document.label}: tensor {name!r}"),
            data_bytes=_value_bytes(document, name, tensor),
            consumers=tuple(uses.get((scope.path, name), ())),
            purposes=ends.of(scope.path, name),
            is_graph_input=name in inputs,
            is_graph_output=name in outputs,
            is_ambiguous=counts.get(name, 1) > 1 or not name,
        )


Held = tuple[str, Kind, int, TensorProto, tuple[int, ...]]


def _held(scope: Scope, label: str) -> Iterator[Held]:
    """Yield (name, kind, position, tensor, shape) of the tensors a scope holds itself."""
    proto = scope.proto
    if isinstance(proto, GraphProto):
        for position, tensor in enumerate(proto.initializer):
            yield tensor.name, "initializer", position, tensor, tuple(tensor.dims)
        for position, sparse in enumerate(proto.sparse_initializer):
            yield sparse.values.name, "sparse", position, sparse.values, tuple(sparse.values.dims)
    for position, node in enumerate(proto.node):
        is_constant = node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS
        if is_constant and len(node.output) == 1 and len(node.attribute) == 1:
            yield from _constant(node, position)
        else:
            yield from _attributes(node, position)


def _constant(node: NodeProto, position: int) -> Iterator[Held]:
    attribute, name = node.attribute[0], node.output[0]
    if attribute.name == "value" and attribute.HasField("t"):
        yield name, "constant", position, attribute.t, tuple(attribute.t.dims)
    elif attribute.name == "value_floats":
        tensor = tensors.make_tensor(name, TensorProto.FLOAT, [len(attribute.floats)])
        tensor.float_data.extend(attribute.floats)
        yield name, "constant", position, tensor, (len(attribute.floats),)
    elif attribute.name == "value_float":
        tensor = tensors.make_tensor(name, TensorProto.FLOAT, [])
        tensor.float_data.append(attribute.f)
        yield name, "constant", position, tensor, ()
    elif attribute.name == "sparse_value":
        values = attribute.sparse_tensor.values
        yield name, "sparse", position, values, tuple(values.dims)


def _attributes(node: NodeProto, position: int) -> Iterator[Held]:
    for attribute in node.attribute:
        held = [attribute.t] if attribute.HasField("t") else list(attribute.tensors)
        for number, tensor in enumerate(held):
            owner = node.name or (node.output[0] if node.output else node.op_type)
            suffix = f"[{number}]" if len(held) > 1 else ""
            name = f"{owner}.{attribute.name}{suffix}"
            yield name, "attribute", position, tensor, tuple(tensor.dims)


def _value_bytes(document: Document, name: str, tensor: TensorProto) -> int:
    if not tensors.is_external(tensor):
        return tensors.stored_bytes(tensor)
    where = f"{document.label}: tensor {name!r}"
    _, _, length = tensors.external_entries(tensor, where)
    if length is not None:
        return length
    return tensors.nominal_bytes(tensor.data_type, tensors.count_elements(tensor.dims, where))


def read(document: Document, weight: Weight) -> tensors.Array:
    """Return a weight's values in its shape.

    Raises:
        InputError: what the file holds does not fit what the tensor claims.
    """
    if weight.tensor is None:
        raise InputError(f"{document.label}: tensor {weight.name!r} holds no dense values")
    return tensors.read(weight.tensor, document.folder, f"{document.label}: tensor {weight.name!r}")


def external_tensors(document: Document) -> Iterator[tuple[str, TensorProto]]:
    """Yield (name, tensor) of every tensor whose values stand in another file."""
    for scope in scopes(document):
        for name, _, _, tensor, _ in _held(scope, document.label):
            if tensors.is_external(tensor):
                yield name, tensor


def external_lengths(document: Document) -> Iterator[int]:
    """Yield the bytes of every tensor whose values stand in another file."""
    for name, tensor in external_tensors(document):
        yield tensors.external_entries(tensor, name)[2] or 0


def total_bytes(document: Document) -> int:
    """Return the bytes of the model's file and of every data file it refers to."""
    return document.file_bytes + sum(path.stat().st_size for path in data_files(document))


def data_files(document: Document) -> set[Path]:
    """Return the real paths of the data files that a model refers to.

    Raises:
        InputError: one is missing, too short or outside the model's folder.
    """
    files: set[Path] = set()
    own = document.path.resolve() if document.path else None
    for name, tensor in external_tensors(document):
        where = f"{document.label}: tensor {name!r}"
        path, _, _ = tensors.check_external(tensor, document.folder, where)
        if path != own:
            files.add(path)
    return files
