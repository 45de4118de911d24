"""Small valid models of every construct that holds weights, and feeds that run them.

Each builder takes a `Fill` (how weights get their values) and returns a ModelProto; `CASES` lists
them with what a conversion at default options must do. Nothing here imports onnxq.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

Array = np.ndarray[Any, np.dtype[Any]]
Fill = Callable[[Sequence[int], int], Array]
OPSETS = (7, 9, 10, 11, 13, 17, 21, 25, 26)
IR_OF_OPSET = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 17: 8, 21: 10, 25: 13}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DATA_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    BFLOAT16: TensorProto.BFLOAT16,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.bool_): TensorProto.BOOL,
}
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


# Values


def normal(shape: Sequence[int], seed: int) -> Array:
    """Return bell-shaped float32 weights."""
    scale = np.float32(0.2)
    return np.random.default_rng(seed).standard_normal(tuple(shape), dtype=np.float32) * scale


def few(count: int) -> Fill:
    """Return a fill with at most `count` distinct values, every one of them present if it fits."""

    def fill(shape: Sequence[int], seed: int) -> Array:
        rng = np.random.default_rng((seed, count))
        pool = np.unique(normal((count,), seed + 1000))
        elements = int(np.prod(shape))
        return rng.permutation(np.resize(pool, elements)).reshape(tuple(shape))

    return fill


def feeds(model: ModelProto, seed: int = 0) -> dict[str, Array]:
    """Return inputs for every graph input that is not an initializer; symbolic dims are 2."""
    held = {tensor.name for tensor in model.graph.initializer}
    made: dict[str, Array] = {}
    for position, value in enumerate(model.graph.input):
        if value.name in held:
            continue
        kind = value.type.tensor_type
        shape = [dim.dim_value or 2 for dim in kind.shape.dim]
        rng = np.random.default_rng((seed, position))
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype == np.bool_:
            made[value.name] = np.full(shape, seed % 2 == 0)
        elif np.issubdtype(dtype, np.integer):
            made[value.name] = rng.integers(0, 8, shape).astype(dtype)
        else:
            made[value.name] = rng.standard_normal(shape).astype(dtype)
    return made


# Parts


def tensor(name: str, array: Array) -> TensorProto:
    """Return a TensorProto with raw data."""
    made = TensorProto(name=name, data_type=DATA_TYPES[array.dtype])
    made.dims.extend(array.shape)
    made.raw_data = array.tobytes()
    return made


def tensors(**arrays: Array) -> list[TensorProto]:
    return [tensor(name, array) for name, array in arrays.items()]


def value(name: str, *shape: int | str, dtype: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """Return a node; names are separated by commas and an empty one is an omitted input."""
    split = [part.strip() for part in inputs.split(",")] if inputs else []
    return helper.make_node(op_type, split, outputs.split(","), **attributes)


def graph(
    nodes: Iterable[NodeProto],
    inputs: Iterable[ValueInfoProto],
    outputs: Iterable[ValueInfoProto],
    initializers: Iterable[TensorProto] = (),
    sparse: Iterable[SparseTensorProto] = (),
    name: str = "g",
) -> GraphProto:
    return helper.make_graph(
        list(nodes), name, list(inputs), list(outputs), list(initializers),
        sparse_initializer=list(sparse),
    )  # fmt: skip


def model(
    body: GraphProto,
    opset: int = 17,
    ir: int | None = None,
    functions: Sequence[FunctionProto] = (),
    imports: Mapping[str, int] | None = None,
) -> ModelProto:
    opsets = {"": opset, **(imports or {})}
    version = ir or max(v for k, v in IR_OF_OPSET.items() if k <= opset)
    if version < 4:  # every initializer has to be listed as an input
        body.input.extend(value(t.name, *t.dims) for t in body.initializer)
    return helper.make_model(
        body,
        opset_imports=[helper.make_opsetid(domain, v) for domain, v in opsets.items()],
        ir_version=version,
        functions=list(functions),
        producer_name="tests",
    )


def positive(array: Array) -> Array:
    return np.abs(array) + np.float32(0.5)


# Layers


def conv_bn_relu(fill: Fill = normal, opset: int = 17, channels: int = 64) -> ModelProto:
    held = tensors(
        w=fill((channels, 8, 3, 3), 1), b=fill((channels,), 2), scale=fill((channels,), 3),
        bias=fill((channels,), 4), mean=fill((channels,), 5), var=positive(fill((channels,), 6)),
    )  # fmt: skip
    nodes = [
        node("Conv", "x,w,b", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="conv"),
        node("BatchNormalization", "c,scale,bias,mean,var", "n", name="bn"),
        node("Relu", "n", "y", name="relu"),
    ]
    shape = (1, channels, 6, 6)
    return model(graph(nodes, [value("x", 1, 8, 6, 6)], [value("y", *shape)], held), opset)


def grouped_conv(fill: Fill = normal) -> ModelProto:
    held = tensors(w=fill((64, 8, 3, 3), 1), d=fill((64, 1, 9, 9), 2))
    nodes = [
        node("Conv", "x,w", "h", group=8, pads=[1, 1, 1, 1]),
        node("Conv", "h,d", "y", group=64, pads=[4, 4, 4, 4]),
    ]
    return model(graph(nodes, [value("x", 1, 64, 6, 6)], [value("y", 1, 64, 6, 6)], held))


def conv_transpose(fill: Fill = normal) -> ModelProto:
    held = tensors(w=fill((32, 24, 3, 3), 1), b=fill((24,), 2))
    nodes = [node("ConvTranspose", "x,w,b", "y", strides=[2, 2])]
    return model(graph(nodes, [value("x", 1, 32, 5, 5)], [value("y", 1, 24, 11, 11)], held))


def matmul_add(fill: Fill = normal, opset: int = 17, size: int = 64) -> ModelProto:
    held = tensors(w=fill((size, 96), 1), b=fill((96,), 2))
    nodes = [node("MatMul", "x,w", "h", name="proj"), node("Add", "h,b", "y", name="bias")]
    return model(graph(nodes, [value("x", 2, size)], [value("y", 2, 96)], held), opset)


def gemm(fill: Fill = normal) -> ModelProto:
    held = tensors(w=fill((96, 64), 1), b=fill((96,), 2), v=fill((96, 80), 3), c=fill((1, 80), 4))
    nodes = [
        node("Gemm", "x,w,b", "h", transB=1),
        node("Transpose", "h", "t", perm=[1, 0]),
        node("Gemm", "t,v,c", "y", transA=1, alpha=0.5, beta=2.0),
    ]
    return model(graph(nodes, [value("x", 3, 64)], [value("y", 3, 80)], held))


def recurrent(op_type: str, gates: int) -> Callable[..., ModelProto]:
    def build(fill: Fill = normal) -> ModelProto:
        hidden, width = 40, 64
        held = tensors(
            w=fill((1, gates * hidden, width), 1),
            r=fill((1, gates * hidden, hidden), 2),
            b=fill((1, 2 * gates * hidden), 3),
        )
        nodes = [node(op_type, "x,w,r,b", "y", hidden_size=hidden)]
        shapes = [value("x", 3, 2, width)], [value("y", 3, 1, 2, hidden)]
        return model(graph(nodes, *shapes, held), opset=14)

    return build


def embedding(fill: Fill = normal) -> ModelProto:
    nodes = [node("Gather", "table,ids", "y", axis=0)]
    inputs = [value("ids", 2, 5, dtype=INT64)]
    return model(graph(nodes, inputs, [value("y", 2, 5, 32)], tensors(table=fill((300, 32), 1))))


def attention(fill: Fill = normal) -> ModelProto:
    """Four projections and a causal mask: 4096 values, two distinct, one of them -Inf."""
    held = tensors(**{name: fill((64, 64), seed) for seed, name in enumerate("qkvo", 1)})
    held.append(tensor("mask", np.triu(np.full((64, 64), -np.inf, np.float32), 1)))
    held.append(tensor("scale", np.array(0.125, np.float32)))
    nodes = [
        node("MatMul", "x,q", "xq"),
        node("MatMul", "x,k", "xk"),
        node("MatMul", "x,v", "xv"),
        node("Transpose", "xk", "kt", perm=[1, 0]),
        node("MatMul", "xq,kt", "s0"),
        node("Mul", "s0,scale", "s1"),
        node("Add", "s1,mask", "s2"),
        node("Softmax", "s2", "p", axis=-1),
        node("MatMul", "p,xv", "h"),
        node("MatMul", "h,o", "y"),
    ]
    return model(graph(nodes, [value("x", 64, 64)], [value("y", 64, 64)], held))


def layer_norm(fill: Fill = normal) -> ModelProto:
    held = tensors(scale=fill((4096,), 1), bias=fill((4096,), 2))
    nodes = [node("LayerNormalization", "x,scale,bias", "y", axis=-1)]
    return model(graph(nodes, [value("x", 2, 4096)], [value("y", 2, 4096)], held))


# Where weights live


def constants(fill: Fill = normal) -> ModelProto:
    """Weights as Constant nodes, by `value` and by `value_floats`, in their place in the order."""
    nodes = [
        node("Constant", "", "w", value=tensor("", fill((64, 64), 1)), name="const w"),
        node("MatMul", "x,w", "h"),
        node("Constant", "", "v", value_floats=[float(f) for f in fill((4096,), 2)]),
        node("Constant", "", "shape", value_ints=[64, 64]),
        node("Reshape", "v,shape", "v2"),
        node("MatMul", "h,v2", "h2"),
        node("Constant", "", "one", value_float=1.5),
        node("Mul", "h2,one", "y"),
    ]
    return model(graph(nodes, [value("x", 2, 64)], [value("y", 2, 64)]))


def tied(fill: Fill = normal) -> ModelProto:
    """One initializer that two nodes use, once transposed, like tied embeddings."""
    nodes = [node("MatMul", "x,w", "h"), node("Gemm", "h,w", "y", transB=1)]
    shapes = [value("x", 2, 64)], [value("y", 2, 64)]
    return model(graph(nodes, *shapes, tensors(w=fill((64, 80), 1))))


def equal_tensors(fill: Fill = normal) -> ModelProto:
    """Three names, two shapes, one list of values."""
    values = fill((64, 64), 1)
    held = tensors(first=values, second=values.copy(), third=values.reshape(32, 128))
    nodes = [
        node("MatMul", "x,first", "h"),
        node("MatMul", "h,second", "h2"),
        node("Constant", "", "shape", value_ints=[4, 32]),
        node("Reshape", "h2,shape", "h3"),
        node("MatMul", "h3,third", "y"),
    ]
    return model(graph(nodes, [value("x", 2, 64)], [value("y", 4, 128)], held))


def weight_aliases(fill: Fill = normal) -> ModelProto:
    """Weights that go through an Identity or a Reshape of the model's own first."""
    held = tensors(a=fill((64, 64), 1), b=fill((64 * 64,), 2), c=fill((32, 128), 3))
    nodes = [
        node("Identity", "a", "a1", name="alias"),
        node("MatMul", "x,a1", "h"),
        node("Constant", "", "shape", value_ints=[64, 64]),
        node("Reshape", "b,shape", "b1"),
        node("MatMul", "h,b1", "h2"),
        node("Reshape", "c,shape", "c1", name="reshaped"),
        node("MatMul", "h2,c1", "h3"),
        node("Identity", "a", "a2"),
        node("MatMul", "h3,a2", "y"),
    ]
    return model(graph(nodes, [value("x", 2, 64)], [value("y", 2, 64)], held))


