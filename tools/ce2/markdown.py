"""The results page: every section of the results as text and tables.

Owns the words of docs/results/ce2.md; all figures come from the results file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.ce2 import cells, markdown_lowrank
from tools.ce2.results import Section

HEAD = Path(__file__).with_name("head.txt")

ODD = (
    "† No whole number of centroids, or more than full codebooks hold: the published network "
    "keeps other tensors as floats than ours does, or has other ones.\n"
)
SHOWN = {
    "sizes": "Net bytes against published ones at every width",
    "imagecomp": "PSNR of the image compression network against size, ours and published",
    "dcase": "Accuracy of the audio network against size, ours and published",
}
"""What pictures show, in words."""
READING = {
    False: (
        "The first table counts bytes as the publication does, the second counts whole files, the "
        "third says what a conversion costs and that the result runs. The last has the published "
        "scores; ours would mean nothing, since nobody trained these weights.\n"
    ),
    True: (
        "The first table counts bytes as the publication does, the second counts whole files, the "
        "third says what a conversion costs and what it does to the outputs. The last sets the "
        "published scores and ours side by side.\n"
    ),
}
"""How to read the tables of a section, by whether its network is scored."""


def page(sections: Mapping[str, Section], pictures: Mapping[str, str]) -> str:
    """Return the page of all sections that were measured.

    Args:
        sections: of the results file, by target.
        pictures: file names of plots by what they show.
    """
    parts = [HEAD.read_text(encoding="utf-8"), *_goals(sections, pictures)]
    for name in ("table1", "table2", "table3", "table5"):
        if name in sections:
            parts += [*_table(sections[name]), *_picture(pictures, sections[name]["network"])]
    parts += markdown_lowrank.parts(sections, pictures)
    parts += _reproduce(sections)
    return "\n".join(parts)


def _picture(pictures: Mapping[str, str], shows: str) -> list[str]:
    return [f"![{SHOWN[shows]}]({pictures[shows]})\n"] if shows in pictures else []


def _goals(sections: Mapping[str, Section], pictures: Mapping[str, str]) -> Iterator[str]:
    shown = [s for s in sections.values() if "rows" in s and "tolerance" in s]
    if not shown:
        return
    yield "## Goals\n"
    yield (
        "Two goals for every row, under the preset. **CE2 bytes**: at most the published size plus "
        "4 bytes for each centroid that it lacks of full codebooks (the published ones drop empty "
        "clusters; at least one is left in each). Where both sides quantize the same tensors, that "
        "asks only for codebooks no larger than full ones; how far the two are apart stands in the "
        "tables. **Net bytes**: within 0.7 % of the published "
        "size for VGG16 and ResNet50, 5 % for the two small networks.\n"
    )
    rows = []
    for section in sorted(shown, key=lambda each: int(each["table"])):
        excess = [_excess(row) for row in section["rows"]]
        rows.append(
            [
                f"{section['table']}: {section['title']}",
                section["weights"],
                _met(section, 0),
                _met(section, 1),
                f"{section['tolerance']:.1%}",
                f"{min(excess):+.2%} to {max(excess):+.2%}",
            ]
        )
    heads = ["table", "weights", "CE2 bytes met", "net bytes met", "allowed", "net to published"]
    yield cells.table(heads, rows)
    yield from _picture(pictures, "sizes")


def _met(section: Section, goal: int) -> str:
    met = sum(row["goals"][goal]["is_met"] for row in section["rows"])
    return f"{met} of {len(section['rows'])}"


def _excess(row: Mapping[str, Any]) -> float:
    return float(row["preset"]["net_bytes"] / row["published"]["bytes"] - 1)


def _bits(row: Mapping[str, Any]) -> str:
    label = row["published"]["working_point"]
    return f"{row['bits']} ({label})" if label else str(row["bits"])


def _table(section: Section) -> Iterator[str]:
    model = section["model"]
    yield f"## Table {section['table']}: {section['title']}\n"
    yield (
        f"{model['parameters']:,} parameters in {model['tensors']} tensors, {section['weights']} "
        f"weights (`{section['origin']}`{_built(section)}); {model['file_bytes']:,} bytes, of "
        f"which {model['own_graph_bytes']:,} are no parameters.\n"
    )
    yield READING[bool(section["metric"])]
    yield _accounting(section)
    if any(_is_odd(row) for row in section["rows"]):
        yield ODD
    yield _files(section)
    yield _costs(section)
    yield from _scores(section)
    yield from _missed(section)
    yield from _notes(section)


def _built(section: Section) -> str:
    """Return what building the network took, where that is known."""
    if section.get("built") is None:
        return ""
    peak = cells.megabytes(section["built"]["peak_bytes"])
    return f", built in {section['built']['seconds']:.0f} s with a peak of {peak} MB"


def _is_odd(row: Mapping[str, Any]) -> bool:
    found = row["implied_centroids"]
    return bool(found % 1 or not 0 <= found <= row["preset"]["full_centroids"])


def _accounting(section: Section) -> str:
    rows = []
    for row in section["rows"]:
        ours = row["preset"]
        mark = "†" if _is_odd(row) else ""
        rows.append(
            [
                _bits(row),
                cells.count(row["published"]["bytes"]),
                cells.number(row["published"]["ratio"]),
                cells.count(ours["ce2_bytes"]),
                cells.signed(ours["ce2_bytes"] - row["published"]["bytes"]),
                cells.count(row["implied_centroids"]) + mark,
                cells.count(ours["centroids"]),
                cells.count(ours["full_centroids"]),
            ]
        )
    heads = ["bits", "published bytes", "ratio", "CE2 bytes, preset", "difference"]
    return cells.table([*heads, "centroids: published", "ours", "full"], rows)


def _files(section: Section) -> str:
    rows = []
    for row in section["rows"]:
        ours, free = row["preset"], row["default"]
        rows.append(
            [
                _bits(row),
                cells.count(ours["file_bytes"]),
                cells.number(ours["ratio"]),
                cells.count(ours["net_bytes"]),
                f"{_excess(row):+.2%}",
                cells.count(ours["graph_growth"]),
                cells.count(free["file_bytes"]),
                cells.number(free["ratio"]),
            ]
        )
    heads = ["bits", "file, preset", "ratio", "net", "to published", "of which graph"]
    return cells.table([*heads, "file, default", "ratio"], rows)


def _costs(section: Section) -> str:
    """Return times, memory, and how the converted models run."""
    is_timed = "load_ratio" in section["rows"][0]["preset"].get("run", {})
    heads = ["bits", "preset: s", "peak MB", "output SNR, dB"]
    heads += ["load s", "run s", "load peak MB"] if is_timed else []
    heads += ["default: s", "peak MB", "output SNR, dB"]
    rows = [[_bits(row), *_cost(row["preset"]), *_cost(row["default"])] for row in section["rows"]]
    return cells.table(heads, rows) + "\n" + _cost_note(section, is_timed=is_timed)


def _cost_note(section: Section, *, is_timed: bool) -> str:
    text = "Seconds and peak memory are those of the conversion's whole process. "
    if section["metric"]:
        return text + "Output SNR is that of all held-out samples.\n"
    text += (
        "Both models ran in onnxruntime on one random input; of synthetic weights the SNR says "
        "that they run, and nothing of quality."
    )
    if is_timed:
        first = section["rows"][0]["preset"]["run"]["reference"]
        text += (
            f" The float model loads in {first['load_seconds']:.2f} s with a peak of "
            f"{cells.megabytes(first['load_peak_bytes'])} MB and runs in "
            f"{first['median_seconds']:.3f} s."
        )
    return text + "\n"


def _cost(found: Mapping[str, Any]) -> list[str]:
    ran = found.get("run") or found["score"]
    texts = [cells.number(found["seconds"], ".1f"), cells.megabytes(found["peak_bytes"])]
    texts.append(cells.decibels(ran))
    if "candidate" in ran:
        taken = ran["candidate"]
        texts += [cells.number(taken["load_seconds"]), cells.number(taken["median_seconds"], ".3f")]
        texts.append(cells.megabytes(taken["load_peak_bytes"]))
    return texts


KINDS = ("preset", "default")


def _scores(section: Section) -> Iterator[str]:
    """Yield published scores, and ours where the network is trained."""
    first = section["rows"][0]
    names = [metric["name"] for metric in first["published"]["metrics"]]
    heads = ["bits", *(f"published {cells.LABELS[name]}" for name in names)]
    rows = [["float", *_published(first, "original")]]
    rows += [[_bits(row), *_published(row, "quantized")] for row in section["rows"]]
    metric = section["metric"]
    if metric:
        heads += [f"our {cells.LABELS[metric]}, {kind}" for kind in KINDS]
        found = first["preset"]["score"]["metric"]
        rows[0] += [cells.score(metric, found["reference"])] * 2
        for cell, row in zip(rows[1:], section["rows"], strict=True):
            cell += [cells.score(metric, row[k]["score"]["metric"]["candidate"]) for k in KINDS]
    yield cells.table(heads, rows)
    if metric:
        yield (
            f"Ours: {found['samples']:,} held-out samples, `{section['scored_by']}`. Other weights "
            "and other data than the published ones: compare each column with its own float row.\n"
        )


def _published(row: Mapping[str, Any], key: str) -> list[str]:
    found = row["published"]["metrics"]
    return [cells.plain_score(metric["name"], metric[key]) for metric in found]


def _missed(section: Section) -> Iterator[str]:
    """Yield a line for each goal that a row misses, with where its bytes are."""
    lines = [
        f"- {row['bits']} bits, {goal['goal'].replace('_bytes', '')} bytes: "
        f"{goal['found']:,}, allowed {goal['limit']:,}. {goal['why']}."
        for row in section["rows"]
        for goal in row["goals"]
        if not goal["is_met"]
    ]
    if lines:
        yield "Missed:\n\n" + "\n".join(lines) + "\n"


def _notes(section: Section) -> Iterator[str]:
    """Yield what is corrected or odd in the published rows, each remark once."""
    said: dict[str, list[str]] = {}
    for row in section["rows"]:
        for note in filter(None, row["published"]["note"].split("; ")):
            said.setdefault(note, []).append(str(row["bits"]))
    if said:
        lines = (f"- {', '.join(bits)} bits: {note}." for note, bits in said.items())
        yield "Of the published rows:\n\n" + "\n".join(lines) + "\n"


def _reproduce(sections: Mapping[str, Section]) -> Iterator[str]:
    """Yield the commands, what they took, and where."""
    yield "## Reproduce\n"
    yield (
        "From the root of a clone, with onnxq and its `data` and `plot` extras installed. Each "
        "command replaces its own part of the results; `all` runs all of them, and `draw` writes "
        "this page and the plots again.\n"
    )
    rows = []
    for name in sections:
        section = sections[name]
        found = section["environment"]
        changed = " and uncommitted changes" if found["uncommitted_changes"] else ""
        rows.append(
            [
                f"`{section['command']}`",
                f"{section['seconds']:,.0f}",
                f"{found['commit'][:12]}{changed}",
                _machine(found["machine"]),
                f"{found['versions']['python']}, onnxruntime {_runtime(found['versions'])}",
            ]
        )
    yield cells.table(["command", "seconds", "commit", "machine", "Python"], rows)


def _machine(machine: Mapping[str, Any]) -> str:
    memory = machine["memory_bytes"] / 2**30
    return f"{machine['cpu']}, {machine['cores']} cores, {memory:.0f} GiB"


def _runtime(versions: Mapping[str, str]) -> str:
    return versions.get("onnxruntime-gpu") or versions.get("onnxruntime", cells.NONE)
