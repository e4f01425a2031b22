"""Cgroups of worker processes: where there are some, what is written in which order, and when not.

A folder stands for `/sys/fs/cgroup`; tests/integration/shared/test_executors_cgroups.py has Linux.
"""

import errno
import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from maniple_agent.executors import cgroups
from maniple_agent.executors.cgroups import (
    AGENTS,
    INSTEAD,
    WORKER,
    Groups,
    NotDelegated,
    delegated,
    groups_below,
    ran_out,
)

HERE = "0::/\n"
ME = str(os.getpid())
NOBODY = 2**22 + 1  # beyond the most that Linux numbers


class Kernel:
    """What is below a folder, as the kernel would show it: written files are kept here only."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.written: list[tuple[str, str]] = []
        self.fails: dict[str, OSError] = {}
        self.started: list[str] = []
        monkeypatch.setattr(cgroups, "_write", self._write)

    def cgroup(self, path: str = "", *processes: str, controllers: str = "cpu memory pids") -> Path:
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.controllers").write_text(f"{controllers}\n")
        (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in processes))
        (folder / "cgroup.subtree_control").write_text("")
        (folder / "cgroup.type").write_text("domain\n")
        return folder

    @property
    def names(self) -> Sequence[str]:
        return [name for name, _ in self.written]

    def _write(self, path: Path, text: str) -> None:
        self.written.append((str(path.relative_to(self.root)), text))
        if error := self.fails.get(path.name):
            raise error
        if path.parent.name == AGENTS:
            procs = path.parent.parent / "cgroup.procs"
            procs.write_text(procs.read_text().replace(f"{text}\n", ""))
        if path.name == "cgroup.subtree_control" and self.started:
            path.with_name("cgroup.procs").write_text(f"{self.started.pop()}\n")
            raise OSError(errno.EBUSY, "busy")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


def _reason(root: Path, membership: str = HERE) -> str:
    with pytest.raises(NotDelegated) as caught:
        delegated(root, membership)
    return str(caught.value)


def test_the_cgroup_of_a_namespace_is_delegated(kernel: Kernel) -> None:
    kernel.cgroup("", ME)
    assert delegated(kernel.root, f"4:memory:/elsewhere\n{HERE}") == kernel.root


def test_the_root_of_the_machine_is_not(kernel: Kernel) -> None:
    (kernel.cgroup("", ME) / "cgroup.type").unlink()
    assert "not delegated" in _reason(kernel.root)


@pytest.mark.parametrize("attribute", ["user.delegate", "trusted.delegate"])
def test_the_cgroup_that_systemd_marks_is_delegated(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, attribute: str
) -> None:
    kernel.cgroup()
    folder = kernel.cgroup("system.slice/agent.service", ME)

    def attributes(path: Path, name: str) -> bytes:
        if (path, name) == (folder, attribute):
            return b"1"
        raise OSError(errno.ENODATA, "none")

    kernel.cgroup("system.slice")
    membership = "0::/system.slice/agent.service\n"
    assert "not delegated" in _reason(kernel.root, membership)
    monkeypatch.setattr(os, "getxattr", attributes)
    assert delegated(kernel.root, membership) == folder


def test_where_what_may_be_written_begins_is_delegated(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.cgroup()
    kernel.cgroup("system.slice")
    folder = kernel.cgroup("system.slice/agent.service", ME)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).is_relative_to(folder))
    assert delegated(kernel.root, "0::/system.slice/agent.service\n") == folder


def test_an_agent_that_another_has_moved_finds_what_was_delegated(kernel: Kernel) -> None:
    kernel.cgroup()
    kernel.cgroup(AGENTS, ME)
    assert delegated(kernel.root, f"0::/{AGENTS}\n") == kernel.root


def test_nothing_is_delegated_without_cgroup_v2(tmp_path: Path) -> None:
    assert "no cgroup v2" in _reason(tmp_path)


@pytest.mark.parametrize("membership", ["", "4:memory:/\n", "0::/../other\n"])
def test_nothing_is_delegated_outside_of_the_namespace(kernel: Kernel, membership: str) -> None:
    kernel.cgroup("", ME)
    assert "outside" in _reason(kernel.root, membership)


def test_nothing_is_delegated_where_the_agent_is_not(kernel: Kernel) -> None:
    kernel.cgroup("", f"1{ME}")
    assert "not in" in _reason(kernel.root)


@pytest.mark.parametrize("name", ["", "cgroup.procs", "cgroup.subtree_control"])
def test_nothing_is_delegated_that_cannot_be_written(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kernel.cgroup("", ME)
    monkeypatch.setattr(os, "access", lambda path, _mode: path != kernel.root / name)
    assert "not writable" in _reason(kernel.root)


def test_nothing_is_delegated_without_the_memory_controller(kernel: Kernel) -> None:
    kernel.cgroup("", ME, controllers="cpu pids")
    assert "no controller" in _reason(kernel.root)


def _below(kernel: Kernel) -> tuple[Groups, list[MutableMapping[str, Any]]]:
    membership = kernel.root / "membership"
    membership.write_text(HERE)
    with capture_logs() as lines:
        groups = groups_below(kernel.root, membership)
    return groups, lines


def test_processes_make_room_before_memory_is_bounded(kernel: Kernel) -> None:
    kernel.cgroup("", "17", "0", ME)
    groups, (line,) = _below(kernel)
    assert kernel.written == [
        (f"{AGENTS}/cgroup.procs", "17"),
        (f"{AGENTS}/cgroup.procs", ME),
        ("cgroup.subtree_control", "+memory"),
    ]
    assert line["log_level"] == "info"
    assert "cgroups" in line["event"]
    assert groups.new() is not None


def test_processes_that_were_started_meanwhile_make_room_too(kernel: Kernel) -> None:
    kernel.cgroup("", ME)
    kernel.started = ["18", "19"]
    groups, _ = _below(kernel)
    assert kernel.names == [f"{AGENTS}/cgroup.procs", "cgroup.subtree_control"] * 3
    assert groups.new() is not None


def test_a_process_that_ends_before_it_is_moved_is_no_failure(kernel: Kernel) -> None:
    kernel.cgroup("", ME)
    kernel.fails = {"cgroup.procs": ProcessLookupError(errno.ESRCH, "gone")}
    groups, _ = _below(kernel)
    assert groups.new() is not None


@pytest.mark.parametrize("name", ["cgroup.procs", "cgroup.subtree_control"])
@pytest.mark.parametrize("number", [errno.EBUSY, errno.EOPNOTSUPP])
def test_what_fails_leaves_the_limit_of_address_space_and_a_line(
    kernel: Kernel, name: str, number: int
) -> None:
    kernel.cgroup("", ME)
    kernel.fails = {name: OSError(number, "it fails")}
    groups, (line,) = _below(kernel)
    assert groups.new() is None
    assert groups.remove_group(None)
    assert (line["event"], line["log_level"]) == (INSTEAD, "info")
    assert "it fails" in line["reason"]


def test_nothing_is_written_where_nothing_is_delegated(kernel: Kernel) -> None:
    (kernel.cgroup("", ME) / "cgroup.type").unlink()
    groups, (line,) = _below(kernel)
    assert (groups.new(), kernel.written, line["event"]) == (None, [], INSTEAD)
    assert not (kernel.root / AGENTS).exists()


def test_no_proc_is_no_cgroup(kernel: Kernel) -> None:
    kernel.cgroup("", ME)
    assert groups_below(kernel.root, kernel.root / "nothing").new() is None


def test_a_worker_ends_with_all_that_it_started(kernel: Kernel) -> None:
    group = Groups(kernel.root).new()
    assert group is not None
    assert kernel.written == [(f"{group.name}/memory.oom.group", "1")]


def test_a_worker_does_not_swap(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def mkdir(path: Path) -> None:
        real(path)
        (path / "memory.swap.max").write_text("max\n")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    group = Groups(kernel.root).new()
    assert group is not None
    assert (f"{group.name}/memory.swap.max", "0") in kernel.written


def test_each_worker_has_its_own(kernel: Kernel) -> None:
    (kernel.root / f"{WORKER}{ME}-2").mkdir()  # of a predecessor with the same number
    groups = Groups(kernel.root)
    made = [groups.new(), groups.new()]
    assert [group and group.name for group in made] == [f"{WORKER}{ME}-1", f"{WORKER}{ME}-3"]


def test_one_that_cannot_be_made_is_told_once(kernel: Kernel) -> None:
    kernel.fails = {"memory.oom.group": OSError(errno.ENOENT, "an old kernel")}
    groups = Groups(kernel.root)
    with capture_logs() as lines:
        assert groups.new() is None
        assert groups.new() is None
    assert [line["event"] for line in lines] == [INSTEAD]
    assert list(kernel.root.iterdir()) == []


def test_one_that_is_not_empty_yet_goes_later(kernel: Kernel) -> None:
    groups = Groups(kernel.root)
    group = groups.new()
    assert group is not None
    process = group / "process"
    process.touch()
    assert not groups.remove_group(group)
    process.unlink()
    assert groups.remove_group(None)
    assert not group.exists()
    assert groups.remove_group(group)  # somebody else may have removed it


def test_those_of_agents_that_ended_go_at_the_start(kernel: Kernel) -> None:
    kernel.cgroup("", ME)
    gone = [f"{WORKER}{NOBODY}-1", f"{WORKER}{ME}-1"]
    stay = [f"{WORKER}{os.getppid()}-1", f"{WORKER}other", "another"]
    for name in (*gone, *stay, f"{WORKER}{NOBODY}-2"):
        (kernel.root / name).mkdir()
    (kernel.root / f"{WORKER}{NOBODY}-2" / "process").touch()
    _below(kernel)
    left = {path.name for path in kernel.root.iterdir() if path.is_dir()}
    assert left == {*stay, f"{WORKER}{NOBODY}-2", AGENTS}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n", True),
        ("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\n", True),
        ("low 0\nhigh 0\nmax 9\noom 0\noom_kill 0\n", False),
        ("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\n", False),  # the machine ran out of memory
        ("", False),
    ],
)
def test_who_went_over_its_own_limit_is_seen(tmp_path: Path, events: str, expected: bool) -> None:
    assert not ran_out(tmp_path)
    (tmp_path / "memory.events").write_text(events)
    assert ran_out(tmp_path) is expected
