"""The records of preprocessing; `test_preprocess_file` has what they refuse."""

from __future__ import annotations

import dataclasses

import pytest

from onnxq.data.preprocess import PRESETS, AudioPreprocess, ImagePreprocess, Resize
from onnxq.errors import OptionError

AUDIO = AudioPreprocess(sample_rate=16000, n_fft=512, n_mels=40)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_take_the_middle_of_256(name: str) -> None:
    found = PRESETS[name]
    assert isinstance(found, ImagePreprocess)
    assert found.resize == Resize(shorter=256, interpolation="bilinear")
    assert (found.size, found.rank, found.values) == ((224, 224), 4, 224 * 224 * 3)


def test_size_is_known_by_crop_or_by_size() -> None:
    assert ImagePreprocess().size is None
    assert ImagePreprocess(resize=Resize(shorter=8)).size is None
    assert ImagePreprocess(resize=Resize(size=(8, 9))).size == (8, 9)
    assert ImagePreprocess(resize=Resize(size=(8, 9)), crop=(4, 5)).size == (4, 5)
    assert ImagePreprocess(layout="NHW", channels="L").rank == 3


def test_lengths_of_sounds_follow_from_each_other() -> None:
    assert (AUDIO.window_length, AUDIO.hop, AUDIO.top) == (512, 128, 8000)
    short = dataclasses.replace(AUDIO, win_length=400, hop_length=160, fmax=7600.0)
    assert (short.window_length, short.hop, short.top) == (400, 160, 7600)
    assert (AUDIO.rank, AUDIO.values) == (4, None)
    assert dataclasses.replace(AUDIO, layout="time,mel", frames=9).values == 360


def test_kinds_cannot_be_mixed() -> None:
    with pytest.raises(OptionError, match="kind: found 'audio', expected one of image"):
        ImagePreprocess(kind="audio")  # type: ignore[arg-type]
