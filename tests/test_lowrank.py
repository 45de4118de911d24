"""The command `lowrank` from Python: what comes back, what each option does, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper, numpy_helper

import onnxq
from onnxq import report as reporting
from onnxq import runtime
from onnxq.errors import (
    BudgetError,
    InputError,
    OptionError,
    OutputError,
    UnsupportedError,
    ValidationError,
)
from onnxq.low_rank import trials
from onnxq.low_rank.factors import Statistics
from onnxq.pages import overlay
from onnxq.report import LowRankReport, from_json
from tests import graphs

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "models" / "digits.onnx"
HELD_OUT = ROOT / "models" / "digits_test.npz"


def correlated(rows: int, seed: int = 0) -> Any:
    """Return inputs that lie near a few directions, as those of real layers do."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(6, 64))
    values = random.normal(size=(rows, 6)) @ mixing + 0.05 * random.normal(size=(rows, 64))
    return values.astype(np.float32)


def dense(layers: int = 2, dtype: Any = np.float32) -> onnx.ModelProto:
    """Return layers 64 -> 64 with Relu between, weights of full rank, and a bias."""
    random = np.random.default_rng(1)
    nodes, values, name = [], {}, "x"
    for at in range(layers):
        last = at == layers - 1
        values[f"fc{at}.weight"] = (random.normal(size=(64, 64)) / 8).astype(dtype)
        values[f"fc{at}.bias"] = random.normal(size=64).astype(dtype)
        inputs = [name, f"fc{at}.weight", f"fc{at}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, ["y" if last else f"h{at}"], name=f"fc{at}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{at}"], [f"r{at}"]))
            name = f"r{at}"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 64])],
        [helper.make_tensor_value_info("y", kind, ["n", 64])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(folder: Path, rows: int = 96) -> Path:
    path = folder / "data.npz"
    np.savez(path, x=correlated(rows))
    return path


def outputs(source: Any, feeds: Any) -> Any:
    source = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
    return runtime.open_session(source).run(feeds)


def noise(reference: Any, candidate: Any, feeds: Any) -> float:
    first, second = outputs(reference, feeds), outputs(candidate, feeds)
    name = next(iter(first))
    error = first[name].astype(np.float64) - second[name]
    return float((error**2).sum() / (first[name].astype(np.float64) ** 2).sum())


def floats(proto: onnx.ModelProto) -> int:
    return sum(math.prod(tensor.dims) for tensor in proto.graph.initializer)


# What comes back


def test_every_kind_of_source_gives_the_same_model(tmp_path: Path) -> None:
    proto = dense()
    path = tmp_path / "in.onnx"
    onnx.save(proto, path)
    before = proto.SerializeToString(deterministic=True)
    report, first = onnxq.lowrank(path, ratio=0.5)
    _, second = onnxq.lowrank(proto, ratio=0.5)
    _, third = onnxq.lowrank(onnx_ir.from_proto(proto), ratio=0.5)
    assert isinstance(third, onnx_ir.Model)
    written = onnxq.lowrank(path, tmp_path / "out.onnx", ratio=0.5)
    assert isinstance(written, LowRankReport)
    assert written.output is not None
    assert written.output.path == str(tmp_path / "out.onnx")
    data = (tmp_path / "out.onnx").read_bytes()
    assert data == first.SerializeToString(deterministic=True)
    assert data == second.SerializeToString(deterministic=True)
    assert len(data) == written.output.file_bytes
    assert proto.SerializeToString(deterministic=True) == before
    assert report.layers == written.layers
    x = {"x": correlated(3)}
    np.testing.assert_array_equal(outputs(onnx_ir.to_proto(third), x)["y"], outputs(first, x)["y"])


def test_the_report_comes_back_from_its_json_and_fits_the_schema(tmp_path: Path) -> None:
    report, _ = onnxq.lowrank(dense(), ratio=0.5, data=saved(tmp_path))
    data = json.loads(reporting.dumps(report))
    jsonschema.Draft202012Validator(reporting.schema()).validate(data)
    assert from_json(data) == report


@pytest.mark.parametrize("has_data", [False, True])
def test_jobs_and_repetition_do_not_change_the_bytes(tmp_path: Path, has_data: bool) -> None:
    options: dict[str, Any] = {"data": saved(tmp_path)} if has_data else {}
    made = [onnxq.lowrank(dense(4), ratio=0.5, jobs=jobs, **options) for jobs in (1, 3, 3)]
    first = made[0][1].SerializeToString(deterministic=True)
    for report, proto in made:
        assert proto.SerializeToString(deterministic=True) == first
        assert report.layers == made[0][0].layers


@pytest.mark.parametrize("ratio", [0.9, 0.7, 0.5, 0.31])
def test_the_share_of_parameters_is_used_up_to_less_than_a_rank(ratio: float) -> None:
    report, proto = onnxq.lowrank(dense(3), ratio=ratio, check=0)
    assert report.parameters_before == floats(dense(3))
    assert report.parameters_after == floats(proto)
    left = ratio * report.parameters_before - report.parameters_after
    assert 0 <= left < 128


def test_every_byte_is_in_the_ledger_and_every_tensor_in_one_row() -> None:
    report, proto = onnxq.lowrank(dense(), ratio=0.6)
    assert report.ledger is not None
    assert report.output is not None
    assert report.ledger.total == report.output.file_bytes == len(proto.SerializeToString())
    factors = sum(row.stored_bytes for row in report.layers)
    kept = sum(row.bytes for row in report.skipped)
    assert (report.ledger.factors, report.ledger.kept_weights) == (factors, kept)
    assert report.ledger.added_graph > 0
    names = [row.name for row in (*report.layers, *report.skipped)]
    assert sorted(names) == ["fc0.bias", "fc0.weight", "fc1.bias", "fc1.weight"]


def test_a_row_says_what_a_dense_computation_says(tmp_path: Path) -> None:
    source = dense(1)
    report, proto = onnxq.lowrank(source, ranks={"fc0*": 20}, data=saved(tmp_path))
    (row,) = report.layers
    assert (row.split, row.rank, row.full_rank, row.nodes) == ("matrix", 20, 64, ("fc0",))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    left, right = values["fc0.weight.lowrank_a"], values["fc0.weight.lowrank_b"]
    assert row.factor_elements == left.size + right.size == 20 * 128
    weight = numpy_helper.to_array(source.graph.initializer[0]).astype(np.float64)
    error = weight - left.astype(np.float64) @ right
    loss = (error**2).sum() / (weight**2).sum()
    assert row.energy == pytest.approx(1 - loss, abs=1e-12)
    assert row.snr_db == pytest.approx(-10 * math.log10(loss), abs=1e-9)
    x = correlated(96).astype(np.float64)
    # What the vectors did not show counts a little, too (`Statistics.floored`).
    seen = Statistics(second_moment=(x.T @ x / 96)[None], samples=96)
    moment = seen.floored()[0]
    loss = np.trace(error.T @ moment @ error) / np.trace(weight.T @ moment @ weight)
    assert row.output_snr_db == pytest.approx(-10 * math.log10(loss), abs=1e-6)


# Options


@pytest.mark.parametrize("ratio", [0.4, 0.6, 0.8])
def test_with_data_less_is_lost_at_the_same_size(tmp_path: Path, ratio: float) -> None:
    plain, weighted = (
        onnxq.lowrank(dense(3), ratio=ratio, **options)
        for options in ({}, {"data": saved(tmp_path)})
    )
    assert weighted[0].parameters_after <= ratio * weighted[0].parameters_before
    unseen = {"x": correlated(200, seed=99)}
    assert noise(dense(3), weighted[1], unseen) < 0.25 * noise(dense(3), plain[1], unseen)


def test_energy_is_kept_in_every_layer() -> None:
    report, _ = onnxq.lowrank(dense(3), energy=0.6, check=0)
    assert len(report.layers) == 3
    assert all(0.6 <= row.energy < 0.65 for row in report.layers)


def test_energy_is_that_of_outputs_with_data(tmp_path: Path) -> None:
    report, _ = onnxq.lowrank(dense(1), energy=0.9, data=saved(tmp_path, 2000))
    (row,) = report.layers
    assert row.output_snr_db is not None
    assert row.output_snr_db >= 10 - 1e-3
    assert row.rank <= 8
    assert row.energy < 0.5


def test_the_loss_of_outputs_is_kept_and_a_bigger_one_is_looser(tmp_path: Path) -> None:
    sizes = []
    for limit in (0.001, 0.1, 1.0):
        report, _ = onnxq.lowrank(dense(3), max_snr_loss=limit, data=saved(tmp_path))
        assert report.check is not None
        assert trials.loss_db(trials.output_noise(report.check)) <= limit
        sizes.append(report.parameters_after)
    assert sizes[0] > sizes[1] > sizes[2]


def test_without_data_the_loss_is_that_on_random_inputs() -> None:
    report, _ = onnxq.lowrank(dense(2), max_snr_loss=1.0)
    assert report.check is not None
    assert trials.loss_db(trials.output_noise(report.check)) <= 1.0
    assert any("random inputs" in note for note in report.notes)


def test_given_ranks_factorise_only_what_they_name() -> None:
    report, _ = onnxq.lowrank(dense(3), ranks={"fc*": 9, "fc1.weight": 5}, exclude="fc2")
    assert [(row.name, row.rank) for row in report.layers] == [
        ("fc0.weight", 9),
        ("fc1.weight", 5),
    ]
    report, _ = onnxq.lowrank(dense(2), ranks={"fc0": 9}, check=0)
    kept = {row.name: (row.reason, row.detail) for row in report.skipped}
    assert kept["fc1.weight"] == ("excluded", "no --rank names it")


def test_given_ranks_count_in_the_share_of_the_others() -> None:
    report, _ = onnxq.lowrank(dense(3), ratio=0.6, ranks={"fc1": 3}, check=0)
    ranks = {row.name: row.rank for row in report.layers}
    assert ranks["fc1.weight"] == 3
    assert 0 <= 0.6 * report.parameters_before - report.parameters_after < 128


def test_a_rank_that_saves_nothing_leaves_the_weight_whole() -> None:
    report, proto = onnxq.lowrank(dense(1), ranks={"fc0": 40})
    assert report.layers == ()
    (row,) = [row for row in report.skipped if row.name == "fc0.weight"]
    assert row.reason == "not-split"
    assert "rank 40" in row.detail
    assert proto == dense(1)


def test_include_and_exclude_choose_layers() -> None:
    report, _ = onnxq.lowrank(dense(3), energy=0.5, include="fc[01]*", exclude="fc1", check=0)
    assert [row.name for row in report.layers] == ["fc0.weight"]
    kept = {row.name: row.detail for row in report.skipped if row.reason == "excluded"}
    assert kept == {"fc1.weight": "--exclude fc1", "fc2.weight": "no --include pattern matches"}


@pytest.mark.parametrize(("split", "start"), [("spatial", "spatial"), ("channel", "channel")])
def test_kernels_are_split_as_asked_for(split: Any, start: str) -> None:
    report, _ = onnxq.lowrank(DIGITS, ratio=0.5, split=split, check=0)
    rows = [row for row in report.layers if len(row.shape) == 4]
    assert rows
    assert all(row.split.startswith(start) for row in rows)


def test_a_model_that_is_kept_whole_is_written_byte_for_byte(tmp_path: Path) -> None:
    report = onnxq.lowrank(DIGITS, tmp_path / "out.onnx", energy=0.999999)
    assert report.layers == ()
    assert (tmp_path / "out.onnx").read_bytes() == DIGITS.read_bytes()
    assert any("nothing was gained" in note for note in report.notes)


# What stands where


def test_model_with_external_data_that_gains_nothing_does_not_grow(tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(dense(3), source, save_as_external_data=True, location="in.data", size_threshold=64)
    report = onnxq.lowrank(source, target, energy=0.9999999)
    assert report.layers == ()
    assert report.output is not None
    assert report.output.file_bytes <= report.input.file_bytes


def test_model_without_layers_is_told_from_one_that_is_too_large() -> None:
    body = graphs.graph(
        [graphs.node("Add", "x,w", "y")],
        [graphs.value("x", 8)],
        [graphs.value("y", 8)],
        graphs.tensors(w=graphs.normal((8,), 0)),
    )
    with pytest.raises(BudgetError, match=r"no weight of .* can be factorised"):
        onnxq.lowrank(graphs.model(body), ratio=0.5)


@pytest.mark.parametrize("external_data", ["auto", "never"])
def test_models_with_external_data_come_out_as_asked_for(
    tmp_path: Path, external_data: Any
) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(dense(3), source, save_as_external_data=True, location="in.data", size_threshold=64)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "d").mkdir()
    report = onnxq.lowrank(
        source,
        target,
        ratio=0.5,
        data=saved(tmp_path / "d"),
        external_data=external_data,
    )
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert report.output is not None
    assert report.ledger is not None
    names = report.output.data_files
    assert len(names) == (external_data == "auto")
    size = sum((tmp_path / name).stat().st_size for name in ("out.onnx", *names))
    assert report.ledger.total == report.output.file_bytes == size
    inline, proto = onnxq.lowrank(dense(3), ratio=0.5, data=saved(tmp_path / "d"))
    assert [(row.name, row.rank) for row in inline.layers] == [
        (row.name, row.rank) for row in report.layers
    ]
    x = {"x": correlated(9)}
    np.testing.assert_array_equal(outputs(target, x)["y"], outputs(proto, x)["y"])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_keep_their_type(tmp_path: Path, dtype: Any) -> None:
    np.savez(tmp_path / "data.npz", x=correlated(64).astype(dtype))
    report, proto = onnxq.lowrank(dense(2, dtype), ratio=0.5, data=tmp_path / "data.npz")
    assert report.layers
    assert {numpy_helper.to_array(t).dtype for t in proto.graph.initializer} == {np.dtype(dtype)}
    assert report.check is not None
    assert report.check.status == "ok"


def test_a_model_of_low_rank_is_converted_like_any_other(tmp_path: Path) -> None:
    low, small = tmp_path / "low.onnx", tmp_path / "small.onnx"
    onnxq.lowrank(DIGITS, low, ratio=0.6)
    report = onnxq.convert(low, small, bits=6)
    assert any(row.name.endswith(".lowrank_a") for row in report.tensors)
    assert report.check is not None
    assert (report.check.worst_snr_db or 0) > 15
    with pytest.raises(UnsupportedError, match=r"is converted already .*onnxq restore"):
        onnxq.lowrank(small, tmp_path / "x.onnx", ratio=0.5)
    onnxq.restore(small, tmp_path / "plain.onnx")
    again = onnxq.lowrank(tmp_path / "plain.onnx", tmp_path / "x.onnx", ratio=0.9)
    assert again.layers


def test_digits_are_recognised_at_half_the_parameters(tmp_path: Path) -> None:
    with np.load(HELD_OUT) as held_out:
        images, labels = held_out["image"], held_out["label"]
    np.savez(tmp_path / "data.npz", image=images[:100])
    _, proto = onnxq.lowrank(DIGITS, ratio=0.5, data=tmp_path / "data.npz")
    found = outputs(proto, {"image": images[100:]})["probabilities"].argmax(axis=1)
    assert (found == labels[100:]).mean() > 0.98


# What is refused


def test_a_share_that_cannot_be_reached_says_the_least(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"the least is 0\.\d+ \(.* parameters\)") as caught:
        onnxq.lowrank(dense(2), tmp_path / "out.onnx", ratio=0.01)
    assert list(tmp_path.iterdir()) == []
    share = str(caught.value).partition("give ")[2].partition(" or more")[0]
    report, _ = onnxq.lowrank(dense(2), ratio=float(share), check=0)
    assert {row.rank for row in report.layers} == {1}


@pytest.mark.parametrize("option", ["include", "exclude", "ranks"])
def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path, option: str) -> None:
    value: Any = {"conv*": 3} if option == "ranks" else "conv*"
    goal = {} if option == "ranks" else {"ratio": 0.5}
    with pytest.raises(OptionError, match=r"'conv\*': matches no weight .*the largest are 'fc0"):
        onnxq.lowrank(dense(), tmp_path / "out.onnx", **goal, **{option: value})
    assert list(tmp_path.iterdir()) == []


