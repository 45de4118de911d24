"""Draw random inputs for a model.

Owns what is drawn where nothing is given: sizes of open dimensions, values of each dtype. The seed,
the sample and an input's name alone decide a value, so both models of a comparison, and every
machine, see the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxq.errors import OnnxqError, OptionError, UnsupportedError
from onnxq.runtime import Feeds, InputSpec, Session, float_dtype, is_known_dtype

FREE_SIZES = (64, 1, 16, 224, 256, 512, 1024)
"""Sizes tried in turn for dimensions the model leaves open, until the model runs."""

MAX_FEED_BYTES = 1 << 30
"""Largest random input drawn; a damaged model may declare any shape."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Say what random inputs are like.

    Attributes:
        dims: Sizes of named open dimensions.
        ranges: (low, high) of inputs by name, low <= value < high; uniform. Without one, floats are
            standard normal and integers 0 or 1.
        free_sizes: Sizes to try for other open dimensions; those that lead an input are 1 (the
            batch).
        kept: Inputs whose range a caller asked for: they are fed as drawn, or the model fails.
    """

    dims: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    free_sizes: tuple[int, ...] = FREE_SIZES
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """Hold random inputs that a model accepted, and its outputs for them.

    `constants` are the values of inputs that were fed one value because no random ones ran.
    """

    feeds: Feeds
    outputs: dict[str, Any]
    constants: Mapping[str, int]


PLAIN = Recipe()
"""Nothing is known of the model's inputs."""


def random_feeds(
    session: Session, sample: int, seed: int, recipe: Recipe = PLAIN, free_size: int = 1
) -> Feeds:
    """Return one random value per input, determined by seed, sample and input name alone.

    Booleans have even odds, strings are 'a'; see Recipe for numbers.

    Args:
        session: what to draw for.
        sample: number of the draw.
        seed: seed of all draws.
        recipe: sizes and ranges.
        free_size: size of open dimensions that neither lead an input nor are named.

    Raises:
        OptionError: the recipe names an input or a dimension that the model lacks, or a range that
            its input cannot have.
        UnsupportedError: an input is no tensor of a known dtype, or is larger than 1 GiB.
    """
    check_recipe(session, recipe)
    batch = {spec.shape[0] for spec in session.inputs if spec.shape} - {None}
    sizes = {**{name: 1 for name in batch if isinstance(name, str)}, **recipe.dims}
    return {
        spec.name: _draw(
            _Source(session.where, spec, recipe.ranges.get(spec.name)),
            _shape(spec, sizes, free_size),
            [seed, sample],
        )
        for spec in session.inputs
    }


def accepted(session: Session, sample: int, seed: int, recipe: Recipe = PLAIN) -> Accepted:
    """Return the first random feeds that the model accepts, and what became of them.

    Open dimensions are tried at each of the recipe's `free_sizes`; each try that fails is repeated
    with integer inputs at zero, or what is nearest to it in their range, since a random index or
    length may be out of range; but not those that the recipe keeps.

    Raises:
        OptionError: the recipe does not fit the model.
        OnnxqError: no try succeeded; the error of the first one.
    """
    first: OnnxqError | None = None
    tried: set[tuple[Any, ...]] = set()
    for free_size in recipe.free_sizes:
        feeds = random_feeds(session, sample, seed, recipe, free_size)
        shapes = tuple(value.shape for value in feeds.values())
        if shapes in tried:
            break  # nothing is open, so no size makes a difference
        tried.add(shapes)
        for candidate in _variants(feeds, recipe):
            try:
                outputs = session.run(candidate)
                return Accepted(
                    feeds=candidate, outputs=outputs, constants=_constants(feeds, candidate)
                )
            except OnnxqError as err:
                first = first or err
    assert first is not None
    raise first


