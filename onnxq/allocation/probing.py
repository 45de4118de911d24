"""What a model's outputs lose when some of its tensors hold other values.

Owns the model made for it: its weights are inputs with default values, so one session serves any
number of trials, and a trial hands over the arrays that differ. What a softmax or sigmoid turns
into an output is compared before it: there a small error is still in proportion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxq import files, graphs, runtime
from onnxq.data.batches import Dataset
from onnxq.data.watched_data import spread
from onnxq.emission import free_prefix
from onnxq.errors import UnsupportedError
from onnxq.graphs import DEFAULT_DOMAINS, Document
from onnxq.model import Weight
from onnxq.session_settings import SessionSettings
from onnxq.validation.reference_runs import Carried

Array = np.ndarray[Any, np.dtype[Any]]
Key = tuple[str, str]
Values = Mapping[Key, Array]
"""Other values of tensors, in their shape and dtype, by (graph, name)."""

_SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid")
_HANDING_ON = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast")
_INVARIANT = ("Softmax", "LogSoftmax")
"""Operators that a constant added to all their inputs along the axis does not change."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Hold a value that is compared: `axis` is that along which only differences matter."""

    name: str
    axis: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Expected:
    """Hold what a run is fed, and what comes out of the model as it is, centred where it is so."""

    feeds: Mapping[str, Any]
    outputs: Mapping[str, Array]


