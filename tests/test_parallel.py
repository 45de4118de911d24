"""ordered_map: order, look-ahead, budget, errors."""

import threading
import time
from collections.abc import Iterator

import pytest

from onnxq.errors import OptionError
from onnxq.parallel import blocks, ordered_map


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_results_keep_the_order_of_the_items(jobs: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.002 * (5 - item) if item < 5 else 0)
        return item * item

    assert list(ordered_map(slow_first, range(30), jobs=jobs)) == [i * i for i in range(30)]


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_items_give_no_results(jobs: int) -> None:
    assert list(ordered_map(str, [], jobs=jobs)) == []


@pytest.mark.parametrize("jobs", [1, 4])
def test_the_first_exception_in_order_is_raised(jobs: int) -> None:
    def fail(item: int) -> int:
        if item >= 2:
            raise ValueError(f"item {item}")
        return item

    results = ordered_map(fail, range(100), jobs=jobs)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(results)


def test_one_job_runs_inline_one_item_per_step() -> None:
    threads: list[threading.Thread] = []
    results = ordered_map(lambda _: threads.append(threading.current_thread()), range(9), jobs=1)
    assert threads == []
    next(results)
    assert threads == [threading.current_thread()]


def test_look_ahead_is_bounded_by_jobs() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = ordered_map(lambda item: item, items(), jobs=2)
    assert next(results) == 0
    assert len(taken) <= 5
    results.close()  # type: ignore[attr-defined]


def test_the_budget_bounds_what_is_in_flight() -> None:
    lock = threading.Lock()
    held, peak = 0, 0

    def work(cost: int) -> int:
        nonlocal held, peak
        with lock:
            held += cost
            peak = max(peak, held)
        time.sleep(0.001)
        with lock:
            held -= cost
        return cost

    costs = [3, 4, 5, 2, 2, 2, 6, 1] * 5
    found = list(ordered_map(work, costs, jobs=8, cost=lambda c: c, budget=7))
    assert found == costs
    assert peak <= 7


def test_an_item_above_the_budget_still_runs_alone() -> None:
    found = list(ordered_map(lambda c: c, [50, 1, 99], jobs=2, cost=lambda c: c, budget=10))
    assert found == [50, 1, 99]


def test_jobs_below_one_are_refused() -> None:
    with pytest.raises(OptionError, match="jobs"):
        ordered_map(str, [1], jobs=0)


def test_blocks_cover_the_range_once() -> None:
    assert blocks(0, 4) == []
    assert blocks(9, 4) == [(0, 4), (4, 8), (8, 9)]
