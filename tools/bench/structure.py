"""Measure what exact zeros cost, and whether a sparse correction or codebooks for groups pay.

    python -m tools.bench.structure MODEL.onnx ... --json docs/bench/structure.json

Each tensor has ways to be stored: codebooks of several sizes, plain or with a scale for each output
channel, float16, float32. Two kinds of ways are added to them, at prices that favour them:

- sparse: some values are kept exactly beside a codebook for the others, 6 bytes each and 120 bytes
  of nodes; those of largest magnitude, or of largest residual in a first fit;
- groups: 2, 4, 8 or 16 groups of output channels, neighbours or of like magnitude, each with its
  own codebook.

A saving is the share of bytes that the added ways take away at equal distortion, on the lower
convex hull of one tensor, or on the path of one Lagrange multiplier through all tensors of a model
(squared error through power, summed over tensors). Ways between two on a hull are interpolated.

Exact zeros cost what the best codebook that holds 0.0 loses more than the best one of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.allocation.ways import Way, make_fronts, make_path
from onnxq.calibration.maps import output_axes
from onnxq.clustering.cluster import fit, prepare
from onnxq.clustering.codebook import assign
from onnxq.clustering.family import fit_family
from onnxq.clustering.optimal import solve
from onnxq.clustering.spectrum import spectrum
from onnxq.forms import Form, canonical
from onnxq.graphs import holder
from onnxq.model import load, read, weights
from onnxq.rate import member_cost, nominal_cost
from onnxq.scaling import channel_scales, normalised
from onnxq.trees import FLOAT16
from tools.bench import record

Array = np.ndarray[Any, np.dtype[Any]]
FLOAT = 1
RADIX_KS = (3, 6, 9, 40)
KS = (2, 3, 4, 6, 8, 9, 16, 32, 40, 64, 128, 256)
GROUPS = (2, 4, 8, 16)
LEAST = 1024
"""Fewest values of a tensor that is looked at; smaller ones are pooled."""
VALUE_BYTES, SPARSE_BYTES, GROUP_BYTES = 6, 120, 150
"""What a kept value takes, and the nodes of a sparse correction and of groups."""
RATES = (2, 2.5, 3, 4, 5, 6)
ZERO_SHARES = (0.3, 0.5, 0.75, 0.9)
ZERO_KS = (2, 3, 4, 6, 8, 16, 64, 256)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Hold values, [output channels, others], and what tells their bytes."""

    name: str
    rows: Array
    form: Form
    power: float
    held: Any = "initializer"

    def cost(self, form: Form) -> int:
        """Return the bytes of a form, alone or in a pool."""
        length = len(self.name.encode())
        alone = nominal_cost(form, length, self.held).total
        return min(alone, member_cost(form, form.bit_width, length, self.held).total)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Hold the values that are clustered: plain, or over the scale of each row."""

    tensor: Tensor
    rows: Array
    scales: Array
    form: Form

    def coded(self, k: int) -> Form:
        """Return the form with k centroids."""
        bits, opset = max(1, (k - 1).bit_length()), self.form.opset
        layout, width = canonical("radix" if k in RADIX_KS else "portable", bits, k, opset)
        book = FLOAT16 if k > 20 else FLOAT
        return changed(self.form, layout=layout, bit_width=width, codebook_type=book, centroids=k)

    def residuals(self, values: Array, scales: Array, centroids: Array) -> Array:
        """Return the errors of decoded values in float64."""
        decoded = centroids[assign(values, centroids)].astype(np.float64)
        found: Array = (values - decoded) * scales
        return found

    def base(self) -> Iterator[tuple[int, Way]]:
        """Yield sizes with their ways."""
        flat, scales = self.rows.reshape(-1), np.broadcast_to(self.scales, self.rows.shape)
        for point in fit_family(flat, sizes(flat)):
            errors = self.residuals(flat, scales.reshape(-1), point.centroids)
            yield point.k, self.way(self.tensor.cost(self.coded(point.k)), squared(errors), "base")

    def sparse(self) -> Iterator[Way]:
        """Yield ways with some values kept."""
        flat = self.rows.reshape(-1)
        scales = np.broadcast_to(self.scales, self.rows.shape).reshape(-1)
        order = np.argsort(-np.abs(flat * scales), kind="stable")
        for count in counts(flat.size):
            more = SPARSE_BYTES + VALUE_BYTES * count
            rest = np.sort(order[count:])
            for point in fit_family(flat[rest], sizes(flat)):
                bytes_ = self.tensor.cost(self.coded(point.k)) + more
                errors = self.residuals(flat[rest], scales[rest], point.centroids)
                yield self.way(bytes_, squared(errors), f"sparse {count}")
                errors = np.abs(self.residuals(flat, scales, point.centroids))
                kept = np.sort(np.argpartition(-errors, count)[count:])
                again = fit(flat[kept], point.k).centroids
                errors = self.residuals(flat[kept], scales[kept], again)
                yield self.way(bytes_, squared(errors), f"sparse {count}")

    def groups(self) -> Iterator[Way]:
        """Yield ways with a codebook for each group of rows."""
        channels = len(self.rows)
        by_size = np.argsort(np.abs(self.rows).mean(axis=1), kind="stable")
        for count in GROUPS:
            if channels < 2 * count:
                continue
            for order, table in ((np.arange(channels), 2 * count), (by_size, channels)):
                parts = np.array_split(order, count)
                total = dict.fromkeys(sizes(self.rows.reshape(-1)), 0.0)
                for part in parts:
                    for k, errors in self.fitted(part, list(total)):
                        total[k] += errors
                for k, errors in total.items():
                    form = self.coded(k)
                    books = (count - 1) * 2 * form.codebook_length
                    bytes_ = self.tensor.cost(form) + books + table + GROUP_BYTES
                    yield self.way(bytes_, errors, f"groups {count}")

    def fitted(self, part: Array, ks: Sequence[int]) -> Iterator[tuple[int, float]]:
        """Yield the squared error of each size on some rows."""
        values = self.rows[part].reshape(-1)
        scales = np.broadcast_to(self.scales, self.rows.shape)[part].reshape(-1)
        for point in fit_family(values, ks):
            yield point.k, squared(self.residuals(values, scales, point.centroids))

    def way(self, bytes_: int, errors: float, what: str) -> Way:
        """Return a way; the loss is relative to the power of the tensor."""
        label = f"{what}, scaled" if self.form.scale_axis is not None else what
        return Way(bytes=bytes_, loss=errors / self.tensor.power, what=label)


def changed(form: Form, **fields: Any) -> Form:
    """Return a form with other fields."""
    return Form(**{**vars(form), **fields})


def squared(errors: Array) -> float:
    """Return the sum of squares."""
    return float(np.sum(errors * errors))


def sizes(values: Array) -> list[int]:
    """Return the codebook sizes for so many values."""
    return [k for k in KS if 8 * k <= values.size]


def counts(size: int) -> list[int]:
    """Return how many values may be kept: 1, 4, 16 .. up to 2 % of them."""
    return [4**power for power in range(10) if 4**power <= size // 50]


def looks(tensor: Tensor, *, has_channels: bool) -> Iterator[Look]:
    """Yield the plain look, and that with scales."""
    ones = np.ones((len(tensor.rows), 1))
    yield Look(tensor=tensor, rows=tensor.rows, scales=ones, form=tensor.form)
    if has_channels:
        stored = channel_scales(tensor.rows, 0, np.dtype(np.float16))
        form = changed(tensor.form, scale_axis=0, scale_type=FLOAT16)
        rows = normalised(tensor.rows, stored)
        yield Look(tensor=tensor, rows=rows, scales=stored.astype(np.float64), form=form)


def tensors(path: Path) -> Iterator[Tensor]:
    """Yield the float32 tensors of a model that are not small."""
    document = load(path)
    found = weights(document)
    axes = output_axes(document, found)
    for weight in found:
        if weight.dtype != "float32" or weight.elements < LEAST or len(weight.shape) < 2:
            continue
        values = read(document, weight)
        if not np.isfinite(values).all() or np.unique(values).size <= KS[-1]:
            continue
        axis = axes.get((weight.graph, weight.name))
        rows = values.reshape(1, -1)
        if axis is not None and weight.elements // weight.shape[axis] >= 4:
            rows = np.moveaxis(values, axis, 0).reshape(weight.shape[axis], -1)
        held = holder(document, weight.scope)
        yield made(weight.name, np.ascontiguousarray(rows), weight.scope.opset, held)


def made(name: str, rows: Array, opset: int, held: Any = "initializer") -> Tensor:
    """Return a tensor of rows."""
    form = Form(
        layout="half",
        bit_width=16,
        data_type=FLOAT,
        codebook_type=FLOAT16,
        shape=rows.shape,
        centroids=0,
        opset=opset,
    )
    power = squared(rows.astype(np.float64))
    return Tensor(name=name, rows=rows, form=form, power=power, held=held)


def drawn(size: int, seed: int) -> Tensor:
    """Return heavy-tailed values with an outlier of 10 to 100 sigma in 10,000."""
    random = np.random.default_rng(seed)
    rows = random.standard_t(3, (64, size // 64))
    count = max(1, size // 10_000)
    picks = random.choice(size, count, replace=False)
    signs = random.choice((-1.0, 1.0), count)
    rows.reshape(-1)[picks] = signs * random.uniform(10, 100, count) * rows.std()
    return made("drawn", rows.astype(np.float32), 17)


def all_ways(tensor: Tensor) -> dict[str, list[Way]]:
    """Return the ways of a tensor by kind: base ones, and those that are added."""
    found: dict[str, list[Way]] = {"base": [], "sparse": [], "groups": []}
    half = tensor.rows.astype(np.float16).astype(np.float64) - tensor.rows
    loss = squared(half) / tensor.power
    if np.isfinite(loss):
        found["base"].append(Way(bytes=tensor.cost(tensor.form), loss=loss, what="float16"))
    found["base"].append(Way(bytes=4 * tensor.rows.size, loss=0.0, what="float32"))
    for look in looks(tensor, has_channels=len(tensor.rows) > 1):
        found["base"] += [way for _, way in look.base()]
        found["sparse"] += list(look.sparse())
        found["groups"] += list(look.groups())
    return found


def curve(ways: Sequence[Sequence[Way]]) -> tuple[Array, Array]:
    """Return bytes and losses along the path of one multiplier, losses falling."""
    fronts = make_fronts(ways)
    path = make_path(fronts)
    first = sum(own[pick].loss for own, pick in zip(ways, path.start, strict=True))
    drops = path.prices * np.diff(path.bytes)
    return path.bytes.astype(np.float64), first - np.concatenate(([0.0], np.cumsum(drops)))


def savings(
    base: Sequence[Sequence[Way]], more: Sequence[Sequence[Way]], elements: int
) -> dict[str, float]:
    """Return the share of bytes saved at equal loss, by the bits a value of the base."""
    bytes_, losses = curve(base)
    both = [[*own, *added] for own, added in zip(base, more, strict=True)]
    new_bytes, new_losses = curve(both)
    found = {}
    for rate in RATES:
        size = rate * elements / 8
        if not bytes_[0] <= size <= bytes_[-1]:
            continue
        loss = np.interp(size, bytes_, losses)
        new = np.interp(-loss, -new_losses, new_bytes)
        found[str(rate)] = round(float(1 - new / size), 5)
    return found


def line(name: str, found: Sequence[tuple[Tensor, dict[str, list[Way]]]]) -> dict[str, Any]:
    """Return what the added kinds save on a model, and on each of its tensors."""
    elements = sum(tensor.rows.size for tensor, _ in found)
    base = [ways["base"] for _, ways in found]
    result: dict[str, Any] = {"model": name, "tensors": len(found), "elements": elements}
    for kind in ("sparse", "groups"):
        more = [ways[kind] for _, ways in found]
        alone = [
            max(savings([ways["base"]], [ways[kind]], tensor.rows.size).values(), default=0.0)
            for tensor, ways in found
        ]
        best = int(np.argmax(alone))
        result[kind] = {
            "saved_by_bits": savings(base, more, elements),
            "best_tensor": found[best][0].name,
            "best_tensor_elements": found[best][0].rows.size,
            "best_tensor_saves": alone[best],
            "median_tensor_saves": float(np.median(alone)),
            "tensors_above_1_percent": sum(saved > 0.01 for saved in alone),
            "kinds_on_its_hull": taken(found[best][1], kind),
        }
    print(result, flush=True)
    return result


def taken(ways: dict[str, list[Way]], kind: str) -> list[str]:
    """Return which of the added ways are on the hull of a tensor."""
    both = [*ways["base"], *ways[kind]]
    path = make_path(make_fronts([both]))
    return [str(both[path.picks(step)[0]].what) for step in range(len(path.steps) + 1)]


def zeros(seed: int) -> list[dict[str, Any]]:
    """Return how much distortion grows where normal values of which a share is 0 keep 0.0."""
    lines = []
    for how in ("smallest", "random"):
        for share in ZERO_SHARES:
            random = np.random.default_rng(seed)
            values = random.standard_normal(100_000).astype(np.float32)
            size = np.abs(values) if how == "smallest" else random.random(values.size)
            values[size < np.quantile(size, share)] = 0.0
            x, found = np.unique(values.astype(np.float64), return_counts=True)
            points = spectrum(x, found.astype(np.float64))
            costs = {
                k: float(f"{fit(values, k).distortion / solve(points, k).cost - 1:.3g}")
                for k in ZERO_KS
            }
            lines.append({"pruned": how, "zeros": share, "excess_by_centroids": costs})
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    prepare(1 << 30)
    lines = []
    for size in (16_384, 147_456):
        tensor = drawn(size, arguments.seed)
        lines.append(line(f"Student t3 with outliers, {size}", [(tensor, all_ways(tensor))]))
    for path in arguments.models:
        found = [(tensor, all_ways(tensor)) for tensor in tensors(path)]
        lines.append(line(path.name, found))
    result = {"seed": arguments.seed, "zeros": zeros(arguments.seed), "results": lines}
    record.write(record.environment() | result, arguments.json)


if __name__ == "__main__":
    main()
