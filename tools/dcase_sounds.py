"""Sounds of which acoustic scenes are made: noises, hums, steps, voices, bells and others.

Every sound is a function of two generators and returns ten seconds, float64 [160000], with an RMS
of about 1 where it sounds. The first generator gives what stays the same in a recording (the pitch
of an engine, the voices of a crowd), the second what differs from clip to clip. The first is
seeded alike for all clips of a recording, so no state is kept. `dcase_scenes` mixes the sounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.random import Generator

RATE = 16_000
SECONDS = 10
SAMPLES = RATE * SECONDS
Array = np.ndarray[Any, np.dtype[np.float64]]
Sound = Callable[[Generator, Generator], Array]

_TIME = np.arange(SAMPLES) / RATE
_VOWELS = np.array(
    [[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]]
)
"""Formants in Hz of five vowels; the usual textbook means of men, rounded."""


def _unit(sound: Array) -> Array:
    return np.asarray(sound / (np.sqrt(np.mean(sound**2)) + 1e-12))


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _noise(rng: Generator, slope: float, low: float, high: float, length: int = SAMPLES) -> Array:
    """Return noise that falls by `slope` dB per octave, with soft edges `low` and `high`, in Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    hertz = np.fft.rfftfreq(length, 1 / RATE) + 1e-3
    gain = hertz ** (-slope / 6.02)
    gain /= np.sqrt((1 + (low / hertz) ** 6) * (1 + (hertz / high) ** 6))
    return _unit(np.fft.irfft(spectrum * gain, length))


def _drift(rng: Generator, rate: float, depth: float) -> Array:
    """Return a smooth factor around 1 that changes `rate` times a second; depth in nepers."""
    knots = int(SECONDS * rate) + 3
    at = np.arange(knots) / rate - rng.random() / rate
    return np.interp(_TIME, at, np.exp(depth * rng.standard_normal(knots)))


def _place(sounds: Iterable[tuple[float, Array]]) -> Array:
    """Return the short sounds added at their start times in seconds; what is late is cut."""
    whole = np.zeros(SAMPLES)
    for start, sound in sounds:
        first = int(start * RATE)
        if 0 <= first < SAMPLES:
            part = sound[: SAMPLES - first]
            whole[first : first + len(part)] += part
    return whole


def _times(rng: Generator, rate: float) -> Array:
    """Return the random start times of events that come `rate` times a second."""
    return np.sort(rng.uniform(0, SECONDS, rng.poisson(rate * SECONDS)))


def _ring(rng: Generator, partials: Iterable[float], decay: float) -> Array:
    """Return a struck sound: partials in Hz that die out within about three times `decay` s."""
    time = np.arange(int(3 * decay * RATE) + 1) / RATE
    sound = np.zeros(len(time))
    for number, hertz in enumerate(partials):
        if hertz < RATE / 2:
            fall = np.exp(-time * (1 + 0.5 * number) / decay)
            sound += fall * np.sin(2 * np.pi * (hertz * time + rng.random())) / (1 + 0.4 * number)
    return 3 * sound


def _thump(rng: Generator, slope: float, low: float, high: float, decay: float) -> Array:
    length = 128 * int(4 * decay * RATE / 128 + 1)  # lengths of which transforms are fast
    fall = np.exp(-np.arange(length) / (decay * RATE))
    return 3 * _noise(rng, slope, low, high, length) * fall


def _sweep(hertz: Array) -> Array:
    """Return a tone that follows the frequencies, faded in and out."""
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    return np.asarray(1.4 * np.sin(phase) * np.hanning(len(hertz)))


def _harmonics(rec: Generator, clip: Generator, pitch: float, fall: float, wander: float) -> Array:
    """Return a hum of eight harmonics that fall by about `fall` dB each."""
    phase = 2 * np.pi * np.cumsum(pitch * _drift(clip, 0.5, wander)) / RATE
    levels = 10 ** ((-fall * np.arange(8) + rec.normal(0, 4, 8)) / 20)
    turn = np.exp(1j * phase)
    sound, power = np.zeros(SAMPLES), np.ones(SAMPLES, complex)
    for level in levels:
        power *= turn
        sound += (level * np.exp(2j * np.pi * clip.random()) * power).imag
    return _unit(sound)


