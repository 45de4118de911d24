"""Compare what two models compute: output by output, in onnxruntime.

Owns the comparison and its record, not the running (`runtime`), not what a difference is
(`differences`) and not the judgement (the caller has the gate).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxq import draws, record_json, runtime
from onnxq.differences import OutputDifference, OutputSums
from onnxq.errors import InputError, UnsupportedError, ValidationError
from onnxq.plaintext import dtype_text

_Run = tuple[Mapping[str, Any], dict[str, Any], Mapping[str, int]]
"""The inputs of a sample, the reference's outputs for them, and which inputs are constant."""

LIMIT_BYTES = 1 << 30
"""A larger model is only checked on random inputs when a number of them is asked for."""

_LOADS = 5
_SHORT_SECONDS = 0.3
"""A shorter load is repeated: the ratio of two single short times would be noise."""
_LOADING_SECONDS = 0.15
"""Time to spend on repeating, but for the last round."""
_COMPARABLE_SECONDS = 0.005
"""Where both loads are shorter, what they cost beside the model drowns their ratio."""


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

    `status` is "failed" where an output has a mismatch or, with the `reason`, the candidate cannot
    be run; and "skipped", with the `reason`, where the reference cannot be run, so that nothing is
    known. Noise alone never fails a check.
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
