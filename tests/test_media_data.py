"""Folders of images and sounds as batches."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.data.batches import DataOptions
from onnxq.data.dataset import open_dataset
from onnxq.data.logmel import read_logmel
from onnxq.data.media_data import MediaData
from onnxq.data.preprocess import PRESETS, AudioPreprocess, ImagePreprocess, Preprocess, Resize
from onnxq.errors import InputError, OnnxqError, OptionError
from onnxq.runtime import InputSpec
from tests.pictures import pixels, save_image, save_wav

IMAGE = ImagePreprocess(resize=Resize(size=(4, 6)))
AUDIO = AudioPreprocess(sample_rate=16000, n_fft=64, n_mels=8, frames=5)


def spec(*shape: int | str | None, name: str = "x", dtype: str = "float32") -> InputSpec:
    return InputSpec(name=name, dtype=dtype, shape=shape)


def opened(
    folder: Path, inputs: Sequence[InputSpec], preprocess: Preprocess, **options: Any
) -> MediaData:
    data = open_dataset(folder, inputs, DataOptions(preprocess=preprocess, **options))
    assert isinstance(data, MediaData)
    return data


def refusal(folder: Path, inputs: Sequence[InputSpec], preprocess: Preprocess, **kw: Any) -> str:
    with pytest.raises(OnnxqError) as caught:
        list(opened(folder, inputs, preprocess, **kw).batches())
    return str(caught.value).replace(str(folder), "DIR")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Make 35 images of two classes and of different sizes."""
    for index in range(35):
        name = "cat" if index < 20 else "dog"
        path = tmp_path / name / f"{index:02}.png"
        save_image(path, pixels(8 + index % 3, 9, seed=index))
    return tmp_path


def test_class_folders_give_labels_and_full_batches(classes: Path) -> None:
    data = opened(classes, [spec("N", 3, 4, 6)], IMAGE)
    assert (data.kind, data.path, data.available, data.classes, data.truths) == (
        "image-classes", str(classes), 35, 2, ("label",),
    )  # fmt: skip
    batches = list(data.batches())
    assert [batch.samples for batch in batches] == [32, 3]
    assert batches[0].feeds["x"].shape == (32, 3, 4, 6)
    assert batches[0].truth["label"].dtype == np.int64
    assert batches[0].truth["label"].tolist() == [0, 1] * 15 + [0, 0]
    assert batches[0].where == "cat/00.png to cat/16.png"
    again = next(data.batches())
    assert np.array_equal(again.feeds["x"], batches[0].feeds["x"])
    assert all(batch.is_start for batch in batches)


def test_limit_takes_of_every_class(classes: Path) -> None:
    data = opened(classes, [spec("N", 3, 4, 6)], IMAGE, limit=4, batch=3)
    labels = [batch.truth["label"].tolist() for batch in data.batches()]
    assert labels == [[0, 1, 0], [1]]
    assert data.available == 35


def test_presets_feed_a_model_of_imagenet(classes: Path) -> None:
    for name, shape in (
        ("imagenet-torch", (None, 3, 224, 224)),
        ("imagenet-tf", (None, 224, 224, 3)),
        ("imagenet-keras-caffe", (None, 224, 224, 3)),
    ):
        data = opened(classes, [spec(*shape)], PRESETS[name], limit=2)
        (batch,) = data.batches()
        assert batch.feeds["x"].shape == (2, *shape[1:])


def test_wrong_layout_says_both_shapes(classes: Path) -> None:
    text = refusal(classes, [spec("N", 3, 224, 224)], PRESETS["imagenet-tf"], limit=1)
    assert text == (
        "DIR/cat/00.png: input 'x': found float32 [1, 224, 224, 3], expected float32 "
        "[N, 3, 224, 224]; --preprocess settles size, layout and dtype"
    )
    text = refusal(classes, [spec("N", 3, 4, 6, dtype="uint8")], IMAGE)
    assert "found float32 [32, 3, 4, 6], expected uint8 [N, 3, 4, 6]" in text


