"""Choose the form of one tensor: the smallest the exact arithmetic finds, or none.

Owns the decision for a tensor that stands alone; `sharing` then looks at tensors together.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.facts import Facts
from onnxq.forms import Form, canonical
from onnxq.graphs import Document, Scope, holder
from onnxq.model import Weight
from onnxq.options import ConvertOptions
from onnxq.rate import nominal_cost
from onnxq.selection import Skip, skip, width_for
from onnxq.trees import FLOAT16, ITEM_BITS

_SIMPLE_WIDTHS = (2, 4, 8, 12, 16)
"""Widths with few nodes, which can beat a smaller width on a short tensor."""
_CAST_NODE_BYTES = 40
"""About what the Cast of a float16 codebook costs; a shorter saving is not worth it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """Hold a tensor with the form chosen for it and what that saves.

    `same_as` is the equal tensor whose storage this one shares; `storage` is the scope that
    holds the bytes. In a pool the tensor may have any of the `widths` (least and most bits);
    `is_pooled` says that it is in one, of the form's width. `is_weighted` and `has_feedback` say
    how its codebook is fitted.
    """

    weight: Weight
    facts: Facts
    form: Form
    saved: int
    storage: Scope
    widths: tuple[int, int]
    same_as: Weight | None = None
    is_pooled: bool = False
    is_weighted: bool = False
    has_feedback: bool = False

    @property
    def original_bytes(self) -> int:
        """The bytes that the tensor takes as it is."""
        return self.weight.data_bytes + container_bytes(self.weight)


def choose(
    document: Document, weight: Weight, seen: Facts, options: ConvertOptions
) -> Choice | Skip:
    """Return the smallest form of a tensor that stands alone, or why its values rule one out.

    The form may be larger than the tensor, which is then `too_large` alone. The width may be below
    the one asked for when fewer bits suffice for the distinct values.
    """
    if seen.has_nan:
        return skip(weight, "nan", "it holds NaN, which no centroid can stand for")
    bits = width_for(weight, options)
    if seen.infinities and seen.distinct > 1 << bits <= seen.infinities:
        return skip(weight, "infinite", f"{1 << bits} centroids cannot hold its infinities")
    centroids = min(seen.distinct, 1 << bits)
    least = max(1, (centroids - 1).bit_length()) if options.fewer_bits else bits
    widths = [least, *(width for width in _SIMPLE_WIDTHS if least < width <= bits)]
    forms = [_form(weight, seen, options, width, centroids) for width in widths]
    held = holder(document, weight.scope)
    costs = [nominal_cost(form, len(weight.name.encode()), held).total for form in forms]
    best = min(range(len(forms)), key=lambda i: costs[i])
    return choice_of(document, weight, seen, forms[best], (least, bits))


def choice_of(
    document: Document,
    weight: Weight,
    seen: Facts,
    form: Form,
    widths: tuple[int, int] | None = None,
) -> Choice:
    """Return the choice of a form that was picked for a tensor, with what it saves alone.

    Args:
        document: the model.
        weight: the tensor.
        seen: what its values hold.
        form: how it is stored where it stands alone.
        widths: least and most bits that it may have in a pool; those of the form by default.
    """
    held = holder(document, weight.scope)
    cost = nominal_cost(form, len(weight.name.encode()), held).total
    return Choice(
        weight=weight,
        facts=seen,
        form=form,
        saved=weight.data_bytes + container_bytes(weight) - cost,
        storage=weight.scope,
        widths=widths or (form.bit_width, form.bit_width),
    )


def half_form(weight: Weight) -> Form:
    """Return the form that stores a tensor of a wide type as float16; see `halves.fits`."""
    return Form(
        layout="half",
        bit_width=16,
        data_type=weight.data_type,
        codebook_type=FLOAT16,
        shape=weight.shape,
        centroids=0,
        opset=weight.scope.opset,
    )


def too_large(choice: Choice) -> Skip:
    """Return why a tensor that saves nothing, or not enough, is kept."""
    original = choice.original_bytes
    if choice.saved > 0:
        detail = "the shared decoding tables would cost more than the tensors save"
    else:
        bits, cost = choice.form.bit_width, original - choice.saved
        detail = f"{bits} bits would take {cost} bytes of {original}"
    return skip(choice.weight, "not-smaller", detail)


def container_bytes(weight: Weight) -> int:
    """Return a close lower bound of the bytes that a weight takes beside its values."""
    return 2 * len(weight.shape) + len(weight.name.encode()) + 8


def _form(weight: Weight, seen: Facts, options: ConvertOptions, width: int, centroids: int) -> Form:
    own_bits = ITEM_BITS[weight.data_type]
    gain = centroids * (own_bits - 16) // 8
    layout, width = canonical(options.layout, width, centroids, weight.scope.opset)
    return Form(
        layout=layout,
        bit_width=width,
        data_type=weight.data_type,
        codebook_type=FLOAT16 if seen.fits_half and gain > _CAST_NODE_BYTES else weight.data_type,
        shape=weight.shape,
        centroids=centroids,
        opset=weight.scope.opset,
    )
