"""A conversion that dies, or finds no room, leaves the previous output whole and nothing behind.

Children kill themselves at chosen points: at a byte count, by a file size limit whose signal is
deadly, and before the n-th call that changes the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import onnxq
from onnxq.errors import OutputError
from tests import graphs, runs
from tests.real_models import ROOT

KILLED = -signal.SIGKILL
OVER_LIMIT = -signal.SIGXFSZ

CONVERT = """
import resource, signal, sys, os
import onnxq
source, output, bits, external = sys.argv[1:5]
{prepare}
onnxq.convert(source, output, bits=int(bits), external_data=external, check=0, force=True, jobs=1)
"""
DIES_AT_SIZE = """
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""
DIES_AT_CALL = """
left = [{call}]
def deadly(function):
    def called(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return called
for name in {names}:
    setattr(os, name, deadly(getattr(os, name)))
"""
FEW_CALLS = ("replace", "rename", "fsync", "unlink", "remove")
ALL_CALLS = (*FEW_CALLS, "open", "fdopen", "chmod", "umask", "close", "scandir", "listdir", "stat")
CLI_WITH_LIMIT = """
import resource, sys
from onnxq.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
sys.argv = ["onnxq", *sys.argv[1:]]
main()
"""


def child(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def chain(size: int = 256, count: int = 4) -> onnx.ModelProto:
    """Return a chain of `count` square MatMuls, 256 KB each at the default size."""
    names = [f"weight{number}" for number in range(count)]
    steps = ["x", *(f"h{number}" for number in range(1, count)), "y"]
    nodes = [
        graphs.node("MatMul", f"{steps[k]},{name}", steps[k + 1]) for k, name in enumerate(names)
    ]
    held = {name: graphs.normal((size, size), seed) for seed, name in enumerate(names)}
    shapes = [graphs.value("x", 2, size)], [graphs.value("y", 2, size)]
    return graphs.model(graphs.graph(nodes, *shapes, graphs.tensors(**held)))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Scene:
    """A source model, a previous output at 8 bits, and what a finished run at 4 bits gives."""

    def __init__(self, folder: Path, external: str, size: int = 256) -> None:
        self.external = external
        self.source = folder / "in.onnx"
        self.out = folder / "out"
        self.output = self.out / "out.onnx"
        self.out.mkdir()
        onnx.save(chain(size), self.source)
        self.convert(4)
        self.after = contents(self.out)
        shutil.rmtree(self.out)
        self.out.mkdir()
        self.convert(8)
        self.before = contents(self.out)
        self.feeds = graphs.feeds(chain(size))

    def convert(self, bits: int) -> None:
        onnxq.convert(
            self.source, self.output, bits=bits, external_data=self.external, check=0, force=True
        )

    def reset(self) -> None:
        shutil.rmtree(self.out)
        self.out.mkdir()
        for name, data in self.before.items():
            (self.out / name).write_bytes(data)

    def killed(self, prepare: str) -> subprocess.CompletedProcess[str]:
        script = CONVERT.format(prepare=prepare)
        return child(script, self.source, self.output, 4, self.external)

    def is_whole(self) -> None:
        """Assert that the output is the previous or the new one, with every file it needs."""
        found = contents(self.out)
        wanted = self.before if found["out.onnx"] == self.before["out.onnx"] else self.after
        assert found["out.onnx"] == wanted["out.onnx"]
        for name, data in wanted.items():
            assert found[name] == data, name
        runs.run(self.output, self.feeds)

    def later_run_is_clean(self) -> None:
        self.convert(4)
        assert contents(self.out) == self.after


@pytest.fixture(params=["never", "always"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(tmp_path, request.param)


# Killed


@pytest.mark.parametrize("size", [0, 4096, 131_000])
def test_killed_while_writing_leaves_the_previous_output(scene: Scene, size: int) -> None:
    done = scene.killed(DIES_AT_SIZE.format(size=size))
    assert done.returncode == OVER_LIMIT, done.stderr
    found = contents(scene.out)
    assert {name: found[name] for name in scene.before} == scene.before
    scene.is_whole()
    scene.later_run_is_clean()


@pytest.mark.parametrize("external", ["never", "always"])
@pytest.mark.parametrize("names", [FEW_CALLS, pytest.param(ALL_CALLS, marks=pytest.mark.slow)])
def test_killed_before_any_change_of_the_folder_leaves_a_whole_output(
    tmp_path: Path, external: str, names: tuple[str, ...]
) -> None:
    scene = Scene(tmp_path, external, size=64)
    for call in range(1000):
        scene.reset()
        done = scene.killed(DIES_AT_CALL.format(call=call, names=names))
        if done.returncode == 0:
            break
        assert done.returncode == KILLED, done.stderr
        scene.is_whole()
        scene.later_run_is_clean()
    assert call >= 3
    assert done.returncode == 0
    assert contents(scene.out) == scene.after


@pytest.mark.slow
def test_killed_at_any_time_leaves_a_whole_output(scene: Scene) -> None:
    script = CONVERT.format(prepare="")
    arguments = [str(scene.source), str(scene.output), "4", scene.external]
    for tenths in range(2, 40):
        scene.reset()
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        time.sleep(tenths / 20)
        process.kill()
        process.wait()
        scene.is_whole()
    scene.later_run_is_clean()


@pytest.mark.slow
def test_runs_at_the_same_time_leave_a_whole_output(scene: Scene) -> None:
    arguments = [str(scene.source), str(scene.output), "4", scene.external]
    command = [sys.executable, "-c", CONVERT.format(prepare=""), *arguments]
    for _ in range(5):
        scene.reset()
        children = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
        codes = [process.wait() for process in children]
        assert 0 in codes
        scene.is_whole()
        assert not list(scene.out.glob(".*"))
    scene.later_run_is_clean()


# No room


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a size; skip where this process may not."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("external", ["never", "always"])
def test_full_disk_is_an_output_error_and_changes_nothing(tmp_path: Path, external: str) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(chain(), source)
    with small_disk(tmp_path / "disk", "200k") as disk:
        output = disk / "out.onnx"
        onnxq.convert(source, output, bits=2, external_data=external, check=0)
        before = contents(disk)
        with pytest.raises(OutputError) as caught:
            onnxq.convert(source, output, bits=8, external_data=external, check=0, force=True)
        assert caught.value.exit_code == 5
        assert "space" in str(caught.value)
        assert contents(disk) == before
        with pytest.raises(OutputError):
            onnxq.restore(output, disk / "restored.onnx")
        assert contents(disk) == before


@pytest.mark.parametrize("size", [1, 131_000])
def test_file_size_limit_ends_the_command_with_exit_code_5(scene: Scene, size: int) -> None:
    arguments = ["convert", scene.source, scene.output, "--bits", 4, "--no-check", "--force", "-q"]
    external = ["--external-data", scene.external]
    done = child(CLI_WITH_LIMIT.format(size=size), *arguments, *external)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert "out.onnx" in done.stderr
    assert contents(scene.out) == scene.before
    scene.later_run_is_clean()


# The wrong place


def input_is_refused(source: Path, output: Path, **options: object) -> None:
    folder = source.parent
    before = contents(folder)
    with pytest.raises(OutputError):
        onnxq.convert(source, output, bits=4, check=0, **options)
    assert contents(folder) == before


@pytest.mark.parametrize("force", [False, True])
def test_output_that_is_the_input_is_refused(tmp_path: Path, force: bool) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(graphs.matmul_add(), source)
    (tmp_path / "sub").mkdir()
    os.symlink(source, tmp_path / "sub" / "link.onnx")
    os.link(source, tmp_path / "sub" / "hard.onnx")
    os.symlink(tmp_path, tmp_path / "sub" / "folder")
    aliases = ("m.onnx", "sub/../m.onnx", "sub/link.onnx", "sub/hard.onnx", "sub/folder/m.onnx")
    data = source.read_bytes()
    for alias in aliases:
        with pytest.raises(OutputError):
            onnxq.convert(source, tmp_path / alias, bits=4, check=0, force=force)
        with pytest.raises(OutputError):
            onnxq.restore(source, tmp_path / alias, force=force)
        assert source.read_bytes() == data
    # and the other way round: the input is a link to the output
    with pytest.raises(OutputError):
        onnxq.convert(tmp_path / "sub" / "link.onnx", source, bits=4, check=0, force=force)
    assert source.read_bytes() == data


@pytest.mark.parametrize("force", [False, True])
def test_output_that_is_a_data_file_of_the_input_is_refused(tmp_path: Path, force: bool) -> None:
    source = tmp_path / "m.onnx"
    graphs.save_external(chain(), source, 2)
    input_is_refused(source, tmp_path / "w0.bin", force=force)
    input_is_refused(source, tmp_path / "w1.bin", force=force)


def test_data_file_of_an_input_beside_the_output_is_left_alone(tmp_path: Path) -> None:
    """The input's data file has the name that our own data file of that output would match."""
    first = tmp_path / "m.onnx"
    onnx.save(chain(), first)
    onnxq.convert(first, tmp_path / "a.onnx", bits=8, check=0, external_data="always")
    data = [path for path in tmp_path.iterdir() if path.name.startswith("a.onnx.")]
    assert len(data) == 1
    before = data[0].read_bytes()
    # The same data file now belongs to a renamed model as well; a.onnx is replaced by restoring.
    (tmp_path / "a.onnx").rename(tmp_path / "b.onnx")
    onnxq.restore(tmp_path / "b.onnx", tmp_path / "a.onnx")
    feeds = graphs.feeds(chain())
    runs.assert_same(runs.run(tmp_path / "b.onnx", feeds), runs.run(tmp_path / "a.onnx", feeds))
    assert data[0].read_bytes() == before


def test_existing_output_needs_force(tmp_path: Path) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(graphs.matmul_add(), source)
    output.write_text("precious")
    with pytest.raises(OutputError, match="force"):
        onnxq.convert(source, output, bits=4, check=0)
    assert output.read_text() == "precious"
    onnxq.convert(source, output, bits=4, check=0, force=True)
    onnx.checker.check_model(output)
    converted = output.read_bytes()
    plain = tmp_path / "plain.onnx"
    plain.write_text("precious")
    with pytest.raises(OutputError, match="force"):
        onnxq.restore(output, plain)
    assert plain.read_text() == "precious"
    onnxq.restore(output, plain, force=True)
    assert output.read_bytes() == converted


@pytest.mark.parametrize("place", ["none/out.onnx", "file/out.onnx", "folder", "n" * 300])
def test_output_in_a_wrong_place_is_refused(tmp_path: Path, place: str) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(graphs.matmul_add(), source)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for force in (False, True):
        with pytest.raises(OutputError):
            onnxq.convert(source, tmp_path / place, bits=4, check=0, force=force)
    assert sorted(tmp_path.rglob("*")) == before


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(graphs.matmul_add(), source)
    folder = tmp_path / "sealed"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(OutputError):
            onnxq.convert(source, folder / "out.onnx", bits=4, check=0)
    finally:
        folder.chmod(0o755)


def test_folder_that_cannot_be_written_is_refused() -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs a file system that nobody may write to")
    model = ROOT / "models" / "digits.onnx"
    with pytest.raises(OutputError):
        onnxq.convert(model, "/proc/out.onnx", bits=4, check=0)


# Pairs of model and data file


def test_overwriting_a_pair_leaves_no_orphan(tmp_path: Path) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "out" / "c.onnx"
    output.parent.mkdir()
    onnx.save(chain(), source)
    sizes = {}
    for bits in (8, 4, 6, 4):
        report = onnxq.convert(
            source, output, bits=bits, check=0, force=True, external_data="always"
        )
        found = contents(output.parent)
        assert len(found) == 2
        assert all(name.startswith("c.onnx") for name in found)
        total = sum(map(len, found.values()))
        assert report.output.file_bytes == total
        assert sizes.setdefault(bits, total) == total
    onnxq.convert(source, output, bits=4, check=0, force=True, external_data="never")
    assert list(contents(output.parent)) == ["c.onnx"]


def test_data_files_of_two_outputs_do_not_meet(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(chain(), source)
    for name in ("a.onnx", "b.onnx", "a"):
        onnxq.convert(source, tmp_path / name, bits=4, check=0, external_data="always")
    feeds = graphs.feeds(chain())
    first = runs.run(tmp_path / "a.onnx", feeds)
    onnxq.convert(source, tmp_path / "a", bits=8, check=0, external_data="always", force=True)
    for name in ("a.onnx", "b.onnx"):
        runs.assert_same(runs.run(tmp_path / name, feeds), first)


def test_foreign_files_beside_the_output_are_left_alone(tmp_path: Path) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "c.onnx"
    onnx.save(chain(), source)
    foreign = ("c.onnx.data", "c.onnx_data", "c.data", "c.onnx.tmp", "c.onnx.bak", ".c.onnx.swp")
    for name in foreign:
        (tmp_path / name).write_text("precious")
    for _ in range(2):
        onnxq.convert(source, output, bits=4, check=0, force=True, external_data="always")
    for name in foreign:
        assert (tmp_path / name).read_text() == "precious"


def test_output_has_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "c.onnx"
    onnx.save(chain(), source)
    onnxq.convert(source, output, bits=4, check=0, external_data="always")
    expected = (tmp_path / "plain").touch() or (tmp_path / "plain").stat().st_mode
    for path in tmp_path.glob("c.onnx*"):
        assert path.stat().st_mode == expected


def test_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in" / "m.onnx"
    source.parent.mkdir()
    graphs.save_external(chain(), source, 1)
    data = source.parent / "w0.bin"
    data.write_bytes(data.read_bytes()[:-5000])
    for external in ("never", "always", "auto"):
        with pytest.raises(onnxq.errors.InputError):
            onnxq.convert(source, tmp_path / "c.onnx", bits=4, check=0, external_data=external)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