def check_recipe(session: Session, recipe: Recipe) -> None:
    """Check that a recipe fits a model's inputs.

    Raises:
        OptionError: it names an input or a dimension that the model lacks, or a range that its
            input cannot have.
    """
    dims = sorted({size for i in session.inputs for size in i.shape if isinstance(size, str)})
    for name, size in recipe.dims.items():
        if name not in dims:
            raise OptionError(
                f"--dim {name}: {session.where} has no open dimension of this name; "
                f"its named dimensions are {', '.join(dims) or 'none'}"
            )
        if size < 1:
            raise OptionError(f"--dim {name}: found {size}, expected a size of at least 1")
    specs = {spec.name: spec for spec in session.inputs}
    for name, (low, high) in recipe.ranges.items():
        if name not in specs:
            raise OptionError(
                f"--input {name}: {session.where} has no input of this name; "
                f"its inputs are {', '.join(specs) or 'none'}"
            )
        if wrong := _misfit(specs[name].dtype, low, high):
            raise OptionError(f"--input {name}: {wrong}")


def _misfit(dtype: str, low: float, high: float) -> str | None:
    """Return what is wrong with a range; None where values of a dtype can have it."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return f"found {low}:{high}, expected low < high (high is not drawn)"
    if "int" in dtype:
        limits = np.iinfo(dtype)
        if low != int(low) or high != int(high):
            return f"found {low}:{high}, expected whole numbers: the input is {dtype}"
        if low < limits.min or high > int(limits.max) + 1:
            return f"found {low}:{high}, expected {limits.min}:{int(limits.max) + 1} or less"
        return None
    return None if "float" in dtype else f"a range needs numbers, the input is {dtype}"


def _variants(feeds: Feeds, recipe: Recipe) -> Iterator[Feeds]:
    yield feeds
    zeros = {
        name: v if name in recipe.kept else _nearest_to_zero(v, recipe.ranges.get(name))
        for name, v in feeds.items()
    }
    if any(not np.array_equal(zeros[name], value) for name, value in feeds.items()):
        yield zeros


def _constants(drawn: Feeds, fed: Feeds) -> dict[str, int]:
    """Return the values of the inputs that were fed another value than was drawn."""
    return {
        name: int(value.flat[0])
        for name, value in fed.items()
        if value is not drawn[name] and not np.array_equal(value, drawn[name])
    }


def _nearest_to_zero(value: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    if value.dtype.kind not in "iu":
        return value
    low, high = limits or (0, 1)
    return np.full_like(value, int(min(max(0, low), high - 1)))


def _shape(spec: InputSpec, sizes: Mapping[str, int], free: int) -> tuple[int, ...]:
    return tuple(
        size if isinstance(size, int) and size >= 0 else sizes.get(str(size), free if axis else 1)
        for axis, size in enumerate(spec.shape)
    )


@dataclass(frozen=True)
class _Source:
    """Hold what one input is drawn from."""

    where: str
    spec: InputSpec
    limits: tuple[float, float] | None


def _draw(source: _Source, shape: tuple[int, ...], seeds: list[int]) -> np.ndarray:
    spec = source.spec
    where = f"{source.where}: input {spec.name!r}"
    if not is_known_dtype(spec.dtype):
        raise UnsupportedError(
            f"{source.where}: no random value can be drawn for input {spec.name!r} of type "
            f"{spec.dtype}"
        )
    if math.prod(shape) * 8 > MAX_FEED_BYTES:
        raise UnsupportedError(f"{where} of shape {list(shape)} is too large")
    digest = hashlib.sha256(spec.name.encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng([*seeds, int.from_bytes(digest[:8], "little")])
    if spec.dtype == "str":
        return np.full(shape, "a")
    if spec.dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if "int" in spec.dtype:
        low, high = map(int, source.limits or (0, 2))
        wide = np.uint64 if high > 2**63 else np.int64
        return rng.integers(low, high, shape, wide).astype(spec.dtype)
    dtype = float_dtype(spec.dtype)
    if source.limits is None:
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    drawn = np.asarray(rng.uniform(*source.limits, shape)).astype(dtype)
    return np.where(drawn < source.limits[1], drawn, dtype.type(source.limits[0]))