def initializer_is_output(fill: Fill = normal) -> ModelProto:
    nodes = [node("MatMul", "x,w", "y")]
    outputs = [value("y", 2, 64), value("w", 64, 64)]
    return model(graph(nodes, [value("x", 2, 64)], outputs, tensors(w=fill((64, 64), 1))))


def no_nodes(fill: Fill = normal) -> ModelProto:
    return model(graph([], [], [value("w", 64, 64)], tensors(w=fill((64, 64), 1))))


def unused(fill: Fill = normal) -> ModelProto:
    """Return a model whose second initializer nobody consumes."""
    made = matmul_add(fill)
    made.graph.initializer.append(tensor("orphan", fill((64, 64), 9)))
    return made


def initializer_is_input(fill: Fill = normal) -> ModelProto:
    """A caller may override `w` (IR 8), not `v`."""
    nodes = [node("MatMul", "x,w", "h"), node("MatMul", "h,v", "y")]
    inputs = [value("x", 2, 64), value("w", 64, 64)]
    held = tensors(w=fill((64, 64), 1), v=fill((64, 64), 2))
    return model(graph(nodes, inputs, [value("y", 2, 64)], held))


def ir3(fill: Fill = normal) -> ModelProto:
    return conv_bn_relu(fill, opset=8)


