"""Decide everything: which tensors are encoded, at which width, in which form, and what is kept.

Owns the decisions and their record; a saved plan gives the same bytes again. Encoding is planned
only where the exact size arithmetic of `rate` says that the file gets smaller.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onnxq import record_json
from onnxq.choose import Choice, choose, too_large
from onnxq.errors import InputError
from onnxq.facts import gather_facts
from onnxq.forms import Form, StoredLayout
from onnxq.graphs import Document
from onnxq.model import Weight
from onnxq.options import ConvertOptions, Init
from onnxq.plan_records import Correction, DataSeen, TensorReason
from onnxq.pooling import settle
from onnxq.pools import Pool
from onnxq.radixpack import RADIXES
from onnxq.selection import Skip, check_patterns, reason_to_keep, skip, width_for
from onnxq.trees import FLOAT16

SCHEMA_VERSION = 3
_READ_VERSIONS = (1, 2, 3)
"""Plans of version 1 know no pools, those of version 2 no scales; the defaults say so."""
LEAST_PER_KEPT = 50
"""Fewest values of a tensor for each that is kept: 2 % at most are."""
_WIDE_TYPES = ("float32", "float64")
"""Types that float16 is narrower than, and whose products onnxruntime computes at load."""
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """Hold the decisions for one tensor.

    `centroids` is the number to fit: 2^bit_width, or the distinct values where they are fewer (the
    tensor is then stored without loss). `same_as` names the (graph, name) of an equal tensor whose
    storage this one shares; `storage_graph` is the graph that holds the storage; `ce2_bits` is the
    width that the published accounting counts where it is not `bit_width`. The tensors of a main
    graph or function that are `is_pooled` and of one bit width keep their indices in one pool.

    With a `scale_axis` the codebook is fitted to the values over a scale for each position on that
    axis, and `scale_dtype` is the type of the stored scales. Layout `half` stores the values as
    float16: its `bit_width` is 16 and it has 0 `centroids`. `is_weighted` and `has_feedback` say
    how a codebook is fitted with calibration data: with importance weights, with error feedback.

    The `kept_values` values of largest magnitude, the first of equal ones, are stored as they are,
    in `kept_dtype`; the codebook is fitted to the others. There are then neither scales nor
    calibration.
    """

    name: str
    graph: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    original_bytes: int
    bit_width: int
    centroids: int
    layout: StoredLayout
    codebook_dtype: str
    init: Init
    pdf_factor: float
    max_iterations: int
    storage_graph: str
    ce2_bits: int | None = None
    same_as: tuple[str, str] | None = None
    is_pooled: bool = False
    scale_axis: int | None = None
    scale_dtype: str | None = None
    is_weighted: bool = False
    has_feedback: bool = False
    kept_values: int = 0
    kept_dtype: str | None = None

    def __post_init__(self) -> None:
        """Raise InputError where a value is outside its range, as in an edited plan file."""
        checks = {
            "shape": len(self.shape) > 0 and min(self.shape) > 0,
            "elements": self.elements == math.prod(self.shape),
            "bit_width": 1 <= self.bit_width <= 16,
            "ce2_bits": self.ce2_bits is None or 1 <= self.ce2_bits <= 16,
            "layout": self._fits_layout(),
            "centroids": self.layout == "half"
            or 1 <= self.centroids <= 1 << max(0, min(self.bit_width, 16)),
            "codebook_dtype": self.codebook_dtype in (self.dtype, "float16"),
            "pdf_factor": math.isfinite(self.pdf_factor) and self.pdf_factor >= 0,
            "max_iterations": self.max_iterations >= 1,
            "same_as": self.same_as is None or len(self.same_as) == 2,
            "is_pooled": not self.is_pooled or (self.layout == "portable" and self.same_as is None),
            "scale_axis": self.scale_axis is None or self._may_scale(self.scale_axis),
            "scale_dtype": self.scale_dtype is None
            if self.scale_axis is None
            else self.scale_dtype in (self.dtype, "float16"),
            "kept_values": self.kept_values == 0 or self._may_keep(self.kept_values),
            "kept_dtype": self.kept_dtype is None
            if self.kept_values == 0
            else self.kept_dtype in (self.dtype, "float16"),
        }
        for field, is_right in checks.items():
            if not is_right:
                found = getattr(self, field)
                raise InputError(f"plan: tensor {self.name!r}: {field} {found!r} is out of range")

    def _fits_layout(self) -> bool:
        """Tell whether the other fields are those of the layout."""
        if self.layout == "radix":
            radix = RADIXES.get(self.bit_width)
            return radix is not None and self.centroids <= radix.base
        if self.layout != "half":
            return True
        is_stored = self.dtype in _WIDE_TYPES and self.codebook_dtype == "float16"
        return is_stored and self.bit_width == 16 and self.centroids == 0

    def _may_scale(self, axis: int) -> bool:
        """Tell whether a tensor can have scales along an axis; one that shares storage has none."""
        if self.layout == "half" or self.same_as is not None or self.dtype not in _WIDE_TYPES:
            return False
        return 0 <= axis < len(self.shape) and self.shape[axis] > 1

    def _may_keep(self, count: int) -> bool:
        """Tell whether so many values can be kept, beside a codebook that needs no data."""
        if self.layout == "half" or self.same_as is not None or self.dtype not in _WIDE_TYPES:
            return False
        is_alone = self.scale_axis is None and not self.needs_calibration
        return is_alone and 0 < count <= self.elements // LEAST_PER_KEPT

    @property
    def key(self) -> tuple[str, str]:
        """The (graph, name) that identifies the tensor in its model."""
        return self.graph, self.name

    @property
    def has_half_codebook(self) -> bool:
        """Whether the codebook is stored in float16, a narrower type than the tensor's own."""
        return self.codebook_dtype == "float16" and self.dtype != "float16"

    @property
    def needs_calibration(self) -> bool:
        """Whether the codebook follows from calibration data as well as from the values."""
        return self.is_weighted or self.has_feedback

    @property
    def is_plain(self) -> bool:
        """Whether the codebook is fitted to the values as they are, and to nothing else."""
        return self.scale_axis is None and not self.kept_values and not self.needs_calibration

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        record = dataclasses.asdict(self)
        record["shape"] = list(self.shape)
        record["same_as"] = list(self.same_as) if self.same_as else None
        return record


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold the decisions for one model, tensors and skips in file order.

    `data` are those that codebooks and corrections were planned with, if any; `corrections` are the
    biases that take mean errors; `target` is what was asked for, `file_bytes` what the file takes
    that the plan gives, and `reasons` say what an allocation went by.
    """

    tensors: tuple[TensorPlan, ...]
    skips: tuple[Skip, ...]
    target: str | None = None
    file_bytes: int | None = None
    data: DataSeen | None = None
    corrections: tuple[Correction, ...] = ()
    reasons: tuple[TensorReason, ...] = ()

    @property
    def needs_calibration(self) -> bool:
        """Whether calibration data decide some of the bytes."""
        return bool(self.corrections) or any(item.needs_calibration for item in self.tensors)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values; what it has none of is left out."""
        record: dict[str, Any] = {"plan_version": SCHEMA_VERSION}
        for key in _ABOUT:
            if getattr(self, key) is not None:
                record[key] = record_json.to_json(getattr(self, key))
        record["tensors"] = [tensor.to_json() for tensor in self.tensors]
        for key in _LISTS:
            if getattr(self, key):
                record[key] = record_json.to_json(getattr(self, key))
        record["skipped"] = [item.to_json() for item in self.skips]
        return record

    def dumps(self) -> str:
        """Return the plan as JSON text in ASCII."""
        return json.dumps(self.to_json(), indent=1) + "\n"

    @classmethod
    def from_json(cls, record: object, label: str) -> Plan:
        """Return the plan of JSON values written by `to_json`.

        Raises:
            InputError: the values are no plan, or one of another version.
        """
        if not isinstance(record, dict) or record.get("plan_version") not in _READ_VERSIONS:
            raise InputError(f"{label}: is no onnxq plan of version 1 to {SCHEMA_VERSION}")
        lists = {key: record.get(key) for key in ("tensors", "skipped")}
        lists |= {key: record.get(key, []) for key in _LISTS}
        found: dict[str, Any] = {}
        for key, items in lists.items():
            if not isinstance(items, list):
                raise InputError(f"{label}: is a damaged onnxq plan: {key!r} is no list")
            found[_FIELDS.get(key, key)] = tuple(
                record_json.from_json(_KINDS[key], item, f"{label}: {key}[{number}]")
                for number, item in enumerate(items)
            )
        about = {key: record[key] for key in _ABOUT if key in record}
        known = record_json.from_json(_About, about, label)
        return cls(**found, target=known.target, file_bytes=known.file_bytes, data=known.data)


