"""How images and sounds become a model's input: records, complete and checked.

Owns what can be asked for, the presets, and which values are sensible. Reading a file of such
choices is `preprocess_file`'s, doing what they say `imagery`'s and `logmel`'s; docs/data.md is
normative for the meaning of every field. Nothing here depends on a model.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from onnxq.errors import OptionError

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
ImageLayout = Literal["NCHW", "NHWC", "NHW"]
Channels = Literal["RGB", "BGR", "L"]
FloatName = Literal["float16", "float32", "float64"]
Alpha = Literal["refuse", "drop", "black", "white"]
PixelName = Literal["float16", "float32", "float64", "uint8"]

MAX_SIDE = 1 << 14
"""Longest side of an image that can be asked for, in pixels."""

MAX_FFT = 1 << 16
"""Longest Fourier transform that can be asked for, in samples."""


def _check_choice(name: str, value: str, choices: object) -> None:
    known = get_args(choices)
    if value not in known:
        raise OptionError(f"{name}: found {value[:40]!r}, expected one of {', '.join(known)}")


def _check_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is None or not low <= value <= high:
        raise OptionError(f"{name}: found {value}, expected {low} to {high}")


def _check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise OptionError(f"{name}: found {value}, expected a finite number")


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"{name}: found {value}, expected a positive number")


def _check_statistics(
    mean: tuple[float, ...], std: tuple[float, ...], count: int, what: str
) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, count):
            expected = f"one number, or one for each {what} ({count})"
            raise OptionError(f"{name}: found {len(values)} numbers, expected {expected}")
        for value in values:
            _check_finite(name, value)
    if 0 in std:
        raise OptionError("std: found 0, which cannot be divided by")


def _check_classes(classes: tuple[str, ...], label_offset: int) -> None:
    if len(set(classes)) != len(classes):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        raise OptionError(f"classes: {twice[0][:40]!r} is there twice")
    if not abs(label_offset) < 1 << 31:
        raise OptionError(f"label_offset: found {label_offset}, expected less than 2^31")


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Ask for an image of another size: either `shorter` or `size`.

    Attributes:
        shorter: Length of the shorter side; the longer one follows, rounded down.
        size: Height and width, whatever the shape of the image.
        interpolation: Pillow's filter; all but "nearest" take in every pixel when they shrink.
    """

    shorter: int | None = None
    size: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        """Check every field; raise OptionError."""
        if (self.shorter is None) == (self.size is None):
            raise OptionError("resize: expected either 'shorter' or 'size'")
        for side in self.size or (self.shorter,):
            _check_range("resize", side, 1, MAX_SIDE)
        _check_choice("resize.interpolation", self.interpolation, Interpolation)


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """Say how an image becomes an array: (pixel * scale - mean) / std, pixels being 0..255.

    Attributes:
        resize: None leaves the size as it is.
        crop: Height and width of the middle that is kept; None keeps all.
        layout: Order of the axes; "NHW" has none for channels and needs "L".
        channels: Order of the channels; "L" is grey.
        scale: Factor of the pixels.
        mean: One number, or one for each channel in the order of `channels`.
        std: Likewise.
        dtype: Of the array; "uint8" leaves the pixels as they are.
        orientation: "stored" takes the pixels as they lie in the file, as torchvision and Keras
            do; "exif" turns the image the way the camera says.
        alpha: What becomes of transparency: "refuse" raises where a pixel is not opaque, "drop"
            keeps the colours as they are, "black" and "white" blend them with that ground.
        depth16: What becomes of samples of 16 bits: "refuse" raises, "cut" keeps the upper 8.
        classes: Names of all class folders in the order of the model's classes; empty for those
            that there are, sorted.
        label_offset: Number of the first class.
        target: "input" gives each image as its own target.
        input: Name of the input; None where the model has just one.
    """

    kind: Literal["image"] = "image"
    resize: Resize | None = None
    crop: tuple[int, int] | None = None
    layout: ImageLayout = "NCHW"
    channels: Channels = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: PixelName = "float32"
    orientation: Literal["stored", "exif"] = "stored"
    alpha: Alpha = "refuse"
    depth16: Literal["refuse", "cut"] = "refuse"
    classes: tuple[str, ...] = ()
    label_offset: int = 0
    target: Literal["none", "input"] = "none"
    input: str | None = None

    def __post_init__(self) -> None:
        """Check every field; raise OptionError."""
        _check_choice("kind", self.kind, Literal["image"])
        for side in self.crop or ():
            _check_range("crop", side, 1, MAX_SIDE)
        _check_choice("layout", self.layout, ImageLayout)
        _check_choice("channels", self.channels, Channels)
        _check_choice("dtype", self.dtype, PixelName)
        _check_choice("orientation", self.orientation, Literal["stored", "exif"])
        _check_choice("alpha", self.alpha, Alpha)
        _check_choice("depth16", self.depth16, Literal["refuse", "cut"])
        _check_choice("target", self.target, Literal["none", "input"])
        if self.layout == "NHW" and self.channels != "L":
            raise OptionError(f"layout: NHW has no channels, found channels {self.channels}; use L")
        _check_finite("scale", self.scale)
        _check_statistics(self.mean, self.std, len(self.channels), "channel")
        _check_classes(self.classes, self.label_offset)
        is_plain = self.scale == 1 and set(self.mean) == {0} and set(self.std) == {1}
        if self.dtype == "uint8" and not is_plain:
            raise OptionError("dtype: uint8 keeps the pixels; leave out scale, mean and std")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of every result; None where they depend on the image."""
        return self.crop or (self.resize.size if self.resize else None)

    @property
    def values(self) -> int | None:
        """Number of values of every result; None where they depend on the image."""
        return None if self.size is None else math.prod(self.size) * len(self.channels)

    @property
    def rank(self) -> int:
        """Number of axes, that of the samples included."""
        return len(self.layout)


@dataclass(frozen=True, kw_only=True)
class Log:
    """Ask for a logarithm of the mel bands.

    Attributes:
        kind: "natural", "log10", "db" (20 / power * log10, so 10 of a power and 20 of an
            amplitude), or "none".
        floor: Least value that is taken the logarithm of.
        at_floor: "clamp" takes log(max(x, floor)), "add" log(x + floor).
        range_db: With "db", raise all to at most this much below the clip's loudest; None leaves
            them.
    """

    kind: Literal["natural", "log10", "db", "none"] = "natural"
    floor: float = 1e-10
    at_floor: Literal["clamp", "add"] = "clamp"
    range_db: float | None = None

    def __post_init__(self) -> None:
        """Check every field; raise OptionError."""
        _check_choice("log.kind", self.kind, Literal["natural", "log10", "db", "none"])
        _check_choice("log.at_floor", self.at_floor, Literal["clamp", "add"])
        _check_positive("log.floor", self.floor)
        if self.range_db is not None:
            _check_positive("log.range_db", self.range_db)
            if self.kind != "db":
                raise OptionError(f"log.range_db: needs the kind db, found {self.kind}")


@dataclass(frozen=True, kw_only=True)
class AudioPreprocess:
    """Say how a sound becomes a log-mel array: (log(mel) - mean) / std.

    Attributes:
        sample_rate: In Hz.
        resample: Whether files of another rate are resampled; else they are refused.
        channel: "mono" refuses files of several channels, "mean" averages them, "first" takes one.
        scale: Factor of the samples, which lie in -1..1.
        n_fft: Length of the Fourier transform, in samples.
        win_length: Length of the window, in the middle of `n_fft`; None for all.
        hop_length: From frame to frame; None for a quarter of `win_length`.
        window: A window of scipy's without parameters, periodic: "hann".
        center: Whether frame t is centred on sample t * hop_length; else it starts there.
        pad_mode: What lies beyond the ends with `center`: the sound mirrored, or silence.
        n_mels: Number of mel bands.
        fmin: Lower edge of the first band, in Hz.
        fmax: Upper edge of the last one; None for half the sample rate.
        mel_scale: "htk" is 2595 log10(1 + f / 700), "slaney" linear below 1 kHz and logarithmic
            above.
        mel_norm: "slaney" divides each triangle by half its width in Hz, "none" leaves its peak
            at 1.
        power: Exponent of the magnitudes: 1 amplitude, 2 power.
        log: The logarithm.
        frames: Number of frames, the first ones; None for as many as there are.
        pad: What a sound too short for `frames` is continued with.
        mean: One number, or one for each band.
        std: Likewise.
        layout: Axes of one sample: "mel" and "time", and "1" for axes of length 1. The axis of
            the samples stands before them.
        dtype: Of the array.
        classes: As of `ImagePreprocess`, and so the following.
    """

    kind: Literal["audio"] = "audio"
    sample_rate: int
    resample: bool = False
    channel: Literal["mono", "mean", "first"] = "mono"
    scale: float = 1.0
    n_fft: int
    win_length: int | None = None
    hop_length: int | None = None
    window: str = "hann"
    center: bool = True
    pad_mode: Literal["reflect", "constant"] = "reflect"
    n_mels: int
    fmin: float = 0.0
    fmax: float | None = None
    mel_scale: Literal["htk", "slaney"] = "htk"
    mel_norm: Literal["none", "slaney"] = "none"
    power: float = 2.0
    log: Log = field(default_factory=Log)
    frames: int | None = None
    pad: Literal["silence", "repeat", "refuse"] = "silence"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "1,mel,time"
    dtype: FloatName = "float32"
    classes: tuple[str, ...] = ()
    label_offset: int = 0
    input: str | None = None

    def __post_init__(self) -> None:
        """Check every field; raise OptionError."""
        _check_choice("kind", self.kind, Literal["audio"])
        _check_range("sample_rate", self.sample_rate, 1, 1 << 24)
        _check_range("n_fft", self.n_fft, 2, MAX_FFT)
        _check_range("win_length", self.window_length, 1, self.n_fft)
        _check_range("hop_length", self.hop, 1, MAX_FFT)
        _check_range("n_mels", self.n_mels, 1, 4096)
        if self.frames is not None:
            _check_range("frames", self.frames, 1, 1 << 20)
        self._check_choices()
        _check_finite("scale", self.scale)
        _check_positive("power", self.power)
        if not 0 <= self.fmin < self.top <= self.sample_rate / 2:
            raise OptionError(
                f"fmin, fmax: found {self.fmin:g} and {self.top:g} Hz, expected "
                f"0 <= fmin < fmax <= {self.sample_rate / 2:g}, half the sample rate"
            )
        if sorted(self.axes) != sorted(["1"] * (len(self.axes) - 2) + ["mel", "time"]):
            raise OptionError(
                f"layout: found {self.layout[:40]!r}, expected 'mel' and 'time' once each, and "
                "'1', with commas"
            )
        _check_statistics(self.mean, self.std, self.n_mels, "mel band")
        _check_classes(self.classes, self.label_offset)

    def _check_choices(self) -> None:
        _check_choice("channel", self.channel, Literal["mono", "mean", "first"])
        _check_choice("pad_mode", self.pad_mode, Literal["reflect", "constant"])
        _check_choice("mel_scale", self.mel_scale, Literal["htk", "slaney"])
        _check_choice("mel_norm", self.mel_norm, Literal["none", "slaney"])
        _check_choice("pad", self.pad, Literal["silence", "repeat", "refuse"])
        _check_choice("dtype", self.dtype, FloatName)
        if not re.fullmatch("[a-z]+", self.window):
            raise OptionError(f"window: found {self.window[:40]!r}, expected a name such as 'hann'")

    @property
    def window_length(self) -> int:
        """Length of the window in samples."""
        return self.n_fft if self.win_length is None else self.win_length

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return max(1, self.window_length // 4) if self.hop_length is None else self.hop_length

    @property
    def top(self) -> float:
        """Upper edge of the last band, in Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of one sample."""
        return tuple(token.strip() for token in self.layout.split(","))

    @property
    def values(self) -> int | None:
        """Number of values of every result; None where they depend on the sound."""
        return None if self.frames is None else self.frames * self.n_mels

    @property
    def rank(self) -> int:
        """Number of axes, that of the samples included."""
        return len(self.axes) + 1


Preprocess = ImagePreprocess | AudioPreprocess

_IMAGENET = ImagePreprocess(resize=Resize(shorter=256), crop=(224, 224))

PRESETS = {
    "imagenet-torch": replace(
        _IMAGENET,
        layout="NCHW",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "imagenet-keras-caffe": replace(
        _IMAGENET,
        layout="NHWC",
        channels="BGR",
        mean=(103.939, 116.779, 123.68),
    ),
    "imagenet-tf": replace(
        _IMAGENET,
        layout="NHWC",
        mean=(127.5,),
        std=(127.5,),
    ),
}
"""Preprocessing of well-known families of models, by name."""