def wind(rec: Generator, clip: Generator) -> Array:
    """Return gusts of low noise."""
    sound = _noise(clip, rec.uniform(5, 9), 20, _log_uniform(rec, 150, 600))
    return _unit(sound * _drift(clip, rec.uniform(0.4, 1.2), 0.5))


def waves(rec: Generator, clip: Generator) -> Array:
    """Return surf: noise that swells and breaks every few seconds."""
    body = _noise(clip, rec.uniform(2, 5), 60, _log_uniform(rec, 1500, 6000))
    hiss = _noise(clip, rec.uniform(-1, 2), 800, 7000)
    beat = 2 * np.pi * (_TIME * rec.uniform(0.08, 0.3) + clip.random())
    swell = np.exp(rec.uniform(0.3, 1.2) * np.sin(beat)) * _drift(clip, 0.5, 0.2)
    return _unit(body * swell + rec.uniform(0.1, 0.5) * hiss * swell**2)


def engine(rec: Generator, clip: Generator) -> Array:
    """Return a motor: harmonics of a low pitch over rumble."""
    pitch = _log_uniform(rec, 22, 75)
    hum = _harmonics(rec, clip, pitch, rec.uniform(1, 4), 0.06)
    rumble = _noise(clip, rec.uniform(4, 8), 30, _log_uniform(rec, 300, 1200))
    return _unit(hum + rec.uniform(0.3, 1.2) * rumble * _drift(clip, 1, 0.15))


def diesel(rec: Generator, clip: Generator) -> Array:
    """Return a large motor: lower, and knocking."""
    pitch = _log_uniform(rec, 15, 40)
    hum = _harmonics(rec, clip, pitch, rec.uniform(0.5, 3), 0.1)
    knock = 1 + rec.uniform(0.1, 0.8) * np.sin(2 * np.pi * pitch / 2 * _TIME)
    rumble = _noise(clip, rec.uniform(3, 7), 30, _log_uniform(rec, 400, 2000))
    return _unit(hum + rec.uniform(0.5, 1.5) * rumble * knock * _drift(clip, 1, 0.15))


def tyres(rec: Generator, clip: Generator) -> Array:
    """Return the rolling of wheels on a road."""
    slope, low, high = rec.uniform(1, 5), _log_uniform(rec, 80, 400), _log_uniform(rec, 1000, 4000)
    sound = _noise(clip, slope, low, high)
    return _unit(sound * _drift(clip, 0.6, rec.uniform(0.05, 0.25)))


def traffic(rec: Generator, clip: Generator) -> Array:
    """Return a road at some distance, and cars that pass."""
    far = _noise(clip, rec.uniform(3, 6), 40, _log_uniform(rec, 600, 2500))
    sound = rec.uniform(0.3, 1) * far
    for start in _times(clip, rec.uniform(0.02, 0.4)):
        width = clip.uniform(0.6, 2.5)
        car = _noise(clip, clip.uniform(1, 4), 80, clip.uniform(1200, 5000))
        sound += clip.uniform(0.5, 2) * car * np.exp(-(((_TIME - start) / width) ** 2))
    return _unit(sound)


def rail(rec: Generator, clip: Generator) -> Array:
    """Return rolling on rails: rumble, and joints that are passed in pairs."""
    sound = _noise(clip, rec.uniform(3, 7), 30, _log_uniform(rec, 500, 3000)) * _drift(clip, 1, 0.2)
    period, gap, loudness = rec.uniform(0.5, 1.8), rec.uniform(0.08, 0.25), rec.uniform(0, 1.2)
    starts = np.arange(-clip.random() * period, SECONDS, period)
    joints = np.concatenate([starts, starts + gap]) + clip.normal(0, 0.01, 2 * len(starts))
    return _unit(sound + loudness * _place((at, _thump(clip, 3, 60, 1500, 0.03)) for at in joints))


