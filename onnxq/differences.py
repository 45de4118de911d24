"""How one output of a model differs from another's: sums over samples, and the record of them.

Owns what is equal and what no number can describe. Sums are float64 and run over all samples, so
that a few samples with small signals cannot dominate a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxq import record_json
from onnxq.parallel import blocks

_BLOCK_ELEMENTS = 1 << 20
"""Elements that are compared at a time, as float64."""


@dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """Describe how one output of the candidate differs from the reference's.

    `snr_db` is None where the outputs are equal (an infinite ratio) and -inf where no ratio exists:
    noise without signal, or a `mismatch`, which says what cannot be compared (shape, dtype, NaN or
    infinity in other places). NaN in the same places do not count. `max_abs` and `cosine` are None
    where they are not defined. JSON has null for both infinities; `is_equal` tells them apart.

    `undefined` says why nothing is known although nothing differs: no element is finite, or there
    is none. Such an output is not equal, and its ratio is -inf.
    """

    name: str
    snr_db: float | None
    max_abs: float | None
    cosine: float | None
    is_equal: bool
    mismatch: str | None = None
    undefined: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        return record_json.fields_to_json(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "output") -> OutputDifference:
        """Return the record of JSON values; raise InputError where they are no such record."""
        if data.get("snr_db") is None and data.get("is_equal") is False:
            data = {**data, "snr_db": -math.inf}
        return record_json.fields_from_json(cls, data, where)


@dataclass
class OutputSums:
    """Accumulate the differences of one output over runs, in float64."""

    signal: float = 0.0
    other: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    peak: float = 0.0
    max_abs: float = 0.0
    is_equal: bool = True
    is_text_equal: bool = True
    compared: int = 0
    has_nan: bool = False
    has_infinity: bool = False
    mismatch: str | None = None

    def add(self, reference: Any, candidate: Any) -> None:
        """Take in what both models gave for the same inputs."""
        ours, theirs = list(_leaves(reference)), list(_leaves(candidate))
        if [key for key, _ in ours] != [key for key, _ in theirs]:
            self._fail("structure differs")
            return
        for (_, left), (_, right) in zip(ours, theirs, strict=True):
            self._add_array(left, right)

    def _add_array(self, left: np.ndarray, right: np.ndarray) -> None:
        if left.dtype.kind in "OUS" and right.dtype.kind in "OUS":
            self.compared += left.size
            if left.shape != right.shape or not np.array_equal(left, right):
                self.is_equal = self.is_text_equal = False
        elif left.dtype != right.dtype:
            self._fail(f"dtype {right.dtype} instead of {left.dtype}")
        elif left.shape != right.shape:
            self._fail(f"shape {list(right.shape)} instead of {list(left.shape)}")
        elif left.size > _BLOCK_ELEMENTS:
            flat = left.reshape(-1), right.reshape(-1)
            for start, stop in blocks(left.size, _BLOCK_ELEMENTS):
                self._add_array(flat[0][start:stop], flat[1][start:stop])
        elif left.dtype.kind in "iu":
            self._add_numbers(left, right, _distance(left, right))
        else:
            wide = np.complex128 if left.dtype.kind == "c" else np.float64
            left, right = left.astype(wide), right.astype(wide)
            with np.errstate(all="ignore"):
                self._add_numbers(left, right, np.abs(left - right))

    def _add_numbers(self, left: np.ndarray, right: np.ndarray, distance: np.ndarray) -> None:
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        self.is_equal = self.is_equal and bool(same.all())
        finite = np.isfinite(left) & np.isfinite(right)
        if not (finite | same).all():
            self._fail("NaN or infinity in other places")
            return
        self.compared += int(finite.sum())
        self.has_nan = self.has_nan or bool(np.isnan(left).any())
        self.has_infinity = self.has_infinity or bool(np.isinf(left).any())
        wide = np.complex128 if left.dtype.kind == "c" else np.float64
        left, right = left[finite].astype(wide), right[finite].astype(wide)
        with np.errstate(all="ignore"):
            self.signal += float(np.sum(np.abs(left) ** 2))
            self.other += float(np.sum(np.abs(right) ** 2))
            self.product += float(np.sum((left * right.conj()).real))
            self.noise += float(np.sum(distance[finite] ** 2))
        self.peak = max(self.peak, float(np.max(np.abs(left), initial=0.0)))
        self.max_abs = max(self.max_abs, float(np.max(distance[finite], initial=0.0)))

    def _fail(self, mismatch: str) -> None:
        self.is_equal = False
        self.mismatch = self.mismatch or mismatch

    def difference(self, name: str) -> OutputDifference:
        """Return the differences of all that was taken in, under the output's name."""
        is_undefined = self.is_equal and not self.compared
        if self.mismatch is not None or is_undefined:
            return OutputDifference(
                name=name,
                snr_db=-math.inf,
                max_abs=None,
                cosine=None,
                is_equal=False,
                mismatch=self.mismatch,
                undefined=self._nothing() if self.mismatch is None else None,
            )
        norms = math.sqrt(self.signal) * math.sqrt(self.other)
        is_defined = 0 < norms < math.inf and math.isfinite(self.product)
        return OutputDifference(
            name=name,
            snr_db=None if self.is_equal else self._decibels(),
            max_abs=self.max_abs if self.is_text_equal else None,
            cosine=max(-1.0, min(1.0, self.product / norms)) if is_defined else None,
            is_equal=self.is_equal,
        )

    def _nothing(self) -> str:
        kinds = [("NaN", self.has_nan), ("infinity", self.has_infinity)]
        found = " and ".join(kind for kind, is_there in kinds if is_there)
        if found:
            return f"no finite value to compare: both models gave only {found}"
        return "no value to compare: both models gave nothing"

    def _decibels(self) -> float:
        if not self.is_text_equal:
            return -math.inf
        if 0 < self.signal < math.inf and 0 < self.noise < math.inf:
            return 10 * (math.log10(self.signal) - math.log10(self.noise))
        if self.peak == 0 or not math.isfinite(self.max_abs):
            return -math.inf
        # The squares left the range of float64; the ratio of the peaks has not.
        return 20 * (math.log10(self.peak) - math.log10(self.max_abs))


def _leaves(value: Any, key: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """Yield the arrays of an output with their places in its sequences and maps."""
    if isinstance(value, (list, tuple)):
        yield (*key, "length", len(value)), np.zeros(0)
        for index, item in enumerate(value):
            yield from _leaves(item, (*key, index))
    elif isinstance(value, Mapping):
        for name in sorted(value, key=repr):
            yield from _leaves(value[name], (*key, name))
    elif value is None:
        yield (*key, None), np.zeros(0)
    else:
        yield key, np.asarray(value)


def _distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return |left - right| of integers; float64 would take 2**53 and 2**53 + 1 for equal."""
    kind = np.uint64 if left.dtype.kind == "u" else np.int64
    left, right = left.astype(kind), right.astype(kind)
    distance: np.ndarray = np.maximum(left, right) - np.minimum(left, right)
    return distance.astype(np.uint64).astype(np.float64)
