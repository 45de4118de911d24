"""The page's text: what it holds, that it needs nothing else, and that names cannot break it."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import html.parser
import json
import re
from pathlib import Path

import pytest

from onnxq.errors import InputError, MissingDependencyError, OutputError
from onnxq.pages import page, page_tables
from onnxq.report import FileSize, ValidateReport
from onnxq.sweeps.working_points import SweepReport
from onnxq.validation.measurements import (
    DataUsed,
    Estimate,
    GateRow,
    LayerRow,
    MetricRow,
    Performance,
    Timing,
)
from tests import reports, sweeps
from tests.digits_sweep import digits_sweep
from tests.hostile_names import HOSTILE

pytest.importorskip("jinja2")
pytest.importorskip("plotly")


class Elements(html.parser.HTMLParser):
    """Collect the elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.words.append(data)

    def handle_endtag(self, tag) -> None:
        self._open = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def payload(text: str) -> dict:
    return json.loads(Elements(text).scripts[0])


def validated(name: str = "conv1.weight") -> ValidateReport:
    """Return a validation with everything that it can hold."""
    timing = Timing(load_seconds=0.5, median_seconds=0.002, p90_seconds=0.003, runs=30)
    layer = LayerRow(
        name=name,
        graph=name,
        bit_width=4,
        elements=10,
        stored_bytes=5,
        snr_db=20.0,
        output_snr_db=25.0,
    )
    return dataclasses.replace(
        reports.VALIDATED,
        candidate=FileSize(path=name, file_bytes=2_500),
        data=DataUsed(kind="npz", path=name, samples=10, available=20),
        metrics=(
            MetricRow(
                name=name,
                output=name,
                kind="task",
                better="higher",
                samples=10,
                reference=Estimate(value=0.9, low=0.8, high=1.0),
                candidate=Estimate(value=0.8, low=0.7, high=0.9),
                difference=Estimate(value=-0.1, low=-0.2, high=0.01),
                relative_change=0.125,
                is_within_noise=True,
                detail=name,
            ),
        ),
        performance=Performance(
            provider=name,
            threads=2,
            is_packed=True,
            reference=timing,
            candidate=timing,
            load_ratio=1.0,
            latency_ratio=1.0,
        ),
        layers=(layer, dataclasses.replace(layer, output_snr_db=None)),
        gates=(
            GateRow(
                gate=name, subject=name, found=None, limit=1.0, passed=False, message=f"{name}!"
            ),
        ),
        passed=False,
        failures=(name,),
        notes=(name,),
        options={name: name},
    )


def hostile() -> SweepReport:
    """Return a sweep every text of which is hostile."""
    sweep = digits_sweep(("optimal",), (2, 4))
    points = tuple(
        dataclasses.replace(
            point,
            series=HOSTILE,
            command=HOSTILE,
            tensors=tuple(
                dataclasses.replace(row, name=HOSTILE, graph=HOSTILE) for row in point.tensors
            ),
            metrics=tuple(
                dataclasses.replace(row, name=HOSTILE, output=HOSTILE) for row in point.metrics
            ),
        )
        for point in sweep.points
    )
    return dataclasses.replace(
        sweep,
        model=FileSize(path=HOSTILE, file_bytes=10**6),
        points=(*points, dataclasses.replace(points[0], error=HOSTILE)),
        notes=(HOSTILE,),
        options={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE, "onnxq": HOSTILE},
        environment={HOSTILE: HOSTILE},
        command_line=HOSTILE,
    )


def test_the_page_has_the_tables_the_data_and_the_commands() -> None:
    sweep = digits_sweep()
    text = page.render([sweep], "onnxq report sweep.json --html page.html")
    words = " ".join(Elements(text).words)
    for word in ("digits.onnx", "73.9 kB", "Top-1 accuracy", "within noise", "597 samples"):
        assert word in words
    for command in (sweep.command_line, sweep.points[3].command, "onnxq report sweep.json"):
        assert command in words
    assert "x86_64" in words
    captions = len(Elements(text).all("caption"))
    assert captions == len(Elements(text).all("table")) == 3


