"""The decisions for a model, their JSON, and plans that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto

import onnxq
from onnxq import model
from onnxq.errors import InputError, OptionError
from onnxq.forms import expression
from onnxq.options import make_options
from onnxq.plans import Plan, TensorPlan, form_of, make_plan
from onnxq.replay import match_plan
from onnxq.trees import BFLOAT16, FLOAT, FLOAT16
from tests import graphs
from tests.encoded import make_form, planned

each_case = pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)


def made(proto: ModelProto, jobs: int = 1, **options: Any) -> Plan:
    document = model.wrap(proto)
    return make_plan(document, model.weights(document), make_options(options), jobs)


def matched(plan: Plan, proto: ModelProto) -> Plan:
    document = model.wrap(proto)
    return match_plan(document, plan, model.weights(document))


def reread(plan: Plan) -> Plan:
    return Plan.from_json(json.loads(plan.dumps()), "plan.json")


# Making


@each_case
def test_every_tensor_is_planned_or_skipped_once_in_file_order(case: graphs.Case) -> None:
    proto = case.build()
    plan = made(proto, bits=4)
    keys = [(w.graph, w.name) for w in model.weights(model.wrap(proto))]
    places = {key: place for place, key in enumerate(keys)}
    rows = [tensor.key for tensor in plan.tensors], [(s.graph, s.name) for s in plan.skips]
    assert sorted([*rows[0], *rows[1]]) == sorted(keys)
    for row in rows:
        assert [places[key] for key in row] == sorted(places[key] for key in row)


def test_plan_holds_what_was_decided() -> None:
    plan = made(
        graphs.matmul_add(),
        bits=5,
        init="quantile",
        pdf_factor=0.25,
        max_iterations=7,
        pool_indices=False,
    )
    assert plan.tensors[0] == TensorPlan(
        name="w", graph="main", shape=(64, 96), dtype="float32", elements=6144,
        original_bytes=24_576, bit_width=5, centroids=32, layout="portable",
        codebook_dtype="float32", init="quantile", pdf_factor=0.25, max_iterations=7,
        storage_graph="main", same_as=None, is_pooled=False,
    )  # fmt: skip
    assert plan.tensors[0].key == ("main", "w")


def test_plan_of_tied_tensors_names_the_first() -> None:
    plan = made(graphs.repeated_constants(), bits=4)
    assert [(t.key, t.same_as, t.storage_graph) for t in plan.tensors] == [
        (("main", "iw"), None, "main"),
        (("main", "cw"), ("main", "iw"), "main"),
        (("main/If(u).then_branch", "bw"), ("main", "iw"), "main"),
    ]


def test_half_codebook_is_planned_by_name() -> None:
    plan = made(graphs.matmul_add(), bits=8, codebook_dtype="float16")
    assert [t.codebook_dtype for t in plan.tensors] == ["float16"]
    assert [t.codebook_dtype for t in made(graphs.BY_NAME["float16"].build()).tensors] == [
        "float16"
    ]


def test_width_asked_for_is_kept_for_the_published_size() -> None:
    """Unpacked indices of five values are named 3 bits; the published scheme counts 8."""
    proto = graphs.matmul_add(graphs.few(5))
    tensor = made(proto, bits=8, fewer_bits=False, only_smaller=False).tensors[0]
    assert (tensor.layout, tensor.bit_width, tensor.ce2_bits) == ("bytes", 3, 8)
    assert made(proto, bits=8).tensors[0].ce2_bits is None


def test_family_that_does_not_pay_is_skipped_with_its_reason() -> None:
    proto = graphs.matmul_add(opset=9, size=40)
    (record,) = [s for s in made(proto, bits=7).skips if s.name == "w"]
    assert record.reason == "not-smaller"
    assert "shared decoding tables" in record.detail
    assert [t.name for t in made(proto, bits=7, only_smaller=False).tensors] == ["w", "b"]


def test_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(OptionError):
        made(graphs.tiny(), include="nothing")


@pytest.mark.parametrize("name", ["attention", "branches", "equal_tensors"])
def test_jobs_do_not_change_the_plan(name: str) -> None:
    proto = graphs.BY_NAME[name].build()
    assert made(proto, 4, bits=4) == made(proto, 1, bits=4)


# JSON


@each_case
def test_plan_comes_back_from_json(case: graphs.Case) -> None:
    proto = case.build()
    for options in ({"bits": 4}, {"bits": 7, "codebook_dtype": "float16", "init": "bounded-pdf"}):
        plan = made(proto, **options)
        assert reread(plan) == plan
        assert plan.dumps().isascii()
        assert matched(plan, proto) == plan


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "is no onnxq plan of version 1"),
        ([], "is no onnxq plan"),
        ({}, "is no onnxq plan"),
        ({"plan_version": 4, "tensors": [], "skipped": []}, "is no onnxq plan of version 1 to 3"),
        ({"plan_version": 1}, "is a damaged onnxq plan"),
        ({"plan_version": 1, "tensors": 3, "skipped": []}, "is a damaged onnxq plan"),
        ({"plan_version": 1, "tensors": ["w"], "skipped": []}, r"tensors\[0\]: found 'w'"),
        ({"plan_version": 1, "tensors": [{}], "skipped": []}, r"tensors\[0\]: 'name' is missing"),
        (
            {"plan_version": 1, "tensors": [], "skipped": [{"name": "w"}]},
            r"skipped\[0\]: 'graph' is",
        ),
    ],
)
def test_what_is_no_plan_is_refused(record: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"plan.json: {message}"):
        Plan.from_json(record, "plan.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"NaN", b"{}" * 2])
def test_plan_file_that_is_no_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"plan\.json"):
        onnxq.convert(graphs.tiny(), plan=path, check=0)


def test_plan_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(InputError, match="cannot be read"):
            onnxq.convert(graphs.tiny(), plan=path, check=0)


# Forms


@pytest.mark.parametrize("codebook", [FLOAT, FLOAT16])
def test_form_of_a_plan_is_the_form_that_was_chosen(codebook: int) -> None:
    for layout in ("portable", "native", "bytes"):
        for bits in range(1, 17):
            form = make_form(layout, bits, (3, 5), opset=25, codebook_type=codebook)  # type: ignore[arg-type]
            assert form_of(planned(form), 25, FLOAT) == form
            assert expression(form_of(planned(form), 25, FLOAT)) == expression(form)
    half = make_form(data_type=FLOAT16)
    assert form_of(planned(half), 17, FLOAT16) == half


# What may stand in a plan


LARGE: dict[str, Any] = {"shape": (10, 12), "elements": 120}
ALLOWED: dict[str, dict[str, Any]] = {
    "scales": {"scale_axis": 1, "scale_dtype": "float32"},
    "float16 scales": {"scale_axis": 0, "scale_dtype": "float16"},
    "a pool and scales": {"is_pooled": True, "scale_axis": 0, "scale_dtype": "float16"},
    "kept values": {"kept_values": 2, "kept_dtype": "float32"} | LARGE,
    "float16 kept values": {"kept_values": 1, "kept_dtype": "float16"} | LARGE,
    "a pool and kept values": {"is_pooled": True, "kept_values": 2, "kept_dtype": "float16"}
    | LARGE,
    "calibration": {"is_weighted": True, "has_feedback": True},
    "float16 values": {
        "layout": "half", "bit_width": 16, "centroids": 0, "codebook_dtype": "float16",
    },
}  # fmt: skip


@pytest.mark.parametrize("what", ALLOWED)
def test_new_fields_of_a_plan_come_back_from_json(what: str) -> None:
    one = planned(make_form("portable", 4, (3, 5)), **ALLOWED[what])
    plan = Plan(tensors=(one,), skips=())
    assert reread(plan) == plan


REFUSED: dict[str, dict[str, Any]] = {
    "scale_axis 2": {"scale_axis": 2, "scale_dtype": "float32"},
    "scale_axis -1": {"scale_axis": -1, "scale_dtype": "float32"},
    "scale_axis 1": {"shape": (15, 1), "scale_axis": 1, "scale_dtype": "float32"},
    "scale_axis 0": {"same_as": ("main", "v"), "scale_axis": 0, "scale_dtype": "float32"},
    "scale_dtype None": {"scale_axis": 0},
    "scale_dtype 'float32'": {"scale_dtype": "float32"},
    "scale_dtype 'float64'": {"scale_axis": 0, "scale_dtype": "float64"},
    "kept_values 3": {"kept_values": 3, "kept_dtype": "float32"} | LARGE,
    "kept_values -1": {"kept_values": -1, "kept_dtype": "float32"} | LARGE,
    "kept_values 1": {"kept_values": 1, "kept_dtype": "float32"},
    "kept_values 2": LARGE
    | {
        "kept_values": 2,
        "kept_dtype": "float32",
        "scale_axis": 0,
        "scale_dtype": "float32",
    },
    "kept_dtype None": {"kept_values": 2} | LARGE,
    "kept_dtype 'float64'": {"kept_values": 2, "kept_dtype": "float64"} | LARGE,
    "kept_dtype 'float16'": {"kept_dtype": "float16"} | LARGE,
    "layout 'half'": {"layout": "half", "bit_width": 16, "codebook_dtype": "float16"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_value_out_of_range_is_refused(message: str) -> None:
    with pytest.raises(InputError, match=f"plan: tensor 'w': {message} is out of range"):
        planned(make_form("portable", 4, (3, 5)), **REFUSED[message])


@pytest.mark.parametrize("change", [{"is_weighted": True}, {"has_feedback": True}])
def test_kept_values_go_without_calibration(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="kept_values 2 is out of range"):
        planned(make_form(), **ALLOWED["kept values"], **change)


@pytest.mark.parametrize("data_type", [FLOAT16, BFLOAT16])
def test_half_scales_and_kept_values_are_for_wide_types(data_type: int) -> None:
    form = make_form("portable", 4, (3, 5), data_type=data_type)
    with pytest.raises(InputError, match="scale_axis 0 is out of range"):
        planned(form, scale_axis=0, scale_dtype="float16")
    with pytest.raises(InputError, match="kept_values 2 is out of range"):
        planned(form, **LARGE, kept_values=2, kept_dtype="float16")
    with pytest.raises(InputError, match="layout 'half' is out of range"):
        planned(form, **ALLOWED["float16 values"])
