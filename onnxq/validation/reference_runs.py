"""The reference's side of an evaluation: run once, kept on disk, read by every candidate.

Owns the walk over a data set in step with a model, the state that is carried from run to run, and
the file of the reference's outputs. What does not fit in the budget of that file is computed
again. The reference is released as soon as all its outputs are stored.
"""

from __future__ import annotations

import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from onnxq import runtime
from onnxq.checks import FedInput, fed_inputs
from onnxq.data import fitting
from onnxq.data.batches import Batch, Dataset
from onnxq.errors import InputError, OptionError, UnsupportedError
from onnxq.runtime import InputSpec, OutputSpec, Session
from onnxq.session_settings import DEFAULT, SessionSettings
from onnxq.validation.measurements import DataUsed

Array = np.ndarray[Any, np.dtype[Any]]
Outputs = dict[str, Any]
Look = Callable[[Batch, Mapping[str, Any], Outputs], None]
"""See a batch, what was fed and what came out; whatever it raises ends the walk."""

BUDGET_BYTES = 8 << 30
"""Most bytes of outputs to keep, and no more than half of what the disk has left."""


class Carried:
    """Feed a model's state from each run to the next of the same sequence.

    Args:
        session: The model.
        carry: Names of inputs by the output that they continue.

    Raises:
        OptionError: the model lacks one of them, or they do not fit each other.
    """

    def __init__(self, session: Session, carry: Mapping[str, str]) -> None:
        self._session, self._carry = session, dict(carry)
        self._last: Mapping[str, Any] | None = None
        names = tuple(spec.name for spec in session.inputs)
        for output, name in self._carry.items():
            for wanted, there, kind in (
                (output, session.outputs, "output"),
                (name, names, "input"),
            ):
                if wanted not in there:
                    raise OptionError(
                        f"--carry {output}={name}: {session.where} has no {kind} {wanted!r}; "
                        f"its {kind}s are {', '.join(map(repr, there))}"
                    )
            _check_fit(session, output, name)

    def feeds(self, batch: Batch) -> dict[str, Any]:
        """Return a batch's inputs with the state.

        A sequence starts with the data's own state, or with zeros whose open sizes are those of
        the other inputs, else 1.

        Raises:
            OptionError: the batch has several samples, which would need each other's state.
        """
        if not self._carry:
            return dict(batch.feeds)
        if batch.samples > 1:
            raise OptionError(
                f"{batch.where}: state is carried from sample to sample, so a run takes one; "
                "use --batch 1"
            )
        if batch.is_start or self._last is None:
            missing = set(self._carry.values()) - set(batch.feeds)
            return {**batch.feeds, **{name: self._zeros(name, batch) for name in sorted(missing)}}
        last = self._last
        return {**batch.feeds, **{name: last[out] for out, name in self._carry.items()}}

    def keep(self, outputs: Mapping[str, Any]) -> None:
        """Remember the state that a run left."""
        self._last = {name: outputs[name] for name in self._carry}

    def _zeros(self, name: str, batch: Batch) -> Array:
        (spec,) = (spec for spec in self._session.inputs if spec.name == name)
        if not runtime.is_known_dtype(spec.dtype) or spec.dtype == "str":
            raise UnsupportedError(
                f"{self._session.where}: input {name!r} of type {spec.dtype} cannot start at "
                "zero; give its first value in the data"
            )
        sizes = _open_sizes(self._session.inputs, batch.feeds)
        shape = [size if isinstance(size, int) else sizes.get(size, 1) for size in spec.shape]
        is_float = "float" in spec.dtype
        return np.zeros(shape, runtime.float_dtype(spec.dtype) if is_float else spec.dtype)


