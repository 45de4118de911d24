import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import onnxq
from onnxq import runtime
from onnxq.errors import InputError, MissingDependencyError, UnsupportedError
from onnxq.runtime import SessionSettings
from onnxq.session_settings import make_options
from tests import graphs
from tests.tiny_models import from_text, scaled

ROWS = from_text(
    "g (int64[4] i) => (float[4] y) <float[1] w = {7.0}> { y = Gather<axis = 0>(w, i) }"
)


def test_a_session_describes_its_inputs_and_outputs(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(scaled(2))
    session = runtime.open_session(tmp_path / "m.onnx")
    assert session.inputs == (runtime.InputSpec(name="x", dtype="float32", shape=("N", 3)),)
    assert session.outputs == ("y",)
    assert session.output_specs == (runtime.OutputSpec(name="y", dtype="float32", shape=("N", 3)),)
    assert session.provider == "CPUExecutionProvider"
    assert session.load_seconds > 0


@pytest.mark.parametrize(
    "settings",
    [
        SessionSettings(threads=1),
        SessionSettings(is_optimized=False),
        SessionSettings(is_packed=True),
        SessionSettings(provider="auto"),
        SessionSettings(options={"session.disable_prepacking": "1", "enable_mem_pattern": "0"}),
    ],
)
def test_run_returns_every_output_by_name(settings: SessionSettings) -> None:
    session = runtime.open_session(scaled(2), settings)
    outputs = session.run({"x": np.ones((2, 3), np.float32)})
    assert list(outputs) == ["y"]
    np.testing.assert_array_equal(outputs["y"], np.full((2, 3), 2, np.float32))


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("layout", ["portable", "native", "bytes"])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_packed_weights_stay_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opset: int, layout: Any, bits: int
) -> None:
    source = graphs.matmul_add(opset=opset, size=128)
    _, model = onnxq.convert(source, bits=bits, layout=layout, init="quantile", check=0)

    def saving(ort: Any, settings: SessionSettings) -> Any:
        options = make_options(ort, settings)
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        return options

    monkeypatch.setattr(runtime, "make_options", saving)
    sizes, outputs = [], []
    for settings in (SessionSettings(), SessionSettings(is_packed=True)):
        session = runtime.open_session(model.SerializeToString(), settings)
        outputs.append(session.run(graphs.feeds(source))["y"])
        held = onnx.load(tmp_path / "optimized.onnx").graph.initializer
        sizes.append(sum(tensor.ByteSize() for tensor in held))
    assert sizes[0] > 4 * 128 * 96
    assert sizes[1] < 1.3 * 128 * 96
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)


def test_bfloat16_goes_in_and_comes_out() -> None:
    model = from_text("g (bfloat16[N, 3] x) => (bfloat16[N, 3] y) { y = Identity(x) }")
    session = runtime.open_session(model)
    feeds = {"x": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)}
    np.testing.assert_array_equal(session.run(feeds)["y"], feeds["x"])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.ones((2, 4), np.float32)}, r"'x': found shape \[2, 4\], expected \[N, 3\]"),
        ({"x": np.ones(3, np.float32)}, r"'x': found shape \[3\], expected \[N, 3\]"),
        ({"x": np.ones((2, 3))}, "'x': found dtype float64, expected float32"),
        ({"x": np.full((2, 3), "a")}, "'x': found dtype text, expected float32"),
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


def test_cuda_is_used_where_it_works_and_refused_elsewhere() -> None:
    cuda = SessionSettings(provider="cuda")
    if runtime.cuda_works():
        assert runtime.open_session(scaled(2), cuda).provider == "CUDAExecutionProvider"
    else:
        with pytest.raises(UnsupportedError, match=r"--provider cuda: .* pass --provider cpu"):
            runtime.open_session(scaled(2), cuda)


def test_looking_for_cuda_is_silent(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: None)  # a driver, but no more
    works = runtime.cuda_works.__wrapped__()
    assert works == runtime.cuda_works()
    assert capfd.readouterr() == ("", "")


def test_cuda_counts_only_with_the_right_result(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    class OnTheCpu(onnxruntime.InferenceSession):
        def __init__(self, model: bytes, options: object, *_: object, **__: object) -> None:
            super().__init__(model, options, ["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", OnTheCpu)
    cuda = ["CUDAExecutionProvider"]
    assert runtime._computes(onnxruntime, cuda)
    monkeypatch.setattr(OnTheCpu, "run", lambda *_: [np.zeros((1, 1, 2, 2), np.float32)])
    assert not runtime._computes(onnxruntime, cuda)


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
