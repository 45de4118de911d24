"""Measure clustering: seconds against memcpy and np.sort, memory, distortion, and the peers.

    python -m tools.bench.cluster --json docs/bench/cluster.json

Wall seconds suffer from other work on the machine; CPU seconds (all threads together) much less, so
both are given. Baselines are timed in the same repeat as what they are compared with. Peers that
are not installed are reported as such; how to install them is in tools/bench/README.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.bitpack import pack
from onnxq.clustering.cluster import fit
from onnxq.clustering.codebook import assign, distortion
from onnxq.clustering.optimal import solve
from onnxq.clustering.spectrum import spectrum
from tools.bench import record

Array = np.ndarray[Any, np.dtype[Any]]
PEERS = ("scikit-learn", "kmeans1d", "flash1dkmeans", "coremltools")
WIDTHS = (4, 6, 8, 12)


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, CPU seconds of all threads, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def fit_and_pack(values: Array, bit_width: int, jobs: int) -> Any:
    """Do what a conversion does to one tensor."""
    found = fit(values, 1 << bit_width, jobs=jobs)
    return found, pack(found.indices, bit_width)


def peak_extra_bytes(function: Callable[[], Any]) -> int:
    """Return the growth of the process's peak resident memory, beyond the result (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    result = function()
    kept = result.indices.nbytes + result.centroids.nbytes
    return _status("VmHWM") - before - int(kept)


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def optimum(values: Array, k: int) -> float:
    """Return a proven lower bound of the least distortion, from all distinct values."""
    positions, counts = np.unique(values.astype(np.float64), return_counts=True)
    return solve(spectrum(positions, counts.astype(np.float64)), k).bound


def large(n: int, repeats: int, seed: int) -> dict[str, Any]:
    """Measure Gaussian float32 of n values at every width on 1 and 2 threads."""
    values = np.random.default_rng(seed).standard_normal(n, dtype=np.float32)
    other = np.empty_like(values)
    fit_and_pack(values[: 1 << 20], 4, 2)
    runs: dict[tuple[int, int], list[dict[str, float]]] = {}
    copies, sorts = [], []
    for _ in range(repeats):
        copies.append(min(timed(partial(np.copyto, other, values))[0] for _ in range(3)))
        sorts.append(timed(other.sort)[0])
        for width in WIDTHS:
            for jobs in (1, 2):
                wall, cpu, (found, _) = timed(partial(fit_and_pack, values, width, jobs))
                row = {"wall_s": wall, "cpu_s": cpu, "x_memcpy": wall / copies[-1]}
                row |= {
                    "x_sort": wall / sorts[-1],
                    "cpu_s_by_jobs_x_memcpy": cpu / jobs / copies[-1],
                }
                row |= {"mse": found.distortion / n, "gap": found.gap}
                runs.setdefault((width, jobs), []).append(row)
    del other
    rows: list[dict[str, Any]] = [
        {"bits": width, "jobs": jobs, **_summary(found)} for (width, jobs), found in runs.items()
    ]
    for line in rows:
        extra = peak_extra_bytes(partial(fit, values, 1 << line["bits"], jobs=line["jobs"]))
        line["peak_extra_of_tensor"] = float(f"{extra / values.nbytes:.4g}")
    return {
        "data": f"standard normal float32, {n} values",
        "memcpy_s": record.spread(copies),
        "sort_s": record.spread(sorts),
        "rows": rows,
    }


