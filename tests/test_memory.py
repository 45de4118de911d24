"""The memory that may still be taken, on Linux and where little is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxq import memory


def system(folder: Path, monkeypatch: pytest.MonkeyPatch, *, free_kb: int | None) -> Path:
    """Return the folder of the control groups of a made-up system."""
    monkeypatch.setattr(memory, "_MEMINFO", folder / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUP", folder / "cgroup")
    monkeypatch.setattr(memory, "_GROUPS", folder / "groups")
    if free_kb is not None:
        (folder / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {free_kb} kB\n")
    (folder / "cgroup").write_text("0::/outer/inner\n")
    (folder / "groups" / "outer" / "inner").mkdir(parents=True)
    return folder / "groups"


def limit(group: Path, limit: str, used: int) -> None:
    """Set the limit of a control group."""
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")


def test_this_machine_tells_or_says_nothing() -> None:
    found = memory.available_bytes()
    assert found is None or found >= 0


def test_the_machine_is_the_limit_without_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = system(tmp_path, monkeypatch, free_kb=1000)
    limit(groups / "outer" / "inner", "max", 5)
    assert memory.available_bytes() == 1000 * 1024


def test_the_narrowest_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = system(tmp_path, monkeypatch, free_kb=1000)
    limit(groups / "outer" / "inner", "900", 100)
    limit(groups / "outer", "600", 200)
    assert memory.available_bytes() == 400
    limit(groups / "outer", "600", 700)
    assert memory.available_bytes() == 0


def test_a_group_that_cannot_be_read_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = system(tmp_path, monkeypatch, free_kb=2)
    (groups / "outer" / "memory.max").write_text("600\n")
    assert memory.available_bytes() == 2048


def test_no_system_that_tells_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise ValueError(name)

    system(tmp_path, monkeypatch, free_kb=None)
    monkeypatch.setattr(memory.os, "sysconf", refuse)
    assert memory.available_bytes() is None
