"""Write the golden files of tests/golden/: small converted models, and the values they decode to.

    python -m tools.make_golden      # writes the cases that have no file yet, and nothing else

Golden files stand for the files that people have: a later version must read them. A file, once
released, stays for good. Where the writer gives other bytes, for a reason that CHANGELOG.md
states, the case gets a new name and a new file, and the old file is read on without a case. Tests
only read (tests/test_golden.py).

The weights are made by whole-number arithmetic and are stored without loss, or cluster in one way
only, so that the bytes depend on no random generator and on no rounding. The values written to
expected.json are those of onnx's reference evaluator, not of our decoder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

import onnxq
from onnxq.model import weights as weights_of
from onnxq.model import wrap
from onnxq.options import make_options
from onnxq.plans import Plan, TensorPlan, make_plan
from onnxq.radixpack import RADIXES

Array = np.ndarray[Any, np.dtype[Any]]
FOLDER = Path(__file__).parent.parent / "tests" / "golden"
EXPECTED = FOLDER / "expected.json"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ELEMENT_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.float64): TensorProto.DOUBLE,
    BFLOAT16: TensorProto.BFLOAT16,
}
IR_OF_OPSET = {7: 3, 9: 4, 10: 5, 11: 6, 17: 8, 21: 10, 25: 13}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A golden file: what it is made of, and how. `weights` are what it decodes to, by name.

    Where there is a `change`, the plan that the options give is followed with those fields changed.
    """

    name: str
    build: Callable[[], ModelProto]
    weights: Mapping[str, Array]
    options: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[TensorPlan], Mapping[str, Any]] | None = None


def weights(count: int, *shape: int, dtype: Any = np.float32) -> Array:
    """Return an array with exactly `count` distinct values, eighths around 0."""
    elements = int(np.prod(shape))
    if elements < count:
        raise ValueError(f"{elements} elements cannot hold {count} values")
    places = np.arange(elements) * 7919 % count
    return ((places - count // 2) / 8).astype(dtype).reshape(shape)


def element_type(array: Array) -> int:
    return ELEMENT_TYPES[array.dtype]


def tensor(name: str, array: Array) -> TensorProto:
    return TensorProto(
        name=name, dims=array.shape, data_type=element_type(array), raw_data=array.tobytes()
    )


def output_node(name: str, array: Array) -> NodeProto:
    """Return the node that hands a weight out unchanged; bfloat16 as float32."""
    if array.dtype == BFLOAT16:
        return helper.make_node("Cast", [name], [f"{name}_out"], to=TensorProto.FLOAT)
    return helper.make_node("Transpose", [name], [f"{name}_out"], perm=range(array.ndim))


def output_value(name: str, array: Array) -> Any:
    kind = TensorProto.FLOAT if array.dtype == BFLOAT16 else element_type(array)
    return helper.make_tensor_value_info(f"{name}_out", kind, array.shape)


def flat_graph(held: Mapping[str, Array]) -> GraphProto:
    """Return a graph whose outputs are its initializers."""
    return helper.make_graph(
        [output_node(name, array) for name, array in held.items()],
        "g",
        [],
        [output_value(name, array) for name, array in held.items()],
        [tensor(name, array) for name, array in held.items()],
    )


def model(graph: GraphProto, opset: int, functions: Sequence[FunctionProto] = ()) -> ModelProto:
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid("local", 1)] if functions else []
    return ModelProto(
        ir_version=IR_OF_OPSET[opset], opset_import=imports, graph=graph, functions=functions
    )


def flat(name: str, held: Mapping[str, Array], opset: int = 17, **options: Any) -> Case:
    """Return the case of a flat graph."""

    def build() -> ModelProto:
        made = model(flat_graph(held), opset)
        if made.ir_version < 4:  # an initializer is an input there
            made.graph.input.extend(
                helper.make_tensor_value_info(key, element_type(array), array.shape)
                for key, array in held.items()
            )
        return made

    return Case(name=name, build=build, weights=held, options=options)


def packed(bits: int) -> Case:
    """Return the case of a packed width: with and without padding, of several ranks."""
    count = min(2**bits, 11)
    held = {
        "whole": weights(count, 4, 6),
        "padded": weights(count, 13),
        "rows": weights(count, 3, 5, 1),
    }
    return flat(f"packed-{bits}", held, bits=bits, pool_indices=False)


def pooled(bits: int) -> Case:
    """Return the case of a pool: of several ranks; of 8 and 16 bits with centroids for them."""
    if bits in (8, 16):
        count = {8: 136, 16: 257}[bits]
        lengths = {"a": count, "b": count + 1, "c": count + 7, "d": count}
        held = {name: weights(count, n, dtype=np.float16) for name, n in lengths.items()}
        held["d"] = -held["d"]
        return flat(f"pool-{bits}", held, bits=bits)
    count = min(2**bits, 11)
    held = {
        "flat": weights(count, 13),
        "rows": weights(count, 3, 5, 1),
        "more": weights(count, 2, 12, dtype=np.float16),
    }
    return flat(f"pool-{bits}", held, 11 if bits % 2 else 17, bits=bits)


def in_branches() -> Case:
    """Return an If whose branches hold a weight of their own, and one equal to the other's."""
    held = {"then_w": weights(5, 4, 6), "else_w": weights(6, 4, 6)}
    equal = {"then_same": weights(7, 3, 8), "else_same": weights(7, 3, 8)}

    def branch(side: str) -> GraphProto:
        own, same = side + "_w", side + "_same"
        nodes = [
            helper.make_node("Transpose", [own], [f"{side}_a"], perm=(0, 1)),
            helper.make_node("Transpose", [same], [f"{side}_b"], perm=(0, 1)),
        ]
        outputs = [
            helper.make_tensor_value_info(f"{side}_a", TensorProto.FLOAT, (4, 6)),
            helper.make_tensor_value_info(f"{side}_b", TensorProto.FLOAT, (3, 8)),
        ]
        inside = [tensor(own, held[own]), tensor(same, equal[same])]
        return helper.make_graph(nodes, side, [], outputs, inside)

    def build() -> ModelProto:
        node = helper.make_node(
            "If", ["flag"], ["a", "b"], then_branch=branch("then"), else_branch=branch("else")
        )
        flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, ())
        outputs = [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, (4, 6)),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, (3, 8)),
        ]
        return model(helper.make_graph([node], "g", [flag], outputs), 17)

    return Case(name="pooled-branches", build=build, weights={**held, **equal}, options={"bits": 3})


