"""Factors lose what a dense computation says, least of all of their rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from onnxq.low_rank import factors
from onnxq.low_rank.factors import DOUBT, FLOOR, Statistics
from tests import graphs
from tests.low_rank import (
    SPLITS,
    convolution,
    correlated,
    effective,
    flat,
    layer_model,
    only_layer,
    weighted_loss,
)

each_split = pytest.mark.parametrize("split", SPLITS)
ROUNDING = 1e-6
"""Shares of the whole that float32 factors are off by: some 2^-24 of each value, squared less."""


def dense(columns: int = 40, rows: int = 48, turned: int = 0) -> ModelProto:
    """Return a model of one Gemm of `columns` inputs."""
    shape = (rows, columns) if turned else (columns, rows)
    nodes = [graphs.node("Gemm", "x,w", "y", transB=turned)]
    return layer_model(nodes, (5, columns), 2, {"w": graphs.normal(shape, 1)})


def models() -> dict[str, tuple[ModelProto, str]]:
    image = convolution((24, 16, 3, 5), (9, 9))
    grouped = convolution((36, 12, 3, 3), (9, 9), group=2)
    cases = {f"conv {split}": (image, split) for split in SPLITS}
    cases |= {f"grouped {split}": (grouped, split) for split in SPLITS}
    cases |= {"wide": (dense(), "matrix"), "long": (dense(48, 40), "matrix")}
    cases |= {"turned": (dense(turned=1), "matrix")}
    nodes = [graphs.node("MatMul", "w,x", "y")]
    left = layer_model(nodes, (40, 5), 2, {"w": graphs.normal((48, 40), 1)})
    return cases | {"left": (left, "matrix")}


MODELS = models()
each_model = pytest.mark.parametrize("case", MODELS)


def taken(case: str) -> tuple[Any, Any, Any]:
    proto, split = MODELS[case]
    _, layer, values = only_layer(proto)
    return layer, values, split


def floored(statistics: Statistics) -> Any:
    """Return the dense moments that losses are measured with."""
    found = []
    for moment in statistics.second_moment:
        matrix = moment if moment.ndim == 2 else np.diag(moment)
        share = max(FLOOR, DOUBT / statistics.samples)
        found.append(matrix + share * np.trace(matrix) / len(matrix) * np.eye(len(matrix)))
    return np.array(found)


def diagonal(statistics: Statistics) -> Statistics:
    moment = np.einsum("gii->gi", statistics.second_moment).copy()
    return Statistics(second_moment=moment, samples=statistics.samples)


# From the weights alone


@each_model
def test_factors_lose_what_singular_values_say(case: str) -> None:
    layer, values, split = taken(case)
    losses = factors.losses(values, layer, split)
    assert losses.shape == (layer.max_rank(split) + 1,)
    assert losses[0] == 1.0
    whole = flat(layer, values)
    for rank in {1, 2, layer.max_rank(split)}:
        made = factors.factorise(values, layer, split, rank)
        product = effective(layer, made)
        lost = ((whole - product) ** 2).sum() / (whole**2).sum()
        assert abs(losses[rank] - lost) < ROUNDING
        assert abs(made.weight_loss - lost) < 1e-12
        assert made.output_loss is None


@each_model
def test_no_other_product_of_the_rank_is_nearer(case: str) -> None:
    layer, values, split = taken(case)
    losses = factors.losses(values, layer, split)
    kernel = layer.kernel
    first = layer.first_axes(split)
    second = [axis for axis in range(len(kernel)) if axis not in first]
    total = np.zeros(layer.full_rank(split))
    for part in flat(layer, values):
        cube = part.reshape(layer.outputs, layer.channels, *kernel)
        order = (0, *(2 + axis for axis in second), 1, *(2 + axis for axis in first))
        matrix = cube.transpose(order).reshape(layer.matrix_shape(split))
        total += np.linalg.svd(matrix, compute_uv=False) ** 2
    expected = [total[rank:].sum() / total.sum() for rank in range(len(losses))]
    assert np.abs(losses - expected).max() < 1e-12


@each_model
def test_nothing_is_lost_at_full_rank(case: str) -> None:
    layer, values, split = taken(case)
    statistics = correlated(layer.inputs, layer.groups)
    for known in (None, statistics, diagonal(statistics)):
        made = factors.factorise(values, layer, split, layer.full_rank(split), known)
        assert np.abs(effective(layer, made) - flat(layer, values)).max() < 1e-6
        assert made.weight_loss < 1e-12


@each_model
def test_factors_are_the_same_every_time_and_balanced(case: str) -> None:
    layer, values, split = taken(case)
    one, again = (factors.factorise(values, layer, split, 3) for _ in range(2))
    assert one.first.tobytes() == again.first.tobytes()
    assert one.second.tobytes() == again.second.tobytes()
    assert one.first.dtype == one.second.dtype == values.dtype
    sizes = [float(np.linalg.norm(item.astype(np.float64))) for item in (one.first, one.second)]
    assert abs(sizes[0] / sizes[1] - 1) < 1e-6


def test_factors_do_not_change_their_arguments() -> None:
    layer, values, split = taken("conv spatial-hw")
    statistics = correlated(layer.inputs)
    before = values.copy(), statistics.second_moment.copy()
    factors.factorise(values, layer, split, 3, statistics)
    assert np.array_equal(values, before[0])
    assert np.array_equal(statistics.second_moment, before[1])


def test_zeros_have_factors_of_zeros() -> None:
    proto = dense()
    proto.graph.initializer[0].raw_data = bytes(4 * 40 * 48)
    _, layer, values = only_layer(proto)
    assert not factors.losses(values, layer, "matrix").any()
    made = factors.factorise(values, layer, "matrix", 2, correlated(40))
    assert not effective(layer, made).any()
    assert (made.weight_loss, made.output_loss) == (0.0, 0.0)


def test_a_weight_of_lower_rank_is_found_exactly() -> None:
    rng = np.random.default_rng(0)
    proto = dense()
    values = (rng.standard_normal((40, 3)) @ rng.standard_normal((3, 48))).astype(np.float32)
    proto.graph.initializer[0].raw_data = values.tobytes()
    _, layer, values = only_layer(proto)
    assert factors.losses(values, layer, "matrix")[3] < 1e-13
    for known in (None, correlated(40)):
        made = factors.factorise(values, layer, "matrix", 5, known)
        assert np.abs(effective(layer, made) - flat(layer, values)).max() < 1e-5


# With statistics of the inputs


@each_model
def test_outputs_lose_what_a_dense_computation_says(case: str) -> None:
    layer, values, split = taken(case)
    known = correlated(layer.inputs, layer.groups)
    for statistics in (known, diagonal(known)):
        for rank in (1, 4):
            made = factors.factorise(values, layer, split, rank, statistics)
            product = effective(layer, made)
            lost = weighted_loss(layer, values, product, floored(statistics))
            assert made.output_loss is not None
            assert abs(made.output_loss - lost) < 1e-9


@each_model
def test_with_statistics_outputs_lose_less_at_every_rank(case: str) -> None:
    layer, values, split = taken(case)
    known = correlated(layer.inputs, layer.groups)
    for statistics in (known, diagonal(known)):
        moment = floored(statistics)
        for rank in range(1, layer.max_rank(split) + 1, 3):
            plain = effective(layer, factors.factorise(values, layer, split, rank))
            made = factors.factorise(values, layer, split, rank, statistics)
            assert made.output_loss is not None
            assert made.output_loss < weighted_loss(layer, values, plain, moment)
            if not statistics.is_diagonal and rank > layer.inputs // 6:
                assert made.output_loss < 0.5 * weighted_loss(layer, values, plain, moment)


@each_model
def test_without_correlation_statistics_change_nothing(case: str) -> None:
    layer, values, split = taken(case)
    even = np.broadcast_to(np.eye(layer.inputs), (layer.groups, layer.inputs, layer.inputs))
    statistics = Statistics(second_moment=even, samples=100)
    for rank in (1, 5):
        plain = factors.factorise(values, layer, split, rank)
        made = factors.factorise(values, layer, split, rank, statistics)
        assert abs(made.weight_loss - plain.weight_loss) < ROUNDING


@pytest.mark.parametrize("case", [name for name in MODELS if "spatial" not in name])
def test_no_product_of_the_rank_loses_less_at_the_outputs(case: str) -> None:
    layer, values, split = taken(case)
    statistics = correlated(layer.inputs, layer.groups)
    losses = factors.losses(values, layer, split, statistics)
    total = 0.0
    for part, moment in zip(flat(layer, values), floored(statistics), strict=True):
        root = np.linalg.cholesky(moment)
        total = total + np.linalg.svd(part @ root, compute_uv=False) ** 2
    expected = [total[rank:].sum() / total.sum() for rank in range(len(losses))]
    assert np.abs(losses - expected).max() < 1e-10


@each_model
def test_losses_foretell_those_of_factors(case: str) -> None:
    layer, values, split = taken(case)
    statistics = correlated(layer.inputs, layer.groups)
    losses = factors.losses(values, layer, split, statistics)
    assert losses[0] == pytest.approx(1.0)
    assert (np.diff(losses) <= 1e-12).all()
    is_exact = "spatial" not in case
    for rank in range(1, len(losses), 4):
        made = factors.factorise(values, layer, split, rank, statistics)
        assert made.output_loss is not None
        # Those of two halves of a kernel are estimated, here where it is hardest: inputs of few
        # directions, in which the rounds of a fit gain much.
        assert made.output_loss <= losses[rank] * (1 if is_exact else 2) + ROUNDING
        assert losses[rank] <= made.output_loss * (1 if is_exact else 4) + ROUNDING


@pytest.mark.parametrize(
    ("samples", "share"), [(1, 1.0), (30, 1.0), (120, 0.25), (3000, 0.01), (10**9, FLOOR)]
)
def test_the_fewer_vectors_were_seen_the_more_even_features_count(
    samples: int, share: float
) -> None:
    moment = np.array([[[4.0, 1.0], [1.0, 2.0]]])
    full = Statistics(second_moment=moment, samples=samples)
    assert np.allclose(full.floored(), moment + 3 * share * np.eye(2), rtol=1e-15)
    assert np.allclose(diagonal(full).floored(), [[4 + 3 * share, 2 + 3 * share]], rtol=1e-15)


@pytest.mark.parametrize("case", ["grouped spatial-wh", "turned"])
def test_losses_are_the_same_with_few_rows_in_memory(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, values, split = taken(case)
    statistics = correlated(layer.inputs, layer.groups)
    made = factors.factorise(values, layer, split, 4, statistics)
    for outputs in (1, 7):
        monkeypatch.setattr(factors, "_BLOCK_ELEMENTS", outputs * layer.inputs)
        again = factors.factorise(values, layer, split, 4, statistics)
        assert abs(again.weight_loss - made.weight_loss) < 1e-12
        assert again.output_loss == pytest.approx(made.output_loss, abs=1e-12)


def test_features_that_never_vary_do_no_harm() -> None:
    layer, values, split = taken("wide")
    moment = correlated(40).second_moment.copy()
    moment[:, :7] = moment[:, :, :7] = 0.0
    statistics = Statistics(second_moment=moment, samples=9)
    made = factors.factorise(values, layer, split, 8, statistics)
    assert np.isfinite(made.first).all()
    assert np.isfinite(made.second).all()


def test_inputs_of_nothing_but_zeros_count_alike() -> None:
    layer, values, split = taken("conv spatial-hw")
    inputs = layer.inputs
    statistics = Statistics(second_moment=np.zeros((1, inputs, inputs)), samples=9)
    made = factors.factorise(values, layer, split, 8, statistics)
    plain = factors.factorise(values, layer, split, 8)
    assert abs(made.weight_loss - plain.weight_loss) < ROUNDING


@given(
    outputs=st.integers(8, 20),
    channels=st.integers(8, 20),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    rank=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_factors_never_lose_more_than_plain_ones(
    outputs: int, channels: int, kernel: tuple[int, int], rank: int, seed: int
) -> None:
    proto = convolution((6 * outputs, channels, *kernel), (9, 9))
    _, layer, values = only_layer(proto)
    statistics = correlated(layer.inputs, seed=seed)
    moment = floored(statistics)
    for split in layer.splits:
        one = min(rank, layer.full_rank(split))
        plain = effective(layer, factors.factorise(values, layer, split, one))
        made = factors.factorise(values, layer, split, one, statistics)
        assert made.output_loss is not None
        assert made.output_loss <= weighted_loss(layer, values, plain, moment) + ROUNDING
