"""The metrics of validate and sweep: one closed table, and how a name is read.

Owns names, units, directions and which outputs a metric looks at. What is kept of a sample is in
`sample_rows`, the formulas in `aggregates`, users' own metrics in `plugins`; docs/metrics.md has
all of it for a reader.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onnxq.errors import OptionError
from onnxq.runtime import OutputSpec
from onnxq.validation import aggregates, plugins, sample_rows
from onnxq.validation.aggregates import Aggregate
from onnxq.validation.plugins import Plugin

Array = np.ndarray[Any, np.dtype[Any]]

MANY_CLASSES = 10
"""Classes from which the first five say something by default."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Describe a metric that was asked for.

    Attributes:
        name: As given, without the output.
        kind: "fidelity" compares with the reference's outputs, "task" with labels or targets.
        better: Which direction is good.
        unit: "dB", or "" for shares and for errors in the outputs' own unit.
        rows: From (reference, candidate, samples), or (output, truth, samples), to rows.
        aggregate: From rows to the figure.
        truth: Array of the data that a task metric needs; None for fidelity and plug-ins.
        output: The output it is taken from; None for each that fits (fidelity) or the first
            (task).
        needs_float: Whether only floating point outputs are looked at, where none is named.
        detail: From all rows to what else must be known.
        plugin: The user's function, which sees all outputs and takes the place of `rows`.
    """

    name: str
    kind: Literal["fidelity", "task"]
    better: Literal["higher", "lower"]
    unit: str = ""
    rows: Callable[..., Array] | None = None
    aggregate: Aggregate
    truth: str | None = None
    output: str | None = None
    needs_float: bool = False
    detail: Callable[[Array], str] | None = None
    plugin: Plugin | None = None

    @property
    def label(self) -> str:
        """The name, with the output where one was given."""
        return self.name if self.output is None else f"{self.name}@{self.output}"


def _difference(name: str, better: Literal["higher", "lower"], **fields: Any) -> Metric:
    return Metric(
        name=name,
        kind="fidelity",
        better=better,
        rows=sample_rows.difference_rows,
        needs_float=True,
        **fields,
    )


def _agreement(name: str, first: int) -> Metric:
    rows = functools.partial(sample_rows.agreement_rows, first=first)
    return Metric(
        name=name, kind="fidelity", better="higher", rows=rows, aggregate=aggregates.SHARE
    )


def _accuracy(name: str, first: int) -> Metric:
    rows = functools.partial(sample_rows.hit_rows, first=first)
    return _labelled(name, rows, aggregates.SHARE)


def _labelled(name: str, rows: Callable[..., Array], aggregate: Aggregate) -> Metric:
    return Metric(
        name=name, kind="task", better="higher", rows=rows, aggregate=aggregate, truth="label"
    )


def _of_target(name: str, better: Literal["higher", "lower"], **fields: Any) -> Metric:
    return Metric(
        name=name,
        kind="task",
        better=better,
        rows=sample_rows.squared_error_rows,
        truth="target",
        **fields,
    )


def _range_of(what: str) -> Callable[[Array], str]:
    return lambda rows: f"peak {aggregates.peak_of(rows):.6g}, the range of {what}"


_ALL = (
    _difference("snr", "higher", unit="dB", aggregate=aggregates.SNR),
    _difference(
        "psnr-ref",
        "higher",
        unit="dB",
        aggregate=aggregates.peak_ratio(aggregates.mean_squared_difference, None),
        detail=_range_of("the reference's outputs"),
    ),
    _difference("cosine", "higher", aggregate=aggregates.COSINE),
    _difference("max-abs", "lower", aggregate=aggregates.LARGEST_DIFFERENCE),
    _difference("mean-abs", "lower", aggregate=aggregates.MEAN_DIFFERENCE),
    _agreement("top1-agreement", 1),
    _agreement("top5-agreement", 5),
    _accuracy("top1", 1),
    _accuracy("top5", 5),
    _labelled("f1", sample_rows.prediction_rows, aggregates.F1),
    _labelled("auc", sample_rows.score_rows, aggregates.AUC),
    _of_target("mse", "lower", aggregate=aggregates.MEAN),
    _of_target(
        "psnr",
        "higher",
        unit="dB",
        aggregate=aggregates.peak_ratio(aggregates.first_column, None),
        detail=_range_of("the targets"),
    ),
)
KNOWN: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
"""The metrics by name."""

_PEAKS = {"psnr": aggregates.first_column, "psnr-ref": aggregates.mean_squared_difference}
_THRESHOLDS = ("top1", "f1")


def resolve(names: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics of names such as `snr`, `psnr:1.0@image`, `package.module:function`.

    A name that stands twice gives one metric.

    Raises:
        OptionError: a name is unknown, has a value that is none, or is a plug-in that cannot be
            imported.
        MissingDependencyError: one needs scikit-learn, which is not installed.
    """
    return tuple(_resolved(name) for name in dict.fromkeys(names))


