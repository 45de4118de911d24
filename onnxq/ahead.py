"""Fit codebooks ahead of encoding, where only fitting tells how many centroids come into use.

Owns which tensors those are, and what a tensor in work is charged with. A size can then be foreseen
to the byte; encoding takes the codebooks over, so nothing is fitted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnxq.clustering.cluster import Clustering
from onnxq.encode import Fitter, fitted
from onnxq.graphs import Document
from onnxq.model import Weight, read
from onnxq.parallel import ordered_map
from onnxq.plans import Plan, TensorPlan, form_of

WHOLE_TENSOR_BYTES = 64 << 20
"""A tensor of this size is fitted and encoded alone, by all workers together."""
INFLIGHT_BYTES = 512 << 20
"""What all tensors in work may take together, unless one alone takes more."""

Key = tuple[str, str]
Fits = Mapping[Key, Clustering]
"""Clusterings by the (graph, name) of the tensor, without indices but where feedback gave them."""


def is_open(planned: TensorPlan, weight: Weight, *, is_saved: bool = False) -> bool:
    """Tell whether the stored bytes of a tensor are known only once its codebook is fitted.

    `optimal` uses every centroid it is given, but float64 values of very different magnitude may
    fall together, and a saved plan may have been made for values of which more were distinct. Other
    starts leave clusters empty, rounding to float16 merges centroids, and how many values are
    distinct once they are divided by scales was not counted.
    """
    if planned.same_as is not None or planned.layout == "half":
        return False
    if planned.needs_calibration:  # as long as the data are there
        return True
    is_sure = planned.init == "optimal" and planned.dtype != "float64" and not is_saved
    is_sure = is_sure and planned.is_plain
    if is_sure and not planned.has_half_codebook:
        return False
    if planned.is_pooled:  # its codebook is never filled up
        return True
    return not form_of(planned, weight.scope.opset, weight.data_type).is_full


def fit_open(
    document: Document,
    opened: Sequence[TensorPlan],
    weights: Sequence[Weight],
    jobs: int,
    seen: Callable[[TensorPlan], None] | None = None,
    fitter: Fitter = fitted,
) -> Fits:
    """Return the clusterings of tensors, which are read for it.

    They hold at most 256 KiB of float32 centroids a tensor, and less than the tensor's new form;
    with error feedback they hold its indices too, which nothing else tells.

    Args:
        document: the model.
        opened: the tensors, as `open_tensors` returns them.
        weights: the weights that they are among.
        jobs: threads, which never change the result.
        seen: called with each tensor when it is fitted.
        fitter: fits a codebook.

    Raises:
        InputError: a tensor cannot be read.
    """
    by_key = {(weight.graph, weight.name): weight for weight in weights}

    def work(planned: TensorPlan) -> Clustering:
        values = read(document, by_key[planned.key])
        found = fitter(values, planned, own_jobs(planned, jobs))
        return found if planned.has_feedback else found.without_indices()

    fits: dict[Key, Clustering] = {}
    results = ordered_map(work, opened, jobs=jobs, cost=working_bytes, budget=INFLIGHT_BYTES)
    for planned, found in zip(opened, results, strict=True):
        fits[planned.key] = found
        if seen is not None:
            seen(planned)
    return fits


def open_tensors(
    plan: Plan, weights: Sequence[Weight], *, is_saved: bool = False
) -> list[TensorPlan]:
    """Return the planned tensors of which `is_open` is true, in plan order."""
    by_key = {(weight.graph, weight.name): weight for weight in weights}
    return [
        planned
        for planned in plan.tensors
        if is_open(planned, by_key[planned.key], is_saved=is_saved)
    ]


def own_jobs(planned: TensorPlan, jobs: int) -> int:
    """Return how many of the threads work on one tensor."""
    return jobs if planned.original_bytes >= WHOLE_TENSOR_BYTES else 1


def working_bytes(planned: TensorPlan) -> int:
    """Return at least what encoding a tensor takes at its peak (docs/clustering.md).

    That is its values and, at different times, 1.5 times as much for clustering, or indices and
    planes; the values over their scales, or without those kept; besides 24 MiB for blocks and
    windows, which a small tensor does not fill.
    """
    size = planned.original_bytes
    times = 3 if planned.scale_axis is None and not planned.kept_values else 4
    return times * size + min(24 << 20, 32 * size)
