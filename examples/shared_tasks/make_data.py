"""Turn the data of the four shared tasks into what `onnxq validate --data` reads.

    python -m examples.shared_tasks.make_data TASK SOURCE OUTPUT

TASK is ocr, pitch, magika or vad; SOURCE is the task's data file; OUTPUT is an .npz file, for vad a
folder with one file for each recording. Needs Pillow for ocr.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

Array = np.ndarray[Any, np.dtype[Any]]

LINE_HEIGHT, LINE_WIDTH = 48, 192
RATE, FRAME, CONTEXT = 16000, 512, 64
LABELS_PER_FRAME = FRAME // 2
"""Labels are given at 8 kHz."""


def make_ocr(source: Path, output: Path) -> None:
    """Write every line upright (label 0) and turned by 180 degrees (label 1)."""
    with np.load(source) as data:
        lines = np.split(data["pix"], np.cumsum(data["w"])[:-1], axis=1)
    images = [_line(line) for line in lines] + [_line(line[::-1, ::-1]) for line in lines]
    label = np.repeat(np.arange(2), len(lines))
    np.savez(output, x=np.stack(images), label=label)


def _line(pixels: Array) -> Array:
    """Return a grey line as float32 [3, 48, 192] from -1 to 1, zero beyond its end."""
    from PIL import Image

    width = min(LINE_WIDTH, pixels.shape[1])
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scaled = np.asarray(image.resize((width, LINE_HEIGHT), Image.Resampling.BILINEAR))
    result = np.zeros((3, LINE_HEIGHT, LINE_WIDTH), np.float32)
    result[:, :, :width] = scaled[None].astype(np.float32) / 127.5 - 1
    return result


def make_pitch(source: Path, output: Path) -> None:
    """Write frames of zero mean and unit deviation with the MIDI notes that were played."""
    with np.load(source) as data:
        frames, notes = data["x"].astype(np.float32), data["midi"]
    frames -= frames.mean(1, keepdims=True)
    frames /= frames.std(1, keepdims=True) + 1e-10
    np.savez(output, frames=frames, midi=notes)


def make_magika(source: Path, output: Path) -> None:
    """Write the bytes of files with the index of their type."""
    with np.load(source) as data:
        np.savez(output, bytes=data["x"].astype(np.int32), label=data["y"])


def make_vad(source: Path, output: Path) -> None:
    """Write one file for each recording: frames in order, and the share of speech in each.

    The state is left out: it starts at zero and is carried by `--carry stateN=state`.
    """
    with np.load(source) as data:
        shape = tuple(data["shape"])
        speech = np.unpackbits(data["y"])[: np.prod(shape)].reshape(shape)
        sound = data["x"].astype(np.float32) / 32768
    sound = resample_poly(sound, 2, 1, axis=1).astype(np.float32)
    output.mkdir(parents=True, exist_ok=True)
    count = sound.shape[1] // FRAME
    for number, (samples, is_speech) in enumerate(zip(sound, speech, strict=True)):
        padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
        frames = [padded[k * FRAME : (k + 1) * FRAME + CONTEXT] for k in range(count)]
        shares = is_speech[: count * LABELS_PER_FRAME].reshape(count, LABELS_PER_FRAME).mean(1)
        np.savez(
            output / f"recording{number:02}.npz",
            input=np.stack(frames),
            sr=np.array(RATE, np.int64),
            speech=shares,
        )


TASKS: dict[str, Callable[[Path, Path], None]] = {
    "ocr": make_ocr,
    "pitch": make_pitch,
    "magika": make_magika,
    "vad": make_vad,
}


def main() -> None:
    """Read the command line and write the data of one task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    TASKS[arguments.task](arguments.source, arguments.output)


if __name__ == "__main__":
    main()
