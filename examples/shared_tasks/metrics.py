"""Metrics of the shared tasks that are not built in, as plug-ins for `--metric`.

Each function gets a model's outputs and the batch, and returns a row for each sample;
docs/metrics.md has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

CENTS = 20 * np.arange(360) + 1997.3794084376191
"""Pitch of CREPE's bins, in cents above 10 Hz."""
NEIGHBOURS = 4


def pitch_within_50_cents(outputs: Mapping[str, Array], sample: Mapping[str, Array]) -> Array:
    """Return 1 where the estimated pitch is within 50 cents of the note `midi`.

    The pitch is the mean of the bins around the strongest one, weighted by salience.
    """
    bins = np.arange(len(CENTS))
    salience = outputs["salience"]
    best = salience.argmax(1)
    weights = np.where(np.abs(bins - best[:, None]) <= NEIGHBOURS, salience, 0)
    frequency = 10 * 2 ** ((weights @ CENTS) / weights.sum(1) / 1200)
    expected = 440 * 2 ** ((sample["midi"] - 69) / 12)
    cents = 1200 * np.log2(frequency / expected)
    return np.asarray(np.abs(cents) < 50)


pitch_within_50_cents.aggregate = "share"  # type: ignore[attr-defined]


def vad_auc(outputs: Mapping[str, Array], sample: Mapping[str, Array]) -> Array:
    """Return (is speech, probability) of each frame; a frame that is mixed has a row of NaN."""
    share = sample["speech"]
    rows = np.stack([share > 0.5, outputs["output"][:, 0]], axis=1).astype(np.float64)
    rows[(share >= 0.1) & (share <= 0.9)] = np.nan
    return rows


vad_auc.aggregate = "auc"  # type: ignore[attr-defined]


def vad_accuracy(outputs: Mapping[str, Array], sample: Mapping[str, Array]) -> Array:
    """Return 1 where a frame is told right at a probability of 0.5; mixed frames are left out."""
    truth, score = vad_auc(outputs, sample).T
    return np.where(np.isnan(truth), np.nan, (score > 0.5) == truth)


vad_accuracy.aggregate = "share"  # type: ignore[attr-defined]
