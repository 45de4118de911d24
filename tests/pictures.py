"""Small image and sound files for tests."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return smooth colours, so that JPEG keeps them and resizing is no lottery."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [
        127 + 120 * np.sin(rows / (7 + k + seed) + columns / (11 + 2 * k)) for k in range(channels)
    ]
    return np.stack(waves, -1).astype(np.uint8)


def save_image(path: Path, values: np.ndarray[Any, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values).save(
        path, **options
    )
    return path


def wav_bytes(
    frames: bytes, *, rate: int = 16000, channels: int = 1, bits: int = 16, is_float: bool = False
) -> bytes:
    """Return a WAV file written by hand, so that reading it is compared with the format itself."""
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", 3 if is_float else 1, channels, rate, rate * block, block, bits)
    data = b"data" + struct.pack("<I", len(frames)) + frames + b"\0" * (len(frames) % 2)
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(head)) + head + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def save_wav(path: Path, values: np.ndarray[Any, Any], rate: int = 16000) -> Path:
    """Write floats of -1..1 as 16-bit samples, [time] or [time, channels]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.round(np.clip(values, -1, 32767 / 32768) * 32768).astype("<i2")
    channels = 1 if whole.ndim == 1 else whole.shape[1]
    path.write_bytes(wav_bytes(whole.tobytes(), rate=rate, channels=channels))
    return path
