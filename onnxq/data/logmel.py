"""A WAV file as a log-mel array.

Owns reading by scipy and the arithmetic of `AudioPreprocess`, in float64 until the last step. The
samples of 8, 16, 24 and 32 bits are brought to -1..1; floats are taken as they are.
"""

from __future__ import annotations

import importlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.preprocess import AudioPreprocess, Log
from onnxq.errors import InputError, OptionError
from onnxq.plaintext import one_line, plain
from onnxq.quiet import silent_warnings

Array = np.ndarray[Any, np.dtype[Any]]

MAX_BYTES = 1 << 30
"""Largest file that is read: a sound is held as a whole."""

MAX_SAMPLES = 1 << 27
"""Longest sound that is read or made by resampling: 1 GiB in float64."""

_FRAMES_AT_A_TIME = 1024


def read_logmel(path: Path, preprocess: AudioPreprocess) -> Array:
    """Return the log-mel bands of one sound, in the layout of `preprocess`.

    Raises:
        InputError: the file is missing, damaged, empty or too large, or has another sample rate
            or number of channels than was asked for.
    """
    where = plain(str(path))
    rate, samples = _read(path, where)
    sound = _mono(samples, preprocess, where) * preprocess.scale
    if sound.size == 0:
        raise InputError(f"{where}: is a sound of length 0")
    if not np.isfinite(sound).all():
        raise InputError(f"{where}: holds NaN or infinite samples")
    bands = logmel(_resampled(sound, rate, preprocess, where), preprocess, where)
    shape = tuple(
        {"1": 1, "mel": bands.shape[0], "time": bands.shape[1]}[a] for a in preprocess.axes
    )
    is_turned = preprocess.axes.index("time") < preprocess.axes.index("mel")
    values = bands.T if is_turned else bands
    return np.ascontiguousarray(values.reshape(shape).astype(preprocess.dtype))


def logmel(sound: Array, preprocess: AudioPreprocess, where: str = "sound") -> Array:
    """Return the log-mel bands of samples, float64 [mel, time].

    Raises:
        InputError: the sound is too short for the frames asked for, and may not be continued.
    """
    framed = _fitted(sound, preprocess, where)
    count = 1 + (len(framed) - preprocess.n_fft) // preprocess.hop
    count = count if preprocess.frames is None else min(count, preprocess.frames)
    window = _window(preprocess.window, preprocess.window_length, preprocess.n_fft)
    filters = mel_filters(preprocess)
    views = np.lib.stride_tricks.sliding_window_view(framed, preprocess.n_fft)[:: preprocess.hop]
    bands = np.empty((preprocess.n_mels, count))
    for start in range(0, count, _FRAMES_AT_A_TIME):
        frames = views[start : min(start + _FRAMES_AT_A_TIME, count)] * window
        spectrum = np.abs(np.fft.rfft(frames, axis=1)) ** preprocess.power
        bands[:, start : start + len(frames)] = filters @ spectrum.T
    level = _logarithm(bands, preprocess.log, preprocess.power)
    mean, std = np.array(preprocess.mean)[:, None], np.array(preprocess.std)[:, None]
    return np.asarray((level - mean) / std)


def mel_filters(preprocess: AudioPreprocess) -> Array:
    """Return the triangles of the mel bands, [mel, n_fft // 2 + 1]."""
    p = preprocess
    return _filters(p.sample_rate, p.n_fft, p.n_mels, (p.fmin, p.top), (p.mel_scale, p.mel_norm))