# Subgraphs and functions


def branches(fill: Fill = normal) -> ModelProto:
    """An If: each branch has weights of its own under one name and captures one from outside."""
    bodies = {}
    for seed, branch in enumerate(("then_branch", "else_branch"), 10):
        nodes = [node("MatMul", "x,w", f"{branch}h"), node("MatMul", f"{branch}h,outer", branch)]
        inner = tensors(w=fill((64, 64), seed))
        bodies[branch] = graph(nodes, [], [value(branch, 2, 64)], inner, name=branch)
    nodes = [
        node("MatMul", "x,outer", "z"),
        node("If", "flag", "u", name="choice", **bodies),
        node("Add", "z,u", "y"),
    ]
    inputs = [value("x", 2, 64), value("flag", dtype=BOOL)]
    held = tensors(outer=fill((64, 64), 1))
    return model(graph(nodes, inputs, [value("y", 2, 64)], held))


def nested_branches(fill: Fill = normal) -> ModelProto:
    """An If in an If; the innermost weight is a Constant, and an outer one is used only there."""
    deep = graph(
        [
            node("Constant", "", "deep_w", value=tensor("", fill((64, 64), 3))),
            node("MatMul", "x,deep_w", "deep_h"),
            node("MatMul", "deep_h,outer", "deep"),
        ],
        [], [value("deep", 2, 64)],
    )  # fmt: skip
    flat = graph([node("Identity", "x", "flat")], [], [value("flat", 2, 64)])
    middle = graph(
        [
            node("If", "flag", "mid_h", then_branch=deep, else_branch=flat),
            node("MatMul", "mid_h,mid_w", "mid"),
        ],
        [], [value("mid", 2, 64)], tensors(mid_w=fill((64, 64), 2)),
    )  # fmt: skip
    other = graph([node("Neg", "x", "other")], [], [value("other", 2, 64)])
    nodes = [node("If", "flag", "y", then_branch=middle, else_branch=other)]
    inputs = [value("x", 2, 64), value("flag", dtype=BOOL)]
    return model(graph(nodes, inputs, [value("y", 2, 64)], tensors(outer=fill((64, 64), 1))))


