"""What goes into each linear map, summed up over data: the model runs, maps' inputs are looked at.

Owns the runs and the sums, not their use. The model is given the maps' inputs as outputs, a few
maps at a time, so that neither their moments nor their values fill the memory; finished moments lie
in files. Sums are float64. Where a map has more vectors than are looked at, those of a run are
drawn by the name of its weight and the number of the run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ValueInfoProto
from threadpoolctl import threadpool_limits

from onnxq import files, runtime
from onnxq.calibration import patches
from onnxq.calibration.ends import Use
from onnxq.calibration.maps import LinearMap
from onnxq.data.batches import Batch, Dataset
from onnxq.errors import InputError, UnsupportedError
from onnxq.graphs import Document, Key
from onnxq.parallel import ordered_map
from onnxq.runtime import Session
from onnxq.validation.reference_runs import Carried

Array = np.ndarray[Any, np.dtype[Any]]
Tell = Callable[[str, int], None]
"""Called with a batch's place, and how many samples have been run in all walks together."""

VECTOR_BYTES = 512 << 20
"""Most bytes of vectors that threads sum up at a time, unless a single map has more."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Hold how much is looked at and held at a time.

    Attributes:
        inputs: Most inputs of a map whose features are looked at in pairs; else each for itself.
        pair_bytes: Most bytes of the sums of such pairs of one map; else each feature for itself.
        maps: Most maps whose inputs are looked at in one walk over the data.
        moment_bytes: Most bytes of the sums of such maps, unless a single one has more.
        run_samples: Most samples of a run, where the model takes any number: their inputs are
            held together.
        elements: Elements of a sample's vectors that are looked at, but `vectors` at least.
        vectors: Least vectors of a sample that are looked at, where it has so many.
    """

    inputs: int = 6144
    pair_bytes: int = 8 * 6144 * 6144
    maps: int = 32
    moment_bytes: int = 512 << 20
    run_samples: int = 4
    elements: int = 1 << 19
    vectors: int = 16


@dataclass(frozen=True, kw_only=True)
class Looking:
    """Hold how a model is run and looked at.

    Attributes:
        carry: Inputs by the output of the run before that they are fed from.
        bounds: How much is looked at.
        jobs: Threads that sum up; their number changes no sum.
    """

    carry: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=Bounds)
    jobs: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Hold what is known of a map's input vectors x, all float64.

    Of a convolution, x is a patch in the order of the rows of the weight, with zeros where it
    reaches into the padding (of a transposed one: where it meets no input). Of a product, x is a
    row (or column) of features; of a Gather, a 1 at what is gathered and else zeros.

    Attributes:
        second: E[x x^T], [groups, inputs, inputs], or its diagonal, [groups, inputs].
        mean: E[x], [groups, inputs].
        vectors: How many were seen.
        left_out: How many more had NaN or infinity (of a Gather: were out of range), and did not
            count.
    """

    second: Array
    mean: Array
    vectors: int
    left_out: int = 0

    @property
    def is_diagonal(self) -> bool:
        """Whether nothing is known of how features vary together."""
        return self.second.ndim == 2

    def diagonal(self) -> Array:
        """Return E[x_k^2], [groups, inputs]."""
        return np.array(self.second if self.is_diagonal else np.einsum("gii->gi", self.second))


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredMoments:
    """Hold where a map's second moment lies, and the rest of its moments."""

    second: Path
    mean: Array
    vectors: int
    left_out: int

    def load(self) -> Moments:
        """Return the moments; the second one stays in its file until it is used."""
        second = np.load(self.second, mmap_mode="r")
        return Moments(second=second, mean=self.mean, vectors=self.vectors, left_out=self.left_out)


