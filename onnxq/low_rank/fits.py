"""The layers of a model taken apart: what each rank of each would lose, and the factors.

Owns what is computed once and what again: a layer taken apart is kept, as long as all that are
kept fit in KEPT_BYTES, since its ranks may be asked for many times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from onnxq import model
from onnxq.graphs import Document
from onnxq.low_rank.factors import Decomposition, Factors, decompose
from onnxq.low_rank.layers import Layer, Split
from onnxq.low_rank.options import SplitName
from onnxq.low_rank.ranks import Choice, Chosen, Curve, Key
from onnxq.low_rank.statistics import MOST_INPUTS, Stored
from onnxq.parallel import ordered_map

Tell = Callable[[str, int, int], None]
"""Called with what is done, how many things are done, and how many there are."""

KEPT_BYTES = 256 << 20
"""Most bytes of weights whose parts are kept; the parts take about four times as much."""
INFLIGHT_BYTES = 1 << 30
"""Most bytes of layers that are taken apart at a time, unless a single one takes more."""


def wanted_splits(layer: Layer, split: SplitName) -> tuple[Split, ...]:
    """Return the ways to factorise a layer that a caller allows.

    `split` is about kernels of two axes longer than 1; all others have but one way.
    """
    if split == "auto" or sum(extent > 1 for extent in layer.kernel) < 2:
        return layer.splits
    if len(layer.kernel) != 2:
        return layer.splits
    return tuple(name for name in layer.splits if name.startswith(split))


class Fits:
    """Take layers apart and give their losses and factors.

    Args:
        document: the model, whose values must stay as they are.
        layers: layers of it.
        split: how convolutions may be split.
        statistics: of the layers whose inputs are known.
        jobs: threads.
    """

    def __init__(
        self,
        document: Document,
        layers: Sequence[Layer],
        split: SplitName,
        statistics: Mapping[Key, Stored],
        jobs: int,
    ) -> None:
        self._document, self._jobs, self._statistics = document, jobs, statistics
        self.layers = {layer.key: layer for layer in layers}
        self._splits = {key: wanted_splits(layer, split) for key, layer in self.layers.items()}
        self._kept: dict[tuple[Key, Split], Decomposition] = {}
        self._kept_bytes = 0

    def curves(self, tell: Tell | None = None) -> Iterator[Curve]:
        """Yield the possible sizes of every layer, in order, telling of each that is apart."""
        items = [(key, split) for key, splits in self._splits.items() for split in splits]
        found = ordered_map(
            lambda item: (self._apart(*item).losses(), *item),
            items,
            jobs=self._jobs,
            cost=lambda item: self._cost(item[0]),
            budget=INFLIGHT_BYTES,
        )
        choices: dict[Key, list[Choice]] = {key: [] for key in self.layers}
        for done, (losses, key, split) in enumerate(found, 1):
            layer = self.layers[key]
            if tell is not None:
                tell(key[1], done, len(items))
            choices[key] += (
                Choice(
                    split=split,
                    rank=rank,
                    parameters=layer.split_parameters(split, rank),
                    loss=float(losses[rank]),
                )
                for rank in range(1, len(losses))
            )
        for key, layer in self.layers.items():
            yield Curve(key=key, parameters=layer.parameters, choices=tuple(choices[key]))

    def factors(self, chosen: Chosen) -> Iterator[tuple[Key, Factors]]:
        """Yield the factors of the chosen layers, in the layers' order."""
        items = [(key, chosen[key]) for key in self.layers if key in chosen]
        return ordered_map(
            lambda item: (item[0], self._factors(*item)),
            items,
            jobs=self._jobs,
            cost=lambda item: self._cost(item[0]),
            budget=INFLIGHT_BYTES,
        )

    def has_statistics(self, key: Key) -> bool:
        """Tell whether a layer's inputs are known."""
        return key in self._statistics

    def _factors(self, key: Key, choice: Choice) -> Factors:
        split = next(name for name in self._splits[key] if name == choice.split)
        return self._apart(key, split).factors(choice.rank)

    def _apart(self, key: Key, split: Split) -> Decomposition:
        """Return a layer taken apart, kept from before or kept from now on where there is room."""
        known = self._kept.get((key, split))
        if known is not None:
            return known
        layer, stored = self.layers[key], self._statistics.get(key)
        values = model.read(self._document, layer.weight)
        found = decompose(values, layer, split, None if stored is None else stored.load())
        if self._kept_bytes + values.nbytes <= KEPT_BYTES:
            self._kept_bytes += values.nbytes
            self._kept[key, split] = found
        return found

    def _cost(self, key: Key) -> int:
        layer = self.layers[key]
        pairs = layer.inputs**2 if layer.inputs <= MOST_INPUTS else 0
        return 32 * layer.parameters + 24 * layer.groups * pairs
