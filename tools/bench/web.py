"""Measure what conversion saves and costs in the browser: bytes, load time, time until ready.

    python -m tools.bench.web --repeats 15 --json docs/bench/web-digits.json

Builds the page of `examples/web` and drives headless Chromium. A load is what `runtime.js` does:
onnxruntime-web, in WebAssembly with one thread, makes a session of downloaded bytes. "Ready" is
download and load together over a connection that Chromium slows down, with an empty cache; the
runtime has been started before. The models take turns in every repeat, and ratios are taken within
a repeat; the float model comes a second time, to show the noise.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.bench import record, web_page

# Milliseconds of latency and megabits a second: a slow and an ordinary mobile connection.
CONNECTIONS = {"1.6 Mbit/s": (150, 1.6), "9 Mbit/s": (60, 9.0)}
FLOAT = "models/digits.onnx"
LOAD = """
const [paths, done] = arguments;
(async () => {
  const web = await import(new URL("runtime.js", document.baseURI).href);
  const times = [];
  for (const path of paths) {
    const { session, milliseconds } = await web.load(await web.download(path));
    await session.release();
    times.push(milliseconds);
  }
  return times;
})().then((times) => done({ times }), (error) => done({ error: String(error) }));
"""
READY = """
const [path, done] = arguments;
(async () => {
  const web = await import(new URL("runtime.js", document.baseURI).href);
  const start = performance.now();
  const { session } = await web.load(await web.download(path));
  const milliseconds = performance.now() - start;
  await session.release();
  return [milliseconds];
})().then((times) => done({ times }), (error) => done({ error: String(error) }));
"""


def paths_of(widths: Sequence[int]) -> list[str]:
    """Return the served models: float, each width, and float again."""
    return [FLOAT, *(f"models/digits-{bits}bit.onnx" for bits in widths), FLOAT]


def measure_loads(driver: Any, paths: Sequence[str], repeats: int) -> list[list[float]]:
    """Return a row of load milliseconds per repeat, after a round that only warms up."""
    rounds = [_times(driver, LOAD, list(paths)) for _ in range(repeats + 1)]
    return rounds[1:]


def measure_ready(
    driver: Any, paths: Sequence[str], repeats: int, connection: tuple[int, float]
) -> list[list[float]]:
    """Return a row of milliseconds until ready per repeat, over a slowed connection."""
    latency, megabits = connection
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
    bytes_a_second = megabits * 1e6 / 8
    conditions = {
        "offline": False,
        "latency": latency,
        "downloadThroughput": bytes_a_second,
        "uploadThroughput": bytes_a_second,
    }
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
    try:
        return [[_times(driver, READY, path)[0] for path in paths] for _ in range(repeats)]
    finally:
        free = {**conditions, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", free)


def _times(driver: Any, script: str, argument: Any) -> list[float]:
    answer = driver.execute_async_script(script, argument)
    if "error" in answer:
        raise web_page.WebPageError(answer["error"])
    return [float(time) for time in answer["times"]]


def figures(rounds: Sequence[Sequence[float]], index: int) -> dict[str, Any]:
    """Return a model's milliseconds and their ratios to the first model's."""
    return {
        "milliseconds": record.spread([times[index] for times in rounds]),
        "ratio": record.spread([times[index] / times[0] for times in rounds]),
    }


def measure(folder: Path, widths: Sequence[int], repeats: int) -> dict[str, Any]:
    """Return the rows of all models, and the browser's version."""
    paths = paths_of(widths)
    with web_page.serve(folder) as address, web_page.chromium() as driver:
        web_page.open_page(driver, address)
        loads = measure_loads(driver, paths, repeats)
        ready = {
            name: measure_ready(driver, paths, repeats, connection)
            for name, connection in CONNECTIONS.items()
        }
        browser = driver.capabilities["browserVersion"]
    rows = []
    for index, path in enumerate(paths):
        content = (folder / path).read_bytes()
        bits = 32 if path == FLOAT else widths[index - 1]
        rows.append(
            {
                "model": Path(path).name,
                "bits": bits,
                "file_bytes": len(content),
                "gzip_bytes": len(gzip.compress(content, 9)),
                "load": figures(loads, index),
                "ready": {name: figures(rounds, index) for name, rounds in ready.items()},
            }
        )
    wasm = (folder / "ort-wasm-simd-threaded.wasm").read_bytes()
    return {
        "chromium": browser,
        "runtime_wasm_bytes": len(wasm),
        "runtime_wasm_gzip_bytes": len(gzip.compress(wasm, 9)),
        "models": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the page of examples/web in Chromium.")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where the result goes; stdout without it")
    arguments = parser.parse_args()
    lacking = web_page.missing()
    if lacking is not None:
        parser.error(lacking)
    with tempfile.TemporaryDirectory() as name:
        result = measure(web_page.build(Path(name)), arguments.bits, arguments.repeats)
    record.write(
        {
            "benchmark": "web",
            **record.environment(),
            "repeats": arguments.repeats,
            "onnxruntime_web": web_page.runtime_version(),
            "threads": 1,
            "connections": {
                name: {"latency_ms": latency, "megabits_per_second": megabits}
                for name, (latency, megabits) in CONNECTIONS.items()
            },
            **result,
        },
        arguments.json,
    )


if __name__ == "__main__":
    main()
