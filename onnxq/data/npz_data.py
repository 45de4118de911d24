"""An `.npz` file, or a folder of them, as a data set.

Owns the rule by which arrays become feeds: an array of its input's rank holds a sample in each row,
one of a rank more holds a whole feed in each row, an array for an input of rank 0 a value for all
samples or one for each. All files are checked against the model by their headers before the first
batch; the values are read as they are needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.batches import Batch, DataOptions, Kind, check_batch, default_batch
from onnxq.data.feeds import LABELS
from onnxq.data.fitting import can_continue, describe, fixed_size, is_optional, is_tensor, misfit
from onnxq.data.npy_stream import Archive, ArrayHead, open_archive
from onnxq.errors import InputError, UnsupportedError
from onnxq.plaintext import dtype_text, plain
from onnxq.runtime import InputSpec

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class _Roles:
    """Say how one file is cut into batches.

    Attributes:
        path: The file.
        samples: Samples that it holds.
        batch: Samples in a batch.
        batched: Inputs that take rows as they are, with an axis of samples.
        items: Inputs that take one row, without that axis.
        whole: Inputs that take the array as it is, every time: constants and initial states.
        truths: Arrays that are no inputs.
        is_item: Whether a feed is one sample as a whole.
        heads: The arrays that are read.
    """

    path: Path
    samples: int
    batch: int
    batched: tuple[str, ...]
    items: tuple[str, ...]
    whole: tuple[str, ...]
    truths: tuple[str, ...]
    is_item: bool
    heads: tuple[ArrayHead, ...]


@dataclass(frozen=True, kw_only=True)
class NpzData:
    """Give the samples of `.npz` files in the order of the files and of their rows."""

    kind: Kind
    path: str
    truths: tuple[str, ...]
    available: int
    classes: None = None
    _files: tuple[_Roles, ...]
    _limit: int | None

    def batches(self) -> Iterator[Batch]:
        """Yield every batch; a file's first one starts a sequence."""
        left = self.available if self._limit is None else self._limit
        for roles in self._files:
            if left <= 0:
                return
            yield from _batches(roles, min(left, roles.samples))
            left -= roles.samples


def open_npz(
    paths: Sequence[Path], inputs: Sequence[InputSpec], options: DataOptions, folder: Path | None
) -> NpzData:
    """Return the data set that `.npz` files hold, each checked against the inputs of a model.

    Args:
        paths: the files, at least one.
        inputs: of the model.
        options: how to read; `preprocess` is not looked at.
        folder: where the files lie, if that was asked for.

    Raises:
        InputError: a file cannot be read, lacks an input, or does not fit the model.
        OptionError: `options.batch` is not what the model takes.
        UnsupportedError: an input is no tensor.
    """
    files = tuple(_read_roles(path, inputs, options) for path in paths)
    available = sum(roles.samples for roles in files)
    left = available if options.limit is None else options.limit
    hint = "use --limit {}" if len(files) == 1 else "{} of them would do"
    for roles in files:
        _check_count(roles, inputs, min(left, roles.samples), hint)
        left = max(0, left - roles.samples)
    first = files[0]
    for roles in files:
        if set(roles.truths) != set(first.truths):
            found, expected = (", ".join(item.truths) or "none" for item in (roles, first))
            raise InputError(
                f"{plain(str(roles.path))}: found truth arrays {plain(found)}; expected "
                f"{plain(expected)}, as in {plain(first.path.name)}"
            )
    return NpzData(
        kind="npz" if folder is None else "npz-folder",
        path=str(folder or paths[0]),
        truths=first.truths,
        available=available,
        _files=files,
        _limit=options.limit,
    )


