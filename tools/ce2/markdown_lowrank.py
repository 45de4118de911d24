"""The results page's part on low-rank versions: Table 4 and the curves of size against score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.ce2 import cells
from tools.ce2.results import Section

KINDS = {"preset": "the preset", "default": "our defaults"}
BY = {"weights": "from weights", "activations": "from activations"}


def parts(sections: Mapping[str, Section], pictures: Mapping[str, str]) -> Iterator[str]:
    """Yield Table 4 and the low-rank sections, as far as they were measured."""
    if "table4" in sections:
        yield from _table4(sections["table4"])
    found = [section for name, section in sections.items() if name.startswith("lowrank-")]
    if not found:
        return
    yield "## Low rank\n"
    yield (
        "`onnxq lowrank --ratio R` replaces weights by two factors until the share R of all float "
        "parameters is left; nothing is retrained. *From weights*: ranks and factors from the "
        "weights alone. *From activations*: with a calibration set of unlabelled training data, no "
        "part of the held-out data. Every version is then converted at each width; scores are "
        "of the held-out samples.\n"
    )
    if "lowrank-sizes" in pictures:
        yield f"![Sizes of low-rank versions]({pictures['lowrank-sizes']})\n"
    for section in found:
        yield f"### {section['title']}, low rank\n"
        name = f"lowrank-{section['network']}"
        if name in pictures:
            yield f"![{section['title']}: size against score]({pictures[name]})\n"
        yield from _versions(section)
        yield from _points(section)


def title(version: Mapping[str, Any]) -> str:
    """Return what a version is called.

    >>> title({"ratio": 0.6, "method": "weights"})
    '0.6, from weights'
    """
    return f"{version['ratio']:g}, {BY[version['method']]}" if version["ratio"] else "original"


def _versions(section: Section) -> Iterator[str]:
    metric = section["metric"]
    full = section["versions"][0]["model"]["parameters"]
    heads = ["version", "parameters", "share", "tensors", "file bytes", "made in s"]
    if metric:
        heads += [f"{cells.LABELS[metric]} as floats", "minus original", "minus from weights"]
    rows = []
    for version in section["versions"]:
        model = version["model"]
        row = [title(version), cells.count(model["parameters"])]
        row += [f"{model['parameters'] / full:.3f}", cells.count(model["tensors"])]
        row += [cells.count(model["file_bytes"]), cells.number(version.get("seconds"), ".1f")]
        rows.append(row + (_floats(metric, version) if metric else []))
    yield cells.table(heads, rows)
    if metric:
        yield ("Differences are over the same samples; one whose interval holds 0 may be chance.\n")
    yield from _weights(section)


def _floats(metric: str, version: Mapping[str, Any]) -> list[str]:
    """Return the score of a version before quantization, and what it gains or loses."""
    score = version["points"][0]["metric"]["reference"]
    texts = [cells.score(metric, score)]
    for key in ("against_original", "against_weights"):
        difference = version[key]["difference"] if key in version else None
        texts.append(cells.score(metric, difference, is_signed=True))
    return texts


def _weights(section: Section) -> Iterator[str]:
    if section["weights"] == "synthetic":
        yield (
            "The weights are synthetic: these are sizes and times, and say nothing of quality. "
            "Random weights have no low rank to find.\n"
        )
    elif "activations" not in section["methods"]:
        yield "No calibration set was there, so nothing was measured from activations.\n"


def _points(section: Section) -> Iterator[str]:
    metric = section["metric"]
    for kind, name in KINDS.items():
        size = "ce2_bytes" if kind == "preset" else "file_bytes"
        words = "CE2 bytes" if kind == "preset" else "File bytes"
        if metric:
            yield f"{cells.LABELS[metric]} under {name}:\n"
            yield _grid(section, kind, lambda p: cells.score(metric, p["metric"]["candidate"]))
        yield f"{words} under {name}:\n"
        yield _grid(section, kind, lambda p, size=size: cells.count(p[size]))


def _grid(section: Section, kind: str, text: Any) -> str:
    """Return a table of widths by versions."""
    versions = section["versions"]
    chosen = [
        {point["bits"]: point for point in version["points"] if point["kind"] == kind}
        for version in versions
    ]
    rows = [[str(bits), *(text(points[bits]) for points in chosen)] for bits in sorted(chosen[0])]
    return cells.table(["bits", *map(title, versions)], rows)


def _table4(section: Section) -> Iterator[str]:
    yield f"## Table 4: {section['title']}, low rank\n"
    yield (
        "The published low-rank network was retrained by its authors, and its parameters are not "
        "published; its sizes fit 0.66 to 0.76 of the original. Ours keeps 0.7 and is not "
        "retrained (see [Low rank](#low-rank)), so no goal is set for these sizes.\n"
    )
    yield _made(section)
    metric = section["metric"]
    for kind, name in KINDS.items():
        yield f"Under {name}:\n"
        heads, rows = ["bits", "published bytes", "published PSNR"], _rows4(section)
        for method in section["methods"]:
            heads += [f"{BY[method]}: CE2 bytes", "file bytes"] + (["PSNR"] if metric else [])
            for cell, row in zip(rows, section["rows"], strict=True):
                cell += _cells4(metric, row[method][kind])
        yield cells.table(heads, rows)


def _rows4(section: Section) -> list[list[str]]:
    """Return the published cells of each row."""
    return [
        [
            str(row["bits"]),
            cells.count(row["published"]["bytes"]),
            cells.plain_score("psnr", row["published"]["metrics"][0]["quantized"]),
        ]
        for row in section["rows"]
    ]


def _cells4(metric: str | None, found: Mapping[str, Any]) -> Sequence[str]:
    sizes = [cells.count(found["ce2_bytes"]), cells.count(found["file_bytes"])]
    if metric is None:
        return sizes
    return [*sizes, cells.score(metric, found["score"]["metric"]["candidate"])]


def _made(section: Section) -> str:
    lines = [
        f"- {title(version)}: {version['model']['parameters']:,} parameters in "
        f"{version['model']['tensors']} tensors, `{version['command']}`, {version['seconds']:.1f} s"
        for version in section["versions"]
    ]
    published = section["rows"][0]["published"]["metrics"][0]["original"]
    lines.append(f"- published: {published:.2f} dB as floats before low rank")
    return "\n".join(lines) + "\n"
