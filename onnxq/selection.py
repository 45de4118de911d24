"""Which tensors are candidates for encoding, and why each other one is kept.

Owns the reasons that need no arithmetic: what the tensor is, what the options say, what its values
hold. `plan` adds the reason that needs sizes ("not-smaller").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from onnxq import tensors
from onnxq.errors import OptionError
from onnxq.model import Weight
from onnxq.options import ConvertOptions
from onnxq.roles import role, told_by


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Record a tensor that is kept as it is: `reason` is a stable slug, `detail` a sentence."""

    name: str
    graph: str
    elements: int
    bytes: int
    reason: str
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        return {
            "name": self.name,
            "graph": self.graph,
            "elements": self.elements,
            "bytes": self.bytes,
            "reason": self.reason,
            "detail": self.detail,
        }


def skip(weight: Weight, reason: str, detail: str = "") -> Skip:
    """Return the record of a weight that is kept."""
    return Skip(
        name=weight.name,
        graph=weight.graph,
        elements=weight.elements,
        bytes=weight.data_bytes,
        reason=reason,
        detail=detail,
    )


def reason_to_keep(weight: Weight, options: ConvertOptions) -> tuple[str, str] | None:
    """Return (reason, detail) when a tensor is no candidate, else None. Reads no values."""
    return reason_by_kind(weight) or _by_role(weight, options) or _by_option(weight, options)


def reason_by_kind(weight: Weight) -> tuple[str, str] | None:
    """Return (reason, detail) when what a tensor is rules encoding out, whatever the options."""
    if weight.kind == "sparse":
        return "sparse", "sparse tensors are stored compactly already"
    if tensors.is_quantized_type(weight.data_type):
        return "already-quantized", f"{weight.dtype} values are quantized already"
    if not weight.is_float:
        return "not-float", f"{weight.dtype} values"
    if weight.kind == "attribute":
        return "attribute", "a value inside a node's attribute cannot be computed by other nodes"
    if weight.is_ambiguous:
        return (
            "ambiguous-name",
            "its name is empty, or defined twice in sight of it",
        )
    if weight.elements == 0:
        return "empty", "it has no elements"
    if not weight.shape:
        return "scalar", "a single number"
    if weight.is_graph_input:
        return "graph-input", "it is also a graph input, which a caller may override"
    if weight.scope.opset < (9 if weight.scope.root.is_function else 7):
        return "opset", f"its graph imports version {weight.scope.opset} of the operators"
    if weight.dtype == "bfloat16" and weight.scope.opset < 13:
        return "opset", "operators take bfloat16 from version 13 on"
    return None


def _by_role(weight: Weight, options: ConvertOptions) -> tuple[str, str] | None:
    use = role(weight)
    if use == "quantization":
        users = ", ".join(told_by(weight, use))
        return "already-quantized", f"part of an existing quantization ({users})"
    if use == "parameter":
        return "parameter", f"configures {', '.join(told_by(weight, use))}"
    if use == "variance" and not options.quantize_variance:
        return "variance", "a small error in a variance scales a whole channel"
    if use == "norm" and not options.quantize_norm:
        return "norm-kept", "--keep-norm"
    if use == "bias" and not options.quantize_bias:
        return "bias-kept", "--keep-bias"
    return None


def _by_option(weight: Weight, options: ConvertOptions) -> tuple[str, str] | None:
    if options.include and not any(matches(weight, pattern) for pattern in options.include):
        return "excluded", "no --include pattern matches"
    for pattern in options.exclude:
        if matches(weight, pattern):
            return "excluded", f"--exclude {pattern}"
    if options.op_types and not any(c.op_type in options.op_types for c in weight.consumers):
        return "op-type", "consumed by none of --op-types"
    if weight.elements < options.min_elements:
        return "too-few-elements", f"--min-elements {options.min_elements}"
    bits = width_for(weight, options)
    if weight.elements < options.min_elements_per_centroid * 2**bits:
        least = options.min_elements_per_centroid
        return "too-few-elements", f"fewer than {least:g} elements a centroid at {bits} bits"
    return None


def width_for(weight: Weight, options: ConvertOptions) -> int:
    """Return the bit width asked for: the last matching --tensor pattern, else --bits."""
    for pattern, bits in reversed(options.tensor_bits):
        if matches(weight, pattern):
            return bits
    return options.bits


def matches(weight: Weight, pattern: str) -> bool:
    """Tell whether a pattern names the tensor or a node that consumes it (glob or literal)."""
    names = {weight.name, *(consumer.node for consumer in weight.consumers if consumer.node)}
    return pattern in names or any(fnmatchcase(name, pattern) for name in names)


def check_patterns(weights: Iterable[Weight], options: ConvertOptions, label: str) -> None:
    """Check that every pattern and operator type of the options matches something.

    Raises:
        OptionError: one matches no float tensor of the model; the message suggests names.
    """
    floats = [weight for weight in weights if weight.is_float]
    for option, pattern in _patterns(options):
        if not any(matches(weight, pattern) for weight in floats):
            examples = ", ".join(repr(weight.name) for weight in _largest(floats)) or "none"
            raise OptionError(
                f"{option} {pattern!r}: matches no float tensor or node of {label}; "
                f"its largest tensors are {examples}"
            )
    used = {consumer.op_type for weight in floats for consumer in weight.consumers}
    for op_type in options.op_types:
        if op_type not in used:
            found = ", ".join(sorted(used)) or "none"
            raise OptionError(
                f"--op-types {op_type!r}: consumes no float tensor of {label}; these do: {found}"
            )


def _patterns(options: ConvertOptions) -> Iterator[tuple[str, str]]:
    for pattern in options.include:
        yield "--include", pattern
    for pattern in options.exclude:
        yield "--exclude", pattern
    for pattern, _ in options.tensor_bits:
        yield "--tensor", pattern


def _largest(floats: list[Weight]) -> list[Weight]:
    return sorted(floats, key=lambda weight: -weight.elements)[:3]
