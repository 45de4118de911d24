"""What decides the figures of a working point, as a key by which a finished one is found again.

Owns what a key covers: the model's bytes, the data, every convert option in effect, what is
measured and how, the source of users' metrics, and the versions of all packages that have a part.
Not covered: where a file lies, its name, the number of jobs, and the machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxq import summary
from onnxq.graphs import Document
from onnxq.options import ConvertOptions
from onnxq.sweeps import fingerprints
from onnxq.sweeps.grid import GridPoint
from onnxq.validation import measure_setup, plugins
from onnxq.validation.measure_options import MeasureOptions

_NO_PART = ("layers", "performance")


def keys(
    document: Document, measure: MeasureOptions, points: Sequence[GridPoint]
) -> dict[str, GridPoint]:
    """Return every point by its key, in order.

    Raises:
        InputError: the model or the data cannot be read.
    """
    shared = [fingerprints.of_model(document), _measure(measure), dict(summary.versions())]
    return {fingerprints.digest([*shared, _options(point.options)]): point for point in points}


def _options(options: ConvertOptions) -> dict[str, Any]:
    return replace(options, preset=None, jobs=0).to_json()


def _measure(measure: MeasureOptions) -> dict[str, Any]:
    record = measure.to_json()
    if measure.data is not None:
        record["data"] = fingerprints.of_data(measure.data)
    if measure.preprocess is not None and os.path.isfile(measure.preprocess):
        record["preprocess"] = fingerprints.of_data(Path(measure.preprocess))
    record["provider"] = measure_setup.used_provider(measure)
    record["metrics"] = [[name, _source(name)] for name in measure.metrics]
    return {name: value for name, value in record.items() if name not in _NO_PART}


def _source(metric: str) -> str | None:
    """Return the digest of the source of a user's metric; None of one of ours."""
    name = metric.partition("@")[0]
    if not plugins.is_plugin_name(name):
        return None
    return fingerprints.of_module(name.partition(":")[0])
