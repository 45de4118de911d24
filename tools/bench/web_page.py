"""Build, serve and drive the page of `examples/web` in headless Chromium.

For the page's tests and its benchmark. Needs node, npm, chromium, chromedriver and the `browser`
extra; `npm ci` needs the npm registry or npm's cache of it.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = Path("examples", "web")
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What npm says where neither the registry nor the cache can answer.
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENOTCACHED")
SCRIPT_SECONDS = 300

Array = np.ndarray[Any, np.dtype[Any]]

# Runs a model of the served folder; arrays cross as base64, since JSON would round and inflate.
RUN = """
const [path, feeds, done] = arguments;
const TYPES = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };
const bytesOf = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
const textOf = (data) => {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) {
    text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  }
  return btoa(text);
};
(async () => {
  const web = await import(new URL("runtime.js", document.baseURI).href);
  const tensors = {};
  for (const [name, { type, shape, data }] of Object.entries(feeds)) {
    tensors[name] = new web.Tensor(type, new TYPES[type](bytesOf(data).buffer), shape);
  }
  const { session } = await web.load(await web.download(path));
  try {
    const outputs = Object.entries(await web.run(session, tensors));
    return Object.fromEntries(outputs.map(([name, { type, dims, data }]) => [
      name, { type, shape: Array.from(dims), data: textOf(data) },
    ]));
  } finally {
    await session.release();
  }
})().then((outputs) => done({ outputs }), (error) => done({ error: String(error) }));
"""


class WebPageError(RuntimeError):
    """The page could not be built, or a model could not be run in it."""


class UnreachableRegistryError(WebPageError):
    """The packages of the page could not be fetched."""


def missing() -> str | None:
    """Return what this machine lacks to drive the page, or None."""
    for names in (("node",), ("npm",), CHROMIUMS, ("chromedriver",)):
        if not any(shutil.which(name) for name in names):
            return f"{names[0]} is not installed"
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed: pip install 'onnxq[browser]'"
    return None


def build(folder: Path) -> Path:
    """Build the page from its sources and lock file in an empty folder, and return its `dist`.

    Raises:
        UnreachableRegistryError: npm could not fetch the packages.
        WebPageError: `npm ci` or `npm run build` failed otherwise.
    """
    shutil.copytree(ROOT / "models", folder / "models")
    ignored = shutil.ignore_patterns("node_modules", "dist")
    example = shutil.copytree(ROOT / EXAMPLE, folder / EXAMPLE, ignore=ignored)
    _npm(example, "ci", "--prefer-offline", "--no-audit", "--no-fund")
    _npm(example, "run", "build")
    shutil.rmtree(example / "node_modules")
    return example / "dist"


def runtime_version() -> str:
    """Return the version of onnxruntime-web that the lock file names."""
    lock = json.loads((ROOT / EXAMPLE / "package-lock.json").read_text(encoding="utf-8"))
    return str(lock["packages"]["node_modules/onnxruntime-web"]["version"])


def _npm(folder: Path, *arguments: str) -> None:
    found = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, found)),
    }
    npm = shutil.which("npm") or "npm"
    done = subprocess.run(
        [npm, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stdout + done.stderr
        is_unreachable = arguments[0] == "ci" and any(code in said for code in UNREACHABLE)
        error = UnreachableRegistryError if is_unreachable else WebPageError
        raise error(f"npm {arguments[0]} failed:\n{said}")


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of the loopback interface; give its address, without a slash.

    A plain static server: it sets neither of the headers COOP and COEP.
    """
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """Give a selenium driver of headless Chromium that resolves no name but the loopback's."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, CHROMIUMS)))
    for argument in (
        "--headless=new",
        f"--window-size={width},{height}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses to run for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(SCRIPT_SECONDS)
    try:
        yield driver
    finally:
        driver.quit()


def set_viewport(driver: Any, width: int, height: int, is_dark: bool = False) -> None:
    """Give the page a viewport of this size in CSS pixels, and a light or dark scheme."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def open_page(driver: Any, address: str) -> None:
    """Open the page and wait until both models have answered."""
    driver.get(f"{address}/index.html")
    wait_until_idle(driver)


def wait_until_idle(driver: Any) -> None:
    """Wait until the page shows the outputs of the chosen width, or an error."""
    from selenium.webdriver.support.ui import WebDriverWait

    idle = (
        "return !document.getElementById('error').hidden || ("
        "!document.body.hasAttribute('data-busy')"
        " && document.getElementById('verdict').textContent !== ''"
        " && document.querySelector('[data-bits]').textContent"
        " === document.getElementById('bits').elements.bits.value)"
    )
    WebDriverWait(driver, SCRIPT_SECONDS).until(lambda page: page.execute_script(idle))


def run_model(driver: Any, path: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of a served model, run by the page's own runtime.

    Args:
        driver: a browser that shows the page.
        path: where the model lies, relative to the page.
        feeds: float32, int32 or int64 arrays by input name.

    Raises:
        WebPageError: the runtime refuses the model or the feeds.
    """
    sent = {
        name: {
            "type": array.dtype.name,
            "shape": list(array.shape),
            "data": base64.b64encode(array.tobytes()).decode("ascii"),
        }
        for name, array in feeds.items()
    }
    answer = driver.execute_async_script(RUN, path, sent)
    if "error" in answer:
        raise WebPageError(f"{path}: {answer['error']}")
    return {
        name: np.frombuffer(base64.b64decode(output["data"]), output["type"]).reshape(
            output["shape"]
        )
        for name, output in answer["outputs"].items()
    }


def console(driver: Any) -> list[str]:
    """Return what the console said since the last call: warnings and errors."""
    entries = driver.get_log("browser")
    return [
        entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE", "ERROR")
    ]


def requested(driver: Any) -> set[str]:
    """Return the origins (schemes, without a host) of the requests since the last call."""
    origins = set()
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urllib.parse.urlsplit(message["params"]["request"]["url"])
            origins.add(f"{url.scheme}://{url.netloc}" if url.netloc else url.scheme)
    return origins
