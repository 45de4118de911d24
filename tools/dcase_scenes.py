"""Fifteen acoustic scenes, synthesised: ten-second clips as log-mel bands or WAV files.

    python -m tools.dcase_scenes wav FOLDER --part held_out --limit 30    folders of classes
    python -m tools.dcase_scenes npz FILE --part held_out    log-mel bands and labels

The classes are those of DCASE 2018 task 1 with fifteen scenes; no sound of that data set is used.
A scene is a table of sounds (`dcase_sounds`), each with how often it is there and how loud. A
recording draws which sounds it has, their levels and character, its voices, its room, its
microphone and its loudness, and lends itself to some extent to another scene: scenes overlap. Its
clips differ as minutes of one place do. Everything follows from `SEED`, the part, the class, the
recording's and the clip's number, so that no recording (and no voice) is in two parts.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from onnxq.data.logmel import logmel
from onnxq.data.preprocess import AudioPreprocess
from onnxq.data.preprocess_file import load_preprocess
from tools import dcase_sounds
from tools.dcase_sounds import RATE, SAMPLES, Array

SEED = 2018
STEP = 1 / 4
PREPROCESS = Path(__file__).parent.parent / "models" / "dcase.yaml"
Profile = dict[str, tuple[float, float]]
FloatArray = np.ndarray[Any, np.dtype[np.float32]]

SCENES: dict[str, Profile] = {
    "beach": {
        "waves": (1, 0),
        "wind": (0.7, -5),
        "gulls": (0.5, -8),
        "babble": (0.4, -12),
        "speech": (0.3, -10),
        "rustle": (0.4, -14),
    },
    "bus": {
        "diesel": (1, 0),
        "tyres": (0.8, -5),
        "ventilation": (0.6, -8),
        "babble": (0.5, -9),
        "speech": (0.3, -8),
        "beeps": (0.3, -12),
        "doors": (0.5, -6),
        "rattle": (0.6, -8),
    },
    "cafe": {
        "babble": (1, 0),
        "clinks": (0.9, -4),
        "music": (0.5, -6),
        "steps": (0.5, -10),
        "ventilation": (0.6, -6),
        "speech": (0.5, -4),
        "doors": (0.2, -10),
    },
    "car": {
        "engine": (1, 0),
        "tyres": (1, -2),
        "wind": (0.5, -4),
        "music": (0.3, -8),
        "speech": (0.3, -6),
        "ventilation": (0.4, -8),
        "rattle": (0.2, -12),
    },
    "city_centre": {
        "traffic": (1, 0),
        "babble": (0.7, -6),
        "steps": (0.8, -8),
        "bells": (0.2, -10),
        "beeps": (0.15, -12),
        "music": (0.2, -10),
        "birds": (0.2, -14),
        "engine": (0.3, -6),
    },
    "forest_path": {
        "rustle": (1, 0),
        "birds": (0.8, -4),
        "steps": (0.7, -6),
        "wind": (0.6, -4),
        "rain": (0.2, -4),
        "traffic": (0.15, -10),
    },
    "grocery_store": {
        "ventilation": (1, 0),
        "hum": (0.7, -5),
        "beeps": (0.8, -6),
        "rattle": (0.6, -6),
        "babble": (0.7, -5),
        "music": (0.4, -8),
        "steps": (0.6, -10),
    },
    "home": {
        "hum": (0.8, -4),
        "ventilation": (0.5, -6),
        "clinks": (0.5, -6),
        "speech": (0.5, -3),
        "music": (0.4, -6),
        "steps": (0.5, -10),
        "doors": (0.3, -8),
        "rain": (0.15, -8),
    },
    "library": {
        "ventilation": (1, 0),
        "keys": (0.5, -8),
        "rustle": (0.5, -9),
        "steps": (0.6, -8),
        "speech": (0.2, -12),
        "doors": (0.3, -8),
        "hum": (0.3, -6),
    },
    "metro_station": {
        "rail": (0.7, 0),
        "squeal": (0.5, -6),
        "announcement": (0.5, -4),
        "babble": (0.8, -3),
        "steps": (0.8, -6),
        "beeps": (0.3, -10),
        "ventilation": (0.7, -5),
    },
    "office": {
        "ventilation": (1, -1),
        "keys": (0.8, -4),
        "hum": (0.6, -4),
        "speech": (0.5, -6),
        "beeps": (0.15, -12),
        "doors": (0.2, -10),
        "steps": (0.4, -10),
    },
    "park": {
        "birds": (0.8, -4),
        "rustle": (0.6, -5),
        "traffic": (0.7, -4),
        "steps": (0.6, -8),
        "babble": (0.5, -8),
        "wind": (0.5, -4),
        "dog": (0.3, -8),
        "speech": (0.3, -8),
    },
    "residential_area": {
        "traffic": (0.8, 0),
        "birds": (0.6, -6),
        "dog": (0.4, -6),
        "steps": (0.4, -10),
        "wind": (0.5, -4),
        "engine": (0.2, -6),
        "doors": (0.3, -8),
        "rain": (0.2, -6),
    },
    "train": {
        "rail": (1, 0),
        "ventilation": (0.8, -3),
        "babble": (0.5, -8),
        "announcement": (0.2, -6),
        "rattle": (0.4, -8),
        "hum": (0.4, -6),
        "beeps": (0.1, -12),
    },
    "tram": {
        "rail": (0.9, -1),
        "squeal": (0.6, -6),
        "bells": (0.5, -6),
        "engine": (0.6, -4),
        "babble": (0.5, -8),
        "doors": (0.4, -8),
        "beeps": (0.3, -12),
    },
}
"""Of every scene the sounds, each with its probability and its usual level in dB."""

PLACES: dict[str, tuple[float, float]] = {
    "beach": (-27, 0),
    "bus": (-25, -1.5),
    "cafe": (-28, 0.5),
    "car": (-27, -3),
    "city_centre": (-26, 0),
    "forest_path": (-36, 1),
    "grocery_store": (-31, 0),
    "home": (-38, -0.5),
    "library": (-41, -1),
    "metro_station": (-25, 0.5),
    "office": (-38, 0),
    "park": (-34, 0.5),
    "residential_area": (-33, -1),
    "train": (-27, -2),
    "tram": (-26, -0.5),
}
"""Of every scene the usual loudness in dB of full scale, and how it is damped in dB per octave."""

CLASSES = tuple(SCENES)
INDOORS = ("bus", "cafe", "car", "grocery_store", "home", "library", "office", "train", "tram")
BORROWED = 0.12
"""Most of another scene that a recording takes on: 0.5 would make them indistinguishable."""
SPREAD_DB = 3.0
"""Standard deviation of a sound's level from recording to recording."""
LOUDNESS_DB = 3.0
"""Standard deviation of a recording's loudness."""
_PADDED = 180_000  # the clip, and more than the longest echo behind it


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the data: recordings of each class, and clips of each recording."""

    number: int
    recordings: int
    clips: int

    def __len__(self) -> int:
        """Return how many clips there are."""
        return len(CLASSES) * self.recordings * self.clips


PARTS = {
    "train": Part(number=1, recordings=60, clips=2),
    "validation": Part(number=2, recordings=15, clips=1),
    "held_out": Part(number=3, recordings=30, clips=1),
}


@dataclass(frozen=True, kw_only=True, order=True)
class Clip:
    """One clip's place: the part's name, the class's number, the recording's, and its own."""

    part: str
    recording: int
    number: int
    label: int

    @property
    def source(self) -> tuple[int, int, int]:
        """The seed of the recording, which all its clips share; unique over all parts."""
        return PARTS[self.part].number, self.label, self.recording


def clips(part: str) -> list[Clip]:
    """Return the clips of a part: the first clip of every class, then the next of every class."""
    size = PARTS[part]
    return [
        Clip(part=part, recording=recording, number=number, label=label)
        for recording in range(size.recordings)
        for number in range(size.clips)
        for label in range(len(CLASSES))
    ]


def _generator(seed: tuple[int, ...], what: str, clip: int = -1) -> np.random.Generator:
    return np.random.default_rng([SEED, *seed, zlib.crc32(what.encode()), clip + 1])


def _mixture(label: int, rec: np.random.Generator) -> dict[str, float]:
    """Return the sounds that a recording has, with their levels in dB."""
    own = SCENES[CLASSES[label]]
    other = SCENES[CLASSES[(label + rec.integers(1, len(CLASSES))) % len(CLASSES)]]
    share = rec.uniform(0, BORROWED)
    levels = {}
    for sound in sorted({*own, *other}):
        chance = (1 - share) * own.get(sound, (0, 0))[0] + share * other.get(sound, (0, 0))[0]
        level = own[sound][1] if sound in own else other[sound][1]
        level += rec.normal(0, SPREAD_DB)
        if rec.random() < chance:
            levels[sound] = level
    return levels


def _microphone(rec: np.random.Generator, tilt: float, hertz: Array) -> Array:
    """Return a smooth response: a tilt, edges, and bumps of a few dB on a scale of octaves."""
    octaves = np.log2(np.maximum(hertz, 20) / 20)
    knots = rec.normal(0, 1.5, 10)
    tilt += rec.normal(0, 0.5)
    decibels = np.interp(octaves, np.arange(10), knots) + tilt * (octaves - 5)
    low = rec.uniform(20, 120)
    return np.asarray(10 ** (decibels / 20) / np.sqrt(1 + (low / np.maximum(hertz, 1)) ** 4))


def _room(rec: np.random.Generator, is_indoors: bool) -> Array:
    """Return an impulse response, direct sound first."""
    decay = rec.uniform(0.05, 0.35) if is_indoors else rec.uniform(0.02, 0.12)
    length = int(3 * decay * RATE)
    tail = rec.standard_normal(length) * np.exp(-np.arange(length) / (decay * RATE))
    tail *= rec.uniform(0.1, 0.8) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], tail])


def synthesise(clip: Clip) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Return the clip's samples, int16 [160000] at 16 kHz; loud peaks are cut off."""
    rec = _generator(clip.source, "recording")
    name = CLASSES[clip.label]
    loudness, tilt = PLACES[name]
    levels = _mixture(clip.label, rec)
    room = _room(rec, name in INDOORS)
    hertz = np.fft.rfftfreq(_PADDED, 1 / RATE).astype(np.float64)
    response = np.fft.rfft(room, _PADDED) * _microphone(rec, tilt, hertz)
    loudness += rec.normal(0, LOUDNESS_DB)
    now = _generator(clip.source, "clip", clip.number)
    mixed = 10 ** (rec.uniform(-40, -25) / 20) * now.standard_normal(SAMPLES)
    for sound, level in levels.items():
        make: dcase_sounds.Sound = getattr(dcase_sounds, sound)
        samples = make(_generator(clip.source, sound), _generator(clip.source, sound, clip.number))
        mixed += 10 ** ((level + now.normal(0, 1.5)) / 20) * samples
    heard = np.fft.irfft(np.fft.rfft(mixed, _PADDED) * response, _PADDED)[:SAMPLES]
    heard *= 10 ** (loudness / 20)
    return np.clip(np.round(heard * 32768), -32768, 32767).astype(np.int16)


