"""A folder of images or sounds as a data set.

Owns how files become batches: those of a size are stacked, others come one at a time. Each file is
read when its batch is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.batches import Batch, DataOptions, Kind, check_batch, default_batch
from onnxq.data.fitting import describe, fixed_size, is_optional, misfit
from onnxq.data.imagery import import_pillow, read_image
from onnxq.data.logmel import read_logmel
from onnxq.data.media_files import (
    IMAGES,
    PAIR,
    SOUNDS,
    Labelled,
    Sample,
    entries,
    labelled,
    listing,
    paired,
)
from onnxq.data.preprocess import AudioPreprocess, ImagePreprocess, Preprocess
from onnxq.errors import InputError, OptionError
from onnxq.plaintext import plain
from onnxq.runtime import InputSpec

Array = np.ndarray[Any, np.dtype[Any]]

_VALUE_BYTES = 8  # whatever the dtype, so that it does not change the batches


@dataclass(frozen=True, kw_only=True)
class MediaData:
    """Give the files of a folder, a batch of them at a time; every batch starts a sequence."""

    kind: Kind
    path: str
    truths: tuple[str, ...]
    available: int
    classes: int | None
    _samples: tuple[Sample, ...]
    _read: Callable[[Path], Array]
    _spec: InputSpec
    _batch: int
    _is_own_target: bool

    def batches(self) -> Iterator[Batch]:
        """Yield every batch."""
        for start in range(0, len(self._samples), self._batch):
            yield self._load(self._samples[start : start + self._batch])

    def _load(self, samples: Sequence[Sample]) -> Batch:
        values = _stack([item.path for item in samples], self._read)
        rank = len(self._spec.shape)
        is_item = values.ndim == rank + 1 and len(samples) == 1
        feed = values[0] if is_item else values
        if is_item and feed.shape[:1] == (1,) and fixed_size(self._spec, 0) is None:
            raise InputError(  # the axis of length 1 would pass for that of the samples
                f"{plain(str(samples[0].path))}: input {plain(self._spec.name)!r}: found "
                f"{values.dtype.name} {list(values.shape)}, expected {describe(self._spec)}; "
                "choose a layout without the axis of length 1 in --preprocess"
            )
        if wrong := misfit(self._spec, feed.dtype, feed.shape):
            raise InputError(
                f"{plain(str(samples[0].path))}: input {plain(self._spec.name)!r}: {wrong}; "
                "--preprocess settles size, layout and dtype"
            )
        truth: dict[str, Array] = {}
        if samples[0].label is not None:
            truth["label"] = np.array([item.label for item in samples], np.int64)
        if self._is_own_target:
            truth["target"] = values
        if samples[0].target is not None:
            targets = [item.target for item in samples if item.target is not None]
            truth["target"] = _stack(targets, self._read)
        return Batch(
            feeds={self._spec.name: feed},
            truth=truth,
            samples=len(samples),
            where=self._place(samples),
            is_item=is_item,
            is_start=True,
        )

    def _place(self, samples: Sequence[Sample]) -> str:
        names = [plain(str(item.path.relative_to(self.path))) for item in (samples[0], samples[-1])]
        return names[0] if len(samples) == 1 else f"{names[0]} to {names[1]}"


def open_media(
    folder: Path, inputs: Sequence[InputSpec], preprocess: Preprocess, options: DataOptions
) -> MediaData:
    """Return the data set that a folder of images or sounds holds.

    Args:
        folder: holds class folders; or images; or the folders "input" and "target" with images.
        inputs: of the model, of which one takes the files.
        preprocess: how a file becomes an array.
        options: how many at a time, and in all.

    Raises:
        InputError: something does not belong there, or the model needs other inputs as well.
        OptionError: it is not clear which input takes the files, or the model takes another
            number of samples at a time.
        MissingDependencyError: images need Pillow.
    """
    spec = _input(inputs, preprocess, options.carried)
    kind, found = _find(folder, preprocess)
    samples = found.samples[: options.limit]
    is_own_target = isinstance(preprocess, ImagePreprocess) and preprocess.target == "input"
    if is_own_target and kind == "images" and samples[0].target is not None:
        raise OptionError(
            f"target: found 'input', but {plain(str(folder))} has a folder of targets; leave it out"
        )
    has_label, has_target = samples[0].label is not None, samples[0].target is not None
    return MediaData(
        kind=kind,
        path=str(folder),
        truths=("label",) * has_label + ("target",) * (is_own_target or has_target),
        available=len(found.samples),
        classes=found.classes or None,
        _samples=samples,
        _read=_reader(preprocess),
        _spec=spec,
        _batch=_batch_size(spec, preprocess, options, len(samples)),
        _is_own_target=is_own_target,
    )


def _reader(preprocess: Preprocess) -> Callable[[Path], Array]:
    if isinstance(preprocess, AudioPreprocess):
        return functools.partial(read_logmel, preprocess=preprocess)
    import_pillow()  # so that a missing package is told before the models run
    return functools.partial(read_image, preprocess=preprocess)


def _find(folder: Path, preprocess: Preprocess) -> tuple[Kind, Labelled]:
    names, offset = preprocess.classes, preprocess.label_offset
    if isinstance(preprocess, AudioPreprocess):
        return "audio-classes", labelled(folder, SOUNDS, names, offset)
    inside = listing(folder)
    if {path.name for path in inside} == set(PAIR):
        return "images", Labelled(samples=paired(folder, IMAGES), classes=0)
    if any(path.is_dir() for path in inside):
        return "image-classes", labelled(folder, IMAGES, names, offset)
    expected = f"an image file ({', '.join(IMAGES)}), or folders with images only"
    paths = entries(folder, IMAGES, expected)
    return "images", Labelled(samples=tuple(Sample(path=path) for path in paths), classes=0)


def _input(
    inputs: Sequence[InputSpec], preprocess: Preprocess, carried: frozenset[str]
) -> InputSpec:
    """Return the input that takes the files."""
    known = {spec.name: spec for spec in inputs}
    needed = [s for s in inputs if s.name not in carried and not is_optional(s)]
    if preprocess.input is not None and preprocess.input not in known:
        raise OptionError(
            f"input: the model has no input {plain(preprocess.input)!r}; "
            f"its inputs are {', '.join(repr(plain(name)) for name in known) or 'none'}"
        )
    if preprocess.input is not None:
        chosen = known[preprocess.input]
    elif needed:
        chosen = needed[0]
    else:
        raise InputError("the model has no input that a file could be fed to")
    if others := [spec for spec in needed if spec is not chosen]:
        raise InputError(
            f"the model needs inputs {plain(chosen.name)!r} and {plain(others[0].name)!r} "
            f"({describe(others[0])}); a folder of files gives one; use .npz files"
        )
    if len(chosen.shape) < 1:
        raise InputError(f"input {plain(chosen.name)!r} is a single number, expected an array")
    return chosen


def _batch_size(spec: InputSpec, preprocess: Preprocess, options: DataOptions, samples: int) -> int:
    """Return the samples in a batch, which the model, the caller or the sizes settle."""
    name = f"input {plain(spec.name)!r}"
    size = fixed_size(spec, 0)
    if len(spec.shape) == preprocess.rank - 1:
        size, reason = 1, f"{name} takes one sample as a whole"
    else:
        reason = f"{name} takes {size} samples at a time"
    if size:
        check_batch(options, size, reason)
        if samples % size:
            full = samples - samples % size
            advice = f"; use --limit {full}" if full else ""
            raise InputError(
                f"found {samples} files, expected a multiple of {size}: {reason}{advice}"
            )
        return size
    if options.batch is not None:
        return options.batch
    values = preprocess.values
    return 1 if values is None or options.carried else default_batch(values * _VALUE_BYTES)


def _stack(paths: Sequence[Path], read: Callable[[Path], Array]) -> Array:
    first = read(paths[0])
    values = np.empty((len(paths), *first.shape), first.dtype)
    values[0] = first
    for index, path in enumerate(paths[1:], 1):
        value = read(path)
        if value.shape != first.shape:
            raise InputError(
                f"{plain(str(path))}: found shape {list(value.shape)}, expected "
                f"{list(first.shape)} as of {plain(str(paths[0]))}, which is in the same batch; "
                "use --batch 1, or settle the size in --preprocess"
            )
        values[index] = value
    return values
