"""Which arrays of .npz files become feeds, and in which batches."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.data import batches
from onnxq.data.batches import Batch, DataOptions
from onnxq.data.npz_data import NpzData, open_npz
from onnxq.errors import InputError, OptionError, UnsupportedError
from onnxq.runtime import InputSpec, OutputSpec

F4 = np.float32


def spec(name: str, *shape: int | str | None, dtype: str = "float32") -> InputSpec:
    return InputSpec(name=name, dtype=dtype, shape=shape)


X = spec("x", "N", 3)


def opened(
    folder: Path, inputs: Sequence[InputSpec], arrays: dict[str, Any], **options: Any
) -> NpzData:
    np.savez(folder / "x.npz", **arrays)
    return open_npz([folder / "x.npz"], inputs, DataOptions(**options), None)


def refusal(
    folder: Path, inputs: Sequence[InputSpec], arrays: dict[str, Any], **options: Any
) -> str:
    kinds = (InputError, OptionError, UnsupportedError)
    with pytest.raises(kinds) as caught:
        opened(folder, inputs, arrays, **options)
    return str(caught.value).replace(str(folder / "x.npz"), "FILE")


def sizes(data: NpzData) -> list[int]:
    return [batch.samples for batch in data.batches()]


def joined(batches: Sequence[Batch], name: str) -> np.ndarray[Any, Any]:
    return np.concatenate([{**batch.feeds, **batch.truth}[name] for batch in batches])


@given(
    count=st.integers(1, 70),
    batch=st.none() | st.integers(1, 80),
    limit=st.none() | st.integers(1, 80),
    is_fortran=st.booleans(),
)
@settings(max_examples=50)
def test_batches_put_together_are_the_arrays(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    batch: int | None,
    limit: int | None,
    is_fortran: bool,
) -> None:
    values = np.random.default_rng(count).random((count, 3)).astype(F4)
    labels = np.arange(count)
    stored = np.asfortranarray(values) if is_fortran else values
    folder = tmp_path_factory.getbasetemp()
    data = opened(folder, [X], {"x": stored, "label": labels}, batch=batch, limit=limit)
    assert (data.kind, data.available, data.truths) == ("npz", count, ("label",))
    for _ in range(2):  # as often as asked
        batches = list(data.batches())
        wanted = min(count, limit or count)
        assert np.array_equal(joined(batches, "x"), values[:wanted])
        assert np.array_equal(joined(batches, "label"), labels[:wanted])
        assert all(item.samples == len(item.feeds["x"]) for item in batches)
        assert {item.samples for item in batches[:-1]} <= {batch or 32}
        assert [item.is_start for item in batches] == [True] + [False] * (len(batches) - 1)
    assert batches[0].where == f"x.npz samples 0..{batches[0].samples - 1}"


def test_a_rank_more_is_a_whole_feed_in_each_row(tmp_path: Path) -> None:
    values = np.arange(24, dtype=F4).reshape(4, 2, 3)
    data = opened(tmp_path, [X], {"x": values, "target": np.arange(4)})
    batches = list(data.batches())
    assert [item.is_item for item in batches] == [True] * 4
    assert [item.feeds["x"].tolist() for item in batches] == values.tolist()
    assert [item.truth["target"].tolist() for item in batches] == [[0], [1], [2], [3]]
    assert refusal(tmp_path, [X], {"x": values}, batch=2).startswith("batch: found 2, expected 1: ")


def test_whole_feeds_take_others_along_row_by_row(tmp_path: Path) -> None:
    inputs = [X, spec("state", 2, "N", 4)]
    arrays = {"x": np.arange(15, dtype=F4).reshape(5, 3), "state": np.zeros((5, 2, 1, 4), F4)}
    batches = list(opened(tmp_path, inputs, arrays).batches())
    assert len(batches) == 5
    assert batches[1].feeds["x"].tolist() == [[3, 4, 5]]
    assert batches[1].feeds["state"].shape == (2, 1, 4)
    assert batches[1].is_item


def test_single_numbers_are_constants_or_one_for_each_sample(tmp_path: Path) -> None:
    inputs = [X, spec("rate", dtype="int64")]
    x = np.arange(15, dtype=F4).reshape(5, 3)
    (batch,) = opened(tmp_path, inputs, {"x": x, "rate": np.int64(16000)}).batches()
    assert batch.feeds["rate"].shape == ()
    assert int(batch.feeds["rate"]) == 16000
    batches = list(opened(tmp_path, inputs, {"x": x, "rate": np.arange(5)}).batches())
    assert [int(item.feeds["rate"]) for item in batches] == [0, 1, 2, 3, 4]
    assert [item.feeds["x"].shape for item in batches] == [(1, 3)] * 5
    assert not batches[0].is_item


def test_single_numbers_alone(tmp_path: Path) -> None:
    inputs = [spec("rate", dtype="int64")]
    (batch,) = opened(tmp_path, inputs, {"rate": np.int64(7)}).batches()
    assert (batch.samples, batch.is_item) == (1, True)
    batches = list(opened(tmp_path, inputs, {"rate": np.arange(3)}).batches())
    assert [(int(item.feeds["rate"]), item.is_item) for item in batches] == [
        (0, True), (1, True), (2, True),
    ]  # fmt: skip


def test_carried_inputs_may_be_missing_or_are_the_first_state(tmp_path: Path) -> None:
    inputs = [X, spec("state", 2, "N", 4)]
    x, state = np.zeros((5, 3), F4), np.ones((2, 1, 4), F4)
    carried = frozenset({"state"})
    batches = list(opened(tmp_path, inputs, {"x": x}, carried=carried).batches())
    assert [list(item.feeds) for item in batches] == [["x"]] * 5  # one at a time, in order
    data = opened(tmp_path, inputs, {"x": x, "state": state}, carried=carried, batch=2)
    batches = list(data.batches())
    assert [item.feeds["x"].shape for item in batches] == [(2, 3), (2, 3), (1, 3)]
    assert all(np.array_equal(item.feeds["state"], state) for item in batches)
    assert data.truths == ()
    text = refusal(tmp_path, inputs, {"x": x, "state": state[None]}, carried=carried)
    assert text == (
        "FILE: input 'state': found float32 [1, 2, 1, 4] for float32 [2, N, 4]; expected the "
        "state to start with, of the input's shape"
    )


def test_a_state_that_is_missing_may_be_carried(tmp_path: Path) -> None:
    state = spec("s", 2, "N", 4)
    outputs = (
        OutputSpec(name="y", dtype="float32", shape=("N", 1)),
        OutputSpec(name="t", dtype="float32", shape=(None, "N", "d")),
        OutputSpec(name="i", dtype="int64", shape=(2, "N", 4)),
    )
    x = np.zeros((5, 3), F4)
    told = refusal(tmp_path, [X, state], {"x": x}, outputs=outputs)
    assert told.endswith("named like the inputs: 'x', 's', or --carry t=s")
    assert "--carry" not in refusal(tmp_path, [X, state], {"x": x}, outputs=outputs[:1])
    assert "--carry" not in refusal(tmp_path, [X, state], {"z": x}, outputs=outputs)


def test_fixed_first_size_is_the_batch(tmp_path: Path) -> None:
    inputs = [spec("x", 4, 3), spec("y", "M", 2)]
    arrays = {"x": np.zeros((8, 3), F4), "y": np.zeros((8, 2), F4)}
    assert sizes(opened(tmp_path, inputs, arrays)) == [4, 4]
    assert sizes(opened(tmp_path, inputs, arrays, batch=4, limit=4)) == [4]
    assert refusal(tmp_path, inputs, arrays, batch=2) == (
        "batch: found 2, expected 4: input 'x' takes 4 samples at a time"
    )
    assert refusal(tmp_path, inputs, arrays, limit=7) == (
        "FILE: found 7 samples, expected a multiple of 4, which the model takes at a time; "
        "use --limit 4"
    )
    text = refusal(tmp_path, inputs, arrays, limit=3)
    assert text.endswith("found 3 samples, expected a multiple of 4, which the model takes at a "
                         "time")  # fmt: skip


def test_batches_of_large_samples_are_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "DEFAULT_BATCH_BYTES", 5 * 12)
    arrays = {"x": np.zeros((8, 3), F4)}
    assert sizes(opened(tmp_path, [X], arrays)) == [5, 3]
    assert sizes(opened(tmp_path, [X], arrays, batch=8)) == [8]


def test_different_first_sizes_are_refused(tmp_path: Path) -> None:
    inputs = [spec("x", 4, 3), spec("y", 2, 2)]
    arrays = {"x": np.zeros((8, 3), F4), "y": np.zeros((8, 2), F4)}
    assert "'x' takes 4, 'y' takes 2; expected arrays with one more axis" in refusal(
        tmp_path, inputs, arrays
    )


def test_a_first_size_of_zero_is_told_as_a_misfit(tmp_path: Path) -> None:
    text = refusal(tmp_path, [spec("x", 0, 3)], {"x": np.zeros((8, 3), F4)})
    assert text == "FILE: input 'x': found float32 [8, 3], expected float32 [0, 3]"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 3))}, "input 'x': found float64 [4, 3], expected float32 [N, 3]"),
        ({"x": np.zeros((4, 5), F4)}, "input 'x': found float32 [4, 5], expected float32 [N, 3]"),
        (
            {"x": np.zeros((4, 2, 5), F4)},
            "input 'x': found float32 [4, 2, 5], a feed in each row, expected float32 [N, 3]",
        ),
        (
            {"x": np.zeros(3, F4)},
            "input 'x': found float32 [3] for float32 [N, 3]; expected samples along the first "
            "axis; one sample is array[None], rank 2",
        ),
        (
            {"x": np.zeros((1, 2, 3, 4), F4)},
            "input 'x': found float32 [1, 2, 3, 4] for float32 [N, 3]; expected rank 2 (a sample "
            "in each row) or 3 (a feed in each row)",
        ),
        (
            {"X": np.zeros((4, 3), F4), "y": np.zeros(2)},
            "the array of input 'x' (float32 [N, 3]) is missing; found 'X' (float32 [4, 3]), 'y' "
            "(float64 [2]); expected arrays named like the inputs: 'x'",
        ),
        ({"x": np.zeros((0, 3), F4)}, "array 'x' (float32 [0, 3]) holds no samples"),
        (
            {"x": np.zeros((4, 3), F4), "label": np.zeros(5)},
            "found array 'label' (float64 [5]), expected a row for each of the 4 samples",
        ),
        (
            {"x": np.zeros((4, 3), F4), "target": np.zeros(())},
            "found array 'target' (float64 []), expected a row for each of the 4 samples",
        ),
        (
            {"x": np.zeros((4, 3), F4), "label": np.array([{}], dtype=object)},
            "found array 'label' (which holds pickled objects, expected plain numbers or text)",
        ),
        (
            {"x": np.array([{}], dtype=object)},
            "array 'x': holds pickled objects, expected plain numbers or text",
        ),
    ],
)  # fmt: skip
def test_bad_arrays_are_told_precisely(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    assert refusal(tmp_path, [X], arrays).startswith(f"FILE: {message}")


def test_lengths_must_agree(tmp_path: Path) -> None:
    arrays = {"x": np.zeros((4, 3), F4), "y": np.zeros((5, 2), F4)}
    assert refusal(tmp_path, [X, spec("y", "N", 2)], arrays) == (
        "FILE: arrays differ in their number of samples (first axis): 'x' (float32 [4, 3]), "
        "'y' (float32 [5, 2])"
    )


def test_other_arrays_with_a_row_for_each_sample_are_truths(tmp_path: Path) -> None:
    arrays = {
        "x": np.zeros((4, 3), F4),
        "path": np.array(["a", "b", "c", "d"]),
        "names": np.array(["cat", "dog"]),
        "rate": np.int64(1),
        "objects": np.array([{}] * 4, dtype=object),
    }
    data = opened(tmp_path, [X], arrays, batch=3)
    assert data.truths == ("path",)
    assert [item.truth["path"].tolist() for item in data.batches()] == [["a", "b", "c"], ["d"]]


def test_labels_that_are_inputs_are_fed(tmp_path: Path) -> None:
    inputs = [X, spec("label", "N", dtype="int64")]
    data = opened(tmp_path, inputs, {"x": np.zeros((4, 3), F4), "label": np.arange(4)})
    (batch,) = data.batches()
    assert list(batch.feeds) == ["x", "label"]
    assert batch.truth == {}


def test_optional_inputs_may_be_missing_and_others_are_unsupported(tmp_path: Path) -> None:
    optional = spec("o", dtype="optional(tensor(float))")
    arrays = {"x": np.zeros((4, 3), F4)}
    assert sizes(opened(tmp_path, [X, optional], arrays)) == [4]
    text = refusal(tmp_path, [X, optional], {**arrays, "o": np.zeros(4)})
    assert text == "FILE: input 'o' is a optional(tensor(float)); data files hold tensors"


def test_byte_order_of_the_file_is_no_matter(tmp_path: Path) -> None:
    values = np.arange(6, dtype=">f4").reshape(2, 3)
    (batch,) = opened(tmp_path, [X], {"x": values}).batches()
    assert batch.feeds["x"].dtype == F4
    assert batch.feeds["x"].dtype.isnative
    assert batch.feeds["x"].tolist() == values.tolist()


def test_text_is_fed(tmp_path: Path) -> None:
    data = opened(tmp_path, [spec("t", "N", dtype="str")], {"t": np.array(["a", "bcd"])})
    (batch,) = data.batches()
    assert batch.feeds["t"].tolist() == ["a", "bcd"]


def folder_of(folder: Path, *lengths: int, **extra: Any) -> list[Path]:
    paths = [folder / f"{index}.npz" for index in range(len(lengths))]
    for path, length in zip(paths, lengths, strict=True):
        np.savez(path, x=np.full((length, 3), length, F4), **extra)
    return paths


def test_limit_counts_over_the_files(tmp_path: Path) -> None:
    paths = folder_of(tmp_path, 3, 40, 5)
    data = open_npz(paths, [X], DataOptions(limit=40), tmp_path)
    assert (data.kind, data.path, data.available) == ("npz-folder", str(tmp_path), 48)
    found = [(item.where, item.is_start) for item in data.batches()]
    assert found == [
        ("0.npz samples 0..2", True),
        ("1.npz samples 0..31", True),
        ("1.npz samples 32..36", False),
    ]


def test_files_of_different_lengths_of_an_input(tmp_path: Path) -> None:
    for length in (4, 9):
        np.savez(tmp_path / f"{length}.npz", x=np.zeros((1, length), F4))
    paths = [tmp_path / "4.npz", tmp_path / "9.npz"]
    data = open_npz(paths, [spec("x", "N", "T")], DataOptions(), tmp_path)
    assert [item.feeds["x"].shape for item in data.batches()] == [(1, 4), (1, 9)]


def test_the_bad_file_is_named_before_the_first_batch(tmp_path: Path) -> None:
    paths = folder_of(tmp_path, 3, 4)
    np.savez(paths[1], x=np.zeros((3, 3)))
    with pytest.raises(InputError, match=r"1\.npz: input 'x': found float64 \[3, 3\]"):
        open_npz(paths, [X], DataOptions(), tmp_path)
    np.savez(paths[1], x=np.zeros((3, 3), F4), label=np.arange(3))
    with pytest.raises(InputError, match=r"1\.npz: found truth arrays label; expected none, as in"):
        open_npz(paths, [X], DataOptions(), tmp_path)


def test_fixed_first_size_holds_for_each_file(tmp_path: Path) -> None:
    paths = folder_of(tmp_path, 4, 6)
    with pytest.raises(InputError, match=r"1\.npz: found 6 samples, .* multiple of 4, .*; 4 of"):
        open_npz(paths, [spec("x", 4, 3)], DataOptions(), tmp_path)
    data = open_npz(paths, [spec("x", 4, 3)], DataOptions(limit=8), tmp_path)
    assert sizes(data) == [4, 4]


def test_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    data = opened(tmp_path, [X], {"x": np.zeros((4, 3), F4)})
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 3), F4))
    with pytest.raises(InputError, match="was changed while it was in use"):
        list(data.batches())


def test_a_walk_left_early_closes_the_file(tmp_path: Path) -> None:
    data = opened(tmp_path, [X], {"x": np.zeros((99, 3), F4)})
    walk = data.batches()
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    gc.collect()  # an open file would warn here, which is an error


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_is_that_of_a_batch(tmp_path: Path, order: Any) -> None:
    values = np.zeros((512, 3, 1 << 12), F4, order)  # 25 MB, 1.6 MB a batch
    np.savez_compressed(tmp_path / "x.npz", x=values)
    del values
    tracemalloc.start()
    try:
        inputs = [spec("x", "N", 3, None)]
        data = open_npz([tmp_path / "x.npz"], inputs, DataOptions(), None)
        assert sum(sizes(data)) == 512
        # While a batch is made the one before is still there, and unpacking takes chunks.
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
