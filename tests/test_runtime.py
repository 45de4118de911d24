import os
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from onnxq import runtime
from onnxq.errors import InputError, MissingDependencyError, UnsupportedError
from tests.tiny_models import from_text, scaled

REFLECT = from_text(
    "g (float[batch, time] x) => (float[batch, t] y) <int64[4] p = {0, 64, 0, 64}>"
    '{ y = Pad<mode = "reflect">(x, p) }'
)
ROWS = from_text(
    "g (int64[4] i) => (float[4] y) <float[1] w = {7.0}> { y = Gather<axis = 0>(w, i) }"
)


def test_a_session_describes_its_inputs_and_outputs(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(scaled(2))
    session = runtime.open_session(tmp_path / "m.onnx")
    assert session.inputs == (runtime.InputSpec(name="x", dtype="float32", shape=("N", 3)),)
    assert session.outputs == ("y",)
    assert session.load_seconds > 0


@pytest.mark.parametrize("optimize", [True, False])
def test_run_returns_every_output_by_name(optimize: bool) -> None:
    session = runtime.open_session(scaled(2), optimize=optimize, threads=1)
    outputs = session.run({"x": np.ones((2, 3), np.float32)})
    assert list(outputs) == ["y"]
    np.testing.assert_array_equal(outputs["y"], np.full((2, 3), 2, np.float32))


def test_bfloat16_goes_in_and_comes_out() -> None:
    model = from_text("g (bfloat16[N, 3] x) => (bfloat16[N, 3] y) { y = Identity(x) }")
    session = runtime.open_session(model)
    feeds = runtime.random_feeds(session, 0, 0)
    assert feeds["x"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(session.run(feeds)["y"], feeds["x"])


@pytest.mark.parametrize("dtype", ["float16", "double", "int8", "uint64", "bool", "string"])
def test_random_feeds_of_every_type_are_accepted(dtype: str) -> None:
    model = from_text(f"g ({dtype}[N, 2] x) => ({dtype}[N, 2] y) {{ y = Identity(x) }}")
    session = runtime.open_session(model)
    feeds, outputs = runtime.run_random(session, 0, 0)
    np.testing.assert_array_equal(outputs["y"], feeds["x"])


def test_random_feeds_depend_on_seed_sample_and_name_alone() -> None:
    session = runtime.open_session(scaled(2))
    first = runtime.random_feeds(session, 0, 0)["x"]
    np.testing.assert_array_equal(first, runtime.random_feeds(session, 0, 0)["x"])
    for sample, seed in [(1, 0), (0, 1)]:
        assert not np.array_equal(first, runtime.random_feeds(session, sample, seed)["x"])


def test_integers_are_zero_or_one() -> None:
    model = from_text("g (int32[64] x) => (int32[64] y) { y = Identity(x) }")
    drawn = runtime.random_feeds(runtime.open_session(model), 0, 0)["x"]
    assert set(drawn.tolist()) == {0, 1}


def test_open_dimensions_are_one_unless_named() -> None:
    session = runtime.open_session(scaled(2))
    assert runtime.random_feeds(session, 0, 0)["x"].shape == (1, 3)
    assert runtime.random_feeds(session, 0, 0, {"N": 5})["x"].shape == (5, 3)


def test_a_size_that_the_model_accepts_is_found() -> None:
    feeds, _ = runtime.run_random(runtime.open_session(REFLECT), 0, 0)
    assert feeds["x"].shape == (1, 224)


def test_integers_out_of_range_fall_back_to_zero() -> None:
    feeds, outputs = runtime.run_random(runtime.open_session(ROWS), 0, 0)
    assert feeds["i"].tolist() == [0, 0, 0, 0]
    assert outputs["y"].tolist() == [7, 7, 7, 7]


def test_the_first_error_is_raised_where_nothing_works() -> None:
    model = from_text(
        "g (float[2] x) => (float[3] y) <int64[1] s = {3}> { z = Abs(x) y = Reshape(z, s) }"
    )
    with pytest.raises((InputError, UnsupportedError), match=r"cannot be run: .*Reshape") as info:
        runtime.run_random(runtime.open_session(model), 0, 0)
    assert "\n" not in str(info.value)
    assert "onnxruntime_src" not in str(info.value)


def test_a_huge_input_is_refused_before_it_is_drawn() -> None:
    model = from_text("g (float[1000000, 1000000] x) => (float[a, b] y) { y = Identity(x) }")
    with pytest.raises(UnsupportedError, match=r"'x' of shape .* too large"):
        runtime.random_feeds(runtime.open_session(model), 0, 0)


def test_an_input_that_is_no_tensor_is_refused() -> None:
    model = from_text("g (seq(float[2]) x) => (int64 y) { y = SequenceLength(x) }")
    with pytest.raises(UnsupportedError, match="'x' of type seq"):
        runtime.random_feeds(runtime.open_session(model), 0, 0)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.ones((2, 4), np.float32)}, r"'x': found shape \[2, 4\], expected \[N, 3\]"),
        ({"x": np.ones(3, np.float32)}, r"'x': found shape \[3\], expected \[N, 3\]"),
        ({"x": np.ones((2, 3))}, "'x': found dtype float64, expected float32"),
        ({"x": np.full((2, 3), "a")}, "'x': found dtype str.*, expected float32"),
        ({}, "input 'x' is missing; its inputs are 'x'"),
        ({"x": np.ones((2, 3), np.float32), "z": 1}, "has no input 'z'; its inputs are 'x'"),
    ],
)
def test_a_wrong_feed_is_an_input_error(feeds: dict[str, np.ndarray], message: str) -> None:
    session = runtime.open_session(scaled(2))
    with pytest.raises(InputError, match=f"model in memory: .*{message}"):
        session.run(feeds)


