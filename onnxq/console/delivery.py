"""Where the results of a command go: files, stdout, stderr, and the exit code.

Owns printing and the end of the process. stdout carries only what was asked for: `--json -`, or the
findings of commands that make nothing else; all other text goes to stderr. Whatever is heavy to
import is imported inside a function, so that `--help` and completion stay fast.
"""

from __future__ import annotations

import os
import platform
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from onnxq.errors import OnnxqError, OptionError, OutputError, UnsupportedError
from onnxq.plaintext import one_line

if TYPE_CHECKING:
    from onnxq.console import terminal
    from onnxq.report import AnyReport
    from onnxq.sweeps.sweep_pace import SweepEvent
    from onnxq.sweeps.working_points import SweepReport

STDOUT = Path("-")
NO_NAME = Path("")


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Bring a report to where it was asked for."""

    json: Path | None
    force: bool
    quiet: bool
    verbose: bool
    model: Path | None = None
    """The model that the command writes before its report."""

    def check(self, written: Mapping[str, Path | None], read: Mapping[str, Path | None]) -> None:
        """Refuse, before any work, what could not be delivered; OUT itself is checked by `api`.

        Raises:
            OptionError: options exclude each other, or name no file or the same one.
            OutputError: a file cannot be written, or exists without --force.
        """
        if self.quiet and self.verbose:
            raise OptionError("--quiet and --verbose exclude each other; give one")
        from onnxq import textfile

        for option, path in written.items():
            if path in (STDOUT, NO_NAME):
                what = "is no file name" if path == NO_NAME else "would be a file of this name"
                raise OptionError(
                    f"{option} {str(path)!r}: {what}; give a file (--json - prints the report)"
                )
        json = None if self.json == STDOUT else self.json
        written = {**written, "--json": json}
        textfile.check_distinct(written, read)
        for option, path in written.items():
            if path is not None and option != "OUT":
                textfile.check_target(path, force=self.force)

    @contextmanager
    def progress(self) -> Iterator[Callable[[terminal.Event], None] | None]:
        """Show a progress bar for the duration, where a person watches and wants it."""
        from onnxq.console import terminal

        is_shown = terminal.is_watched() and not self.quiet
        with terminal.progress(terminal.make_console(), is_shown=is_shown) as tell:
            yield tell

    @contextmanager
    def points(self) -> Iterator[Callable[[SweepEvent], None] | None]:
        """Show a bar of the points of a sweep for the duration; metrics print to stderr."""
        from onnxq import quiet
        from onnxq.console import sweep_progress, terminal

        is_shown = terminal.is_watched() and not self.quiet
        bar = sweep_progress.progress(terminal.make_console(), is_shown=is_shown)
        with quiet.stdout_on_stderr(), bar as tell:
            yield tell

    @contextmanager
    def steps(self) -> Iterator[Callable[[terminal.Step], None] | None]:
        """Show a bar of samples or tensors for the duration; metrics print to stderr."""
        from onnxq import quiet
        from onnxq.console import terminal

        is_shown = terminal.is_watched() and not self.quiet
        bar = terminal.steps(terminal.make_console(), is_shown=is_shown)
        with quiet.stdout_on_stderr(), bar as tell:
            yield tell

    def deliver(self, report: AnyReport | SweepReport, *, is_product: bool = False) -> None:
        """Write the JSON, then the text: to stdout where it is all that the command makes.

        Raises:
            OutputError: the JSON cannot be written.
        """
        try:
            self._write_json(report)
        except OutputError as err:
            if self.model is None:
                raise
            raise OutputError(f"{self.model}: was written, but its report was not: {err}") from err
        if not self.quiet:
            self.show(report, to_stdout=is_product and self.json != STDOUT)

    def show(self, report: AnyReport | SweepReport, *, to_stdout: bool) -> None:
        """Write a report as text."""
        from onnxq.console import render, sweep_tables, terminal
        from onnxq.sweeps import working_points

        with suppress(OSError):  # nobody can be told that stderr cannot be written
            console = terminal.make_console(to_stdout=to_stdout)
            if isinstance(report, working_points.SweepReport):
                sweep_tables.render(report, console, verbose=self.verbose)
            else:
                render.render(report, console, verbose=self.verbose)

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file that was asked for beside the report.

        Raises:
            OutputError: it cannot be written.
        """
        from onnxq import textfile

        textfile.save(path, text, force=self.force)

    def _write_json(self, report: AnyReport | SweepReport) -> None:
        from onnxq.sweeps import working_points

        if self.json == STDOUT:
            _write_stdout(working_points.dumps(report))
        elif self.json is not None:
            self.write_text(self.json, working_points.dumps(report))


class _Terminated(KeyboardInterrupt):
    """Unwind as an interrupt does, so that nothing temporary stays."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let the signal that asks a process to end raise `_Terminated`, once."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the second one would stop the tidying up
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process as documented when the body raises, or when it is asked to end."""
    try:
        with _terminable():
            yield
    except typer.Exit:
        raise
    except OnnxqError as err:
        say(f"error: {one_line(str(err))}")
        raise typer.Exit(err.exit_code) from None
    except _Terminated:
        say("terminated")
        raise typer.Exit(143) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(130) from None
    except MemoryError:
        say("error: there is not enough memory for this model; --jobs 1 needs the least")
        raise typer.Exit(UnsupportedError.exit_code) from None
    except Exception:
        say(traceback.format_exc())
        say(
            "this is a bug in onnxq, please report it with the lines above "
            f"(onnxq {version()}, Python {platform.python_version()}, {platform.platform()})"
        )
        raise typer.Exit(1) from None


def command_line(context: typer.Context) -> str:
    """Return the command line that the program was called with."""
    root = context.find_root()
    return shlex.join(["onnxq", *(root.obj or ())])


def say(text: str) -> None:
    """Write a line to stderr, if it takes any."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def version() -> str:
    """Return the version of onnxq."""
    return str(sys.modules["onnxq"].__version__)


def _write_stdout(text: str) -> None:
    """Write what was asked for; a reader that has gone away wanted no more of it."""
    if sys.stdout is None:
        raise OutputError("stdout: is closed, the report cannot be written")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as err:
        # What is left in the buffer would fail once more when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(err, BrokenPipeError):
            raise OutputError(f"stdout: cannot be written: {err.strerror or err}") from err
