"""New values of biases that take the mean errors of decoded weights.

Owns which biases those are, and their place in a model. The means of layers' inputs come from
calibration data; without any, from the statistics of a normalisation ahead of the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxq import model
from onnxq.ahead import Fits
from onnxq.calibration import bias
from onnxq.calibration.calibrated import Calibration
from onnxq.calibration.expected import expected_means
from onnxq.calibration.maps import LinearMap, linear_maps
from onnxq.clustering.codebook import Array
from onnxq.encode import Fitter, decoded
from onnxq.errors import InputError
from onnxq.graphs import Document, Key
from onnxq.model import Weight
from onnxq.plan_records import Correction
from onnxq.plans import Plan, TensorPlan

Corrections = Mapping[Key, Array]
"""New values of biases by (graph, name), in their shape and dtype."""


def planned_corrections(
    document: Document, plan: Plan, calibration: Calibration | None
) -> tuple[Correction, ...]:
    """Return which biases take the mean errors of a plan's tensors, in the plan's order.

    A bias whose storage is shared takes none, and no bias takes those of two weights.

    Raises:
        InputError: a value cannot be read.
    """
    weights = model.weights(document)
    maps, means = _known(document, weights, calibration)
    places = bias.bias_places(document, weights, maps)
    shared = {item.same_as for item in plan.tensors if item.same_as is not None}
    shared |= {item.key for item in plan.tensors if item.same_as is not None}
    found: dict[Key, Correction] = {}
    for planned in plan.tensors:
        place = places.get(planned.key)
        if place is None or planned.key not in means or planned.layout == "half":
            continue
        is_open = place.key not in shared and planned.key not in shared
        if is_open and place.key not in found and _is_held(place.weight):
            name, graph = place.weight.name, place.weight.graph
            found[place.key] = Correction(name=name, graph=graph, weight=planned.key)
    return tuple(found.values())


def corrected_values(
    document: Document,
    plan: Plan,
    fits: Fits,
    calibration: Calibration | None,
    fitter: Fitter,
) -> dict[Key, Array]:
    """Return the new values of the biases that a plan corrects.

    Args:
        document: the model, its biases as they came.
        plan: what is done.
        fits: codebooks that are known.
        calibration: what is known of layers' inputs.
        fitter: fits the other codebooks.

    Raises:
        InputError: a value cannot be read, or means of inputs are not known.
    """
    if not plan.corrections:
        return {}
    weights = model.weights(document)
    held = {(weight.graph, weight.name): weight for weight in weights}
    maps, means = _known(document, weights, calibration)
    places = bias.bias_places(document, weights, maps)
    planned = {item.key: item for item in plan.tensors}
    found: dict[Key, Array] = {}
    for item in plan.corrections:
        place, mean = places.get(item.weight), means.get(item.weight)
        tensor = planned.get(item.weight)
        if place is None or mean is None or tensor is None:
            raise InputError(
                f"{document.label}: tensor {item.name!r}: the plan corrects it for "
                f"{item.weight[1]!r}, whose inputs are not known; make a new plan"
            )
        values = model.read(document, held[item.weight])
        known = fits.get(item.weight)
        if known is None:
            known = fitter(values, tensor, 1)
        one = maps[item.weight]
        lacking = bias.correction(one.rows(values), one.rows(decoded(values, tensor, known)), mean)
        old = model.read(document, held[place.key])
        found[place.key] = bias.corrected(old, place, lacking)
    return found


def put(document: Document, corrections: Corrections) -> None:
    """Give biases of a document their new values."""
    for weight in model.weights(document):
        values = corrections.get((weight.graph, weight.name))
        if values is None or weight.tensor is None:
            continue
        name, doc = weight.tensor.name, weight.tensor.doc_string
        weight.tensor.Clear()
        weight.tensor.name, weight.tensor.data_type = name, weight.data_type
        weight.tensor.dims.extend(weight.shape)
        weight.tensor.raw_data = np.ascontiguousarray(values).tobytes()
        if doc:
            weight.tensor.doc_string = doc


def _known(
    document: Document, weights: list[Weight], calibration: Calibration | None
) -> tuple[Mapping[Key, LinearMap], Mapping[Key, Array]]:
    if calibration is not None:
        means = {key: stored.mean for key, stored in calibration.moments.items()}
        return calibration.maps, means
    maps = linear_maps(document, weights)
    return maps, expected_means(document, weights, maps)


def _is_held(weight: Weight) -> bool:
    """Tell whether a tensor's values can be exchanged in place."""
    if weight.kind == "initializer":
        return True
    node = weight.scope.proto.node[weight.position]
    return node.attribute[0].HasField("t")


def touched(plan: Plan, corrections: Corrections) -> Iterator[TensorPlan]:
    """Yield the planned tensors that have new values."""
    return (item for item in plan.tensors if item.key in corrections)
