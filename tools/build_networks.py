"""Write one of the four networks of the tables as an ONNX model with synthetic weights.

    python tools/build_networks.py {vgg16,resnet50,imagecomp,dcase} -o FILE [--seed N] [--force]

Opset 17, IR version 8, NCHW, BatchNormalization kept as nodes, tensors named by their layers. The
weights look like trained ones and are not (docs/networks.md); the file's metadata say so. The same
seed gives the same bytes. VGG16 takes 553 MB on disk.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, Python looks beside it, not in the repository's root
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import networks
from tools.networks import files


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build a network with synthetic weights.")
    parser.add_argument("network", choices=networks.NETWORKS)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="0 or more; default 0")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    return parser.parse_args(words)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def main(words: list[str] | None = None) -> int:
    """Build and write; return 0, or 1 where the file cannot be written."""
    chosen = arguments(words)
    try:
        files.check_target(chosen.output, force=chosen.force)
        model = networks.synthetic(chosen.network, chosen.seed)
        files.write(model, chosen.output)
    except OSError as err:
        print(f"build_networks.py: error: {err}", file=sys.stderr)
        return 1
    slots = networks.tensors(chosen.network)
    print(
        f"{chosen.output}: {chosen.network}, {sum(slot.elements for slot in slots):,} parameters "
        f"in {len(slots)} tensors, synthetic, seed {chosen.seed}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