def features(samples: np.ndarray[Any, np.dtype[np.int16]], preprocess: AudioPreprocess) -> Array:
    """Return the log-mel bands of int16 samples, [40, 500], as onnxq reads them from a WAV file."""
    return logmel(samples.astype(np.float64) / 32768, preprocess)


def rounded(bands: Array) -> FloatArray:
    """Return the bands as multiples of 1/4, within -8..8: files are an eighth as long."""
    return (np.clip(np.round(bands / STEP), -32, 32) * STEP).astype(np.float32)


def preprocessing() -> AudioPreprocess:
    """Return what `models/dcase.yaml` says."""
    found = load_preprocess(PREPROCESS)
    assert isinstance(found, AudioPreprocess)
    return found


def clip_bands(clip: Clip) -> FloatArray:
    """Return the rounded bands of a clip, [40, 500]."""
    return rounded(features(synthesise(clip), preprocessing()))


def load_part(part: str, jobs: int = 1) -> tuple[FloatArray, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the rounded bands [n, 1, 40, 500] and labels of a part, whatever `jobs` is."""
    chosen = clips(part)
    bands = np.empty((len(chosen), 1, 40, 500), np.float32)
    if jobs == 1:
        for row, clip in enumerate(chosen):
            bands[row, 0] = clip_bands(clip)
    else:
        with ProcessPoolExecutor(jobs) as pool:
            for row, values in enumerate(pool.map(clip_bands, chosen, chunksize=16)):
                bands[row, 0] = values
    return bands, np.array([clip.label for clip in chosen], np.int64)


def wav_name(clip: Clip) -> Path:
    """Return the file of a clip in a folder of classes; the names' order is that of `clips`."""
    name = f"{clip.part}-{clip.recording:03}-{clip.number}.wav"
    return Path(CLASSES[clip.label]) / name


def write_wav(folder: Path, part: str, limit: int | None) -> Iterator[Path]:
    """Write the first clips of a part as WAV files in class folders, and yield their paths."""
    for clip in clips(part)[:limit]:
        path = folder / wav_name(clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(path, RATE, synthesise(clip))
        yield path


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Synthesise acoustic scenes.")
    parser.add_argument("form", choices=("wav", "npz"))
    parser.add_argument("output", type=Path, help="a folder for wav, a file for npz")
    parser.add_argument("--part", choices=PARTS, default="held_out")
    parser.add_argument("--limit", type=int, help="only so many clips (wav)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (npz)")
    arguments = parser.parse_args()
    if arguments.form == "wav":
        written = sum(1 for _ in write_wav(arguments.output, arguments.part, arguments.limit))
        print(f"{written} files in {arguments.output}")
        return
    bands, labels = load_part(arguments.part, arguments.jobs)
    np.savez_compressed(arguments.output, logmel=bands, label=labels)


if __name__ == "__main__":
    main()
