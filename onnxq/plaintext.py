"""Text from files made safe for a terminal.

Names of tensors, nodes and files may hold anything, escape sequences included; shown as they are,
they could move the cursor or hide what happened.
"""

from __future__ import annotations

from typing import Any


def plain(text: str) -> str:
    r"""Return text with its control and other unprintable characters escaped.

    >>> plain("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    r"""Return text on one line, white space collapsed, and plain.

    >>> one_line("two\n  lines")
    'two lines'
    """
    return plain(" ".join(text.split()))


def dtype_text(dtype: Any) -> str:
    """Return the name of a numpy dtype; strings of any length are "text"."""
    return "text" if dtype.kind in "US" else str(dtype.name)
