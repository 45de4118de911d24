"""Plans within a size: their bytes are those of the files, and what is left is given out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from onnxq import conversion, model
from onnxq.allocation.candidates import make_units
from onnxq.allocation.deciding import Planner, within_size
from onnxq.allocation.trials import Decoder, Methods
from onnxq.conversion import Job
from onnxq.graphs import Document
from onnxq.options import ConvertOptions
from onnxq.plans import Plan
from tests import graphs as g

DIGITS = Path(__file__).parent.parent / "models" / "digits.onnx"
OPTIONS = ConvertOptions(jobs=1)


def planner_of(proto: onnx.ModelProto) -> Planner:
    def reopen() -> Document:
        return model.wrap(proto)

    document = reopen()
    job = Job(
        document=document,
        options=OPTIONS,
        plan=Plan(tensors=(), skips=()),
        target=None,
        input_bytes=proto.ByteSize(),
        inputs=frozenset(),
        is_requantized=False,
        reopen=reopen,
    )
    units, skips = make_units(document, model.weights(document), OPTIONS, 1)
    decoder = Decoder(document=document, calibration=None, methods=Methods())
    return Planner(job=job, units=units, skips=skips, decoder=decoder)


@pytest.mark.parametrize("name", ["attention", "branches", "equal_tensors", "gemm", "functions"])
def test_the_bytes_of_a_plan_are_those_of_the_file_that_it_gives(name: str) -> None:
    proto = g.BY_NAME[name].build()
    planner = planner_of(proto)
    for target in (proto.ByteSize() // 3, proto.ByteSize() // 2):
        decided = within_size(planner, None, target, 0)
        assert decided.error is None
        job = replace(planner.job, document=model.wrap(proto), plan=decided.plan, has_plan=True)
        outcome = conversion.run(job, lambda _: None, None)
        assert (
            decided.bytes == outcome.output_bytes == len(outcome.document.proto.SerializeToString())
        )


def test_looking_at_sizes_does_not_take_the_model_apart() -> None:
    planner = planner_of(g.attention())
    before = planner.job.document.proto.SerializeToString(deterministic=True)
    picks = tuple(1 for _ in planner.units)
    first = planner.size_of(picks)
    assert planner.size_of(picks) == first
    assert planner.job.document.proto.SerializeToString(deterministic=True) == before


def test_every_tensor_is_planned_or_kept_with_a_reason() -> None:
    for name in (
        "attention",
        "parameters",
        "branches",
        "equal_tensors",
        "tiny",
        "nan_and_infinity",
    ):
        planner = planner_of(g.BY_NAME[name].build())
        plan = within_size(planner, None, 12_000, 0).plan
        planned = {item.key for item in plan.tensors}
        kept = {(item.graph, item.name) for item in plan.skips}
        assert not planned & kept
        assert planned | kept == {(w.graph, w.name) for w in model.weights(planner.job.document)}


def test_units_left_as_they_are_say_so() -> None:
    planner = planner_of(g.gemm())
    floats = tuple(len(unit.candidates) - 1 for unit in planner.units)
    plan = planner.plan(floats)
    assert plan.tensors == ()
    reasons = {item.name: item.reason for item in plan.skips}
    assert {reasons[unit.lead.name] for unit in planner.units} == {"kept-by-allocation"}


def test_more_bytes_never_lose_more_and_all_of_them_are_used() -> None:
    planner = planner_of(onnx.load(DIGITS))
    losses = []
    for target in (25_000, 40_000, 60_000):
        decided = within_size(planner, None, target, 0)
        assert 0.995 * target <= decided.bytes <= target
        losses.append(
            sum(own[pick] for own, pick in zip(decided.losses, decided.picks, strict=True))
        )
    assert losses[0] > losses[1] > losses[2]


def test_a_size_below_reach_is_answered_with_the_least_that_there_is() -> None:
    planner = planner_of(g.attention())
    least = within_size(planner, None, 100, 0)
    assert least.bytes > 100
    again = within_size(planner, None, least.bytes, 0)
    assert again.bytes <= least.bytes