def in_function() -> Case:
    """Return a function with a Constant node, called once."""
    held = weights(9, 5, 5)

    def build() -> ModelProto:
        inner = [
            helper.make_node("Constant", [], ["w"], value=tensor("", held)),
            helper.make_node("Add", ["x", "w"], ["y"]),
        ]
        function = helper.make_function(
            "local", "Shift", ["x"], ["y"], inner, [helper.make_opsetid("", 17)]
        )
        call = helper.make_node("Shift", ["x"], ["y"], domain="local")
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, (5, 5))
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, (5, 5))
        return model(helper.make_graph([call], "g", [value], [out]), 17, [function])

    return Case(name="function-2", build=build, weights={"w": held}, options={"bits": 4})


def radix(bits: int) -> Case:
    """Return the case of a base that is no power of two: with and without padding."""
    base = RADIXES[bits].base
    held = {
        "whole": weights(base, 3, 5, 4),
        "padded": weights(base, base + 1),
        "few": weights(2, 2, 4),
    }

    def change(tensor: TensorPlan) -> Mapping[str, Any]:
        return {"layout": "radix", "centroids": min(base, tensor.centroids)}

    plain = flat(f"radix-{bits}", held, bits=bits, pool_indices=False)
    return replace(plain, change=change)


def scaled(name: str, **options: Any) -> Case:
    """Return the case of rows of size 2^i, whose root mean squares are powers of two as well."""
    rows = 2.0 ** np.arange(-3, 5)[:, None]
    signs = np.where(np.arange(24) * 5 % 7 < 3, -1.0, 1.0)
    held = {
        "rows": (rows * signs).astype(np.float32),
        "columns": (rows * signs).T.copy(),
        "cube": (rows * -signs).astype(np.float32).reshape(8, 4, 6),
    }

    def change(tensor: TensorPlan) -> Mapping[str, Any]:
        is_single = tensor.name == "rows"
        return {
            "scale_axis": 1 if tensor.name == "columns" else 0,
            "scale_dtype": tensor.dtype if is_single else "float16",
            "centroids": 2,
        }

    return replace(flat(name, held, **options), change=change)