def loop(fill: Fill = normal) -> ModelProto:
    """A Loop of three rounds; its body holds a weight and captures another."""
    body = graph(
        [
            node("MatMul", "carried,w", "h"),
            node("MatMul", "h,outer", "h2"),
            node("Tanh", "h2", "next"),
            node("Identity", "going", "going_on"),
        ],
        [value("round", dtype=INT64), value("going", dtype=BOOL), value("carried", 2, 64)],
        [value("going_on", dtype=BOOL), value("next", 2, 64)],
        tensors(w=fill((64, 64), 2)),
    )  # fmt: skip
    held = [
        tensor("rounds", np.array(3, np.int64)),
        tensor("go", np.array(True)),
        tensor("outer", fill((64, 64), 1)),
    ]
    nodes = [node("Loop", "rounds,go,x", "y", body=body)]
    return model(graph(nodes, [value("x", 2, 64)], [value("y", 2, 64)], held))


def scan(fill: Fill = normal) -> ModelProto:
    body = graph(
        [
            node("MatMul", "state,w", "h"),
            node("Add", "h,piece", "s"),
            node("Tanh", "s", "next"),
            node("Identity", "next", "seen"),
        ],
        [value("state", 1, 64), value("piece", 1, 64)],
        [value("next", 1, 64), value("seen", 1, 64)],
        tensors(w=fill((64, 64), 1)),
    )
    nodes = [node("Scan", "start,x", "last,y", body=body, num_scan_inputs=1)]
    outputs = [value("last", 1, 64), value("y", 3, 1, 64)]
    held = tensors(start=np.zeros((1, 64), np.float32))
    return model(graph(nodes, [value("x", 3, 1, 64)], outputs, held))


