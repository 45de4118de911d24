"""ImageNet in class folders is evaluated as docs/networks.md says, with known right answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import onnxq
from onnxq.report import Report
from tests.pictures import save_image
from tests.tiny_models import from_text
from tools import networks

ROOT = Path(__file__).parent.parent
NCHW = ROOT / "examples" / "imagenet" / "imagenet-nchw.yaml"
PAGE = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
SYNSETS = ("n01440764", "n01443537", "n01484850")
"""Of the classes whose scores are the input's mean in its first, second and third channel."""
COLOURS = {"n01440764": (40, 40, 220), "n01443537": (40, 220, 40), "n01484850": (220, 40, 40)}
"""RGB. Channels are BGR, so that the first class is blue and the third red."""
MEANS = {
    "nchw": "g (float[N, 3, 224, 224] image) => (float[N, 3] scores)"
    "{ scores = ReduceMean <axes = [2, 3], keepdims = 0> (image) }",
    "nhwc": "g (float[N, 224, 224, 3] image) => (float[N, 3] scores)"
    "{ scores = ReduceMean <axes = [1, 2], keepdims = 0> (image) }",
}


def plain(colour: tuple[int, int, int], height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a validation folder of 12 pictures, PNG and JPEG, one of them in a wrong class."""
    val = tmp_path / "val"
    for synset, colour in COLOURS.items():
        save_image(val / synset / "a.png", plain(colour, 300, 260))
        save_image(val / synset / "b.JPEG", plain(colour, 240, 500), format="JPEG", quality=95)
        save_image(val / synset / "c.jpg", plain(colour, 200, 200), quality=95)
    red, green, blue = (COLOURS[name] for name in reversed(SYNSETS))
    # Resized to 256 x 1024, only the middle 224 columns count: they are blue.
    wide = plain(red, 200, 800)
    wide[:, 280:520] = blue
    save_image(val / SYNSETS[0] / "middle.png", wide)
    # Red is the largest value, and blue is once the mean colour is taken off.
    save_image(val / SYNSETS[0] / "pale.png", plain((125, 110, 112), 256, 256))
    save_image(val / SYNSETS[1] / "wrong.png", plain(red, 256, 256))
    assert green != red
    return val


def validated(reference: Path, candidate: Path, data: Path, preprocess: str) -> Report:
    return onnxq.validate(
        reference,
        candidate,
        data=data,
        preprocess=preprocess,
        metrics=("top1",),
        performance=False,
    )


@pytest.mark.parametrize(
    ("layout", "preprocess"), [("nchw", str(NCHW)), ("nhwc", "imagenet-keras-caffe")]
)
def test_accuracy_is_the_share_of_pictures_in_the_right_folder(
    layout: str, preprocess: str, folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "means.onnx"
    model.write_bytes(from_text(MEANS[layout]))
    (row,) = validated(model, model, folder, preprocess).metrics
    assert row.reference is not None
    assert (row.name, row.samples, row.reference.value) == ("top1", 12, pytest.approx(11 / 12))


def test_colours_in_the_wrong_order_would_show(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "means.onnx"
    model.write_bytes(from_text(MEANS["nchw"]))
    torch_like = tmp_path / "rgb.yaml"
    torch_like.write_text("{preset: imagenet-keras-caffe, layout: NCHW, channels: RGB}")
    (row,) = validated(model, model, folder, str(torch_like)).metrics
    assert row.reference is not None
    assert row.reference.value < 0.5


def test_a_flat_folder_becomes_class_folders_by_the_script_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 4):
        save_image(tmp_path / "flat" / f"ILSVRC2012_val_{number:08}.JPEG", plain((9, 9, 9), 8, 8))
    (tmp_path / "synsets.txt").write_text("n01440764\nn01443537\nn01484850\n")
    (tmp_path / "truth.txt").write_text("3\n1\n3\n")
    (script,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    placed = sorted(str(path.relative_to("val")) for path in Path("val").rglob("*.JPEG"))
    assert placed == [
        "n01440764/ILSVRC2012_val_00000002.JPEG",
        "n01484850/ILSVRC2012_val_00000001.JPEG",
        "n01484850/ILSVRC2012_val_00000003.JPEG",
    ]
    assert sorted(path.name for path in Path("val").iterdir()) == list(SYNSETS)


@pytest.mark.slow
def test_resnet50_and_its_conversion_run_on_photographs_in_class_folders(
    folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "resnet50.onnx"
    model.write_bytes(networks.synthetic("resnet50").SerializeToString())
    onnxq.convert(model, tmp_path / "r6.onnx", bits=6, check=0)
    report = onnxq.validate(
        model,
        tmp_path / "r6.onnx",
        data=folder,
        preprocess=str(NCHW),
        limit=4,
        metrics=("top1", "top5"),
        performance=False,
    )
    assert {(row.name, row.samples) for row in report.metrics} == {("top1", 4), ("top5", 4)}
    assert report.data.kind == "image-classes"
    assert all(row.reference is not None and row.candidate is not None for row in report.metrics)
