"""Fit the codebooks that a plan asks for, those that calibration data decide among them.

Owns the choice between the values alone and what is known of a layer's inputs.
"""

from __future__ import annotations

from onnxq.calibration.calibrated import Calibration, Fitting
from onnxq.clustering.cluster import Clustering
from onnxq.clustering.codebook import Array
from onnxq.encode import Fitter, fitted, tensor_scales
from onnxq.errors import InputError
from onnxq.plans import TensorPlan
from onnxq.scaling import normalised


def fitter_of(calibration: Calibration | None) -> Fitter:
    """Return what fits codebooks with what is known of layers' inputs; of none, the values alone.

    It raises InputError for a tensor that was planned with its inputs known, and they are not.
    """
    if calibration is None:
        return fitted

    def fit(values: Array, planned: TensorPlan, jobs: int) -> Clustering:
        if not planned.needs_calibration:
            return fitted(values, planned, jobs)
        is_known = calibration.has_moments(planned.key)
        if not is_known or (planned.has_feedback and not calibration.has_pairs(planned.key)):
            raise InputError(
                f"tensor {planned.name!r}: the plan goes by its inputs, which the calibration data "
                "do not show; give the data that the plan was made with"
            )
        scales = tensor_scales(values, planned)
        normal = values if scales is None else normalised(values, scales)
        fitting = Fitting(
            centroids=planned.centroids,
            is_weighted=planned.is_weighted,
            has_feedback=planned.has_feedback,
            is_half=planned.has_half_codebook,
        )
        return calibration.clustering(planned.key, normal, fitting, scales=scales, jobs=jobs)

    return fit
