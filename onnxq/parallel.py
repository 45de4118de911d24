"""Run a function over items in order, inline or on threads, without running far ahead.

Owns the order of results, the look-ahead and the splitting of arrays into fixed blocks. The blocks
depend on the array alone and never on the number of threads, so that sums reduced in block order
have the same bytes for every `jobs`. Threads are enough because the heavy work (numpy, compiled
kernels) runs outside the interpreter lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from onnxq.errors import OptionError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    fn: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    jobs: int,
    cost: Callable[[Item], int] | None = None,
    budget: int | None = None,
) -> Iterator[Result]:
    """Yield `fn(item)` for every item, in input order, on up to `jobs` threads.

    At most `2 * jobs` results are in flight (running, or finished and not yet taken), and with a
    `budget` at most that many bytes by `cost`; one item is always let through, however large. With
    `jobs=1` everything runs inline in the calling thread, one item per step of the iterator.

    Args:
        fn: Called once per item; its first exception (in input order) is raised here, and items
            that have not started are then dropped.
        items: Read lazily, never more than one item ahead of what is in flight.
        jobs: Number of threads, at least 1.
        cost: Bytes an item holds while in flight; needed for `budget` to have an effect.
        budget: Bytes allowed in flight together.

    Raises:
        OptionError: `jobs` is below 1.

    >>> list(ordered_map(lambda x: x * x, [3, 1, 2], jobs=2))
    [9, 1, 4]
    """
    if jobs < 1:
        raise OptionError(f"jobs: found {jobs}, expected at least 1")
    if jobs == 1:
        return (fn(item) for item in items)
    price = cost if cost is not None and budget is not None else None
    return _threaded(fn, items, jobs, price, budget or 0)


def _threaded(
    fn: Callable[[Item], Result],
    items: Iterable[Item],
    jobs: int,
    cost: Callable[[Item], int] | None,
    budget: int,
) -> Iterator[Result]:
    """Yield results in order, topping up the queue before each wait."""
    pending: deque[tuple[Future[Result], int]] = deque()
    held = 0
    with ThreadPoolExecutor(jobs, thread_name_prefix="onnxq") as pool:
        try:
            for item in items:
                price = cost(item) if cost is not None else 0
                while pending and (len(pending) >= 2 * jobs or held + price > budget > 0):
                    future, paid = pending.popleft()
                    yield future.result()
                    held -= paid
                pending.append((pool.submit(fn, item), price))
                held += price
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def blocks(length: int, size: int) -> list[tuple[int, int]]:
    """Return the `(start, stop)` pairs that cut `range(length)` into blocks of `size`.

    The last block may be shorter; a length of 0 has no blocks.

    >>> blocks(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + size, length)) for start in range(0, length, size)]