def test_options_are_refused_before_any_file_is_read(tmp_path: Path) -> None:
    for wrong in ({}, {"ratio": 2}, {"ratio": 0.5, "check": -1}, {"ratio": 0.5, "limit": 3}):
        with pytest.raises(OptionError):
            onnxq.lowrank(tmp_path / "missing.onnx", **wrong)  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="--check is for random inputs"):
        onnxq.lowrank(tmp_path / "missing.onnx", ratio=0.5, data="x.npz", check=2)
    with pytest.raises(InputError, match=r"missing\.onnx"):
        onnxq.lowrank(tmp_path / "missing.onnx", ratio=0.5)


def test_an_output_that_exists_is_kept_without_force(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    target.write_text("precious")
    with pytest.raises(OutputError, match="--force"):
        onnxq.lowrank(dense(), target, ratio=0.5)
    assert target.read_text() == "precious"
    onnxq.lowrank(dense(), target, ratio=0.5, force=True)
    assert target.read_bytes() != b"precious"


def test_data_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", z=correlated(4))
    with pytest.raises(InputError, match=r"data\.npz"):
        onnxq.lowrank(dense(), tmp_path / "out.onnx", ratio=0.5, data=tmp_path / "data.npz")
    assert not (tmp_path / "out.onnx").exists()


def unrunnable() -> onnx.ModelProto:
    proto = dense()
    proto.graph.node.append(helper.make_node("Nobody", ["y"], ["z"], domain="nowhere"))
    proto.opset_import.append(helper.make_opsetid("nowhere", 1))
    proto.graph.output[0].name = "z"
    return proto


def test_a_model_that_cannot_be_run_is_factorised_by_its_weights() -> None:
    report, _ = onnxq.lowrank(unrunnable(), ratio=0.5)
    assert report.layers
    assert report.check is not None
    assert report.check.status == "skipped"


def test_a_loss_that_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="--max-snr-loss is measured by running the model"):
        onnxq.lowrank(unrunnable(), max_snr_loss=1.0)
    with pytest.raises((InputError, UnsupportedError)):
        onnxq.lowrank(unrunnable(), ratio=0.5, data=saved(tmp_path))


