"""The console on stderr, and the progress bars of running conversions and measurements.

Owns what is drawn while a command runs. The bar is drawn only where a person watches: stderr is a
terminal. Nothing that goes wrong on stderr may stop a conversion.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from onnxq.plaintext import plain


class Event(Protocol):
    """Describe how far a command has come."""

    @property
    def tensor(self) -> str:
        """Name of the tensor that was finished last."""

    @property
    def stage(self) -> str:
        """What is being done, in a word."""

    @property
    def done_bytes(self) -> int:
        """Bytes of the tensors that are finished."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors of this stage."""


class Step(Protocol):
    """Describe how far a measurement has come."""

    @property
    def stage(self) -> str:
        """What is being done, in a word."""

    @property
    def subject(self) -> str:
        """What was finished last."""

    @property
    def done(self) -> int:
        """Samples or tensors that are finished in this stage."""

    @property
    def total(self) -> int | None:
        """All of them; None where that is not known."""


_UNWRAPPED = 1 << 20
"""Columns of a stream that is no terminal: more than any table has."""


class _PatientConsole(Console):
    """Go quiet where rich would end the process: when nobody reads the stream any more."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(OSError, ValueError):  # a stream without a file needs no end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def make_console(*, to_stdout: bool = False) -> Console:
    """Return a console on stderr or stdout; where that is no terminal, plain and never wrapping."""
    console = _PatientConsole(stderr=not to_stdout, highlight=False, markup=False, emoji=False)
    stream = console.file
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")  # a locale without "±" still gets the figures
    if not console.is_terminal:
        console.width = _UNWRAPPED  # a file or a pipe is searched by whole names
    return console


def is_watched() -> bool:
    """Tell whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def progress(console: Console, *, is_shown: bool) -> Iterator[Callable[[Event], None] | None]:
    """Show a progress bar for the duration; yield what to tell it, or None where none is shown."""
    if not is_shown:
        yield None
        return
    bar = _bar(console)
    with bar:
        task = bar.add_task("", total=None, stage="reading", size="")

        def tell(event: Event) -> None:
            bar.update(
                task,
                completed=event.done_bytes,
                total=event.total_bytes,
                description=plain(event.tensor),
                stage=plain(event.stage if event.done_bytes < event.total_bytes else "finishing"),
                size=_size(event.done_bytes, event.total_bytes),
            )

        yield tell


@contextmanager
def steps(console: Console, *, is_shown: bool) -> Iterator[Callable[[Step], None] | None]:
    """Show a bar of samples or tensors for the duration; yield what to tell it, or None."""
    if not is_shown:
        yield None
        return
    bar = _bar(console)
    with bar:
        task = bar.add_task("", total=None, stage="reading", size="")
        stage = ""

        def tell(step: Step) -> None:
            nonlocal stage
            if step.stage != stage:
                stage = step.stage
                bar.reset(task)  # the time that is left is that of the stage
            bar.update(
                task,
                completed=step.done,
                total=step.total,
                description=plain(step.subject),
                stage=plain(step.stage),
                size=_count(step.done, step.total),
            )

        yield tell


def _bar(console: Console) -> Progress:
    """Return a bar with the fields `stage` and `size`."""
    return make_bar(
        console,
        TextColumn("{task.fields[stage]}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[size]}", markup=False),
        TimeRemainingColumn(compact=True),
    )


def make_bar(console: Console, *columns: ProgressColumn) -> Progress:
    """Return a bar that goes when it is done: columns, then a description that may be cut."""
    return Progress(
        *columns,
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=console,
        transient=True,
        expand=True,
    )


def _count(done: int, total: int | None) -> str:
    """Return how many of how many are done; nothing where nothing is counted.

    >>> _count(32, 597), _count(32, None), _count(0, None)
    ('32/597', '32', '')
    """
    if total is None:
        return f"{done:,}" if done else ""
    return f"{done:,}/{total:,}"


def _size(done_bytes: int, total_bytes: int) -> str:
    """Return how much is done, in the unit of the whole.

    >>> _size(2_000_000, 10_500_000), _size(2_000_000, 3_000_000_000)
    ('2.0/10.5 MB', '0.0/3.0 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if total_bytes >= factor:
            return f"{done_bytes / factor:.1f}/{total_bytes / factor:.1f} {unit}"
    return f"{done_bytes / 1e3:.1f}/{total_bytes / 1e3:.1f} kB"
