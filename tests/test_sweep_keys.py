"""Keys of points: everything that decides a figure, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxq import model, summary
from onnxq.sweeps import sweep_keys
from onnxq.sweeps.grid import make_grid
from onnxq.validation.measure_options import MeasureOptions
from tests import graphs


def keys(
    path: Path, measure: MeasureOptions | None = None, bits: Any = (2, 3), **axes: Any
) -> list[str]:
    document = model.load(path)
    return list(sweep_keys.keys(document, measure or MeasureOptions(), make_grid(bits, axes)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a small model's path."""
    made = tmp_path / "small.onnx"
    onnx.save(graphs.matmul_add(), made)
    return made


def test_points_have_keys_of_their_own_in_order(path: Path) -> None:
    found = keys(path, bits=(2, 3, 4), init=["optimal", "uniform"])
    assert len(set(found)) == 6
    assert keys(path, bits=(3,), init="uniform") == found[4:5]


def test_a_key_does_not_depend_on_names_jobs_or_how_settings_are_told(
    path: Path, tmp_path: Path
) -> None:
    shutil.copy(path, tmp_path / "other.onnx")
    same = keys(path)
    assert keys(tmp_path / "other.onnx") == same
    assert keys(path, init="optimal", preset=None) == same
    assert keys(path, MeasureOptions(performance=False)) == same


@pytest.mark.parametrize(
    "measure",
    [
        MeasureOptions(samples=2),
        MeasureOptions(seed=1),
        MeasureOptions(metrics=("cosine",)),
        MeasureOptions(dims={"n": 3}),
        MeasureOptions(ranges={"x": (0.0, 1.0)}),
        MeasureOptions(threads=1),
        MeasureOptions(is_packed=True),
        MeasureOptions(session_options={"session.disable_prepacking": "1"}),
        MeasureOptions(carry={"a": "b"}),
    ],
    ids=lambda measure: str(measure.to_json()),
)
def test_what_is_measured_is_part_of_the_key(path: Path, measure: MeasureOptions) -> None:
    assert set(keys(path)).isdisjoint(keys(path, measure))


def test_the_model_is_part_of_the_key(path: Path, tmp_path: Path) -> None:
    onnx.save(graphs.gemm(), tmp_path / "other.onnx")
    assert set(keys(path)).isdisjoint(keys(tmp_path / "other.onnx"))


def test_versions_are_part_of_the_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(path)
    monkeypatch.setattr(summary, "versions", lambda: {"onnxq": "99"})
    assert set(before).isdisjoint(keys(path))


def test_data_and_preprocessing_are_part_of_the_key(path: Path, tmp_path: Path) -> None:
    data, rules = tmp_path / "x.npz", tmp_path / "rules.json"
    np.savez(data, x=np.zeros(3))
    rules.write_text("{}")
    measure = MeasureOptions(data=data, preprocess=str(rules))
    before = keys(path, measure)
    assert keys(path, measure) == before
    shutil.copy(data, tmp_path / "copy.npz")
    assert keys(path, MeasureOptions(data=tmp_path / "copy.npz", preprocess=str(rules))) == before
    rules.write_text("{ }")
    assert set(before).isdisjoint(keys(path, measure))
    rules.write_text("{}")
    np.savez(data, x=np.ones(3))
    assert set(before).isdisjoint(keys(path, measure))


def test_the_source_of_a_users_metric_is_part_of_the_key(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "metric_of_a_key_test.py"
    measure = MeasureOptions(metrics=("metric_of_a_key_test:score",))
    source.write_text("def score(outputs, sample): return 1")
    before = keys(path, measure)
    source.write_text("def score(outputs, sample): return 2")
    assert set(before).isdisjoint(keys(path, measure))
