"""Measure `onnxq convert`: wall seconds and peak memory, as ratios to `cp` and `np.sort`.

    python -m tools.bench.convert MODEL --bits 4 6 --repeats 5 --json OUT.json

Every repeat runs, one after the other, `cp` of the model, `np.sort` of its largest float32 tensor
and one conversion per bit width, so a noisy machine disturbs all alike; the ratios are taken within
a repeat. `cp` is timed without and with fsync, because convert ends with one. Conversions run with
--no-check: running the model is not conversion. The distortion is what convert's report says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.bench import record

# Run in a process of its own: numpy and the tensor must not count in this one.
SORT = """
import sys, time, numpy, onnx
graph = onnx.load(sys.argv[1], load_external_data=False).graph
best = max(
    (t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT),
    key=lambda t: numpy.prod(t.dims, dtype=float),
)
values = onnx.numpy_helper.to_array(best, sys.argv[2]).ravel().copy()
start = time.perf_counter()
values.sort()
print(time.perf_counter() - start, values.size)
"""


@dataclass(kw_only=True)
class Measured:
    """The repeats of one bit width."""

    seconds: list[float] = field(default_factory=list)
    to_cp: list[float] = field(default_factory=list)
    to_cp_fsync: list[float] = field(default_factory=list)
    to_sort: list[float] = field(default_factory=list)
    peak_rss_bytes: list[float] = field(default_factory=list)
    output_bytes: int = 0
    quality: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "output_bytes": self.output_bytes,
            **self.quality,
            "seconds": record.spread(self.seconds),
            "peak_rss_bytes": record.spread(self.peak_rss_bytes),
            "ratio_to_cp": record.spread(self.to_cp),
            "ratio_to_cp_fsync": record.spread(self.to_cp_fsync),
            "ratio_to_sort": record.spread(self.to_sort),
        }


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Seconds of the baselines, one entry per repeat."""

    cp: list[float] = field(default_factory=list)
    cp_fsync: list[float] = field(default_factory=list)
    sort: list[float] = field(default_factory=list)


def model_files(model: Path) -> list[Path]:
    """Return the model and its external data, which stand beside it as MODEL*.data."""
    return [model, *sorted(model.parent.glob(f"{model.name}*.data"))]


def convert_command(model: Path, out: Path, bits: int, options: Sequence[str]) -> list[str]:
    """Return the command line that is measured."""
    command = [sys.executable, "-m", "onnxq", "convert", str(model), str(out)]
    command += ["--bits", str(bits), "--json", str(out.with_suffix(".json"))]
    return [*command, "--no-check", "--force", "-q", *options]


def quality(report: Path) -> dict[str, Any]:
    """Return what convert's own report says of the encoded tensors' distortion."""
    tensors = json.loads(report.read_text(encoding="utf-8"))["tensors"]
    gaps = [tensor["gap"] for tensor in tensors if tensor["gap"] is not None]
    return {
        "tensors": len(tensors),
        "tensors_with_known_optimum": len(gaps),
        "worst_gap_to_optimum": max(gaps, default=None),
        "worst_snr_db": min(
            (t["snr_db"] for t in tensors if t["snr_db"] is not None), default=None
        ),
    }


def time_copy(files: Sequence[Path], folder: Path) -> tuple[float, float]:
    """Return the seconds of `cp`, and of `cp` with the fsync that follows it."""
    copied = record.run(["cp", *map(str, files), str(folder)]).seconds
    targets = [folder / file.name for file in files]
    synced = record.run(["sync", *map(str, targets)]).seconds
    for target in targets:
        target.unlink()
    return copied, copied + synced


def time_sort(model: Path) -> tuple[float, int]:
    """Return the seconds that sorting the largest float32 tensor takes, and its elements."""
    output = record.run([sys.executable, "-c", SORT, str(model), str(model.parent)]).stdout
    seconds, elements = output.split()
    return float(seconds), int(elements)


def measure(model: Path, widths: Sequence[int], repeats: int, options: list[str]) -> dict[str, Any]:
    """Return the result of all repeats; the first conversion of each width is a warm-up."""
    measured = {bits: Measured() for bits in widths}
    baselines = Baselines()
    warm_up = {}
    elements = 0
    files = model_files(model)
    with tempfile.TemporaryDirectory(dir=os.environ.get("ONNXQ_BENCH_FOLDER")) as name:
        folder = Path(name)
        out = folder / "out.onnx"
        for bits in widths:
            warm_up[bits] = record.run(convert_command(model, out, bits, options)).seconds
        for _ in range(repeats):
            cp, cp_fsync = time_copy(files, folder)
            sort, elements = time_sort(model)
            baselines.cp.append(cp)
            baselines.cp_fsync.append(cp_fsync)
            baselines.sort.append(sort)
            for bits, result in measured.items():
                done = record.run(convert_command(model, out, bits, options))
                result.seconds.append(done.seconds)
                result.to_cp.append(done.seconds / cp)
                result.to_cp_fsync.append(done.seconds / cp_fsync)
                result.to_sort.append(done.seconds / sort)
                result.peak_rss_bytes.append(done.peak_rss_bytes)
                result.quality = quality(out.with_suffix(".json"))
                result.output_bytes = sum(file.stat().st_size for file in model_files(out))
                print(f"{bits} bits: {done.seconds:.2f} s", file=sys.stderr)
    return {
        "model": model.name,
        "model_bytes": sum(file.stat().st_size for file in files),
        "largest_tensor_elements": elements,
        "options": options,
        "repeats": repeats,
        "cp_seconds": record.spread(baselines.cp),
        "cp_fsync_seconds": record.spread(baselines.cp_fsync),
        "sort_seconds": record.spread(baselines.sort),
        "warm_up_seconds": warm_up,
        "convert": {bits: result.to_json() for bits, result in measured.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure onnxq convert.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--options", default="[]", help="JSON list of further options of convert")
    parser.add_argument("--seed", type=int, default=0, help="the seed the model was made with")
    parser.add_argument("--json", type=Path, help="where the result goes; stdout without it")
    arguments = parser.parse_args()
    model = arguments.model.resolve()
    result = measure(model, arguments.bits, arguments.repeats, json.loads(arguments.options))
    record.write(
        {"benchmark": "convert", **record.environment(), "seed": arguments.seed, **result},
        arguments.json,
    )


if __name__ == "__main__":
    main()
