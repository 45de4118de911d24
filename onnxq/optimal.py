"""Optimal one-dimensional clustering: the least squared deviation that k runs can reach.

Owns the search for the penalty per run (a Lagrange multiplier) at which the cheapest cut has k
runs. For every penalty p with least total L(p), `L(p) - p * k` bounds the optimum from below;
the optimum is convex in k, so either some penalty gives exactly k runs, or the cuts with the next
fewer and the next more runs share a penalty and can be joined into an optimal cut of k (both
because the cost of a run satisfies the quadrangle inequality; Aggarwal, Schieber and Tokuyama,
"Finding a minimum-weight k-link path in graphs with the concave Monge property", 1994).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.kernels import compiled, is_worthwhile, least_weight_path
from onnxq.spectrum import Spectrum, condensed

Edges = NDArray[np.intp]

_STEPS = 60
_POWER_STEPS = 8
_COARSE = 256
_GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Hold a cut of a spectrum into runs.

    Attributes:
        edges: `0 = e[0] < .. < e[k] = n`; run i is positions `e[i] .. e[i + 1]`.
        cost: Sum of squared deviations from the runs' means.
        bound: No cut with the number of runs asked for costs less, up to rounding.
        penalty: Penalty per run of the last step; 0 if none was needed.
        steps: Penalties tried.
    """

    edges: Edges
    cost: float
    bound: float
    penalty: float
    steps: int

    @property
    def runs(self) -> int:
        """Return the number of runs."""
        return self.edges.size - 1


def solve(points: Spectrum, k: int, tolerance: float = 1e-12) -> Cut:
    """Return a cut of `points` into `min(k, n)` runs of least cost.

    The search ends at the optimum, or once cost / bound - 1 is proven to be within `tolerance`.
    Ties between equally good cuts are broken the same way on every run and machine that rounds
    alike. Costs O(n) per step, 1 to about 10 steps.
    """
    n = points.positions.size
    if n <= k:
        return Cut(edges=np.arange(n + 1), cost=0.0, bound=0.0, penalty=0.0, steps=0)
    whole = np.array([0, n], dtype=np.intp)
    cost = points.cost(whole)
    if k == 1:
        return Cut(edges=whole, cost=cost, bound=cost, penalty=0.0, steps=0)
    few = Cut(edges=whole, cost=cost, bound=0.0, penalty=math.inf, steps=0)
    many = Cut(edges=np.arange(n + 1), cost=0.0, bound=0.0, penalty=0.0, steps=0)
    limit = max(_COARSE, 8 * k)
    if n > 4 * limit:
        guess = solve(condensed(points, limit), k, 1e-3).penalty
    else:
        guess = _first_penalty(points, k)
    return _search(_Solver(points), k, (few, many), guess, tolerance)


class _Solver:
    """Run the path kernel on one spectrum, with its workspace kept between penalties."""

    def __init__(self, points: Spectrum) -> None:
        n = points.positions.size
        self.points = points
        runs: tuple[Any, ...] = (points.weight, *points.sums, *points.squares)
        self._best: Any = np.empty(n + 1)
        self._parent: Any = np.zeros(n + 1, np.int32)
        self._queue: Any = (np.empty(n + 1, np.int32), np.empty(n + 1, np.int32))
        self._kernel = least_weight_path
        if is_worthwhile(n, is_loop=True):
            self._kernel = compiled(least_weight_path)
        else:  # Lists of Python numbers are several times faster to interpret than arrays.
            runs = tuple(run.tolist() for run in runs)
            self._best, self._parent = [0.0] * (n + 1), [0] * (n + 1)
            self._queue = ([0] * (n + 1), [0] * (n + 1))
        self._runs = runs

    def cut(self, penalty: float, k: int, steps: int) -> Cut:
        """Return the cheapest cut at a penalty, with the bound that it proves for k runs."""
        self._kernel(self._runs, penalty, self._best, self._parent, self._queue)
        at = self.points.positions.size
        trail = [at]
        while at:
            at = int(self._parent[at])
            trail.append(at)
        edges = np.array(trail[::-1], dtype=np.intp)
        cost = self.points.cost(edges)
        return Cut(
            edges=edges,
            cost=cost,
            # L(p) - p * k, without taking the difference of two numbers that p may dwarf.
            bound=cost + penalty * (edges.size - 1 - k),
            penalty=penalty,
            steps=steps,
        )


def _search(
    solver: _Solver, k: int, ends: tuple[Cut, Cut], penalty: float, tolerance: float
) -> Cut:
    """Narrow the cuts with fewer and more runs down to k, or to neighbours that can be joined."""
    few, many = ends
    bound = 0.0
    for step in range(1, _STEPS + 1):
        slope = (few.cost - many.cost) / (many.runs - few.runs)
        is_slope = not many.penalty < penalty < few.penalty or step > _POWER_STEPS
        penalty = slope if is_slope else penalty
        cut = solver.cut(penalty, k, step)
        bound = max(bound, cut.bound)
        if cut.runs == k:
            few = many = cut
            break
        is_stuck = is_slope and not few.runs < cut.runs < many.runs
        if few.runs <= cut.runs < k:
            few = cut
        elif k < cut.runs <= many.runs:
            many = cut
        if is_stuck or step == _STEPS:
            break
        is_close = few.steps and many.steps and (many.runs - few.runs) * 256 <= k
        if is_close and solver.points.cost(_join(few, many, k)) <= bound * (1 + tolerance):
            break
        penalty = _next_penalty(few, many, cut, k)
    edges = few.edges if few.runs == k else _join(few, many, k)
    cost = solver.points.cost(edges)
    # The bound may exceed the cost by rounding only.
    return Cut(edges=edges, cost=cost, bound=min(bound, cost), penalty=penalty, steps=step)


def _next_penalty(few: Cut, many: Cut, cut: Cut, k: int) -> float:
    """Return the next penalty: a power law through the known cuts, or 0 to ask for the slope."""
    if not few.steps or not many.steps:
        # Fine quantisation: cost ~ 1 / k**2, so penalty ~ 1 / k**3.
        return cut.penalty * (cut.runs / k) ** 3
    if many.runs - few.runs <= 3:
        return 0.0
    share = math.log(k / few.runs) / math.log(many.runs / few.runs)
    return float(few.penalty * (many.penalty / few.penalty) ** share)


def _join(few: Cut, many: Cut, k: int) -> Edges:
    """Return a cut of k runs: the first runs of `many`, then the last runs of `few`.

    They meet where a run of `many` lies inside the run of `few` that has `k - few.runs` fewer
    predecessors; there is one because the two sequences of edges start and end together.
    """
    ahead = k - few.runs
    starts, stops = few.edges[:-1], few.edges[1:]
    inner = many.edges[ahead : ahead + few.runs + 1]
    at = int(np.argmax((inner[:-1] >= starts) & (inner[1:] <= stops)))
    return np.concatenate((many.edges[: at + ahead + 1], few.edges[at + 1 :]))


def _first_penalty(points: Spectrum, k: int) -> float:
    """Return the penalty that fine quantisation predicts: cost (sum w**(1/3) dx**(2/3))**3/12k**2.

    Panter and Dite, "Quantization distortion in pulse-count modulation", 1951.
    """
    # Single gaps are too noisy to tell a density: take about eight groups of points per run.
    edges = np.arange(0, points.positions.size, max(1, points.positions.size // (_GROUPS * k)))
    weight = np.diff(points.weight[edges])
    width = np.diff(points.positions[edges])
    mass = float(np.sum(np.cbrt(weight * width * width)))
    return mass * mass * mass / (6.0 * k**3)