def kept(name: str, **options: Any) -> Case:
    """Return the case of tensors of 11 values and three others, which are kept."""
    held = {
        "rows": weights(11, 10, 15),
        "flat": weights(11, 151),
        "double": weights(11, 5, 6, 5, dtype=np.float64),
    }
    for number, array in enumerate(held.values()):
        array.reshape(-1)[[number, 77, array.size - 1]] = 96.25, -65504, np.inf

    def change(tensor: TensorPlan) -> Mapping[str, Any]:
        is_single = tensor.name == "flat"
        return {
            "kept_values": 3,
            "kept_dtype": tensor.dtype if is_single else "float16",
            "centroids": 11,
        }

    return replace(flat(name, held, **options), change=change)


def halved() -> Case:
    """Return the case of values that float16 holds."""
    kinds = np.array([-np.inf, -65504, -1.5, -0.0, 0.0, 2.0**-24, 0.75, 65504, np.inf])
    held = {"single": kinds.astype(np.float32).reshape(3, 3), "double": kinds}

    def change(_: TensorPlan) -> Mapping[str, Any]:
        return {"layout": "half", "bit_width": 16, "centroids": 0, "codebook_dtype": "float16"}

    return replace(flat("half-values", held, bits=4, pool_indices=False), change=change)


def special() -> Array:
    """Return values that a careless codebook would change: signs of zero, infinities, extremes."""
    kinds = [-np.inf, -3.4028235e38, -1e-45, -0.0, 0.0, 1e-45, 1.0, np.inf]
    return np.array(kinds * 3, np.float32).reshape(4, 6)


def clustered() -> tuple[Array, Array]:
    """Return a tensor of 8 tight clusters far apart, and their means: what 3 bits must find."""
    centres = np.arange(8) * 64.0 - 100.0
    spread = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    values = (centres[:, None] + spread).astype(np.float32)
    return values, np.repeat(centres[:, None], 5, axis=1).astype(np.float32)


def cases() -> list[Case]:
    """Return all golden cases."""
    kinds = {
        "half": weights(9, 3, 5, dtype=np.float16),
        "brain": weights(9, 3, 5, dtype=BFLOAT16),
        "double": weights(9, 3, 5, dtype=np.float64),
    }
    equal = {"a": weights(6, 4, 6), "b": weights(6, 4, 6), "c": weights(6, 24), "d": weights(6, 9)}
    plain: dict[str, Any] = {"pool_indices": False}
    awkward = special()
    loose, means = clustered()
    lossy = flat("lossy-optimal-2", {"w": loose}, bits=3)
    published = flat("lossy-bounded-pdf-2", {"w": loose}, bits=3, init="bounded-pdf")
    return [
        *(packed(bits) for bits in (*range(1, 8), *range(9, 16))),
        flat("portable-8", {"w": weights(150, 8, 20)}, bits=8),
        flat("native-2", {"a": weights(4, 3, 5), "b": weights(3, 8)}, 25, bits=2, layout="native"),
        flat(
            "native-4", {"a": weights(16, 3, 7), "b": weights(9, 10)}, 21, bits=4, layout="native"
        ),
        flat("bytes-5", {"w": weights(20, 5, 6)}, bits=6, layout="bytes"),
        flat("bytes-9", {"w": weights(260, 2, 135)}, bits=12, layout="bytes"),
        *(pooled(bits) for bits in range(1, 17)),
        flat("types-2", kinds, bits=5, **plain),
        flat("pool-types", kinds, bits=5),
        flat("half-codebook-2", {"w": weights(30, 5, 8)}, bits=5, codebook_dtype="float16"),
        flat("equal-2", equal, bits=3, **plain),
        flat("pool-equal", equal, bits=3),
        flat("special-2", {"w": awkward}, bits=3),
        flat("opset-10-2", {"w": weights(11, 13), "v": weights(11, 3, 5)}, 10, bits=5),
        flat("opset-9-2", {"w": weights(11, 13), "v": weights(11, 3, 5)}, 9, bits=5),
        flat("opset-7-2", {"w": weights(4, 13), "v": weights(4, 3, 5)}, 7, bits=2),
        flat(
            "external",
            {"w": weights(11, 32, 32, dtype=np.float16), "v": weights(3, 9)},
            bits=4,
            layout="bytes",
            external_data="always",
        ),
        flat(
            "pool-external",
            {"w": weights(11, 32, 65), "v": weights(3, 9)},
            bits=4,
            external_data="always",
        ),
        *(radix(bits) for bits in RADIXES),
        scaled("scaled-3", bits=3, pool_indices=False),
        scaled("scaled-5", bits=5, pool_indices=False),
        scaled("scaled-pool", bits=2),
        kept("kept-4", bits=4, pool_indices=False),
        kept("kept-7", bits=7, pool_indices=False),
        kept("kept-pool", bits=4),
        halved(),
        in_branches(),
        in_function(),
        Case(name=lossy.name, build=lossy.build, weights={"w": means}, options=lossy.options),
        Case(
            name=published.name,
            build=published.build,
            weights={"w": means},
            options=published.options,
        ),
    ]


