"""Reports as one HTML page that needs no network: charts, sortable tables, commands.

Owns what the page holds and its safety: every text of a report is escaped by the template, data
goes into the page as JSON without a character that HTML knows, and a content security policy lets
run the two scripts of the page alone, by their digests. The charts are plotly.js, which plotly's
Python package carries; it is stored compressed. Needs the `html` extra.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from onnxq import textfile
from onnxq.errors import MissingDependencyError
from onnxq.pages import figures, overlay, page_tables
from onnxq.pages.figures import Chart
from onnxq.pages.overlay import DrawnReport, Entry, Measure
from onnxq.pages.page_tables import Table, estimate_text, tensor_name, without_blanks
from onnxq.plaintext import one_line, plain
from onnxq.quantities import size_text
from onnxq.report import AnyReport, FileSize, Report, TensorRow, ValidateReport
from onnxq.sweeps.working_points import SweepReport
from onnxq.validation.measurements import DataUsed, finite

_TITLES = {"sweep": "Sweep", "convert": "Conversion", "validate": "Validation"}


def check_target(path: Path, *, force: bool) -> None:
    """Check before any work that a page can be made and written.

    Raises:
        OutputError: the file may not be written.
        MissingDependencyError: jinja2 or plotly is not installed.
    """
    textfile.check_target(path, force=force)
    _packages()


def save(
    reports: Sequence[AnyReport | SweepReport],
    path: Path,
    command_line: str = "",
    *,
    force: bool = False,
) -> None:
    """Write the page of reports, whole or not at all; arguments and errors as in `render`.

    Raises:
        OutputError: the file may not or cannot be written.
    """
    textfile.check_target(path, force=force)
    textfile.save(path, render(reports, command_line), force=force)


def render(reports: Sequence[AnyReport | SweepReport], command_line: str = "") -> str:
    """Return one self-contained HTML page; the same text for the same reports and versions.

    Args:
        reports: of convert, validate or sweep, laid over each other.
        command_line: command that makes this page, to be shown.

    Raises:
        InputError: there is no report, or one of another command.
        MissingDependencyError: jinja2 or plotly is not installed.
    """
    shown = overlay.entries(reports)
    drawn = [r for r in reports if isinstance(r, Report | ValidateReport | SweepReport)]
    jinja2, plotly = _packages()
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _template("page.js")
    text: str = environment.get_template("page.html").render(
        **_content(drawn, shown),
        command_line=plain(command_line),
        style=_template("page.css"),
        script=script,
        library=_library(plotly),
        digests=(_digest(script), _digest(plotly)),
        payload=_json(_payload(drawn, shown)),
    )
    return text


def _packages() -> tuple[Any, str]:
    """Return the template engine and the text of the charting library."""
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as err:
        raise MissingDependencyError(
            "--html: needs jinja2 and plotly; pip install jinja2 plotly, or onnxq[html]"
        ) from err
    return jinja2, get_plotlyjs()


@functools.cache
def _template(name: str) -> str:
    return resources.files("onnxq.pages").joinpath("templates", name).read_text(encoding="utf-8")


@functools.lru_cache(maxsize=1)
def _library(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


def _digest(script: str) -> str:
    """Return the source expression by which a content security policy knows a script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _json(data: Any) -> str:
    """Return JSON that can stand inside a script element: no character of it means anything."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _content(reports: Sequence[DrawnReport], shown: Sequence[Entry]) -> dict[str, Any]:
    """Return what the template shows, but for the charts' data."""
    models = list(dict.fromkeys(entry.model for entry in shown))
    known = overlay.measures(shown)
    has_tensors = any(entry.point.tensors for entry in shown)
    return {
        "title": ", ".join(models),
        "kinds": sorted({_TITLES[report.command] for report in reports}),
        "version": next((plain(report.versions.get("onnxq", "")) for report in reports), ""),
        "measures": known if len(shown) > 1 else (),
        "sizes": _sizes(shown),
        "size": figures.default_size(shown),
        "points": without_blanks(
            page_tables.points_table(shown, known[0] if len(shown) > 1 and known else None)
        ),
        "ledger": page_tables.ledger_table(shown),
        "entries": [
            {
                "index": index,
                "label": overlay.full_label(shown, entry),
                "has_tensors": bool(entry.point.tensors),
            }
            for index, entry in enumerate(shown)
        ],
        "has_tensors": has_tensors,
        "validations": [_validation(r) for r in reports if isinstance(r, ValidateReport)],
        "kept": [
            (_heading(report), page_tables.kept_table(report.skipped))
            for report in reports
            if isinstance(report, Report) and report.skipped
        ],
        "sources": [_source(report) for report in reports],
    }


