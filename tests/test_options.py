"""The choices of a caller, their limits, and presets."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from onnxq.errors import OptionError
from onnxq.options import (
    CE2_RHO,
    PRESETS,
    ConvertOptions,
    check_beside_plan,
    make_options,
    parse_tensor_bits,
)

CLAIMS = (
    "quantize_bias", "quantize_norm", "quantize_variance", "only_smaller", "fewer_bits",
    "share_equal",
    "pool_indices",
)  # fmt: skip
"""The options that are true or false."""


def test_defaults() -> None:
    options = make_options({})
    assert options == ConvertOptions()
    assert (options.bits, options.init, options.layout, options.codebook_dtype) == (
        6, "optimal", "portable", "float32",
    )  # fmt: skip
    assert (options.only_smaller, options.fewer_bits, options.share_equal) == (True, True, True)
    assert (options.quantize_bias, options.quantize_norm) == (True, True)
    assert not options.quantize_variance


def test_none_means_the_default() -> None:
    assert make_options({"bits": None, "preset": None, "include": None}) == ConvertOptions()


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("bits", (0, 17, -1, 4.0, "4", True, None)),
        ("init", ("best", "", 3)),
        ("pdf_factor", (-0.1, math.nan, math.inf, "0.5", None, True, 10**400)),
        ("max_iterations", (0, -1, 1.5, "9", True)),
        ("preset", ("ce1", 2, ["ce2"])),
        ("layout", ("compact", 1)),
        ("codebook_dtype", ("bfloat16", "FLOAT16")),
        ("external_data", ("maybe", True)),
        ("min_elements", (-1, 2.5, "3", False)),
        ("min_elements_per_centroid", (-0.5, math.nan, math.inf, "1", None)),
        ("jobs", (-1, 1.0, "2", True)),
        ("tensor_bits", ((("w", 0),), (("w", 17),), (("w", True),))),
        ("include", ("conv*", ["conv*"], ("",), (3,), None)),
        ("exclude", ("conv*", ["conv*"], {"conv*": 1})),
        ("op_types", ("Conv", (b"Conv",))),
        *((key, ("false", "", 0, 1, None, [])) for key in CLAIMS),
    ],
)
def test_value_out_of_range_is_refused_with_the_name_of_the_option(
    key: str, values: tuple[Any, ...]
) -> None:
    odd = {"tensor_bits": "--tensor 'w'", "min_elements_per_centroid": "min_elements_per_centroid"}
    option = key if key in CLAIMS else odd.get(key, f"--{key.replace('_', '-')}")
    for value in values:
        with pytest.raises(OptionError, match=f"^{option}: found .*, expected"):
            ConvertOptions(**{key: value})


@pytest.mark.parametrize("bits", [1, 16])
def test_limits_are_allowed(bits: int) -> None:
    options = ConvertOptions(
        bits=bits, pdf_factor=0, max_iterations=1, min_elements=0, jobs=0,
        tensor_bits=(("w", 17 - bits),),
    )  # fmt: skip
    assert options.bits == bits


def test_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(OptionError, match="unknown option 'bit'; expected one of bits, codebook"):
        make_options({"bit": 4})


@pytest.mark.parametrize(
    ("given", "option"),
    [({"bits": 4}, "bits"), ({"tensor_bits": {"w": 4}}, "tensor"), ({"op_types": ()}, "op-types")],
)
def test_plan_decides_what_options_would(given: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionError, match=f"leave out --{option}"):
        check_beside_plan(given)


def test_options_that_a_plan_leaves_open_may_stand_beside_it() -> None:
    check_beside_plan({"jobs": 4, "external_data": "always", "bits": None})


# Presets


def test_preset_is_a_complete_set_of_options() -> None:
    options = make_options({"preset": "ce2", "bits": 3})
    assert options == ConvertOptions(
        preset="ce2", bits=3, init="bounded-pdf", min_elements_per_centroid=CE2_RHO,
        only_smaller=False, fewer_bits=False, share_equal=False,
    )  # fmt: skip
    assert CE2_RHO == 1.6


def test_explicit_option_beside_a_preset_wins() -> None:
    options = make_options({"preset": "ce2", "init": "quantile", "only_smaller": True})
    assert (options.init, options.only_smaller, options.fewer_bits) == ("quantile", True, False)
    assert make_options({"preset": "ce2", "init": None}).init == "bounded-pdf"


def test_presets_name_fields() -> None:
    fields = {field.name for field in dataclasses.fields(ConvertOptions)}
    for preset in PRESETS.values():
        assert preset.keys() <= fields


# Lists and pairs


@pytest.mark.parametrize("key", ["include", "exclude", "op_types"])
def test_one_string_is_a_list_of_one(key: str) -> None:
    for given in ("conv*", ["conv*"], ("conv*",)):
        assert getattr(make_options({key: given}), key) == ("conv*",)
    for wrong in (3, [3], {"a": 1}, b"conv"):
        option = f"--{key.replace('_', '-')}"
        with pytest.raises(OptionError, match=f"{option}: found .*, expected strings"):
            make_options({key: wrong})


def test_tensor_bits_are_a_mapping_or_pairs() -> None:
    expected = (("a*", 4), ("b", 8))
    for given in ({"a*": 4, "b": 8}, [("a*", 4), ["b", 8]], expected):
        assert make_options({"tensor_bits": given}).tensor_bits == expected


@pytest.mark.parametrize(
    "given",
    [
        3,
        "a=4",
        ["a"],
        [("a",)],
        [("a", 4, 5)],
        {"a": "four"},
        {"a": 4.5},
        {"a": None},
        [(3, 4)],
        ["a4"],
    ],
)
def test_what_is_no_pair_of_pattern_and_bits_is_refused(given: Any) -> None:
    with pytest.raises(OptionError, match="--tensor"):
        make_options({"tensor_bits": given})
    with pytest.raises(OptionError, match="--tensor"):
        ConvertOptions(tensor_bits=given)


def test_every_field_is_checked() -> None:
    """Whatever the field, a value of a type that none has is refused."""
    for field in dataclasses.fields(ConvertOptions):
        with pytest.raises(OptionError, match="found"):
            ConvertOptions(**{field.name: object()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("conv1=8", ("conv1", 8)), ("a=b=3", ("a=b", 3)), ("*.weight= 4", ("*.weight", 4))],
)
def test_pattern_and_bits_are_parsed(text: str, expected: tuple[str, int]) -> None:
    assert parse_tensor_bits(text) == expected


@pytest.mark.parametrize("text", ["conv1", "=4", "conv1=", "conv1=four", "conv1=-4", "", "a=4.0"])
def test_what_is_no_pattern_with_bits_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"--tensor: found .*, expected PATTERN=BITS"):
        parse_tensor_bits(text)


def test_long_number_is_refused() -> None:
    for text in ("w=" + "9" * 5000, "w=17"):
        with pytest.raises(OptionError, match="--tensor"):
            make_options({"tensor_bits": [parse_tensor_bits(text)]})


# JSON


def test_options_are_json_ready_in_field_order() -> None:
    given = {"include": ("a", "b"), "tensor_bits": {"w": 3}, "preset": "ce2"}
    record = make_options(given).to_json()
    assert json.loads(json.dumps(record)) == record
    assert list(record) == [field.name for field in dataclasses.fields(ConvertOptions)]
    assert record["include"] == ["a", "b"]
    assert record["tensor_bits"] == [["w", 3]]
    assert make_options(record) == make_options(given)
