"""Write the calibration sets of `models/`: unlabelled samples of what two networks were trained on.

    python tools/make_calibration.py models

`imagecomp_calibration/` holds crops of the training photographs, `dcase_calibration.npz` training
clips of one recording each. Neither shares a photograph or a recording with the held-out data, so
what is fitted to them (`onnxq lowrank --data`) can be judged on those. Needs the `train` extra;
photographs are fetched as `train_imagecomp.py` does.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if __name__ == "__main__":  # run as a file, Python looks beside it, not in the repository's root
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import dcase_scenes, imagecomp_data

CROPS = 2
"""Crops of each training photograph."""
RECORDINGS = 6
"""Recordings of each of the 15 classes, with one clip each."""


def write_crops(folder: Path, cache: Path) -> int:
    """Write the first crops of every training photograph without people; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for photograph, pixels in imagecomp_data.load(cache):
        if photograph.part != "train" or photograph.id in imagecomp_data.PEOPLE:
            continue
        for name, crop in islice(imagecomp_data.crops(photograph, pixels), CROPS):
            Image.fromarray(crop).save(folder / f"{name}.png", optimize=True)
            written += 1
    return written


def clips() -> list[dcase_scenes.Clip]:
    """Return the first clip of the first training recordings of every class."""
    return [
        clip
        for clip in dcase_scenes.clips("train")
        if clip.number == 0 and clip.recording < RECORDINGS
    ]


def bands() -> NDArray[np.float32]:
    """Return the rounded log-mel bands of `clips`, [90, 1, 40, 500]."""
    return np.stack([dcase_scenes.clip_bands(clip) for clip in clips()])[:, None]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the calibration sets.")
    parser.add_argument("folder", type=Path, help="where they go")
    parser.add_argument("--cache", type=Path, default=Path("build/imagecomp"), help="for packages")
    arguments = parser.parse_args()
    try:
        crops = write_crops(arguments.folder / "imagecomp_calibration", arguments.cache)
    except imagecomp_data.DataError as err:
        sys.exit(f"make_calibration.py: {err}")
    rows = bands()
    np.savez_compressed(arguments.folder / "dcase_calibration.npz", logmel=rows)
    print(f"{crops} crops and {len(rows)} clips in {arguments.folder}")


if __name__ == "__main__":
    main()