def functions(fill: Fill = normal) -> ModelProto:
    """A model-local function holding a Constant weight and an If, called twice, once by another."""
    small = graph([node("Neg", "h", "neg")], [], [value("neg", 2, 64)])
    inner_nodes = [
        node("Constant", "", "if_w", value=tensor("", fill((64, 64), 3))),
        node("MatMul", "h,if_w", "mm"),
    ]
    large = graph(inner_nodes, [], [value("mm", 2, 64)])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    layer = helper.make_function(
        "local", "Layer", ["x", "flag"], ["y"],
        [
            node("Constant", "", "w", value=tensor("", fill((64, 64), 1))),
            node("MatMul", "x,w", "h"),
            node("If", "flag", "y", then_branch=large, else_branch=small),
        ],
        imports,
    )  # fmt: skip
    outer = helper.make_function(
        "local", "Outer", ["x", "flag"], ["y"],
        [
            node("Layer", "x,flag", "h", domain="local"),
            node("Constant", "", "w", value=tensor("", fill((64, 64), 2))),
            node("MatMul", "h,w", "y"),
        ],
        imports,
    )  # fmt: skip
    nodes = [
        node("Layer", "x,flag", "h", domain="local", name="call 1"),
        node("Outer", "h,flag", "h2", domain="local", name="call 2"),
        node("MatMul", "h2,w", "y"),
    ]
    inputs = [value("x", 2, 64), value("flag", dtype=BOOL)]
    body = graph(nodes, inputs, [value("y", 2, 64)], tensors(w=fill((64, 64), 4)))
    return model(body, functions=[layer, outer], imports={"local": 1})


def custom_domain(fill: Fill = normal) -> ModelProto:
    """A node nobody knows: the model cannot be run, its weights can be converted."""
    nodes = [
        node("MatMul", "x,w", "h"),
        node("Mystery", "h,v", "y", domain="com.example", depth=3),
    ]
    held = tensors(w=fill((64, 64), 1), v=fill((64, 64), 2))
    body = graph(nodes, [value("x", 2, 64)], [value("y", 2, 64)], held)
    return model(body, imports={"com.example": 7})


# Element types and containers


def half(dtype: Any) -> Callable[..., ModelProto]:
    """Return a builder whose weight has another float type and is cast to float32 where needed."""

    def build(fill: Fill = normal) -> ModelProto:
        kind = np.dtype(dtype)
        held = tensors(w=fill((64, 96), 1).astype(kind))
        if kind == BFLOAT16:
            nodes = [node("Cast", "w", "wf", to=FLOAT), node("MatMul", "x,wf", "y")]
        else:
            nodes = [
                node("Cast", "x", "xh", to=DATA_TYPES[kind]),
                node("MatMul", "xh,w", "yh"),
                node("Cast", "yh", "y", to=FLOAT),
            ]
        return model(graph(nodes, [value("x", 2, 64)], [value("y", 2, 96)], held))

    return build


def typed_fields(fill: Fill = normal) -> ModelProto:
    """Values in float_data, double_data and int32_data (float16, bfloat16), not in raw_data."""
    single = TensorProto(name="f", data_type=FLOAT, dims=[64, 64])
    single.float_data.extend(fill((4096,), 1).tolist())
    double = TensorProto(name="d", data_type=TensorProto.DOUBLE, dims=[64, 64])
    double.double_data.extend(fill((4096,), 2).astype(np.float64).tolist())
    held = [single, double]
    for seed, (name, dtype) in enumerate((("h", np.dtype(np.float16)), ("b", BFLOAT16)), 3):
        made = TensorProto(name=name, data_type=DATA_TYPES[dtype], dims=[64, 64])
        made.int32_data.extend(fill((4096,), seed).astype(dtype).view(np.uint16).tolist())
        held.append(made)
    nodes = [node("MatMul", "x,f", "y0")]
    for step, name in enumerate("dhb"):
        nodes.append(node("Cast", name, f"{name}f", to=FLOAT))
        nodes.append(node("MatMul", f"y{step},{name}f", f"y{step + 1}"))
    return model(graph(nodes, [value("x", 2, 64)], [value("y3", 2, 64)], held))


def sparse(fill: Fill = normal) -> ModelProto:
    """A sparse initializer, which stays as it is, beside a dense one."""
    count = 600
    places = np.sort(np.random.default_rng(5).choice(4096, count, replace=False)).astype(np.int64)
    made = helper.make_sparse_tensor(tensor("s", fill((count,), 1)), tensor("", places), [64, 64])
    nodes = [node("MatMul", "x,s", "h"), node("MatMul", "h,w", "y")]
    shapes = [value("x", 2, 64)], [value("y", 2, 64)]
    return model(graph(nodes, *shapes, tensors(w=fill((64, 64), 2)), [made]))


