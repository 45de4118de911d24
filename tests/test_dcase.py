"""The audio network of `models/` and its data are what `models/README.md` says they are."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.data.batches import DataOptions
from onnxq.data.dataset import open_dataset
from onnxq.data.preprocess_file import load_preprocess
from onnxq.runtime import InputSpec
from tools import dcase_scenes, dcase_sounds, manifest

MODELS = Path(__file__).parent.parent / "models"
SOUNDS = sorted({sound for scene in dcase_scenes.SCENES.values() for sound in scene})
TENSORS = [
    *("conv1.weight", "conv1.bias", "bn1.scale", "bn1.bias", "bn1.mean", "bn1.var"),
    *("conv2.weight", "conv2.bias", "bn2.scale", "bn2.bias", "bn2.mean", "bn2.var"),
    *("dense1.weight", "dense1.bias", "dense2.weight", "dense2.bias"),
]


@pytest.fixture(scope="module")
def held_out() -> dict[str, np.ndarray]:
    with np.load(MODELS / "dcase_eval.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def entry() -> manifest.Entry:
    return next(entry for entry in manifest.load(MODELS) if entry["name"] == "dcase")


def test_the_network_is_the_published_one_with_unfused_normalization() -> None:
    model = onnx.load(MODELS / "dcase.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert [tensor.name for tensor in model.graph.initializer] == TENSORS
    assert sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer) == 116_815
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 2
    assert {prop.key: prop.value for prop in model.metadata_props}["weights"] == "trained"


def test_the_held_out_clips_fit_the_model_and_every_class_has_as_many(held_out) -> None:
    assert set(held_out) == {"logmel", "label"}
    assert held_out["logmel"].shape == (450, 1, 40, 500)
    assert held_out["logmel"].dtype == np.float32
    assert held_out["label"].dtype == np.int64
    assert np.bincount(held_out["label"]).tolist() == [30] * 15
    quarters = held_out["logmel"] * 4
    assert np.array_equal(quarters, np.round(quarters))


def test_the_score_is_that_of_the_manifest(held_out, entry) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        MODELS / "dcase.onnx", providers=["CPUExecutionProvider"]
    )
    (probabilities,) = session.run(["probabilities"], {"logmel": held_out["logmel"]})
    right = int(np.sum(probabilities.argmax(axis=1) == held_out["label"]))
    assert 0.6 <= entry["scores"]["float"]["value"] <= 0.9
    # One clip may lie on an edge that another processor rounds differently.
    assert abs(right - entry["scores"]["float"]["value"] * len(held_out["label"])) < 1.001


def test_a_clip_is_the_same_every_time_and_unlike_the_others() -> None:
    first, other = dcase_scenes.clips("held_out")[1], dcase_scenes.clips("validation")[1]
    samples = dcase_scenes.synthesise(first)
    assert samples.shape == (dcase_sounds.SAMPLES,)
    assert samples.dtype == np.int16
    assert np.array_equal(samples, dcase_scenes.synthesise(first))
    assert not np.array_equal(samples, dcase_scenes.synthesise(other))


def test_the_shipped_clips_are_those_that_the_generator_makes(held_out) -> None:
    for row in (0, 7, 449):
        clip = dcase_scenes.clips("held_out")[row]
        assert held_out["label"][row] == clip.label
        bands = dcase_scenes.features(dcase_scenes.synthesise(clip), dcase_scenes.preprocessing())
        difference = np.abs(dcase_scenes.rounded(bands) - held_out["logmel"][row, 0])
        # Another processor may round a sample or a band the other way.
        assert difference.max() <= dcase_scenes.STEP
        assert np.mean(difference > 0) < 0.001


@pytest.mark.parametrize("sound", SOUNDS)
def test_a_sound_keeps_its_recording_and_differs_from_clip_to_clip(sound) -> None:
    make = getattr(dcase_sounds, sound)
    # Seeds with which even the rarest sound is heard.
    clips = [make(np.random.default_rng(3), np.random.default_rng(seed)) for seed in (5, 5, 6)]
    assert clips[0].shape == (dcase_sounds.SAMPLES,)
    assert np.isfinite(clips[0]).all()
    assert 0 < np.sqrt(np.mean(clips[0] ** 2)) < 2
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_no_recording_is_in_two_parts(entry) -> None:
    sources = {
        part: {clip.source for clip in dcase_scenes.clips(part)} for part in dcase_scenes.PARTS
    }
    everything = [source for part in sources.values() for source in part]
    assert len(set(everything)) == len(everything)
    assert {name: len(dcase_scenes.clips(name)) for name in sources} == entry["data"]["split"]
    assert {name: len(part) for name, part in sources.items()} == entry["data"]["recordings"]


def test_recordings_of_the_same_number_differ_between_parts() -> None:
    chosen = [dcase_scenes.clips(part)[0] for part in dcase_scenes.PARTS]
    assert len({(clip.label, clip.recording, clip.number) for clip in chosen}) == 1
    sounds = [dcase_scenes.synthesise(clip)[:1000].tobytes() for clip in chosen]
    assert len(set(sounds)) == 3


def test_the_preprocessing_numbers_the_classes_as_the_labels_do() -> None:
    assert load_preprocess(MODELS / "dcase.yaml").classes == dcase_scenes.CLASSES
    assert list(dcase_scenes.CLASSES) == sorted(dcase_scenes.CLASSES)


def test_a_folder_of_wav_files_gives_the_features_of_the_training(tmp_path) -> None:
    first, *chosen = dcase_scenes.clips("held_out")[:3]
    paths = list(dcase_scenes.write_wav(tmp_path, "held_out", 3))
    assert paths[0] == tmp_path / dcase_scenes.wav_name(first)
    shutil.rmtree(paths[0].parent)  # so that folders are numbered by the preprocessing alone
    inputs = [InputSpec(name="logmel", dtype="float32", shape=("batch", 1, 40, 500))]
    preprocess = dcase_scenes.preprocessing()
    data = open_dataset(tmp_path, inputs, DataOptions(preprocess=preprocess))
    (batch,) = data.batches()
    assert batch.truth["label"].tolist() == [clip.label for clip in chosen]
    for clip, fed in zip(chosen, batch.feeds["logmel"], strict=True):
        bands = dcase_scenes.features(dcase_scenes.synthesise(clip), preprocess)
        assert np.array_equal(fed[0], bands.astype(np.float32))