def _sizes(shown: Sequence[Entry]) -> dict[str, str]:
    """Return the horizontal axes on which at least one point has a place."""
    return {
        name: title.removesuffix(" (%)")
        for name, title in figures.SIZES.items()
        if any(figures.size_of(entry, name) is not None for entry in shown)
    }


def _heading(report: DrawnReport) -> str:
    file = overlay.original(report).path
    if isinstance(report, ValidateReport):
        file = report.candidate.path
    return f"{_TITLES[report.command]} of {one_line(file or 'a model in memory')}"


def _validation(report: ValidateReport) -> dict[str, Any]:
    tables: list[Table] = []
    if report.gates:
        tables.append(page_tables.gates_table(report))
    if report.metrics:
        tables.append(page_tables.metrics_table(report.metrics))
    if report.check.outputs:
        tables.append(page_tables.outputs_table(report))
    if report.performance is not None:
        tables.append(page_tables.performance_table(report.performance))
    passed = "Every gate passed" if report.gates else "Every output can be compared"
    return {
        "heading": _heading(report),
        "passed": report.passed,
        "verdict": passed if report.passed else "Failed",
        "failures": [one_line(line) for line in report.failures],
        "tables": [without_blanks(table) for table in tables],
        "layers": page_tables.layers_table(report.layers) if report.layers else None,
    }


def _source(report: DrawnReport) -> dict[str, Any]:
    """Return where a report's figures come from, and the commands that make them again."""
    facts = {"Float model": _file(report)}
    data = getattr(report, "data", None)
    if data is not None:
        facts["Data"] = _data(data)
    if report.seconds:
        facts["Time"] = f"{report.seconds:,.1f} s"
    environment: Mapping[str, str] = getattr(report, "environment", {})
    facts |= {plain(key): plain(value) for key, value in environment.items()}
    facts |= {f"{plain(key)} version": plain(value) for key, value in report.versions.items()}
    options: Mapping[str, Any] = getattr(report, "options", {})
    commands = []
    if isinstance(report, SweepReport):
        commands = [plain(point.command) for point in report.points if point.command]
    return {
        "heading": _heading(report),
        "lead": _lead(report, data),
        "facts": facts,
        "options": {plain(key): plain(json.dumps(value)) for key, value in options.items()},
        "notes": [one_line(note) for note in report.notes],
        "command_line": plain(getattr(report, "command_line", "")),
        "commands": commands,
    }


def _lead(report: DrawnReport, data: DataUsed | None) -> str:
    """Return a sentence that says what was compared on what."""
    parts = [f"{_TITLES[report.command]}: {_file(report)} as float"]
    made = None if isinstance(report, SweepReport) else _made(report)
    if made is not None:
        ratio = "" if made.ratio is None else f", {made.ratio:.2f} times smaller"
        parts.append(f"{one_line(made.path or 'in memory')}, {size_text(made.file_bytes)}{ratio}")
    if data is not None:
        parts.append(f"measured on {_data(data)}")
    return "; ".join(parts) + "."


def _made(report: Report | ValidateReport) -> FileSize | None:
    return report.output if isinstance(report, Report) else report.candidate


