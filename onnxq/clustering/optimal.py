"""Optimal one-dimensional clustering: the least squared deviation that k runs can reach.

Owns the search for the penalty per run (a Lagrange multiplier) at which the cheapest cut has k
runs. For every penalty p with least total L(p), `L(p) - p * k` bounds the optimum from below;
the optimum is convex in k, so either some penalty gives exactly k runs, or the cuts with the next
fewer and the next more runs share a penalty and can be joined into an optimal cut of k (both
because the cost of a run satisfies the quadrangle inequality; Aggarwal, Schieber and Tokuyama,
"Finding a minimum-weight k-link path in graphs with the concave Monge property", 1994).

A stream of many positions is solved window by window: docs/clustering.md says why that is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.clustering.kernels import compiled, is_worthwhile, least_weight_path
from onnxq.clustering.spectrum import Spectrum, condensed
from onnxq.clustering.windows import WINDOW, Stream

Edges = NDArray[np.int64]

_STEPS = 60
_POWER_STEPS = 8
_COARSE = 256
_GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Hold a cut into runs.

    Attributes:
        edges: `0 = e[0] < .. < e[k] = n`; run i is positions (of a stream: slots)
            `e[i] .. e[i + 1]`. Empty where every position is a run and nobody has asked.
        runs: Number of runs.
        cost: Sum of squared deviations from the runs' means.
        bound: No cut with the number of runs asked for costs less, up to rounding.
        penalty: Penalty per run of the last step; 0 if none was needed.
        steps: Penalties tried.
        slack: What `bound` has lost to windows that did not settle by themselves.
    """

    edges: Edges
    runs: int
    cost: float
    bound: float
    penalty: float
    steps: int
    slack: float = 0.0


def solve(points: Spectrum | Stream, k: int, tolerance: float = 1e-12) -> Cut:
    """Return a cut of `points` into `min(k, n)` runs of least cost.

    The search ends at the optimum, or once cost / bound - 1 is proven to be within `tolerance`.
    Ties between equally good cuts are broken the same way on every run and machine that rounds
    alike. Costs O(n) per step, 1 to about 10 steps.
    """
    solver = _Streamed(points) if isinstance(points, Stream) else _Solver(points)
    n = solver.count
    if n <= k:
        return Cut(edges=solver.every(), runs=n, cost=0.0, bound=0.0, penalty=0.0, steps=0)
    whole = np.array([0, solver.size])
    cost = points.cost(whole)
    if k == 1:
        return Cut(edges=whole, runs=1, cost=cost, bound=cost, penalty=0.0, steps=0)
    few = Cut(edges=whole, runs=1, cost=cost, bound=0.0, penalty=math.inf, steps=0)
    none = np.empty(0, np.int64)
    many = Cut(edges=none, runs=n, cost=0.0, bound=0.0, penalty=0.0, steps=0)
    return _search(solver, k, (few, many), _guess(points, k), tolerance)