def collect(
    document: Document,
    maps: Mapping[Key, LinearMap],
    dataset: Dataset,
    folder: Path,
    tell: Tell | None = None,
    looking: Looking | None = None,
) -> dict[Key, StoredMoments]:
    """Return the moments of the maps that walks over data show.

    They show maps of the main graph whose inputs are fed or computed. A vector with NaN or
    infinity is left out and counted; a map of which no vector is left has no moments.

    Args:
        document: the model; its values are moved out of it, so it is of no other use after.
        maps: linear maps of it.
        dataset: what it is run on.
        folder: place for the model and the moments, as long as these are used.
        tell: told of every batch.
        looking: how it is run, and how much of it is looked at.

    Raises:
        InputError, UnsupportedError: the model cannot be run on the data.
        OptionError: the state that is carried does not fit the model.
    """
    looking = looking or Looking()
    shown = shown_uses(document, maps)
    seen = [maps[key] for key in maps if key in shown]
    if not seen:
        return {}
    target = folder / "watched.onnx"
    files.move_out(document, target)
    found: dict[Key, StoredMoments] = {}
    done = 0
    # How many threads a product is shared out to decides how it is rounded; with one, nothing does.
    with threadpool_limits(limits=1, user_api="blas"):
        for group in groups(seen, looking.bounds):
            sums = [_Sums(one, shown[one.key], looking.bounds) for one in group]
            session = _watched(document, target, sums)
            for batch, outputs, run in _runs(session, dataset, looking):
                _add(sums, outputs, (batch.samples, run), looking.jobs)
                done += batch.samples
                if tell is not None:
                    tell(batch.where, done)
            for item in sums:
                if item.vectors:
                    found[item.map.key] = item.stored(folder / f"moment{len(found)}.npy")
    return found


def shown_uses(document: Document, maps: Mapping[Key, LinearMap]) -> dict[Key, list[Use]]:
    """Return the uses of each map whose inputs can be looked at from outside, where there are any.

    They stand in the main graph, and their input is none of its constants.
    """
    graph = document.proto.graph
    computed = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    computed |= {value.name for value in graph.input}
    computed -= {"", *(tensor.name for tensor in graph.initializer)}
    found = {
        key: [use for use in one.uses if use.scope.proto is graph and use.activation in computed]
        for key, one in maps.items()
    }
    return {key: uses for key, uses in found.items() if uses}


def groups(maps: Sequence[LinearMap], bounds: Bounds) -> Iterator[list[LinearMap]]:
    """Yield the maps of each walk, in order."""
    group: list[LinearMap] = []
    held = 0
    for one in maps:
        size = 8 * one.groups * one.inputs * (one.inputs if is_paired(one, bounds) else 1)
        if group and (len(group) == bounds.maps or held + size > bounds.moment_bytes):
            yield group
            group, held = [], 0
        group.append(one)
        held += size
    if group:
        yield group


def walks(document: Document, maps: Mapping[Key, LinearMap], bounds: Bounds | None = None) -> int:
    """Return how many walks over the data `collect` takes."""
    shown = shown_uses(document, maps)
    return len(list(groups([maps[key] for key in shown], bounds or Bounds())))


def is_paired(one: LinearMap, bounds: Bounds) -> bool:
    """Tell whether a map's features are looked at in pairs, or each for itself."""
    fits = 8 * one.groups * one.inputs**2 <= bounds.pair_bytes
    return one.kind != "gather" and one.inputs <= bounds.inputs and fits


