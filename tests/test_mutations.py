"""Any bytes in: success or an OnnxqError, in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from onnxq.errors import InputError, OnnxqError, UnsupportedError
from tests import hostile, mutations
from tests.real_models import ROOT


def damage(base: str, seed: int, count: int, how: str) -> None:
    """Run a batch in a child process, whose memory and time are limited."""
    command = [sys.executable, "-W", "error", "-m", "tests.mutations"]
    done = subprocess.run(
        [*command, base, str(seed), str(count), how],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    failures = json.loads(done.stdout)
    lines = [f"#{f['number']} {f['in']}: {f['trace']}" for f in failures[:5]]
    assert failures == [], f"{len(failures)} of {count}\n" + "\n".join(lines)


@pytest.mark.parametrize("how", ["bytes", "fields"])
@pytest.mark.parametrize("base", ["matmul_add", "converted branches", "planned gemm"])
def test_a_few_damaged_models(base: str, how: str) -> None:
    damage(base, 1, 150, how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bytes", "fields"])
@pytest.mark.parametrize("base", mutations.BASES)
def test_many_damaged_models(base: str, how: str) -> None:
    damage(base, 2, 1500, how)


@pytest.mark.parametrize("name", hostile.REFUSED)
def test_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    path = hostile.REFUSED[name](tmp_path)
    for operation_name, operation in mutations.attempts(path, tmp_path):
        if operation_name == "inspect" and _only_values_are_bad(name):
            continue
        with mutations.time_limit(5), pytest.raises((InputError, UnsupportedError)) as caught:
            operation()
        message = str(caught.value)
        assert "\n" not in message
    assert list((tmp_path / "out").iterdir()) == []


def _only_values_are_bad(name: str) -> bool:
    """Tell whether a file's lists of tensors are sound, so that listing them may succeed."""
    return name.startswith(("raw data", "values"))


@pytest.mark.parametrize("name", hostile.SURVIVED)
def test_odd_file_is_converted_or_refused(name: str, tmp_path: Path) -> None:
    path = hostile.SURVIVED[name](tmp_path)
    for operation_name, operation in mutations.attempts(path, tmp_path):
        assert mutations.outcome(operation) is None, operation_name


def test_secret_never_reaches_the_output(tmp_path: Path) -> None:
    for name in (n for n in hostile.REFUSED if n.startswith("location")):
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        path = hostile.REFUSED[name](folder)
        for _, operation in mutations.attempts(path, folder):
            with mutations.time_limit(5), pytest.raises(OnnxqError):
                operation()
        for written in (folder / "out").rglob("*"):
            assert hostile.SECRET[:24] not in written.read_bytes()


def test_claim_of_terabytes_allocates_nothing(tmp_path: Path) -> None:
    """All crafted files in one child under a limit of 1 GiB beyond a normal conversion."""
    script = (
        "import sys, pathlib\n"
        "from tests import hostile, mutations\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "warm = root / 'warm'; warm.mkdir()\n"
        "path = mutations.write_base('converted matmul_add', warm)\n"
        "for _, op in mutations.attempts(path, warm): mutations.outcome(op)\n"
        "mutations.limit_memory()\n"
        "cases = {**hostile.REFUSED, **hostile.SURVIVED, **hostile.ENDLESS}\n"
        "for number, (name, make) in enumerate(cases.items()):\n"
        "    folder = root / str(number); folder.mkdir()\n"
        "    path = make(folder)\n"
        "    for what, op in mutations.attempts(path, folder):\n"
        "        trace = mutations.outcome(op)\n"
        "        assert trace is None, (name, what, trace)\n"
        "    assert name in hostile.SURVIVED or not list(folder.glob('out/*')), name\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