def test_images_of_any_size_come_one_by_one(classes: Path) -> None:
    inputs = [spec("N", "H", "W", 3)]
    batches = list(opened(classes, inputs, ImagePreprocess(layout="NHWC"), limit=3).batches())
    assert [batch.feeds["x"].shape for batch in batches] == [
        (1, 8, 9, 3), (1, 10, 9, 3), (1, 9, 9, 3),
    ]  # fmt: skip
    text = refusal(classes, inputs, ImagePreprocess(layout="NHWC"), batch=2)
    assert text == (
        "DIR/dog/20.png: found shape [10, 9, 3], expected [8, 9, 3] as of DIR/cat/00.png, which "
        "is in the same batch; use --batch 1, or settle the size in --preprocess"
    )


def test_model_without_an_axis_of_samples(classes: Path) -> None:
    data = opened(classes, [spec(3, 4, 6)], IMAGE, limit=2)
    batches = list(data.batches())
    assert [batch.is_item for batch in batches] == [True, True]
    assert batches[0].feeds["x"].shape == (3, 4, 6)
    assert batches[0].truth["label"].shape == (1,)
    assert refusal(classes, [spec(3, 4, 6)], IMAGE, batch=2) == (
        "batch: found 2, expected 1: input 'x' takes one sample as a whole"
    )


def test_axis_of_length_one_does_not_pass_for_that_of_the_samples(classes: Path) -> None:
    grey = replace(IMAGE, channels="L")
    assert refusal(classes, [spec("N", 4, 6)], grey, limit=1) == (
        "DIR/cat/00.png: input 'x': found float32 [1, 1, 4, 6], expected float32 [N, 4, 6]; "
        "choose a layout without the axis of length 1 in --preprocess"
    )
    data = opened(classes, [spec("N", 4, 6)], replace(grey, layout="NHW"), limit=2)
    assert next(data.batches()).feeds["x"].shape == (2, 4, 6)
    assert next(opened(classes, [spec(1, 4, 6)], grey).batches()).is_item


def test_fixed_first_size_is_the_batch(classes: Path) -> None:
    data = opened(classes, [spec(5, 3, 4, 6)], IMAGE)
    assert [batch.samples for batch in data.batches()] == [5] * 7
    assert refusal(classes, [spec(8, 3, 4, 6)], IMAGE) == (
        "found 35 files, expected a multiple of 8: input 'x' takes 8 samples at a time; "
        "use --limit 32"
    )
    assert "batch: found 4, expected 5" in refusal(classes, [spec(5, 3, 4, 6)], IMAGE, batch=4)


def test_flat_folder_with_the_input_as_target(tmp_path: Path) -> None:
    save_image(tmp_path / "b.png", pixels(5, 7))
    save_image(tmp_path / "a.png", pixels(6, 7))
    data = opened(tmp_path, [spec("N", 3, None, None)], ImagePreprocess(target="input"))
    assert (data.kind, data.truths, data.classes) == ("images", ("target",), None)
    batches = list(data.batches())
    assert [batch.where for batch in batches] == ["a.png", "b.png"]
    for batch in batches:
        assert np.array_equal(batch.truth["target"], batch.feeds["x"])
    data = opened(tmp_path, [spec("N", 3, None, None)], ImagePreprocess())
    assert data.truths == ()
    assert next(data.batches()).truth == {}


