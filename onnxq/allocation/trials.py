"""Tensors as they would be decoded, and what the outputs lose with some of them so.

Owns the way from picks of candidates to values and to a joint error. Values are made when they are
asked for; those of the last picks are kept, so that the next ones cost what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq import keeping
from onnxq.allocation.candidates import Unit
from onnxq.allocation.probing import Probe
from onnxq.calibration.calibrated import Calibration, Fitting
from onnxq.clustering.cluster import Clustering, fit, halved
from onnxq.clustering.codebook import Array, decode
from onnxq.forms import Form
from onnxq.graphs import Document, Key
from onnxq.model import read
from onnxq.parallel import ordered_map
from onnxq.scaling import channel_scales, normalised, rescaled
from onnxq.trees import FLOAT16

Picks = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Methods:
    """Say how codebooks are fitted where a weight's inputs are known."""

    is_weighted: bool = False
    has_feedback: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoder:
    """Give the values that a way to store a tensor decodes to.

    Attributes:
        document: the model.
        calibration: what is known of weights' inputs; None where nothing is.
        methods: how codebooks are fitted.
    """

    document: Document
    calibration: Calibration | None
    methods: Methods

    def fitting(self, unit: Unit, form: Form) -> Fitting:
        """Return how the codebook of a form is fitted for a tensor."""
        known, key = self.calibration, unit.key
        is_open = len(unit.weights) == 1 and not form.kept
        may_weigh = known is not None and is_open and known.has_moments(key)
        is_finite = unit.facts.infinities == 0
        has_pairs = may_weigh and is_finite and known is not None and known.has_pairs(key)
        return Fitting(
            centroids=form.centroids,
            is_weighted=self.methods.is_weighted and may_weigh,
            has_feedback=self.methods.has_feedback and has_pairs,
            is_half=form.codebook_type == FLOAT16 != form.data_type,
        )

    def decoded(self, unit: Unit, pick: int) -> Array:
        """Return the values of a unit's first tensor in a way, in its shape and dtype."""
        values = read(self.document, unit.lead)
        form = unit.candidates[pick].form
        if form is None:
            return values
        if form.layout == "half":
            halves: Array = values.astype(np.float16).astype(values.dtype)
            return halves
        if form.kept:
            return _with_kept(values, form, self.fitting(unit, form))
        scales = None
        if form.scale_axis is not None:
            stored = np.dtype(np.float16) if form.scale_type == FLOAT16 else values.dtype
            scales = channel_scales(values, form.scale_axis, stored)
        normal = values if scales is None else normalised(values, scales)
        found = self._clustering(unit.key, normal, self.fitting(unit, form), scales)
        result = decode(found.indices, found.centroids).reshape(values.shape)
        return result if scales is None else rescaled(result, scales)

    def _clustering(
        self, key: Key, normal: Array, fitting: Fitting, scales: Array | None
    ) -> Clustering:
        if self.calibration is not None and (fitting.is_weighted or fitting.has_feedback):
            return self.calibration.clustering(key, normal, fitting, scales=scales)
        return _fitted(normal, fitting)


def _fitted(normal: Array, fitting: Fitting) -> Clustering:
    found = fit(normal, fitting.centroids)
    return halved(normal, found) if fitting.is_half else found


def _with_kept(values: Array, form: Form, fitting: Fitting) -> Array:
    """Return what values decode to where the largest are kept."""
    places = keeping.largest(values, form.kept)
    found = keeping.clustered(values, places, lambda rest: _fitted(rest, fitting))
    stored = np.dtype(np.float16) if form.kept_type == FLOAT16 else values.dtype
    plain = decode(found.indices, found.centroids).reshape(values.shape)
    return keeping.put_back(plain, keeping.kept_parts(values, places, stored))


class Trials:
    """Run a model with tensors as they would be decoded.

    Args:
        units: the tensors.
        decoder: makes their values.
        probe: the model, recorded.
        jobs: runs at a time, which never change a result.
    """

    def __init__(self, units: Sequence[Unit], decoder: Decoder, probe: Probe, jobs: int) -> None:
        self._units, self._decoder, self._probe, self._jobs = units, decoder, probe, jobs
        self._last: dict[int, tuple[int, Array]] = {}

    def can_try(self, number: int) -> bool:
        """Tell whether a unit's values can be exchanged: those of functions cannot."""
        unit = self._units[number]
        return all((weight.graph, weight.name) in self._probe for weight in unit.weights)

    def alone(
        self, wanted: Sequence[tuple[int, int]], tell: Callable[[str], None] | None = None
    ) -> list[float]:
        """Return the error that each (unit, way) makes by itself."""

        def work(item: tuple[int, int]) -> float:
            unit = self._units[item[0]]
            return self._probe.error(_exchanged(unit, self._decoder.decoded(unit, item[1])))

        def cost(item: tuple[int, int]) -> int:
            return 16 * self._units[item[0]].lead.data_bytes

        found = []
        for item, error in zip(
            wanted,
            ordered_map(work, wanted, jobs=self._jobs, cost=cost, budget=1 << 30),
            strict=True,
        ):
            found.append(error)
            if tell is not None:
                tell(self._units[item[0]].lead.name)
        return found

    def joint(self, picks: Picks) -> float:
        """Return the error of all tensors in the ways picked."""
        missing = [
            (number, pick)
            for number, pick in enumerate(picks)
            if self._last.get(number, (-1, None))[0] != pick and self.can_try(number)
        ]

        def work(item: tuple[int, int]) -> Array:
            return self._decoder.decoded(self._units[item[0]], item[1])

        for item, values in zip(missing, ordered_map(work, missing, jobs=self._jobs), strict=True):
            self._last[item[0]] = (item[1], values)
        changes: dict[Key, Array] = {}
        for number, (_, values) in self._last.items():
            if self._units[number].candidates[picks[number]].form is not None:
                changes.update(_exchanged(self._units[number], values))
        return self._probe.error(changes)


def _exchanged(unit: Unit, values: Array) -> dict[Key, Array]:
    """Return values by tensor, in the shape of each that is equal."""
    return {(w.graph, w.name): values.reshape(w.shape) for w in unit.weights}