def test_a_result_that_cannot_be_run_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(document: Any, *_: Any) -> None:
        document.proto.graph.node[0].op_type = "Nobody"

    monkeypatch.setattr(trials, "put", broken)
    with pytest.raises(ValidationError, match="the reference runs, the candidate does not"):
        onnxq.lowrank(dense(), tmp_path / "out.onnx", ratio=0.5)
    assert list(tmp_path.iterdir()) == []


def test_layers_out_of_sight_of_the_data_are_told(tmp_path: Path) -> None:
    proto = dense(2)
    body = helper.make_graph(
        [helper.make_node("MatMul", ["y", "inner"], ["b"])],
        "body",
        [],
        [helper.make_tensor_value_info("b", 1, ["n", 64])],
        [numpy_helper.from_array(np.ones((64, 64), np.float32), "inner")],
    )
    always = helper.make_tensor("always", 9, [], [True])
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=always))
    branches = {"then_branch": body, "else_branch": body}
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], **branches))
    proto.graph.output[0].name = "z"
    report, _ = onnxq.lowrank(proto, energy=0.9, data=saved(tmp_path))
    assert any("out of sight of the data" in note for note in report.notes)
    rows = {row.name: row for row in report.layers}
    assert rows["inner"].statistics == "none"
    assert rows["inner"].output_snr_db is None
    assert rows["fc0.weight"].statistics == "inputs"


def test_each_step_is_told(tmp_path: Path) -> None:
    events: list[Any] = []
    onnxq.lowrank(dense(2), max_snr_loss=0.5, data=saved(tmp_path), progress=events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["reference", "layer inputs", "factors", "ranks", "sizes", "candidate"]
    for stage in ("layer inputs", "ranks"):
        last = [event for event in events if event.stage == stage][-1]
        assert last.done == last.total


def test_reports_of_low_rank_are_not_drawn() -> None:
    report, _ = onnxq.lowrank(dense(), ratio=0.5, check=0)
    with pytest.raises(InputError, match="found one of lowrank"):
        overlay.entries([report])
