"""Folders for a while, gone afterwards, or when the next one is made if their owner was killed.

Owns the folders and how an abandoned one is told from one in use: by a locked file in it (not on
Windows, where abandoned ones stay).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_PREFIX = "onnxq-sweep-"
_LOCK = "lock"


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a new folder in the system's place for temporary files; remove it afterwards."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another's, or gone already
            _remove_abandoned(path)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name, contextlib.ExitStack() as stack:
        if sys.platform != "win32":
            # Under its name it is never seen unlocked, so nobody takes it for abandoned.
            new = Path(name) / f"{_LOCK}.new"
            file = stack.enter_context(new.open("wb"))
            fcntl.flock(file, fcntl.LOCK_EX)
            new.rename(new.with_name(_LOCK))
        yield Path(name)


def _remove_abandoned(path: Path) -> None:
    """Remove a folder of ours whose lock nobody holds."""
    if sys.platform == "win32" or path.lstat().st_uid != os.getuid():
        return
    with (path / _LOCK).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
