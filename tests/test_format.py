"""docs/format.md against the code: its tables are read from the page, its examples are run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxq
from onnxq import bitpack, forms, graphs, keeping, radixpack, recognise, scaling, trees
from onnxq.errors import InputError
from onnxq.forms import ALIAS_NAME, Form
from onnxq.options import LayoutName
from onnxq.pools import Pool, member_indices
from onnxq.radixpack import RADIXES
from onnxq.trees import INT32, Const, Expr, Op, Part
from tests import graphs as models
from tests import runs
from tests.encoded import Evaluator

Array = np.ndarray[Any, np.dtype[Any]]
PAGES = Path(__file__).parent.parent / "docs"
PAGE = (PAGES / "format.md").read_text(encoding="utf-8")
PACKED = [width for width in range(1, 17) if width not in (8, 16)]


# The page


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, its two head lines left out."""
    section = PAGE.partition(f"# {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, flags=re.MULTILINE)
    assert table is not None, heading
    lines = table[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One worked example of the page; weights are in the order of the tensor."""

    layout: LayoutName
    bits: int
    shape: tuple[int, ...]
    codebook: Array
    weights: Array
    indices: list[int]
    planes: list[bytes]
    is_whole: bool


def examples() -> Iterator[Example]:
    for block in re.findall(r"^```example\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        fields = dict(re.split(r": +", line, maxsplit=1) for line in block.splitlines())
        planes = [bytes.fromhex(fields[key]) for key in fields if key.startswith("plane")]
        layout, bits = fields["layout"], int(fields["bits"])
        assert layout in ("portable", "native", "bytes")
        counted = re.fullmatch(r"0 1 2 \.\. (\d+)", fields["codebook"])
        codebook = range(int(counted[1]) + 1) if counted else fields["codebook"].split()
        yield Example(
            layout=layout,
            bits=bits,
            shape=tuple(int(dim) for dim in fields["shape"].strip("[]").split(",")),
            codebook=np.array([float(value) for value in codebook], np.float32),
            weights=np.array([float(value) for value in fields["weights"].split()], np.float32),
            indices=[int(index) for index in fields["indices"].split()],
            planes=planes,
            is_whole=counted is None,
        )


EXAMPLES = list(examples())
each_example = pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda e: f"{e.layout}-{e.bits}-{math.prod(e.shape)}"
)


# Trees as the page writes them


def written(expr: Expr) -> str:
    """Return a tree in the notation of the page, digit and shifted tables by their short names."""
    if isinstance(expr, Part) and expr.is_shared:
        return "P0"
    if isinstance(expr, Part):
        return "C" if expr.role == "codebook" else "P" + expr.role.partition(".")[2]
    if isinstance(expr, Const):
        return _numbers(expr)
    assert isinstance(expr, Op)
    if digits := _digits(expr):
        return digits
    if shifted := _shifted(expr):
        return shifted
    inputs = [written(item) for item in expr.inputs]
    match expr.op_type:
        case "Cast":
            return f"int32({inputs[0]})" if _to(expr) == trees.INT32 else f"float({inputs[0]})"
        case "Gather":
            return f"{inputs[0]}[{inputs[1]}]"
        case "Add":
            return " + ".join(inputs)
    return f"{expr.op_type}({', '.join(inputs)})"


def _numbers(expr: Const) -> str:
    values = ", ".join(str(value) for value in expr.values)
    return f"[{values}]" if expr.dims else values


def _to(expr: Op) -> int:
    ((name, value),) = expr.attributes
    assert name == "to"
    assert isinstance(value, int)
    return value


def _dims(dims: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, dims))}]"


def _digits(expr: Op) -> str | None:
    """Return D(k,[dims]) for a digit table, its values checked against the page's definition."""
    if not expr.is_shared or expr.op_type not in ("Mod", "Cast") or any(trees.parts(expr)):
        return None
    table = evaluated(expr)
    dims = table.shape[1:]
    bits = int(math.log2(table.shape[0])) // math.prod(dims)
    flat = table.reshape(table.shape[0], -1)
    for word in range(table.shape[0]):
        for digit in range(flat.shape[1]):
            assert flat[word, digit] == (word >> (bits * digit)) & ((1 << bits) - 1)
    return f"D({bits},{_dims(dims)})"


def _shifted(expr: Op) -> str | None:
    """Return S(k,l,[dims]) for a table of digits that stand at bit l of a word."""
    if not expr.is_shared or expr.op_type != "Gather":
        return None
    values, digits = expr.inputs
    assert isinstance(values, Const)
    assert isinstance(digits, Op)
    assert values.data_type == trees.INT32
    low = values.values[1].bit_length() - 1
    assert values.values == tuple(value << low for value in range(len(values.values)))
    found = re.fullmatch(r"D\((\d),(.*)\)", _digits(digits) or "")
    assert found is not None
    assert len(values.values) == 1 << int(found[1])
    return f"S({found[1]},{low},{found[2]})"


def evaluated(expr: Expr) -> Array:
    """Return the value of a tree that stands on fixed values alone."""
    if isinstance(expr, Const):
        return np.array(expr.values, np.int64).reshape(expr.dims)
    assert isinstance(expr, Op)
    inputs = [evaluated(item) for item in expr.inputs]
    match expr.op_type:
        case "Range":
            return np.arange(*(int(value) for value in inputs))
        case "Reshape":
            return inputs[0].reshape(inputs[1].tolist())
        case "Div":
            return inputs[0] // inputs[1]
        case "Mod":
            return np.mod(inputs[0], inputs[1])
        case "Cast":
            return inputs[0]
    raise AssertionError(expr.op_type)


def form(bits: int, shape: tuple[int, ...], **changes: Any) -> Form:
    settings: dict[str, Any] = {
        "layout": "portable",
        "data_type": trees.FLOAT,
        "codebook_type": trees.FLOAT,
        "centroids": 2,
        "opset": 17,
        **changes,
    }
    return Form(bit_width=bits, shape=shape, **settings)


def groups_of(expr: Expr) -> Expr:
    """Return what a tree decodes before it is brought into the tensor's shape."""
    while isinstance(expr, Op) and expr.op_type in ("Reshape", "Slice"):
        expr = expr.inputs[0]
    return expr


# Tables


def test_the_table_of_packings_is_the_codes() -> None:
    listed = {
        int(bits): (int(group), tuple(int(width) for width in planes.split(", ")), int(block))
        for bits, group, planes, block, *_ in rows("Groups, planes and padding")
    }
    expected = {b: (p.group, p.planes, p.block) for b, p in bitpack.PACKINGS.items()}
    assert listed == expected


def test_the_pool_of_the_page_is_packed_and_split_as_it_says() -> None:
    (block,) = re.findall(r"^```pool\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    fields = [re.split(r": +", line, maxsplit=1) for line in block.splitlines()]
    bits = int(dict(fields)["bits"])
    members = [np.array(text.split(), int) for key, text in fields if key == "indices"]
    stream = bytes.fromhex(dict(fields)["stream"])
    assert bitpack.pack_stream(np.concatenate(members), bits).tobytes() == stream
    lengths = tuple(member.size for member in members)
    pool = Pool(bit_width=bits, lengths=lengths, opset=17)
    assert [str(piece) for piece in pool.pieces] == dict(fields)["lengths"].split()
    evaluator = Evaluator({pool.role: np.frombuffer(stream, np.uint8)})
    for number, member in enumerate(members):
        assert evaluator.value(member_indices(pool, number)).tolist() == member.tolist()


def block(kind: str) -> dict[str, str]:
    """Return the fields of the page's one block of a kind."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return dict(re.split(r": +", line, maxsplit=1) for line in found.splitlines())


def test_bases_of_the_page_are_the_codes() -> None:
    listed = {int(row[0]): row[1:] for row in rows("Layout radix")}
    assert listed == {
        bits: [str(radix.base), str(radix.group), str(8 * radix.word_bytes),
               f"{8 * radix.word_bytes / radix.group:.3g}"]
        for bits, radix in RADIXES.items()
    }  # fmt: skip


def test_digit_table_of_a_base_is_the_one_of_the_page() -> None:
    (text,) = re.findall(r"^R\(3,\[5\]\) += (.*)$", PAGE, flags=re.MULTILINE)
    expr = forms.expression(form(2, (10,), layout="radix"))
    tables = [item for item in trees.shared_expressions(expr) if isinstance(item, Op)]
    assert text in {spelt(table) for table in tables}


def test_radix_of_the_page_is_packed_as_it_says() -> None:
    example = block("radix")
    indices = np.array(example["indices"].split(), int)
    words = np.frombuffer(bytes.fromhex(example["words"]), np.uint8)
    np.testing.assert_array_equal(radixpack.pack(indices, int(example["bits"])), words)
    np.testing.assert_array_equal(radixpack.unpack(words, 2, indices.size), indices)


def test_kept_values_of_the_page_are_put_where_it_says() -> None:
    given = {key: np.array(text.split(), np.float32) for key, text in block("kept").items()}
    places = given["places"].astype(np.int32)
    parts = {"places": places, "kept": given["kept"]}
    np.testing.assert_array_equal(keeping.put_back(given["values"], parts), given["weights"])
    np.testing.assert_array_equal(keeping.largest(given["weights"], 2), places)


def test_scales_of_the_page_are_multiplied_as_it_says() -> None:
    values, scales, weights = (
        np.array(block("scales")[key].split(), np.float32).reshape(shape)
        for key, shape in (("values", (2, 2)), ("scales", (2, 1)), ("weights", (2, 2)))
    )
    np.testing.assert_array_equal(scaling.rescaled(values, scales), weights)
    np.testing.assert_array_equal(scaling.channel_scales(weights, 0, scales.dtype), scales)


POOL_ROWS = {
    int(width): row
    for row in rows("Pools")
    for first, _, last in (part.partition(" to ") for part in row[0].split(", "))
    for width in range(int(first), int(last or first) + 1)
}


@pytest.mark.parametrize("bits", range(1, 17))
def test_decode_of_a_pool_is_that_of_the_table(bits: int) -> None:
    """The page's row, with its letters put in, is the expression that is built."""
    pool = Pool(bit_width=bits, lengths=(100, 28), opset=17)
    digit = math.gcd(bits, 8)
    split = forms_of_pool(pool)
    _, dims, digits, made = POOL_ROWS[bits]
    powers = Const(INT32, (8 // digit,), tuple(2 ** (digit * j) for j in range(8 // digit)))
    factors = Const(INT32, (bits // digit,), tuple(2 ** (digit * i) for i in range(bits // digit)))
    letters = {"N'·b / 8": str(16 * bits), "b / d": str(bits // digit), "N'": "128"}
    for letter, number in letters.items():
        dims, digits = dims.replace(letter, number), digits.replace(letter, number)
    digits = digits.replace(", p)", f", {_numbers(powers)})").replace("2^d", str(2**digit))
    made = made.replace("w", _numbers(factors)).replace("X", digits)
    assert written(split.inputs[0]) == made
    (stream,) = trees.parts(split)
    assert _dims(stream.dims) == dims.replace(", ", ",")


def forms_of_pool(pool: Pool) -> Op:
    output = member_indices(pool, 0)
    assert isinstance(output, trees.Output)
    return output.op


def test_the_table_of_element_types_is_the_codes() -> None:
    listed = {name: int(number) for name, number, _ in rows("Constants")}
    for name, number in listed.items():
        assert TensorProto.DataType.Value(name) == number == getattr(trees, name)
    assert set(listed.values()) == set(trees.ITEM_BITS)


@pytest.mark.parametrize("bits", PACKED)
def test_the_table_of_decodes_is_the_codes(bits: int) -> None:
    (row,) = [row for row in rows("Decoding packed widths") if row[0] == str(bits)]
    blocks = 6
    packing = bitpack.PACKINGS[bits]
    expr = groups_of(forms.expression(form(bits, (blocks * packing.block,))))
    assert isinstance(expr, Op)
    table, words = expr.inputs
    assert row[2] == written(words)
    assert row[3] == f"{written(table)}[W]"
    planes = [part for part in trees.parts(words) if part.data_type == trees.UINT8]
    planes.sort(key=lambda part: part.role)
    dims = [
        f"P{i} {_dims(part.dims).replace(str(blocks), 'M', 1)}" for i, part in enumerate(planes)
    ]
    assert row[1] == ", ".join(dims)
    sizes = tuple(math.prod(part.dims) for part in planes)
    assert sizes == bitpack.plane_bytes(blocks * packing.block, bits)


@pytest.mark.parametrize("bits", PACKED)
def test_a_codebook_is_padded_where_the_page_says(bits: int) -> None:
    (row,) = [row for row in rows("Decoding packed widths") if row[0] == str(bits)]
    is_padded = row[3].startswith("C[D(")
    assert is_padded == (bitpack.PACKINGS[bits].group > 1)
    assert form(bits, (8,)).codebook_length == (1 << bits if is_padded else 2)


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 17, 26])
def test_digit_tables_are_made_as_the_page_says(opset: int) -> None:
    lines = re.findall(r"^(D\(\d,\[[\d,]+\])\) += (.*?) +# opset (.*)$", PAGE, flags=re.MULTILINE)
    assert len(lines) == 3
    for name, text, opsets in lines:
        if (opset >= 11) != (opsets == "11 and later"):
            continue
        found = [
            expr
            for bits in PACKED
            for expr in trees.shared_expressions(forms.expression(form(bits, (8,), opset=opset)))
            if isinstance(expr, Op) and (_digits(expr) or "").startswith(name)
        ]
        assert {spelt(expr) for expr in found} == {text}


def spelt(expr: Expr) -> str:
    """Return a tree with the operator of every node."""
    if isinstance(expr, Op):
        attributes = [f"{name}={_attribute(value)}" for name, value in expr.attributes]
        return f"{expr.op_type}({', '.join([*map(spelt, expr.inputs), *attributes])})"
    assert isinstance(expr, Const)
    if expr.data_type == trees.UINT8:
        return f"t{_dims(expr.dims)}"
    return _numbers(expr)


def _attribute(value: int | tuple[int, ...]) -> str:
    return "INT32" if value == trees.INT32 else str(value)


@pytest.mark.parametrize("opset", [9, 10])
@pytest.mark.parametrize("shape", [(16,), (13,), (4, 4), (13, 1)])
def test_padding_is_cut_off_as_the_page_says(shape: tuple[int, ...], opset: int) -> None:
    elements = math.prod(shape)
    has_padding, rank = ("yes" if elements % 8 else "no"), ("1" if len(shape) == 1 else "other")
    (row,) = [row for row in rows("Shape and padding") if row[:2] == [has_padding, rank]]
    expr = forms.expression(form(3, shape, opset=opset))
    groups = written(groups_of(expr))
    found = written(expr).replace(groups, "G")
    expected = row[2].replace("[N]", f"[{elements}]").replace("S)", f"{list(shape)})")
    if opset < 10:  # starts and ends are attributes
        expected = re.sub(r", \[0\], \[\d+\]\)", ")", expected)
        cuts = [item for item in walk(expr) if item.op_type == "Slice"]
        assert all(cut.attributes == (("starts", (0,)), ("ends", (elements,))) for cut in cuts)
    assert found == expected


def walk(expr: Expr) -> Iterator[Op]:
    if isinstance(expr, Op):
        yield expr
        for item in expr.inputs:
            yield from walk(item)


@pytest.mark.parametrize(
    ("layout", "bits", "element"),
    [
        ("portable", 8, "UINT8"),
        ("portable", 16, "UINT16"),
        ("native", 2, "UINT2"),
        ("native", 4, "UINT4"),
        ("bytes", 5, "UINT8"),
        ("bytes", 13, "UINT16"),
    ],
)
def test_unpacked_indices_stand_in_the_tensors_shape(
    layout: LayoutName, bits: int, element: str
) -> None:
    expr = forms.expression(form(bits, (3, 5), layout=layout, opset=25))
    assert written(expr) == "C[int32(P0)]"
    assert "`C[int32(P0)]`" in PAGE
    plane = next(part for part in trees.parts(expr) if part.role == "plane0.0")
    assert plane.dims == (3, 5)
    assert plane.data_type == getattr(forms, element)


def test_native_widths_and_opsets_are_those_of_the_page() -> None:
    listed = {
        int(bits): (getattr(forms, element), int(opset))
        for bits, element, opset in rows("Layout native")
    }
    assert listed == forms.NATIVE_OPSETS


def test_a_float16_codebook_is_cast_first() -> None:
    expr = forms.expression(form(8, (3, 5), codebook_type=trees.FLOAT16))
    assert written(expr) == "float(C)[int32(P0)]"


def test_tiles_are_cut_along_the_first_axis() -> None:
    tiled = form(3, (10, 16))
    limit = 4 * 16 * 3
    assert forms.tile_rows(tiled, limit) == [3, 3, 3, 1]
    expr = forms.expression(tiled, limit)
    assert isinstance(expr, Op)
    assert (expr.op_type, expr.attributes) == ("Concat", (("axis", 0),))
    for number, tile in enumerate(expr.inputs):
        planes = [part.role for part in trees.parts(tile) if part.data_type == trees.UINT8]
        assert sorted(planes) == [f"plane{number}.0", f"plane{number}.1"]
    assert sum(part.role == "codebook" for part in trees.parts(expr)) == 1


# Examples


def test_the_page_has_the_examples_it_must_have() -> None:
    packed = {example.bits for example in EXAMPLES if example.layout == "portable"}
    assert packed >= {3, 4, 5, 7, 9}
    assert {example.layout for example in EXAMPLES} == {"portable", "native", "bytes"}
    assert any(
        math.prod(example.shape) % bitpack.PACKINGS[example.bits].block
        for example in EXAMPLES
        if example.layout == "portable"
    )


@each_example
def test_example_is_packed_and_decoded_by_the_library(example: Example) -> None:
    assert math.prod(example.shape) == len(example.indices) == example.weights.size
    np.testing.assert_array_equal(example.codebook[example.indices], example.weights)
    planes = [np.frombuffer(plane, np.uint8) for plane in example.planes]
    if example.layout == "bytes":
        assert planes[0].tolist() == example.indices
        return
    packed = bitpack.pack(np.array(example.indices), example.bits)
    assert [plane.tobytes() for plane in packed] == example.planes
    indices = bitpack.unpack(planes, example.bits, len(example.indices))
    assert indices.tolist() == example.indices


@each_example
def test_example_is_what_convert_writes(example: Example) -> None:
    """An example that does not use every centroid gets them behind its own weights."""
    weights = example.weights.reshape(example.shape)
    if not example.is_whole:
        weights = np.concatenate([weights, example.codebook])
    converted = convert(weights, example)
    found = parts_of(converted)
    planes = [found[f"plane0.{i}"].raw_data for i in range(len(example.planes))]
    starts = [plane[: len(part)] for plane, part in zip(planes, example.planes, strict=True)]
    assert starts == example.planes
    if example.is_whole:
        assert planes == example.planes
    stored = np.frombuffer(found["codebook"].raw_data, np.float32)
    used = example.codebook.size
    np.testing.assert_array_equal(stored[:used], example.codebook)
    assert not stored[used:].any()
    for outputs in (runs.run(converted, {}), runs.run_reference(converted, {})):
        runs.assert_equal(outputs["y"], weights)


def convert(weights: Array, example: Example) -> ModelProto:
    model = models.model(
        models.graph(
            [models.node("Transpose", "w", "y", perm=range(weights.ndim))],
            [],
            [models.value("y", *weights.shape)],
            models.tensors(w=weights),
        ),
        21,
    )
    settings = {"only_smaller": False, "fewer_bits": False, "check": 0}
    _, converted = onnxq.convert(model, bits=example.bits, layout=example.layout, **settings)
    assert isinstance(converted, ModelProto)
    return converted


def parts_of(converted: ModelProto) -> dict[str, TensorProto]:
    document = graphs.Document(proto=converted, path=None, folder=None, file_bytes=0)
    (found,) = recognise.find(document)
    return dict(found.parts)


def test_equal_tensors_are_the_aliases_of_the_page() -> None:
    assert f"`{ALIAS_NAME}`" in PAGE
    values = np.arange(64, dtype=np.float32) % 4
    arrays = {"a": values, "b": values, "c": values.reshape(8, 8)}
    nodes = [models.node("Neg", name, f"{name}_out") for name in arrays]
    outputs = [models.value(f"{name}_out", *array.shape) for name, array in arrays.items()]
    model = models.model(models.graph(nodes, [], outputs, models.tensors(**arrays)), 17)
    _, converted = onnxq.convert(model, bits=2, only_smaller=False, check=0)
    aliases = [node for node in converted.graph.node if node.name.startswith(ALIAS_NAME)]
    assert [(node.op_type, node.input[0], node.output[0]) for node in aliases] == [
        ("Identity", "a", "b"),
        ("Reshape", "a", "c"),
    ]


# What a reader must accept and refuse

Change = Callable[[ModelProto], None]


def golden(name: str) -> ModelProto:
    return onnx.load(PAGES.parent / "tests" / "golden" / f"{name}.onnx")


def decoded(made: ModelProto) -> list[Array]:
    """Return the float tensors of a restored model, in the order of the nodes that use them."""
    _, restored = onnxq.restore(made)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in restored.graph.initializer}
    return [held[node.input[0]] for node in restored.graph.node]


def rename(made: ModelProto) -> None:
    """Give every value another name."""
    names: dict[str, str] = {}
    for tensor in made.graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"value {len(names)}")
    for node in made.graph.node:
        node.input[:] = [names.setdefault(name, f"value {len(names)}") for name in node.input]
        node.output[:] = [names.setdefault(name, f"value {len(names)}") for name in node.output]
    for output in made.graph.output:
        output.name = names[output.name]


def to_constants(made: ModelProto) -> None:
    """Turn every initializer into a Constant node."""
    for tensor in made.graph.initializer:
        made.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del made.graph.initializer[:]


def repeat_tables(made: ModelProto) -> None:
    """Give every tensor tables of its own, and put its decode just before the node that uses it."""
    held = {tensor.name: tensor for tensor in made.graph.initializer}
    makers = {node.output[0]: node for node in made.graph.node}
    outputs = {output.name for output in made.graph.output}
    users = [node for node in made.graph.node if node.output[0] in outputs]
    constants: list[TensorProto] = []
    nodes: list[NodeProto] = []

    def copy(name: str, known: dict[str, str]) -> str:
        if name not in known:
            known[name] = f"{name} {len(nodes)} {len(constants)}"
            if name in held:
                constants.append(TensorProto())
                constants[-1].CopyFrom(held[name])
                constants[-1].name = known[name]
            else:
                node = NodeProto()
                node.CopyFrom(makers[name])
                node.input[:] = [copy(item, known) for item in node.input]
                node.output[:] = [known[name]]
                nodes.append(node)
        return known[name]

    for user in users:
        node = NodeProto()
        node.CopyFrom(user)
        node.input[:] = [copy(user.input[0], {})]
        nodes.append(node)
    for container, items in ((made.graph.initializer, constants), (made.graph.node, nodes)):
        del container[:]
        container.extend(items)


def fill_padding(made: ModelProto) -> None:
    """Set bits of the last word of each padded tensor that belong to its last index, a padding."""
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.UINT8 and list(tensor.dims) == [2, 4]:
            tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] | 0xE0])


def reverse_codebook(made: ModelProto) -> None:
    """Turn the centroids around, and the indices with them."""
    by_name = {tensor.name: tensor for tensor in made.graph.initializer}
    (gather,) = [node for node in made.graph.node if node.op_type == "Gather"]
    (cast,) = [node for node in made.graph.node if node.op_type == "Cast"]
    book, plane = by_name[gather.input[0]], by_name[cast.input[0]]
    centroids = np.frombuffer(book.raw_data, np.float32)
    book.raw_data = centroids[::-1].tobytes()
    indices = np.frombuffer(plane.raw_data, np.uint8)
    plane.raw_data = (centroids.size - 1 - indices).astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("portable-7", rename),
        ("portable-5", to_constants),
        ("portable-7", repeat_tables),
        ("portable-5", fill_padding),
        ("bytes-5", reverse_codebook),
    ],
    ids=lambda item: item if isinstance(item, str) else item.__name__,
)
def test_reader_accepts(name: str, change: Change) -> None:
    expected = decoded(golden(name))
    changed = golden(name)
    change(changed)
    assert changed != golden(name)
    onnx.checker.check_model(changed)
    found = decoded(changed)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        runs.assert_equal(one, other)
    ours = list(runs.run(changed, {}).values())
    for one, other in zip(ours, expected, strict=True):
        runs.assert_equal(one, other)


def test_a_constant_that_does_not_fit_its_dims_is_refused() -> None:
    changed = golden("bytes-5")
    for tensor in changed.graph.initializer:
        tensor.raw_data = tensor.raw_data[:-1]
    with pytest.raises(InputError, match="bytes of values, expected"):
        onnxq.restore(changed)


def test_an_index_beyond_the_codebook_is_refused() -> None:
    changed = golden("bytes-5")
    for tensor in changed.graph.initializer:
        if tensor.data_type == TensorProto.UINT8:
            tensor.raw_data = b"\xff" + tensor.raw_data[1:]
    with pytest.raises(InputError, match="indices: found 255, expected less than 20"):
        onnxq.restore(changed)


def test_a_form_with_another_attribute_is_no_encoded_tensor() -> None:
    changed = golden("bytes-5")
    for node in changed.graph.node:
        if node.op_type == "Gather":
            node.attribute.add(name="axis", type=onnx.AttributeProto.INT, i=0)
    assert not onnxq.inspect(changed).is_converted
