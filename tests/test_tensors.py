"""What a tensor's bytes mean, and what is refused before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxq import tensors
from onnxq.errors import InputError
from tests.graphs import point_outside
from tests.property.strategies import weights

Array = np.ndarray[Any, np.dtype[Any]]
READABLE = {**tensors.FLOAT_TYPES, **tensors.INTEGER_TYPES}
TYPES_WITH_BYTES = [
    number
    for number in TensorProto.DataType.values()
    if number not in (TensorProto.UNDEFINED, TensorProto.STRING)
]
each_readable = pytest.mark.parametrize("data_type", READABLE, ids=tensors.type_name)


def some(data_type: int, count: int = 6) -> Array:
    """Return values of a type whose bytes all differ from their neighbours'."""
    dtype = READABLE[data_type]
    if data_type in tensors.FLOAT_TYPES:
        return np.linspace(-2, 3, count).astype(dtype)
    return np.arange(count).astype(dtype)


def raw(data_type: int, dims: list[int], data: bytes) -> TensorProto:
    return TensorProto(name="w", data_type=data_type, dims=dims, raw_data=data)


def outside(location: str | None = "w.bin", dims: tuple[int, ...] = (6,), **entries: Any) -> Any:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    point_outside(made, location, **entries)
    return made


# Types


def test_every_element_type_has_a_name_and_only_floats_keep_their_width_in_it() -> None:
    found = {tensors.type_name(number) for number in TensorProto.DataType.values()}
    assert len(found) == len(TensorProto.DataType.values())
    assert {tensors.type_name(number) for number in tensors.FLOAT_TYPES} == {
        "float32", "float16", "bfloat16", "float64",
    }  # fmt: skip


@pytest.mark.parametrize("number", TensorProto.DataType.values(), ids=tensors.type_name)
def test_quantized_types_are_those_of_less_than_a_byte_and_float8(number: int) -> None:
    name = TensorProto.DataType.Name(number)
    is_narrow = name in ("INT4", "UINT4", "INT2", "UINT2") or name.startswith(
        ("FLOAT8", "FLOAT4", "FLOAT6E")
    )
    assert tensors.is_quantized_type(number) == is_narrow


def test_unknown_type_is_no_quantized_one_and_has_no_size() -> None:
    assert not tensors.is_quantized_type(99)
    assert tensors.nominal_bytes(99, 10) == 0


@pytest.mark.parametrize("count", [0, 1, 5, 8])
@pytest.mark.parametrize("number", TYPES_WITH_BYTES, ids=tensors.type_name)
def test_nominal_bytes_are_those_that_onnx_writes(number: int, count: int) -> None:
    array = np.zeros(count, helper.tensor_dtype_to_np_dtype(number))
    written = numpy_helper.from_array(array)
    assert written.data_type == number
    assert tensors.nominal_bytes(number, count) == len(written.raw_data)


def test_strings_have_no_size() -> None:
    assert tensors.nominal_bytes(TensorProto.STRING, 7) == 0


def test_elements_are_counted_exactly() -> None:
    assert tensors.count_elements([], "w") == 1
    assert tensors.count_elements([3, 0, 2], "w") == 0
    assert tensors.count_elements([2**62, 2**62], "w") == 2**124


def test_negative_dimension_is_refused() -> None:
    with pytest.raises(InputError, match=r"model: tensor 'w'.*negative dimension in \[2, -1\]"):
        tensors.count_elements([2, -1], "model: tensor 'w'")


def test_stored_bytes_are_those_of_the_field_in_use() -> None:
    floats = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    doubles = helper.make_tensor("w", TensorProto.DOUBLE, [2], [1.0, 2.0])
    texts = helper.make_tensor("w", TensorProto.STRING, [2], [b"ab", b"c"])
    small = helper.make_tensor("w", TensorProto.INT32, [2], [1, 2])
    sizes = [tensors.stored_bytes(t) for t in (floats, doubles, texts, small)]
    assert sizes == [8, 16, 3, 2]
    assert tensors.stored_bytes(raw(TensorProto.FLOAT, [1], bytes(4))) == 4


