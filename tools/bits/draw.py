"""Write the results page, its data and its plots.

    python -m tools.bits.draw                     from the rows of the work folder and bits.json
    python -m tools.bits.draw --only-json         from bits.json alone
    python -m tools.bits.draw --fresh             from the rows alone; bits.json is begun anew

Rows of the work folder take the place of their former selves in bits.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from onnxq import files
from tools.bits import markdown, plots, results
from tools.bits.rows import Row, read_all
from tools.bits.tasks import TASKS, WORK
from tools.ce2 import networks

OUT = networks.ROOT / "docs" / "results"
PAGE = "bits.md"


def write_all(out: Path, rows: list[Row]) -> list[Path]:
    """Write the results file, a plot for each model and the page; return their paths."""
    results.write(out, rows)
    pictures = {}
    for name, task in TASKS.items():
        own = [row for row in rows if row["task"] == name]
        if own:
            pictures[name] = f"bits-{name}.png"
            files.write_bytes(out / pictures[name], plots.draw(task, own))
    files.write_bytes(out / PAGE, markdown.page(rows, pictures).encode())
    return [out / results.NAME, *(out / name for name in pictures.values()), out / PAGE]


def main(words: list[str] | None = None) -> int:
    """Draw; return 1 where nothing was measured yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK, help="folder of finished rows")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    parser.add_argument("--only-json", action="store_true", help="leave the rows alone")
    parser.add_argument("--fresh", action="store_true", help="leave the old bits.json out")
    chosen = parser.parse_args(words)
    old = [] if chosen.fresh else results.read(chosen.out)
    new = [] if chosen.only_json else list(read_all(chosen.work / "rows"))
    rows = results.merged(old, new)
    if not rows:
        print(f"draw: {chosen.work}: nothing is measured yet", file=sys.stderr)
        return 1
    for path in write_all(chosen.out, rows):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
