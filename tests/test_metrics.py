import importlib
from collections.abc import Sequence
from typing import Any

import pytest

from onnxq.errors import MissingDependencyError, OptionError
from onnxq.runtime import OutputSpec
from onnxq.validation import metrics
from onnxq.validation.metrics import KNOWN, default_names, resolve


def spec(*shape: Any, dtype: str = "float32", name: str = "y") -> OutputSpec:
    return OutputSpec(name=name, dtype=dtype, shape=tuple(shape))


def test_every_name_of_the_table_resolves() -> None:
    pytest.importorskip("sklearn", reason="needs the 'metrics' extra")
    assert [metric.label for metric in resolve(list(KNOWN))] == list(KNOWN)


def test_an_output_follows_the_first_at_sign() -> None:
    (metric,) = resolve(["psnr-ref:2@Identity:0@1"])
    assert (metric.name, metric.output) == ("psnr-ref:2", "Identity:0@1")
    assert metric.label == "psnr-ref:2@Identity:0@1"


def test_a_name_given_twice_counts_once() -> None:
    assert [metric.label for metric in resolve(["snr", "snr@y", "snr"])] == ["snr", "snr@y"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SNR", "metric SNR: unknown; known are snr, psnr-ref, cosine, "),
        ("", "metric : unknown"),
        ("snr:3", "snr takes no value"),
        ("snr@", "name of an output is missing"),
        ("psnr:loud", "found 'loud', expected a number"),
        ("psnr:nan", "expected a number"),
        ("psnr:-1", "expected a peak above 0"),
        ("math:sqrt@y", "a function gets all outputs; leave out '@y'"),
        ("a.b:c d", "unknown"),
    ],
)
def test_a_wrong_name_is_told(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve([name])


def test_without_scikit_learn_its_metrics_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"metric 'auc' .*or onnxq\[metr"):
        resolve(["snr", "auc"])


@pytest.mark.parametrize(
    ("outputs", "truths", "expected"),
    [
        ([spec("N", 3)], [], ["snr", "cosine", "max-abs", "top1-agreement"]),
        ([spec("N", 3)], ["label"], ["snr", "cosine", "max-abs", "top1-agreement", "top1"]),
        (
            [spec("N", 1000, 1, 1)],
            ["label"],
            ["snr", "cosine", "max-abs", "top1-agreement", "top1", "top5"],
        ),
        ([spec(None, 1)], ["label"], ["snr", "cosine", "max-abs", "top1", "f1", "auc"]),
        ([spec("N", 3, 8, 8)], ["target"], ["snr", "cosine", "max-abs", "mse", "psnr"]),
        ([spec()], [], ["snr", "cosine", "max-abs"]),
        ([spec("N", dtype="int64")], [], []),
        ([spec("N", dtype="int64")], ["label"], ["top1"]),
        ([spec(dtype="seq(map(int64,tensor(float)))")], [], []),
    ],
)
def test_defaults_suit_outputs_and_truth(
    outputs: Sequence[OutputSpec],
    truths: Sequence[str],
    expected: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics.aggregates, "has_sklearn", lambda: True)
    assert list(default_names(outputs, truths)) == expected
