"""The page in headless Chromium, opened from a file: charts, sorting, keys, and no request."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxq.pages import page
from tests import reports
from tests.digits_sweep import digits_sweep
from tests.hostile_names import HOSTILE
from tests.test_page import hostile, validated

pytestmark = pytest.mark.browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = 1280, 390


class Browser:
    """Open pages from files, and collect what they log and ask for."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(self, text: str, *, width: int = WIDE, scheme: str = "light") -> None:
        path = self.folder / "page.html"
        path.write_text(text, encoding="utf-8")
        self.size(width)
        self.scheme(scheme)
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path.as_uri())
        self.wait(lambda: self.run("return root.dataset.state"))

    def wait(self, claim: Callable[[], Any]) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 60).until(lambda _: claim())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(
            f"const root = document.documentElement; {script}", *arguments
        )

    def all(self, selector: str) -> list[Any]:
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def size(self, width: int) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, value: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def column(self, table: str, number: int) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll(arguments[0] + ' tbody tr')]"
            ".map((row) => row.cells[arguments[1]].dataset.sort ?? '')",
            table,
            number,
        )

    def choose(self, identity: str, value: str) -> None:
        from selenium.webdriver.support.select import Select

        Select(self.all(f"#{identity}")[0]).select_by_value(value)

    def move_to(self, element: Any, *, click: bool = False) -> None:
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        actions = ActionChains(self.driver, duration=20).move_to_element(element)
        actions.move_by_offset(1, 0)
        (actions.click() if click else actions).pause(0.5).perform()

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the page was opened, but its own."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        own = (self.folder / "page.html").as_uri()
        return [url for url in found if url != own and not url.startswith(("data:", "blob:"))]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver")
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    chromedriver = shutil.which("chromedriver")
    if program is None or chromedriver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=chromedriver)
    )
    yield Browser(driver, tmp_path_factory.mktemp("pages"))
    driver.quit()


@pytest.fixture
def opened(browser: Browser) -> Browser:
    browser.open(page.render([digits_sweep()], "onnxq report sweep.json --html page.html"))
    return browser


def test_charts_and_tables_are_there_without_a_request_or_a_complaint(opened) -> None:
    assert opened.run("return root.dataset.state") == "drawn"
    assert len(opened.all("#curves .scatterlayer .trace path.point")) >= 14
    assert len(opened.all("#curves .errorbar")) == 14
    assert len(opened.all("#ledger .bars .point")) == 14 * 5
    assert len(opened.all("#tensors .bars .point")) == 12
    assert len(opened.all("table.points tbody tr")) == 14
    assert opened.requests() == []
    assert opened.complaints() == []


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_fill_the_page_and_nothing_is_wider_than_it(browser, width, scheme) -> None:
    browser.open(page.render([digits_sweep(), validated()]), width=width, scheme=scheme)
    inner = browser.run("return root.clientWidth")
    assert browser.run("return root.scrollWidth") == inner
    for chart in browser.all(".chart"):
        assert chart.size["width"] == pytest.approx(inner - 32, abs=4)
        assert chart.size["height"] > 90
    clipped = browser.run(
        "return [...document.querySelectorAll('.chart .main-svg')].flatMap((svg) =>"
        " [...svg.querySelectorAll('text')].filter((text) => {"
        "  const [a, b] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];"
        "  return a.width && (a.left < b.left - 1 || a.right > b.right + 1);"
        " }).map((text) => text.textContent))"
    )
    assert clipped == []
    back = browser.run("return getComputedStyle(document.body).backgroundColor")
    paper = browser.run("return document.querySelector('#curves .main-svg').style.background")
    assert back == paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]


def test_the_charts_follow_a_change_of_the_colour_scheme(opened) -> None:
    opened.scheme("dark")
    script = "return document.querySelector('#curves .main-svg').style.background"
    opened.wait(lambda: opened.run(script) == "rgb(20, 23, 26)")


def test_a_click_on_a_heading_sorts(opened) -> None:
    heads = opened.all("table.points thead th")
    before = opened.column("table.points", 1)
    heads[1].click()
    assert heads[1].get_attribute("aria-sort") == "ascending"
    after = opened.column("table.points", 1)
    assert after == sorted(before, key=float) != before
    heads[1].find_element("tag name", "button").click()
    assert heads[1].get_attribute("aria-sort") == "descending"
    assert opened.column("table.points", 1) == sorted(before, key=float, reverse=True)
    heads[2].find_element("tag name", "button").click()
    assert heads[1].get_attribute("aria-sort") is None


def test_keys_alone_sort_and_the_focus_is_visible(opened) -> None:
    from selenium.webdriver.common.keys import Keys

    for _ in range(40):
        opened.press(Keys.TAB)
        if opened.run("return document.activeElement.textContent") == "File size":
            break
    active = "const style = getComputedStyle(document.activeElement); "
    assert opened.run(active + "return style.outlineStyle") == "solid"
    assert opened.run(active + "return parseFloat(style.outlineWidth)") >= 2
    for key, is_reversed in ((Keys.ENTER, False), (Keys.SPACE, True)):
        opened.press(key)
        found = opened.column("table.points", 1)
        assert found == sorted(found, key=float, reverse=is_reversed)
    assert opened.run("return document.activeElement.textContent") == "File size"


def test_missing_values_stay_last_in_both_directions(browser) -> None:
    from tests import sweeps

    browser.open(page.render([sweeps.SWEPT]))
    head = browser.all("table.points thead th button")[1]
    for _ in range(2):
        head.click()
        assert browser.column("table.points", 1)[-1] == ""


