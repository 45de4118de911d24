"""The console on stderr, and the progress bar of a running conversion.

Owns what is drawn while a command runs. The bar is drawn only where a person watches: stderr is a
terminal. Nothing that goes wrong on stderr may stop a conversion.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
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


class _StderrConsole(Console):
    """Go quiet where rich would end the process: when nobody reads stderr any more."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        if sys.stderr is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def make_console() -> Console:
    """Return a console on stderr, plain where that is no terminal."""
    return _StderrConsole(stderr=True, highlight=False, markup=False, emoji=False)


def is_watched() -> bool:
    """Tell whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def progress(console: Console, *, is_shown: bool) -> Iterator[Callable[[Event], None] | None]:
    """Show a progress bar for the duration; yield what to tell it, or None where none is shown."""
    if not is_shown:
        yield None
        return
    bar = Progress(
        TextColumn("{task.fields[stage]}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        DownloadColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=console,
        transient=True,
        expand=True,
    )
    with bar:
        task = bar.add_task("", total=None, stage="reading")

        def tell(event: Event) -> None:
            bar.update(
                task,
                completed=event.done_bytes,
                total=event.total_bytes,
                description=plain(event.tensor),
                stage=plain(event.stage),
            )

        yield tell
