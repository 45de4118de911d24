"""Picks within bytes: cases of a size that real models have, and the search by joint error."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.allocation.budget import TOLERANCE, allocate, refine, within
from onnxq.allocation.ways import Picks, Way, make_fronts, make_path, total_bytes, total_loss

Case = list[list[Way]]
WIDTHS = (1, 1.6, 2, 3, 3.2, 4, 5, 5.33, 6, 8, 10, 12)


def network(count: int, seed: int) -> Case:
    """Return tensors of 10 to 100,000 values; each bit takes away about 6 dB of noise."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        values, scale = int(10 ** rng.uniform(1, 5)), 10 ** rng.uniform(-3, 1)
        ways = [Way(bytes=4 * values, loss=0.0)]
        for bits in WIDTHS:
            size = int(values * bits / 8 + 4 * 2**bits)
            ways.append(Way(bytes=size, loss=scale * 4**-bits * rng.lognormal(0, 0.3)))
        made.append(ways)
    return made


def float_bytes(case: Case) -> int:
    return sum(ways[0].bytes for ways in case)


def shared_size(case: Case, picks: Picks) -> int:
    """Return a size that is not the sum: less per byte, a decoder for every width in use."""
    return total_bytes(case, picks) * 97 // 100 + 5000 + 300 * len(set(picks))


@pytest.mark.parametrize("ratio", [0.06, 0.12, 0.25, 0.5])
def test_a_target_is_met_within_the_tolerance_in_few_sizes(ratio: float) -> None:
    case = network(120, seed=1)
    target = int(ratio * float_bytes(case))
    found = within(case, lambda picks: shared_size(case, picks), target)
    assert found.is_within
    assert (1 - TOLERANCE) * target <= found.bytes <= target
    assert found.sizes <= 15


def test_an_exact_size_loses_no_more_than_a_path_point_that_fits() -> None:
    case = network(60, seed=2)
    target = float_bytes(case) // 8
    found = within(case, lambda picks: shared_size(case, picks), target)
    path = make_path(make_fronts(case))
    fitting = [
        picks
        for picks in map(path.picks, range(len(path.steps) + 1))
        if shared_size(case, picks) <= target
    ]
    assert total_loss(case, found.picks) <= min(total_loss(case, picks) for picks in fitting)


def test_bytes_are_exchanged_where_steps_do_not_fit() -> None:
    # A byte of the first tensor takes away more, but then the second does not fit.
    first = [Way(bytes=0, loss=4.0), Way(bytes=2, loss=0.0)]
    second = [Way(bytes=0, loss=9.0), Way(bytes=5, loss=0.0)]
    assert allocate([first, second], 6) == (0, 1)


def test_more_bytes_than_all_ways_take_give_the_least_loss() -> None:
    case = network(5, seed=3)
    assert allocate(case, 10**9) == (0,) * 5
    found = within(case, lambda picks: shared_size(case, picks), 10**9)
    assert (found.picks, found.is_within, found.sizes) == ((0,) * 5, True, 2)


def test_a_target_below_the_smallest_file_gives_that_file() -> None:
    case = network(5, seed=3)
    found = within(case, lambda picks: shared_size(case, picks), 5000)
    assert not found.is_within
    assert found.picks == make_path(make_fronts(case)).start
    assert found.bytes == shared_size(case, found.picks)


def test_a_model_without_tensors_has_one_size() -> None:
    found = within([], lambda picks: 7, 7)
    assert (found.picks, found.bytes, found.is_within, found.sizes) == ((), 7, True, 1)
    assert refine([], (), lambda picks: 1.0, lambda picks: 7, 7, 9).runs == 1


def test_a_way_that_costs_more_than_it_says_is_passed_over() -> None:
    # By their own bytes all ways fit; the second of the first tensor brings a table of 50 bytes.
    case = [
        [Way(bytes=1, loss=9.0), Way(bytes=2, loss=0.0)],
        [Way(bytes=1, loss=5.0), Way(bytes=9, loss=0.0)],
    ]
    found = within(case, lambda picks: total_bytes(case, picks) + 50 * picks[0], 20)
    assert found.picks == (0, 1)


