"""Measure whether a conversion gives the same bytes with other versions and processor features.

    python -m tools.bench.same_bytes MODEL... --python OTHER/bin/python --json OUT.json

Converts every model at several widths with both kinds of clustering: with this interpreter, again
with numpy's and numba's use of newer processor instructions switched off, and with the interpreters
named. Every run reports a digest per conversion; the result says which of them agree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.bench import record

WIDTHS = (3, 6, 9)
INITS = ("optimal", "bounded-pdf")
CONVERT = """
import hashlib, importlib.metadata, json, sys
import onnxq
digests = {}
for path in sys.argv[3:]:
    for bits in map(int, sys.argv[1].split(",")):
        for init in sys.argv[2].split(","):
            _, model = onnxq.convert(path, bits=bits, init=init, check=0)
            data = model.SerializeToString(deterministic=True)
            key = path.rpartition("/")[2] + f" {bits} {init}"
            digests[key] = hashlib.sha256(data).hexdigest()[:16]
names = ("numpy", "numba", "onnx", "protobuf")
versions = {name: importlib.metadata.version(name) for name in names}
print(json.dumps({"versions": versions, "digests": digests}))
"""
FEATURES = """
from numpy._core._multiarray_umath import __cpu_dispatch__ as known, __cpu_features__ as found
print(" ".join(name for name in known if found.get(name)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--python", nargs="*", default=[], help="other interpreters with onnxq")
    parser.add_argument("--json", type=Path, help="file to write; stdout without it")
    chosen = parser.parse_args()
    features = _run([sys.executable, "-c", FEATURES], {}).strip()
    plain = {"NPY_DISABLE_CPU_FEATURES": features, "NUMBA_CPU_NAME": "generic"}
    runs = [
        {"run": "this interpreter", **convert(sys.executable, chosen.models, {})},
        {"run": f"without {features}", **convert(sys.executable, chosen.models, plain)},
        *({"run": "other versions", **convert(p, chosen.models, {})} for p in chosen.python),
    ]
    result = record.environment()
    first = runs[0]["digests"]
    result["conversions"] = len(first)
    result["equal_to_the_first_run"] = [
        sum(run["digests"][key] == digest for key, digest in first.items()) for run in runs
    ]
    record.write({**result, "runs": runs}, chosen.json)


def convert(python: str, models: list[Path], changed: dict[str, str]) -> dict[str, Any]:
    """Return the versions and digests of one run."""
    settings = [",".join(map(str, WIDTHS)), ",".join(INITS)]
    command = [python, "-W", "ignore", "-c", CONVERT, *settings, *map(str, models)]
    found: dict[str, Any] = json.loads(_run(command, changed))
    return found


def _run(command: list[str], changed: dict[str, str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(record.ROOT), **changed}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
