"""Measure the published tables of cluster-based quantization beside our figures, and draw them.

    python tools/ce2_tables.py table1            VGG16; table2 ResNet50, table3 image compression,
                                                 table4 its low-rank version, table5 DCASE audio
    python tools/ce2_tables.py lowrank           size against score of low-rank versions, all four
    python tools/ce2_tables.py lowrank-dcase     ... of one network
    python tools/ce2_tables.py all               everything
    python tools/ce2_tables.py draw              pages and plots again, from ce2.json alone

A target replaces its own section of `ce2.json` in the folder of `--out` and leaves all others.
Trained networks and their held-out and calibration data come from `--trained`; a network that is
not there is built with synthetic weights in the folder of `--models`, and kept. Needs the `data`
and `plot` extras. docs/results/ce2.md says how long each target takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # run as a file, Python looks beside it, not in the repository's root
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from onnxq.errors import OnnxqError
from tools.ce2 import lowrank, networks, results, tables
from tools.ce2.networks import Setup

OUT = networks.ROOT / "docs" / "results"
Measure = Callable[[Setup], results.Section]


TARGETS: dict[str, Measure] = {
    "table1": partial(tables.measure, 1),
    "table2": partial(tables.measure, 2),
    "table3": partial(tables.measure, 3),
    "table4": lowrank.measure_table,
    "table5": partial(tables.measure, 5),
    **{f"lowrank-{name}": partial(lowrank.measure, name) for name in networks.NETWORKS},
}
"""What can be measured, by the name of its section."""
GROUPS = {
    **{name: (name,) for name in TARGETS},
    "lowrank": tuple(name for name in TARGETS if name.startswith("lowrank-")),
    "all": tuple(TARGETS),
    "draw": (),
}


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the published tables beside ours.")
    parser.add_argument("target", choices=GROUPS, metavar="TARGET", help=", ".join(GROUPS))
    parser.add_argument(
        "--models", type=Path, default=networks.BUILT, help="folder of built networks"
    )
    parser.add_argument(
        "--trained", type=Path, default=networks.TRAINED, help="folder of trained networks and data"
    )
    parser.add_argument(
        "--no-times", action="store_true", help="run large networks in onnxruntime, but untimed"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    return parser.parse_args(words)


def measure(names: tuple[str, ...], setup: Setup, out: Path) -> list[str]:
    """Measure targets one by one; return those that failed, whose old sections stay."""
    failed = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            results.update(out, name, TARGETS[name](setup))
        except (RuntimeError, ValueError, OSError, OnnxqError) as err:
            print(f"ce2_tables.py: {name}: {err}", file=sys.stderr)
            failed.append(name)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return failed


def main(words: list[str] | None = None) -> int:
    """Measure and draw; return 0, or 1 where a target failed or nothing was ever measured."""
    chosen = arguments(words)
    setup = Setup(
        trained=chosen.trained.resolve(),
        built=chosen.models.resolve(),
        is_timed=not chosen.no_times,
    )
    failed = measure(GROUPS[chosen.target], setup, chosen.out)
    from tools.ce2 import pages  # it needs matplotlib, whose memory must not count while measuring

    written = pages.draw(chosen.out)
    for path in written:
        print(path)
    if not written:
        print(f"ce2_tables.py: {chosen.out}: nothing is measured yet", file=sys.stderr)
    return 1 if failed or not written else 0


if __name__ == "__main__":
    sys.exit(main())
