"""The records that data sets hand out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnxq.data.batches import Batch, DataOptions, Dataset
from onnxq.errors import OptionError


class OneBatch:
    kind = "inputs"
    path = None
    truths = ()
    available = 1
    classes = None

    def batches(self) -> Iterator[Batch]:
        yield Batch(feeds={"x": np.zeros((1, 2))}, samples=1, where="memory", is_start=True)


def walk(dataset: Dataset) -> list[Batch]:
    return list(dataset.batches())


def test_plain_attributes_make_a_dataset() -> None:
    (batch,) = walk(OneBatch())  # type: ignore[arg-type]
    assert batch.truth == {}
    assert not batch.is_item


@pytest.mark.parametrize("name", ["batch", "limit"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=rf"^{name}: found 0, expected at least 1$"):
        DataOptions(**{name: 0})  # type: ignore[arg-type]
