"""What a model's outputs lose with some of its layers as factors, by running it.

Owns the models that are made only to be run: their values lie in one file, and a model differs from
the next by its factors alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto

from onnxq import files, graphs, model
from onnxq.checks import Check
from onnxq.errors import UnsupportedError
from onnxq.graphs import Document
from onnxq.low_rank import ranks, rewrite
from onnxq.low_rank.factors import Factors
from onnxq.low_rank.fits import Fits, Tell
from onnxq.low_rank.layers import Layer, known
from onnxq.low_rank.ranks import Chosen, Curve, Key
from onnxq.validation.evaluation import evaluate
from onnxq.validation.reference_runs import ReferenceRuns

POINTS = 6
"""Sizes of a layer that are tried; between them the noise is interpolated."""
MOST_NOISE = 1e6
"""Noise through signal that stands for outputs that cannot be compared, and for all above it."""
ROUNDS = 10
"""Halvings of the range of sizes in the search for the smallest model."""


class Trials:
    """Run a model with layers as factors, on the samples of a reference.

    Args:
        document: the model opened once more; its values are moved out of it.
        fits: the layers taken apart.
        folder: place for models, as long as trials are made.
    """

    def __init__(self, document: Document, fits: Fits, folder: Path) -> None:
        self._document, self._fits, self._folder = document, fits, folder
        files.move_out(document, folder / "tried.onnx")

    def noise(self, chosen: Chosen, runs: ReferenceRuns) -> float:
        """Return noise through signal of the output that has most of it.

        It is 0 where all outputs are equal, and infinite where one cannot be compared.

        Raises:
            UnsupportedError: no output has a value to compare.
        """
        made = dict(self._fits.factors(chosen))
        proto = ModelProto()
        proto.CopyFrom(self._document.proto)
        document = replace(self._document, proto=proto, folder=self._folder)
        store = files.DataFileStore(self._folder / "trial.onnx")
        try:
            put(document, known(document, model.weights(document), made), made, store)
            store.finish()
            path = self._folder / "trial.onnx"
            files.write_bytes(path, files.serialize(proto, document.label))
            return output_noise(evaluate(runs, path, ()).check)
        finally:
            store.abandon()


def put(
    document: Document, layers: Sequence[Layer], made: Mapping[Key, Factors], store: files.Store
) -> None:
    """Put the factors of a document's own layers in the place of their weights."""
    names = rewrite.Names(graphs.taken_names(document))
    for layer in layers:
        if layer.key in made:
            rewrite.apply(document, layer, made[layer.key], store, names)


def output_noise(check: Check) -> float:
    """Return noise through signal of the output that has most of it; see `Trials.noise`."""
    compared = [output for output in check.outputs if output.undefined is None]
    if not compared:
        raise UnsupportedError(
            "no output has a value that could be compared, so nothing tells what ranks lose; "
            "give other --data"
        )
    return max(
        math.inf
        if output.mismatch is not None
        else 0.0
        if output.snr_db is None
        else 10 ** (-output.snr_db / 10)
        for output in compared
    )


def loss_db(noise: float) -> float:
    """Return what noise takes of an output's signal-to-noise ratio, in dB: 10 log10(1 + noise).

    >>> round(loss_db(1.0), 2), loss_db(0.0)
    (3.01, 0.0)
    """
    return 10 * math.log10(1 + noise) if math.isfinite(noise) else math.inf


def with_noise(
    curves: Sequence[Curve], trials: Trials, runs: ReferenceRuns, tell: Tell | None = None
) -> list[Curve]:
    """Return the layers with the noise at the model's outputs as their loss.

    Some sizes of each layer are tried, all other layers as they are; the loss of the others is
    interpolated.
    """
    points = {curve.key: ranks.spread(curve, POINTS) for curve in curves}
    total, done = sum(map(len, points.values())), 0
    found = []
    for curve in curves:
        seen = []
        for choice in points[curve.key]:
            noise = trials.noise({curve.key: choice}, runs)
            seen.append((choice.loss, min(noise, MOST_NOISE)))
            done += 1
            if tell is not None:
                tell(curve.key[1], done, total)
        found.append(ranks.relabelled(curve, seen))
    return found


def smallest_within(
    curves: Sequence[Curve],
    noise: Callable[[Chosen], float],
    limit_db: float,
    tell: Tell | None = None,
) -> Chosen:
    """Return the smallest choice found whose outputs lose at most `limit_db`.

    Sizes are halved ROUNDS times, as if less size were always more loss. It is empty where no size
    that was tried loses little enough.
    """
    low, high = ranks.smallest(curves), sum(curve.parameters for curve in curves)
    best: Chosen = {}
    for done in range(ROUNDS):
        middle = low if done == 0 else (low + high) // 2
        chosen = ranks.within(curves, middle)
        if loss_db(noise(chosen)) <= limit_db:
            best, high = chosen, min(middle, ranks.parameters(curves, chosen))
        else:
            low = middle
        if tell is not None:
            tell("sizes", done + 1, ROUNDS)
        if high - low < 2:
            break
    return best
