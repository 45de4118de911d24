"""Decide which tensor is stored how, so that the file meets a target size.

Owns the order of steps: ways to store each tensor, what each loses, picks within the size, their
refinement, and the plan that a conversion then follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnxq import ahead, conversion, model
from onnxq.allocation import budget, losses
from onnxq.allocation.candidates import Unit
from onnxq.allocation.trials import Decoder, Trials
from onnxq.allocation.ways import Picks, Way
from onnxq.choose import Choice, too_large
from onnxq.conversion import Job
from onnxq.graphs import Document
from onnxq.plans import Plan, tensor_plan
from onnxq.pooling import settle
from onnxq.selection import Skip, skip

Ways = Sequence[Sequence[Way]]
Tell = Callable[[str], None]
Losses = Sequence[Sequence[float]]

SPARE = 0.002
"""Share of the target at which unused bytes are given out once more, codebooks being known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Decided:
    """Hold a plan, and what is known of it.

    Attributes:
        plan: What a conversion follows.
        fits: Codebooks that were fitted already.
        picks: The way of each unit.
        losses: The loss of each way of each unit.
        bytes: Of the file that the plan gives.
        error: Noise through signal of the outputs with all tensors as planned; None without runs.
    """

    plan: Plan
    fits: ahead.Fits
    picks: Picks
    losses: Losses
    bytes: int
    error: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Planner:
    """Turn picks into plans of a model, and tell their sizes.

    Attributes:
        job: What the conversion is asked to do; its plan is not looked at. Its document holds the
            units' tensors.
        units: The tensors.
        skips: Why each other one is kept.
        decoder: How codebooks are fitted.
    """

    job: Job
    units: Sequence[Unit]
    skips: Sequence[Skip]
    decoder: Decoder

    def plan(self, picks: Picks) -> Plan:
        """Return the plan that stores each unit in the way picked."""
        considered: list[Choice] = []
        kept: list[Skip] = []
        for unit, pick in zip(self.units, picks, strict=True):
            form = unit.candidates[pick].form
            if form is None:
                detail = "its bytes serve the outputs best as they are"
                kept += [skip(weight, "kept-by-allocation", detail) for weight in unit.weights]
                continue
            fitting = self.decoder.fitting(unit, form)
            considered += [
                replace(
                    choice,
                    is_weighted=fitting.is_weighted,
                    has_feedback=fitting.has_feedback,
                )
                for choice in unit.choices(self.job.document, pick)
            ]
        settled = settle(self.job.document, considered, self.job.options)
        planned = {
            (choice.weight.graph, choice.weight.name): tensor_plan(choice, self.job.options)
            for choice in settled
        }
        for choice in considered:
            if (choice.weight.graph, choice.weight.name) not in planned:
                kept.append(too_large(choice))
        order = [(w.graph, w.name) for w in model.weights(self.job.document)]
        reasons = {(item.graph, item.name): item for item in (*self.skips, *kept)}
        return Plan(
            tensors=tuple(planned[key] for key in order if key in planned),
            skips=tuple(reasons[key] for key in order if key in reasons and key not in planned),
        )

    def size(self, plan: Plan, fits: ahead.Fits) -> int:
        """Return the bytes of the file that a plan gives; `fits` are the codebooks known."""
        document = _copy(self.job.document)
        return conversion.foresee(
            replace(self.job, document=document, plan=plan, fits=fits, has_plan=True)
        )

    def size_of(self, picks: Picks) -> int:
        """Return about the bytes of the file that picks give: codebooks may turn out shorter."""
        return self.size(self.plan(picks), {})

    def fits(self, plan: Plan) -> ahead.Fits:
        """Return the codebooks that must be known to foresee the size."""
        return conversion.fit_ahead(replace(self.job, plan=plan), model.weights(self.job.document))


def _copy(document: Document) -> Document:
    proto = type(document.proto)()
    proto.CopyFrom(document.proto)
    return replace(document, proto=proto)


def within_size(
    planner: Planner,
    trials: Trials | None,
    target_bytes: int,
    refine_runs: int,
    tell: Tell | None = None,
) -> Decided:
    """Return the plan of least loss whose file is within a size.

    Where no plan is, `bytes` of what is returned are above the size, and the least that there are.

    Args:
        planner: makes plans.
        trials: runs the model; None where losses are told by the weights alone.
        target_bytes: most bytes of the file.
        refine_runs: most joint errors that the refinement measures.
        tell: told of each tensor that was tried.
    """
    found, picks, error = _picked(planner, trials, target_bytes, refine_runs, tell)
    decided = _decided(planner, picks, found, error)
    if decided.bytes < (1 - SPARE) * target_bytes:
        decided = _topped(planner, trials, decided, target_bytes)
    return decided


def _picked(
    planner: Planner, trials: Trials | None, target: int, refine_runs: int, tell: Tell | None
) -> tuple[Losses, Picks, float | None]:
    """Return losses, the picks of least loss, and their joint error if that is measured.

    With runs, the picks by the weights' own losses are tried too, and the better ones refined.
    """

    def pick(ways: Ways) -> Picks:
        return budget.within(ways, planner.size_of, target).picks

    if trials is None:
        found = losses.by_weights(planner.units)
        return found, pick(losses.as_ways(planner.units, found)), None
    measured = losses.Measured(planner.units, trials)
    picks = measured.settle(pick, tell)
    found = measured.losses()
    if planner.size_of(picks) > target:
        return found, picks, trials.joint(picks)
    # Single losses may mislead where errors come together: the weights' own are the other guess.
    plain = pick(losses.as_ways(planner.units, losses.by_weights(planner.units)))
    picks = min(picks, plain, key=trials.joint)
    if not refine_runs:
        return found, picks, trials.joint(picks)
    ways = losses.as_ways(planner.units, found)
    refined = budget.refine(ways, picks, trials.joint, planner.size_of, target, refine_runs)
    return found, refined.picks, refined.error


def _topped(planner: Planner, trials: Trials | None, before: Decided, target: int) -> Decided:
    """Return the plan with what fits into the bytes that fitted codebooks leave unused."""
    known = {planned.key: planned for planned in before.plan.tensors}

    def size_of(picks: Picks) -> int:
        plan = planner.plan(picks)
        same = {planned.key for planned in plan.tensors if known.get(planned.key) == planned}
        return planner.size(plan, {key: fit for key, fit in before.fits.items() if key in same})

    ways = losses.as_ways(planner.units, before.losses)
    picks = budget.topped(ways, before.picks, size_of, target)
    if picks == before.picks:
        return before
    error = before.error if trials is None else trials.joint(picks)
    if before.error is not None and error is not None and error > before.error:
        return before
    return _decided(planner, picks, before.losses, error)


def _decided(planner: Planner, picks: Picks, found: Losses, error: float | None) -> Decided:
    plan = planner.plan(picks)
    fits = planner.fits(plan)
    return Decided(
        plan=plan,
        fits=fits,
        picks=picks,
        losses=found,
        bytes=planner.size(plan, fits),
        error=error,
    )