def test_the_data_of_the_charts_is_that_of_the_report() -> None:
    sweep = digits_sweep()
    data = payload(page.render([sweep]))
    assert [entry["ledger"] for entry in data["entries"]] == [
        page_tables.ledger_parts(point.ledger) for point in sweep.points
    ]
    for entry, point in zip(data["entries"], sweep.points, strict=True):
        assert sum(entry["ledger"]) == point.file_bytes
        names = [data["texts"][row[0]] for row in entry["tensors"]]
        assert names == [row.name for row in point.tensors]
    assert list(data["charts"]) == ["top1", "snr", "top1-agreement"]
    assert list(data["charts"]["snr"]) == ["file", "share", "rate", "ce2"]


def test_only_the_pages_own_scripts_may_run() -> None:
    text = page.render([digits_sweep()])
    elements = Elements(text)
    policy = next(
        attributes["content"]
        for attributes in elements.all("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    allowed = re.findall(r"'sha256-(.+?)'", policy)
    library = gzip.decompress(base64.b64decode(elements.scripts[1]))
    assert b"plotly.js" in library[:100]
    for script in (elements.scripts[2].encode(), library):
        assert base64.b64encode(hashlib.sha256(script).digest()).decode() in allowed
    assert len(allowed) == 2


def test_the_page_refers_to_nothing_outside_itself() -> None:
    elements = Elements(page.render([digits_sweep(), validated()]))
    for tag, attributes in elements.found:
        assert "src" not in attributes, tag
        assert attributes.get("href") in (None, "data:,"), tag
    style = page._template("page.css")
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("drawn", [[hostile], [lambda: validated(HOSTILE)], [hostile, validated]])
def test_hostile_names_stay_text(drawn) -> None:
    text = page.render([make() for make in drawn], HOSTILE)
    elements = Elements(text)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"img", "a", "iframe", "object"}
    assert len(elements.scripts) == 3
    assert not any("onerror" in attributes for _, attributes in elements.found)
    assert "<img src=x" in " ".join(elements.words)
    assert not any(sign in text for sign in ("\u202e", "\x1b", "\u2028"))
    json.loads(elements.scripts[0])


def test_the_same_reports_give_the_same_page() -> None:
    assert page.render([digits_sweep()]) == page.render([digits_sweep()])


def test_every_report_that_can_be_drawn_is() -> None:
    for report in (reports.CONVERTED, reports.NOTHING_GAINED, reports.INVALID, sweeps.SWEPT):
        assert "<!DOCTYPE html>" in page.render([report])
    assert page.render([sweeps.SWEPT, reports.CONVERTED, validated()])
    with pytest.raises(InputError, match="found one of restore"):
        page.render([reports.RESTORED])


def test_a_validation_shows_gates_metrics_times_and_layers() -> None:
    text = page.render([validated()])
    words = " ".join(Elements(text).words)
    for word in ("Gates", "Metrics", "Times and memory", "weights kept packed", "Which tensors"):
        assert word in words
    assert "0.9 [0.8, 1]" in words
    assert "+12.5 %" in words
    assert payload(text)["layers"][0][0][1:] == [25.0, False, 4, 5]


def test_a_file_is_only_overwritten_on_demand(tmp_path) -> None:
    path = tmp_path / "page.html"
    page.save([reports.CONVERTED], path)
    assert path.read_text(encoding="utf-8") == page.render([reports.CONVERTED])
    with pytest.raises(OutputError, match="--force"):
        page.save([reports.CONVERTED], path)
    page.save([reports.CONVERTED], path, force=True)


def test_a_missing_package_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    message = r"pip install jinja2 plotly, or onnxq\[html\]"
    with pytest.raises(MissingDependencyError, match=message):
        page.check_target(Path("page.html"), force=True)


def test_the_documented_size_of_a_page_holds() -> None:
    text = (Path(__file__).parent.parent / "docs" / "pages.md").read_text(encoding="utf-8")
    documented = float(re.search(r"about ([\d.]+) MB", text)[1])
    assert len(page.render([digits_sweep()]).encode()) / 1e6 == pytest.approx(documented, rel=0.1)


def test_the_templates_are_part_of_the_package() -> None:
    folder = Path(page.__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {"page.css", "page.html", "page.js"}
