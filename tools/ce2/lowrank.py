"""Measure low-rank versions of a network: ranks from weights alone against ranks from activations.

Versions are made by `onnxq lowrank`, from the weights alone or with a calibration set that is no
part of the held-out data, then converted at every width.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench import record
from tools.ce2 import commands, networks, tables
from tools.ce2.networks import Setup, Source
from tools.ce2.published import Row, table

METHODS = ("weights", "activations")
TABLE_RATIO = 0.7
"""Share of the parameters that Table 4's sizes fit: 0.66 to 0.76 of the original."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Name one version of a network; the original has no ratio and no method."""

    ratio: float | None = None
    method: str | None = None

    @property
    def stem(self) -> str:
        """What its file is called beside others."""
        return "original" if self.ratio is None else f"lowrank-{self.ratio}-{self.method}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {"ratio": self.ratio, "method": self.method}


def measure(
    name: str, setup: Setup, ratios: Sequence[float] = (), widths: Sequence[int] = ()
) -> dict[str, Any]:
    """Return the section of one network: the original and its low-rank versions at every width.

    Without a calibration set there are no versions by activations.

    Args:
        name: the network.
        setup: where the networks are.
        ratios: shares of the parameters to keep; the network's own by default.
        widths: bits to convert at; the network's own by default.

    Raises:
        RuntimeError: the network cannot be built, or a command failed.
    """
    start = time.perf_counter()
    source = networks.find(name, setup)
    methods = METHODS if source.calibration else METHODS[:1]
    bits, chosen = widths or source.network.widths, ratios or source.network.ratios
    versions = [Version(), *(Version(ratio=r, method=m) for r in chosen for m in methods)]
    with tempfile.TemporaryDirectory() as folder:
        measured = [_measure(version, source, bits, Path(folder)) for version in versions]
    return {
        **tables.heading(source, measured[0]["model"]),
        "command": f"python tools/ce2_tables.py lowrank-{name}",
        "methods": list(methods),
        "versions": measured,
        "seconds": time.perf_counter() - start,
        "environment": record.environment(),
    }


def measure_table(setup: Setup, rows: Sequence[Row] | None = None) -> dict[str, Any]:
    """Return the section of Table 4: the low-rank image network beside the published one.

    Raises:
        RuntimeError: a network cannot be built, or a command failed.
    """
    start = time.perf_counter()
    chosen = table(4) if rows is None else rows
    source = networks.find(chosen[0].network, setup)
    methods = METHODS if source.calibration else METHODS[:1]
    rows_measured: list[dict[str, Any]] = [
        {"bits": row.bits, "published": tables.published(row)} for row in chosen
    ]
    versions = []
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            version = Version(ratio=TABLE_RATIO, method=method)
            path, made = make(version, source, Path(folder))
            scores = tables.score(path, source, [row.bits for row in chosen])
            versions.append({**version.to_json(), **made, "scored_by": scores.get("command")})
            for row in rows_measured:
                row[method] = tables.converted(path, source, row["bits"], scores)
    return {
        "table": 4,
        **tables.heading(source, tables.describe(source.path)),
        "command": "python tools/ce2_tables.py table4",
        "methods": list(methods),
        "versions": versions,
        "rows": rows_measured,
        "seconds": time.perf_counter() - start,
        "environment": record.environment(),
    }


def make(version: Version, source: Source, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the file of a version, and what it cost and is; the original is where it is.

    Raises:
        RuntimeError: `onnxq lowrank` failed.
    """
    if version.ratio is None:
        return source.path, {"model": tables.describe(source.path)}
    path = folder / f"{version.stem}.onnx"
    words: commands.Words = ["lowrank", source.path, path, "--ratio", str(version.ratio)]
    words += ["--no-check", *(source.calibration if version.method == "activations" else ())]
    done = commands.run(words)
    return path, {"model": tables.describe(path), **done.cost}


def _measure(version: Version, source: Source, bits: Sequence[int], folder: Path) -> dict[str, Any]:
    """Return one version: its size, its score as floats, and its points."""
    path, made = make(version, source, folder)
    found = {**version.to_json(), **made}
    if source.evaluation and version.ratio is not None:
        found["against_original"] = _compare(source.path, path, source)
        twin = folder / f"{Version(ratio=version.ratio, method=METHODS[0]).stem}.onnx"
        if version.method != METHODS[0]:
            found["against_weights"] = _compare(twin, path, source)
    scores = tables.score(path, source, bits)
    if not scores:
        points = [_convert(path, source, width, key) for width in bits for key in tables.KINDS]
        return {**found, "points": points}
    points = [
        {"bits": width, "kind": key, **scores["points"][key, width]}
        for width in bits
        for key in tables.KINDS
    ]
    return {**found, "scored_by": scores["command"], "points": points}


def _convert(path: Path, source: Source, bits: int, kind: str) -> dict[str, Any]:
    """Return the sizes of one conversion; nothing is run."""
    chosen = tables.options(kind, source)
    with tempfile.TemporaryDirectory() as folder:
        found = tables.convert(path, Path(folder) / "out.onnx", bits, chosen)
    return {
        "bits": bits,
        "kind": kind,
        **{key: found[key] for key in ("file_bytes", "ce2_bytes", "seconds", "peak_bytes")},
    }


def _compare(reference: Path, candidate: Path, source: Source) -> dict[str, Any]:
    """Return the scores of two float models over the same held-out samples, and what is between."""
    metric = source.network.metric
    words: commands.Words = ["validate", reference, candidate, *source.evaluation]
    done = commands.run([*words, "--metric", metric, "--metric", "snr", "--no-performance"])
    (row,) = [row for row in done.report["metrics"] if row["name"] == metric]
    return {
        "command": done.command,
        "output_snr_db": done.report["check"]["worst_snr_db"],
        **{key: row[key] for key in tables.METRIC},
    }