def squeal(rec: Generator, clip: Generator) -> Array:
    """Return wheels or brakes that whistle, sliding in pitch."""
    pitch = _log_uniform(rec, 900, 4000)

    def one() -> Array:
        time = np.linspace(0, 1, int(clip.uniform(0.5, 3) * RATE))
        hertz = pitch * (1 + clip.normal(0, 0.06) * time + 0.003 * np.sin(60 * time))
        return _sweep(hertz) + 0.4 * _sweep(np.minimum(2.02 * hertz, 7800))

    return _place((at, one()) for at in _times(clip, 0.25))


def ventilation(rec: Generator, clip: Generator) -> Array:
    """Return steady blowing air, with or without the tone of a fan."""
    air = _noise(clip, rec.uniform(2, 7), 30, _log_uniform(rec, 800, 6000))
    fan = _harmonics(rec, clip, _log_uniform(rec, 60, 240), 4, 0.002)
    return _unit(air + rec.uniform(0, 0.4) * fan)


def hum(rec: Generator, clip: Generator) -> Array:
    """Return the hum of a machine at multiples of the mains frequency."""
    mains = _harmonics(rec, clip, 50.0 * rec.integers(1, 3), rec.uniform(1, 5), 0.0003)
    return _unit(mains + 0.2 * _noise(clip, 4, 40, 3000))


def birds(rec: Generator, clip: Generator) -> Array:
    """Return the songs of a few birds, each with a pitch and a phrase of its own."""
    species = [(_log_uniform(rec, 1800, 6000), rec.uniform(-0.4, 0.4), rec.uniform(0.04, 0.25))]
    species += [(p * 1.3, -s, d * 0.6) for p, s, d in species if rec.random() < 0.6]

    def phrase(pitch: float, slide: float, length: float) -> Iterable[tuple[float, Array]]:
        for start in _times(clip, rec.uniform(0.15, 0.6)):
            for note in range(clip.integers(2, 9)):
                time = np.linspace(0, 1, int(length * RATE))
                hertz = np.minimum(pitch * np.exp(slide * time + clip.normal(0, 0.05)), 7800)
                yield start + note * length * 1.4, _sweep(hertz)

    return _place(note for kind in species for note in phrase(*kind))


def gulls(rec: Generator, clip: Generator) -> Array:
    """Return cries with many harmonics that rise and fall."""
    pitch = _log_uniform(rec, 700, 1300)

    def cry() -> Array:
        time = np.linspace(0, 1, int(clip.uniform(0.2, 0.6) * RATE))
        hertz = pitch * (1 + 0.5 * np.sin(np.pi * time)) * clip.uniform(0.8, 1.2)
        return sum((_sweep(k * hertz) / k for k in range(1, 4)), np.zeros(len(time)))

    return _place((at, cry()) for at in _times(clip, rec.uniform(0.2, 0.8)))


def steps(rec: Generator, clip: Generator) -> Array:
    """Return people who walk by, on a ground that is the recording's."""
    low, high = _log_uniform(rec, 60, 300), _log_uniform(rec, 600, 6000)
    decay, slope = rec.uniform(0.01, 0.05), rec.uniform(0, 5)

    def walker() -> Iterable[tuple[float, Array]]:
        period, loudness = clip.uniform(0.42, 0.7), clip.uniform(0.4, 1.2)
        first, last = np.sort(clip.uniform(-3, SECONDS + 3, 2))
        for at in np.arange(first, last, period):
            yield at + clip.normal(0, 0.015), loudness * _thump(clip, slope, low, high, decay)

    return _place(step for _ in range(clip.integers(1, 4)) for step in walker())


def bells(rec: Generator, clip: Generator) -> Array:
    """Return a bell that is rung a few times."""
    pitch, decay = _log_uniform(rec, 400, 2400), rec.uniform(0.15, 0.8)
    partials = pitch * np.array([1, 2.0, 2.4, 3.0, 4.5, 5.3]) * rec.uniform(0.97, 1.03, 6)

    def rings() -> Iterable[tuple[float, Array]]:
        for start in _times(clip, 0.2):
            for stroke in range(clip.integers(1, 5)):
                yield start + 0.25 * stroke, _ring(clip, partials, decay)

    return _place(rings())


