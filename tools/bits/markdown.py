"""The results page: floors, then a section for each model with its rows.

Owns the words of docs/results/bits.md; all figures come from the results file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bits import figures
from tools.bits.figures import Verdict
from tools.bits.methods import METHODS
from tools.bits.rows import Row
from tools.bits.tasks import SHARED, TASKS, Task
from tools.ce2 import cells

HEAD = Path(__file__).with_name("head.txt")
FORMS = {"psnr": ".2f", "snr": ".1f"}
"""Digits of metrics in dB; all others are shares."""


def page(rows: Sequence[Row], pictures: Mapping[str, str]) -> str:
    """Return the page of all rows.

    Args:
        rows: of the results file.
        pictures: file names of plots by task.
    """
    parts = [HEAD.read_text(encoding="utf-8"), *_floors(rows)]
    for name, task in TASKS.items():
        own = _of_task(rows, name)
        if own:
            parts += _section(task, own, pictures.get(name))
    parts += _reproduce(rows)
    return "\n".join(parts)


def _of_task(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row["task"] == name]


def _floors(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what every method loses at the two sizes of each task."""
    judged = [task for task in TASKS.values() if task.floors and _of_task(rows, task.name)]
    if not judged:
        return
    yield "## What is lost at small sizes\n"
    yield (
        "A table for each task: the largest file of each method that fits the size, and what it "
        "loses of the float model's score, in standard errors of that score. At the first size one "
        "standard error may be lost, at the second two; **bold** is more.\n"
    )
    for task in judged:
        yield from _floor_table(task, _of_task(rows, task.name))


def _floor_table(task: Task, rows: Sequence[Row]) -> Iterator[str]:
    """Yield a task's table; nothing where no method has a file that is small enough."""
    lines = []
    heads = ["method"]
    for method in figures.measured_methods(rows):
        found = figures.verdicts(rows, task, method)
        heads = ["method"]
        for verdict in found:
            heads += [f"at {verdict.share:g}: {verdict.limit_bytes:,} bytes", "lost"]
        if any(verdict.row for verdict in found):
            lines.append([METHODS[method].title, *(c for v in found for c in _verdict(v))])
    if lines:
        yield f"{task.title} ({', '.join(task.words)}):\n"
        yield cells.table(heads, lines)


def _verdict(verdict: Verdict) -> list[str]:
    if verdict.row is None:
        return [cells.NONE, cells.NONE]
    text = ", ".join("undefined" if x is None else f"{x:+.1f}" for x in verdict.losses)
    shown = text if verdict.is_met else f"**{text}**"
    return [f"{verdict.row['setting']}: {verdict.row['file_bytes']:,}", shown]


def _section(task: Task, rows: Sequence[Row], picture: str | None) -> Iterator[str]:
    yield f"## {task.title}\n"
    first = rows[0]
    samples = next((row["samples"] for row in rows if row.get("samples")), 0)
    split = task.split.format(samples=f"{samples:,}", calibration=first["calibration_samples"])
    yield (
        f"`{task.model}.onnx`, {first['original_bytes']:,} bytes, of which "
        f"{first['original_bytes'] - first['weight_bytes']:,} are no float weights. Data: {split}."
        f"{_counts(task, rows)}\n"
    )
    if picture:
        yield f"![{_pictured(task)} against file size]({picture})\n"
    yield _rows_table(task, [row for row in rows if row.get("metrics")])
    yield from _targets([row for row in rows if row["asked"]])
    yield from _failures(rows)


def _pictured(task: Task) -> str:
    return ", ".join((*task.words, "output SNR"))


def _counts(task: Task, rows: Sequence[Row]) -> str:
    """Return how many samples each score counts."""
    for row in rows:
        found = [figures.metric_of(row, name) for name in task.metrics]
        if found and all(found):
            named = zip(task.words, found, strict=True)
            counts = (f"{words} over {m['samples']:,} samples" for words, m in named if m)
            return f" {', '.join(counts).capitalize()}."
    return ""


