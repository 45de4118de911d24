"""The progress bar of a sweep: points made of all points, and how long the rest may take.

Owns what is drawn while a sweep runs; it is drawn only where a person watches. The time that is
left is the sweep's own estimate, which knows that points of an earlier sweep took no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from onnxq.console.terminal import make_bar
from onnxq.plaintext import plain
from onnxq.sweeps.sweep_pace import SweepEvent


@contextmanager
def progress(console: Console, *, is_shown: bool) -> Iterator[Callable[[SweepEvent], None] | None]:
    """Show a progress bar for the duration; yield what to tell it, or None where none is shown."""
    if not is_shown:
        yield None
        return
    bar = make_bar(
        console,
        TextColumn("sweeping"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[status]}", markup=False),
    )
    with bar:
        task = bar.add_task("", total=None, status="reading")

        def tell(event: SweepEvent) -> None:
            bar.update(
                task,
                completed=event.done,
                total=event.total,
                status=describe(event),
                description=plain(event.point),
            )

        yield tell


def describe(event: SweepEvent) -> str:
    """Return how far a sweep is, in a few words.

    >>> event = SweepEvent(point="", done=3, total=14, reused=2, seconds=9.0, eta_seconds=99.4)
    >>> describe(event)
    '3/14 points, 0:01:39 left'
    """
    points = f"{event.done}/{event.total} points"
    if event.done == event.total:
        return f"{points}, finishing"
    if event.eta_seconds is None:
        return points
    return f"{points}, {timedelta(seconds=round(event.eta_seconds))} left"
