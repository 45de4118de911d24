"""The manifest of `models/` says what the files are, and a file that is not so is noticed."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tools import manifest

MODELS = Path(__file__).parent.parent / "models"
SCHEMA = json.loads((MODELS / "manifest.schema.json").read_text("utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("digits.onnx", "digits_test.npz"):
        shutil.copy(MODELS / name, tmp_path)
    entries = [entry for entry in manifest.load(MODELS) if entry["name"] == "digits"]
    manifest.save(entries, tmp_path)
    return tmp_path


def _declared(folder: Path) -> dict[str, object]:
    (entry,) = manifest.load(folder)
    return {key: entry[key] for key in manifest.DECLARED}


def test_the_manifest_follows_its_schema() -> None:
    document = json.loads((MODELS / "manifest.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_files_are_what_the_manifest_says() -> None:
    assert manifest.problems(MODELS) == []


def test_every_model_is_listed_with_its_scores_at_every_width() -> None:
    entries = manifest.load(MODELS)
    assert [f"{e['name']}.onnx" for e in entries] == sorted(p.name for p in MODELS.glob("*.onnx"))
    for entry in entries:
        assert [point["bits"] for point in entry["scores"]["points"]] == list(range(2, 13))


def test_every_listed_model_has_a_section_that_names_its_command_and_size() -> None:
    readme = (MODELS / "README.md").read_text("utf-8")
    for entry in manifest.load(MODELS):
        assert f"## {entry['file']['path']}" in readme
        assert entry["training"]["command"].split(" && ")[-1] in readme
        assert f"{entry['file']['float_parameters']:,}" in readme


def test_writing_it_again_gives_the_same_bytes(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    manifest.save(manifest.load(folder), folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [
        "digits.onnx",
        "digits_test.npz",
        "manifest.json",
    ]


def test_float_tensors_are_counted_and_others_are_not(tmp_path: Path) -> None:
    arrays = {
        "a": np.zeros((3, 4), np.float32),
        "b": np.zeros(5, np.float16),
        "c": np.zeros(7, np.int64),
        "d": np.float64(1),
    }
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    facts = manifest.count_model(tmp_path / "m.onnx")
    assert (facts["float_parameters"], facts["float_tensors"]) == (12 + 5 + 1, 3)
    assert (facts["opset"], facts["ir_version"]) == (17, 8)
    assert facts["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 2]}]


def test_a_changed_model_and_a_changed_evaluation_are_problems(folder: Path) -> None:
    model = onnx.load(folder / "digits.onnx")
    del model.graph.initializer[0]
    onnx.save(model, folder / "digits.onnx")
    (folder / "digits_test.npz").write_bytes((MODELS / "digits_test.npz").read_bytes() + b"\0")
    found = "\n".join(manifest.problems(folder))
    assert "digits.onnx: found float_tensors 18, expected 19" in found
    assert "digits.onnx: found sha256" in found
    assert "digits_test.npz: found sha256" in found


def test_a_missing_and_an_unlisted_model_are_problems(folder: Path) -> None:
    (folder / "digits.onnx").rename(folder / "other.onnx")
    assert manifest.problems(folder) == [
        "other.onnx: has no entry in manifest.json; declare one with --entry",
        "digits.onnx: entry 'digits' names it, but it is missing",
    ]


def test_check_exits_with_1_and_names_the_file(folder: Path) -> None:
    command = [sys.executable, manifest.__file__, "--check", "--folder", str(folder)]
    fine = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (fine.returncode, fine.stderr) == (0, "")
    with (folder / "digits.onnx").open("ab") as file:
        file.write(b"\0" * 10)
    broken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert broken.returncode == 1
    assert broken.stderr.startswith("digits.onnx: is no ONNX model")


def test_scores_outlive_a_declaration_only_while_the_files_stay(folder: Path) -> None:
    manifest.declare(_declared(folder), folder)
    assert "scores" in manifest.load(folder)[0]
    with np.load(folder / "digits_test.npz") as data:
        arrays = dict(data)
    np.savez(folder / "digits_test.npz", **arrays)
    manifest.declare(_declared(folder), folder)
    assert "scores" not in manifest.load(folder)[0]


def test_an_entry_without_a_declared_fact_is_refused(folder: Path) -> None:
    entry = _declared(folder)
    del entry["licence"]
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(manifest.ManifestError, match="'digits': found no licence"):
        manifest.declare(entry, folder)
    assert (folder / "manifest.json").read_bytes() == before


def test_scores_of_another_model_are_refused(folder: Path) -> None:
    (entry,) = manifest.load(folder)
    with pytest.raises(manifest.ManifestError, match="expected digits"):
        manifest.scores(entry, {"model": {"path": "elsewhere/other.onnx"}})


def test_the_scores_of_a_sweep_are_taken_over(folder: Path) -> None:
    (entry,) = manifest.load(folder)
    taken = manifest.scores(entry, _sweep())
    assert [(point["bits"], point["value"]) for point in taken["points"]] == [
        (2, 0.52),
        (3, 0.53),
        (8, 0.58),
    ]
    assert taken["float"] == {"value": 0.75, "standard_error": 0.25}
    assert "--bits 2-3,8 --data models/digits_test.npz" in taken["command"]


def test_media_files_are_named_with_their_preprocessing_and_metric(folder: Path) -> None:
    (entry,) = manifest.load(folder)
    entry["evaluation"][0]["preprocess"] = "digits.yaml"
    assert manifest.scores(entry, _sweep())["command"].endswith(
        "--data models/digits_test.npz --preprocess models/digits.yaml --metric top1"
    )


def _sweep() -> dict[str, object]:
    return {
        "model": {"path": "models/digits.onnx"},
        "data": {"samples": 4},
        "versions": {"onnxq": "0"},
        "environment": {"machine": "m"},
        "points": [_point(bits, 0.5 + bits / 100) for bits in (8, 2, 3)],
    }


def _point(bits: int, value: float) -> dict[str, object]:
    metric = {
        "name": "top1",
        "reference": {"value": 0.75, "standard_error": 0.25},
        "candidate": {"value": value, "standard_error": 0.25},
    }
    fidelity = {"name": "snr", "reference": None, "candidate": {"value": 30.0}}
    return {
        "settings": {"bits": bits},
        "file_bytes": 100 * bits,
        "command": "onnxq convert",
        "metrics": [fidelity, metric],
    }


def test_a_folder_is_counted_by_its_files_and_their_names(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / "b.png").write_bytes(b"22")
    (media / "a.png").write_bytes(b"1")
    before = manifest.count_data(media)
    one, two = (hashlib.sha256(data).hexdigest().encode() for data in (b"1", b"22"))
    sums = one + b"  a.png\n" + two + b"  b.png\n"
    assert before == {
        "path": "media",
        "bytes": 3,
        "sha256": hashlib.sha256(sums).hexdigest(),
        "files": 2,
    }
    (media / "b.png").rename(media / "c.png")
    assert manifest.count_data(media)["sha256"] != before["sha256"]
