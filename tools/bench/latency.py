"""Measure what conversion costs at load and at inference in onnxruntime, default session options.

    python -m tools.bench.latency ORIGINAL CONVERTED... --repeats 7 --runs 20 --json OUT.json

Each load happens in a process of its own, original and converted in turn; that process also reports
its peak memory and the memory left after the load. For the latency both models sit in one process
and run alternately on the same random input. Ratios are taken within a repeat.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.bench import record

# What the measured processes run. Both pass default session options and use the CPU, and feed
# normal noise with every dynamic dimension set to 1.
LOAD = """
import json, os, resource, sys, time
import onnxruntime
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before, cpu = resident(), time.process_time()
start = time.perf_counter()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
seconds = time.perf_counter() - start
print(json.dumps({
    "seconds": seconds,
    "cpu_seconds": time.process_time() - cpu,
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "loaded_bytes": resident() - before,
}))
"""
LATENCY = """
import json, sys, time
import numpy, onnxruntime
paths, repeats, runs, seed = sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
sessions = [onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]) for p in paths]
rng = numpy.random.default_rng(seed)
dtypes = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
feeds = {}
for given in sessions[0].get_inputs():
    shape = [side if isinstance(side, int) else 1 for side in given.shape]
    feeds[given.name] = rng.standard_normal(shape).astype(dtypes[given.type])
def seconds(session):
    start = time.perf_counter()
    for _ in range(runs):
        session.run(None, feeds)
    return (time.perf_counter() - start) / runs
for session in sessions:
    seconds(session)
print(json.dumps([[seconds(session) for session in sessions] for _ in range(repeats)]))
"""
FIELDS = ("seconds", "cpu_seconds", "peak_rss_bytes", "loaded_bytes")


def measure_loads(models: Sequence[Path], repeats: int) -> list[dict[str, Any]]:
    """Return each model's load figures, with ratios to the first model's."""
    rounds: list[list[dict[str, float]]] = []
    for turn in range(repeats + 1):
        loads = [json.loads(_python(LOAD, str(model))) for model in models]
        if turn > 0:  # the first round only warms the page cache
            rounds.append(loads)
    return [_load_figures(rounds, index) for index in range(len(models))]


def _load_figures(rounds: list[list[dict[str, float]]], index: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in FIELDS:
        figures[name] = record.spread([loads[index][name] for loads in rounds])
        ratios = [loads[index][name] / loads[0][name] for loads in rounds]
        figures[f"{name}_ratio"] = record.spread(ratios)
    return figures


def measure_latency(original: Path, converted: Path, settings: Sequence[int]) -> dict[str, Any]:
    """Return both latencies and their ratio; `settings` are repeats, runs per repeat, seed."""
    arguments = [str(original), str(converted), *map(str, settings)]
    pairs = json.loads(_python(LATENCY, *arguments))
    return {
        "original_seconds": record.spread([first for first, _ in pairs]),
        "converted_seconds": record.spread([second for _, second in pairs]),
        "ratio": record.spread([second / first for first, second in pairs]),
    }


def _python(code: str, *arguments: str) -> str:
    return record.run([sys.executable, "-c", code, *arguments]).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure load time and inference latency.")
    parser.add_argument("original", type=Path)
    parser.add_argument("converted", type=Path, nargs="+")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--runs", type=int, default=20, help="inferences per repeat")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the result goes; stdout without it")
    arguments = parser.parse_args()
    models = [arguments.original, *arguments.converted]
    loads = measure_loads(models, arguments.repeats)
    settings = (arguments.repeats, arguments.runs, arguments.seed)
    results = []
    for model, load in zip(models, loads, strict=True):
        latency = measure_latency(arguments.original, model, settings)
        size = model.stat().st_size
        results.append({"model": model.name, "file_bytes": size, "load": load, "latency": latency})
    record.write(
        {
            "benchmark": "latency",
            **record.environment(),
            "seed": arguments.seed,
            "repeats": arguments.repeats,
            "runs": arguments.runs,
            "models": results,
        },
        arguments.json,
    )


if __name__ == "__main__":
    main()
