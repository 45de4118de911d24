"""Metrics of the user's own: a function of outputs and a sample, named `package.module:function`.

Owns how it is found, called and checked (docs/metrics.md). Whatever goes wrong in it is told as an
error of ours that names it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from onnxq.errors import InputError, OnnxqError, OptionError
from onnxq.validation.aggregates import BY_NAME, Aggregate, of_rows
from onnxq.validation.sample_rows import is_numeric

Array = np.ndarray[Any, np.dtype[Any]]
Direction = Literal["higher", "lower"]


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """Hold a user's function and what its attributes say.

    Attributes:
        name: As given: `package.module:function`.
        function: From outputs and sample to rows.
        aggregate: Its `aggregate`: a function of rows, or the name of one of ours
            (`aggregates.BY_NAME`); the mean of the first column without.
        better: Its `better`; "higher" without.
        unit: Its `unit`; "" without.
    """

    name: str
    function: Callable[..., Any]
    aggregate: Aggregate
    better: Direction
    unit: str

    def rows(
        self, outputs: Mapping[str, Any], sample: Mapping[str, Any], samples: int, where: str
    ) -> Array:
        """Return one row per sample, float64 [samples, columns].

        Args:
            outputs: One model's, by name.
            sample: Inputs and truth of the batch, by name.
            samples: Rows that must come back.
            where: What to call the batch in a message.

        Raises:
            InputError: the function raises, or returns something else.
        """
        try:
            found = np.asarray(self.function(dict(outputs), dict(sample)))
        except OnnxqError:
            raise
        except (Exception, SystemExit) as err:
            raise InputError(
                f"metric {self.name}: {_told(err)} at {where}; it was given outputs "
                f"{_listed(outputs)} and sample {_listed(sample)}"
            ) from err
        return self._checked(found, samples, where)

    def _checked(self, found: Array, samples: int, where: str) -> Array:
        returned = f"metric {self.name}: returned"
        if not is_numeric(found):
            raise InputError(f"{returned} dtype {found.dtype.name} at {where}, expected numbers")
        if found.ndim not in (1, 2) or len(found) != samples or not found.size:
            raise InputError(
                f"{returned} shape {list(found.shape)} at {where}, expected one row a sample: "
                f"[{samples}] or [{samples}, columns]"
            )
        rows = found.astype(np.float64).reshape(samples, -1)
        misfit = self.aggregate.misfit(rows) if self.aggregate.misfit is not None else ""
        if misfit:
            (kind,) = (name for name, item in BY_NAME.items() if item is self.aggregate)
            raise InputError(f"{returned} rows for aggregate {kind!r} at {where} with {misfit}")
        return rows


def load(name: str) -> Plugin:
    """Import a plug-in; modules are also looked for in the current folder.

    Raises:
        OptionError: there is no such function, or its attributes are none that we know.
    """
    function = _function(name)
    better, unit = getattr(function, "better", "higher"), getattr(function, "unit", "")
    if better not in get_args(Direction) or not isinstance(unit, str):
        raise OptionError(
            f"metric {name}: found better={better!r}, unit={unit!r}; expected 'higher' or "
            "'lower', and text"
        )
    own = getattr(function, "aggregate", "mean")
    aggregate = BY_NAME.get(own) if isinstance(own, str) else of_rows(_guarded(name, own))
    if aggregate is None:
        raise OptionError(
            f"metric {name}: its 'aggregate' is {own!r}, expected {', '.join(BY_NAME)} or a "
            "function"
        )
    return Plugin(
        name=name,
        function=function,
        aggregate=aggregate,
        better=cast(Direction, better),
        unit=unit,
    )


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        found: Callable[..., Any] | None = getattr(importlib.import_module(module), attribute, None)
    except (Exception, SystemExit) as err:
        raise OptionError(f"metric {name}: module {module!r}: {_told(err)}") from err
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
    if not callable(found):
        raise OptionError(f"metric {name}: module {module!r} has no function {attribute!r}")
    return found


def _guarded(name: str, aggregate: Any) -> Callable[[Array], float]:
    if not callable(aggregate):
        raise OptionError(f"metric {name}: its 'aggregate' is {aggregate!r}, expected a function")

    def figure(rows: Array) -> float:
        try:
            return float(aggregate(rows))
        except (Exception, SystemExit) as err:
            raise InputError(
                f"metric {name}: aggregate: {_told(err)} for rows of shape {list(rows.shape)}; "
                "return NaN where the figure is undefined"
            ) from err

    return figure


def _told(err: BaseException) -> str:
    told = " ".join(f"{type(err).__name__}: {err}".split())
    return f"ends the process ({told})" if isinstance(err, SystemExit) else told


def _listed(values: Mapping[str, Any]) -> str:
    """Return names with dtypes and shapes."""
    told = [
        f"{name!r} ({value.dtype.name} {list(value.shape)})"
        if isinstance(value, np.ndarray)
        else f"{name!r} ({type(value).__name__})"
        for name, value in values.items()
    ]
    return ", ".join(told) or "none"


def is_plugin_name(name: str) -> bool:
    """Tell whether a name reads as `package.module:function`.

    >>> is_plugin_name("my.metrics:score"), is_plugin_name("psnr:1.0"), is_plugin_name("snr")
    (True, False, False)
    """
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and _is_dotted(module)


def _is_dotted(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))
