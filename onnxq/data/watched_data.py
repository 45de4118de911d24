"""Data sets seen through: the first samples of one, and one whose walk is told of.

Owns the counting of samples and tensors for a progress bar, and what is noted of odd values.
Batches pass as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.data.batches import Batch, Dataset, Kind


@dataclass(frozen=True, kw_only=True)
class MeasureEvent:
    """Say how far a measurement is.

    Attributes:
        stage: What is being done, in a word or two.
        subject: What was finished last: a sample's place, or a tensor.
        done: Samples or tensors that are finished in this stage.
        total: All of them; None where that is not known.
    """

    stage: str
    subject: str = ""
    done: int = 0
    total: int | None = None


Progress = Callable[[MeasureEvent], None]

_STAGES = ("reference", "candidate")


class Told:
    """Tell a caller how far a measurement is, if anyone wants to know."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def stage(self, name: str) -> None:
        """Tell of a stage that begins, and whose steps are not counted."""
        self.tell(MeasureEvent(stage=name))

    def tensor_done(self, name: str, done: int, total: int) -> None:
        """Tell of a tensor that was tried."""
        self.tell(MeasureEvent(stage="tensors", subject=name, done=done, total=total))

    def tell(self, event: MeasureEvent) -> None:
        """Tell of any event."""
        if self._progress is not None:
            self._progress(event)


class _Seen:
    """Have the properties of another data set."""

    def __init__(self, data: Dataset) -> None:
        self._data = data

    @property
    def kind(self) -> Kind:
        """What the data are."""
        return self._data.kind

    @property
    def path(self) -> str | None:
        """Where they lie."""
        return self._data.path

    @property
    def truths(self) -> tuple[str, ...]:
        """Names of the arrays of labels and targets."""
        return self._data.truths

    @property
    def available(self) -> int | None:
        """Samples that there are."""
        return self._data.available

    @property
    def classes(self) -> int | None:
        """Number of classes."""
        return self._data.classes


class WatchedData(_Seen):
    """Tell of every batch that is done: of the reference in the first walk, then of the candidate.

    Args:
        data: The data.
        told: Whom to tell.
        limit: Most samples that the data will give; None for all.
    """

    def __init__(self, data: Dataset, told: Told, limit: int | None = None) -> None:
        super().__init__(data)
        known = [count for count in (data.available, limit) if count is not None]
        self._told, self._total = told, min(known, default=None)
        self._walks = 0

    def batches(self) -> Iterator[Batch]:
        """Yield every batch; one is done when the next is asked for."""
        stage = _STAGES[min(self._walks, 1)]
        self._walks += 1
        self._told.tell(MeasureEvent(stage=stage, total=self._total))
        done = 0
        for batch in self._data.batches():
            yield batch
            done += batch.samples
            event = MeasureEvent(stage=stage, subject=batch.where, done=done, total=self._total)
            self._told.tell(event)


class NotedData(_Seen):
    """Note what is odd about data when they are walked for the first time.

    Args:
        data: The data.
        limit: Most samples that the data will give, as a caller asked for; None for all.
    """

    def __init__(self, data: Dataset, limit: int | None = None) -> None:
        super().__init__(data)
        self._limit = limit
        self._is_walked = False
        self._nan: dict[str, str] = {}
        self._labels: set[int] = set()
        self._samples = 0

    def batches(self) -> Iterator[Batch]:
        """Yield every batch."""
        for batch in self._data.batches():
            if not self._is_walked:
                self._look(batch)
            yield batch
        self._is_walked = True

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know; complete after a walk."""
        found = [f"input {name!r} holds NaN, first in {where}" for name, where in self._nan.items()]
        if len(self._labels) == 1 and (self._limit is not None or self._samples > 1):
            hint = "" if self._limit is None else f"; --limit {self._limit} leaves no other"
            found.append(f"every sample is of class {min(self._labels)}{hint}")
        return tuple(found)

    def _look(self, batch: Batch) -> None:
        for name, value in batch.feeds.items():
            array = np.asarray(value)
            is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
            if name not in self._nan and is_float and np.isnan(array).any():
                self._nan[name] = batch.where
        label = np.asarray(batch.truth.get("label", ()))
        self._samples += batch.samples
        if label.dtype.kind in "iu" and label.size == batch.samples:
            self._labels.update(label.reshape(-1).tolist())


class FirstSamples(_Seen):
    """Stop after the batch with which a number of samples is reached.

    Args:
        data: The data.
        samples: That number, at least 1.
    """

    def __init__(self, data: Dataset, samples: int) -> None:
        super().__init__(data)
        self._samples = samples

    def batches(self) -> Iterator[Batch]:
        """Yield the first batches."""
        done = 0
        for batch in self._data.batches():
            yield batch
            done += batch.samples
            if done >= self._samples:
                return


class SpreadSamples(_Seen):
    """Give batches spread evenly over a data set, with about a number of samples.

    Args:
        data: The data.
        samples: That number, at least 1.
    """

    def __init__(self, data: Dataset, samples: int) -> None:
        super().__init__(data)
        self._samples = samples
        self._chosen: frozenset[int] | None = None

    def batches(self) -> Iterator[Batch]:
        """Yield the batches; the first walk is preceded by one that counts them."""
        if self._chosen is None:
            self._chosen = spread([batch.samples for batch in self._data.batches()], self._samples)
        last = max(self._chosen, default=-1)
        for number, batch in enumerate(self._data.batches()):
            if number > last:
                return
            if number in self._chosen:
                yield batch


class HalfOfSamples(_Seen):
    """Give about one half of the batches of a data set; the other half is given by another.

    Of every two one is given, now the first, now the second, as the Thue-Morse sequence has it:
    where labels take turns both halves have all of them.

    Args:
        data: The data.
        half: 0 or 1.
        by_sequence: Whether batches stay with the others of their sequence.
    """

    def __init__(self, data: Dataset, half: int, *, by_sequence: bool = False) -> None:
        super().__init__(data)
        self._half, self._by_sequence = half, by_sequence

    @property
    def available(self) -> int | None:
        """Not known before a walk."""
        return None

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the half."""
        number = -1
        for batch in self._data.batches():
            number += batch.is_start or not self._by_sequence or number < 0
            if number.bit_count() % 2 == self._half:
                yield batch


def spread(sizes: Sequence[int], samples: int) -> frozenset[int]:
    """Return the places of batches that are spread evenly and hold about so many samples.

    >>> sorted(spread([8, 8, 8, 8, 8, 8], 24))
    [0, 2, 4]
    """
    wanted = max(1, -(-samples * len(sizes) // max(1, sum(sizes))))
    count = min(wanted, len(sizes))
    return frozenset(len(sizes) * number // count for number in range(count))
