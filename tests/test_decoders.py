"""Every layout x bit width x dtype is decoded alike by onnx's evaluator, onnxruntime and us.

One model holds many tensors, each handed to a Transpose that changes nothing (a Cast for bfloat16,
which onnxruntime cannot give to numpy) and out of the graph. The reference evaluator and
onnxruntime compute the converted model; our decoder is `restore`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import onnxq
from onnxq.report import Report
from tests import graphs, runs

Array = np.ndarray[Any, np.dtype[Any]]
LAYOUTS = ("portable", "pooled", "native", "bytes")
WIDTHS = range(1, 17)
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
}
SOME_SIZES = (1, 2, 3, 5, 7, 8, 13, 16, 40)
ALL_SIZES = range(1, 41)

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_width = pytest.mark.parametrize("bits", WIDTHS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def distinct(count: int, dtype: np.dtype[Any], seed: int) -> Array:
    """Return `count` values of a dtype, all different unless the type has too few, shuffled."""
    rng = np.random.default_rng((seed, count))
    if dtype.itemsize == 2:
        patterns = np.arange(2**16, dtype=np.uint16)
        every = patterns[(patterns != 0x8000)].view(dtype)  # one zero only
        pool = every[np.isfinite(every.astype(np.float32))]
        return rng.choice(pool, count, replace=count > pool.size)
    values = rng.permutation(np.linspace(-1, 1, count)).astype(dtype)
    assert np.unique(values).size == count
    return values


def collection(arrays: dict[str, Array], opset: int = 21) -> ModelProto:
    """Return a model whose outputs are its initializers; bfloat16 comes out as float32."""
    nodes, outputs = [], []
    for name, array in arrays.items():
        is_bfloat = array.dtype == graphs.BFLOAT16
        kind = TensorProto.FLOAT if is_bfloat else graphs.DATA_TYPES[array.dtype]
        attributes = {"to": TensorProto.FLOAT} if is_bfloat else {"perm": range(array.ndim)}
        op_type = "Cast" if is_bfloat else "Transpose"
        nodes.append(graphs.node(op_type, name, f"{name}_out", **attributes))
        outputs.append(graphs.value(f"{name}_out", *array.shape, dtype=kind))
    return graphs.model(graphs.graph(nodes, [], outputs, graphs.tensors(**arrays)), opset)


def convert(model: ModelProto, **options: Any) -> tuple[Report, ModelProto]:
    settings = {"only_smaller": False, "fewer_bits": False, "share_equal": False, **options}
    settings["pool_indices"] = settings["layout"] == "pooled"
    if settings["pool_indices"]:
        settings["layout"] = "portable"
    report, converted = onnxq.convert(model, check=0, **settings)
    assert len(report.tensors) == len(model.graph.initializer)
    return report, converted


def decoded(converted: ModelProto) -> dict[str, Array]:
    """Return what our own decoder makes of every tensor, as the model's outputs show it."""
    _, restored = onnxq.restore(converted)
    arrays = {t.name: numpy_helper.to_array(t) for t in restored.graph.initializer}
    return {
        f"{name}_out": a.astype(np.float32) if a.dtype == graphs.BFLOAT16 else a
        for name, a in arrays.items()
    }


def assert_three_agree(converted: ModelProto) -> dict[str, Array]:
    arrays = decoded(converted)
    ours = {value.name: arrays[value.name] for value in converted.graph.output}
    runs.assert_same(runs.run(converted, {}), ours)
    runs.assert_same(runs.run(converted, {}, optimize=False), ours)
    runs.assert_same(runs.run_reference(converted, {}), ours)
    return ours


def check_small_sizes(layout: str, bits: int, dtype: str, sizes: Sequence[int]) -> None:
    kind = DTYPES[dtype]
    arrays = {f"n{size}": distinct(size, kind, bits) for size in sizes}
    arrays |= {f"m{size}": distinct(size * 3, kind, bits).reshape(3, size) for size in sizes}
    opset = 25 if bits == 2 else 21  # where the native layout has a form of its own
    report, converted = convert(collection(arrays, opset), bits=bits, layout=layout)
    # Unpacked indices have the width that the centroids need.
    if layout == "bytes" or bits == 16 or (bits == 8 and layout != "pooled"):
        assert {row.bit_width for row in report.tensors} <= set(range(1, bits + 1))
    else:
        assert {row.bit_width for row in report.tensors} == {bits}
    ours = assert_three_agree(converted)
    for name, array in arrays.items():
        assert ours[f"{name}_out"].shape == array.shape
        if array.size <= 2**bits:
            runs.assert_equal(ours[f"{name}_out"].astype(kind), array, name)


