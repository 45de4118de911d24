"""What is visible from a graph: the producers and the constants by name, outer graphs included.

Owns the look-up; what the nodes mean is judged in `propose` and `recognise`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onnx import GraphProto, NodeProto, TensorProto

from onnxq.graphs import DEFAULT_DOMAINS, Document, Scope
from onnxq.pools import Pool


@dataclass(kw_only=True)
class Sight:
    """Hold what is visible from a scope: the producers and the constants by name.

    `folder` is where external data lies; `pools` are those read so far, by the id of their Split.
    """

    scope: Scope
    folder: Path | None
    producers: dict[str, NodeProto] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    outer: Sight | None = None
    pools: dict[int, Pool | None] = field(default_factory=dict)

    def producer(self, name: str) -> NodeProto | None:
        """Return the node that makes a value, in this graph or one around it."""
        if name in self.producers:
            return self.producers[name]
        return self.outer.producer(name) if self.outer and name not in self.constants else None

    def constant(self, name: str) -> TensorProto | None:
        """Return the constant of a name, in this graph or one around it."""
        if name in self.constants:
            return self.constants[name]
        return self.outer.constant(name) if self.outer and name not in self.producers else None


def look(document: Document, scope: Scope, outer: Sight | None) -> Sight:
    """Return what is visible from a scope whose surrounding graph sees `outer`.

    From IR 4 on an initializer that is also a graph input is no constant: a caller may override it.
    """
    sight = Sight(scope=scope, folder=document.folder, outer=outer)
    if isinstance(scope.proto, GraphProto):
        is_open = document.proto.ir_version >= 4
        inputs = {value.name for value in scope.proto.input} if is_open else set()
        held = (tensor for tensor in scope.proto.initializer if tensor.name not in inputs)
        sight.constants.update((tensor.name, tensor) for tensor in held)
    for node in scope.proto.node:
        is_constant = node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS
        if is_constant and node.output and node.attribute and node.attribute[0].HasField("t"):
            sight.constants[node.output[0]] = node.attribute[0].t
        else:
            sight.producers.update((name, node) for name in node.output)
    return sight
