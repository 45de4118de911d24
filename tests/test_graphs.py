"""The builders in `graphs` make what their names say: valid models that run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import graphs, runs


@pytest.mark.parametrize("case", graphs.CASES, ids=lambda case: case.name)
def test_case_is_valid_and_runs(case: graphs.Case) -> None:
    model = case.build()
    # The checker infers no type for a sparse initializer.
    onnx.checker.check_model(model, full_check=case.is_runnable and case.name != "sparse")
    assert model.SerializeToString() == case.build().SerializeToString()
    if case.is_runnable:
        outputs = runs.run(model, graphs.feeds(model))
        assert list(outputs) == [value.name for value in model.graph.output]


def test_few_fills_with_exactly_so_many_values() -> None:
    assert np.unique(graphs.few(16)((64, 64), 3)).size == 16


@pytest.mark.parametrize("files", [1, 3])
def test_external_model_computes_the_same(tmp_path: Path, files: int) -> None:
    model = graphs.attention()
    graphs.save_external(model, tmp_path / "m.onnx", files)
    feeds = graphs.feeds(model)
    assert len(list(tmp_path.glob("*.bin"))) == files
    runs.assert_same(runs.run(tmp_path / "m.onnx", feeds), runs.run(model, feeds))
