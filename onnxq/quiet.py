"""Keep native code from writing to stderr.

Owns file descriptor 2 for as long as a library is asked something that it answers with noise.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = threading.RLock()
"""Held while file descriptor 2, which all threads share, leads elsewhere."""


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
