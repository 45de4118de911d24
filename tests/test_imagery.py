"""Image files as arrays, held against the definitions of the presets."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxq.data.imagery import read_image
from onnxq.data.preprocess import PRESETS, ImagePreprocess, Resize
from onnxq.errors import InputError, MissingDependencyError
from tests.pictures import pixels, save_image

PLAIN = ImagePreprocess(dtype="uint8", layout="NHWC")


def preset(name: str) -> ImagePreprocess:
    found = PRESETS[name]
    assert isinstance(found, ImagePreprocess)
    return found


def shrunk(values: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Resize by a triangle filter in float64, written down from its definition."""
    for axis, length in enumerate(size):
        old = values.shape[axis]
        scale = max(old / length, 1)
        centres = (np.arange(length) + 0.5) * old / length
        distance = np.abs(np.arange(old) + 0.5 - centres[:, None]) / scale
        weights = np.maximum(0, 1 - distance)
        weights /= weights.sum(1, keepdims=True)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    return values


def centre_of_256(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the 224 x 224 middle of the image whose shorter side is 256, before rounding."""
    height, width = values.shape[:2]
    size = (256, 256 * width // height) if height < width else (256 * height // width, 256)
    resized = shrunk(values.astype(np.float64), size)
    top, left = (round((side - 224) / 2) for side in size)
    return resized[top : top + 224, left : left + 224]


@pytest.mark.parametrize("shape", [(300, 411), (411, 300), (256, 256), (120, 160)])
def test_imagenet_torch(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = pixels(*shape)
    found = read_image(save_image(tmp_path / "x.png", values), preset("imagenet-torch"))
    assert (found.shape, found.dtype) == ((3, 224, 224), np.float32)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((centre_of_256(values) / 255 - mean) / std).transpose(2, 0, 1)
    # Pillow rounds to whole pixels after each of two passes.
    assert np.abs(found - expected).max() < 1.1 / 255 / 0.224


def test_imagenet_keras_caffe(tmp_path: Path) -> None:
    values = pixels(300, 411)
    found = read_image(save_image(tmp_path / "x.png", values), preset("imagenet-keras-caffe"))
    assert (found.shape, found.dtype) == ((224, 224, 3), np.float32)
    expected = centre_of_256(values)[:, :, ::-1] - [103.939, 116.779, 123.68]
    assert np.abs(found - expected).max() < 1.1


def test_imagenet_tf(tmp_path: Path) -> None:
    values = pixels(300, 411)
    found = read_image(save_image(tmp_path / "x.png", values), preset("imagenet-tf"))
    assert (found.shape, found.dtype) == ((224, 224, 3), np.float32)
    assert np.abs(found - (centre_of_256(values) / 127.5 - 1)).max() < 1.1 / 127.5


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_exact_where_nothing_is_resized(tmp_path: Path, name: str) -> None:
    values = pixels(256, 256)
    found = read_image(save_image(tmp_path / "x.png", values), preset(name)).astype(np.float64)
    middle = values[16:240, 16:240].astype(np.float64)
    expected = {
        "imagenet-torch": (
            (middle / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        ).transpose(2, 0, 1),
        "imagenet-keras-caffe": middle[:, :, ::-1] - [103.939, 116.779, 123.68],
        "imagenet-tf": middle / 127.5 - 1,
    }[name]
    assert (np.abs(found - expected) <= np.spacing(np.abs(expected).astype(np.float32))).all()


def test_the_sizes_are_those_of_torchvision(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png", pixels(375, 500))
    found = read_image(path, replace(PLAIN, resize=Resize(shorter=256)))
    assert found.shape == (256, 341, 3)  # int(256 * 500 / 375)


@pytest.mark.parametrize(("side", "first"), [(5, 0), (6, 1), (7, 2), (8, 2), (9, 2)])
def test_the_middle_rounds_half_to_even(tmp_path: Path, side: int, first: int) -> None:
    values = np.arange(side * side, dtype=np.uint8).reshape(side, side)
    preprocess = ImagePreprocess(dtype="uint8", layout="NHW", channels="L", crop=(4, 4))
    found = read_image(save_image(tmp_path / "x.png", values), preprocess)
    assert found.tolist() == values[first : first + 4, first : first + 4].tolist()


def test_crop_larger_than_the_image_is_refused(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png", pixels(10, 20))
    with pytest.raises(InputError, match=r"image of 20 x 10 pixels, .* the crop's 15 x 15"):
        read_image(path, replace(PLAIN, crop=(15, 15)))


@pytest.mark.parametrize(
    ("layout", "channels", "shape"),
    [
        ("NCHW", "RGB", (3, 4, 6)),
        ("NHWC", "BGR", (4, 6, 3)),
        ("NCHW", "L", (1, 4, 6)),
        ("NHWC", "L", (4, 6, 1)),
        ("NHW", "L", (4, 6)),
    ],
)
def test_layouts(tmp_path: Path, layout: Any, channels: Any, shape: tuple[int, ...]) -> None:
    values = pixels(4, 6)
    path = save_image(tmp_path / "x.png", values)
    found = read_image(path, ImagePreprocess(layout=layout, channels=channels))
    assert (found.shape, found.dtype) == (shape, np.float32)
    assert found.flags.c_contiguous
    if channels == "BGR":
        assert found.tolist() == values[:, :, ::-1].tolist()
    if channels == "L":  # ITU-R 601, in Pillow's fixed-point arithmetic
        grey = values @ [0.299, 0.587, 0.114]
        assert np.abs(found.reshape(4, 6) - grey).max() <= 0.51


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8"])
def test_dtypes(tmp_path: Path, dtype: Any) -> None:
    values = pixels(4, 6)
    path = save_image(tmp_path / "x.png", values)
    found = read_image(path, ImagePreprocess(dtype=dtype, layout="NHWC"))
    assert found.dtype.name == dtype
    assert found.tolist() == values.tolist()


def test_grey_becomes_three_equal_colours(tmp_path: Path) -> None:
    values = pixels(4, 6, 1)
    found = read_image(save_image(tmp_path / "x.png", values), PLAIN)
    assert found.tolist() == np.repeat(values, 3, 2).tolist()


def test_opaque_alpha_is_left_out(tmp_path: Path) -> None:
    values = pixels(4, 6, 4)
    values[:, :, 3] = 255
    found = read_image(save_image(tmp_path / "x.png", values), PLAIN)
    assert found.tolist() == values[:, :, :3].tolist()


@pytest.mark.parametrize("alpha", ["drop", "black", "white"])
def test_alpha_is_dropped_or_blended(tmp_path: Path, alpha: Any) -> None:
    values = pixels(4, 6, 4)
    values[0, 0, 3], values[0, 1, 3] = 0, 255
    colours = values[:, :, :3].astype(float)
    share = values[:, :, 3:] / 255
    expected = {"drop": colours, "black": colours * share, "white": 255 - (255 - colours) * share}
    found = read_image(save_image(tmp_path / "x.png", values), replace(PLAIN, alpha=alpha))
    assert np.abs(found - expected[alpha]).max() < 1
    assert alpha != "drop" or found.tolist() == values[:, :, :3].tolist()
    path = tmp_path / "la.png"
    Image.fromarray(values[:, :, [0, 3]]).save(path)
    grey = np.repeat(expected[alpha][:, :, :1], 3, 2)
    assert np.abs(read_image(path, replace(PLAIN, alpha=alpha)) - grey).max() < 1


def transparent_files(folder: Path) -> dict[str, Path]:
    """Return images of each way to be transparent, by what is special about them."""
    values = pixels(16, 16, 4)
    paths = {name: folder / f"{name}.png" for name in ("alpha", "grey", "palette", "colour")}
    Image.fromarray(values).save(paths["alpha"])
    Image.fromarray(values[:, :, 2:]).save(paths["grey"])
    palette = Image.fromarray(values[:, :, :3]).quantize(16)
    palette.save(paths["palette"], transparency=b"\0\1\2")
    paths["gif"] = folder / "x.gif"
    palette.save(paths["gif"], transparency=palette.getpixel((0, 0)))
    colour = tuple(map(int, values[0, 0, :3]))
    Image.fromarray(values[:, :, :3]).save(paths["colour"], transparency=colour)
    paths["deep grey"] = folder / "deep.png"
    data = zlib.compress(b"\0" + np.array([7, 7000], ">u2").tobytes())
    paths["deep grey"].write_bytes(png(2, 1, 16, 0, data, clear=b"\0\7"))
    return paths


@pytest.mark.parametrize("name", ["alpha", "grey", "palette", "colour", "gif", "deep grey"])
def test_transparency_is_refused_unless_it_is_settled(tmp_path: Path, name: str) -> None:
    path = transparent_files(tmp_path)[name]
    cut = replace(PLAIN, depth16="cut")
    with pytest.raises(InputError, match=r"found transparent pixels, expected none; alpha: drop"):
        read_image(path, cut)
    dropped, black, white = (
        read_image(path, replace(cut, alpha=alpha)).astype(int)
        for alpha in ("drop", "black", "white")
    )
    assert (black <= dropped).all()
    assert (dropped <= white).all()
    assert (black < white).any()


def test_palette_becomes_colours(tmp_path: Path) -> None:
    values = pixels(16, 16)
    image = Image.fromarray(values).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    for name in ("x.png", "x.gif"):
        image.save(tmp_path / name)
        assert read_image(tmp_path / name, PLAIN).tolist() == expected.tolist()


def test_sixteen_bits_give_their_upper_eight(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768], [65535, 1000, 65280, 65279]], np.uint16)
    save_image(tmp_path / "x.png", values)
    save_image(tmp_path / "x.tif", values)
    (tmp_path / "x.pgm").write_bytes(b"P5 4 2 65535\n" + values.astype(">u2").tobytes())
    for name in ("x.png", "x.tif", "x.pgm"):
        with pytest.raises(InputError, match="found samples of 16 bits, expected 8; depth16: cut"):
            read_image(tmp_path / name, PLAIN)
        found = read_image(tmp_path / name, replace(PLAIN, depth16="cut"))
        assert found[:, :, 1].tolist() == (values >> 8).tolist()


def png(
    width: int, height: int, bits: int, colour: int, data: bytes, *, clear: bytes = b""
) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    between = chunk(b"tRNS", clear) if clear else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + between
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def test_sixteen_bit_colours_give_their_upper_eight(tmp_path: Path) -> None:
    values = np.array([[[0, 255, 256], [65535, 1000, 65279]]], np.uint16)
    data = zlib.compress(b"\0" + values.astype(">u2").tobytes())
    (tmp_path / "x.png").write_bytes(png(2, 1, 16, 2, data))
    (tmp_path / "x.ppm").write_bytes(b"P6 2 1 65535\n" + values.astype(">u2").tobytes())
    for name in ("x.png", "x.ppm"):
        with pytest.raises(InputError, match="found samples of 16 bits"):
            read_image(tmp_path / name, PLAIN)
    found = read_image(tmp_path / "x.png", replace(PLAIN, depth16="cut"))
    assert found.tolist() == (values >> 8).tolist()


def test_sixteen_bits_for_all_of_a_pixel_are_no_deep_samples(tmp_path: Path) -> None:
    path = tmp_path / "x.bmp"
    pixels_565 = struct.pack("<HH", 0xF800, 0x07E0)
    head = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    start = 14 + len(head) + len(masks)
    path.write_bytes(struct.pack("<2sIHHI", b"BM", start + 4, 0, 0, start) + head + masks
                     + pixels_565)  # fmt: skip
    assert read_image(path, PLAIN).tolist() == [[[255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_are_refused(tmp_path: Path, dtype: Any) -> None:
    path = save_image(tmp_path / "x.tif", np.zeros((4, 4), dtype))
    with pytest.raises(InputError, match=r"found an image of mode '[IF]' \(32 bits\), expected 8"):
        read_image(path, PLAIN)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    full, none = (Image.fromarray(np.full((16, 16), ink, np.uint8)) for ink in (255, 0))
    path = tmp_path / "x.jpg"
    Image.merge("CMYK", [full, none, none, none]).save(path, quality=95)
    found = read_image(path, PLAIN).reshape(-1, 3)
    assert np.abs(found.astype(int) - [0, 255, 255]).max() <= 4


@pytest.mark.parametrize("name", ["x.jpg", "x.bmp", "x.webp", "x.ppm", "x.tiff", "x.JPEG"])
def test_formats(tmp_path: Path, name: str) -> None:
    values = pixels(32, 48)
    found = read_image(save_image(tmp_path / name, values), PLAIN)
    assert np.abs(found.astype(int) - values).mean() < 4


def test_orientation_is_turned_only_on_request(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    values = pixels(4, 6)
    path = save_image(tmp_path / "x.png", values, exif=exif)
    assert read_image(path, PLAIN).tolist() == values.tolist()
    turned = read_image(path, replace(PLAIN, orientation="exif"))
    assert turned.tolist() == np.rot90(values, -1).tolist()


def test_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert set(read_image(tmp_path / "x.gif", PLAIN).flat) == {10}


def test_picture_of_a_telephone_is_a_jpeg(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (10, 200)]
    path = tmp_path / "x.jpg"
    frames[0].save(path, format="MPO", save_all=True, append_images=frames[1:])
    assert np.abs(read_image(path, PLAIN).astype(int) - 10).max() <= 2


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.gif", "x.tif", "x.webp", "x.bmp"])
def test_cut_image_is_refused(tmp_path: Path, name: str) -> None:
    path = save_image(tmp_path / name, pixels(64, 64))
    data = path.read_bytes()
    for length in (0, 1, len(data) // 2, len(data) * 9 // 10):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=rf"{name}: cannot be read as an image"):
            read_image(path, PLAIN)


def test_other_formats_are_not_tried(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EOF\n")
    with pytest.raises(
        InputError, match=r"x\.png: cannot be read as an image: it is damaged, or none of JPEG, "
    ):
        read_image(path, PLAIN)


@pytest.mark.parametrize("side", [12_000, 14_000, 100_000, 1 << 30])
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(side, side, 8, 2, zlib.compress(bytes(1 << 16))))
    with pytest.raises(InputError, match=r"x\.png: (found an image of|cannot be read as an image)"):
        read_image(path, PLAIN)


def test_thin_image_does_not_explode_when_resized(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png", np.zeros((1, 60_000), np.uint8))
    with pytest.raises(InputError, match=r"found an image of 491520000 x 8192 pixels"):
        read_image(path, replace(PLAIN, resize=Resize(shorter=8192)))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_image(tmp_path / "x.png", PLAIN)
    with pytest.raises(InputError, match="is no regular file"):
        read_image(tmp_path, PLAIN)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(InputError, match="is no regular file"):
            read_image(tmp_path / "pipe.png", PLAIN)


def test_warnings_stay_as_they_were(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png", pixels(64, 64))
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(read_image(path, PLAIN))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(item.tolist() == found[0].tolist() for item in found)
    with pytest.raises(DeprecationWarning):  # pytest turns warnings into errors
        warnings.warn("still an error here", DeprecationWarning, stacklevel=1)


def test_missing_pillow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_image(tmp_path / "x.png", pixels(4, 4))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingDependencyError, match=r"pip install pillow, or onnxq\[data\]"):
        read_image(path, PLAIN)


@given(st.data())
@settings(max_examples=60)
def test_damage_gives_an_image_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    suffix = data.draw(st.sampled_from(["png", "jpg", "gif", "tif", "bmp", "webp", "ppm"]))
    path = save_image(folder / f"x.{suffix}", pixels(8, 9))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert read_image(path, replace(PLAIN, crop=(2, 2), orientation="exif")).shape == (2, 2, 3)
