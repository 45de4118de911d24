"""Targets: what they mean in bytes, and what is refused before a file is touched."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.allocation.targets import (
    DropTarget,
    ModelBytes,
    SizeTarget,
    SnrTarget,
    above_reach,
    below_reach,
    make_target,
    parse_target_size,
)
from onnxq.errors import OptionError
from onnxq.validation.gates import Drop

MODEL = ModelBytes(file_bytes=4100, weight_bytes=4000, weights=1000)


def refusal(**given: Any) -> str:
    with pytest.raises(OptionError) as caught:
        make_target(**given)
    return str(caught.value)


def test_no_option_is_no_target() -> None:
    assert make_target() is None


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"target_bpw": 4}, SizeTarget(kind="bpw", value=4)),
        ({"target_size": "5MB"}, SizeTarget(kind="size", value=5_000_000)),
        ({"target_size": np.int64(7)}, SizeTarget(kind="size", value=7)),
        ({"target_ratio": 0.12}, SizeTarget(kind="ratio", value=0.12)),
        ({"target_snr": 30}, SnrTarget(decibels=30)),
        (
            {"max_drop": {"top1": "0.5%"}},
            DropTarget(drop=Drop(metric="top1", limit=0.005, is_relative=True)),
        ),
    ],
)
def test_each_option_is_a_target(given: dict[str, Any], found: object) -> None:
    assert make_target(**given) == found


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"target_bpw": 4}, "--target-bpw 4.0"),
        ({"target_size": "5MiB"}, "--target-size 5242880"),
        ({"target_ratio": 0.12}, "--target-ratio 0.12"),
        ({"target_snr": 30}, "--target-snr 30.0"),
        ({"max_drop": {"top1": "0.5%"}}, "--max-drop top1=0.5%"),
    ],
)
def test_a_target_is_told_as_it_is_asked_for(given: dict[str, Any], option: str) -> None:
    target = make_target(**given)
    assert target is not None
    assert target.option == option


def test_two_targets_exclude_each_other() -> None:
    message = "--target-bpw and --target-snr exclude each other; give one"
    assert refusal(target_bpw=4.0, target_snr=30.0) == message


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "4", 10**400])
def test_bits_a_weight_are_a_number_above_0(value: object) -> None:
    message = f"--target-bpw: found {value!r}, expected bits a weight above 0, such as 4.0"
    assert refusal(target_bpw=value) == message


@pytest.mark.parametrize("value", [0, 1, 1.5, math.nan, False, "0.1"])
def test_a_ratio_is_above_0_and_below_1(value: object) -> None:
    expected = "a number above 0 and below 1, such as 0.12"
    assert refusal(target_ratio=value) == f"--target-ratio: found {value!r}, expected {expected}"


@pytest.mark.parametrize("value", [0, -3, math.nan, math.inf, True, "30"])
def test_an_snr_is_above_0_decibels(value: object) -> None:
    message = f"--target-snr: found {value!r}, expected decibels above 0, such as 30"
    assert refusal(target_snr=value) == message


@pytest.mark.parametrize(
    "value", ["", "5 TB", "-5", "0", "0.5", "1e6", "5,000", "MB", "\u0665MB", 0, 2.0, True]
)
def test_a_size_is_a_byte_or_more(value: object) -> None:
    expected = "bytes >= 1 such as 123456, 5MB or 5MiB"
    assert refusal(target_size=value) == f"--target-size: found {value!r}, expected {expected}"


def test_one_metric_is_the_target() -> None:
    assert refusal(max_drop={"top1": 0.01, "top5": 0.01}) == (
        "--max-drop: found top1, top5, expected one metric such as top1=0.5%"
    )
    assert refusal(max_drop={}) == "--max-drop: found none, expected one metric such as top1=0.5%"
    assert refusal(max_drop={"top1": "much"}) == (
        "--max-drop top1: found 'much', expected a number >= 0 such as 0.01, or 1%"
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("5mb", 5_000_000), (" 1.5 KiB ", 1536), ("2GiB", 2**31), ("7 bytes", 7), ("0.29kB", 290)],
)
def test_sizes_have_units_of_1000_and_of_1024(text: str, size: int) -> None:
    assert parse_target_size(text) == size


def test_32_bits_a_weight_are_an_unchanged_model_of_float32() -> None:
    assert SizeTarget(kind="bpw", value=32).bytes(MODEL) == MODEL.file_bytes


def test_a_model_without_weights_keeps_its_graph() -> None:
    model = ModelBytes(file_bytes=100, weight_bytes=0, weights=0)
    target = SizeTarget(kind="bpw", value=4.0)
    assert target.bytes(model) == 100
    assert target.figure(100, model) == 0


@given(st.integers(1, 999))
def test_a_ratio_counts_as_the_decimal_it_shows(thousandths: int) -> None:
    model = ModelBytes(file_bytes=1000, weight_bytes=900, weights=225)
    target = SizeTarget(kind="ratio", value=thousandths / 1000)
    assert target.bytes(model) == thousandths
    assert target.figure(thousandths, model) == Fraction(thousandths, 1000)


@given(st.sampled_from(["bpw", "ratio"]), st.integers(120, 4000))
def test_what_a_refusal_says_to_give_is_enough(kind: Any, least: int) -> None:
    message = str(below_reach(SizeTarget(kind=kind, value=0.001), least, MODEL, "m.onnx"))
    figure = message.partition("the least is ")[2].split()[0]
    assert SizeTarget(kind=kind, value=float(figure)).bytes(MODEL) >= least


def test_a_size_out_of_reach_is_refused_with_the_least() -> None:
    error = below_reach(SizeTarget(kind="size", value=10), 300, MODEL, "m.onnx")
    assert error.exit_code == 7
    assert str(error) == (
        "--target-size 10: m.onnx cannot get as small; the least is 300 bytes; give that or "
        "more, or leave out what keeps tensors from becoming smaller"
    )


def test_a_file_no_smaller_than_the_input_is_not_recommended() -> None:
    error = below_reach(SizeTarget(kind="ratio", value=0.5), 4200, MODEL, "m.onnx")
    assert str(error).endswith(
        "the least is 1.0244 (4200 bytes); leave out what keeps tensors from becoming smaller"
    )


def test_a_quality_out_of_reach_is_refused_with_the_best() -> None:
    error = above_reach(SnrTarget(decibels=200.0), "149.2 dB", "m.onnx")
    assert error.exit_code == 7
    assert "the best has 149.2 dB" in str(error)