def nan_and_infinity(fill: Fill = normal) -> ModelProto:
    """One weight with a NaN (kept), one with both infinities (converted, infinities exact)."""
    bad, wide = fill((64, 64), 1).copy(), fill((64, 64), 2).copy()
    bad[3, 7] = np.nan
    wide[0, 0], wide[5, 6], wide[63, 63] = np.inf, -np.inf, -np.inf
    held = tensors(bad=bad, wide=wide, small=np.array(1e-3, np.float32))
    nodes = [
        node("MatMul", "x,bad", "y"),
        node("Mul", "wide,small", "ws"),
        node("Add", "x2,ws", "z"),
    ]
    inputs = [value("x", 2, 64), value("x2", 64, 64)]
    return model(graph(nodes, inputs, [value("y", 2, 64), value("z", 64, 64)], held))


def empty_and_scalar(fill: Fill = normal) -> ModelProto:
    held = tensors(
        none=np.zeros((0, 64), np.float32), one=np.array(1.25, np.float32), w=fill((64, 64), 1)
    )
    nodes = [
        node("MatMul", "x,w", "h"),
        node("Mul", "h,one", "h2"),
        node("Concat", "h2,none", "y", axis=0),
    ]
    return model(graph(nodes, [value("x", 2, 64)], [value("y", 2, 64)], held))


def parameters(fill: Fill = normal) -> ModelProto:
    """Floats that are parameters of an operation and no weights, beside one weight."""
    held = tensors(
        w=fill((64, 64), 1),
        roi=np.zeros(0, np.float32), scales=np.array([1, 1, 2, 2], np.float32),
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), pad=np.array(0.5, np.float32),
        low=np.array(-1, np.float32), high=np.array(1, np.float32),
        qs=np.array(0.02, np.float32), qz=np.array(128, np.uint8),
        channel_scales=(positive(normal((64 * 64,), 7)) / 50).astype(np.float32),
        channel_zeros=np.zeros(64 * 64, np.int8), flat=np.array([-1], np.int64),
        ratio=np.array(0.5, np.float32), start=np.array(0, np.float32),
        stop=np.array(64, np.float32), step=np.array(1, np.float32),
    )  # fmt: skip
    nodes = [
        node("MatMul", "x,w", "h"),
        node("Reshape", "h,flat", "h1"),
        node("QuantizeLinear", "h1,channel_scales,channel_zeros", "hq", axis=0),
        node("DequantizeLinear", "hq,channel_scales,channel_zeros", "hd", axis=0),
        node("Constant", "", "shape", value_ints=[1, 1, 64, 64]),
        node("Reshape", "hd,shape", "h2"),
        node("Resize", "h2,roi,scales", "r", mode="nearest"),
        node("Pad", "r,pads,pad", "p"),
        node("Clip", "p,low,high", "c"),
        node("QuantizeLinear", "c,qs,qz", "q"),
        node("DequantizeLinear", "q,qs,qz", "d"),
        node("Dropout", "d,ratio", "y"),
        node("Range", "start,stop,step", "z"),
        node("Shape", "x", "xs"),
        node("ConstantOfShape", "xs", "u", value=tensor("", np.array([0.5], np.float32))),
    ]
    outputs = [value("y", 1, 1, 130, 130), value("z", 64), value("u", 64, 64)]
    return model(graph(nodes, [value("x", 64, 64)], outputs, held))


def int8_qdq(fill: Fill = normal) -> ModelProto:
    """An int8 model in QDQ form: nothing to gain."""
    held = tensors(
        wq=np.clip(np.round(normal((64, 64), 1) * 300), -127, 127).astype(np.int8),
        ws=(positive(normal((64,), 2)) / 300).astype(np.float32),
        wz=np.zeros(64, np.int8), xs=np.array(0.05, np.float32), xz=np.array(0, np.int8),
    )  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x,xs,xz", "xq"),
        node("DequantizeLinear", "xq,xs,xz", "xd"),
        node("DequantizeLinear", "wq,ws,wz", "w", axis=1),
        node("MatMul", "xd,w", "y"),
    ]
    return model(graph(nodes, [value("x", 2, 64)], [value("y", 2, 64)], held))


def tiny(fill: Fill = normal) -> ModelProto:
    held = tensors(w=fill((4, 4), 1), b=fill((4,), 2))
    nodes = [node("Gemm", "x,w,b", "y")]
    return model(graph(nodes, [value("x", 2, 4)], [value("y", 2, 4)], held))