def _resolved(text: str) -> Metric:
    name, at, output = text.partition("@")
    head, colon, value = name.partition(":")
    if head in KNOWN:
        metric = KNOWN[head]
        if colon:
            metric = _with_value(metric, value)
        if at and not output:
            raise OptionError(f"metric {text}: the name of an output is missing after '@'")
        if metric.aggregate.needs_sklearn:
            aggregates.import_sklearn(head)
        return replace(metric, name=name, output=output if at else None)
    if not plugins.is_plugin_name(name):
        raise OptionError(
            f"metric {text}: unknown; known are {', '.join(KNOWN)}, and package.module:function "
            "for one of your own"
        )
    if at:
        raise OptionError(f"metric {text}: a function gets all outputs; leave out '@{output}'")
    plugin = plugins.load(name)
    if plugin.aggregate.needs_sklearn:
        aggregates.import_sklearn(name)
    return Metric(
        name=name,
        kind="task",
        better=plugin.better,
        unit=plugin.unit,
        aggregate=plugin.aggregate,
        plugin=plugin,
    )


def _with_value(metric: Metric, text: str) -> Metric:
    """Return a metric with the peak or threshold after its colon."""
    where = f"metric {metric.name}:{text}"
    if metric.name not in (*_PEAKS, *_THRESHOLDS):
        raise OptionError(f"{where}: {metric.name} takes no value")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise OptionError(f"{where}: found {text!r}, expected a number")
    if metric.name in _THRESHOLDS:
        assert metric.rows is not None
        return replace(metric, rows=functools.partial(metric.rows, threshold=value))
    if value <= 0:
        raise OptionError(f"{where}: found {text}, expected a peak above 0")
    return replace(
        metric,
        aggregate=aggregates.peak_ratio(_PEAKS[metric.name], value),
        detail=lambda rows: f"peak {value:.6g}, as given",
    )


def default_names(outputs: Sequence[OutputSpec], truths: Collection[str]) -> tuple[str, ...]:
    """Return the metrics that suit a model's outputs and the truth that the data hold.

    SNR, cosine and largest error of every floating point output; agreement where the first such
    output has two or more classes; accuracy with labels, F1 and area under the ROC curve if it has
    one or two scores; squared error and PSNR with targets.
    """
    floats = [spec for spec in outputs if "float" in spec.dtype and _is_array(spec)]
    if not floats:
        return ("top1",) if "label" in truths else ()
    names = ["snr", "cosine", "max-abs"]
    classes = _classes(floats[0])
    if classes is not None and classes >= 2:
        names.append("top1-agreement")
    if "label" in truths:
        names.append("top1")
        if classes is not None and classes >= MANY_CLASSES:
            names.append("top5")
        if classes in (1, 2) and aggregates.has_sklearn():
            names += ["f1", "auc"]
    if "target" in truths:
        names += ["mse", "psnr"]
    return tuple(names)


def _is_array(spec: OutputSpec) -> bool:
    return "(" not in spec.dtype


def _classes(spec: OutputSpec) -> int | None:
    """Return the number of scores of a sample that an output declares; None where unknown."""
    sizes = [size for size in spec.shape[1:] if size != 1]
    if not spec.shape or len(sizes) > 1:
        return None
    if not sizes:
        return 1
    return sizes[0] if isinstance(sizes[0], int) else None