def _file(report: DrawnReport) -> str:
    file = overlay.original(report)
    return f"{one_line(file.path or 'in memory')}, {size_text(file.file_bytes)}"


def _data(data: DataUsed) -> str:
    kinds = {"random": "random inputs", "inputs": "inputs as given"}
    of = f" of {data.available:,}" if data.available not in (None, data.samples) else ""
    name = kinds.get(data.kind, data.kind) if data.path is None else one_line(data.path)
    return f"{name}, {data.samples:,}{of} samples"


def _payload(reports: Sequence[DrawnReport], shown: Sequence[Entry]) -> dict[str, Any]:
    """Return the data of the charts."""
    known = overlay.measures(shown)
    texts: dict[str, int] = {}
    return {
        "entries": [_entry(shown, entry, known, texts) for entry in shown],
        "texts": list(texts),
        "charts": {
            measure.label: {
                size: _chart(figures.chart(shown, measure, size)) for size in _sizes(shown)
            }
            for measure in known
        },
        "parts": list(page_tables.LEDGER_PARTS.values()),
        "layers": [
            [
                [
                    tensor_name(row.name, row.graph),
                    None if row.output_snr_db is None else finite(row.output_snr_db),
                    row.output_snr_db is None,
                    row.bit_width,
                    row.stored_bytes,
                ]
                for row in report.layers
            ]
            for report in reports
            if isinstance(report, ValidateReport) and report.layers
        ],
    }


def _entry(
    shown: Sequence[Entry], entry: Entry, known: Sequence[Measure], texts: dict[str, int]
) -> dict[str, Any]:
    """Return a point's data; its tensors name their texts, the same at most points, by number."""
    ledger = entry.point.ledger
    return {
        "label": overlay.full_label(shown, entry),
        "hover": _hover(shown, entry, known),
        "ledger": None if ledger is None else page_tables.ledger_parts(ledger),
        "tensors": [_tensor(row, texts) for row in entry.point.tensors],
    }


def _hover(shown: Sequence[Entry], entry: Entry, known: Sequence[Measure]) -> list[str]:
    """Return the lines that describe a point."""
    point = entry.point
    lines = [overlay.full_label(shown, entry)]
    if point.file_bytes is not None:
        times = "" if point.ratio is None else f", {point.ratio:.2f} times smaller"
        lines.append(f"{size_text(point.file_bytes)}{times}")
    if point.bits_per_weight is not None:
        lines.append(f"{point.bits_per_weight:.2f} bits per encoded weight")
    for measure in known:
        row = overlay.reading(entry, measure.label)
        if row is not None:
            is_exact = row.candidate.value is None and row.is_equal
            value = "exact" if is_exact else f"{estimate_text(row.candidate)} {measure.unit}"
            lines.append(f"{measure.title}: {value}".rstrip())
    return lines


def _tensor(row: TensorRow, texts: dict[str, int]) -> list[Any]:
    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    return [
        number(tensor_name(row.name, row.graph)),
        row.bit_width,
        row.elements,
        row.original_bytes,
        row.stored_bytes,
        None if row.snr_db is None else finite(row.snr_db),
        number("x".join(map(str, row.shape))),
        number(row.scheme if row.same_as is None else f"shared with {plain(row.same_as)}"),
    ]


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "x": chart.size_axis,
        "y": chart.measure.axis,
        "better": chart.measure.better,
        "series": [
            {
                "name": series.name,
                "model": series.model,
                "line": series.is_line,
                "dots": [
                    [dot.entry, dot.size, dot.value, dot.low, dot.high, dot.is_front, dot.is_upper]
                    for dot in series.dots
                ],
            }
            for series in chart.series
        ],
        "floats": [
            {
                "name": line.name,
                "model": line.model,
                "value": line.value,
                "low": line.low,
                "high": line.high,
            }
            for line in chart.float_lines
        ],
        "undrawn": list(chart.undrawn),
    }
