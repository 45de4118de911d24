"""Keep `models/manifest.json`: what each model of `models/` is, and that its file is still that.

    python tools/manifest.py                       count every file again and write the manifest
    python tools/manifest.py --entry FACTS.json    add or replace what is declared of one model
    python tools/manifest.py --scores dcase SWEEP.json    take scores from a sweep's JSON file
    python tools/manifest.py --check               compare the files with it, write nothing

An entry has facts that somebody declares (task, metric, provenance, licence, data, training), facts
counted from the files (`file`, `evaluation`, `calibration`), and `scores` measured by
`onnxq sweep --json`. Only the first are written by hand; `models/manifest.schema.json` describes
all of them. The same files and facts give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

FOLDER = Path(__file__).parent.parent / "models"
NAME = "manifest.json"
VERSION = 1
DECLARED = (
    "name",
    "title",
    "task",
    "metric",
    "provenance",
    "licence",
    "data",
    "training",
    "evaluation",
)
DATA = ("evaluation", "calibration")
"""Lists of data files; the second is of unlabelled training data, and may be missing."""
Entry = dict[str, Any]


class ManifestError(Exception):
    """Something does not fit; the message says where, what was found and what to do."""


def count_model(path: Path) -> Entry:
    """Return the facts of one ONNX file: its bytes, weights, and what goes in and comes out.

    Float tensors are the initializers of the main graph with a floating point type.

    Raises:
        ManifestError: the file is no ONNX model.
    """
    data = path.read_bytes()
    model = _model(data, path.name)
    sizes = [math.prod(t.dims) for t in model.graph.initializer if _is_float(t.data_type)]
    return {
        "path": path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "opset": max(entry.version for entry in model.opset_import if not entry.domain),
        "ir_version": model.ir_version,
        "float_parameters": sum(sizes),
        "float_tensors": len(sizes),
        "inputs": [_value(value) for value in model.graph.input],
        "outputs": [_value(value) for value in model.graph.output],
    }


def _model(data: bytes, where: str) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(data)
    except Exception as err:  # protobuf's errors depend on its implementation
        raise ManifestError(f"{where}: is no ONNX model: {err}; restore the file") from err


def _is_float(data_type: int) -> bool:
    kind = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    return kind.kind == "f" or kind.name == "bfloat16"


def _value(value: onnx.ValueInfoProto) -> Entry:
    kind = value.type.tensor_type
    shape = [d.dim_param if d.HasField("dim_param") else d.dim_value for d in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return {"name": value.name, "dtype": dtype, "shape": shape}


def count_data(path: Path) -> Entry:
    """Return the facts of one file or folder of data.

    An .npz also tells its arrays and their rows; a folder the number of its files, and its sum is
    that of the lines `sha256  name` of its files, ordered by name, as `sha256sum *` writes them.
    """
    if path.is_dir():
        return _count_folder(path)
    data = path.read_bytes()
    facts: Entry = {
        "path": path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            facts["arrays"] = {
                name: {"dtype": arrays[name].dtype.name, "shape": list(arrays[name].shape)}
                for name in sorted(arrays.files)
            }
    return facts


def _count_folder(path: Path) -> Entry:
    files = {one.name: one.read_bytes() for one in sorted(path.iterdir())}
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()]
    return {
        "path": path.name,
        "bytes": sum(len(data) for data in files.values()),
        "sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "files": len(files),
    }


def counted(entry: Entry, folder: Path) -> Entry:
    """Return the entry with everything counted anew, its keys in the order of the schema.

    Raises:
        ManifestError: a declared fact or a file is missing.
    """
    missing = [key for key in DECLARED if key not in entry]
    if missing:
        raise ManifestError(
            f"entry {entry.get('name', '?')!r}: found no {', '.join(missing)}; declare them "
            "in the file given to --entry"
        )
    model = folder / f"{entry['name']}.onnx"
    data = [folder / one["path"] for one in _data_files(entry)]
    for path in (model, *data):
        if not path.exists():
            raise ManifestError(f"{path.name}: entry {entry['name']!r} names it, but it is missing")
    facts = {key: entry[key] for key in DECLARED if key != "evaluation"}
    facts["file"] = count_model(model)
    for key in DATA:
        if key in entry:
            facts[key] = [{**one, **count_data(folder / one["path"])} for one in entry[key]]
    if "scores" in entry:
        facts["scores"] = entry["scores"]
    return facts


def _data_files(entry: Entry) -> list[Entry]:
    return [one for key in DATA for one in entry.get(key, [])]


def scores(entry: Entry, sweep: Entry) -> Entry:
    """Return the held-out scores of an entry from the JSON of `onnxq sweep`, one for each point.

    Raises:
        ManifestError: the sweep is of another model, or has not the entry's metric.
    """
    if Path(sweep["model"]["path"]).name != f"{entry['name']}.onnx":
        raise ManifestError(
            f"sweep: found one of {sweep['model']['path']!r}, expected {entry['name']}.onnx"
        )
    points = []
    for point in sweep["points"]:
        metric = _metric(point["metrics"], entry["metric"]["name"], point["command"])
        figures = {key: metric["candidate"][key] for key in ("value", "standard_error")}
        bits = point["settings"]["bits"]
        points.append({"bits": bits, "bytes": point["file_bytes"], **figures})
    reference = _metric(sweep["points"][0]["metrics"], entry["metric"]["name"], "the reference")
    return {
        "samples": sweep["data"]["samples"],
        "float": {key: reference["reference"][key] for key in ("value", "standard_error")},
        "points": sorted(points, key=lambda point: int(point["bits"])),
        "command": f"onnxq sweep models/{entry['name']}.onnx --bits "
        f"{_span([int(point['bits']) for point in points])} {_data(entry)}",
        "versions": sweep["versions"],
        "machine": sweep["environment"]["machine"],
    }


def _data(entry: Entry) -> str:
    """Return the options that name the held-out data; files of media need more than arrays do."""
    first = entry["evaluation"][0]
    if "preprocess" not in first:
        return f"--data models/{first['path']}"
    media = f"--preprocess models/{first['preprocess']} --metric {entry['metric']['name']}"
    return f"--data models/{first['path']} {media}"


def _span(bits: Iterable[int]) -> str:
    """Return numbers as `--bits` takes them: `2-6,8`."""
    runs: list[list[int]] = []
    for number in sorted(bits):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _metric(metrics: list[Entry], name: str, where: str) -> Entry:
    for metric in metrics:
        if metric["name"] == name and metric["reference"] and metric["candidate"]:
            return metric
    found = ", ".join(metric["name"] for metric in metrics)
    raise ManifestError(f"sweep, {where}: found {found}, expected the task metric {name!r}")


def load(folder: Path) -> list[Entry]:
    """Return the entries of a folder's manifest, none where there is no manifest yet."""
    path = folder / NAME
    if not path.exists():
        return []
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema_version") != VERSION:
        raise ManifestError(f"{NAME}: found no schema_version {VERSION}; it is another format")
    entries: list[Entry] = document["models"]
    return entries


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as err:
        raise ManifestError(f"{path}: cannot be read: {err.strerror or err}") from err
    except ValueError as err:
        raise ManifestError(f"{path}: is not JSON: {err}") from err


