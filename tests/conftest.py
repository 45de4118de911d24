"""Hypothesis profiles: the same examples in every run; `HYPOTHESIS_PROFILE=thorough` takes more."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "deterministic", derandomize=True, database=None, deadline=None, print_blob=True
)
settings.register_profile("thorough", settings.get_profile("deterministic"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "deterministic"))
