from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.errors import OptionError
from onnxq.low_rank.options import LowRankOptions, make_low_rank_options, parse_rank


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing says how small"),
        ({"ratio": 0}, "--ratio: found 0, expected a number above 0 and below 1"),
        ({"ratio": 1.0}, "--ratio: found 1.0"),
        ({"ratio": "0.7"}, "--ratio: found '0.7'"),
        ({"ratio": True}, "--ratio: found True"),
        ({"ratio": float("nan")}, "--ratio: found nan"),
        ({"energy": 1}, "--energy: found 1, expected a number above 0 and below 1"),
        ({"energy": -0.5}, "--energy: found -0.5"),
        ({"max_snr_loss": 0.0}, "--max-snr-loss: found 0.0, expected decibels above 0"),
        ({"max_snr_loss": float("inf")}, "--max-snr-loss: found inf"),
        ({"ratio": 0.5, "energy": 0.9}, "--ratio and --energy exclude each other"),
        ({"energy": 0.9, "max_snr_loss": 1.0}, "--energy and --max-snr-loss exclude each other"),
        ({"ranks": {"a": 0}}, "--rank 'a': found 0, expected a whole number >= 1"),
        ({"ranks": {"a": True}}, "--rank 'a': found True"),
        ({"ranks": {"a": 1.5}}, "--rank 'a': found 1.5"),
        ({"ranks": "a=1"}, "--rank: found 'a=1', expected a mapping or pairs"),
        ({"ranks": [("a",)]}, "--rank: found .*, expected a mapping or pairs"),
        ({"ranks": [(1, 1)]}, "--rank: found .*, expected a mapping or pairs"),
        ({"ratio": 0.5, "split": "diagonal"}, "--split: found 'diagonal', expected one of auto"),
        ({"ratio": 0.5, "include": [""]}, "--include: found"),
        ({"ratio": 0.5, "jobs": -1}, "--jobs: found -1"),
        ({"ratio": 0.5, "external_data": "x"}, "--external-data: found 'x'"),
        ({"ratio": 0.5, "limit": 3}, "--limit is for inputs of --data, which is not given"),
        ({"ratio": 0.5, "data": "x.npz", "batch": 0}, "--batch: found 0"),
        ({"ratio": 0.5, "bits": 3}, "unknown option 'bits'"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_low_rank_options(given)


def test_ranks_may_stand_alone_or_beside_one_goal() -> None:
    assert make_low_rank_options({"ranks": {"a*": 3}}).ranks == (("a*", 3),)
    both = make_low_rank_options({"ratio": 0.5, "ranks": [("a", np.int64(2)), ["b", 1]]})
    assert both.ranks == (("a", 2), ("b", 1))
    assert type(both.ranks[0][1]) is int


def test_what_is_none_was_not_given() -> None:
    assert make_low_rank_options({"ratio": 0.5, "energy": None}) == LowRankOptions(ratio=0.5)


def test_options_are_ready_for_json() -> None:
    made = make_low_rank_options(
        {"ratio": 0.5, "ranks": {"a": 1}, "include": "conv*", "data": "x.npz", "limit": 5}
    )
    data = json.loads(json.dumps(made.to_json()))
    assert (data["ratio"], data["ranks"], data["include"]) == (0.5, [["a", 1]], ["conv*"])
    assert (data["data"], data["limit"], data["energy"]) == ("x.npz", 5, None)
    assert made.data == Path("x.npz")
    assert made.measured().limit == 5


@pytest.mark.parametrize("text", ["a", "=1", "a=", "a=b", "a=-1", "a=1.5", "a=" + "9" * 30])
def test_a_rank_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected PATTERN=R"):
        parse_rank(text)


def test_a_pattern_may_hold_an_equals_sign() -> None:
    assert parse_rank("a=b*=3") == ("a=b*", 3)
