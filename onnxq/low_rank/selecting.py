"""Which layers become factors, by name, and which ranks they get, by what is asked for.

Owns what the options mean for a model: patterns, ranks that are given, the budget, and why a layer
stays whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxq.errors import BudgetError, OptionError
from onnxq.low_rank import ranks
from onnxq.low_rank.layers import Layer
from onnxq.low_rank.options import LowRankOptions
from onnxq.low_rank.ranks import Choice, Curve, Key
from onnxq.model import Weight
from onnxq.roles import role
from onnxq.selection import Skip, matches, skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Hold the layers that may become factors, the ranks that some must have, and the others."""

    layers: tuple[Layer, ...]
    given: dict[Key, int]
    skips: tuple[Skip, ...]


def select(layers: Sequence[Layer], options: LowRankOptions, label: str) -> Selection:
    """Return the layers that the options leave, in order.

    Raises:
        OptionError: a pattern matches no layer.
    """
    _check_patterns(layers, options, label)
    chosen: list[Layer] = []
    given: dict[Key, int] = {}
    skips: list[Skip] = []
    for layer in layers:
        weight, rank = layer.weight, _given_rank(layer, options)
        reason = _excluded(weight, options)
        if not reason and rank is None and not has_goal(options):
            reason = "no --rank names it"
        if reason:
            skips.append(skip(weight, "excluded", reason))
            continue
        chosen.append(layer)
        if rank is not None:
            given[weight.graph, weight.name] = rank
    return Selection(layers=tuple(chosen), given=given, skips=tuple(skips))


def has_goal(options: LowRankOptions) -> bool:
    """Tell whether ranks are chosen, not all given."""
    goals = (options.ratio, options.energy, options.max_snr_loss)
    return any(goal is not None for goal in goals)


def counted(weights: Sequence[Weight]) -> list[Weight]:
    """Return the weights whose floats are a model's parameters."""
    return [
        weight
        for weight in weights
        if weight.is_float
        and weight.kind in ("initializer", "constant")
        and role(weight) not in ("parameter", "quantization")
    ]


def with_given(curves: Sequence[Curve], given: dict[Key, int]) -> list[Curve]:
    """Return the layers with the one choice that each given rank leaves, if it is smaller."""
    found = []
    for curve in curves:
        if curve.key in given:
            choice = ranks.of_rank(curve, given[curve.key])
            choices = () if choice is None else (choice,)
            size = curve.parameters if choice is None else choice.parameters
            curve = Curve(key=curve.key, parameters=size, choices=choices)
        found.append(curve)
    return found


def of_given(curves: Sequence[Curve], given: dict[Key, int]) -> dict[Key, Choice]:
    """Return the choices that the given ranks leave."""
    return {curve.key: curve.choices[0] for curve in curves if curve.key in given and curve.choices}


def check_ratio(curves: Sequence[Curve], ratio: float, total: int, others: int, label: str) -> None:
    """Check that a share of a model's parameters can be reached.

    Args:
        curves: the layers that may be chosen for.
        ratio: the share.
        total: parameters that the model has.
        others: parameters that it will have outside of these layers.
        label: what messages call the model.

    Raises:
        BudgetError: not even the smallest ranks take as little.
    """
    budget = int(ratio * total) - others
    least = ranks.smallest(curves)
    if least > budget:
        if not curves:
            raise BudgetError(
                f"--ratio {ratio:g}: no weight of {label} can be factorised (found none of Conv, "
                "Gemm or MatMul that factors make smaller); leave lowrank out, convert takes the "
                "model as it is"
            )
        share = (least + others) / total if total else 1.0
        raise BudgetError(
            f"--ratio {ratio:g}: {label} cannot get as small; the least is {share:.4f} "
            f"({least + others:,} of {total:,} parameters); give {_rounded_up(share)} or more, or "
            "leave out what keeps layers whole"
        )


def _rounded_up(share: float) -> str:
    return f"{min(1.0, int(share * 1000 + 1) / 1000):g}"


def whole_skips(
    layers: Sequence[Layer], chosen: ranks.Chosen, given: dict[Key, int]
) -> Iterator[Skip]:
    """Yield why layers that might have become factors stay whole."""
    for layer in layers:
        if layer.key not in chosen:
            rank = given.get(layer.key)
            detail = (
                "no rank is worth its loss"
                if rank is None
                else f"factors of rank {rank} would take no fewer bytes"
            )
            yield skip(layer.weight, "not-split", detail)


def _given_rank(layer: Layer, options: LowRankOptions) -> int | None:
    """Return the rank that the last matching --rank gives a layer."""
    for pattern, rank in reversed(options.ranks):
        if matches(layer.weight, pattern):
            return rank
    return None


def _excluded(weight: Weight, options: LowRankOptions) -> str:
    """Return why the patterns rule a layer out; empty if they do not."""
    if options.include and not any(matches(weight, pattern) for pattern in options.include):
        return "no --include pattern matches"
    for pattern in options.exclude:
        if matches(weight, pattern):
            return f"--exclude {pattern}"
    return ""


def _check_patterns(layers: Sequence[Layer], options: LowRankOptions, label: str) -> None:
    patterns = [("--include", pattern) for pattern in options.include]
    patterns += [("--exclude", pattern) for pattern in options.exclude]
    patterns += [("--rank", pattern) for pattern, _ in options.ranks]
    for option, pattern in patterns:
        if not any(matches(layer.weight, pattern) for layer in layers):
            largest = sorted(layers, key=lambda layer: -layer.parameters)[:3]
            names = ", ".join(repr(layer.weight.name) for layer in largest) or "none"
            raise OptionError(
                f"{option} {pattern!r}: matches no weight of {label} that can be factorised, nor "
                f"a node that uses one; the largest are {names}"
            )
