import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq import runtime
from onnxq.data.batches import DataOptions
from onnxq.data.dataset import open_dataset
from onnxq.data.drawn_data import GivenData, RandomData
from onnxq.draws import Recipe
from onnxq.errors import InputError, OptionError, UnsupportedError
from onnxq.validation import metrics
from onnxq.validation.evaluation import evaluate
from onnxq.validation.reference_runs import Carried, ReferenceRuns, _Store
from tests.test_evaluation import IDENTITY, SHIFTED, STATEFUL, data_of, run, saved
from tests.tiny_models import from_text


def test_many_candidates_and_threads_share_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, x=np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32))
    opened: list[Any] = []
    inner = runtime.open_session

    def opening(source: Any, *rest: Any) -> runtime.Session:
        opened.append(source)
        return inner(source, *rest)

    monkeypatch.setattr(runtime, "open_session", opening)
    found: dict[int, Any] = {}
    data = open_dataset(path, inner(IDENTITY).inputs, DataOptions(batch=2))
    with ReferenceRuns(IDENTITY, data) as runs:

        def work(index: int) -> None:
            found[index] = evaluate(runs, SHIFTED, metrics.resolve(["snr", "max-abs"])).metrics

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert opened.count(IDENTITY) == 1
    assert len(found) == 4
    assert all(rows == found[0] for rows in found.values())


@pytest.mark.parametrize("budget_bytes", [0, 1200])
def test_what_is_not_kept_is_computed_again(tmp_path: Path, budget_bytes: int) -> None:
    x = np.arange(6, dtype=np.float32)[:, None]
    data = data_of(saved(tmp_path, x=x), STATEFUL, carried=frozenset({"s"}))
    carry = {"t": "s"}
    found = run(STATEFUL, STATEFUL, data, "max-abs", carry=carry, budget_bytes=budget_bytes)
    assert found.check.is_equal
    assert [row.candidate.value for row in found.metrics] == [0, 0]


def test_data_that_change_between_the_walks_are_told(tmp_path: Path) -> None:
    data = data_of(saved(tmp_path, x=np.ones((4, 3), np.float32)), IDENTITY, batch=2)
    with ReferenceRuns(IDENTITY, data) as runs:
        runs.fill()
        shorter = data_of(saved(tmp_path, x=np.ones((2, 3), np.float32)), IDENTITY, batch=2)
        runs.dataset = shorter
        with pytest.raises(InputError, match="found 1 batches, expected 2 as before"):
            evaluate(runs, SHIFTED, ())


def test_a_walk_that_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    narrow = from_text("g (float[N, 3] x) => (float[N, 3] y) { y = Identity(x) }")
    good = GivenData([{"x": np.ones((1, 3), np.float32)}])
    bad = GivenData([{"x": np.zeros((1, 3), np.float32)}, {"x": np.ones((1, 4), np.float32)}])
    with ReferenceRuns(narrow, bad) as runs:
        with pytest.raises(InputError, match="given inputs 1: model in memory: input 'x': found"):
            runs.fill()
        runs.dataset = good
        assert evaluate(runs, narrow, ()).check.is_equal


def test_state_starts_at_zero_in_the_sizes_of_the_other_inputs() -> None:
    state = Carried(runtime.open_session(STATEFUL), {"t": "s"})
    (batch,) = GivenData([{"x": np.ones((1, 1), np.float32)}]).batches()
    fed = state.feeds(batch)["s"]
    assert (fed.shape, fed.dtype, fed.any()) == ((2, 1, 1), np.float32, False)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("float[N, 10]", "output float32 [N, 10] cannot continue input float32 [N, 1, 8]"),
        ("float[N, 1, 9]", "output float32 [N, 1, 9] cannot continue"),
        ("double[N, 1, 8]", "output float64 [N, 1, 8] cannot continue"),
        ("float[M, 1, K]", None),
    ],
)
def test_what_is_carried_must_fit(output: str, expected: str | None) -> None:
    model = from_text(
        f"g (float[N, 1, 8] x, {output} o) => ({output} y, float[N, 1, 8] z)"
        "{ y = Identity(o) z = Identity(x) }"
    )
    session = runtime.open_session(model)
    if expected is None:
        Carried(session, {"y": "x"})
        return
    with pytest.raises(OptionError, match=re.escape(f"--carry y=x: {expected}")):
        Carried(session, {"y": "x"})


def test_text_cannot_start_at_zero() -> None:
    model = from_text(
        "g (float[N] x, string[1] s) => (float[N] y, string[1] t)"
        "{ y = Identity(x) t = Identity(s) }"
    )
    state = Carried(runtime.open_session(model), {"t": "s"})
    (batch,) = GivenData([{"x": np.ones(1, np.float32)}]).batches()
    with pytest.raises(UnsupportedError, match="'s' of type str cannot start at zero"):
        state.feeds(batch)


def test_a_full_disk_means_computing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _Store(1 << 20)
    store.append({"y": np.arange(3)})

    class Full:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def write(self, data: bytes) -> int:
            raise OSError("no space left")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    monkeypatch.setattr(store, "_file", Full(store._file))
    store.append({"y": np.arange(4)})
    store.append({"y": np.arange(5)})
    assert store.count == 1
    assert store.read(0)["y"].tolist() == [0, 1, 2]
    store.close()


def test_outputs_of_any_type_come_back() -> None:
    store = _Store(1 << 20)
    outputs = {"a": [{"x": 1.0}], "b": np.array(["x"], object), "c": np.float32([np.nan])}
    store.append(outputs)
    found = store.read(0)
    assert (found["a"], found["b"].tolist()) == (outputs["a"], ["x"])
    assert np.isnan(found["c"]).all()
    store.close()


def test_random_inputs_that_are_constant_are_told() -> None:
    model = from_text(
        "g (int64[4] i) => (float[4] y) <float[1] w = {7.0}> { y = Gather<axis = 0>(w, i) }"
    )
    data = RandomData(runtime.open_session(model), samples=3, recipe=Recipe(ranges={"i": (0, 9)}))
    with ReferenceRuns(model, data) as reference:
        assert [fed.constant for fed in reference.data_used().inputs] == [0]
