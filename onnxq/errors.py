"""The exception tree of onnxq and the exit code of each branch.

Owns the difference between "your input is wrong" and "our program is wrong": everything we refuse
on purpose is an `OnnxqError`, everything else that escapes is a bug. A message is one line that
says where (tensor, file), what was found, what was expected and what to do next.
"""

from __future__ import annotations


class OnnxqError(Exception):
    """Signal a refusal that the user can act on; `exit_code` is the process's exit status."""

    exit_code = 1


class OptionError(OnnxqError):
    """Signal an option or a combination of options that cannot be obeyed (exit code 2)."""

    exit_code = 2


class InputError(OnnxqError):
    """Signal an input file or model that is missing, damaged or unsafe to read (exit code 3)."""

    exit_code = 3


class UnsupportedError(OnnxqError):
    """Signal a sound input that this version cannot handle (exit code 4)."""

    exit_code = 4


class OutputError(OnnxqError):
    """Signal that the output could not be written; the previous file is intact (exit code 5)."""

    exit_code = 5


class ValidationError(OnnxqError):
    """Signal that a candidate model failed its comparison with the reference (exit code 6)."""

    exit_code = 6


class BudgetError(OnnxqError):
    """Signal that a size or quality budget cannot be reached (exit code 7)."""

    exit_code = 7


class MissingDependencyError(OnnxqError):
    """Signal that an optional dependency is needed and not installed (exit code 8)."""

    exit_code = 8
