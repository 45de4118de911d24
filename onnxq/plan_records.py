"""What a plan says beside the tensors themselves: the data it goes by, corrections, reasons.

Owns the records. A conversion obeys the data and the corrections; the reasons are for people.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataSeen:
    """Say which calibration data a plan was made with.

    Attributes:
        samples: How many there are.
        digest: Of what was fed, so that other data are told from these.
    """

    samples: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Say that a bias takes the mean error that the outputs of a weight have once it is decoded.

    Attributes:
        name: Of the bias.
        graph: Of the bias.
        weight: (graph, name) of the weight.
    """

    name: str
    graph: str
    weight: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class WayReason:
    """Hold one way to store a tensor, as an allocation saw it.

    Attributes:
        way: Its name, such as "3 bits, scaled".
        bytes: What it takes, alone or in a pool, without what tensors share.
        loss: What the outputs lose by it: noise through signal if it was measured, else the
            tensor's own.
    """

    way: str
    bytes: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class TensorReason:
    """Say why a tensor is stored as it is.

    Attributes:
        name: Of the tensor.
        graph: Of the tensor.
        picked: The way that was picked.
        sensitivity: Its loss through its own relative squared error; None where it has none.
        ways: Its rate-distortion points, all ways that there were.
    """

    name: str
    graph: str
    picked: str
    sensitivity: float | None
    ways: tuple[WayReason, ...]