@dataclass(frozen=True, kw_only=True)
class _About:
    """Hold the fields of a plan that are about it as a whole."""

    target: str | None = None
    file_bytes: int | None = None
    data: DataSeen | None = None


_ABOUT = ("target", "file_bytes", "data")


_LISTS = ("corrections", "reasons")
_FIELDS = {"skipped": "skips"}
_KINDS: dict[str, type[Any]] = {
    "tensors": TensorPlan,
    "skipped": Skip,
    "corrections": Correction,
    "reasons": TensorReason,
}


def make_plan(
    document: Document,
    weights: Sequence[Weight],
    options: ConvertOptions,
    jobs: int,
    seen: Callable[[Weight], None] | None = None,
) -> Plan:
    """Return the plan of a model under options. Reads every candidate once.

    Args:
        document: the model.
        weights: every tensor that it holds.
        options: what the caller wants.
        jobs: threads, which never change the plan.
        seen: called with each candidate when it has been read.

    Raises:
        OptionError: a pattern of the options matches nothing.
        InputError: a tensor cannot be read.
    """
    check_patterns(weights, options, document.label)
    skips: dict[int, Skip] = {}
    candidates: list[Weight] = []
    for weight in weights:
        kept = reason_to_keep(weight, options)
        if kept is None:
            candidates.append(weight)
        else:
            skips[id(weight)] = skip(weight, *kept)
    considered: list[Choice] = []
    all_facts = gather_facts(document, candidates, options, jobs)
    for weight, facts in zip(candidates, all_facts, strict=True):
        if seen is not None:
            seen(weight)
        chosen = choose(document, weight, facts, options)
        if isinstance(chosen, Skip):
            skips[id(weight)] = chosen
        else:
            considered.append(chosen)
    settled = settle(document, considered, options)
    planned = {id(choice.weight): tensor_plan(choice, options) for choice in settled}
    for choice in considered:
        if id(choice.weight) not in planned:
            skips[id(choice.weight)] = too_large(choice)
    return Plan(
        tensors=tuple(planned[id(weight)] for weight in weights if id(weight) in planned),
        skips=tuple(skips[id(weight)] for weight in weights if id(weight) in skips),
    )


