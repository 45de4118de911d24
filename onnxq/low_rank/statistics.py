"""What is known of layers' inputs: moments that the model's runs on data show.

Owns how much is looked at for factors; the runs and the sums are `calibration.moments`'.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxq.calibration import maps, moments
from onnxq.calibration.maps import LinearMap
from onnxq.calibration.moments import Bounds, Looking, StoredMoments, Tell
from onnxq.data.batches import Dataset
from onnxq.graphs import Document
from onnxq.low_rank.factors import Statistics
from onnxq.low_rank.layers import Layer
from onnxq.low_rank.ranks import Key

MOST_INPUTS = 6144
"""Most inputs of a layer whose features are looked at in pairs (302 MB); else each for itself."""
LAYERS = 8
"""Most layers whose inputs are looked at in one walk over the data."""
MOMENT_BYTES = 512 << 20
"""Most bytes of the sums of such layers, unless a single one has more."""
RUN_SAMPLES = 4
"""Most samples of a run, where the model takes any number: their inputs are held together."""
SAMPLE_ELEMENTS = 1 << 20
"""Elements of a sample's vectors that are looked at, but LEAST_VECTORS at least."""
LEAST_VECTORS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """Hold where a layer's statistics lie, and how many vectors they were made of."""

    moments: StoredMoments

    @property
    def samples(self) -> int:
        """The number of vectors."""
        return self.moments.vectors

    def load(self) -> Statistics:
        """Return the statistics; their moments stay in the file until they are used."""
        return Statistics(second_moment=self.moments.load().second, samples=self.samples)


def collect(
    document: Document,
    layers: Sequence[Layer],
    dataset: Dataset,
    folder: Path,
    tell: Tell | None = None,
) -> dict[Key, Stored]:
    """Return the statistics of the layers that walks over data show.

    Arguments, errors and what is shown are those of `moments.collect`.
    """
    looking = Looking(bounds=_bounds())
    found = moments.collect(document, _maps(layers), dataset, folder, tell, looking)
    return {key: Stored(moments=one) for key, one in found.items()}


def walks(document: Document, layers: Sequence[Layer]) -> int:
    """Return how many walks over the data `collect` takes."""
    return moments.walks(document, _maps(layers), _bounds())


def _maps(layers: Sequence[Layer]) -> dict[Key, LinearMap]:
    found = {}
    for layer in layers:
        made = maps.joined(layer.weight, layer.uses)
        assert made is not None  # every layer is a linear map
        found[layer.key] = made
    return found


def _bounds() -> Bounds:
    return Bounds(
        inputs=MOST_INPUTS,
        pair_bytes=sys.maxsize,
        maps=LAYERS,
        moment_bytes=MOMENT_BYTES,
        run_samples=RUN_SAMPLES,
        elements=SAMPLE_ELEMENTS,
        vectors=LEAST_VECTORS,
    )
