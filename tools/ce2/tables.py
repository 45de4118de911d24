"""Measure one published table: every row converted under the preset and by default, and scored.

Every figure comes from a command of `onnxq`: `convert` for sizes, time and memory, `validate` for
loading and running, `sweep` for scores on held-out data.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxq import report as reports
from tools.bench import record
from tools.ce2 import commands, networks, sizes
from tools.ce2.networks import Setup, Source
from tools.ce2.published import Row, table

METRIC = ("reference", "candidate", "difference", "is_within_noise", "samples", "detail")
"""What is kept of a metric's row."""
KINDS = ("preset", "default")
"""What every network is converted by: the preset of the published method, and our defaults."""


def options(kind: str, source: Source) -> tuple[str, ...]:
    """Return the options that a kind of conversion has beside the width."""
    return ("--preset", "ce2", *source.network.preset) if kind == "preset" else ()


def grid(chosen: Sequence[str]) -> list[str]:
    """Return options of `convert` as those of `sweep`.

    >>> grid(("--preset", "ce2", "--quantize-variance"))
    ['--grid', 'preset=ce2', '--grid', 'quantize-variance=true']
    """
    words: list[str] = []
    for word in chosen:
        if word.startswith("--"):
            words += ["--grid", f"{word[2:]}=true"]
        else:
            words[-1] = f"{words[-1].partition('=')[0]}={word}"
    return words


def measure(number: int, setup: Setup, rows: Sequence[Row] | None = None) -> dict[str, Any]:
    """Return the section of a table of original networks.

    Args:
        number: 1, 2, 3 or 5.
        setup: where the networks are.
        rows: published rows to measure; all by default.

    Raises:
        RuntimeError: a network cannot be built, or a command failed.
        ValueError: the network is not that of the table.
    """
    start = time.perf_counter()
    chosen = table(number) if rows is None else rows
    source = networks.find(chosen[0].network, setup)
    model = describe(source.path)
    if model["parameters"] != chosen[0].parameters:
        raise ValueError(
            f"{source.path.name}: found {model['parameters']:,} parameters, expected "
            f"{chosen[0].parameters:,} of table {number}; build or train the network again"
        )
    scores = score(source.path, source, [row.bits for row in chosen])
    measured = [_row(row, source, scores) for row in chosen]
    return {
        "table": number,
        **heading(source, model),
        "command": f"python tools/ce2_tables.py table{number}" + _words(setup),
        "scored_by": scores.get("command"),
        "tolerance": source.network.tolerance,
        "rows": measured,
        "seconds": time.perf_counter() - start,
        "environment": record.environment(),
    }


def _words(setup: Setup) -> str:
    """Return the options that decide what is measured, as the command has them."""
    return "" if setup.is_timed else " --no-times"


def heading(source: Source, model: dict[str, Any]) -> dict[str, Any]:
    """Return what a section says of its network."""
    return {
        "network": source.network.name,
        "title": source.network.title,
        "weights": source.weights,
        "origin": source.origin,
        "built": source.built,
        "metric": source.network.metric.partition(":")[0] if source.evaluation else None,
        "model": model,
    }


def describe(path: Path) -> dict[str, Any]:
    """Return the bytes, digest, float parameters and tensors of a model.

    Parameters are the float weights that `onnxq inspect` lists.
    """
    found = commands.run(["inspect", path]).report
    weights = [row for row in found["weights"] if row["reason"] not in reports.NO_WEIGHTS]
    parameters = sum(row["elements"] for row in weights)
    size = found["model"]["file_bytes"]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file_bytes": size,
        "sha256": digest,
        "own_graph_bytes": size - 4 * parameters,
        "parameters": parameters,
        "tensors": len(weights),
    }


def score(path: Path, source: Source, widths: Sequence[int]) -> dict[str, Any]:
    """Return the figures of sweeps over held-out data by (kind, bits); none without data."""
    if not source.evaluation:
        return {}
    metrics = ("--metric", source.network.metric, "--metric", "snr")
    bits = ",".join(str(width) for width in widths)
    points, lines = {}, []
    for kind in KINDS:
        words: commands.Words = ["sweep", path, "--bits", bits, *grid(options(kind, source))]
        done = commands.run([*words, *source.evaluation, *metrics])
        lines.append(done.command)
        for point in done.report["points"]:
            if point["error"] is not None:
                raise RuntimeError(f"{path.name}, {point['settings']}: {point['error']}")
            key = (kind, point["settings"]["bits"])
            points[key] = _figures(point, source.network.metric)
    samples = done.report["data"]["samples"]
    return {"command": "; ".join(lines), "samples": samples, "points": points}