def tensor_plan(choice: Choice, options: ConvertOptions) -> TensorPlan:
    """Return the record of a settled choice; what fits its codebook is what the options say."""
    weight, form = choice.weight, choice.form
    halves = form.codebook_type != form.data_type
    return TensorPlan(
        name=weight.name,
        graph=weight.graph,
        shape=weight.shape,
        dtype=weight.dtype,
        elements=weight.elements,
        original_bytes=weight.data_bytes,
        bit_width=form.bit_width,
        centroids=form.centroids,
        layout=form.layout,
        codebook_dtype="float16" if halves else weight.dtype,
        init=options.init,
        pdf_factor=options.pdf_factor,
        max_iterations=options.max_iterations,
        storage_graph=choice.storage.path,
        ce2_bits=None if options.fewer_bits else width_for(weight, options),
        same_as=(choice.same_as.graph, choice.same_as.name) if choice.same_as else None,
        is_pooled=choice.is_pooled,
        scale_axis=form.scale_axis,
        scale_dtype=None
        if form.scale_axis is None
        else _stored_dtype(form, form.scale_type, weight.dtype),
        is_weighted=choice.is_weighted,
        has_feedback=choice.has_feedback,
        kept_values=form.kept,
        kept_dtype=_stored_dtype(form, form.kept_type, weight.dtype) if form.kept else None,
    )


def _stored_dtype(form: Form, stored_type: int | None, dtype: str) -> str:
    return dtype if stored_type == form.data_type else "float16"


def places(plan: Plan, weights: Sequence[Weight]) -> dict[Key, tuple[Pool, int]]:
    """Return the pool of each pooled tensor of a plan, and which of its tensors it is.

    A pool holds the pooled tensors of one main graph or function and one bit width, in plan order.
    """
    roots = {(weight.graph, weight.name): weight.scope.root for weight in weights}
    members: dict[tuple[str, int, int], list[TensorPlan]] = {}
    for planned in plan.tensors:
        if planned.is_pooled:
            root = roots[planned.key]
            key = (root.path, planned.bit_width, root.opset)
            members.setdefault(key, []).append(planned)
    found: dict[Key, tuple[Pool, int]] = {}
    for (_, bit_width, opset), tensors in members.items():
        lengths = tuple(tensor.elements for tensor in tensors)
        pool = Pool(bit_width=bit_width, lengths=lengths, opset=opset)
        found.update((tensor.key, (pool, i)) for i, tensor in enumerate(tensors))
    return found


def form_of(
    planned: TensorPlan, opset: int, data_type: int, place: tuple[Pool, int] | None = None
) -> Form:
    """Return the form that a tensor's plan asks for; `place` is what `places` says of it."""
    pool, member = place or (None, 0)
    scale_type = FLOAT16 if planned.scale_dtype == "float16" else data_type
    kept_type = FLOAT16 if planned.kept_dtype == "float16" else data_type
    return Form(
        layout=planned.layout,
        bit_width=planned.bit_width,
        data_type=data_type,
        codebook_type=FLOAT16 if planned.has_half_codebook else data_type,
        shape=planned.shape,
        centroids=planned.centroids,
        opset=opset,
        pool=pool,
        member=member,
        scale_axis=planned.scale_axis,
        scale_type=None if planned.scale_dtype is None else scale_type,
        kept=planned.kept_values,
        kept_type=None if planned.kept_dtype is None else kept_type,
    )
