"""The notation of preprocessing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.data.preprocess import PRESETS, AudioPreprocess, ImagePreprocess, Log, Resize
from onnxq.data.preprocess_file import load_preprocess, read_mapping
from onnxq.errors import InputError, OptionError

AUDIO = {"kind": "audio", "sample_rate": 16000, "n_fft": 400, "n_mels": 40}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_by_name(name: str) -> None:
    assert load_preprocess(name) is PRESETS[name]


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    yaml = """
        kind: image
        resize: {shorter: 256, interpolation: bicubic}
        crop: [224, 192]
        layout: NHWC
        channels: BGR
        scale: 1/255
        mean: [0.1, 0.2, 3e-1]
        std: 1e-6
        classes: [cat, dog]
        target: none
    """
    values = {
        "kind": "image",
        "resize": {"shorter": 256, "interpolation": "bicubic"},
        "crop": [224, 192],
        "layout": "NHWC",
        "channels": "BGR",
        "scale": 1 / 255,
        "mean": [0.1, 0.2, 0.3],
        "std": 1e-6,
        "classes": ["cat", "dog"],
        "target": "none",
    }
    (tmp_path / "p.yaml").write_text(yaml)
    (tmp_path / "p.JSON").write_text(json.dumps(values))
    expected = ImagePreprocess(
        resize=Resize(shorter=256, interpolation="bicubic"),
        crop=(224, 192),
        layout="NHWC",
        channels="BGR",
        scale=1 / 255,
        mean=(0.1, 0.2, 0.3),
        std=(1e-6,),
        classes=("cat", "dog"),
    )
    assert load_preprocess(tmp_path / "p.yaml") == expected
    assert load_preprocess(str(tmp_path / "p.JSON")) == expected


def test_a_preset_is_a_start() -> None:
    found = read_mapping({"preset": "imagenet-keras-caffe", "layout": "NCHW", "crop": 299})
    assert isinstance(found, ImagePreprocess)
    assert (found.layout, found.crop, found.channels) == ("NCHW", (299, 299), "BGR")


def test_short_forms() -> None:
    image = read_mapping({"kind": "image", "resize": 32, "crop": None})
    assert isinstance(image, ImagePreprocess)
    assert image.resize == Resize(size=(32, 32))
    audio = read_mapping({**AUDIO, "log": "db", "mean": 3})
    assert isinstance(audio, AudioPreprocess)
    assert (audio.log, audio.mean) == (Log(kind="db"), (3.0,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "found list, expected keys and values"),
        ({}, "kind: found nothing, expected image or audio, or a key 'preset'"),
        ({"kind": "video"}, "kind: found 'video', expected image or audio"),
        ({"kind": ["image"]}, "kind: found list"),
        ({"preset": "imagenet"}, "preset: found 'imagenet', expected one of imagenet-torch, "),
        ({"preset": "imagenet-tf", "kind": "audio"}, "kind: found 'audio', expected one of image"),
        ({"preset": "imagenet-tf", "n_mels": 4}, "unknown key 'n_mels'; the keys are alpha, "),
        ({"kind": "image", "size": 4}, "unknown key 'size'"),
        ({"kind": "image", 4: 4}, "unknown key '4'"),
        ({"kind": "image", "resize": {"short": 4}}, "unknown key 'resize.short'"),
        ({"kind": "image", "resize": {}}, "resize: expected either 'shorter' or 'size'"),
        ({"kind": "image", "resize": {"shorter": 4, "size": 4}}, "resize: expected either"),
        ({"kind": "image", "resize": {"size": [4, 5, 6]}}, "resize.size: found 3 numbers"),
        ({"kind": "image", "resize": {"shorter": 0}}, "resize: found 0, expected 1 to 16384"),
        (
            {"kind": "image", "resize": {"shorter": 4, "interpolation": "linear"}},
            "resize.interpolation: found 'linear', expected one of nearest, box, bilinear",
        ),
        ({"kind": "image", "crop": "4"}, "crop: found '4', expected an integer"),
        ({"kind": "image", "crop": True}, "crop: found True, expected an integer"),
        ({"kind": "image", "crop": [4, 10**30]}, "crop: found 1000"),
        ({"kind": "image", "layout": None}, "layout: found nothing, expected text"),
        ({"kind": "image", "layout": "HWC"}, "layout: found 'HWC', expected one of NCHW, NHWC"),
        ({"kind": "image", "layout": "NHW"}, "layout: NHW has no channels"),
        ({"kind": "image", "scale": "1/0"}, "scale: found '1/0', expected a number"),
        ({"kind": "image", "scale": "x" * 99}, "scale: found 'xxx"),
        ({"kind": "image", "scale": float("nan")}, "scale: found nan, expected a number"),
        ({"kind": "image", "mean": [1, 2]}, "mean: found 2 numbers, expected one number, or one "),
        ({"kind": "image", "mean": []}, "mean: found 0 numbers"),
        ({"kind": "image", "mean": [[1]]}, "mean[0]: found list, expected a number"),
        ({"kind": "image", "std": 0}, "std: found 0, which cannot be divided by"),
        ({"kind": "image", "dtype": "int8"}, "dtype: found 'int8', expected one of float16"),
        ({"kind": "image", "dtype": "uint8", "scale": 2}, "dtype: uint8 keeps the pixels"),
        ({"kind": "image", "classes": [1]}, "classes[0]: found 1, expected text"),
        ({"kind": "image", "classes": ["a", "a"]}, "classes: 'a' is there twice"),
        ({"kind": "image", "label_offset": 1.5}, "label_offset: found 1.5, expected an integer"),
        ({"kind": "image", "label_offset": 1 << 40}, "label_offset: found 1099511627776"),
        ({"kind": "image", "target": "output"}, "target: found 'output', expected one of none"),
        ({"kind": "audio"}, "key 'sample_rate' is missing"),
        ({**AUDIO, "resample": 1}, "resample: found 1, expected true or false"),
        ({**AUDIO, "win_length": 500}, "win_length: found 500, expected 1 to 400"),
        ({**AUDIO, "fmax": 9000}, "fmin, fmax: found 0 and 9000 Hz, expected 0 <= fmin < fmax <="),
        ({**AUDIO, "layout": "mel"}, "layout: found 'mel', expected 'mel' and 'time' once each"),
        ({**AUDIO, "layout": "mel,mel,time"}, "layout: found"),
        ({**AUDIO, "log": {"kind": "natural", "range_db": 80}}, "log.range_db: needs the kind db"),
        ({**AUDIO, "log": {"floor": 0}}, "log.floor: found 0.0, expected a positive number"),
        ({**AUDIO, "window": "../x"}, "window: found '../x'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(values: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_mapping(values, "p.yaml")
    assert str(caught.value).startswith(f"p.yaml: {message}")


def test_unknown_name_lists_the_presets() -> None:
    with pytest.raises(OptionError, match=r"'imagenet', expected one of imagenet-torch, .*\.yaml"):
        load_preprocess("imagenet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", b"{", "cannot be parsed: Expecting property name"),
        ("p.json", b"\xff", "cannot be parsed: 'utf-8' codec"),
        ("p.json", b"[" * 100_000, "cannot be parsed: "),
        ("p.yaml", b"a: [", "cannot be parsed: line 1, column 5: expected the node content"),
        (
            "p.yaml",
            b"!!python/object:os.system {}",
            "cannot be parsed: line 1, column 1: could not determine",
        ),
        ("p.yaml", b"? [a]\n: b", "cannot be parsed: line 1, column 3: found unhashable key"),
        ("p.yaml", b"a" * (1 << 21), "expected at most 1048576 bytes"),
    ],
    ids=["json", "bytes", "deep json", "yaml", "objects", "unhashable", "large"],
)
def test_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_preprocess(tmp_path / name)
    assert message in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p\.yaml: cannot be read: No such file"):
        load_preprocess(tmp_path / "p.yaml")
    (tmp_path / "d.yaml").mkdir()
    with pytest.raises(InputError, match=r"d\.yaml: is no regular file"):
        load_preprocess(tmp_path / "d.yaml")


def test_aliases_of_yaml_cost_nothing(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "p.yaml").write_text("\n".join(["kind: image", *lines, "classes: *a11"]))
    with pytest.raises(OptionError, match="unknown key 'a0'"):
        load_preprocess(tmp_path / "p.yaml")


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
keys = st.sampled_from(
    ["resize", "crop", "layout", "scale", "mean", "std", "log", "n_fft", "window", "classes"]
)


@given(st.sampled_from(["image", "audio"]), st.dictionaries(keys, plain_values, max_size=3))
def test_any_values_are_taken_or_refused(kind: str, values: dict[str, Any]) -> None:
    start = AUDIO if kind == "audio" else {"kind": "image"}
    with contextlib.suppress(OptionError):
        read_mapping({**start, **values})
