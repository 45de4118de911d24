"""docs/data.md, held against the code: its tables, and its examples run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import onnxq
from onnxq.data.media_files import IMAGES
from onnxq.data.preprocess import PRESETS, AudioPreprocess, ImagePreprocess
from onnxq.data.preprocess_file import load_preprocess, read_mapping
from tests.pictures import save_image

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def rows(section: str) -> dict[str, str]:
    """Return key and default of the table of keys in a section."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0].partition("| key |")[2]
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("section", "kind"), [("Images", ImagePreprocess), ("Sounds", AudioPreprocess)]
)
def test_the_tables_list_every_key_and_its_default(section: str, kind: type) -> None:
    found = rows(section)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    assert list(found) == list(fields)
    for name, default in found.items():
        if match := re.fullmatch(r"`(.+)`", default):
            if match[1] in fields:
                continue
            minimum = {"sample_rate": 16000, "n_fft": 512, "n_mels": 40}
            start = {"kind": "image"} if section == "Images" else {"kind": "audio", **minimum}
            with_it = read_mapping({**start, name: yaml.safe_load(match[1])})
            assert with_it == read_mapping(start), name
        elif default == "needed":
            is_kind = name == "kind"
            assert is_kind or fields[name].default is dataclasses.MISSING
        else:
            assert fields[name].default in (None, ()), name


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_files_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    found = load_preprocess(tmp_path / "p.yaml")
    for key, value in yaml.safe_load(text).items():
        if isinstance(value, str) and key in ("layout", "channels", "dtype", "kind"):
            assert getattr(found, key) == value


def test_presets_and_endings_are_listed() -> None:
    assert re.findall(r"^\| `(imagenet-\w[\w-]*)` \|", PAGE, flags=re.MULTILINE) == list(PRESETS)
    for ending in IMAGES:
        assert f"`{ending}`" in PAGE


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "digits.onnx", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for text in blocks("python"):
            exec(text, names)
    assert printed.getvalue() == blocks("text")[-1]


def test_images_in_class_folders_score_like_the_arrays_they_were(tmp_path: Path) -> None:
    model, arrays = ROOT / "models" / "digits.onnx", ROOT / "models" / "digits_test.npz"
    with np.load(arrays) as held:
        for index, (image, label) in enumerate(zip(held["image"], held["label"], strict=True)):
            pixels = np.round(image.transpose(1, 2, 0) * 255).astype(np.uint8)
            save_image(tmp_path / "digits" / str(label) / f"{index:03}.png", pixels)
    (tmp_path / "p.yaml").write_text("{kind: image, channels: L, scale: 1/255, crop: 8}")
    onnxq.convert(model, tmp_path / "small.onnx", bits=4)
    figures = []
    for data, preprocess in ((arrays, None), (tmp_path / "digits", str(tmp_path / "p.yaml"))):
        report = onnxq.validate(
            model,
            tmp_path / "small.onnx",
            data=data,
            preprocess=preprocess,
            metrics=("top1",),
            performance=False,
        )
        (row,) = (item for item in report.metrics if item.name == "top1")
        assert row.samples == 597
        assert row.reference is not None
        figures.append(row.reference.value)
    assert figures[0] == figures[1] == pytest.approx(594 / 597)