def test_a_shape_without_rank_takes_any_scalar() -> None:
    model = from_text("g (float x) => (float y) { y = Abs(x) }")
    assert runtime.open_session(model).run({"x": np.float32(-1)})["y"] == 1


def test_an_initializer_that_is_an_input_may_be_fed() -> None:
    model = from_text("g (float[1] x, float f = {2.0}) => (float[1] y) { y = Mul(x, f) }")
    session = runtime.open_session(model)
    one = np.ones(1, np.float32)
    assert session.run({"x": one})["y"] == 2
    assert session.run({"x": one, "f": np.float32(3)})["y"] == 3


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "no.onnx"))):
        runtime.open_session(tmp_path / "no.onnx")


def test_a_path_that_is_no_text_is_unsupported(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.onnx"))
    path.write_bytes(scaled(2))
    with pytest.raises(UnsupportedError, match="valid Unicode"):
        runtime.open_session(path)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00" * 64, scaled(2)[:-9]])
def test_damaged_bytes_are_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError, match="onnxruntime cannot load it"):
        runtime.open_session(data)


def test_an_unknown_operator_is_unsupported() -> None:
    model = from_text("g (float[1] x) => (float[1] y) { y = x.Strange(x) }")
    with pytest.raises(UnsupportedError, match="Strange"):
        runtime.open_session(model)


def test_a_missing_onnxruntime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(MissingDependencyError, match="onnxruntime"):
        runtime.open_session(b"")


def test_nothing_is_written_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    session = runtime.open_session(ROWS)
    with pytest.raises(InputError):
        session.run({"i": np.full(4, 9)})
    assert capfd.readouterr() == ("", "")


LOUD = """
import os, sys
class Loud:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime" and sys.stderr:
            os.write(2, b"GPU device discovery failed")
sys.meta_path.insert(0, Loud())
from onnxq import runtime
runtime._import_onnxruntime()
if sys.stderr:
    sys.stderr.write("after")
"""


@pytest.mark.parametrize(("closing", "expected"), [("", "after"), ("2>&-", "")])
def test_importing_onnxruntime_is_silent_and_leaves_stderr(closing: str, expected: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closing}', sys.executable, LOUD],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert (done.returncode, done.stderr) == (0, expected)