# Reading


@given(weights())
def test_raw_values_come_back_bit_for_bit(array: Array) -> None:
    number = next(key for key, dtype in READABLE.items() if dtype == array.dtype)
    found = tensors.read(raw(number, list(array.shape), array.tobytes()), None, "w")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


@each_readable
def test_typed_values_come_back_bit_for_bit(data_type: int) -> None:
    array = some(data_type)
    made = helper.make_tensor("w", data_type, [2, 3], array.tolist())
    assert not made.HasField("raw_data")
    found = tensors.read(made, None, "w")
    assert (found.dtype, found.shape) == (array.dtype, (2, 3))
    assert found.tobytes() == array.tobytes() == numpy_helper.to_array(made).tobytes()


@each_readable
def test_external_values_come_back_bit_for_bit(tmp_path: Path, data_type: int) -> None:
    array = some(data_type)
    (tmp_path / "w.bin").write_bytes(b"\xee" * 5 + array.tobytes() + b"\xdd" * 5)
    made = TensorProto(name="w", data_type=data_type, dims=[3, 2])
    for length in (array.nbytes, None):
        entries = {"offset": 5} if length is None else {"offset": 5, "length": length}
        point_outside(made, "w.bin", **entries)
        found = tensors.read(made, tmp_path, "w")
        assert (found.dtype, found.shape) == (array.dtype, (3, 2))
        assert found.tobytes() == array.tobytes()


def test_external_values_without_offset_start_at_the_beginning(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(array.tobytes())
    assert tensors.read(outside(), tmp_path, "w").tolist() == array.tolist()


def test_scalar_and_empty_tensor_are_read() -> None:
    assert tensors.read(raw(TensorProto.FLOAT, [], bytes(4)), None, "w").shape == ()
    assert tensors.read(TensorProto(data_type=1, dims=[0, 3]), None, "w").shape == (0, 3)
    assert tensors.read(raw(TensorProto.FLOAT, [3, 0], b""), None, "w").shape == (3, 0)


def test_type_that_we_do_not_read_is_named() -> None:
    with pytest.raises(InputError, match="m: tensor 'w': cannot read values of complex64"):
        tensors.read(raw(TensorProto.COMPLEX64, [1], bytes(8)), None, "m: tensor 'w'")


@pytest.mark.parametrize("dims", [[5], [7], [2**40], [2**62, 2**62], [-6], [0]])
@each_readable
def test_values_that_do_not_fit_the_dims_are_refused(data_type: int, dims: list[int]) -> None:
    array = some(data_type)
    typed = helper.make_tensor("w", data_type, [6], array.tolist())
    typed.dims[:] = dims
    for damaged in (raw(data_type, dims, array.tobytes()), typed):
        with pytest.raises(InputError, match="damaged"):
            tensors.read(damaged, None, "w")


@pytest.mark.parametrize("dims", [[1] * 65, [0, 2**62, 2**62], [0, 2**63 - 1]])
def test_dims_that_numpy_cannot_hold_are_refused(dims: list[int]) -> None:
    data = bytes(4 if 0 not in dims else 0)
    with pytest.raises(InputError, match="w: "):
        tensors.read(raw(TensorProto.FLOAT, dims, data), None, "w")


# Elements narrower than a byte


@pytest.mark.parametrize(
    ("data_type", "size"), [(TensorProto.UINT4, 4), (TensorProto.UINT2, 2)], ids=["4", "2"]
)
def test_packed_bytes_are_read_as_they_stand(tmp_path: Path, data_type: int, size: int) -> None:
    data = bytes([0xE4, 0x1B, 0x27, 0x03])[:size]
    (tmp_path / "w.bin").write_bytes(b"\0" + data)
    inline = raw(data_type, [7], data)
    external = TensorProto(data_type=data_type, dims=[7])
    point_outside(external, "w.bin", offset=1)
    for made in (inline, external):
        assert tensors.read_packed(made, tmp_path, "w").tobytes() == data
        made.dims[:] = [9]
        with pytest.raises(InputError, match=r"damaged|truncated"):
            tensors.read_packed(made, tmp_path, "w")


def test_packed_external_length_is_checked(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    made = TensorProto(data_type=TensorProto.UINT4, dims=[7])
    point_outside(made, "w.bin", length=5)
    with pytest.raises(InputError, match="found 5 bytes of values, expected 4"):
        tensors.read_packed(made, tmp_path, "w")


# External data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model's folder with a data file of 24 bytes, beside a file it must not read."""
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "w.bin").write_bytes(bytes(24))
    (inner / "sub").mkdir()
    (inner / "sub" / "w.bin").write_bytes(bytes(24))
    os.symlink("w.bin", inner / "inside.bin")
    os.symlink(tmp_path / "secret.bin", inner / "outside.bin")
    os.symlink(tmp_path, inner / "up")
    return inner


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "./sub/../w.bin", "inside.bin"])
def test_location_inside_the_folder_is_read(folder: Path, location: str) -> None:
    assert tensors.read(outside(location), folder, "w").shape == (6,)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../secret.bin", "leaves the model's folder"),
        ("sub/../../secret.bin", "leaves the model's folder"),
        ("outside.bin", "leaves the model's folder"),
        ("up/secret.bin", "leaves the model's folder"),
        ("/etc/hostname", "must be relative"),
        ("\\server\\share", "must be relative"),
        ("w.bin\0", "must be relative"),
        ("none.bin", "is missing"),
        ("sub", "is missing"),
        (".", "is missing"),
        ("", "without a location"),
        (None, "without a location"),
        ("n" * 300, "is missing"),
    ],
)
def test_unsafe_location_is_refused(folder: Path, location: str | None, message: str) -> None:
    with pytest.raises(InputError, match=f"model: tensor 'w'.*{message}"):
        tensors.read(outside(location), folder, "model: tensor 'w'")


