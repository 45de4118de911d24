"""What goes into each layer, summed up over data: the model runs, its layers' inputs are looked at.

Owns the runs and the sums, not their use (`factors`). The model is given the layers' inputs as
outputs, a few layers at a time, so that neither their moments nor their values fill the memory;
finished moments lie in files. Sums are float64. Where a layer has more vectors than are looked at,
those of a run are drawn by the name of its weight and the number of the run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ValueInfoProto

from onnxq import files, runtime
from onnxq.calibration import patches
from onnxq.data.batches import Batch, Dataset
from onnxq.errors import InputError, UnsupportedError
from onnxq.graphs import Document
from onnxq.low_rank.factors import Statistics
from onnxq.low_rank.layers import Layer, Use
from onnxq.low_rank.ranks import Key
from onnxq.runtime import Session

Array = np.ndarray[Any, np.dtype[Any]]
Tell = Callable[[str, int], None]
"""Called with a batch's place, and how many samples have been run in all walks together."""

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

    moment: Path
    samples: int

    def load(self) -> Statistics:
        """Return the statistics; their moments stay in the file until they are used."""
        moment = np.load(self.moment, mmap_mode="r")
        return Statistics(second_moment=moment, samples=self.samples)


def collect(
    document: Document,
    layers: Sequence[Layer],
    dataset: Dataset,
    folder: Path,
    tell: Tell | None = None,
) -> dict[Key, Stored]:
    """Return the statistics of the layers that walks over data show.

    They show layers of the main graph whose inputs are fed or computed. A vector with NaN or
    infinity does not count.

    Args:
        document: the model; its values are moved out of it, so it is of no other use after.
        layers: layers of it.
        dataset: what it is run on.
        folder: place for the model and the statistics, as long as these are used.
        tell: told of every batch.

    Raises:
        InputError, UnsupportedError: the model cannot be run on the data.
    """
    seen = [layer for layer in layers if shown_uses(document, layer)]
    if not seen:
        return {}
    target = folder / "watched.onnx"
    files.move_out(document, target)
    found: dict[Key, Stored] = {}
    done = 0
    for group in groups(seen):
        sums = [_Sums(layer, shown_uses(document, layer)) for layer in group]
        session = _watched(document, target, sums)
        for batch, run in _runs(session, dataset):
            outputs = {**batch.feeds, **_run(session, batch)}
            for item in sums:
                item.add(outputs, batch.samples, run)
            done += batch.samples
            if tell is not None:
                tell(batch.where, done)
        for item in sums:
            if item.vectors:
                found[item.layer.key] = item.stored(folder / f"moment{len(found)}.npy")
    return found


def shown_uses(document: Document, layer: Layer) -> list[Use]:
    """Return the uses of a layer whose inputs can be looked at from outside.

    They stand in the main graph, and their input is none of its constants.
    """
    graph = document.proto.graph
    computed = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    computed |= {value.name for value in graph.input}
    computed -= {tensor.name for tensor in graph.initializer}
    return [use for use in layer.uses if use.scope.proto is graph and use.activation in computed]