def clinks(rec: Generator, clip: Generator) -> Array:
    """Return dishes and glasses."""

    def clink() -> Array:
        pitch = _log_uniform(clip, 1200, 5000)
        partials = pitch * np.array([1, 1.53, 2.3])
        return clip.uniform(0.3, 1.2) * _ring(clip, partials, clip.uniform(0.01, 0.08))

    return _place((at, clink()) for at in _times(clip, _log_uniform(rec, 0.3, 3)))


def beeps(rec: Generator, clip: Generator) -> Array:
    """Return a device that beeps, singly or in rows."""
    pitch, length = _log_uniform(rec, 600, 3500), rec.uniform(0.06, 0.25)
    sine = np.sin(2 * np.pi * pitch * _TIME[: int(length * RATE)])
    tone = np.sign(sine) * 0.5 + sine
    row = int(rec.integers(1, 4))
    return _place(
        (start + number * 1.8 * length, tone)
        for start in _times(clip, _log_uniform(rec, 0.1, 0.6))
        for number in range(row)
    )


def keys(rec: Generator, clip: Generator) -> Array:
    """Return typing, in bursts."""
    low, high = _log_uniform(rec, 400, 1500), _log_uniform(rec, 3000, 7500)

    def typed() -> Iterable[tuple[float, Array]]:
        for start in _times(clip, rec.uniform(0.1, 0.4)):
            for number in range(clip.integers(3, 25)):
                at = start + number * 0.16 + clip.normal(0, 0.04)
                yield at, clip.uniform(0.4, 1.2) * _thump(clip, 0, low, high, 0.006)

    return _place(typed())


def doors(rec: Generator, clip: Generator) -> Array:
    """Return doors and other things that fall shut."""
    low, high = _log_uniform(rec, 40, 120), _log_uniform(rec, 500, 3000)
    slope = rec.uniform(2, 6)
    return _place(
        (at, _thump(clip, slope, low, high, clip.uniform(0.04, 0.2))) for at in _times(clip, 0.25)
    )


def rustle(rec: Generator, clip: Generator) -> Array:
    """Return leaves, cloth or paper: high noise that comes and goes."""
    sound = _noise(clip, rec.uniform(-2, 3), _log_uniform(rec, 600, 2500), 7500)
    return _unit(sound * _drift(clip, rec.uniform(1, 6), rec.uniform(0.3, 1.2)))


def rain(rec: Generator, clip: Generator) -> Array:
    """Return drops: many small impulses over a hiss."""
    drops = np.zeros(SAMPLES)
    chosen = clip.integers(0, SAMPLES, clip.poisson(_log_uniform(rec, 60, 1500) * SECONDS))
    drops[chosen] = clip.exponential(1, len(chosen)) * clip.choice([-1, 1], len(chosen))
    spectrum = np.fft.rfft(drops)
    spectrum *= 1 / np.sqrt(1 + (rec.uniform(500, 2500) / (np.arange(len(spectrum)) / 10 + 1)) ** 4)
    return _unit(_unit(np.fft.irfft(spectrum, SAMPLES)) + 0.5 * _noise(clip, 1, 500, 7000))


def rattle(rec: Generator, clip: Generator) -> Array:
    """Return loose parts or the wheels of a cart: bursts of knocks."""
    low, high = _log_uniform(rec, 200, 900), _log_uniform(rec, 1500, 6000)
    rate = rec.uniform(6, 18)

    def knocks() -> Iterable[tuple[float, Array]]:
        for start in _times(clip, 0.3):
            for at in np.cumsum(clip.exponential(1 / rate, clip.integers(5, 30))):
                yield start + at, clip.uniform(0.3, 1) * _thump(clip, 1, low, high, 0.012)

    return _place(knocks())


def dog(rec: Generator, clip: Generator) -> Array:
    """Return a dog that barks."""
    pitch = _log_uniform(rec, 250, 700)

    def bark() -> Array:
        time = np.linspace(0, 1, 128 * int(clip.uniform(0.12, 0.25) * RATE / 128))
        hertz = pitch * (1 + 0.4 * np.sin(np.pi * time)) * clip.uniform(0.9, 1.1)
        voice = sum((_sweep(k * hertz) / k**0.5 for k in range(1, 6)), np.zeros(len(time)))
        return voice + np.hanning(len(time)) * _noise(clip, 2, 300, 3000, len(time))

    return _place(
        (start + 0.4 * number, bark())
        for start in _times(clip, 0.15)
        for number in range(clip.integers(1, 6))
    )