def test_external_data_of_a_model_in_memory_is_refused() -> None:
    with pytest.raises(InputError, match="not given as a path"):
        tensors.read(outside("w.bin"), None, "w")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 4}, "needs bytes 4..28 of 'w.bin', which has 24"),
        ({"offset": 1, "length": 24}, "needs bytes 1..25"),
        ({"offset": 2**70}, "needs bytes"),
        ({"length": 20}, "found 20 bytes of values, expected 24"),
        ({"length": 2**70}, "needs bytes"),
        ({"offset": -1}, "found external offset '-1'"),
        ({"offset": "1e3"}, "found external offset '1e3'"),
        ({"length": ""}, "found external length ''"),
        ({"length": "four"}, "found external length 'four'"),
    ],
)
def test_range_that_the_file_lacks_is_refused(
    folder: Path, entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tensors.read(outside(**entries), folder, "w")


def test_number_of_thousands_of_digits_is_refused(folder: Path) -> None:
    for key in ("offset", "length"):
        with pytest.raises(InputError, match=f"found external {key}"):
            tensors.read(outside(**{key: "9" * 5000}), folder, "w")


def test_claim_beyond_the_file_allocates_nothing(folder: Path) -> None:
    with pytest.raises(InputError, match="needs bytes"):
        tensors.read(outside(dims=(10**13,)), folder, "w")


@given(st.text(max_size=20))
def test_no_location_escapes(location: str) -> None:
    root = Path(os.sep) / "no" / "such" / "folder"
    with pytest.raises(InputError):
        tensors.external_path(location, root, "w")


def test_make_tensor_sets_no_values_and_no_empty_name() -> None:
    made = tensors.make_tensor("", TensorProto.UINT8, (2, 3))
    assert made == TensorProto(data_type=TensorProto.UINT8, dims=[2, 3])
    assert not made.HasField("name")
    assert tensors.make_tensor("w", 1, ()) == TensorProto(name="w", data_type=1)
