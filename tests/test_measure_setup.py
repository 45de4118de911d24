"""From options to what measures: sessions, data, metrics, and what shows before any candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq import model, runtime
from onnxq.errors import InputError, OptionError, UnsupportedError, ValidationError
from onnxq.validation import measure_setup
from onnxq.validation.measure_options import MeasureOptions, make_measure_options
from onnxq.validation.measure_setup import open_measure
from tests.tiny_models import from_text, scaled

CUSTOM = "g (float[2] x) => (float[2] y) { y = x.Unheard (x) }"


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return saved(tmp_path / "reference.onnx", scaled(2.0))


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    return saved(tmp_path / "candidate.onnx", scaled(2.5))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return three samples of which both models find the right class."""
    path = tmp_path / "data.npz"
    np.savez(path, x=np.eye(3, dtype=np.float32), label=np.arange(3))
    return path


def labels(reference: Path, candidate: Path, **options: Any) -> list[str]:
    with open_measure(model.load(reference), make_measure_options(options)) as measure:
        return [row.label for row in measure(candidate).metrics]


def test_random_inputs_need_nothing(reference: Path, candidate: Path) -> None:
    with open_measure(model.load(reference), MeasureOptions(samples=3)) as measure:
        found = measure(candidate)
    assert (found.data.kind, found.data.samples, found.check.status) == ("random", 3, "ok")
    assert found.check.worst_snr_db == pytest.approx(20 * np.log10(4))
    assert [row.name for row in found.metrics][:3] == ["snr", "cosine", "max-abs"]


def test_data_decide_the_default_metrics(reference: Path, candidate: Path, data: Path) -> None:
    assert "top1@y" in labels(reference, candidate, data=data)
    assert "top1@y" not in labels(reference, candidate)


def test_metrics_asked_for_are_the_metrics(reference: Path, candidate: Path, data: Path) -> None:
    assert labels(reference, candidate, data=data, metrics=["cosine", "top1"]) == (
        ["cosine@y", "top1@y"]
    )


def test_limit_and_batch_are_obeyed(reference: Path, candidate: Path, data: Path) -> None:
    options = MeasureOptions(data=data, limit=2, batch=1)
    with open_measure(model.load(reference), options) as measure:
        found = measure(candidate).data
    assert (found.samples, found.available, found.inputs[0].shape) == (2, 3, (1, 3))


def test_the_reference_is_run_once_for_all_candidates(
    reference: Path, candidate: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    run_models: list[str] = []
    real_open, real_run = runtime.open_session, runtime.Session.run

    def count_open(source: Any, *rest: Any) -> runtime.Session:
        opened.append(source)
        return real_open(source, *rest)

    def count_run(session: runtime.Session, feeds: Any) -> Any:
        run_models.append(Path(session.where).stem)
        return real_run(session, feeds)

    monkeypatch.setattr(runtime, "open_session", count_open)
    monkeypatch.setattr(runtime.Session, "run", count_run)
    with open_measure(model.load(reference), MeasureOptions(data=data, batch=1)) as measure:
        results = [measure(candidate).check.worst_snr_db for _ in range(4)]
    assert len(set(results)) == 1
    assert opened.count(candidate) == 4
    assert run_models.count("reference") == 3
    assert run_models.count("candidate") == 12


def test_only_the_candidate_stays_packed(reference: Path) -> None:
    options = MeasureOptions(is_packed=True, threads=2, session_options={"a": "b"})
    settings = measure_setup.session_settings(options, is_packed=False)
    assert (settings.is_packed, settings.threads, settings.options) == (False, 2, {"a": "b"})
    assert measure_setup.session_settings(options, is_packed=True).is_packed


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": "frob"}, OptionError, "frob"),
        ({"metrics": "top1"}, OptionError, "label"),
        ({"metrics": "snr@z"}, OptionError, "'z'"),
        ({"carry": {"no": "x"}}, OptionError, "no output 'no'"),
        ({"data": "missing.npz"}, InputError, r"missing\.npz"),
        ({"session_options": {"no.such": "1"}}, OptionError, r"no\.such"),
    ],
)
def test_what_is_wrong_shows_before_any_candidate(
    reference: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with (
        pytest.raises(error, match=message),
        open_measure(model.load(reference), make_measure_options(options)),
    ):
        pytest.fail("nothing can be measured")


def test_data_that_do_not_fit_are_told_before_any_candidate(
    reference: Path, tmp_path: Path
) -> None:
    path = tmp_path / "wide.npz"
    np.savez(path, x=np.zeros((4, 5), np.float32))
    with (
        pytest.raises(InputError, match=r"wide\.npz.*'x'"),
        open_measure(model.load(reference), MeasureOptions(data=path)),
    ):
        pytest.fail("nothing can be measured")


def test_a_reference_that_cannot_be_run_is_skipped_on_random_inputs(
    tmp_path: Path, candidate: Path, data: Path
) -> None:
    custom = model.load(saved(tmp_path / "custom.onnx", from_text(CUSTOM)))
    with open_measure(custom, MeasureOptions()) as measure:
        found = measure(candidate)
    assert found.check.status == "skipped"
    assert "Unheard" in (found.check.reason or "")
    for options in (MeasureOptions(data=data), MeasureOptions(metrics=("snr",))):
        with pytest.raises((UnsupportedError, InputError)), open_measure(custom, options):
            pytest.fail("nothing can be measured")


def test_a_candidate_that_cannot_be_run_is_told(reference: Path, tmp_path: Path) -> None:
    broken = saved(tmp_path / "broken.onnx", from_text(CUSTOM))
    with open_measure(model.load(reference), MeasureOptions()) as measure:
        with pytest.raises(ValidationError, match="the candidate does not"):
            measure(broken)
        assert measure(reference).check.is_equal


@pytest.mark.skipif(runtime.cuda_works(), reason="CUDA works here")
def test_cuda_that_does_not_work_is_no_reason_to_skip(reference: Path) -> None:
    options = make_measure_options({"provider": "cuda"})
    with (
        pytest.raises(UnsupportedError, match="--provider cuda"),
        open_measure(model.load(reference), options),
    ):
        pass


def test_data_that_do_not_fit_a_metric_show_before_any_candidate(
    reference: Path, tmp_path: Path
) -> None:
    (spec,) = runtime.open_session(reference).inputs
    feeds = np.ones((4, *(size for size in spec.shape[1:] if isinstance(size, int))), np.float32)
    path = tmp_path / "floats.npz"
    np.savez(path, **{spec.name: feeds}, label=np.zeros(4, np.float32))
    options = MeasureOptions(data=path, metrics=("top1",))
    with (
        pytest.raises(InputError, match=r"metric top1: .*label: found float32"),
        open_measure(model.load(reference), options),
    ):
        pytest.fail("nothing can be measured")