def music(rec: Generator, clip: Generator) -> Array:
    """Return plucked chords of a key and a tempo."""
    root, beat = _log_uniform(rec, 110, 220), rec.uniform(0.25, 0.6)
    scale = 2 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16]) / 12)
    decay = rec.uniform(0.15, 0.6)

    def notes() -> Iterable[tuple[float, Array]]:
        for number in range(int(SECONDS / beat)):
            pitch = root * scale[clip.integers(len(scale))]
            yield number * beat, _ring(clip, pitch * np.arange(1, 6), decay) / 3

    return _place(notes())


def _talk(voice: Generator, clip: Generator, busy: float) -> Array:
    """Return one person who talks for the share `busy` of the time.

    Each syllable is a row of glottal pulses, shaped by the formants of a vowel, after a burst of
    noise as of a consonant. Pitch, length of the vocal tract and tempo are the voice's.
    """
    pitch, tract = _log_uniform(voice, 85, 260), voice.uniform(0.9, 1.25)
    tempo = voice.uniform(3, 6)

    def syllable() -> Array:
        length = 128 * max(4, int(RATE / 128 * clip.uniform(0.7, 1.6) / tempo))
        glide = pitch * np.exp(clip.normal(0, 0.15) + np.linspace(0, clip.normal(0, 0.2), length))
        phase = np.cumsum(glide) / RATE
        pulses = np.diff(np.floor(phase), prepend=0.0) + 0.02 * clip.standard_normal(length)
        hertz = np.fft.rfftfreq(length, 1 / RATE)[:, None]
        formants = _VOWELS[clip.integers(len(_VOWELS))] * tract
        width = 60 + 0.05 * formants
        gain = (1 / (1 + ((hertz - formants) / width) ** 2)) @ np.array([1, 0.6, 0.35])
        vowel = _unit(np.fft.irfft(np.fft.rfft(pulses) * gain, length)) * np.hanning(length)
        burst = min(length, 1024)
        vowel[:burst] += clip.uniform(0, 0.6) * _noise(clip, -2, 1500, 7000, burst)
        return vowel

    starts = np.arange(0, SECONDS, 1 / tempo)
    talks = np.interp(starts, np.linspace(0, SECONDS, 8), clip.random(8)) < busy
    return _place((at + clip.normal(0, 0.02), syllable()) for at in starts[talks])


def speech(rec: Generator, clip: Generator) -> Array:
    """Return one person near by, or two in turn."""
    return _talk(rec, clip, 0.55) + (_talk(rec, clip, 0.3) if rec.random() < 0.5 else 0)


def babble(rec: Generator, clip: Generator) -> Array:
    """Return a crowd: a few voices, each at two times at once, over the murmur of many."""
    voices = np.zeros(SAMPLES)
    for _ in range(rec.integers(2, 5)):
        voice = _talk(rec, clip, 0.7)
        voices += voice + np.roll(voice, clip.integers(SAMPLES))
    murmur = _noise(clip, 4, 150, 1500) * _drift(clip, 4, 0.15)
    return _unit(_unit(voices) + rec.uniform(0.1, 0.8) * murmur)


def announcement(rec: Generator, clip: Generator) -> Array:
    """Return a loudspeaker: a chime and one voice without lows and highs."""
    spectrum = np.fft.rfft(_talk(rec, clip, 0.5))
    hertz = np.fft.rfftfreq(SAMPLES, 1 / RATE)
    voice = np.fft.irfft(spectrum * ((hertz > 350) & (hertz < 3400)), SAMPLES)
    pitch = _log_uniform(rec, 400, 900)
    strokes = [(at, _ring(clip, [pitch * r], 0.3) / 2) for at, r in ((0.0, 1.25), (0.5, 1.0))]
    start = clip.uniform(0, SECONDS)
    return 2 * voice + _place((start + at, sound) for at, sound in strokes)
