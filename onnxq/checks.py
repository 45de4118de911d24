"""Compare what two models compute: output by output, in onnxruntime.

Owns the differences and their meaning (what is equal, what no number can describe), not the
running (`runtime`) and not the judgement (the caller has the gate). Sums are float64 and run over
all samples, so that a few samples with small signals cannot dominate a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxq import draws, record_json, runtime
from onnxq.errors import InputError, UnsupportedError, ValidationError
from onnxq.parallel import blocks
from onnxq.plaintext import dtype_text

_Run = tuple[Mapping[str, Any], dict[str, Any], Mapping[str, int]]
"""The inputs of a sample, the reference's outputs for them, and which inputs are constant."""

_BLOCK_ELEMENTS = 1 << 20
"""Elements that are compared at a time, as float64."""
_LOADS = 10
_SHORT_SECONDS = 0.3
"""A shorter load is repeated: the ratio of two single short times would be noise."""
_LOADING_SECONDS = 0.6
"""Time to spend on repeating, but for the last round."""
_COMPARABLE_SECONDS = 0.005
"""Where both loads are shorter, what they cost beside the model drowns their ratio."""


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


@dataclass(frozen=True, kw_only=True)
class FedInput:
    """Name an input that the comparison fed, with the dtype and shape of its first sample.

    `constant` is the value that took the place of random ones, none of which ran; else None.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    constant: int | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """Hold the result of a comparison.

    `status` is "failed" where an output has a mismatch, and "skipped", with the `reason`, where
    the reference cannot be run, so that nothing is known. Noise alone never fails a check.
    """

    status: Literal["ok", "skipped", "failed"]
    reason: str | None = None
    samples: int
    inputs: tuple[FedInput, ...] = ()
    outputs: tuple[OutputDifference, ...] = ()
    load_ratio: float | None = None
    reference_load_seconds: float | None = None
    candidate_load_seconds: float | None = None

    @property
    def is_equal(self) -> bool:
        """Whether all that was compared is equal, and something was."""
        compared = self._compared()
        return (
            self.status == "ok"
            and bool(compared or not self.outputs)
            and all(output.is_equal for output in compared)
        )

    @property
    def worst_snr_db(self) -> float | None:
        """The least ratio of all outputs; None where all are equal or nothing was compared."""
        return min((o.snr_db for o in self._compared() if o.snr_db is not None), default=None)

    def _compared(self) -> list[OutputDifference]:
        return [output for output in self.outputs if output.undefined is None]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the inputs that were fed."""
        return tuple(
            f"input {fed.name!r} was fed with "
            f"{'zeros' if fed.constant == 0 else f'{fed.constant} alone'}: no random value ran"
            for fed in self.inputs
            if fed.constant is not None
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values, with `is_equal` and `worst_snr_db`."""
        fields = record_json.fields_to_json(self)
        derived = {"is_equal": self.is_equal, "worst_snr_db": self.worst_snr_db}
        return {**fields, **record_json.to_json(derived)}

    def failing(self, min_snr: float) -> tuple[OutputDifference, ...]:
        """Return the outputs with a mismatch or a ratio below `min_snr` decibels."""
        return tuple(
            output
            for output in self.outputs
            if output.mismatch is not None
            or (output.snr_db is not None and output.snr_db < min_snr)
        )


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
        if self.mismatch is not None:
            return OutputDifference(
                name=name,
                snr_db=-math.inf,
                max_abs=None,
                cosine=None,
                is_equal=False,
                mismatch=self.mismatch,
            )
        if self.is_equal and not self.compared:
            return OutputDifference(
                name=name,
                snr_db=-math.inf,
                max_abs=None,
                cosine=None,
                is_equal=False,
                undefined=self._nothing(),
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


def compare(
    reference: Path | bytes,
    candidate: Path | bytes,
    *,
    samples: int = 1,
    feeds: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
    recipe: draws.Recipe = draws.PLAIN,
) -> Check:
    """Run both models on the same inputs and return their differences, worst and summed.

    The reference is loaded, run and released before the candidate, so only one is in memory.

    Args:
        reference: file or serialised model that is right by definition.
        candidate: file or serialised model to judge.
        samples: number of random inputs, where `feeds` gives none.
        feeds: inputs by name, one mapping per sample.
        seed: seed of the random inputs.
        recipe: sizes and ranges of the random inputs.

    Raises:
        ValidationError: the reference runs and the candidate does not, or lacks an output.
        InputError, UnsupportedError: the reference cannot be run on given `feeds`.
        MissingDependencyError: onnxruntime is not installed.
    """
    count = samples if feeds is None else len(feeds)
    try:
        session = runtime.open_session(reference)
        runs = list(_reference_runs(session, samples, feeds, seed, recipe))
    except (InputError, UnsupportedError) as err:
        if feeds is not None:
            raise
        return Check(status="skipped", reason=str(err), samples=count)
    names, before = session.outputs, session.load_seconds
    del session
    outputs, after = _candidate_outputs(names, candidate, runs)
    before, after = _best_loads((reference, before), (candidate, after))
    is_comparable = max(before, after) >= _COMPARABLE_SECONDS and before > 0
    return Check(
        status="failed" if any(output.mismatch for output in outputs) else "ok",
        samples=count,
        inputs=_fed_inputs(runs),
        outputs=outputs,
        load_ratio=after / before if is_comparable else None,
        reference_load_seconds=before,
        candidate_load_seconds=after,
    )


def _candidate_outputs(
    names: Sequence[str], candidate: Path | bytes, runs: Sequence[_Run]
) -> tuple[tuple[OutputDifference, ...], float]:
    """Return the candidate's differences, and the time that it took to load."""
    try:
        session = runtime.open_session(candidate)
        return _differences(names, session, runs), session.load_seconds
    except (InputError, UnsupportedError) as err:
        raise ValidationError(f"the reference runs, the candidate does not: {err}") from err


def _differences(
    names: Sequence[str], candidate: runtime.Session, runs: Sequence[_Run]
) -> tuple[OutputDifference, ...]:
    check_outputs(names, candidate)
    sums = {name: OutputSums() for name in names}
    for fed, expected, _ in runs:
        found = candidate.run(fed)
        for name in names:
            sums[name].add(expected[name], found[name])
    return tuple(sums[name].difference(name) for name in names)


def check_outputs(names: Sequence[str], candidate: runtime.Session) -> None:
    """Check that a model has the outputs to compare.

    Raises:
        ValidationError: one is missing.
    """
    for name in names:
        if name not in candidate.outputs:
            raise ValidationError(f"{candidate.where}: output {name!r} is missing")


def _best_loads(*first: tuple[Path | bytes, float]) -> list[float]:
    """Return the least time that each source took to load, given the time of its first load.

    Short loads are repeated in turn, so that a busy moment of the machine meets all of them.
    """
    best, spent = [seconds for _, seconds in first], 0.0
    for _ in range(_LOADS - 1):
        if max(best) < _SHORT_SECONDS and spent < _LOADING_SECONDS:
            times = [runtime.open_session(source).load_seconds for source, _ in first]
            best, spent = list(map(min, best, times)), spent + sum(times)
    return best


def _reference_runs(
    session: runtime.Session,
    samples: int,
    feeds: Sequence[Mapping[str, Any]] | None,
    seed: int,
    recipe: draws.Recipe,
) -> Iterator[_Run]:
    if feeds is None:
        for sample in range(samples):
            drawn = draws.accepted(session, sample, seed, recipe)
            yield drawn.feeds, drawn.outputs, drawn.constants
    else:
        for fed in feeds:
            yield fed, session.run(fed), {}


def _fed_inputs(runs: Sequence[_Run]) -> tuple[FedInput, ...]:
    if not runs:
        return ()
    constants = {name: value for run in reversed(runs) for name, value in run[2].items()}
    return fed_inputs(runs[0][0], constants)


def fed_inputs(feeds: Mapping[str, Any], constants: Mapping[str, int]) -> tuple[FedInput, ...]:
    """Return the records of what was fed, of which `constants` has the values of some."""
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    return tuple(
        FedInput(
            name=name,
            dtype=dtype_text(array.dtype),
            shape=tuple(array.shape),
            constant=constants.get(name),
        )
        for name, array in arrays.items()
    )


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