class _Sums:
    """Sum up the input vectors of a map, of all its uses."""

    def __init__(self, one: LinearMap, uses: Sequence[Use], bounds: Bounds) -> None:
        self.map, self.uses, self.bounds = one, uses, bounds
        self.vectors = self.left_out = 0
        size = (one.groups, one.inputs)
        self._is_paired = is_paired(one, bounds)
        self._mean = np.zeros(size)
        self._second = np.zeros((*size, one.inputs) if self._is_paired else size)

    def add(self, values: Mapping[str, Any], samples: int, run: int) -> None:
        """Take in what a run showed."""
        for number, use in enumerate(self.uses):
            found = np.asarray(values[use.activation])
            if self.map.kind == "gather":
                self._count(found)
                continue
            rows = self._rows(use, found, samples, (run, number))
            is_good = np.isfinite(rows).all(axis=(0, 2))
            self.left_out += int(np.count_nonzero(~is_good))
            self._sum(rows if is_good.all() else rows[:, is_good])

    def vector_bytes(self, samples: int) -> int:
        """Return about how many bytes a run's vectors take, as they come and as float64."""
        size = self.map.groups * self.map.inputs
        return 24 * samples * max(self.bounds.elements, self.bounds.vectors * size)

    def stored(self, path: Path) -> StoredMoments:
        """Write the second moment and return the moments."""
        mean = self._mean / self.vectors
        self._second /= self.vectors  # in place: it may be large
        np.save(path, self._second)
        return StoredMoments(second=path, mean=mean, vectors=self.vectors, left_out=self.left_out)

    def _sum(self, rows: Array) -> None:
        self.vectors += rows.shape[1]
        self._mean += rows.sum(axis=1)
        if not self._is_paired:
            self._second += np.einsum("gri,gri->gi", rows, rows)
            return
        for group, block in enumerate(rows):
            self._second[group] += block.T @ block

    def _count(self, indices: Array) -> None:
        """Count what is gathered; a negative index counts from the end."""
        size = self.map.inputs
        wrapped = np.where(indices < 0, indices + size, indices).reshape(-1)
        is_there = (wrapped >= 0) & (wrapped < size)
        self.left_out += int(np.count_nonzero(~is_there))
        self.vectors += int(np.count_nonzero(is_there))
        counts = np.bincount(wrapped[is_there], minlength=size)
        self._mean[0] += counts
        self._second[0] += counts  # the square of a 1 is 1

    def _rows(self, use: Use, values: Array, samples: int, run: tuple[int, int]) -> Array:
        """Return input vectors as float64 [groups, vectors, inputs]."""
        one = self.map
        pick = _picker(one.weight.name, run)
        count = max(self.bounds.vectors, self.bounds.elements // (one.inputs * one.groups))
        if one.kind == "conv":
            found = patches.of_convolution(
                values, patches.window(use.node, one.kernel), count, pick
            )
        elif one.kind == "conv-transpose":
            found = patches.of_transposed(values, patches.turned(use.node, one.kernel), count, pick)
        else:
            axis = -1 if one.form.inputs_left else -2
            if one.groups > 1:
                batch = one.form.seen[:-2]
                found = patches.of_matrices(values, axis, batch, count * samples, pick)
                return np.ascontiguousarray(found, np.float64)
            found = patches.of_matrix(values, axis, count * samples, pick)
        grouped = found.reshape(len(found), one.groups, one.inputs)
        return np.ascontiguousarray(grouped.transpose(1, 0, 2), np.float64)


def _add(
    sums: Sequence[_Sums], outputs: Mapping[str, Any], run: tuple[int, int], jobs: int
) -> None:
    """Let all sums take in a run: of so many samples, and its number."""
    added = ordered_map(
        lambda item: item.add(outputs, *run),
        sums,
        jobs=jobs,
        cost=lambda item: item.vector_bytes(run[0]),
        budget=VECTOR_BYTES,
    )
    for _ in added:
        pass


def _picker(name: str, run: tuple[int, int]) -> patches.Pick:
    """Return what draws vectors of a run and use, the same on every machine."""
    random = np.random.default_rng([zlib.crc32(name.encode("utf-8", "surrogatepass")), *run])
    return lambda total, count: np.sort(random.choice(total, count, replace=False))


def _watched(document: Document, target: Path, sums: Sequence[_Sums]) -> Session:
    """Return a session of the model that has the inputs of maps among its outputs."""
    graph = document.proto.graph
    names = {use.activation for item in sums for use in item.uses}
    names -= {value.name for value in (*graph.input, *graph.output)}
    before = len(graph.output)
    graph.output.extend(ValueInfoProto(name=name) for name in sorted(names))
    files.write_bytes(target, files.serialize(document.proto, document.label))
    del graph.output[before:]
    return runtime.open_session(target)


def _runs(
    session: Session, dataset: Dataset, looking: Looking
) -> Iterator[tuple[Batch, dict[str, Any], int]]:
    """Yield each batch in the pieces that are run, with all values shown, and their numbers."""
    state = Carried(session, looking.carry)
    most = looking.bounds.run_samples
    pieces = (piece for batch in dataset.batches() for piece in _pieces(session, batch, most))
    for number, piece in enumerate(pieces):
        feeds = state.feeds(piece)
        try:
            outputs = session.run(feeds)
        except (InputError, UnsupportedError) as err:
            raise type(err)(f"{piece.where}: {err}") from err
        state.keep(outputs)
        yield piece, {**feeds, **outputs}, number


def _pieces(session: Session, batch: Batch, most: int) -> Iterator[Batch]:
    """Yield a batch in pieces of a few samples where the model takes such, else whole."""
    is_open = all(spec.shape and not isinstance(spec.shape[0], int) for spec in session.inputs)
    sizes = {np.shape(value)[:1] for value in batch.feeds.values()}
    if batch.is_item or not is_open or sizes != {(batch.samples,)} or batch.samples <= most:
        yield batch
        return
    for start in range(0, batch.samples, most):
        stop = min(start + most, batch.samples)
        feeds = {name: value[start:stop] for name, value in batch.feeds.items()}
        yield Batch(feeds=feeds, samples=stop - start, where=batch.where)
