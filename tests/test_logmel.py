"""Log-mel bands, held against scipy's transform and triangles drawn by hand."""

from __future__ import annotations

import contextlib
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.data.logmel import logmel, mel_filters, read_logmel
from onnxq.data.preprocess import AudioPreprocess, Log
from onnxq.errors import InputError, OptionError
from tests.pictures import save_wav, wav_bytes

RATE = 16000
PLAIN = AudioPreprocess(sample_rate=RATE, n_fft=400, hop_length=160, n_mels=40)
BARE = replace(PLAIN, log=Log(kind="none"))


def sound(length: int, seed: int = 0) -> np.ndarray[Any, Any]:
    time = np.arange(length) / RATE
    noise = np.random.default_rng(seed).standard_normal(length)
    return (
        0.4 * np.sin(2 * np.pi * 440 * time)
        + 0.2 * np.sin(2 * np.pi * 3000 * time**2)
        + (0.01 * noise)
    )


def mel(scale: str, hertz: float) -> float:
    if scale == "htk":
        return 2595 * math.log10(1 + hertz / 700)
    if hertz < 1000:
        return hertz / (200 / 3)
    return 15 + math.log(hertz / 1000) / (math.log(6.4) / 27)


def hertz(scale: str, value: float) -> float:
    """Invert `mel` by bisection, so that no inverse formula is trusted."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if mel(scale, middle) < value else (low, middle)
    return low


def triangles(p: AudioPreprocess) -> np.ndarray[Any, Any]:
    """Draw the bands bin by bin, as the definition has it."""
    low, high = mel(p.mel_scale, p.fmin), mel(p.mel_scale, p.top)
    edges = [
        hertz(p.mel_scale, low + (high - low) * i / (p.n_mels + 1)) for i in range(p.n_mels + 2)
    ]
    found = np.zeros((p.n_mels, p.n_fft // 2 + 1))
    for band in range(p.n_mels):
        left, peak, right = edges[band : band + 3]
        for index in range(p.n_fft // 2 + 1):
            at = index * p.sample_rate / p.n_fft
            if left < at <= peak:
                found[band, index] = (at - left) / (peak - left)
            elif peak < at < right:
                found[band, index] = (right - at) / (right - peak)
        if p.mel_norm == "slaney":
            found[band] *= 2 / (right - left)
    return found


def bands_by_scipy(values: np.ndarray[Any, Any], p: AudioPreprocess) -> np.ndarray[Any, Any]:
    """Return the bands before the logarithm, by scipy's own short-time transform."""
    window = np.zeros(p.n_fft)
    left = (p.n_fft - p.window_length) // 2
    n = np.arange(p.window_length)
    window[left : left + p.window_length] = 0.5 - 0.5 * np.cos(2 * np.pi * n / p.window_length)
    transform = scipy.signal.ShortTimeFFT(window, hop=p.hop, fs=p.sample_rate, fft_mode="onesided")
    half = p.n_fft // 2 if p.center else 0
    padded = np.pad(values, half, mode="reflect" if p.pad_mode == "reflect" else "constant")
    count = 1 + (len(padded) - p.n_fft) // p.hop
    # Slice q of scipy's is centred on sample q * hop; ours of the padded sound start there.
    shifted = np.concatenate([np.zeros(-p.n_fft // 2 % p.hop), padded, np.zeros(p.n_fft)])
    first = (p.n_fft // 2 + -p.n_fft // 2 % p.hop) // p.hop
    spectrum = transform.stft(shifted, first, first + count)
    return triangles(p) @ np.abs(spectrum) ** p.power


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
@pytest.mark.parametrize("mel_norm", ["none", "slaney"])
@pytest.mark.parametrize(("fmin", "fmax"), [(0, None), (20, 7600)])
def test_filters_are_the_triangles_of_the_definition(
    mel_scale: Any, mel_norm: Any, fmin: float, fmax: float | None
) -> None:
    p = replace(PLAIN, mel_scale=mel_scale, mel_norm=mel_norm, fmin=fmin, fmax=fmax)
    assert np.allclose(mel_filters(p), triangles(p), rtol=0, atol=1e-10)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize(("n_fft", "win_length", "hop"), [(400, None, 160), (512, 400, 128)])
def test_bands_equal_those_of_scipy(
    center: bool, pad_mode: Any, power: float, n_fft: int, win_length: int | None, hop: int
) -> None:
    p = replace(
        BARE,
        center=center,
        pad_mode=pad_mode,
        power=power,
        n_fft=n_fft,
        win_length=win_length,
        hop_length=hop,
    )
    values = sound(5000)
    expected = bands_by_scipy(values, p)
    found = logmel(values, p)
    assert found.shape == expected.shape == (40, 1 + (5000 - (0 if center else n_fft)) // hop)
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-9 * expected.max())


@pytest.mark.parametrize(
    ("log", "power", "expected"),
    [
        (Log(floor=0.5), 2.0, lambda x: np.log(np.maximum(x, 0.5))),
        (Log(floor=0.5, at_floor="add"), 2.0, lambda x: np.log(x + 0.5)),
        (Log(kind="log10", floor=0.5), 2.0, lambda x: np.log10(np.maximum(x, 0.5))),
        (Log(kind="db", floor=0.5), 2.0, lambda x: 10 * np.log10(np.maximum(x, 0.5))),
        (Log(kind="db", floor=0.5), 1.0, lambda x: 20 * np.log10(np.maximum(x, 0.5))),
        (Log(kind="none"), 2.0, lambda x: x),
    ],
    ids=["natural", "add", "log10", "db of power", "db of amplitude", "none"],
)
def test_logarithms(log: Log, power: float, expected: Any) -> None:
    bare = logmel(sound(3000), replace(BARE, power=power))
    assert (bare < 0.5).any()
    found = logmel(sound(3000), replace(PLAIN, log=log, power=power))
    assert np.allclose(found, expected(bare), rtol=0, atol=1e-12)


def test_range_in_db_is_below_the_loudest() -> None:
    found = logmel(sound(3000), replace(PLAIN, log=Log(kind="db", range_db=20)))
    free = logmel(sound(3000), replace(PLAIN, log=Log(kind="db")))
    assert found.min() == found.max() - 20
    assert found.tolist() == np.maximum(free, free.max() - 20).tolist()


def test_mean_and_deviation_by_number_and_by_band() -> None:
    bare = logmel(sound(3000), PLAIN)
    found = logmel(sound(3000), replace(PLAIN, mean=(-4.0,), std=(2.0,)))
    assert np.array_equal(found, (bare + 4) / 2)
    mean = tuple(float(i) for i in range(40))
    found = logmel(sound(3000), replace(PLAIN, mean=mean))
    assert np.array_equal(found, bare - np.arange(40)[:, None])


def test_long_sounds_are_the_same_in_parts() -> None:
    values = sound(1500 * 160)
    whole = logmel(values, replace(PLAIN, center=False))
    tail = logmel(values[1000 * 160 :], replace(PLAIN, center=False))
    assert whole.shape[1] > 1024  # more than is computed at a time
    assert np.allclose(whole[:, 1000:], tail, rtol=0, atol=1e-9)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("length", [1, 100, 1600, 5000])
@pytest.mark.parametrize("pad", ["silence", "repeat"])
def test_frames_are_cut_and_filled(center: bool, length: int, pad: Any) -> None:
    p = replace(BARE, center=center, frames=20, pad=pad)
    values = sound(length)
    found = logmel(values, p)
    assert found.shape == (40, 20)
    needed = 19 * 160 + (0 if center else 400)
    filled = np.resize(values, needed) if pad == "repeat" else np.pad(values, (0, needed))
    if length < needed:
        filled = filled[:needed]
        assert np.array_equal(found, logmel(filled, replace(p, frames=None)))
    else:
        whole = logmel(values, replace(p, frames=None))[:, :20]
        assert np.allclose(found, whole, rtol=1e-12, atol=0)  # a product of other sizes


def test_short_sound_may_be_refused() -> None:
    p = replace(PLAIN, frames=20, pad="refuse", center=False)
    assert logmel(sound(19 * 160 + 400), p).shape == (40, 20)
    with pytest.raises(InputError, match=r"found 3439 samples at 16000 Hz, expected at least 3440"):
        logmel(sound(19 * 160 + 399), p)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("1,mel,time", (1, 40, 20)),
        ("mel, time", (40, 20)),
        ("time,mel", (20, 40)),
        ("time,1,mel", (20, 1, 40)),
        ("mel,time,1", (40, 20, 1)),
        ("1,1,mel,1,time", (1, 1, 40, 1, 20)),
    ],
)
def test_layouts(tmp_path: Path, layout: str, shape: tuple[int, ...]) -> None:
    path = save_wav(tmp_path / "x.wav", sound(4000))
    found = read_logmel(path, replace(PLAIN, frames=20, layout=layout))
    assert (found.shape, found.dtype) == (shape, np.float32)
    expected = read_logmel(path, replace(PLAIN, frames=20, layout="mel,time"))
    is_turned = layout.index("time") < layout.index("mel")
    assert np.array_equal(found.squeeze(), expected.T if is_turned else expected)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes(tmp_path: Path, dtype: Any) -> None:
    path = save_wav(tmp_path / "x.wav", sound(4000))
    assert read_logmel(path, replace(PLAIN, dtype=dtype)).dtype.name == dtype


def encoded(values: np.ndarray[Any, Any], bits: int, *, is_float: bool) -> bytes:
    if is_float:
        return values.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return np.round(values * 128 + 128).astype("u1").tobytes()
    whole = np.round(values * 2.0 ** (bits - 1)).astype("<i8")
    return whole.reshape(-1, 1).view("u1")[:, : bits // 8].tobytes()


@pytest.mark.parametrize(
    ("bits", "is_float"),
    [(8, False), (16, False), (24, False), (32, False), (32, True), (64, True)],
)
def test_sample_formats(tmp_path: Path, bits: int, is_float: bool) -> None:
    values = np.round(sound(2000) * 128) / 128  # exact in every format
    path = tmp_path / "x.wav"
    frames = encoded(values, bits, is_float=is_float)
    path.write_bytes(wav_bytes(frames, bits=bits, is_float=is_float))
    p = replace(PLAIN, layout="mel,time", dtype="float64")
    assert np.array_equal(read_logmel(path, p), logmel(values, p))


def test_stereo_is_refused_averaged_or_halved(tmp_path: Path) -> None:
    values = np.round(np.stack([sound(2000), sound(2000, 1)], 1) * 2**14) / 2**14
    path = save_wav(tmp_path / "x.wav", values)
    p = replace(PLAIN, layout="mel,time", dtype="float64")
    with pytest.raises(InputError, match=r"x\.wav: found 2 channels, expected 1; channel: mean"):
        read_logmel(path, p)
    mean = read_logmel(path, replace(p, channel="mean"))
    assert np.array_equal(mean, logmel(values.mean(1), p))
    assert np.array_equal(read_logmel(path, replace(p, channel="first")), logmel(values[:, 0], p))


def test_other_rate_is_refused_or_resampled(tmp_path: Path) -> None:
    values = np.round(sound(2000) * 2**14) / 2**14
    path = save_wav(tmp_path / "x.wav", values, rate=8000)
    p = replace(PLAIN, layout="mel,time", dtype="float64")
    with pytest.raises(InputError, match=r"x\.wav: found 8000 Hz, expected 16000 Hz; resample:"):
        read_logmel(path, p)
    found = read_logmel(path, replace(p, resample=True))
    assert np.array_equal(found, logmel(scipy.signal.resample_poly(values, 2, 1), p))


def test_scale_multiplies_the_samples(tmp_path: Path) -> None:
    values = np.round(sound(2000) * 2**14) / 2**14
    path = save_wav(tmp_path / "x.wav", values)
    p = replace(PLAIN, layout="mel,time", dtype="float64")
    found = read_logmel(path, replace(p, scale=32768.0))
    assert np.array_equal(found, logmel(values * 32768, p))


def test_unknown_window_is_told() -> None:
    with pytest.raises(OptionError, match=r"window: found 'hahn', .* such as hann, hamming"):
        logmel(sound(2000), replace(PLAIN, window="hahn"))


def test_other_window() -> None:
    found = logmel(sound(400), replace(BARE, window="hamming", center=False))
    n = np.arange(400)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * n / 400)
    expected = triangles(BARE) @ np.abs(np.fft.rfft(sound(400) * window)) ** 2
    assert np.allclose(found[:, 0], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a WAV file: it does not begin as one"),
        (b"RIFF", "cannot be read as a WAV file"),
        (b"ID3" + bytes(100), "cannot be read as a WAV file: it does not begin as one"),
        (wav_bytes(b""), "is a sound of length 0"),
        (wav_bytes(bytes(4000))[:-1000], "cannot be read as a WAV file: Reached EOF"),
        (wav_bytes(bytes(4000))[:30], "cannot be read as a WAV file"),
        (wav_bytes(bytes(4000), channels=0), "x.wav"),
        (wav_bytes(bytes(4000), bits=4), "x.wav"),
        (wav_bytes(np.full(500, np.nan, "<f4").tobytes(), bits=32, is_float=True), "holds NaN"),
        (wav_bytes(np.full(500, np.inf, "<f4").tobytes(), bits=32, is_float=True), "infinite"),
        (wav_bytes(bytes(4000), rate=0), "found 0 Hz"),
    ],
    ids=["empty", "head", "mp3", "length 0", "cut", "cut head", "no channels", "bits", "NaN",
         "infinite", "rate"],
)  # fmt: skip
def test_bad_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_logmel(tmp_path / "x.wav", PLAIN)
    assert message in str(caught.value)


def test_resampling_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    for rate in (0, 1):
        path.write_bytes(wav_bytes(bytes(1 << 16), rate=rate))
        with pytest.raises(InputError, match=rf"32768 samples at {rate} Hz are too many at 16000"):
            read_logmel(path, replace(PLAIN, resample=True))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_logmel(tmp_path / "x.wav", PLAIN)
    with pytest.raises(InputError, match="is no regular file"):
        read_logmel(tmp_path, PLAIN)


def test_chunks_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    data = wav_bytes(bytes(4000))
    extra = data + b"LIST" + struct.pack("<I", 4) + b"abcd"
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(extra) - 8) + extra[8:])
    assert read_logmel(tmp_path / "x.wav", PLAIN).shape == (1, 40, 13)


@given(st.data())
@settings(max_examples=100)
def test_damage_gives_bands_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(wav_bytes(sound(300).astype("<f4").tobytes(), bits=32, is_float=True))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.wav"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(InputError):
        found = read_logmel(path, replace(PLAIN, resample=True, channel="mean", frames=5))
        assert found.shape == (1, 40, 5)