def _read_roles(path: Path, inputs: Sequence[InputSpec], options: DataOptions) -> _Roles:
    with open_archive(path) as archive:
        specs = _present(archive, inputs, options)
        roles = _sort(archive, specs, options.carried)
        rows = [*roles["batched"], *roles["items"]]
        is_item = any(specs[name].shape for name in roles["items"]) or not roles["batched"]
        samples = _sample_count(archive, rows)
        batch = _batch_size(archive, [specs[name] for name in roles["batched"]], options)
        if roles["items"]:
            batch = _one_at_a_time(archive, roles["items"][0], options)
        for name, spec in specs.items():
            is_row = name in roles["items"]
            size = batch if name in roles["batched"] else None
            _check_fit(archive.heads[name], spec, archive.where, is_row=is_row, size=size)
        truths = _truths(archive, specs, samples)
        return _Roles(
            path=path,
            samples=samples,
            batch=batch,
            truths=truths,
            is_item=is_item,
            heads=tuple(archive.heads[name] for name in (*specs, *truths)),
            **roles,
        )


def _check_fit(
    head: ArrayHead, spec: InputSpec, where: str, *, is_row: bool, size: int | None
) -> None:
    """Check that what an array gives at a time fits: a row, `size` rows, or all of it."""
    fed = head.shape[1:] if is_row else head.shape
    if size is not None:
        fed = (size, *head.shape[1:])
    if misfit(spec, head.dtype, fed):
        found = f"{dtype_text(head.dtype)} {list(head.shape)}{', a feed in each row' * is_row}"
        raise InputError(
            f"{where}: input {plain(spec.name)!r}: found {found}, expected {describe(spec)}"
        )


def _present(
    archive: Archive, inputs: Sequence[InputSpec], options: DataOptions
) -> dict[str, InputSpec]:
    """Return the inputs that the file has an array for; the others must not be needed."""
    specs = {}
    for spec in inputs:
        name = plain(spec.name)
        if head := archive.heads.get(spec.name):
            if not is_tensor(spec):
                raise UnsupportedError(
                    f"{archive.where}: input {name!r} is a {spec.dtype}; data files hold tensors"
                )
            if head.problem:
                raise InputError(f"{archive.where}: array {name!r}: {head.problem}")
            specs[spec.name] = spec
        elif spec.name not in options.carried and not is_optional(spec):
            raise _missing(archive, inputs, spec, options)
    return specs


def _missing(
    archive: Archive, inputs: Sequence[InputSpec], spec: InputSpec, options: DataOptions
) -> InputError:
    held = ", ".join(map(str, archive.heads.values()))
    names = ", ".join(repr(plain(item.name)) for item in inputs)
    return InputError(
        f"{archive.where}: the array of input {plain(spec.name)!r} ({describe(spec)}) is missing; "
        f"found {held}; expected arrays named like the inputs: {names}"
        f"{_carry_hint(archive, inputs, spec, options)}"
    )


def _carry_hint(
    archive: Archive, inputs: Sequence[InputSpec], spec: InputSpec, options: DataOptions
) -> str:
    """Return how an input that is missing could be a state; nothing where it is the only one."""
    if not any(item.name in archive.heads for item in inputs):
        return ""
    outputs = [item for item in options.outputs if can_continue(item, spec)]
    return "".join(f", or --carry {plain(item.name)}={plain(spec.name)}" for item in outputs)


def _sort(
    archive: Archive, specs: Mapping[str, InputSpec], carried: frozenset[str]
) -> dict[str, tuple[str, ...]]:
    """Return which inputs are batched, items and whole, told by the ranks of their arrays."""
    found: dict[str, tuple[str, ...]] = {"batched": (), "items": (), "whole": ()}
    for name, spec in specs.items():
        extra = len(archive.heads[name].shape) - len(spec.shape)
        if extra == 0 and (name in carried or not spec.shape):
            role = "whole"
        elif extra == 0:
            role = "batched"
        elif extra == 1 and name not in carried:
            role = "items"
        else:
            raise _rank_error(archive, spec, is_carried=name in carried)
        found[role] += (name,)
    return found


def _rank_error(archive: Archive, spec: InputSpec, *, is_carried: bool) -> InputError:
    head, rank = archive.heads[spec.name], len(spec.shape)
    if is_carried:
        expected = "expected the state to start with, of the input's shape"
    elif len(head.shape) == rank - 1:
        expected = f"expected samples along the first axis; one sample is array[None], rank {rank}"
    else:
        expected = f"expected rank {rank} (a sample in each row) or {rank + 1} (a feed in each row)"
    return InputError(
        f"{archive.where}: input {plain(spec.name)!r}: found {dtype_text(head.dtype)} "
        f"{list(head.shape)} for {describe(spec)}; {expected}"
    )