def _summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return the spread of what varies and the value of what does not."""
    fixed = ("mse", "gap")
    spreads = {
        key: record.spread([run[key] for run in runs]) for key in runs[0] if key not in fixed
    }
    return spreads | {key: runs[0][key] for key in fixed}


def quality(n: int, seed: int) -> list[dict[str, Any]]:
    """Compare the default fit with the proven optimum on awkward tensors."""
    rng = np.random.default_rng(seed)
    bell = rng.standard_normal(n)
    outlier = bell.copy()
    outlier[n // 2] = 1e6
    families = {
        "normal": bell,
        "laplace": rng.laplace(size=n),
        "student t3": rng.standard_t(3, n),
        "one outlier of 1e6 deviations": outlier,
        "90 % zeros": np.where(rng.random(n) < 0.9, 0.0, bell),
        "float16 values": bell.astype(np.float16),
        "multiples of 1/40": np.round(bell * 40) / 40,
    }
    rows = []
    for name, wide in families.items():
        values = wide.astype(np.float32)
        for k in (16, 256, 1024, 4096):
            found, best = fit(values, k), optimum(values, k)
            excess = found.distortion / best - 1 if best else 0.0
            rows.append({"data": name, "values": n, "k": k, "excess": float(f"{excess:.3g}")})
            rows[-1]["is_lossless"] = found.is_lossless
    return rows


def _sklearn(values: Array, k: int) -> Array:
    from sklearn.cluster import KMeans

    model = KMeans(k, n_init=1, random_state=0).fit(values.reshape(-1, 1))
    return np.asarray(model.cluster_centers_)


def _kmeans1d(values: Array, k: int) -> Array:
    import kmeans1d

    return np.asarray(kmeans1d.cluster(values, k).centroids)


def _flash(values: Array, k: int) -> Array:
    import flash1dkmeans  # type: ignore[import-not-found, unused-ignore]

    return np.asarray(flash1dkmeans.kmeans_1d(values, k, random_state=0)[0])


def _coremltools(values: Array, k: int) -> Array:
    from coremltools.models.neural_network import quantization_utils as tools

    table, _ = tools._get_kmeans_lookup_table_and_weight(k.bit_length() - 1, values)
    return np.asarray(table)


def _ours(values: Array, k: int) -> Array:
    found, _ = fit_and_pack(values, k.bit_length() - 1, 1)
    return np.asarray(found.centroids)


# (name, function, dtype, the (values, k) that finish in about a minute)
CONTESTANTS: tuple[tuple[str, Callable[[Array, int], Array], Any, set[tuple[int, int]]], ...] = (
    ("onnxq", _ours, np.float32, {(10**6, 16), (10**6, 64), (10**6, 256), (10**7, 256)}),
    ("flash1dkmeans", _flash, np.float32, {(10**6, 16), (10**6, 64), (10**6, 256), (10**7, 256)}),
    ("kmeans1d", _kmeans1d, np.float32, {(10**6, 16), (10**6, 64)}),
    ("scikit-learn", _sklearn, np.float32, {(10**6, 16), (10**6, 64), (10**6, 256)}),
    ("coremltools", _coremltools, np.float16, {(10**6, 16), (10**6, 256), (10**7, 256)}),
    ("coremltools", _coremltools, np.float32, {(10**6, 16), (10**6, 64)}),
    ("onnxq", _ours, np.float16, {(10**6, 16), (10**6, 256), (10**7, 256)}),
)


def peers(repeats: int, seed: int) -> list[dict[str, Any]]:
    """Measure the peers on Laplace values; ratios are to the proven optimum of the same values."""
    rows = []
    for n in (10**6, 10**7):
        wide = np.random.default_rng(seed).laplace(size=n)
        for name, function, dtype, cases in CONTESTANTS:
            values = wide.astype(dtype)
            for k in sorted(k for size, k in cases if size == n):
                row = {"peer": name, "dtype": str(values.dtype), "values": n, "k": k}
                rows.append(row | _contest(partial(function, values, k), values, k, repeats))
    return rows


def _contest(function: Callable[[], Array], values: Array, k: int, repeats: int) -> dict[str, Any]:
    """Run a peer once to warm up and then until `repeats` or 20 seconds of CPU are spent."""
    try:
        first = timed(function)
    except ImportError as error:
        return {"not_run": str(error)}
    runs = [] if first[1] < 10 else [first]
    while len(runs) < repeats and sum(run[1] for run in runs) < 20:
        runs.append(timed(function))
    book = np.unique(runs[-1][2].reshape(-1).astype(values.dtype))
    error_sum = distortion(values, assign(values, book), book)
    return {
        "wall_s": record.spread([run[0] for run in runs]),
        "cpu_s": record.spread([run[1] for run in runs]),
        "mse_to_optimum": float(f"{error_sum / optimum(values, k):.7g}"),
    }


def _peer_versions() -> dict[str, str]:
    found = {}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    """Run everything and write one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=103_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-peers", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = record.environment()
    result["versions"] |= _peer_versions()
    result |= {"seed": arguments.seed, "repeats": arguments.repeats}
    result["large"] = large(arguments.values, arguments.repeats, arguments.seed)
    result["quality"] = quality(2_000_000, arguments.seed)
    if not arguments.skip_peers:
        result["peers"] = peers(arguments.repeats, arguments.seed)
    worst = [row["excess"] for row in result["quality"] if row["k"] <= 1024]
    result["worst_excess_to_1024"] = max(worst)
    result["median_large_x_memcpy_2_jobs"] = {
        row["bits"]: statistics.median(row["x_memcpy"]["all"])
        for row in result["large"]["rows"]
        if row["jobs"] == 2
    }
    record.write(result, arguments.json)


if __name__ == "__main__":
    main()