def test_what_an_attempt_is_too_large_by_is_aimed_lower() -> None:
    # Any way but the first brings 4 bytes more than it says: the way of 996 does not fit.
    points = [(0, 100.0), (990, 20.0), (996, 15.0), (1000, 0.0)]
    case = [[Way(bytes=size, loss=loss) for size, loss in points]]
    found = within(
        case, lambda picks: 10**6 + total_bytes(case, picks) + 4 * (picks[0] > 0), 10**6 + 998
    )
    assert found.picks == (1,)


class JointError:
    """An error as networks have it: each tensor's loss misjudged, and all of them interacting."""

    def __init__(self, case: Case, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.case = case
        self.gains = rng.lognormal(0, 1, len(case))
        self.runs = 0

    def __call__(self, picks: Picks) -> float:
        self.runs += 1
        losses = np.array([ways[at].loss for ways, at in zip(self.case, picks, strict=True)])
        noise = losses * self.gains
        return float(noise.sum() + 0.1 * np.sqrt(noise).sum() ** 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_refining_lowers_an_error_that_the_losses_misjudge(seed: int) -> None:
    case = network(40, seed)
    target = float_bytes(case) // 8
    start = within(case, lambda picks: shared_size(case, picks), target)
    error = JointError(case, seed)
    found = refine(
        case, start.picks, error, lambda picks: shared_size(case, picks), target, runs=80
    )
    assert found.error <= 0.9 * found.first_error
    assert found.bytes <= target
    assert found.runs == error.runs <= 80
    assert found.swaps > 0


def test_refining_finds_the_tensor_that_decides_everything() -> None:
    # Three tensors look alike; the error is all of the second.
    ways = [Way(bytes=2, loss=1.0), Way(bytes=4, loss=0.25), Way(bytes=6, loss=0.0625)]
    case = [ways, ways, ways]
    found = refine(
        case,
        (1, 1, 1),
        lambda picks: ways[picks[1]].loss,
        lambda picks: total_bytes(case, picks),
        12,
        runs=12,
    )
    assert found.picks[1] == 2
    assert found.bytes <= 12


def test_refining_learns_which_tensor_matters_from_swaps_that_fail() -> None:
    # Eight tensors look alike; the error is nearly all of the fifth. Without learning, 30 swaps
    # end at 5 bytes for it.
    ways = [Way(bytes=size, loss=4.0**-size) for size in range(1, 9)]
    case = [ways] * 8
    found = refine(
        case,
        (3,) * 8,
        lambda picks: ways[picks[4]].loss + 1e-6 * total_loss(case, picks),
        lambda picks: total_bytes(case, picks),
        32,
        runs=30,
    )
    assert ways[found.picks[4]].bytes == 8


def test_refining_saves_more_where_a_swap_is_larger_than_it_says() -> None:
    ways = [Way(bytes=2, loss=1.0), Way(bytes=4, loss=0.25), Way(bytes=6, loss=0.0625)]
    case = [ways, ways, ways]
    found = refine(
        case,
        (1, 1, 1),
        lambda picks: ways[picks[1]].loss,
        lambda picks: total_bytes(case, picks) + 3 * (picks[1] == 2),
        13,
        runs=12,
    )
    assert (found.picks, found.bytes) == ((0, 2, 0), 13)


def test_refining_leaves_an_undefined_error_for_a_defined_one() -> None:
    ways = [Way(bytes=2, loss=1.0), Way(bytes=4, loss=0.25)]
    case = [ways, ways]
    found = refine(
        case,
        (1, 0),
        lambda picks: float("nan") if picks == (1, 0) else 3.0,
        lambda picks: total_bytes(case, picks),
        6,
        runs=5,
    )
    assert (found.picks, found.error) == ((0, 1), 3.0)


def test_refining_refuses_a_start_above_the_target() -> None:
    ways = [Way(bytes=2, loss=1.0)]
    with pytest.raises(ValueError, match="picks take 2 bytes, expected 1 or fewer"):
        refine([ways], (0,), lambda picks: 0.0, lambda picks: 2, 1, runs=5)