class Probe:
    """Run a model with some tensors exchanged.

    Args:
        document: the model; it is taken apart, so it is of no other use after.
        weights: tensors that may be exchanged; those of functions and of bfloat16 cannot.
        folder: place for the model, as long as the probe is used.
        threads: threads of a run; results of different numbers may differ in the last bits.

    Raises:
        InputError, UnsupportedError: onnxruntime cannot load the model.
    """

    def __init__(
        self, document: Document, weights: Sequence[Weight], folder: Path, threads: int = 1
    ) -> None:
        self.watched = tuple(watched_values(document.proto))
        files.move_out(document, folder / "probe.onnx")
        self._inputs = _exposed(document, weights)
        graph = document.proto.graph
        known = {value.name for value in graph.output}
        graph.output.extend(
            ValueInfoProto(name=item.name) for item in self.watched if item.name not in known
        )
        path = folder / "probe.onnx"
        files.write_bytes(path, files.serialize(document.proto, document.label))
        self._session = runtime.open_session(path, SessionSettings(threads=threads))
        self._expected: list[_Expected] = []
        self._power: dict[str, float] = {}
        self.samples = 0

    def __contains__(self, key: Key) -> bool:
        """Tell whether a tensor can be exchanged."""
        return key in self._inputs

    def record(self, dataset: Dataset, carry: Mapping[str, str], samples: int) -> None:
        """Run the model as it is on samples spread over the data, and keep what comes out.

        State that is carried is that of the model as it is, in later runs too.

        Raises:
            InputError, UnsupportedError: the model cannot be run on the data, or nothing that
                comes out can be compared.
            OptionError: `carry` names what the model lacks.
        """
        state = Carried(self._session, carry)
        chosen = spread([batch.samples for batch in dataset.batches()], samples)
        for number, batch in enumerate(dataset.batches()):
            if number > max(chosen, default=-1):
                break
            if number in chosen or carry:
                feeds = state.feeds(batch)
                outputs = self._session.run(feeds)
                state.keep(outputs)
                if number in chosen:
                    self._keep(feeds, outputs)
                    self.samples += batch.samples
        if not any(self._power.values()):
            raise UnsupportedError(
                "no output has a value that could be compared, so nothing tells what bits are "
                "worth; give other data, or decide without any"
            )

    def _keep(self, feeds: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        kept = {item.name: _seen(outputs[item.name], item) for item in self.watched}
        self._expected.append(_Expected(feeds=feeds, outputs=kept))
        for name, values in kept.items():
            power = float(np.sum(np.square(values[np.isfinite(values)])))
            self._power[name] = self._power.get(name, 0.0) + power

    def error(self, values: Values) -> float:
        """Return noise through signal, added up over what is watched; infinite where NaN arises.

        Args:
            values: the tensors that differ, each of which is in the probe.

        Raises:
            InputError, UnsupportedError: the model cannot be run with them.
        """
        if not self._expected:
            raise AssertionError("the model is recorded first")
        fed = {self._inputs[key]: array for key, array in values.items()}
        noise = dict.fromkeys(self._power, 0.0)
        for run in self._expected:
            outputs = self._session.run({**run.feeds, **fed})
            for item in self.watched:
                expected = run.outputs[item.name]
                found = _seen(outputs[item.name], item)
                if found.shape != expected.shape:
                    return float("inf")
                is_known = np.isfinite(expected)
                missed = found[is_known] - expected[is_known]
                noise[item.name] += float(np.sum(np.square(missed)))
        shares = [noise[name] / power for name, power in self._power.items() if power > 0]
        total = float(np.sum(shares))
        return total if np.isfinite(total) else float("inf")


def _seen(values: Any, item: Watched) -> Array:
    """Return an output in float64, centred along the axis that is said to be of no matter."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        return np.zeros(0)
    wide = values.astype(np.float64)
    if item.axis is None or not wide.size or not -wide.ndim <= item.axis < wide.ndim:
        return wide
    centred: Array = wide - wide.mean(axis=item.axis, keepdims=True)
    return centred


def watched_values(proto: ModelProto) -> Iterator[Watched]:
    """Yield what is compared for each output of a model, each value once.

    That is the output, or what goes into the Softmax, LogSoftmax or Sigmoid it comes from.
    """
    makers = {name: node for node in proto.graph.node for name in node.output}
    seen: set[str] = set()
    opset = max((item.version for item in proto.opset_import if not item.domain), default=13)
    for value in proto.graph.output:
        node = makers.get(value.name)
        while node is not None and _is(node, _HANDING_ON):
            node = makers.get(node.input[0])
        found = Watched(name=value.name)
        if node is not None and _is(node, _SQUASHING) and node.input[0] in makers:
            found = Watched(name=node.input[0], axis=_axis(node, opset))
        if found.name not in seen:
            seen.add(found.name)
            yield found


def _is(node: NodeProto, op_types: Sequence[str]) -> bool:
    return node.op_type in op_types and node.domain in DEFAULT_DOMAINS


def _axis(node: NodeProto, opset: int) -> int | None:
    """Return the axis of a softmax; None where it covers several (before opset 13)."""
    if node.op_type not in _INVARIANT:
        return None
    axis = next((int(item.i) for item in node.attribute if item.name == "axis"), None)
    if opset >= 13:
        return -1 if axis is None else axis
    return -1 if axis == -1 else None


def _exposed(document: Document, weights: Sequence[Weight]) -> dict[Key, str]:
    """Make tensors inputs of the main graph with their values as default; return their names.

    From IR 4 on an initializer that is listed as an input is such a default. Those of inner graphs
    move to the main graph, and their old place gets an Identity.
    """
    graph = document.proto.graph
    _keep_constant(document.proto)
    prefix = free_prefix(graphs.taken_names(document))
    found: dict[Key, str] = {}
    moved = [weight for weight in weights if _may_expose(weight)]
    for number, weight in enumerate(moved):
        tensor = TensorProto()
        tensor.CopyFrom(weight.tensor or TensorProto())
        is_inner = weight.scope.parent is not None
        tensor.name = f"{prefix}{number}" if is_inner else weight.name
        found[weight.graph, weight.name] = tensor.name
        graph.initializer.append(tensor)
        spec = helper.make_tensor_value_info(tensor.name, tensor.data_type, weight.shape)
        graph.input.append(spec)
    for _, group in groupby(sorted(moved, key=_place), key=_place):
        _remove(list(group), found)
    return found


def _may_expose(weight: Weight) -> bool:
    """Tell whether a tensor can be an input; onnxruntime is fed no bfloat16 from numpy."""
    is_fed = weight.data_type != TensorProto.BFLOAT16
    return is_fed and not weight.scope.root.is_function and not weight.is_graph_input


def _place(weight: Weight) -> tuple[int, str]:
    return id(weight.scope), weight.kind


def _remove(weights: Sequence[Weight], names: Mapping[Key, str]) -> None:
    """Remove tensors of one kind from their scope; inner ones become an Identity of the moved."""
    scope, kind = weights[0].scope, weights[0].kind
    graph: Any = scope.proto
    held = graph.initializer if kind == "initializer" else graph.node
    for position in sorted((weight.position for weight in weights), reverse=True):
        del held[position]
    if scope.parent is None:
        return
    for weight in weights:
        name = names[weight.graph, weight.name]
        scope.proto.node.insert(0, helper.make_node("Identity", [name], [weight.name]))


def _keep_constant(proto: ModelProto) -> None:
    """Take initializers off the inputs of a model from before IR 4, which had to list them."""
    if proto.ir_version >= 4:
        return
    proto.ir_version = 4
    held = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.input if value.name not in held]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
