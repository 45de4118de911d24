"""The benchmarks run, and the models that they generate have the shapes they claim."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tools.bench import convert, graph_library, latency, make_models, record, same_bytes

DIGITS = Path(__file__).parent.parent / "models" / "digits.onnx"


def test_spread_gives_the_median_and_the_extremes() -> None:
    assert record.spread([3.0, 1.0, 2.0]) == {
        "median": 2.0,
        "min": 1.0,
        "max": 3.0,
        "all": [3.0, 1.0, 2.0],
    }


@pytest.mark.skipif(sys.platform == "win32", reason="needs wait4")
def test_run_measures_a_child_process_and_its_memory() -> None:
    code = "print(sum(bytearray(b'x') * 100_000_000) // 120)"
    finished = record.run([sys.executable, "-c", code])
    assert finished.stdout == "100000000\n"
    assert finished.seconds > 0
    assert finished.peak_rss_bytes > 100_000_000
    with pytest.raises(RuntimeError, match="exit status 3"):
        record.run([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.skipif(sys.platform == "win32", reason="needs wait4")
def test_a_small_process_reads_a_small_peak() -> None:
    inner = [sys.executable, "-c", "print(len(bytearray(b'x') * 100_000_000))"]
    code = f"from tools.bench import record; print(record.run({inner!r}).peak_rss_bytes)"
    environment = {**os.environ, "PYTHONPATH": str(DIGITS.parent.parent)}
    command = [sys.executable, "-c", code]
    text = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    assert 100_000_000 < int(text) < 200_000_000


def test_weights_depend_on_seed_and_name_alone() -> None:
    def drawn(name: str, seed: int) -> np.ndarray:
        return next(make_models.heavy_tailed(make_models.generator(name, seed), 99, 1.0))

    assert drawn("w", 0).dtype == np.float32
    assert np.array_equal(drawn("w", 0), drawn("w", 0))
    assert not np.array_equal(drawn("w", 0), drawn("w", 1))
    assert not np.array_equal(drawn("w", 0), drawn("x", 0))


def test_weights_are_heavy_tailed_and_of_the_asked_deviation() -> None:
    chunks = make_models.heavy_tailed(make_models.generator("w"), 1 << 20, 0.5)
    values = np.concatenate(list(chunks)).astype(np.float64)
    assert abs(values.std() - 0.5) < 0.01
    assert 4 < np.mean(values**4) / np.mean(values**2) ** 2 < 12


@pytest.mark.large
def test_the_large_model_stands_in_external_data(tmp_path: Path) -> None:
    make_models.write_large(tmp_path / "large.onnx", layers=1)
    onnx.checker.check_model(str(tmp_path / "large.onnx"))
    assert (tmp_path / "large.onnx").stat().st_size < 10_000
    assert (tmp_path / "large.onnx.data").stat().st_size == 4 * 8192 * 16384


@pytest.mark.slow
def test_convert_benchmark_measures_digits() -> None:
    result = convert.measure(DIGITS, [4, 6], 2, [])
    assert result["largest_tensor_elements"] == 36_864
    four, six = result["convert"][4], result["convert"][6]
    assert four["output_bytes"] < six["output_bytes"] < result["model_bytes"]
    assert len(four["ratio_to_sort"]["all"]) == 2


@pytest.mark.slow
def test_latency_benchmark_measures_digits() -> None:
    (load,) = latency.measure_loads([DIGITS], 2)
    assert load["seconds"]["median"] > 0
    assert load["seconds_ratio"]["median"] == 1
    result = latency.measure_latency(DIGITS, DIGITS, (3, 5, 0))
    assert 0.2 < result["ratio"]["median"] < 5


def test_a_round_trip_through_protobuf_changes_nothing() -> None:
    found = graph_library.round_trips([DIGITS])
    assert found["identical_protobuf"] == 1
    assert found["identical_onnx_ir"] + found["larger_onnx_ir"] + found["smaller_onnx_ir"] == 1


def test_conversions_are_told_apart_by_their_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_bytes, "WIDTHS", (2, 3))
    monkeypatch.setattr(same_bytes, "INITS", ("uniform",))
    found = same_bytes.convert(sys.executable, [DIGITS], {})
    digests = found["digests"]
    assert list(digests) == ["digits.onnx 2 uniform", "digits.onnx 3 uniform"]
    assert len(set(digests.values())) == 2