def test_pairs_of_input_and_target(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_image(tmp_path / "input" / name, pixels(4, 6))
        save_image(tmp_path / "target" / name, pixels(8, 12, seed=1))
    data = opened(tmp_path, [spec("N", 3, None, None)], ImagePreprocess(), batch=2)
    assert (data.kind, data.truths, data.available) == ("images", ("target",), 2)
    (batch,) = data.batches()
    assert batch.feeds["x"].shape == (2, 3, 4, 6)
    assert batch.truth["target"].shape == (2, 3, 8, 12)
    assert batch.truth["target"][1].transpose(1, 2, 0).tolist() == pixels(8, 12, seed=1).tolist()
    text = refusal(tmp_path, [spec("N", 3, None, None)], ImagePreprocess(target="input"))
    assert text == "target: found 'input', but DIR has a folder of targets; leave it out"


def test_sounds_in_class_folders(tmp_path: Path) -> None:
    wave = 0.5 * np.sin(np.arange(2000) / 3)
    for name in ("yes/1.wav", "yes/2.WAV", "no/1.wav"):
        save_wav(tmp_path / name, wave)
    data = opened(tmp_path, [spec("N", 1, 8, 5)], AUDIO)
    assert (data.kind, data.classes, data.truths) == ("audio-classes", 2, ("label",))
    (batch,) = data.batches()
    assert batch.feeds["x"].shape == (3, 1, 8, 5)
    assert batch.truth["label"].tolist() == [0, 1, 1]
    assert np.array_equal(batch.feeds["x"][0], read_logmel(tmp_path / "no" / "1.wav", AUDIO))
    free = replace(AUDIO, frames=None)
    found = opened(tmp_path, [spec("N", 1, 8, None)], free).batches()
    assert [item.samples for item in found] == [1, 1, 1]


def test_the_input_is_named_where_there_are_several(classes: Path) -> None:
    image, state = spec("N", 3, 4, 6), spec("N", 2, name="state")
    assert refusal(classes, [state, image], IMAGE).startswith(
        "the model needs inputs 'state' and 'x' (float32 [N, 3, 4, 6]); a folder of files gives one"
    )
    carried = frozenset({"state"})
    data = opened(classes, [state, image], IMAGE, carried=carried, limit=2)
    assert [list(batch.feeds) for batch in data.batches()] == [["x"], ["x"]]
    chosen = replace(IMAGE, input="x")
    assert opened(classes, [image], chosen, limit=1).available == 35
    assert refusal(classes, [image], replace(IMAGE, input="y")) == (
        "input: the model has no input 'y'; its inputs are 'x'"
    )
    assert refusal(classes, [], IMAGE) == "the model has no input that a file could be fed to"
    assert refusal(classes, [spec()], IMAGE) == "input 'x' is a single number, expected an array"


def test_bad_image_is_named_when_it_comes(classes: Path) -> None:
    (classes / "dog" / "34.png").write_bytes(b"no image")
    data = opened(classes, [spec("N", 3, 4, 6)], IMAGE)
    with pytest.raises(InputError, match=r"34\.png: cannot be read as an image"):
        list(data.batches())


def test_folder_without_preprocessing_is_refused(classes: Path) -> None:
    with pytest.raises(InputError, match=r"cat: found a folder, .* images and sounds need --prep"):
        open_dataset(classes, [spec("N", 3, 4, 6)], DataOptions())


def test_images_for_sounds_are_refused(classes: Path) -> None:
    text = refusal(classes, [spec("N", 1, 8, 5)], AUDIO)
    assert text.startswith("DIR/cat/00.png: found a file ending in '.png', expected files ending")


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, [spec("N", 3, 4, 6)], IMAGE).startswith("DIR: is an empty folder")


def test_options_are_checked_before_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="input: the model has no input"):
        opened(tmp_path, [spec("N", 3)], replace(IMAGE, input="y"))


def test_memory_is_that_of_a_batch(tmp_path: Path) -> None:
    for index in range(24):
        save_image(tmp_path / f"{index}.png", np.zeros((256, 256, 3), np.uint8))
    data = opened(tmp_path, [spec("N", 3, 256, 256)], replace(IMAGE, resize=None), batch=1)
    next(data.batches())  # what Pillow loads once
    tracemalloc.start()
    try:
        assert sum(batch.samples for batch in data.batches()) == 24
        assert tracemalloc.get_traced_memory()[1] < 9 << 20  # one image is 1.6 MB in float64
    finally:
        tracemalloc.stop()