def _guess(points: Spectrum | Stream, k: int) -> float:
    """Return a penalty to begin with, from a solution on fewer positions where there are many."""
    if isinstance(points, Stream):
        fewer = min(k, WINDOW // 8)
        penalty = solve(points.condensed(8 * fewer), fewer, 1e-3).penalty
        return penalty * (fewer / k) ** 3
    limit = max(_COARSE, 8 * k)
    if points.positions.size > 4 * limit:
        return solve(condensed(points, limit), k, 1e-3).penalty
    return _first_penalty(points, k)


class _Paths:
    """Run the path kernel, with its workspace kept between penalties and windows."""

    def __init__(self) -> None:
        self._best: Any = ()
        self._parent: Any = ()
        self._queue: Any = ()
        self._is_compiled = False

    def runs(self, points: Spectrum) -> tuple[Any, ...]:
        """Return the running sums of a spectrum as the kernel takes them, and make room."""
        n = points.positions.size
        runs: tuple[Any, ...] = (points.weight, *points.sums, *points.squares)
        self._is_compiled = is_worthwhile(n, is_loop=True)
        # Lists of Python numbers are several times faster to interpret than arrays.
        if not self._is_compiled:
            runs = tuple(run.tolist() for run in runs)
            self._best, self._parent = [0.0] * (n + 1), [0] * (n + 1)
            self._queue = ([0] * (n + 1), [0] * (n + 1))
        elif isinstance(self._best, list) or len(self._best) <= n:
            self._best = self._parent = self._queue = ()
            self._best, self._parent = np.empty(n + 1), np.zeros(n + 1, np.int32)
            self._queue = (np.empty(n + 1, np.int32), np.empty(n + 1, np.int32))
        return runs

    def parents(self, runs: tuple[Any, ...], penalty: float) -> Any:
        """Return the start of the last run of the cheapest cut up to every stop."""
        kernel = compiled(least_weight_path) if self._is_compiled else least_weight_path
        kernel(runs, penalty, self._best, self._parent, self._queue)
        return self._parent

    def settled(self, stop: int) -> tuple[int, float]:
        """Return a stop to pass although a cut need not, and the most that this may cost.

        The cheapest cut has an edge between the stop's parent and the stop. From there on it is no
        cheaper than from the stop on, up to there than up to the parent.
        """
        trail = _trail(self._parent, stop)
        at = int(trail[(trail.size - 1) // 2])
        return at, float(self._best[at] - self._best[self._parent[at]])


def _trail(parents: Any, at: int) -> Edges:
    """Return the edges of the cheapest cut up to the stop `at`."""
    # A view of memory gives Python numbers at once, which an array does not.
    starts = parents.data if isinstance(parents, np.ndarray) else parents
    trail = [at]
    while at:
        at = starts[at]
        trail.append(at)
    return np.array(trail[::-1], dtype=np.int64)


class _Solver:
    """Cut one spectrum at any penalty."""

    def __init__(self, points: Spectrum) -> None:
        self.points = points
        self.count = self.size = points.positions.size
        self._paths = _Paths()
        self._runs = self._paths.runs(points)

    def every(self) -> Edges:
        """Return the edges of the cut with one position a run."""
        return np.arange(self.count + 1)

    def cut(self, penalty: float, k: int, steps: int) -> Cut:
        """Return the cheapest cut at a penalty, with the bound that it proves for k runs."""
        parents = self._paths.parents(self._runs, penalty)
        edges = _trail(parents, self.points.positions.size)
        cost = self.points.cost(edges)
        return Cut(
            edges=edges,
            runs=edges.size - 1,
            cost=cost,
            # L(p) - p * k, without taking the difference of two numbers that p may dwarf.
            bound=cost + penalty * (edges.size - 1 - k),
            penalty=penalty,
            steps=steps,
        )


class _Streamed:
    """Cut a stream at any penalty, a window at a time."""

    def __init__(self, points: Stream) -> None:
        self.points = points
        self.count, self.size = points.count, points.size
        self._paths = _Paths()

    def every(self) -> Edges:
        """Return the edges of the cut with one position a run."""
        return self.points.every()

    def cut(self, penalty: float, k: int, steps: int) -> Cut:
        """Return the cheapest cut at a penalty, with the bound that it proves for k runs."""
        found, cost, slack, start = [np.zeros(1, np.int64)], 0.0, 0.0, 0
        want = self.points.length
        while start < self.points.size:
            edges, part_cost, part_slack = self._lead(start, want, penalty)
            want *= 2
            if edges.size > 1:
                found.append(edges[1:])
                cost, slack = cost + part_cost, slack + part_slack
                start, want = int(edges[-1]), self.points.length
        edges = np.concatenate(found)
        runs = edges.size - 1
        return Cut(
            edges=edges,
            runs=runs,
            cost=cost,
            bound=cost + penalty * (runs - k) - slack,
            penalty=penalty,
            steps=steps,
            slack=slack,
        )

    def _lead(self, start: int, want: int, penalty: float) -> tuple[Edges, float, float]:
        """Return the edges from `start` on that a window settles, their cost and the slack."""
        part = self.points.window(start, want)
        points = part.points
        parents = self._paths.parents(self._paths.runs(points), penalty)
        at, slack = points.positions.size, 0.0
        if part.slots[-1] < self.points.size:
            end, at = at, _meeting(parents, at)
            if at == 0 and want >= self.points.longest:
                at, slack = self._paths.settled(end)
        edges = _trail(parents, at)
        return part.slots[edges], points.cost(edges), slack


def _meeting(parents: Any, stop: int) -> int:
    """Return a stop that the cheapest cut passes however it goes on after `stop`; 0 if unknown.

    A later stop has no earlier parent. So a cut that goes on has an edge in `parent[stop] .. stop`,
    and the edge before lies between the parents of those two; both are traced until they agree.
    """
    trace = np.asarray(parents)
    edges = np.arange(trace[stop], stop + 1)
    while edges[0] > 0 and edges.size > 1:
        if edges.size == 2 and trace[edges[1]] == edges[0]:
            break
        edges = np.unique(trace[edges])
    return int(edges[0])


def _search(
    solver: _Solver | _Streamed, k: int, ends: tuple[Cut, Cut], penalty: float, tolerance: float
) -> Cut:
    """Narrow the cuts with fewer and more runs down to k, or to neighbours that can be joined."""
    few, many = ends
    bound = goal = 0.0
    for step in range(1, _STEPS + 1):
        slope = (few.cost - many.cost) / (many.runs - few.runs)
        is_slope = not many.penalty < penalty < few.penalty or step > _POWER_STEPS
        penalty = slope if is_slope else penalty
        cut = solver.cut(penalty, k, step)
        bound, goal = max(bound, cut.bound), max(goal, cut.bound + cut.slack)
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
        if is_close and solver.points.cost(_join(few, many.edges, k)) <= goal * (1 + tolerance):
            break
        penalty = _next_penalty(few, many, cut, k)
    edges = few.edges
    if few.runs < k:
        edges = _join(few, many.edges if many.steps else solver.every(), k)
    cost = solver.points.cost(edges)
    # The bound may exceed the cost by rounding only.
    bound = min(bound, cost)
    return Cut(edges=edges, runs=k, cost=cost, bound=bound, penalty=penalty, steps=step)


def _next_penalty(few: Cut, many: Cut, cut: Cut, k: int) -> float:
    """Return the next penalty: a power law through the known cuts, or 0 to ask for the slope."""
    if not few.steps or not many.steps:
        # Fine quantisation: cost ~ 1 / k**2, so penalty ~ 1 / k**3. Where that does not lead to
        # the other side of k, go further and further.
        ratio = cut.runs / k
        further = 3 * (2 ** (cut.steps - 1) - 1)
        return float(cut.penalty * ratio**3 * min(max(ratio, 0.5), 2.0) ** further)
    if many.runs - few.runs <= 3:
        return 0.0
    share = math.log(k / few.runs) / math.log(many.runs / few.runs)
    return float(few.penalty * (many.penalty / few.penalty) ** share)


def _join(few: Cut, many: Edges, k: int) -> Edges:
    """Return a cut of k runs: the first runs of `many`, then the last runs of `few`.

    They meet where a run of `many` lies inside the run of `few` that has `k - few.runs` fewer
    predecessors; there is one because the two sequences of edges start and end together.
    """
    ahead = k - few.runs
    starts, stops = few.edges[:-1], few.edges[1:]
    inner = many[ahead : ahead + few.runs + 1]
    at = int(np.argmax((inner[:-1] >= starts) & (inner[1:] <= stops)))
    return np.concatenate((many[: at + ahead + 1], few.edges[at + 1 :]))


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