@lru_cache(maxsize=4)
def _filters(
    rate: int, n_fft: int, n_mels: int, span: tuple[float, float], kind: tuple[str, str]
) -> Array:
    scale, norm = kind
    to_mel, to_hertz = (_hertz_to_htk, _htk_to_hertz) if scale == "htk" else _SLANEY
    low, high = to_mel(np.array(span))
    edges = to_hertz(np.linspace(low, high, n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * (rate / n_fft)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    if norm == "slaney":
        triangles *= 2 / (edges[2:] - edges[:-2])[:, None]
    triangles.flags.writeable = False
    return np.asarray(triangles)


def _hertz_to_htk(hertz: Array) -> Array:
    return np.asarray(2595 * np.log10(1 + hertz / 700))


def _htk_to_hertz(mel: Array) -> Array:
    return np.asarray(700 * (10 ** (mel / 2595) - 1))


def _hertz_to_slaney(hertz: Array) -> Array:
    """Return mels of Slaney's Auditory Toolbox: 15 for 1 kHz, then 27 for each factor of 6.4."""
    above = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / math.log(6.4)
    return np.where(hertz < 1000, hertz * 3 / 200, above)


def _slaney_to_hertz(mel: Array) -> Array:
    above = 1000 * np.exp((np.maximum(mel, 15) - 15) * math.log(6.4) / 27)
    return np.where(mel < 15, mel * 200 / 3, above)


_SLANEY = (_hertz_to_slaney, _slaney_to_hertz)


def _logarithm(bands: Array, log: Log, power: float) -> Array:
    if log.kind == "none":
        return bands
    raised = bands + log.floor if log.at_floor == "add" else np.maximum(bands, log.floor)
    if log.kind == "natural":
        return np.asarray(np.log(raised))
    level = np.log10(raised)
    if log.kind == "db":
        level = 20 / power * level
        if log.range_db is not None:
            level = np.maximum(level, level.max() - log.range_db)
    return np.asarray(level)


@lru_cache(maxsize=4)
def _window(name: str, length: int, n_fft: int) -> Array:
    signal = importlib.import_module("scipy.signal")
    try:
        values = signal.get_window(name, length, fftbins=True)
    except ValueError as err:
        raise OptionError(
            f"window: found {name!r}, expected a window of scipy.signal without parameters, "
            "such as hann, hamming or blackman"
        ) from err
    left = (n_fft - length) // 2
    return np.pad(values, (left, n_fft - length - left))


def _fitted(sound: Array, preprocess: AudioPreprocess, where: str) -> Array:
    """Return the sound continued to the frames asked for, and beyond its ends with `center`."""
    half = preprocess.n_fft // 2 if preprocess.center else 0
    needed = preprocess.n_fft - 2 * half
    if preprocess.frames is not None:
        needed += (preprocess.frames - 1) * preprocess.hop
    if len(sound) < needed:
        sound = _continued(sound, needed, preprocess, where)
    if not half:
        return sound
    return np.pad(sound, half, mode="reflect" if preprocess.pad_mode == "reflect" else "constant")


def _continued(sound: Array, needed: int, preprocess: AudioPreprocess, where: str) -> Array:
    if preprocess.pad == "refuse":
        raise InputError(
            f"{where}: found {len(sound)} samples at {preprocess.sample_rate} Hz, expected at "
            f"least {needed}; pad: silence or repeat would continue it"
        )
    if preprocess.pad == "repeat":
        return np.resize(sound, needed)
    return np.pad(sound, (0, needed - len(sound)))


def _read(path: Path, where: str) -> tuple[int, Array]:
    wavfile = importlib.import_module("scipy.io.wavfile")
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{where}: is no regular file, expected a WAV file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(f"{where}: found {size} bytes, expected at most {MAX_BYTES}; cut it")
        with silent_warnings(), path.open("rb") as file:  # of chunks of other programs
            rate, samples = wavfile.read(file)
        return int(rate), np.asarray(samples)
    except InputError:
        raise
    except OSError as err:
        raise InputError(f"{where}: cannot be read: {err.strerror or err}") from err
    except Exception as err:  # scipy raises whatever damage makes it stumble over
        reason = one_line(str(err))[:120]
        if not reason or "b'" in reason:  # scipy shows the bytes where it found no head
            reason = "it does not begin as one"
        raise InputError(f"{where}: cannot be read as a WAV file: {reason}") from err


def _mono(samples: Array, preprocess: AudioPreprocess, where: str) -> Array:
    """Return one channel as float64 of -1..1."""
    channels = samples[:, None] if samples.ndim == 1 else samples
    if channels.size > MAX_SAMPLES:
        raise InputError(
            f"{where}: found {channels.size} samples, expected at most {MAX_SAMPLES}; cut it"
        )
    if channels.shape[1] != 1 and preprocess.channel == "mono":
        raise InputError(
            f"{where}: found {channels.shape[1]} channels, expected 1; channel: mean or first "
            "would take them"
        )
    if preprocess.channel == "first":
        channels = channels[:, :1]
    values = channels.astype(np.float64)
    if channels.dtype == np.uint8:
        values = (values - 128) / 128
    elif channels.dtype.kind == "i":
        values = values / 2.0 ** (8 * channels.dtype.itemsize - 1)
    return np.asarray(values.mean(axis=1))


def _resampled(sound: Array, rate: int, preprocess: AudioPreprocess, where: str) -> Array:
    wanted = preprocess.sample_rate
    if rate == wanted:
        return sound
    if not preprocess.resample:
        raise InputError(
            f"{where}: found {rate} Hz, expected {wanted} Hz; resample: true would convert it"
        )
    divisor = math.gcd(rate, wanted)
    if rate < 1 or len(sound) * wanted // rate > MAX_SAMPLES:
        raise InputError(f"{where}: {len(sound)} samples at {rate} Hz are too many at {wanted} Hz")
    signal = importlib.import_module("scipy.signal")
    return np.asarray(signal.resample_poly(sound, wanted // divisor, rate // divisor))