def _rows_table(task: Task, rows: Sequence[Row]) -> str:
    heads = ["method", "setting", "bytes", "share"]
    for words in task.words:
        heads += [words, "difference"]
    lines = [_line(task, row) for row in rows]
    return cells.table([*heads, "SNR, dB", "s", "peak MB"], lines)


def _line(task: Task, row: Row) -> list[str]:
    line = [METHODS[row["method"]].title, row["setting"], cells.count(row["file_bytes"])]
    line.append(f"{row['ratio']:.3f}")
    for name in task.metrics:
        found = figures.metric_of(row, name)
        line += [_estimate(found, "candidate"), _estimate(found, "difference")]
    line.append(_estimate(figures.snr_of(row, task), "candidate"))
    return [*line, cells.number(row["seconds"], ".1f"), cells.megabytes(row["peak_bytes"])]


def _estimate(found: Mapping[str, Any] | None, which: str) -> str:
    """Return a figure with its standard error."""
    if found is None or found[which] is None:
        return cells.NONE
    estimate = found[which]
    if estimate["value"] is None:
        return "equal" if found["is_equal"] else "none"
    form = FORMS.get(found["name"].partition(":")[0], ".3f")
    text = format(estimate["value"], f"+{form}" if which == "difference" else form)
    error = estimate["standard_error"]
    return text if error is None else f"{text} ±{error:{form}}"


def _targets(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what was asked for and what came of it."""
    if not rows:
        return
    yield (
        "Targets. Sizes are met from above and an SNR from below; that of the planning data may "
        "differ from the one here, of held-out samples.\n"
    )
    lines = []
    for row in rows:
        for name, asked in row["asked"].items():
            title = METHODS[row["method"]].title
            lines.append([title, row["setting"], *_reached(name, asked, row.get(name))])
    yield cells.table(["method", "target", "asked", "found", "off"], lines)


def _reached(name: str, asked: float, found: float | None) -> list[str]:
    """Return what was asked, what was found and how far off it is; a refusal has no figures."""
    if name == "file_bytes":
        wanted, form = cells.count(asked), ","
    else:
        wanted, form = f"{asked:g}", ".2f" if name == "output_snr_db" else ".4f"
    if found is None:
        return [wanted, "refused", cells.NONE]
    off = f"{found - asked:+.2f} dB" if name == "output_snr_db" else f"{found / asked - 1:+.2%}"
    return [wanted, format(found, form), off]


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what failed, and what a maker had to leave out."""
    lines = []
    for row in rows:
        label = f"- {METHODS[row['method']].title}, {row['setting']}:"
        if row["failure"] is not None:
            found = row["failure"]
            lines.append(f"{label} {found['stage']} failed: {found['message']}")
        if METHODS[row["method"]].maker != "onnxq":
            lines += [f"{label} {note}" for note in row.get("notes", ())]
    if lines:
        yield "Of these rows:\n\n" + "\n".join(lines) + "\n"


def _reproduce(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the commands, and where and with what the rows were measured."""
    yield "## Reproduce\n"
    yield (
        "From the root of a clone, with the `data`, `metrics` and `plot` extras of onnxq "
        f"installed, and `{SHARED}` naming a folder with `onnx` and `data` of the shared models:\n"
    )
    yield "    python -m tools.bits.measure\n    python -m tools.bits.draw\n"
    lines = []
    for environment in _distinct([row["environment"] for row in rows]):
        own = [row for row in rows if row["environment"] == environment]
        changed = " and uncommitted changes" if environment["uncommitted_changes"] else ""
        machine, versions = environment["machine"], environment["versions"]
        runtime = versions.get("onnxruntime-gpu") or versions.get("onnxruntime", cells.NONE)
        lines.append(
            [
                f"{environment['commit'][:12]}{changed}",
                str(len(own)),
                f"{machine['cpu']}, {machine['cores']} cores",
                f"{versions['python']}, onnxruntime {runtime}",
                ", ".join(_peers(own)) or cells.NONE,
            ]
        )
    yield cells.table(["commit", "rows", "machine", "Python", "peers"], lines)


def _distinct(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _peers(rows: Sequence[Row]) -> list[str]:
    named = {f"{k} {v}" for row in rows for k, v in row.get("peer_versions", {}).items()}
    return sorted(named)
