"""Convert real models at every bit width: sizes against the ideal, restored twins, task scores.

    python tools/bench/real_models.py MODELS_FOLDER OUT.json [--tasks FOLDER]

For each model and width: the converted file must load, give the same outputs as its restored twin
bit for bit (where nothing gets smaller: as the original), and stay within the ideal size +
300 bytes a tensor + 16 KiB. The ideal is
ceil(b*n/8) + K centroids in the tensor's type for every encoded tensor, the kept floats, and the
original graph. A task is a script `task_NAME.py MODEL` that prints one JSON line with its score;
the file `tasks.json` in its folder, or the table below, says which belongs to which model.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnxq
from onnxq.options import LayoutName

WIDTHS = (*range(1, 13), 16)
TASK_WIDTHS = (8, 6, 5, 4, 3, 2)
TASKS = {
    "ch_ppocr_mobile_v2.0_cls_mobile": "task_ocr_cls.py",
    "crepe_tiny": "task_pitch.py",
    "magika_v3_3": "task_magika.py",
    "silero_vad_16k_op15": "task_vad.py",
}
SLACK_PER_TENSOR, SLACK = 300, 16 * 1024
_ITEM = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def ideal_bytes(report: Any) -> int:
    """Return the size that the encoded tensors, kept floats and original graph need at least."""
    own = [row for row in report.tensors if row.same_as is None]
    encoded = sum(
        -(-row.bit_width * row.elements // 8) + _ITEM[row.dtype] * row.centroids for row in own
    )
    return int(encoded + report.ledger.kept_weights + report.ledger.original_graph)


def measure(model: Path, bits: int, folder: Path, layout: LayoutName) -> dict[str, Any]:
    """Return the figures of one model at one width."""
    converted, restored = folder / model.name, folder / "restored.onnx"
    report = onnxq.convert(model, converted, bits=bits, layout=layout, force=True)
    if report.tensors:
        onnxq.restore(converted, restored, force=True)
    twin = restored if report.tensors else model
    if report.output is None or report.check is None:
        raise AssertionError("convert writes a file and checks it")
    twins = onnxq.validate(twin, converted, samples=2)
    ideal = ideal_bytes(report)
    allowed = ideal + SLACK_PER_TENSOR * len(report.tensors) + SLACK
    size = converted.stat().st_size
    return {
        "model": model.stem,
        "bits": bits,
        "bytes": size,
        "ideal_bytes": ideal,
        "allowed_bytes": allowed,
        "is_within": size <= allowed,
        "ratio": report.output.ratio,
        "ce2_bytes": report.ce2_bytes,
        "tensors": len(report.tensors),
        "predicted_is_written": report.predicted_bytes == size,
        "equals_restored_twin": twins.check.is_equal,
        "output_snr_db": report.check.worst_snr_db,
        "load_ratio": report.check.load_ratio,
        "seconds": report.seconds,
    }


def score(task: Path, model: Path) -> dict[str, Any]:
    """Return what a task script says of a model."""
    done = subprocess.run(
        [sys.executable, task.name, str(model)],
        cwd=task.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {key: loaded[key] for key in loaded if key not in ("model", "seconds", "bytes")}


def main() -> None:
    """Measure every model of a folder and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--layout", default="portable")
    given = parser.parse_args()
    rows = []
    for model in sorted(given.models.resolve().glob("*.onnx")):
        task = given.tasks / TASKS[model.stem] if given.tasks and model.stem in TASKS else None
        rows.append({"model": model.stem, "bits": 32, "bytes": model.stat().st_size})
        if task is not None:
            rows[-1]["score"] = score(task, model)
        print(json.dumps(rows[-1]), flush=True)
        for bits in WIDTHS:
            with tempfile.TemporaryDirectory() as name:
                row = measure(model, bits, Path(name), given.layout)
                if task is not None and bits in TASK_WIDTHS:
                    row["score"] = score(task, Path(name) / model.name)
            rows.append(row)
            print(json.dumps(row), flush=True)
    record = {"layout": given.layout, "python": platform.python_version(), "rows": rows}
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
