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
FOUND = Path(__file__).with_name("found.txt")
FORMS = {"psnr": ".2f", "snr": ".1f"}
"""Digits of metrics in dB; all others are shares."""
PLAIN, DEFAULT = "allocated", "corrected"
"""Methods of onnxq with a target size and no other option, without and with calibration data."""
SIZES = ("file_bytes", "ratio", "bits_a_weight")
"""Figures that a target may not exceed."""


def page(rows: Sequence[Row], pictures: Mapping[str, str]) -> str:
    """Return the page of all rows.

    Args:
        rows: of the results file.
        pictures: file names of plots by task.
    """
    parts = [HEAD.read_text(encoding="utf-8"), FOUND.read_text(encoding="utf-8"), *_floors(rows)]
    for name, task in TASKS.items():
        own = _of_task(rows, name)
        if own:
            parts += _section(task, own, pictures.get(name))
    parts += [*_planning(rows), *_reproduce(rows)]
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
    yield _summary(judged, rows)
    for task in judged:
        yield from _floor_table(task, _of_task(rows, task.name))


def _summary(judged: Sequence[Task], rows: Sequence[Row]) -> str:
    """Return what onnxq's default with calibration data, and without, loses at every floor."""
    lines = []
    for task in judged:
        own = _of_task(rows, task.name)
        line = [task.title]
        for method in (PLAIN, DEFAULT):
            for verdict in figures.verdicts(own, task, method):
                line.append(f"{verdict.share:g}: {_verdict(task, verdict)[1]}")
        lines.append(line)
    sizes = ("first size", "second size")
    heads = [f"{METHODS[m].title}: {size}" for m in (PLAIN, DEFAULT) for size in sizes]
    return cells.table(["task", *heads], lines)


def _floor_table(task: Task, rows: Sequence[Row]) -> Iterator[str]:
    """Yield a task's table; nothing where no method has a file that is small enough."""
    lines = []
    heads = ["method"]
    for method in _compared(rows):
        found = figures.verdicts(rows, task, method)
        heads = ["method"]
        for verdict in found:
            heads += [f"at {verdict.share:g}: {verdict.limit_bytes:,} bytes", "lost", "SNR, dB"]
        if any(verdict.row for verdict in found):
            lines.append([METHODS[method].title, *(c for v in found for c in _verdict(task, v))])
    if lines:
        yield f"{task.title} ({', '.join(task.words)}):\n"
        yield cells.table(heads, lines)
        yield _held(task, rows)


def _compared(rows: Sequence[Row]) -> list[str]:
    """Return the measured methods that stand for themselves, unlike those of single targets."""
    return [name for name in figures.measured_methods(rows) if METHODS[name].is_drawn]


def _verdict(task: Task, verdict: Verdict) -> list[str]:
    if verdict.row is None:
        return [cells.NONE] * 3
    text = ", ".join("undefined" if x is None else f"{x:+.1f}" for x in verdict.losses)
    shown = text if verdict.is_met else f"**{text}**"
    snr = _estimate(figures.snr_of(verdict.row, task), "candidate")
    return [f"{verdict.row['setting']}: {verdict.row['file_bytes']:,}", shown, snr]


def _held(task: Task, rows: Sequence[Row]) -> str:
    """Return which methods keep within both floors of a task, and which have files but do not."""
    held: list[str] = []
    missed: list[str] = []
    for method in _compared(rows):
        found = figures.verdicts(rows, task, method)
        if any(verdict.row for verdict in found):
            kept = all(verdict.is_met for verdict in found)
            (held if kept else missed).append(METHODS[method].title)
    return (
        f"Within both: {'; '.join(held) or 'none'}. "
        f"Not within both: {'; '.join(missed) or 'none'}.\n"
    )


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
    yield from _published(task, rows)
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


def _published(task: Task, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the published sizes, the preset's file beside those of a target of that size."""
    own = [r for r in rows if r["method"].startswith("published-") and r.get("metrics")]
    if len({row["method"] for row in own}) < 2:
        return
    yield (
        "Published sizes, which count no graph, as `--target-size`, met by whole files; beside "
        "them the preset's file of that row:\n"
    )
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in own):
        for row in own:
            if row["setting"] == setting:
                scores = [_estimate(figures.metric_of(row, m), "candidate") for m in task.metrics]
                snr = _estimate(figures.snr_of(row, task), "candidate")
                start = [setting, METHODS[row["method"]].title, cells.count(row["file_bytes"])]
                lines.append([*start, *scores, snr])
    yield cells.table(["row", "method", "bytes", *task.words, "SNR, dB"], lines)


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
    yield _worst(rows)


def _worst(rows: Sequence[Row]) -> str:
    """Return how many files are larger than asked for, and the largest share that one is below."""
    gaps = [
        row[name] / asked - 1
        for row in rows
        for name, asked in row["asked"].items()
        if name in SIZES and row.get(name) is not None
    ]
    above = sum(gap > 0 for gap in gaps)
    return (
        f"Of {len(gaps)} sizes that were met, {above} are above what was asked; "
        f"the farthest below is {min(gaps, default=0.0):+.2%}.\n"
    )


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


def _planning(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what deciding alone costs, where it was measured."""
    own = [row for row in rows if METHODS[row["method"]].maker == "plan"]
    if not own:
        return
    yield "## What planning costs\n"
    yield "`onnxq plan MODEL -o plan.json --target-ratio 0.12`, one process, its default threads.\n"
    lines = []
    for row in own:
        ended = (row["failure"]["message"] or "stopped") if row["failure"] else "done"
        cost = [cells.number(row["seconds"], ".1f"), cells.megabytes(row["peak_bytes"])]
        lines.append([TASKS[row["task"]].title, row["setting"], *cost, ended])
    yield cells.table(["model", "setting", "s", "peak MB", "ended"], lines)


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what failed, and what a maker had to leave out."""
    lines = []
    for row in rows:
        label = f"- {METHODS[row['method']].title}, {row['setting']}:"
        if row["failure"] is not None and METHODS[row["method"]].maker != "plan":
            found = row["failure"]
            lines.append(f"{label} {found['stage']} failed: {found['message']}")
        if METHODS[row["method"]].maker in ("peer", "onnxsim"):
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