def save(entries: list[Entry], folder: Path) -> None:
    """Count all entries and write the manifest, ordered by name; the old one stays until then."""
    models = [counted(entry, folder) for entry in sorted(entries, key=lambda e: str(e["name"]))]
    text = json.dumps({"schema_version": VERSION, "models": models}, indent=2, ensure_ascii=False)
    part = folder / f"{NAME}.part"
    part.write_text(text + "\n", "utf-8", newline="\n")
    part.replace(folder / NAME)


def declare(entry: Entry, folder: Path = FOLDER) -> None:
    """Add an entry, or replace the one of its name, and write the manifest.

    Scores that are there stay as long as the model's and the held-out file's bytes do; `problems`
    would not notice scores of another model.
    """
    entries = load(folder)
    name = entry.get("name")
    before = next((one for one in entries if one["name"] == name), None)
    after = counted(entry, folder)
    if "scores" not in after and before and "scores" in before and _is_same(before, after):
        after["scores"] = before["scores"]
    save([one for one in entries if one["name"] != name] + [after], folder)


def _is_same(before: Entry, after: Entry) -> bool:
    def sums(entry: Entry) -> list[str]:
        return [entry["file"]["sha256"], *(one["sha256"] for one in entry["evaluation"])]

    return sums(before) == sums(after)


def problems(folder: Path = FOLDER) -> list[str]:
    """Return what the files of a folder contradict in its manifest, one line each."""
    entries = load(folder)
    listed = {f"{entry['name']}.onnx" for entry in entries}
    found = [
        f"{path.name}: has no entry in {NAME}; declare one with --entry"
        for path in sorted(folder.glob("*.onnx"))
        if path.name not in listed
    ]
    for entry in entries:
        try:
            found += _differences(entry, counted(entry, folder))
        except ManifestError as err:
            found.append(str(err))
    return found


def _differences(entry: Entry, now: Entry) -> list[str]:
    pairs = [(entry["file"], now["file"])]
    pairs += zip(_data_files(entry), _data_files(now), strict=True)
    return [
        f"{new['path']}: found {key} {new[key]}, expected {old.get(key)}; "
        f"restore the file, or train, measure and declare it anew"
        for old, new in pairs
        for key in new
        if old.get(key) != new[key]
    ]


def _add_scores(name: str, sweep: Path, folder: Path) -> None:
    entries = load(folder)
    chosen = [entry for entry in entries if entry["name"] == name]
    if not chosen:
        raise ManifestError(f"{NAME}: found no entry {name!r}; declare it with --entry first")
    chosen[0]["scores"] = scores(chosen[0], read_json(sweep))
    save(entries, folder)


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments ask for, and return the exit status."""
    folder: Path = arguments.folder
    if arguments.check:
        found = problems(folder)
        for line in found:
            print(line, file=sys.stderr)
        if not found:
            print(f"{NAME}: {len(load(folder))} models are as it says")
        return 1 if found else 0
    if arguments.entry:
        declare(read_json(arguments.entry), folder)
    elif arguments.scores:
        _add_scores(arguments.scores[0], Path(arguments.scores[1]), folder)
    else:
        save(load(folder), folder)
    return 0


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Keep the manifest of models/.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="that of the models")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="compare only, write nothing")
    what.add_argument("--entry", type=Path, metavar="JSON", help="declared facts of one model")
    what.add_argument("--scores", nargs=2, metavar=("NAME", "SWEEP"), help="take a sweep's scores")
    try:
        sys.exit(run(parser.parse_args()))
    except ManifestError as err:
        sys.exit(f"{NAME}: {err}")


if __name__ == "__main__":
    main()
