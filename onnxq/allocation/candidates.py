"""The ways in which each tensor can be stored, with what they cost and how far they are off.

Owns the list: widths of 1 to 12 bits, the fractional ones between, scales for each output channel,
a few outliers kept exactly, float16, and the tensor as it is. One look at a tensor's values serves
all of a kind. Tensors of equal values are one unit, stored once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxq import keeping
from onnxq.allocation import outliers
from onnxq.calibration.maps import output_axes
from onnxq.choose import Choice, choice_of, container_bytes
from onnxq.clustering.cluster import prepare
from onnxq.clustering.codebook import Array, signal_power
from onnxq.clustering.family import Point, fit_family
from onnxq.facts import READ_BUDGET, Facts, gather_facts, spans_half
from onnxq.forms import MAX_NODE_BYTES, SCATTER_OPSET, Form, StoredLayout, canonical
from onnxq.graphs import Document, Holder, Key, holder
from onnxq.model import Weight, read
from onnxq.options import ConvertOptions
from onnxq.parallel import ordered_map
from onnxq.pooling import MAX_MEMBER_ELEMENTS
from onnxq.pools import POOL_OPSET
from onnxq.radixpack import RADIXES
from onnxq.rate import member_cost, nominal_cost
from onnxq.scaling import channel_scales, normalised
from onnxq.selection import Skip, check_patterns, reason_to_keep, skip
from onnxq.trees import FLOAT16, ITEM_BITS

WIDTHS = range(1, 13)
"""Bit widths that are considered; a wider index costs nearly as much as float16."""
MIN_CHANNEL = 4
"""Fewest values of a channel that has a scale of its own."""
HALF_NOISE = 2.0**-20 / 26
"""Squared relative error of values rounded to float16: steps of 2^-10 of a power of two have a
variance of 2^-20 / 12 times its square, and values of all magnitudes between two such powers a mean
square of 3 / (2 ln 2) = 2.16 times that."""

_CAST_BYTES = 40
"""About what a Cast node costs; a shorter saving is not worth one."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Hold one way to store a tensor.

    Attributes:
        form: As it stands alone; None where the tensor stays as it is.
        bytes: What it takes, alone or in a pool, without what is shared.
        distortion: Sum of squared residuals over finite values, without any importance.
        label: For a person: "3 bits, scaled".
    """

    form: Form | None
    bytes: int
    distortion: float
    label: str

    @property
    def is_scaled(self) -> bool:
        """Whether each output channel has a scale."""
        return self.form is not None and self.form.scale_axis is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit:
    """Hold a tensor, those that are equal to it, and the ways to store them.

    Attributes:
        weights: The tensors, the one that holds the storage first.
        facts: What its values hold.
        candidates: The ways; the last one is to leave the tensors as they are.
        power: Sum of squares of the finite values.
    """

    weights: tuple[Weight, ...]
    facts: Facts
    candidates: tuple[Candidate, ...]
    power: float

    @property
    def lead(self) -> Weight:
        """The first of the tensors."""
        return self.weights[0]

    @property
    def key(self) -> Key:
        """The (graph, name) of the first tensor."""
        return self.lead.graph, self.lead.name

    def choices(self, document: Document, pick: int) -> list[Choice]:
        """Return the choices of a way for all tensors; none where they stay as they are."""
        form = self.candidates[pick].form
        if form is None:
            return []
        found = []
        for weight in self.weights:
            own = form if weight is self.lead else replace(form, shape=weight.shape)
            found.append(choice_of(document, weight, self.facts, own))
        return found


def make_units(
    document: Document, weights: Sequence[Weight], options: ConvertOptions, jobs: int
) -> tuple[list[Unit], list[Skip]]:
    """Return the tensors that may be encoded with their ways, and why each other one is kept.

    Reads every candidate twice: for what its values hold, and for its codebooks.

    Raises:
        InputError: a tensor cannot be read.
        OptionError: a pattern of the options matches nothing.
    """
    check_patterns(weights, options, document.label)
    wide = replace(options, bits=WIDTHS[-1], codebook_dtype="float16", tensor_bits=())
    kept = {id(weight): reason_to_keep(weight, options) for weight in weights}
    open_weights = [weight for weight in weights if kept[id(weight)] is None]
    skips = [skip(weight, *why) for weight in weights if (why := kept[id(weight)]) is not None]
    groups: dict[object, list[tuple[Weight, Facts]]] = {}
    for weight, seen in zip(
        open_weights, gather_facts(document, open_weights, wide, jobs), strict=True
    ):
        if seen.has_nan:
            skips.append(skip(weight, "nan", "it holds NaN, which no centroid can stand for"))
            continue
        content = (seen.digest, weight.data_type, weight.elements, weight.scope.root.path)
        groups.setdefault(content if seen.digest else id(weight), []).append((weight, seen))
    axes = output_axes(document, weights)
    prepare(2 * len(WIDTHS) * sum(weight.elements for weight in open_weights))

    def work(group: list[tuple[Weight, Facts]]) -> Unit:
        return _unit(document, group, axes, jobs)

    found = ordered_map(
        work,
        list(groups.values()),
        jobs=jobs,
        cost=lambda group: 4 * group[0][0].data_bytes,
        budget=READ_BUDGET,
    )
    return list(found), skips


def _unit(
    document: Document, group: list[tuple[Weight, Facts]], axes: Mapping[Key, int], jobs: int
) -> Unit:
    weight, facts = group[0]
    values = read(document, weight)
    held = holder(document, weight.scope)
    original = weight.data_bytes + container_bytes(weight)
    found = [
        candidate
        for candidate in _candidates(values, weight, facts, axes.get((weight.graph, weight.name)))
        if candidate.form is not None
    ]
    costed = [replace(item, bytes=_bytes(item.form, weight, held)) for item in found if item.form]
    whole = len(group) * original
    keep = Candidate(form=None, bytes=whole, distortion=0.0, label="float")
    useful = _worthwhile([item for item in costed if item.bytes < original], keep)
    return Unit(
        weights=tuple(weight for weight, _ in group),
        facts=facts,
        candidates=(*useful, keep),
        power=signal_power(values),
    )


def _worthwhile(found: list[Candidate], whole: Candidate) -> list[Candidate]:
    """Return the ways without those with kept values that lie above the hull of all."""
    ways = [*found, whole]
    best = outliers.on_hull([item.bytes for item in ways], [item.distortion for item in ways])
    return [
        item
        for number, item in enumerate(found)
        if item.form is None or not item.form.kept or number in best
    ]


def _candidates(
    values: Array, weight: Weight, facts: Facts, axis: int | None
) -> Iterator[Candidate]:
    """Yield the ways to store a tensor but as it is; their bytes are not known yet."""
    sizes = _sizes(weight, facts)
    facts = replace(facts, fits_half=facts.fits_half or spans_half(values))
    rounding = HALF_NOISE * signal_power(values)
    for form, point in _coded(values, weight, facts, sizes, None):
        yield _candidate(form, point.distortion + _is_rounded(form, point) * rounding)
    if _may_keep(weight, facts):
        yield from _kept(values, weight, facts, sizes)
    if axis is not None and _may_scale(weight, axis):
        scale_type = FLOAT16 if _is_half(weight, facts, weight.shape[axis]) else weight.data_type
        stored = np.dtype(np.float16) if scale_type == FLOAT16 else values.dtype
        scales = channel_scales(values, axis, stored)
        normal = normalised(values, scales)
        power = np.square(scales.astype(np.float64))
        for form, point in _coded(normal, weight, facts, sizes, (axis, scale_type)):
            noise = point.distortion * float(power.mean())
            yield _candidate(form, noise + _is_rounded(form, point) * rounding)
    if facts.fits_half and ITEM_BITS[weight.data_type] > 16:
        form = Form(
            layout="half",
            bit_width=16,
            data_type=weight.data_type,
            codebook_type=FLOAT16,
            shape=weight.shape,
            centroids=0,
            opset=weight.scope.opset,
        )
        yield _candidate(form, rounding)


def _kept(
    values: Array, weight: Weight, facts: Facts, sizes: Sequence[tuple[int, bool]]
) -> Iterator[Candidate]:
    """Yield the ways that keep a few outliers beside a codebook of the other values."""
    small = [(size, is_radix) for size, is_radix in sizes if size <= outliers.MOST_CENTROIDS]
    item_bytes = 2 if facts.fits_half else values.itemsize
    for count in outliers.counts(values, item_bytes):
        kept_type = FLOAT16 if _is_half(weight, facts, count) else weight.data_type
        rest = keeping.others(values, keeping.largest(values, count))
        noise = 0.0
        if kept_type != weight.data_type:
            noise = HALF_NOISE * outliers.kept_power(values, count)
        rounding = HALF_NOISE * signal_power(rest)
        for form, point in _coded(rest, weight, facts, small, None):
            one = replace(form, kept=count, kept_type=kept_type)
            lost = point.distortion + _is_rounded(form, point) * rounding
            yield _candidate(one, lost + noise)


def _may_keep(weight: Weight, facts: Facts) -> bool:
    return (
        weight.scope.opset >= SCATTER_OPSET
        and weight.dtype in ("float32", "float64")
        and weight.data_bytes <= MAX_NODE_BYTES
        and facts.infinities == 0
    )


def _candidate(form: Form, distortion: float) -> Candidate:
    return Candidate(form=form, bytes=0, distortion=distortion, label=label_of(form))


def _is_rounded(form: Form, point: Point) -> bool:
    """Tell whether centroids are rounded as they are stored; exact ones are kept so."""
    return form.codebook_type != form.data_type and not point.is_lossless


def label_of(form: Form) -> str:
    """Return what a way is called: its bits an index, its scales or kept values."""
    if form.layout == "half":
        return "float16"
    if form.layout == "radix":
        radix = RADIXES[form.bit_width]
        bits = f"{8 * radix.word_bytes / radix.group:.2f}".rstrip("0")
    else:
        bits = str(form.bit_width)
    kept = f", {form.kept} kept" if form.kept else ""
    return f"{bits} bits" + (", scaled" if form.scale_axis is not None else kept)


def _sizes(weight: Weight, facts: Facts) -> list[tuple[int, bool]]:
    """Return the codebook sizes that are of use, and whether each is a radix."""
    radixes = {radix.base for radix in RADIXES.values()}
    most = min(facts.distinct, max(2, weight.elements))
    room = max(facts.infinities + 1, 1)
    affordable = weight.data_bytes // 2  # of float16 centroids, all bytes that there are
    widths = [width for width in WIDTHS if 1 << width < min(most, affordable)]
    sizes = [(1 << width, False) for width in widths if room <= 1 << width]
    if most <= min(1 << WIDTHS[-1], affordable):
        sizes.append((most, False))
    return sizes + [(base, True) for base in sorted(radixes) if room <= base <= most]


def _coded(
    values: Array,
    weight: Weight,
    facts: Facts,
    sizes: Sequence[tuple[int, bool]],
    scaling: tuple[int, int] | None,
) -> Iterator[tuple[Form, Point]]:
    """Yield the forms with codebooks, and what the codebooks make of the values."""
    points = fit_family(values, [size for size, _ in sizes])
    by_size = {point.k: point for point in points}
    for size, is_radix in sizes:
        point = by_size.get(size)
        if point is None or point.centroids.size == 0:
            continue
        bits = max(1, (size - 1).bit_length())
        asked: StoredLayout = "radix" if is_radix else "portable"
        layout, width = canonical(asked, bits, size, weight.scope.opset)
        if is_radix and layout != "radix":
            continue
        is_half = _is_half(weight, facts, size)
        if point.is_lossless and is_half:
            is_half = bool(np.array_equal(point.centroids.astype(np.float16), point.centroids))
        axis, scale_type = scaling or (None, None)
        yield (
            Form(
                layout=layout,
                bit_width=width,
                data_type=weight.data_type,
                codebook_type=FLOAT16 if is_half else weight.data_type,
                shape=weight.shape,
                centroids=size,
                opset=weight.scope.opset,
                scale_axis=axis,
                scale_type=scale_type,
            ),
            point,
        )


def _may_scale(weight: Weight, axis: int) -> bool:
    channels = weight.shape[axis]
    return (
        channels > 1
        and weight.elements // channels >= MIN_CHANNEL
        and weight.dtype in ("float32", "float64")
    )


def _is_half(weight: Weight, facts: Facts, count: int) -> bool:
    """Tell whether so many numbers beside the indices are stored as float16."""
    gain = count * (ITEM_BITS[weight.data_type] - 16) // 8
    return facts.fits_half and gain > _CAST_BYTES


def _bytes(form: Form, weight: Weight, held: Holder) -> int:
    """Return what a form costs where it costs least: alone, or in a pool."""
    name_bytes = len(weight.name.encode())
    alone = nominal_cost(form, name_bytes, held).total
    may_pool = form.opset >= POOL_OPSET and form.elements <= MAX_MEMBER_ELEMENTS
    if form.layout == "half" or not may_pool:
        return alone
    return min(alone, member_cost(form, form.bit_width, name_bytes, held).total)