def _sample_count(archive: Archive, rows: Sequence[str]) -> int:
    """Return the length that all arrays of rows agree in; 1 where there is none."""
    heads = [archive.heads[name] for name in rows]
    if len({head.shape[0] for head in heads}) > 1:
        raise InputError(
            f"{archive.where}: arrays differ in their number of samples (first axis): "
            f"{', '.join(map(str, heads))}"
        )
    samples = heads[0].shape[0] if heads else 1
    if samples == 0:
        raise InputError(f"{archive.where}: array {heads[0]} holds no samples")
    return samples


def _batch_size(archive: Archive, specs: Sequence[InputSpec], options: DataOptions) -> int:
    """Return the samples in a batch, which the model or the caller or neither may settle."""
    fixed = {spec.name: size for spec in specs if (size := fixed_size(spec, 0))}
    if not fixed:
        row_bytes = sum(archive.heads[spec.name].row_bytes for spec in specs)
        return options.batch or (1 if options.carried else default_batch(row_bytes))
    if len(set(fixed.values())) > 1:
        text = ", ".join(f"{plain(name)!r} takes {size}" for name, size in fixed.items())
        raise InputError(
            f"{archive.where}: the inputs take different numbers of rows at a time: {text}; "
            "expected arrays with one more axis in front, a whole feed in each row"
        )
    name, size = fixed.popitem()
    check_batch(options, size, f"input {plain(name)!r} takes {size} samples at a time")
    return size


def _one_at_a_time(archive: Archive, name: str, options: DataOptions) -> int:
    check_batch(options, 1, f"array {archive.heads[name]} holds a whole feed in each row")
    return 1


def _truths(archive: Archive, specs: Mapping[str, InputSpec], samples: int) -> tuple[str, ...]:
    """Return the arrays that are no inputs and have a row for each sample."""
    found = []
    for name, head in archive.heads.items():
        if name in specs:
            continue
        if head.problem is None and head.shape[:1] == (samples,):
            found.append(name)
        elif name in LABELS:
            raise InputError(
                f"{archive.where}: found array {head}, expected a row for each of the {samples} "
                "samples"
            )
    return tuple(found)


def _check_count(roles: _Roles, inputs: Sequence[InputSpec], count: int, hint: str) -> None:
    """Check that the samples of a file fill the batches of a model with a fixed first size."""
    is_fixed = any(spec.name in roles.batched and fixed_size(spec, 0) for spec in inputs)
    if is_fixed and count % roles.batch:
        full = count - count % roles.batch
        advice = "; " + hint.format(full) if full else ""
        raise InputError(
            f"{plain(str(roles.path))}: found {count} samples, expected a multiple of "
            f"{roles.batch}, which the model takes at a time{advice}"
        )


def _batches(roles: _Roles, count: int) -> Iterator[Batch]:
    with open_archive(roles.path) as archive, contextlib.ExitStack() as stack:
        if any(archive.heads.get(head.name) != head for head in roles.heads):
            raise InputError(f"{archive.where}: was changed while it was in use; start again")
        whole = {}
        for name in roles.whole:
            with archive.rows(name) as rows:
                whole[name] = rows.read_all()
        names = (*roles.batched, *roles.items, *roles.truths)
        readers = {name: stack.enter_context(archive.rows(name)) for name in names}
        for start in range(0, count, roles.batch):
            size = min(roles.batch, count - start)
            read = {name: reader.read(size) for name, reader in readers.items()}
            yield Batch(
                feeds={
                    **whole,
                    **{name: read[name] for name in roles.batched},
                    **{name: read[name].reshape(read[name].shape[1:]) for name in roles.items},
                },
                truth={name: read[name] for name in roles.truths},
                samples=size,
                where=f"{plain(roles.path.name)} samples {start}..{start + size - 1}",
                is_item=roles.is_item,
                is_start=start == 0,
            )