def test_pointing_at_a_point_shows_its_figures_and_a_click_its_tensors(opened) -> None:
    opened.choose("measure", "snr")
    points = opened.all("#curves .scatterlayer .trace path.point")

    parts = ("bounded-pdf, 8 bits", "99.6 kB, 3.65 times smaller", "Top-1 accuracy: 0.995")

    def is_shown() -> bool:
        opened.move_to(points[-1])
        shown = [text.text for text in opened.all("#curves .hoverlayer .hovertext")]
        return all(part in " ".join(shown) for part in parts)

    opened.wait(is_shown)
    opened.move_to(points[-1], click=True)
    assert opened.run("return document.getElementById('entry').value") == "13"
    assert "bounded-pdf, 8 bits" in opened.run(
        "return document.getElementById('tensors-caption').textContent"
    )


def test_metric_and_size_can_be_chosen_and_series_hidden(opened) -> None:
    opened.choose("measure", "snr")
    opened.choose("size", "rate")
    titles = [element.text for element in opened.all("#curves .infolayer text")]
    assert {"Output SNR, worst output (dB)", "Bits per encoded weight"} <= {*titles}
    assert len(opened.all("#curves .lines path.js-line")) == 3
    opened.all("#curves-legend input")[0].click()
    assert len(opened.all("#curves .lines path.js-line")) == 2


@pytest.mark.parametrize("figure", ["stored", "snr", "bits", "times"])
def test_each_figure_of_the_tensors_is_drawn_and_tabled(opened, figure) -> None:
    opened.choose("figure", figure)
    drawn = len(opened.all("#tensors .bars .point"))
    assert drawn >= 10
    remark = opened.all("#tensors-remark")[0].text
    assert remark == "" if drawn == 12 else remark.startswith(f"{drawn} of 12 tensors")
    assert len(opened.all("#tensors-body tr")) == 12


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_long_names_of_tensors_stay_apart(browser, width) -> None:
    sweep = digits_sweep(("optimal",), (2, 4))
    point = sweep.points[0]
    rows = tuple(
        dataclasses.replace(
            point.tensors[0], name=f"model/encoder/layer.{n}/attention/query/weight"
        )
        for n in range(60)
    )
    points = (dataclasses.replace(point, tensors=rows),)
    browser.open(page.render([dataclasses.replace(sweep, points=points)]), width=width)
    labels = [element.text for element in browser.all("#tensors .ytick text")]
    assert len(labels) == len(set(labels)) == 40
    assert max(map(len, labels)) <= (38 if width == WIDE else 18)
    assert all("layer." in label for label in labels) or width == NARROW
    assert browser.all("#tensors-remark")[0].text.startswith("40 of 60 tensors")


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_names_are_cut_between_words(browser, width) -> None:
    names = ["conv1.weight", "conv2.weight", "classifier.dense.weight"]
    sweep = digits_sweep(("optimal",), (2, 4))
    point = sweep.points[0]
    rows = tuple(dataclasses.replace(point.tensors[0], name=name) for name in names)
    points = (dataclasses.replace(point, tensors=rows),)
    browser.open(page.render([dataclasses.replace(sweep, points=points)]), width=width)
    labels = [element.text for element in browser.all("#tensors .ytick text")]
    assert labels[0].startswith("conv1")
    assert labels[2].startswith("classif")


def test_the_toolbar_covers_nothing_of_the_curves(opened) -> None:
    opened.move_to(opened.all("#curves")[0])
    bottom, top = opened.run(
        "const box = (name) => document.querySelector('#curves ' + name).getBoundingClientRect();"
        "return [box('.modebar').bottom, box('.nsewdrag').top]"
    )
    assert bottom <= top


def test_the_legend_of_the_curves_has_what_is_drawn(browser) -> None:
    sweep = digits_sweep()
    for points, has_front in ((sweep.points, True), (sweep.points[::7], False)):
        browser.open(page.render([dataclasses.replace(sweep, points=points)]))
        shown = [element.text for element in browser.all("#curves-legend span")]
        band = ["float model", "float model, 95 %"]
        assert shown == band + ["Pareto front (filled)"] * has_front


def test_hostile_names_are_shown_and_never_run(browser) -> None:
    browser.open(page.render([hostile(), validated(HOSTILE), reports.CONVERTED], HOSTILE))
    assert browser.run("return document.title") != "broken"
    assert browser.all("img[src=x]") == []
    assert browser.all(".chart a[href]") == []
    (bar, *_) = browser.all("#tensors .bars .point")

    def shown() -> str:
        browser.move_to(bar)
        return " ".join(text.text for text in browser.all("#tensors .hoverlayer .hovertext"))

    browser.wait(lambda: shown().startswith("</script><img src=x onerror="))
    assert browser.requests() == []
    assert browser.complaints() == []


def test_an_old_browser_keeps_the_tables_and_says_so(browser) -> None:
    source = {"source": "delete window.DecompressionStream"}
    command = "Page.addScriptToEvaluateOnNewDocument"
    identifier = browser.driver.execute_cdp_cmd(command, source)["identifier"]
    try:
        browser.open(page.render([digits_sweep()]))
        assert browser.run("return root.dataset.state") == "failed"
        assert "the tables hold every figure" in browser.all("#problem")[0].text
        assert len(browser.all("#tensors-body tr")) == 12
        browser.all("table.points thead button")[1].click()
        found = browser.column("table.points", 1)
        assert found == sorted(found, key=float)
    finally:
        browser.driver.execute_cdp_cmd(
            "Page.removeScriptToEvaluateOnNewDocument", {"identifier": identifier}
        )
