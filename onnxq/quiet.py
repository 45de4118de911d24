"""Keep libraries from writing to stderr and from warning, and what is no product off stdout.

Owns file descriptors 1 and 2, `sys.stdout` and Python's warning filters, all settings of the whole
process, for as long as a library or a user's own code is asked something that it answers with
noise.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress

_STDERR = threading.RLock()
"""Held while file descriptor 2, which all threads share, leads elsewhere."""

DAMAGE = "Reached EOF prematurely"
"""How scipy begins to warn of a WAV file that was cut off: that one is an error."""


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 to a scratch file for the duration, where there is one."""
    with _STDERR, _without_stderr():
        yield


@contextmanager
def _without_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        with tempfile.TemporaryFile() as scratch:
            os.dup2(scratch.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)


@contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Send to stderr what is printed for the duration, by Python, other code and its processes.

    Where there is no stderr, it is lost.
    """
    with ExitStack() as kept:
        own = sys.__stdout__
        if own is not None:  # else descriptor 1 may belong to any file
            with suppress(OSError, ValueError):
                own.flush()
            _lead_to_stderr(kept)
        sink = sys.stderr
        if sink is None:
            sink = kept.enter_context(open(os.devnull, "w", encoding="utf-8"))
        with redirect_stdout(sink):
            yield


def _lead_to_stderr(kept: ExitStack) -> None:
    """Lead file descriptor 1 to where 2 leads; a stack takes it back when it is closed."""
    try:
        own = os.dup(1)
    except OSError:
        return
    kept.callback(os.close, own)
    kept.callback(os.dup2, own, 1)
    try:
        os.dup2(2, 1)
    except OSError:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)


class _Silence:
    """Silence warnings from the first thread that asks for it to the last one that is done.

    `warnings.catch_warnings` keeps the filters that it finds, so threads that leave in another
    order than they entered would leave its own behind. Here they are set once and taken back once,
    and no thread waits for another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._kept = ExitStack()

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            if self._threads == 0:
                _filter(self._kept)
            self._threads += 1
        try:
            yield
        finally:
            with self._lock:
                self._threads -= 1
                if self._threads == 0:
                    self._kept.close()


_SILENCE = _Silence()


@contextmanager
def silent_warnings() -> Iterator[None]:
    """Ignore warnings for the duration, in all threads; those that begin with `DAMAGE` raise."""
    if getattr(sys.flags, "context_aware_warnings", False):  # then each thread has filters
        with ExitStack() as kept:
            _filter(kept)
            yield
    else:
        with _SILENCE.held():
            yield


def _filter(kept: ExitStack) -> None:
    """Set the filters; a stack takes them back when it is closed."""
    kept.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", message=DAMAGE)