def integers_only(fill: Fill = normal) -> ModelProto:
    nodes = [node("Add", "x,w", "y")]
    held = tensors(w=np.arange(4096, dtype=np.int64).reshape(64, 64))
    kinds = [value("x", 64, 64, dtype=INT64)], [value("y", 64, 64, dtype=INT64)]
    return model(graph(nodes, *kinds, held))


# Names and decoration

ODD_NAMES = (
    "a b", "layer/0/kernel:0", "x[0]", "gewicht-ß-重み-🙂", "w" * 3000, "q0", "q1a", "q1b",
    "q0_P0", "_", "0", "a\\b", '"quoted"', "*", "[!a]?", "new\nline", "i0", "c0", "t4", "g",
)  # fmt: skip


def odd_names(fill: Fill = normal) -> ModelProto:
    """A chain of MatMuls over weights with awkward names; values are named like ours as well."""
    held = [tensor(name, fill((48, 48), seed)) for seed, name in enumerate(ODD_NAMES)]
    nodes = []
    for step, name in enumerate(ODD_NAMES):
        before = "x" if step == 0 else f"q{step + 50}"
        after = "y" if step == len(ODD_NAMES) - 1 else f"q{step + 51}"
        nodes.append(helper.make_node("MatMul", [before, name], [after], name=f"q{step}"))
    return model(graph(nodes, [value("x", 2, 48)], [value("y", 2, 48)], held))


def decorated(fill: Fill = normal) -> ModelProto:
    """Metadata, doc strings, unknown opset imports, value_info and quantization annotations."""
    made = conv_bn_relu(fill)
    made.domain, made.model_version, made.doc_string = "org.example", 42, "a model\nof two lines"
    made.producer_name, made.producer_version = "maker", "1.2.3-ü"
    helper.set_model_props(made, {"author": "somebody", "classes": '{"0": "cat"}'})
    made.opset_import.extend(
        [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("org.nowhere", 9)]
    )
    body = made.graph
    body.doc_string = "the graph"
    body.node[0].doc_string = "first node"
    body.input[0].doc_string = "pixels"
    body.initializer[0].doc_string = "kernel"
    body.value_info.append(value("c", 1, 64, 6, 6))
    body.value_info.append(value("w", 64, 8, 3, 3))
    note = body.quantization_annotation.add(tensor_name="c")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    body.metadata_props.add(key="graph key", value="graph value")
    body.node[0].metadata_props.add(key="node key", value="node value")
    return made


def repeated_constants(fill: Fill = normal) -> ModelProto:
    """Equal weights as a Constant, as an initializer and inside a branch."""
    values = fill((64, 64), 1)
    inner = [
        node("Constant", "", "bw", value=tensor("", values)),
        node("MatMul", "x,bw", "then"),
    ]
    then = graph(inner, [], [value("then", 2, 64)])
    other = graph([node("Identity", "x", "else")], [], [value("else", 2, 64)])
    nodes = [
        node("Constant", "", "cw", value=tensor("", values)),
        node("MatMul", "x,cw", "h"),
        node("MatMul", "h,iw", "h2"),
        node("If", "flag", "u", then_branch=then, else_branch=other),
        node("Add", "h2,u", "y"),
    ]
    inputs = [value("x", 2, 64), value("flag", dtype=BOOL)]
    return model(graph(nodes, inputs, [value("y", 2, 64)], tensors(iw=values)))


# External data


def save_external(made: ModelProto, path: Path, files: int = 1, prefix: str = "w") -> None:
    """Write a model whose initializers, those of inner graphs too, lie in `files` data files."""
    copy = ModelProto()
    copy.CopyFrom(made)
    held = [t for t in initializers(copy.graph) if len(t.raw_data) > 64]
    data: dict[str, bytearray] = {f"{prefix}{number}.bin": bytearray() for number in range(files)}
    for position, item in enumerate(held):
        location = f"{prefix}{position % files}.bin"
        buffer = data[location]
        buffer.extend(b"\xee" * (-len(buffer) % 64))
        point_outside(item, location, offset=len(buffer), length=len(item.raw_data))
        buffer.extend(item.raw_data)
        item.ClearField("raw_data")
    for location, buffer in data.items():
        (path.parent / location).write_bytes(bytes(buffer))
    path.write_bytes(copy.SerializeToString(deterministic=True))


def initializers(body: GraphProto) -> Iterator[TensorProto]:
    """Yield the initializers of a graph and of every graph inside it."""
    yield from body.initializer
    for item in body.node:
        for attribute in item.attribute:
            if attribute.HasField("g"):
                yield from initializers(attribute.g)


