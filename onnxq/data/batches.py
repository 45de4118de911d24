"""What a model is run on, batch by batch: the records that data sets hand out.

Owns the records, not where the data come from: files are read by `dataset`, random inputs are drawn
by others. A data set is walked as often as needed, always in the same order, and holds no more
than one batch of it in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from onnxq.data.preprocess import Preprocess
from onnxq.errors import OptionError
from onnxq.runtime import OutputSpec

Array = np.ndarray[Any, np.dtype[Any]]

Kind = Literal["random", "inputs", "npz", "npz-folder", "image-classes", "images", "audio-classes"]

DEFAULT_BATCH = 32
"""Most samples in a batch where neither the model nor the data nor the caller says otherwise."""

DEFAULT_BATCH_BYTES = 1 << 28
"""Most bytes of inputs in such a batch, unless a single sample is larger."""


def default_batch(sample_bytes: int) -> int:
    """Return how many samples of a size make a batch that nobody settled.

    >>> default_batch(1 << 10), default_batch(1 << 26), default_batch(1 << 40)
    (32, 4, 1)
    """
    return max(1, min(DEFAULT_BATCH, DEFAULT_BATCH_BYTES // max(1, sample_bytes)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Hold the samples of one run.

    Attributes:
        feeds: Inputs by name; they fit the model as they are.
        truth: Arrays that are no inputs, such as "label" and "target"; the leading axis is that of
            the samples.
        samples: Number of samples, at least 1.
        where: Where they come from: "val.npz samples 0..31", "n01440764/x.JPEG".
        is_item: The feeds are one sample as a whole: neither they nor the outputs have an axis of
            samples.
        is_start: A sequence starts here, so that carried state starts anew.
        constants: Values of random inputs that are constant because no random values ran.
    """

    feeds: Mapping[str, Array]
    truth: Mapping[str, Array] = field(default_factory=dict)
    samples: int
    where: str
    is_item: bool = False
    is_start: bool = False
    constants: Mapping[str, int] = field(default_factory=dict)


class Dataset(Protocol):
    """Give the same batches in the same order, as often as asked."""

    @property
    def kind(self) -> Kind:
        """What the data are, as in `measurements.DataUsed`."""

    @property
    def path(self) -> str | None:
        """Where they lie; None for what is in memory."""

    @property
    def truths(self) -> tuple[str, ...]:
        """Names of the arrays in `Batch.truth`."""

    @property
    def available(self) -> int | None:
        """Samples that there are, a limit left aside; None where that is unknown."""

    @property
    def classes(self) -> int | None:
        """Number of classes, of data in class folders."""

    def batches(self) -> Iterator[Batch]:
        """Yield every batch, the samples of each read when it is asked for.

        Raises:
            InputError: a file cannot be read or does not fit the model.
        """


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Say how data are read.

    Attributes:
        preprocess: How images and sounds become arrays; None is right for .npz alone.
        batch: Samples in a batch; None for what fits: the model's own first size, 1 where sizes
            vary or state is carried, else `default_batch`.
        limit: Samples to stop after; None for all.
        carried: Inputs that are fed from an output of the run before. The data may lack them; what
            they have is the state that every sequence starts with, as a whole.
        outputs: Outputs of the model, one of which may be the state that the data lack.
    """

    preprocess: Preprocess | None = None
    batch: int | None = None
    limit: int | None = None
    carried: frozenset[str] = frozenset()
    outputs: tuple[OutputSpec, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            OptionError: `batch` or `limit` is below 1.
        """
        for name, value in (("batch", self.batch), ("limit", self.limit)):
            if value is not None and value < 1:
                raise OptionError(f"{name}: found {value}, expected at least 1")


def check_batch(options: DataOptions, size: int, reason: str) -> None:
    """Check that the caller asks for batches of the only size there is, or of none.

    Raises:
        OptionError: it is another one.
    """
    if options.batch not in (None, size):
        raise OptionError(f"batch: found {options.batch}, expected {size}: {reason}")
