"""Data sets of what needs no file: random inputs, and inputs as they are given.

Owns how such inputs are walked as a data set; values are drawn by `draws`. They are few and stay in
memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxq import draws
from onnxq.data.batches import Batch, Kind
from onnxq.draws import Accepted, Recipe
from onnxq.runtime import Session


class _NoTruth:
    """Have neither labels nor a place."""

    path: str | None = None
    truths: tuple[str, ...] = ()
    classes: int | None = None


class RandomData(_NoTruth):
    """Draw samples that a model accepts; each is a batch of its own.

    Args:
        session: The model that must accept them; released once they are drawn.
        samples: How many.
        seed: Of all draws.
        recipe: Sizes and ranges.
    """

    kind: Kind = "random"
    available: int | None = None

    def __init__(
        self, session: Session, samples: int = 1, seed: int = 0, recipe: Recipe = draws.PLAIN
    ) -> None:
        self._session: Session | None = session
        self._samples, self._seed, self._recipe = samples, seed, recipe
        self._drawn: list[Accepted] = []
        self._lock = threading.Lock()

    def batches(self) -> Iterator[Batch]:
        """Yield every sample.

        Raises:
            OptionError: the recipe does not fit the model.
            OnnxqError: the model accepts no inputs that were tried.
        """
        with self._lock:
            if self._session is not None:
                self._drawn = [
                    replace(
                        draws.accepted(self._session, sample, self._seed, self._recipe), outputs={}
                    )
                    for sample in range(self._samples)
                ]
                self._session = None
        for sample, drawn in enumerate(self._drawn):
            yield Batch(
                feeds=drawn.feeds,
                samples=1,
                where=f"random sample {sample}",
                is_start=True,
                constants=drawn.constants,
            )


class GivenData(_NoTruth):
    """Walk inputs in memory; each mapping is a batch.

    Where all inputs of a batch with an axis have the same first size, that is its number of
    samples, else it is one.
    """

    kind: Kind = "inputs"

    def __init__(self, feeds: Sequence[Mapping[str, Any]]) -> None:
        self._feeds = list(feeds)
        self.available: int | None = sum(map(_samples, self._feeds))

    def batches(self) -> Iterator[Batch]:
        """Yield every mapping."""
        for index, feeds in enumerate(self._feeds):
            where = f"given inputs {index}" if len(self._feeds) > 1 else "the given inputs"
            yield Batch(feeds=feeds, samples=_samples(feeds), where=where, is_start=True)


def _samples(feeds: Mapping[str, Any]) -> int:
    """Return the first size that all inputs share, 1 where they share none."""
    sizes = {np.shape(value)[0] for value in feeds.values() if np.ndim(value)}
    return max(1, sizes.pop()) if len(sizes) == 1 else 1
