"""An image file as an array.

Owns decoding by Pillow, which is imported only when an image is read, and the arithmetic of
`ImagePreprocess`. The result is the same on every machine with the same version of Pillow. A file
may come from anywhere: only the formats in `FORMATS` are tried, and the size an image claims is
checked before its pixels are decoded.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.preprocess import ImagePreprocess, Resize
from onnxq.errors import InputError, MissingDependencyError
from onnxq.plaintext import one_line, plain
from onnxq.quiet import silent_warnings

Array = np.ndarray[Any, np.dtype[Any]]

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow's names of what is decoded; others of its formats start programs or read other files."""

MAX_PIXELS = 1 << 27
"""Most pixels of an image, stored or resized: 400 MB in memory."""

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_DEEP_FORMATS = ("PNG", "TIFF", "PPM")
_GROUNDS = {"black": (0, 0, 0, 255), "white": (255, 255, 255, 255)}


def read_image(path: Path, preprocess: ImagePreprocess) -> Array:
    """Return one image without an axis of samples: the layout of `preprocess` without its N.

    Of several frames the first is taken, colour profiles are left out, and grey is repeated for
    every colour.

    Raises:
        InputError: the file is missing, damaged, of another format, or too large or small, or has
            transparency or 16 bits that `preprocess` does not settle.
        MissingDependencyError: Pillow is not installed.
    """
    pillow = import_pillow()
    where = plain(str(path))
    if path.exists() and not path.is_file():
        raise InputError(f"{where}: is no regular file, expected an image")
    try:
        # Warnings are of odd metadata, and of sizes that are checked below.
        with (
            silent_warnings(),
            path.open("rb") as file,
            pillow.open(file, formats=FORMATS) as image,
        ):
            pixels = _pixels(pillow, image, preprocess, where)
    except InputError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as err:
        raise InputError(f"{where}: cannot be read: {err.strerror}") from err
    except MemoryError as err:
        raise InputError(f"{where}: does not fit the memory") from err
    except pillow.UnidentifiedImageError as err:
        known = ", ".join(FORMATS)
        raise InputError(
            f"{where}: cannot be read as an image: it is damaged, or none of {known}"
        ) from err
    except Exception as err:  # Pillow's decoders raise whatever damage makes them stumble over
        raise InputError(
            f"{where}: cannot be read as an image, it is damaged: {one_line(str(err))[:120]}"
        ) from err
    return _array(pixels, preprocess)


def import_pillow() -> Any:
    """Return Pillow's module `Image`.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as err:
        raise MissingDependencyError(
            "reading images needs Pillow; pip install pillow, or onnxq[data]"
        ) from err


def _pixels(pillow: Any, image: Any, preprocess: ImagePreprocess, where: str) -> Array:
    """Return 8-bit pixels, [height, width, channels], resized and cropped."""
    _check_pixels(image.size, where)
    is_deep = _is_deep(image, where)  # known of what was opened, not of what is made of it
    if is_deep and preprocess.depth16 == "refuse":
        raise InputError(
            f"{where}: found samples of 16 bits, expected 8; depth16: cut would keep the upper 8"
        )
    if preprocess.orientation == "exif":
        image = importlib.import_module("PIL.ImageOps").exif_transpose(image)
    image = _opaque(pillow, _eight_bits(pillow, image), preprocess, where)
    image = image.convert("L" if preprocess.channels == "L" else "RGB")
    if preprocess.resize is not None:
        size = _resized(image.size, preprocess.resize)
        _check_pixels(size, where)
        # `Resampling` has the names of our interpolations in capitals.
        image = image.resize(size, pillow.Resampling[preprocess.resize.interpolation.upper()])
    if preprocess.crop is not None:
        image = image.crop(_middle(image.size, preprocess.crop, where))
    pixels = np.asarray(image)
    if preprocess.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    return pixels.reshape(*pixels.shape[:2], -1)


def _check_pixels(size: tuple[int, int], where: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS or min(size) < 1:
        raise InputError(
            f"{where}: found an image of {width} x {height} pixels, expected 1 to {MAX_PIXELS}"
        )


def _is_deep(image: Any, where: str) -> bool:
    """Return whether samples are stored with 16 bits; refuse those of 32."""
    if image.mode in ("I", "F") and not (image.mode == "I" and image.format in ("PNG", "PPM")):
        raise InputError(
            f"{where}: found an image of mode {image.mode!r} (32 bits), expected 8 or 16 bits"
        )
    if image.mode in (*_SIXTEEN_BITS, "I"):
        return True
    if image.format not in _DEEP_FORMATS:
        return False  # a BMP of 16 bits has them for all of a pixel
    # Pillow reads deep colours as 8 bits; only the decoder's arguments tell.
    found = [item for tile in image.tile for item in _arguments(tile[3])]
    return any(
        ";16" in item if isinstance(item, str) else image.format == "PPM" and item > 255
        for item in found
        if isinstance(item, (str, int))
    )


def _arguments(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _eight_bits(pillow: Any, image: Any) -> Any:
    """Return the image with samples of 8 bits; Pillow's own conversion of 16 saturates."""
    if image.mode not in (*_SIXTEEN_BITS, "I"):
        return image
    values = np.asarray(image).astype(np.int64)
    grey = pillow.fromarray((values >> 8).astype(np.uint8))
    clear = image.info.get("transparency")  # the value of 16 bits that stands for no colour
    if isinstance(clear, int):
        grey.putalpha(pillow.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _opaque(pillow: Any, image: Any, preprocess: ImagePreprocess, where: str) -> Any:
    """Return the image without transparency; where nothing shines through, none is lost."""
    if preprocess.alpha == "drop" or not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    if image.getextrema()[3][0] == 255:
        return image
    if preprocess.alpha == "refuse":
        raise InputError(
            f"{where}: found transparent pixels, expected none; alpha: drop would keep their "
            "colours, black or white blend them with a ground"
        )
    ground = pillow.new("RGBA", image.size, _GROUNDS[preprocess.alpha])
    return pillow.alpha_composite(ground, image)


def _resized(size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Return width and height after a resize.

    >>> _resized((500, 375), Resize(shorter=256))
    (341, 256)
    """
    if resize.size is not None:
        return resize.size[1], resize.size[0]
    assert resize.shorter is not None
    short, long = min(size), max(size)
    longer = resize.shorter * long // short
    return (resize.shorter, longer) if size[0] <= size[1] else (longer, resize.shorter)


def _middle(size: tuple[int, int], crop: tuple[int, int], where: str) -> tuple[int, int, int, int]:
    """Return the box of the middle: left, upper, right, lower; an odd rest rounds half to even."""
    (width, height), (high, wide) = size, crop
    if wide > width or high > height:
        raise InputError(
            f"{where}: found an image of {width} x {height} pixels, expected at least the crop's "
            f"{wide} x {high}; resize it or use a smaller crop"
        )
    left, upper = round((width - wide) / 2), round((height - high) / 2)
    return left, upper, left + wide, upper + high


def _array(pixels: Array, preprocess: ImagePreprocess) -> Array:
    if preprocess.dtype == "uint8":
        values = np.array(pixels)
    else:
        scaled = pixels.astype(np.float64) * preprocess.scale
        centred = scaled - np.array(preprocess.mean)
        values = (centred / np.array(preprocess.std)).astype(preprocess.dtype)
    if preprocess.layout == "NCHW":
        values = values.transpose(2, 0, 1)
    elif preprocess.layout == "NHW":
        values = values[:, :, 0]
    return np.ascontiguousarray(values)