def _figures(point: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return what is kept of a working point: bytes, the score of both models, output SNR."""
    (row,) = [row for row in point["metrics"] if row["name"] == metric]
    return {
        "file_bytes": point["file_bytes"],
        "ce2_bytes": point["ce2_bytes"],
        "metric": {key: row[key] for key in METRIC},
        "output_snr_db": point["check"]["worst_snr_db"],
        "is_equal": point["check"]["is_equal"],
    }


def convert(path: Path, out: Path, bits: int, chosen: Sequence[str]) -> dict[str, Any]:
    """Convert once; return the sizes, the time and the memory of the conversion."""
    words: commands.Words = ["convert", path, out, "--bits", str(bits), *chosen]
    done = commands.run([*words, "--no-check", "--force"])
    report = reports.from_json(done.report)
    if not isinstance(report, reports.Report):
        raise TypeError("convert writes the report of a conversion")
    return {**sizes.sizes(report).to_json(), **done.cost}


def converted(path: Path, source: Source, bits: int, scores: dict[str, Any]) -> dict[str, Any]:
    """Return what a model becomes under the preset and by default: sizes, cost, scores or a run.

    Args:
        path: the model, the network itself or a low-rank version of it.
        source: the network.
        bits: width of the indices.
        scores: of `score`; without any, the models run on random inputs, and may be timed.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        for key in KINDS:
            found[key] = convert(path, out, bits, options(key, source))
            if scores:
                found[key]["score"] = same_size(scores["points"][key, bits], found[key])
            else:
                is_timed = key == "preset" and source.is_timed
                found[key]["run"] = _run(path, out, is_timed=is_timed)
    return found


def _row(row: Row, source: Source, scores: dict[str, Any]) -> dict[str, Any]:
    """Return one row: published, under the preset, by default, and how the goals are met."""
    measured = converted(source.path, source, row.bits, scores)
    ours = sizes.Sizes(**{name: measured["preset"][name] for name in sizes.NAMES})
    return {
        "bits": row.bits,
        "published": published(row),
        **measured,
        "implied_centroids": sizes.implied(row, ours),
        "goals": [
            sizes.ce2_goal(row, ours),
            sizes.file_goal(row, ours, source.network.tolerance),
        ],
    }


def published(row: Row) -> dict[str, Any]:
    """Return what a published row says, as JSON-ready values."""
    return {
        "bytes": row.quantized_bytes,
        "ratio": row.ratio,
        "working_point": row.working_point,
        "metrics": [
            {"name": each.name, "original": each.original, "quantized": each.quantized}
            for each in row.metrics
        ],
        "note": row.note,
    }


def _run(reference: Path, candidate: Path, *, is_timed: bool) -> dict[str, Any]:
    """Load and run both models in onnxruntime; return how outputs, times and memory compare."""
    timing = ("load_seconds", "median_seconds", "load_peak_bytes", "run_peak_bytes")
    words: commands.Words = [
        "validate",
        reference,
        candidate,
        *([] if is_timed else ["--no-performance"]),
    ]
    done = commands.run(words)
    check, taken = done.report["check"], done.report["performance"]
    found = {
        "command": done.command,
        "samples": check["samples"],
        "output_snr_db": check["worst_snr_db"],
        "is_equal": check["is_equal"],
    }
    if taken is None:
        return found
    return {
        **found,
        "reference": {key: taken["reference"][key] for key in timing},
        "candidate": {key: taken["candidate"][key] for key in timing},
        "load_ratio": taken["load_ratio"],
        "latency_ratio": taken["latency_ratio"],
    }


def same_size(point: dict[str, Any], converted: dict[str, Any]) -> dict[str, Any]:
    """Return a point's figures; what was scored must have the bytes of what was converted."""
    if point["file_bytes"] != converted["file_bytes"]:
        raise ValueError(
            f"{converted['command']}: {converted['file_bytes']:,} bytes, but the sweep's model has "
            f"{point['file_bytes']:,}; the code changed in between, so measure again"
        )
    return {key: point[key] for key in ("metric", "output_snr_db", "is_equal")}