def convert(case: Case, folder: Path) -> Path:
    """Write a case's model to a folder, with today's writer; return its path."""
    path = folder / f"{case.name}.onnx"
    settings = {"only_smaller": False, "fewer_bits": False, **case.options}
    if case.change is None:
        onnxq.convert(case.build(), path, check=0, jobs=1, **settings)
    else:
        plan = changed_plan(case.build(), case.change, settings)
        onnxq.convert(case.build(), path, plan=plan, check=0, jobs=1)
    return path


def changed_plan(
    proto: ModelProto,
    change: Callable[[TensorPlan], Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> Plan:
    """Return a model's plan, every tensor of it changed."""
    document = wrap(proto)
    plan = make_plan(document, weights_of(document), make_options(settings), 1)
    changed = tuple(replace(one, **change(one)) for one in plan.tensors)
    return replace(plan, tensors=changed)


def files_of(case: Case, folder: Path) -> list[Path]:
    """Return a case's model file and its data files in a folder, sorted."""
    return sorted(folder.glob(f"{case.name}.onnx*"))


def evaluated(case: Case, path: Path) -> dict[str, Array]:
    """Return a golden model's weights by name, as onnx's reference evaluator decodes them."""
    evaluator = ReferenceEvaluator(str(path))
    found: dict[str, Array] = {}
    if "branches" in case.name:
        for flag, side in ((True, "then"), (False, "else")):
            outputs = [np.asarray(out) for out in evaluator.run(None, {"flag": np.array(flag)})]
            found |= zip((f"{side}_w", f"{side}_same"), outputs, strict=True)
        return {name: found[name] for name in case.weights}
    if "function" in case.name:
        (shifted,) = evaluator.run(None, {"x": np.zeros((5, 5), np.float32)})
        return {"w": np.asarray(shifted)}
    made = zip(evaluator.output_names, evaluator.run(None, {}), strict=True)
    found = {name.removesuffix("_out"): np.asarray(value) for name, value in made}
    return {name: found[name].astype(array.dtype) for name, array in case.weights.items()}


def record(case: Case, path: Path) -> dict[str, Any]:
    """Return what expected.json says of a golden file.

    Raises:
        ValueError: it does not decode to the case's weights.
    """
    rows = {}
    for name, array in evaluated(case, path).items():
        if array.tobytes() != case.weights[name].tobytes():
            raise ValueError(f"{case.name}: tensor {name!r} does not decode to what it holds")
        rows[name] = {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "bytes": np.ascontiguousarray(array).tobytes().hex(),
        }
    return rows


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    FOLDER.mkdir(exist_ok=True)
    expected = json.loads(EXPECTED.read_text(encoding="utf-8")) if EXPECTED.exists() else {}
    for case in cases():
        if files_of(case, FOLDER):
            continue
        with tempfile.TemporaryDirectory() as folder:
            expected[case.name] = record(case, convert(case, Path(folder)))
            for path in files_of(case, Path(folder)):
                shutil.copyfile(path, FOLDER / path.name)
                print(f"{path.name}: {path.stat().st_size} bytes")
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
