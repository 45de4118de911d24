"""The public function `lowrank`, as `api` hands it on.

Owns what comes before and after the steps of `reducing`: options, the output's place, models of
several kinds. Whatever the steps need is imported when they are taken, as a conversion needs none
of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack, overload

from onnxq import files, model, recognise
from onnxq.errors import OptionError, UnsupportedError
from onnxq.graphs import Document
from onnxq.report import LowRankReport
from onnxq.sources import ModelLike, like, open_model, output_path, path_text

if TYPE_CHECKING:
    from onnxq.data.watched_data import MeasureEvent
    from onnxq.low_rank.options import LowRankOptions, LowRankValues


@overload
def lowrank(
    source: ModelLike,
    output: None = None,
    *,
    check: int | None = None,
    force: bool = False,
    progress: Callable[[MeasureEvent], None] | None = None,
    **options: Unpack[LowRankValues],
) -> tuple[LowRankReport, Any]: ...
@overload
def lowrank(
    source: ModelLike,
    output: str | os.PathLike[str],
    *,
    check: int | None = None,
    force: bool = False,
    progress: Callable[[MeasureEvent], None] | None = None,
    **options: Unpack[LowRankValues],
) -> LowRankReport: ...
def lowrank(
    source: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    check: int | None = None,
    force: bool = False,
    progress: Callable[[MeasureEvent], None] | None = None,
    **options: Unpack[LowRankValues],
) -> LowRankReport | tuple[LowRankReport, Any]:
    """Replace weights of convolutions and matrix products by two smaller ones each.

    Args:
        source: a path, an `onnx.ModelProto` or an `onnx_ir.Model`.
        output: path to write; without one the model is returned beside the report.
        check: random inputs to run both models on, 0 for no check; by default 1 up to a model size
            of `checks.LIMIT_BYTES`. With `data` the check runs on these.
        force: overwrite an existing output.
        progress: called with a MeasureEvent for each step of measuring.
        **options: the fields of `onnxq.low_rank.options.LowRankOptions`, such as `ratio=0.7`.

    Returns:
        The report; without `output` a pair (report, model) with a model of the source's kind.

    Raises:
        OnnxqError: the options, the input, the data or the output are at fault, the ratio cannot
            be reached, or the result cannot be run; see docs/errors.md.
    """
    from onnxq.low_rank import reducing
    from onnxq.low_rank.options import make_low_rank_options

    chosen = make_low_rank_options(options)
    _check_samples(check, chosen)
    target = output_path(output, source, force)
    document = open_model(source)
    inputs = frozenset(model.data_files(document))
    if target is not None:
        files.check_output(target, force=force, inputs=inputs)
    _refuse_converted(document)
    request = reducing.Request(
        document=document,
        options=chosen,
        target=target,
        inputs=inputs,
        reopen=lambda: open_model(source),
        output_name=path_text(output),
        samples=check,
        progress=progress,
    )
    report = reducing.reduce(request)
    return report if target is not None else (report, like(source, document.proto))


def _refuse_converted(document: Document) -> None:
    if found := recognise.find(document):
        raise UnsupportedError(
            f"{document.label}: is converted already ({len(found)} encoded tensors, the first "
            f"{found[0].name!r}); take the original, or what onnxq restore makes of it"
        )


def _check_samples(check: int | None, options: LowRankOptions) -> None:
    if check is not None and (not isinstance(check, int) or check < 0):
        raise OptionError(f"--check: found {check}, expected a whole number >= 0")
    if check and options.data is not None:
        raise OptionError("--check is for random inputs, and --data is given; use --limit")
