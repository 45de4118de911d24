"""Running sums of a stream that take little room, for solvers that ask for runs anywhere.

Owns the answers that Lloyd's iteration needs of a tensor too large for a spectrum. Sums are kept at
every 64th slot only (the rungs); from there to an edge the few slots between are added up anew,
with the rounding error of every addition carried along, so the answers are those of a spectrum.
"""

from __future__ import annotations

import numpy as np

from onnxq.clustering.spectrum import Floats
from onnxq.clustering.windows import Slots, Stream


class Ladder:
    """Answer for the positions of a stream. Takes at most 24 bytes for 64 slots."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        middle = stream.window(stream.size // 2, stream.length).positions
        # Any position will do; sums about one inside lose least.
        self._centre = float(middle[0] if middle.size else sum(stream.ends) / 2)
        self._rungs = stream.rungs(self._centre)

    @property
    def total(self) -> float:
        """The weight of all positions."""
        return float(self._weights(np.array([self._stream.size]))[0])

    def split(self, limits: Floats) -> tuple[Floats, Floats]:
        """Return the weight up to each nonempty run between limits, and the runs' means."""
        edges = np.concatenate(([0], self._stream.after(limits), [self._stream.size]))
        sums = self._stream.sums(edges, self._centre, self._rungs)
        kept = np.flatnonzero(np.concatenate(([True], sums[0][1:] > sums[0][:-1])))
        edges, (weight, high, low) = edges[kept], (run[kept] for run in sums)
        means = self._centre + (np.diff(high) + np.diff(low)) / np.diff(weight)
        first, last = self._stream.positions(edges[:-1]), self._stream.positions(edges[1:] - 1)
        # A mean lies between its ends whatever the rounding, and one position is its own mean.
        return weight[1:], np.clip(means, first, last)

    def below(self, limits: Floats) -> Floats:
        """Return the weight of the positions below each limit."""
        return self._weights(self._stream.after(np.nextafter(limits, -np.inf)))

    def at(self, ranks: Floats) -> Floats:
        """Return the first position up to which each weight lies."""
        low, high = np.zeros(ranks.size, np.int64), np.full(ranks.size, self._stream.size)
        least = np.maximum(ranks, 0.5)  # weights are whole numbers
        while (high - low > 1).any():
            middle = (low + high) // 2
            is_enough = self._weights(middle) >= least
            low, high = np.where(is_enough, low, middle), np.where(is_enough, middle, high)
        return self._stream.positions(high - 1)

    def _weights(self, slots: Slots) -> Floats:
        return self._stream.sums(slots, self._centre, self._rungs)[0]