class ReferenceRuns:
    """Give the reference's outputs for every batch, to any number of candidates and threads.

    A context manager; leaving it removes the file.

    Args:
        source: File or serialised model.
        dataset: What it is run on.
        settings: Of the session.
        carry: Names of inputs by the output that they continue, of both models.
        budget_bytes: Most bytes of outputs to keep on disk.
        session: The source, where it is open already; released as if opened here.
    """

    def __init__(
        self,
        source: Path | bytes,
        dataset: Dataset,
        settings: SessionSettings = DEFAULT,
        *,
        carry: Mapping[str, str] | None = None,
        budget_bytes: int = BUDGET_BYTES,
        session: Session | None = None,
    ) -> None:
        self._source, self.dataset, self.settings = source, dataset, settings
        self.carry = dict(carry or {})
        self._store = _Store(budget_bytes)
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._is_filled = False
        self.first_feeds: Mapping[str, Any] = {}
        """What the first run was fed, carried state included; known once `fill` was called."""
        self.first_samples = 0
        self._batches = self._samples = 0
        self._inputs: tuple[FedInput, ...] = ()
        self.output_specs: tuple[OutputSpec, ...] = ()
        self.load_seconds = 0.0
        if session is not None:
            self._take(session)

    def __enter__(self) -> ReferenceRuns:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._store.close()
        self._session = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, known once `open` was called."""
        return tuple(spec.name for spec in self.output_specs)

    def open(self) -> None:
        """Open the reference, which tells its outputs, without running it.

        Raises:
            InputError, UnsupportedError: onnxruntime cannot load it.
        """
        with self._lock:
            self._open()

    def _open(self) -> None:
        if not self._is_filled and self._session is None:
            self._take(runtime.open_session(self._source, self.settings))

    def _take(self, session: Session) -> None:
        self.output_specs, self.load_seconds = session.output_specs, session.load_seconds
        self._session = session

    def fill(self, look: Look | None = None) -> None:
        """Run the reference on all data, unless that has been done.

        Args:
            look: Called with the first batch before the second is run.

        Raises:
            InputError, UnsupportedError: it cannot be run on them, or there are none.
            OptionError: `carry` names what the model lacks.
        """
        with self._lock:
            if self._is_filled:
                return
            self._open()
            assert self._session is not None
            self._walk(self._session, look)
            self._is_filled = True
            if self._store.count == self._batches:
                self._session = None

    def _walk(self, session: Session, look: Look | None) -> None:
        state = Carried(session, self.carry)
        self._batches = self._samples = 0
        constants: dict[str, int] = {}
        self._store.clear()
        for batch in self.dataset.batches():
            outputs, feeds = _run(session, state, batch)
            if not self._batches:
                self._inputs = fed_inputs(feeds, {})
                self.first_feeds, self.first_samples = feeds, batch.samples
                if look is not None:
                    look(batch, feeds, outputs)
            constants = {**batch.constants, **constants}
            self._store.append(outputs)
            self._batches += 1
            self._samples += batch.samples
        if not self._batches:
            where = self.dataset.path or f"{self.dataset.kind} data"
            raise InputError(f"{where}: holds no samples, expected at least one")
        self._inputs = tuple(replace(fed, constant=constants.get(fed.name)) for fed in self._inputs)

    def runs(self) -> Iterator[tuple[Batch, Outputs]]:
        """Yield every batch with the reference's outputs for it.

        Raises:
            InputError: the data have changed since the first walk; others as `fill`.
        """
        self.fill()
        state = Carried(self._session, self.carry) if self._session else None
        count = 0
        for count, batch in enumerate(self.dataset.batches(), 1):
            if count <= self._store.count:
                outputs = self._store.read(count - 1)
                if state is not None:
                    state.keep(outputs)
            elif count <= self._batches and state is not None and self._session is not None:
                outputs, _ = _run(self._session, state, batch)
            else:
                break
            yield batch, outputs
        if count != self._batches:
            raise InputError(
                f"{self.dataset.path}: found {count} batches, expected {self._batches} as before; "
                "the data must stay as they are while they are read"
            )

    def data_used(self) -> DataUsed:
        """Return what the models are run on."""
        self.fill()
        return DataUsed(
            kind=self.dataset.kind,
            path=self.dataset.path,
            samples=self._samples,
            available=self.dataset.available,
            truths=tuple(self.dataset.truths),
            inputs=self._inputs,
            classes=self.dataset.classes,
        )


class _Store:
    """Keep outputs in a temporary file, in order, until the budget is spent or the disk full."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._file: Any = None
        self._ends = [0]
        self._is_full = False
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Number of entries."""
        return len(self._ends) - 1

    def append(self, outputs: Outputs) -> None:
        """Keep one entry more; once one was too much, none that follows is kept."""
        data = pickle.dumps(outputs, protocol=pickle.HIGHEST_PROTOCOL)
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="onnxq-")  # noqa: SIM115 - kept open
            free = shutil.disk_usage(tempfile.gettempdir()).free
            self._budget = min(self._budget, free // 2)
        self._is_full = self._is_full or self._ends[-1] + len(data) > self._budget
        if self._is_full:
            return
        try:
            self._file.write(data)
            self._file.flush()
        except OSError:
            self._is_full = True
        else:
            self._ends.append(self._ends[-1] + len(data))

    def clear(self) -> None:
        """Forget all entries, such as those of a walk that failed."""
        self._ends, self._is_full = [0], False
        if self._file is not None:
            self._file.seek(0)

    def read(self, index: int) -> Outputs:
        """Return an entry."""
        with self._lock:
            self._file.seek(self._ends[index])
            data = self._file.read(self._ends[index + 1] - self._ends[index])
        outputs: Outputs = pickle.loads(data)
        return outputs

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()


def _check_fit(session: Session, output: str, name: str) -> None:
    """Check that an output can be the input of the next run.

    An output of a shape that the model does not tell may be of any.
    """
    (found,) = (spec for spec in session.output_specs if spec.name == output)
    (spec,) = (spec for spec in session.inputs if spec.name == name)
    is_untold = not found.shape and found.dtype == spec.dtype
    if not is_untold and not fitting.can_continue(found, spec):
        raise OptionError(
            f"--carry {output}={name}: output {fitting.describe(found)} cannot continue input "
            f"{fitting.describe(spec)} of {session.where}; expected the dtype, the rank and every "
            "fixed size of the input"
        )


def _run(session: Session, state: Carried, batch: Batch) -> tuple[Outputs, Mapping[str, Any]]:
    feeds = state.feeds(batch)
    try:
        outputs = session.run(feeds)
    except (InputError, UnsupportedError) as err:
        raise type(err)(f"{batch.where}: {err}") from err
    state.keep(outputs)
    return outputs, feeds


def _open_sizes(inputs: tuple[InputSpec, ...], feeds: Mapping[str, Array]) -> dict[Any, int]:
    """Return the sizes that feeds give to named open dimensions."""
    return {
        name: size
        for spec in inputs
        if spec.name in feeds
        for name, size in zip(spec.shape, np.shape(feeds[spec.name]), strict=False)
        if isinstance(name, str)
    }
