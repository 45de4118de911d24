"""One row measured: a file is made, run on the held-out samples, and set beside the float model.

Every figure comes from a child process: `onnxq convert` or a peer's script makes the file, `onnxq
validate` runs it, and the system says what making it cost.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxq
from tools.bench import record
from tools.bits import child, figures, onnxq_runs
from tools.bits.benches import Bench
from tools.bits.child import Ended
from tools.bits.methods import Method, Point
from tools.bits.rows import Row
from tools.ce2 import networks

SCRIPTS = Path(__file__).parent
RUNTIME = ("--threads", "1", "--no-performance")
"""One thread: other programs on the machine then only make it slower, not stop it at barriers."""
KEPT = (
    *("name", "output", "unit", "better", "samples", "reference", "candidate", "difference"),
    *("is_within_noise", "is_equal", "detail"),
)
"""What is kept of a metric's row."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """Hold how a file was made: what it cost, or why there is none."""

    ended: Ended | None
    command: str
    report: dict[str, Any] | None = None

    @property
    def cost(self) -> dict[str, Any]:
        """Seconds and the most memory; nothing of the float model, which nobody made."""
        if self.ended is None:
            return {"seconds": None, "peak_bytes": None}
        return {"seconds": self.ended.seconds, "peak_bytes": self.ended.peak_bytes}


def key_of(bench: Bench, method: Method, point: Point) -> dict[str, Any]:
    """Return what a row depends on; code within one version of onnxq is not part of it."""
    return {
        "model_sha256": bench.sha256,
        "data": bench.split["digest"],
        "method": method.name,
        "words": list(point.words),
        "onnxq": onnxq.__version__,
    }


def source_digest(folder: Path = networks.ROOT / "onnxq") -> str:
    """Return the SHA-256 of all sources of onnxq, which tells versions in work apart."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def measure(bench: Bench, method: Method, point: Point, onnxsim: str | None) -> Row:
    """Return the row of one working point.

    A peer that fails has a row that says how; so have a target that cannot be met and a file that
    cannot be run.

    Args:
        bench: the task.
        method: how the file is made.
        point: with what settings.
        onnxsim: a Python that has onnxsim.

    Raises:
        Broken: a command of ours failed in another way.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{bench.model.stem}.{method.name}.onnx"
        made = _make(bench, method, point, target, onnxsim)
        found: Row = {
            "key": key_of(bench, method, point),
            "task": bench.task.name,
            "method": method.name,
            "setting": point.setting,
            "asked": dict(point.asked),
            "original_bytes": bench.subject.file_bytes,
            "weight_bytes": bench.subject.weight_bytes,
            "calibration_samples": bench.split["calibration"],
            "command": made.command,
            **made.cost,
            "failure": None,
        }
        if made.ended is not None and made.ended.exit_status:
            found["failure"] = _failure("making it", made.ended, bench)
        elif method.maker != "plan":
            found |= _evaluate(bench, bench.model if method.maker == "float" else target)
            found |= _reached(bench, found) | _details(made)
    return {
        **found,
        "source": source_digest(),
        "environment": record.environment(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _make(bench: Bench, method: Method, point: Point, target: Path, onnxsim: str | None) -> Made:
    """Write a point's file; only a command of ours that fails for no good reason raises."""
    files = [str(bench.model), str(target)]
    words = [word.replace("{calibration}", str(bench.calibration)) for word in point.words]
    if method.maker == "float":
        return Made(ended=None, command="")
    if method.maker == "onnxq":
        line = ["convert", *files, *words, "--no-check"]
        done = onnxq_runs.run(line, allowed=[onnxq_runs.UNREACHABLE])
        return Made(ended=done.ended, command=_shown(["onnxq", *line]), report=done.report)
    if method.maker == "plan":
        line = ["plan", str(bench.model), "-o", str(target), *words]
        ended = child.run([sys.executable, "-m", "onnxq", *line, "-q"])
        return Made(ended=ended, command=_shown(["onnxq", *line]))
    if method.maker == "onnxsim":
        script = [str(SCRIPTS / "onnxsim_peer.py")]
        ended = child.run([onnxsim or sys.executable, *script, *files, *words])
    else:
        script = ["-m", "tools.bits.peers"]
        ended = child.run([sys.executable, *script, *files, *words])
    return Made(ended=ended, command=_shown(["python", *script, *files, *words]))


def _details(made: Made) -> dict[str, Any]:
    """Return what the maker says of its file: onnxq its report, a peer its versions."""
    if made.report is not None:
        report = made.report
        return {
            "bits_per_weight": report["bits_per_weight"],
            "ledger": report["ledger"],
            "notes": report["notes"],
        }
    if made.ended is None:
        return {}
    said = json.loads(made.ended.stdout.splitlines()[-1])
    return {"peer_versions": said["versions"], "notes": [said["note"]] if said["note"] else []}


def _evaluate(bench: Bench, candidate: Path) -> dict[str, Any]:
    """Return the size of a file, and what it does to the outputs and scores."""
    metrics = [*bench.task.metrics, bench.task.snr]
    words = ["validate", str(bench.model), str(candidate), *bench.evaluation, *RUNTIME]
    words += [word for metric in metrics for word in ("--metric", metric)]
    done = onnxq_runs.run(words, allowed=[onnxq_runs.FAILED])
    if done.report is None:
        return {
            "file_bytes": candidate.stat().st_size,
            "failure": _failure("running it", done.ended, bench),
        }
    report = done.report
    found = {
        "file_bytes": report["candidate"]["file_bytes"],
        "ratio": report["candidate"]["file_bytes"] / report["reference"]["file_bytes"],
        "metrics": [{name: row[name] for name in KEPT} for row in report["metrics"]],
        "samples": (report["data"] or {}).get("samples"),
        "evaluated_by": _shown(["onnxq", *words]),
    }
    if not report["passed"]:
        found["failure"] = _failure("running it", done.ended, bench)
    return found


def _reached(bench: Bench, found: Row) -> dict[str, Any]:
    """Return a file's figures that targets are about, beside its bytes and ratio.

    Bits a weight are those of all bytes beside the original graph's, of weights of float32.
    """
    beside = found["file_bytes"] - bench.subject.graph_bytes
    snr = figures.metric_of(found, bench.task.snr)
    return {
        "bits_a_weight": 32 * beside / bench.subject.weight_bytes,
        "output_snr_db": None if snr is None else snr["candidate"]["value"],
    }


def _failure(stage: str, ended: Ended, bench: Bench) -> dict[str, Any]:
    text = ended.said
    for folder in (bench.model.parent, bench.calibration.parent, Path(tempfile.gettempdir())):
        text = text.replace(f"{folder}/", "")
    return {"stage": stage, "exit_status": ended.exit_status, "message": text}


def _shown(words: Sequence[str]) -> str:
    """Return a command with paths as documents show them."""
    return shlex.join(networks.shown(Path(w)) if w.startswith("/") else w for w in words)