def point_outside(item: TensorProto, location: str | None, **entries: int | str) -> None:
    """Give a tensor external data entries; its own values stay where they are."""
    item.data_location = TensorProto.EXTERNAL
    del item.external_data[:]
    if location is not None:
        item.external_data.add(key="location", value=location)
    for key, entry in entries.items():
        item.external_data.add(key=key, value=str(entry))


# The table


@dataclass(frozen=True, kw_only=True)
class Case:
    """A builder and what converting it at 4 bits with default options must do."""

    name: str
    build: Callable[..., ModelProto]
    converts: frozenset[str] = frozenset()
    skips: Mapping[str, frozenset[str]] = field(default_factory=dict)
    is_runnable: bool = True


def _case(
    build: Callable[..., ModelProto],
    converts: str = "",
    skips: Mapping[str, str] | None = None,
    name: str = "",
    is_runnable: bool = True,
) -> Case:
    return Case(
        name=name or build.__name__,
        build=build,
        converts=frozenset(converts.split()),
        skips={key: frozenset(reasons.split()) for key, reasons in (skips or {}).items()},
        is_runnable=is_runnable,
    )


def _at(build: Callable[..., ModelProto], opset: int, **skips: str) -> Case:
    def built(fill: Fill = normal) -> ModelProto:
        return build(fill, opset=opset)

    return _case(built, "w", skips, name=f"{build.__name__}_opset{opset}")


_PARAMETERS = {
    **dict.fromkeys(("pad", "low", "high", "qs", "ratio", "start", "stop", "step"),
                    "parameter scalar already-quantized"),
    "scales": "parameter", "channel_scales": "parameter already-quantized",
    "roi": "parameter empty", "pads": "not-float", "qz": "not-float",
    "channel_zeros": "not-float",
}  # fmt: skip

CASES = (
    _case(conv_bn_relu, "w", {"var": "variance"}),
    _case(grouped_conv, "w d"),
    _case(conv_transpose, "w", {"b": "not-smaller"}),
    _case(matmul_add, "w"),
    _case(gemm, "w v"),
    _case(recurrent("LSTM", 4), "w r", name="lstm"),
    _case(recurrent("GRU", 3), "w r", name="gru"),
    _case(recurrent("RNN", 1), "w r", name="rnn"),
    _case(embedding, "table"),
    _case(attention, "q k v o mask", {"scale": "scalar parameter"}),
    _case(layer_norm, "scale bias"),
    _case(constants, "w v", {"one": "scalar"}),
    _case(tied, "w"),
    _case(equal_tensors, "first second third"),
    _case(weight_aliases, "a b c"),
    _case(initializer_is_output, "w"),
    _case(no_nodes, "w"),
    _case(unused, "w"),
    _case(initializer_is_input, "v", {"w": "graph-input"}),
    _case(ir3, "w", {"var": "variance"}),
    _case(branches, "w outer"),
    _case(nested_branches, "outer mid_w deep_w"),
    _case(loop, "w outer", {"rounds": "not-float", "go": "not-float"}),
    _case(scan, "w"),
    _case(functions, "w if_w"),
    _case(custom_domain, "w v", is_runnable=False),
    _case(half(np.float16), "w", name="float16"),
    _case(half(BFLOAT16), "w", name="bfloat16"),
    _case(half(np.float64), "w", name="float64"),
    _case(typed_fields, "f d h b"),
    _case(sparse, "w", {"s": "sparse"}),
    _case(nan_and_infinity, "wide", {"bad": "nan"}),
    _case(empty_and_scalar, "w", {"none": "empty", "one": "scalar"}),
    _case(parameters, "w", _PARAMETERS),
    _case(int8_qdq, "", {"wq": "not-float already-quantized", "ws": "parameter already-quantized"}),
    _case(tiny, "", {"w": "not-smaller", "b": "not-smaller"}),
    _case(integers_only, "", {"w": "not-float"}),
    _case(odd_names, ""),
    _case(decorated, "w", {"var": "variance"}),
    _case(repeated_constants, "cw iw bw"),
    *(_at(conv_bn_relu, opset, var="variance") for opset in OPSETS),
    *(_at(matmul_add, opset) for opset in OPSETS),
)
BY_NAME = {case.name: case for case in CASES}
