import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.errors import InputError, OptionError
from onnxq.validation import aggregates, plugins

OUTPUTS = {"y": np.array([[1.0], [3.0]])}
SAMPLE = {"x": np.zeros((2, 4), np.float32), "label": np.array([1, 2])}
DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"
_numbers = itertools.count()


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], plugins.Plugin]:
    """Return a function that writes `score` in a module of the current folder and loads it."""
    monkeypatch.chdir(tmp_path)

    def write(code: str) -> plugins.Plugin:
        name = f"plugin_under_test_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n{code}\n", encoding="utf-8")
        return plugins.load(f"{name}:score")

    return write


Write = Callable[[str], plugins.Plugin]


def rows(plugin: plugins.Plugin) -> np.ndarray:
    return plugin.rows(OUTPUTS, SAMPLE, 2, "a.npz samples 0..1")


def test_a_function_of_the_current_folder_is_found(written: Write) -> None:
    before = list(sys.path)
    plugin = written("def score(outputs, sample): return outputs['y'][:, 0] - sample['label']")
    assert rows(plugin).tolist() == [[0], [1]]
    assert sys.path == before
    assert (plugin.better, plugin.unit, plugin.aggregate) == ("higher", "", aggregates.MEAN)


def test_attributes_set_direction_unit_and_aggregate(written: Write) -> None:
    plugin = written(
        "def score(outputs, sample): return outputs['y']\n"
        "score.better, score.unit, score.aggregate = 'lower', 'cents', np.median"
    )
    assert (plugin.better, plugin.unit) == ("lower", "cents")
    assert plugin.aggregate.value(rows(plugin)) == 2


def test_an_aggregate_of_ours_is_named(written: Write) -> None:
    code = "def score(outputs, sample): return outputs['y'] > 2\nscore.aggregate = {!r}"
    plugin = written(code.format("share"))
    assert plugin.aggregate is aggregates.SHARE
    assert rows(plugin).tolist() == [[0], [1]]
    with pytest.raises(OptionError, match="is 'sum', expected mean, share, auc or a function"):
        written(code.format("sum"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:f", "module 'no_such_module_here': ModuleNotFoundError"),
        ("math:no_such_function", "module 'math' has no function 'no_such_function'"),
        ("math:pi", "module 'math' has no function 'pi'"),
    ],
)
def test_what_cannot_be_imported_is_told(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plugins.load(name)


def test_a_module_that_fails_is_told(written: Write) -> None:
    with pytest.raises(OptionError, match=r"module 'plugin_under_test_\d+': ZeroDivisionError"):
        written("1 / 0")
    with pytest.raises(OptionError, match="SyntaxError"):
        written("def score(:")
    with pytest.raises(OptionError, match="found better='up'"):
        written("def score(o, s): return 0\nscore.better = 'up'")
    with pytest.raises(OptionError, match="'aggregate' is 3, expected a function"):
        written("def score(o, s): return 0\nscore.aggregate = 3")


def test_an_error_says_what_the_function_was_given(written: Write) -> None:
    plugin = written("def score(outputs, sample): return sample['lable']")
    message = (
        r"score: KeyError: 'lable' at a.npz samples 0..1; it was given outputs 'y' \(float64 "
        r"\[2, 1\]\) and sample 'x' \(float32 \[2, 4\]\), 'label' \(int64 \[2\]\)"
    )
    with pytest.raises(InputError, match=message):
        rows(plugin)


@pytest.mark.parametrize("value", ["0.5", "np.zeros(3)", "np.zeros((2, 1, 1))", "np.zeros((2, 0))"])
def test_anything_but_a_row_a_sample_is_refused(written: Write, value: str) -> None:
    plugin = written(f"def score(outputs, sample): return {value}")
    with pytest.raises(InputError, match=r"returned shape \[.*\] at .*, expected one row a sample"):
        rows(plugin)


def test_text_is_no_row(written: Write) -> None:
    with pytest.raises(
        InputError, match=r"score: returned dtype str32 at a.npz .*expected numbers"
    ):
        rows(written("def score(outputs, sample): return np.array(['a', 'b'])"))
    with pytest.raises(InputError, match="score: returned dtype complex128 at"):
        rows(written("def score(outputs, sample): return np.array([1j, 2])"))


@pytest.mark.parametrize(
    ("aggregate", "value", "message"),
    [
        ("share", "[-1, 0]", "with -1, expected 0 or 1 in the first column"),
        ("share", "[0.25, np.nan]", "with 0.25, expected 0 or 1"),
        ("auc", "[0, 1]", "with one column, expected a label and a score"),
        ("auc", "[[0, 0.5], [2, 0.5]]", "with label 2, expected whole numbers 0 to 1"),
        ("auc", "[[0.5, 0.5], [1, 0.5]]", "with label 0.5, expected whole numbers"),
        ("auc", "[[0, 1, 2, 3], [-1, 1, 2, 3]]", "with label -1, expected whole numbers 0 to 2"),
    ],
)
def test_rows_that_an_aggregate_of_ours_cannot_take_are_told(
    written: Write, aggregate: str, value: str, message: str
) -> None:
    plugin = written(
        f"def score(outputs, sample): return np.array({value})\nscore.aggregate = {aggregate!r}"
    )
    told = f"score: returned rows for aggregate '{aggregate}' at a.npz samples 0..1 {message}"
    with pytest.raises(InputError, match=told):
        rows(plugin)


def test_rows_of_nan_fit_every_aggregate(written: Write) -> None:
    for aggregate in aggregates.BY_NAME:
        plugin = written(
            "def score(outputs, sample): return np.array([[np.nan, 1], [1, np.nan]])\n"
            f"score.aggregate = {aggregate!r}"
        )
        assert rows(plugin).shape == (2, 2)


def test_an_aggregate_that_fails_is_told(written: Write) -> None:
    plugin = written(
        "def score(outputs, sample): return outputs['y']\n"
        "def total(rows): raise ValueError('no way')\n"
        "score.aggregate = total"
    )
    with pytest.raises(InputError, match=r"aggregate: ValueError: no way for rows of shape \[2"):
        plugin.aggregate.value(rows(plugin))


def test_the_example_of_the_documentation_runs(written: Write) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    plugin = written(code)
    outputs: dict[str, Any] = {"angle": np.array([1.0, -3.0, 179.0])}
    found = plugin.rows(outputs, {"target": np.array([2.0, -3.0, -179.0])}, 3, "here")
    assert found[:, 0].tolist() == [1, 0, 2]
    assert plugin.aggregate.value(found) == 1
    assert (plugin.better, plugin.unit) == ("lower", "degrees")


def test_an_exit_of_the_process_is_an_error(written: Write) -> None:
    with pytest.raises(OptionError, match=r"_test_\d+': ends the process \(SystemExit: 0\)"):
        written("import sys; sys.exit(0)")
    with pytest.raises(InputError, match=r"score: ends the process \(SystemExit: 0\) at a.npz"):
        rows(written("def score(outputs, sample): raise SystemExit(0)"))
    plugin = written(
        "def score(outputs, sample): return outputs['y']\n"
        "def total(rows): raise SystemExit\n"
        "score.aggregate = total"
    )
    with pytest.raises(InputError, match="aggregate: ends the process"):
        plugin.aggregate.value(rows(plugin))


def test_an_interrupt_stays_one(written: Write) -> None:
    with pytest.raises(KeyboardInterrupt):
        rows(written("def score(outputs, sample): raise KeyboardInterrupt"))
