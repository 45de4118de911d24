"""Measure rows: every chosen method on every chosen model.

    python -m tools.bits.measure                      all models that are there, all methods
    python -m tools.bits.measure -m dcase -m pitch    some models
    python -m tools.bits.measure --method optimal     some methods

A finished row is a file of the work folder and is not measured again, so a run that was cut goes on
where it was. `--changed` measures again what onnxq made when its sources were others, `--again`
everything that is chosen. Run it in the root of a clone; `python -m tools.bits.draw` then makes the
page. Needs the `data`, `metrics` and `plot` extras.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.bits import measuring, rows, tasks
from tools.bits.benches import Bench, prepare
from tools.bits.methods import METHODS, Method, Point
from tools.bits.onnxq_runs import Broken
from tools.bits.rows import Row


def arguments(words: list[str] | None) -> argparse.Namespace:
    """Return the command line's choices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("-m", "--model", action="append", choices=tasks.TASKS, help="by default all but vgg16")
    add("--method", action="append", choices=METHODS, help="by default all")
    add("--setting", action="append", help="by default all; as the page's tables name them")
    tasks.add_options(parser)
    add("--onnxsim", metavar="PYTHON", help="a Python that has onnxsim; without it no such row")
    add("--changed", action="store_true", help="again where the sources of onnxq have changed")
    add("--again", action="store_true", help="again in any case")
    return parser.parse_args(words)


def is_done(row: Row | None, method: Method, chosen: argparse.Namespace) -> bool:
    """Return whether a finished row needs no measuring."""
    if row is None or chosen.again:
        return False
    is_stale = method.maker in ("onnxq", "plan") and row["source"] != measuring.source_digest()
    return not (chosen.changed and is_stale)


def work_of(bench: Bench, chosen: argparse.Namespace) -> Iterator[tuple[Method, Point, Path]]:
    """Yield the chosen points of a model that are not done, with the files of their rows."""
    for name in chosen.method or METHODS:
        method = METHODS[name]
        if method.maker == "onnxsim" and chosen.onnxsim is None:
            continue
        for point in method.points(bench.subject):
            if chosen.setting and point.setting not in chosen.setting:
                continue
            path = rows.path_of(chosen.work / "rows", bench.task.name, name, point.setting)
            row = rows.load(path, measuring.key_of(bench, method, point))
            if not is_done(row, method, chosen):
                yield method, point, path


def measure_model(bench: Bench, chosen: argparse.Namespace) -> int:
    """Measure the rows of one model; return how many could not be."""
    broken = 0
    for method, point, path in work_of(bench, chosen):
        label = f"{bench.task.name}, {method.title}, {point.setting}"
        try:
            row = measuring.measure(bench, method, point, chosen.onnxsim)
        except Broken as err:
            print(f"{label}: not measured: {err}", file=sys.stderr, flush=True)
            broken += 1
            continue
        rows.save(path, row)
        print(f"{label}: {_told(row)}", file=sys.stderr, flush=True)
    return broken


def _told(row: Row) -> str:
    if row["failure"] is not None:
        return f"failed: {row['failure']['message']}"
    if "metrics" not in row:
        return f"{row['seconds']} s, {row['peak_bytes'] / 1e6:.0f} MB"
    figures = (f"{m['name']} {m['candidate']['value'] or m['is_equal']}" for m in row["metrics"])
    return f"{row['file_bytes']:,} bytes, {', '.join(figures)}"


def main(words: list[str] | None = None) -> int:
    """Measure; return 1 where a command of ours failed or a named model is not there."""
    chosen = arguments(words)
    where = tasks.places(chosen)
    broken = 0
    for name in chosen.model or tasks.DEFAULT:
        try:
            broken += measure_model(prepare(tasks.TASKS[name], where), chosen)
        except (FileNotFoundError, Broken) as err:
            print(f"measure: {err}", file=sys.stderr, flush=True)
            broken += 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
