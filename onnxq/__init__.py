"""Make ONNX models smaller with codebooks and packed indices, in plain ONNX.

>>> import onnxq
>>> report = onnxq.convert("model.onnx", "small.onnx", bits=6)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxq.api import convert, inspect, lowrank, plan, restore, sweep, validate

__version__ = "0.1.0"
__all__ = ["__version__", "convert", "inspect", "lowrank", "plan", "restore", "sweep", "validate"]


def __dir__() -> list[str]:
    """Return the public names, those not imported yet included."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first used: `onnxq --help` needs none of them."""
    if name in __all__:
        from onnxq import api

        return getattr(api, name)
    raise AttributeError(f"module 'onnxq' has no attribute {name!r}")
