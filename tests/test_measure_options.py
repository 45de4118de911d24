import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.errors import OptionError
from onnxq.validation.measure_options import (
    MeasureOptions,
    make_measure_options,
    parse_all,
    parse_carry,
    parse_dim,
    parse_range,
    parse_session_option,
)

NAMES = st.text(min_size=1).filter(lambda name: bool(name.strip()))


def test_what_callers_have_becomes_what_the_record_holds() -> None:
    options = make_measure_options(
        {
            "data": "val.npz",
            "preprocess": Path("p.yaml"),
            "metrics": "top1",
            "limit": np.int64(3),
            "batch": None,
        }
    )
    assert options == MeasureOptions(
        data=Path("val.npz"), preprocess="p.yaml", metrics=("top1",), limit=3
    )
    random = make_measure_options({"dims": {"N": np.int32(2)}, "ranges": {"x": [0, 1]}})
    assert random == MeasureOptions(dims={"N": 2}, ranges={"x": (0, 1)})


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"metric": ["top1"]}, "unknown option 'metric'; expected one of batch, carry, data"),
        ({"data": 3}, "--data: found 3"),
        ({"data": ""}, "--data: found "),
        ({"data": "d", "preprocess": ""}, "--preprocess: found ''"),
        ({"metrics": ["top1", ""]}, "--metric: found ('top1', '')"),
        ({"metrics": 3}, "--metric: found 3"),
        ({"dims": {"N": -1}}, "--dim: found 'N': -1, expected a size >= 1"),
        ({"dims": {"N": 0}}, "--dim: found 'N': 0, expected a size >= 1"),
        ({"dims": {"N": True}}, "--dim: found 'N': True"),
        ({"dims": 3}, "--dim: found 3, expected a mapping"),
        ({"ranges": {"x": (1, 1)}}, "--input: found 'x': (1, 1), expected finite bounds"),
        ({"ranges": {"x": (0, float("inf"))}}, "--input: found 'x'"),
        ({"ranges": {"x": 3}}, "--input: found 'x': 3"),
        ({"ranges": {"x": (1,)}}, "--input: found 'x': (1,)"),
        ({"carry": {"a": ""}}, "--carry: found 'a': ''"),
        ({"carry": {"a": "x", "b": "x"}}, "--carry: found input 'x' twice"),
        ({"samples": 0}, "--samples: found 0, expected a whole number >= 1"),
        ({"samples": True}, "--samples: found True"),
        ({"samples": 1.5}, "--samples: found 1.5"),
        ({"data": "d", "batch": 0}, "--batch: found 0"),
        ({"data": "d", "limit": 0}, "--limit: found 0"),
        ({"threads": -1}, "--threads: found -1"),
        ({"seed": -1}, "seed: found -1"),
        ({"seed": 1 << 64}, "seed: found "),
        ({"provider": "tpu"}, "--provider: found 'tpu', expected one of auto, cpu, cuda"),
        ({"session_options": {"a": 1}}, "--session-option: found 'a': 1"),
        ({"layers": 1}, "layers: found 1, expected True or False"),
        ({"data": "d", "samples": 2}, "--samples is for random inputs, and --data is given; use"),
        ({"data": "d", "dims": {"N": 1}}, "--dim is for random inputs"),
        ({"data": "d", "ranges": {"x": (0, 1)}}, "--input is for random inputs"),
        ({"preprocess": "p"}, "--preprocess is for inputs of --data, which is not given"),
        ({"batch": 1}, "--batch is for inputs of --data"),
        ({"limit": 1}, "--limit is for inputs of --data"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(
    given_options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        make_measure_options(given_options)
    assert str(caught.value).startswith(message)


@given(NAMES, st.integers(min_value=1, max_value=10**17))
def test_a_dim_comes_back_from_its_text(name: str, size: int) -> None:
    assert parse_dim(f"{name}={size}") == (name, size)


@given(
    NAMES,
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2, unique=True
    ).map(sorted),
)
def test_a_range_comes_back_from_its_text(name: str, bounds: list[float]) -> None:
    low, high = bounds
    assert parse_range(f"{name}={low!r}:{high!r}") == (name, (low, high))


def test_pairs_are_split_at_their_first_sign() -> None:
    assert parse_carry("out=in=1") == ("out", "in=1")
    assert parse_session_option("session.a=b=c") == ("session.a", "b=c")


@pytest.mark.parametrize("text", ["", "N", "N=", "=3", "N=-1", "N=x", "N=1.5", "N=" + "1" * 30])
def test_no_dim(text: str) -> None:
    with pytest.raises(OptionError, match="--dim: found"):
        parse_dim(text)


@pytest.mark.parametrize("text", ["", "x", "x=", "x=1", "x=1:", "x=:1", "=0:1", "x=a:b"])
def test_no_range(text: str) -> None:
    with pytest.raises(OptionError, match="--input: found"):
        parse_range(text)


@pytest.mark.parametrize("text", ["image=1:0", "x=1:1", "x=0:inf", "x=nan:1"])
def test_bounds_are_shown_as_they_were_typed(text: str) -> None:
    with pytest.raises(OptionError, match=f"--input: found '{text}', expected finite bounds LOW"):
        parse_range(text)


def test_more_threads_than_any_machine_gains_from_are_refused() -> None:
    MeasureOptions(threads=64)
    with pytest.raises(OptionError, match="--threads: found 99999, expected at most"):
        MeasureOptions(threads=99999)


@pytest.mark.parametrize("text", ["", "a", "a=", "=b", " =b"])
def test_no_pair(text: str) -> None:
    with pytest.raises(OptionError, match="--carry: found"):
        parse_carry(text)


def test_arguments_make_a_mapping_and_none_comes_twice() -> None:
    assert parse_all("--dim", ["a=1", "b=2"], parse_dim) == {"a": 1, "b": 2}
    assert parse_all("--dim", None, parse_dim) == {}
    with pytest.raises(OptionError, match="--dim: found 'a' twice"):
        parse_all("--dim", ["a=1", "a=2"], parse_dim)


def test_the_record_is_ready_for_json() -> None:
    options = MeasureOptions(ranges={"x": (0.0, 1.0)}, carry={"a": "b"}, metrics=("snr",))
    record = json.loads(json.dumps(options.to_json()))
    assert record["ranges"] == {"x": [0.0, 1.0]}
    assert record["metrics"] == ["snr"]
    assert json.loads(json.dumps(MeasureOptions(data=Path("a/b")).to_json()))["data"] == "a/b"