def groups(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Yield the layers of each walk, in order."""
    group: list[Layer] = []
    held = 0
    for layer in layers:
        size = 8 * layer.groups * layer.inputs * (layer.inputs if _is_paired(layer) else 1)
        if group and (len(group) == LAYERS or held + size > MOMENT_BYTES):
            yield group
            group, held = [], 0
        group.append(layer)
        held += size
    if group:
        yield group


def walks(document: Document, layers: Sequence[Layer]) -> int:
    """Return how many walks over the data `collect` takes."""
    return len(list(groups([layer for layer in layers if shown_uses(document, layer)])))


def _is_paired(layer: Layer) -> bool:
    return layer.inputs <= MOST_INPUTS


class _Sums:
    """Sum up the input vectors of a layer, of all its uses."""

    def __init__(self, layer: Layer, uses: Sequence[Use]) -> None:
        self.layer, self.uses, self.vectors = layer, uses, 0
        size = (layer.groups, layer.inputs)
        self._moment = np.zeros((*size, layer.inputs) if _is_paired(layer) else size)

    def add(self, values: Mapping[str, Any], samples: int, run: int) -> None:
        """Take in what a run showed."""
        for number, use in enumerate(self.uses):
            rows = self._rows(use, np.asarray(values[use.activation]), samples, (run, number))
            rows = rows[:, np.isfinite(rows).all(axis=(0, 2))]
            self.vectors += rows.shape[1]
            for group, block in enumerate(rows):
                if _is_paired(self.layer):
                    self._moment[group] += block.T @ block
                else:
                    self._moment[group] += np.einsum("ri,ri->i", block, block)

    def stored(self, path: Path) -> Stored:
        """Write the moments and return the statistics."""
        np.save(path, self._moment / self.vectors)
        return Stored(moment=path, samples=self.vectors)

    def _rows(self, use: Use, values: Array, samples: int, run: tuple[int, int]) -> Array:
        """Return input vectors as float64 [groups, vectors, inputs]."""
        layer = self.layer
        pick = _picker(layer.weight.name, run)
        count = max(LEAST_VECTORS, SAMPLE_ELEMENTS // (layer.inputs * layer.groups))
        if layer.kind == "conv":
            look = patches.window(use.node, layer.kernel)
            found = patches.of_convolution(values, look, count, pick)
        else:
            axis = -1 if layer.form.inputs_left else -2
            found = patches.of_matrix(values, axis, count * samples, pick)
        grouped = found.reshape(len(found), layer.groups, layer.inputs)
        return np.ascontiguousarray(grouped.transpose(1, 0, 2), np.float64)


def _picker(name: str, run: tuple[int, int]) -> patches.Pick:
    """Return what draws vectors of a run and use, the same on every machine."""
    random = np.random.default_rng([zlib.crc32(name.encode("utf-8", "surrogatepass")), *run])
    return lambda total, count: np.sort(random.choice(total, count, replace=False))


def _watched(document: Document, target: Path, sums: Sequence[_Sums]) -> Session:
    """Return a session of the model that has the inputs of layers among its outputs."""
    graph = document.proto.graph
    names = {use.activation for item in sums for use in item.uses}
    names -= {value.name for value in (*graph.input, *graph.output)}
    before = len(graph.output)
    graph.output.extend(ValueInfoProto(name=name) for name in sorted(names))
    files.write_bytes(target, files.serialize(document.proto, document.label))
    del graph.output[before:]
    return runtime.open_session(target)


def _runs(session: Session, dataset: Dataset) -> Iterator[tuple[Batch, int]]:
    """Yield each batch in the pieces that are run, with their numbers."""
    pieces = (piece for batch in dataset.batches() for piece in _pieces(session, batch))
    for number, piece in enumerate(pieces):
        yield piece, number


def _pieces(session: Session, batch: Batch) -> Iterator[Batch]:
    """Yield a batch in pieces of RUN_SAMPLES samples where the model takes such, else whole."""
    is_open = all(spec.shape and not isinstance(spec.shape[0], int) for spec in session.inputs)
    sizes = {np.shape(value)[:1] for value in batch.feeds.values()}
    if batch.is_item or not is_open or sizes != {(batch.samples,)}:
        yield batch
        return
    for start in range(0, batch.samples, RUN_SAMPLES):
        stop = min(start + RUN_SAMPLES, batch.samples)
        feeds = {name: value[start:stop] for name, value in batch.feeds.items()}
        yield Batch(feeds=feeds, samples=stop - start, where=batch.where)


def _run(session: Session, batch: Batch) -> dict[str, Any]:
    try:
        return session.run(batch.feeds)
    except (InputError, UnsupportedError) as err:
        raise type(err)(f"{batch.where}: {err}") from err