@each_dtype
@each_width
@each_layout
def test_some_small_sizes(layout: str, bits: int, dtype: str) -> None:
    check_small_sizes(layout, bits, dtype, SOME_SIZES)


@pytest.mark.slow
@each_dtype
@each_width
@each_layout
def test_all_small_sizes(layout: str, bits: int, dtype: str) -> None:
    check_small_sizes(layout, bits, dtype, ALL_SIZES)


@pytest.mark.parametrize(
    "dtype",
    ["float32", *(pytest.param(d, marks=pytest.mark.slow) for d in DTYPES if d[-2:] != "32")],
)
@each_width
@each_layout
def test_every_index_is_decoded_to_its_own_centroid(layout: str, bits: int, dtype: str) -> None:
    """As many distinct values as the width has indices, and a size that fills no group."""
    kind = DTYPES[dtype]
    values = distinct(2**bits, kind, 5)
    extra = np.concatenate([values, values[:13]])
    rows = np.concatenate([values, values[::-1]]).reshape(2, -1)
    report, converted = convert(
        collection({"a": extra, "b": rows}, 25 if bits == 2 else 21), bits=bits, layout=layout
    )
    ours = assert_three_agree(converted)
    used = np.unique(values).size
    assert [row.centroids for row in report.tensors] == [used, used]
    runs.assert_equal(ours["a_out"].astype(kind), extra)
    runs.assert_equal(ours["b_out"].astype(kind), rows)


def oldest() -> Iterator[tuple[int, int, str]]:
    """Yield opset, width and layout: all widths below opset 9, few layouts of few tables."""
    for bits in WIDTHS:
        yield 7 + bits % 2, bits, "portable"
    yield from ((8, 3, "native"), (7, 4, "native"), (7, 6, "bytes"), (8, 12, "bytes"))


@pytest.mark.parametrize(
    ("opset", "bits", "layout"),
    [*product((9, 10, 11, 13), WIDTHS, LAYOUTS), *oldest()],
)
def test_older_opsets(layout: str, bits: int, opset: int) -> None:
    arrays = {f"n{size}": distinct(size, DTYPES["float32"], bits) for size in (1, 5, 16, 37)}
    _, converted = convert(collection(arrays, opset), bits=bits, layout=layout)
    assert converted.opset_import[0].version == opset
    assert_three_agree(converted)


@each_width
@each_layout
def test_float16_codebook_is_decoded_alike(layout: str, bits: int) -> None:
    rng = np.random.default_rng(bits)
    arrays = {f"n{size}": rng.standard_normal(size).astype(np.float32) for size in (1, 5, 40, 999)}
    _, converted = convert(collection(arrays), bits=bits, layout=layout, codebook_dtype="float16")
    ours = assert_three_agree(converted)
    # A codebook so short that a Cast would outweigh it, or one that is exact, stays float32.
    if 5 <= bits < 10:
        values = ours["n999_out"]
        runs.assert_equal(values.astype(np.float16).astype(np.float32), values)


@each_layout
@pytest.mark.parametrize("bits", [1, 3, 4, 8, 11, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_values(layout: str, bits: int, dtype: str) -> None:
    """Zeros of both signs, subnormals, the largest values, infinities and constants."""
    kind = DTYPES[dtype]
    info = ml_dtypes.finfo(kind)
    small, big = info.smallest_subnormal, info.max
    arrays = {
        "zeros": np.zeros(37, kind),
        "signs": np.array([0.0, -0.0] * 9, kind),
        "small": np.array([small, -small, 0, small * 3] * 5, kind),
        "big": np.array([big, -big, big / 2, 1] * 5, kind),
        "infinite": np.array([np.inf, 2, 1, 2] * 5, kind),
        "constant": np.full((4, 9), 0.1).astype(kind),
        "one": np.array([0.3]).astype(kind),
    }
    _, converted = convert(collection(arrays), bits=bits, layout=layout)
    ours = assert_three_agree(converted)
    for name, array in arrays.items():
        found = ours[f"{name}_out"].astype(kind)
        assert np.array_equal(np.isnan(found), np.isnan(array))
        if np.unique(array.astype(np.float64)).size <= 2**bits:
            assert np.array_equal(found, array), name


@each_layout
@each_width
def test_many_dimensions(layout: str, bits: int) -> None:
    rng = np.random.default_rng(bits)
    shapes = ((1, 1), (1, 7, 1), (2, 3, 4, 5), (5, 1, 3, 1, 2), (0x21, 2))
    arrays = {
        f"s{number}": rng.standard_normal(shape).astype(np.float32)
        for number, shape in enumerate(shapes)
    }
    _, converted = convert(collection(arrays), bits=bits, layout=layout)
    assert_three_agree(converted)
