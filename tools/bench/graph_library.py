"""Measure what a round trip through onnx-ir changes in model files, and what its import costs.

    python -m tools.bench.graph_library [MODEL...] --repeats 7 --json OUT.json

Takes the models that the onnx package ships for its backend tests, models/digits.onnx and those
named. A file is *identical* if onnx_ir.from_proto and onnx_ir.to_proto give back its bytes; the
protobuf messages alone are taken through the same test. Import times are processor seconds of a
fresh interpreter, onnx and onnx-ir in turn.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
from google.protobuf.message import Message

from tools.bench import record

IMPORT = """
import time
start = time.process_time()
import {module}
print(time.process_time() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="more models")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file to write; stdout without it")
    chosen = parser.parse_args()
    shipped = sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("*.onnx"))
    files = [*shipped, record.ROOT / "models" / "digits.onnx", *chosen.models]
    result = record.environment()
    result |= {
        "models": {"shipped_with_onnx": len(shipped), "all": len(files)},
        "round_trip": round_trips(files),
        "import_cpu_seconds": imports(chosen.repeats),
    }
    record.write(result, chosen.json)


def round_trips(files: list[Path]) -> dict[str, Any]:
    """Return how many files come back identical, larger, smaller, and what has changed."""
    counts: Counter[str] = Counter()
    for path in files:
        before = path.read_bytes()
        proto = onnx.ModelProto()
        proto.ParseFromString(before)
        counts["identical_protobuf"] += proto.SerializeToString(deterministic=True) == before
        other = onnx_ir.to_proto(onnx_ir.from_proto(proto))
        after = other.SerializeToString(deterministic=True)
        counts["identical_onnx_ir"] += after == before
        counts["larger_onnx_ir"] += len(after) > len(before)
        counts["smaller_onnx_ir"] += len(after) < len(before)
        counts.update(set(changes(proto, other)))
    return dict(sorted(counts.items()))


def changes(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[str]:
    """Yield the kinds of difference between two models, those inside subgraphs left out."""
    if len(after.graph.value_info) > len(before.graph.value_info):
        yield "value_info_added"
    if len(after.graph.value_info) < len(before.graph.value_info):
        yield "value_info_dropped"
    for opset, again in zip(before.opset_import, after.opset_import, strict=False):
        yield from _presence(opset, again, "opset_domain")
    for node, other in zip(before.graph.node, after.graph.node, strict=False):
        for field in ("domain", "name", "doc_string", "overload"):
            yield from _presence(node, other, f"node_{field}")
    for field in ("domain", "producer_name", "producer_version", "doc_string", "model_version"):
        yield from _presence(before, after, f"model_{field}")
    for field in ("name", "doc_string"):
        yield from _presence(before.graph, after.graph, f"graph_{field}")


def _presence(before: Message, after: Message, label: str) -> Iterator[str]:
    field = label.partition("_")[2]
    had, has = before.HasField(field), after.HasField(field)
    if had != has:
        yield f"{label}_{'added' if has else 'dropped'}"


def imports(repeats: int) -> dict[str, Any]:
    """Return the processor seconds of importing either package, and their ratio."""
    seconds: dict[str, list[float]] = {"onnx": [], "onnx_ir": []}
    for _ in range(repeats):
        for module, found in seconds.items():
            command = [sys.executable, "-c", IMPORT.format(module=module)]
            found.append(float(record.run(command).stdout))
    ratios = [b / a for a, b in zip(seconds["onnx"], seconds["onnx_ir"], strict=True)]
    spreads = {module: record.spread(found) for module, found in seconds.items()}
    return {**spreads, "ratio": record.spread(ratios)}


if __name__ == "__main__":
    main()
