"""Sections of the results of the published tables with made-up figures, for pages and plots."""

from __future__ import annotations

from typing import Any

from tools.ce2.published import Row, table
from tools.ce2.tables import published

CIRCUMSTANCES: dict[str, Any] = {
    "environment": {
        "commit": "0123456789abcdef",
        "uncommitted_changes": False,
        "machine": {"cpu": "a processor", "cores": 2, "memory_bytes": 2**33, "system": "Linux"},
        "versions": {"python": "3.11.7", "onnxruntime-gpu": "1.31.1"},
    },
    "seconds": 12.3,
}
MODEL = {"file_bytes": 310_000, "own_graph_bytes": 5_284, "parameters": 76_179, "tensors": 18}


def estimate(value: float, spread: float = 0.5) -> dict[str, float]:
    return {
        "value": value,
        "standard_error": spread / 2,
        "low": value - spread,
        "high": value + spread,
    }


def metric(value: float, reference: float = 31.25) -> dict[str, Any]:
    return {
        "reference": estimate(reference),
        "candidate": estimate(value),
        "difference": estimate(value - reference),
        "samples": 24,
    }


TIMES = {
    "load_seconds": 0.25,
    "median_seconds": 0.125,
    "load_peak_bytes": 64_000_000,
    "run_peak_bytes": 70_000_000,
}


def converted(row: Row, growth: int, *, is_scored: bool = True) -> dict[str, Any]:
    """Return what a row becomes; the large networks, unscored, are timed."""
    timed: dict[str, Any] = {}
    if row.parameters > 1_000_000:
        timed = {"reference": TIMES, "candidate": TIMES, "load_ratio": 1.0, "latency_ratio": 1.0}
    ran = {"output_snr_db": 5.0 * row.bits, "is_equal": False}
    found: dict[str, Any] = {
        "file_bytes": row.quantized_bytes + growth + MODEL["own_graph_bytes"],
        "ratio": 4.2,
        "net_bytes": row.quantized_bytes + growth,
        "ce2_bytes": row.quantized_bytes,
        "encoded_tensors": 17,
        "encoded_weights": row.parameters - 3,
        "kept_floats": 3,
        "centroids": 17 * 2**row.bits,
        "full_centroids": 17 * 2**row.bits,
        "index_padding": 0,
        "codebook_filling": 0,
        "graph_growth": growth,
        "command": f"onnxq convert imagecomp.onnx out.onnx --bits {row.bits}",
        "seconds": 1.5,
        "peak_bytes": 120_000_000,
    }
    if is_scored:
        found["score"] = {**ran, "metric": metric(20 + row.bits)}
    else:
        found["run"] = {**ran, "command": "onnxq validate", "samples": 1, **timed}
    return found


def table_section(number: int = 3, growth: int = 900, *, is_scored: bool = True) -> dict[str, Any]:
    """Return a section whose rows all exceed the published size by `growth` bytes of graph."""
    rows = table(number)
    return {
        "table": number,
        "network": rows[0].network,
        "title": rows[0].network,
        "weights": "trained" if is_scored else "synthetic",
        "origin": f"models/{rows[0].network}.onnx",
        "built": None if is_scored else {"seconds": 61.5, "peak_bytes": 1_200_000_000},
        "metric": "psnr" if is_scored else None,
        "model": MODEL,
        "command": f"python tools/ce2_tables.py table{number}",
        "scored_by": "onnxq sweep",
        "tolerance": 0.05,
        "rows": [table_row(row, growth, is_scored=is_scored) for row in rows],
        **CIRCUMSTANCES,
    }


def table_row(row: Row, growth: int, *, is_scored: bool) -> dict[str, Any]:
    limit = int(1.05 * row.quantized_bytes)
    found = row.quantized_bytes + growth
    is_met = found <= limit
    return {
        "bits": row.bits,
        "published": published(row),
        "preset": converted(row, growth, is_scored=is_scored),
        "default": _untimed(converted(row, growth // 2, is_scored=is_scored)),
        "implied_centroids": 126.0,
        "goals": [
            {"goal": "ce2_bytes", "found": 1, "limit": 2, "is_met": True, "why": ""},
            {
                "goal": "net_bytes",
                "found": found,
                "limit": limit,
                "is_met": is_met,
                "why": "" if is_met else "decode graph of 17 tensors: a reason",
            },
        ],
    }


def _untimed(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a row becomes by default, which nobody times."""
    if "run" not in found:
        return found
    return {
        **found,
        "run": {k: v for k, v in found["run"].items() if k not in ("reference", "candidate")},
    }


def lowrank_section(*, is_scored: bool = True) -> dict[str, Any]:
    """Return a section of the original and of versions at two ratios by both methods."""
    named = [(None, None)] + [(r, m) for r in (0.8, 0.4) for m in ("weights", "activations")]
    versions = []
    for ratio, method in named:
        version: dict[str, Any] = {"ratio": ratio, "method": method, "model": MODEL, "seconds": 2.0}
        if is_scored and ratio is not None:
            version["against_original"] = metric(30.0)
        if is_scored and method == "activations":
            version["against_weights"] = metric(32.0)
        version["points"] = [
            point(bits, kind, ratio or 1.0, is_scored=is_scored)
            for bits in (3, 4)
            for kind in ("preset", "default")
        ]
        versions.append(version)
    return {
        "network": "imagecomp" if is_scored else "vgg16",
        "title": "Image compression",
        "weights": "trained" if is_scored else "synthetic",
        "origin": "models/imagecomp.onnx",
        "built": None,
        "metric": "psnr" if is_scored else None,
        "model": MODEL,
        "command": "python tools/ce2_tables.py lowrank-imagecomp",
        "methods": ["weights", "activations"],
        "versions": versions,
        **CIRCUMSTANCES,
    }


def point(bits: int, kind: str, share: float, *, is_scored: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "bits": bits,
        "kind": kind,
        "file_bytes": int(10_000 * bits * share),
        "ce2_bytes": int(9_000 * bits * share),
    }
    if is_scored:
        found["metric"] = metric(20 + bits * share)
    return found


def table4_section() -> dict[str, Any]:
    rows = table(4)
    versions = [
        {"ratio": 0.7, "method": m, "model": MODEL, "command": "onnxq lowrank", "seconds": 2.0}
        for m in ("weights", "activations")
    ]
    section = table_section(4)
    del section["tolerance"]
    measured = {
        row.bits: {
            "bits": row.bits,
            "published": published(row),
            **{
                method: {"preset": converted(row, 900), "default": converted(row, 500)}
                for method in ("weights", "activations")
            },
        }
        for row in rows
    }
    return {
        **section,
        "methods": ["weights", "activations"],
        "versions": versions,
        "rows": list(measured.values()),
    }
