"""What an allocation knows of a model's data: a recorded probe, and moments of layers' inputs.

Owns how they are opened, each on a copy of the model of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxq import model, runtime, sources
from onnxq.allocation.candidates import Unit
from onnxq.allocation.planning_options import PlanningOptions
from onnxq.allocation.probing import Probe
from onnxq.calibration.calibrated import Calibration
from onnxq.calibration.maps import linear_maps
from onnxq.calibration.moments import Looking, collect
from onnxq.data.batches import Dataset
from onnxq.data.watched_data import FirstSamples, SpreadSamples
from onnxq.errors import OptionError
from onnxq.graphs import Document, Key
from onnxq.plan_records import DataSeen
from onnxq.session_settings import SessionSettings
from onnxq.validation import measure_setup

Reopen = Callable[[], Document]
Tell = Callable[[str, int], None]

RUN_SAMPLES = 8
"""Samples of a run, where the model takes any number: few, so that they spread over the data."""
CARRIED_TIMES = 16
"""Samples of a sequence that are looked at, for each that would be of data without state."""
PROBE_SAMPLES = 16
"""Most samples that single tensors are tried on."""


def open_data(document: Document, options: PlanningOptions) -> Dataset:
    """Return the samples to look at, of the calibration data or random ones, in small batches.

    They are spread over the data; where state is carried they are consecutive.

    Raises:
        InputError: the model or the data cannot be read, or do not fit each other.
        OptionError: an option does not fit them.
        UnsupportedError: onnxruntime cannot load the model.
    """
    data = open_whole(document, options, RUN_SAMPLES)
    if options.carry:
        return FirstSamples(data, CARRIED_TIMES * options.samples)
    return SpreadSamples(data, options.samples)


def open_whole(document: Document, options: PlanningOptions, batch: int) -> Dataset:
    """Return all of the data, or random inputs, in batches of a size where any size is taken.

    Raises:
        InputError, OptionError, UnsupportedError: as `open_data`.
    """
    session = runtime.open_session(sources.runnable(document), SessionSettings(threads=1))
    measured = options.measured()
    is_open = all(spec.shape and not isinstance(spec.shape[0], int) for spec in session.inputs)
    if options.inputs is None or not is_open or options.carry:
        return measure_setup.open_data(document, session, measured)
    try:
        return measure_setup.open_data(document, session, replace(measured, batch=batch))
    except OptionError:  # each row of the data may hold a whole feed, of a size of its own
        return measure_setup.open_data(document, session, measured)


def open_probe(
    reopen: Reopen, units: Sequence[Unit], options: PlanningOptions, data: Dataset, folder: Path
) -> Probe:
    """Return a probe of the units' tensors, recorded on samples that are spread over the data.

    Raises:
        InputError, UnsupportedError: the model cannot be run on the data.
    """
    document = reopen()
    keys = {(w.graph, w.name) for unit in units for w in unit.weights}
    weights = [w for w in model.weights(document) if (w.graph, w.name) in keys]
    probe = Probe(document, weights, folder)
    probe.record(data, options.carry, min(options.samples, PROBE_SAMPLES))
    return probe


def calibrate(
    reopen: Reopen,
    keys: frozenset[Key],
    options: PlanningOptions,
    data: Dataset,
    folder: Path,
    tell: Tell | None = None,
) -> Calibration:
    """Return what the data show of weights' inputs.

    Args:
        reopen: gives the model once more.
        keys: the weights.
        options: how the data are run.
        data: what the model is run on, all of it.
        folder: place for sums, as long as these are used.
        tell: told of each batch.

    Raises:
        InputError, UnsupportedError: the model cannot be run on the data.
    """
    document = reopen()
    maps = linear_maps(document, model.weights(document))
    wanted = {key: one for key, one in maps.items() if key in keys}
    looking = Looking(carry=options.carry)
    moments = collect(document, wanted, data, folder, tell, looking)
    return Calibration(maps=wanted, moments=moments)


def seen(data: Dataset) -> DataSeen:
    """Return what tells calibration data from others: a digest of all that is fed."""
    found, samples = hashlib.blake2b(digest_size=16), 0
    for batch in data.batches():
        samples += batch.samples
        for name in sorted(batch.feeds):
            array = np.asarray(batch.feeds[name])
            found.update(f"{name} {array.dtype} {array.shape} ".encode())
            found.update(np.ascontiguousarray(array).tobytes())
    return DataSeen(samples=samples, digest=found.hexdigest())
