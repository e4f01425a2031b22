"""Worker processes in cgroups of their own: what bounds them, and what is told of one that ended.

Some on a folder that stands for `/sys/fs/cgroup`, the others on Linux where a cgroup was delegated.
"""

import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from executor_bench import GIGABYTE, Told, job, started, workers
from maniple.codec import decode_value
from maniple.errors import ErrorCode
from maniple_agent.executors import ProcessExecutor, cgroups
from maniple_agent.executors.cgroups import INSTEAD, WORKER, Groups
from needs import CGROUP, need
from waiting import wait_until

MEGABYTE = 1024**2
HALF_A_GIGABYTE = GIGABYTE // 2
LIMIT = 192 * MEGABYTE  # of x.use_memory
UNBOUNDED = resource.getrlimit(resource.RLIMIT_AS)[0]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def in_a_folder(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ProcessExecutor]:
    """One worker whose cgroup is a folder: what is written there shows, and bounds nothing."""
    monkeypatch.setattr(cgroups, "groups_below", Groups)
    async with started(workers(told, cgroups_at=tmp_path)) as executor:
        assert isinstance(executor, ProcessExecutor)
        yield executor


async def _limits(told: Told, executor: ProcessExecutor, name: str = "limits") -> dict[str, Any]:
    executor.run([job(name, "x.limits")])
    limits = decode_value((await told.of(name)).output)
    assert isinstance(limits, dict)
    return limits


def _group(folder: Path, number: int = 1) -> Path:
    return folder / f"{WORKER}{os.getpid()}-{number}"


async def test_a_worker_in_a_cgroup_is_bounded_there_and_its_address_space_is_not(
    told: Told, in_a_folder: ProcessExecutor, tmp_path: Path
) -> None:
    limits = await _limits(told, in_a_folder)
    assert (limits["variable"], limits["address_space"]) == (None, UNBOUNDED)
    group = _group(tmp_path)
    assert (group / "cgroup.procs").read_text() == "0"
    assert (group / "memory.oom.group").read_text() == "1"
    assert (group / "memory.max").read_text() == str(HALF_A_GIGABYTE)
    in_a_folder.run([job("next", "x.pid")])
    await told.of("next")
    assert (group / "memory.max").read_text() == str(4 * GIGABYTE)


async def test_a_worker_without_a_cgroup_has_so_much_address_space(told: Told) -> None:
    async with started(workers(told)) as executor:
        assert isinstance(executor, ProcessExecutor)
        assert (await _limits(told, executor))["address_space"] == HALF_A_GIGABYTE


@pytest.mark.parametrize("name", ["cgroup.procs", "memory.max"])
async def test_a_worker_whose_cgroup_fails_has_so_much_address_space_and_says_so(
    told: Told,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    group = tmp_path / "group"
    (group / name).mkdir(parents=True)  # which cannot be written
    monkeypatch.setattr(Groups, "new", lambda _self: group)
    async with started(workers(told)) as executor:
        assert isinstance(executor, ProcessExecutor)
        for number in "12":
            limits = await _limits(told, executor, number)
            assert limits["address_space"] == HALF_A_GIGABYTE
    said = capfd.readouterr()
    assert (said.out + said.err).count(INSTEAD) == 1


async def test_a_worker_that_went_over_its_limit_ends_its_task_with_that_reason(
    told: Told, in_a_folder: ProcessExecutor, tmp_path: Path
) -> None:
    await wait_until(lambda: in_a_folder.free == 1, 20.0)
    (_group(tmp_path) / "memory.events").write_text("oom 1\noom_kill 2\n")
    in_a_folder.run([job("it", "x.exit", 3), job("next", "x.exit", 3)])
    failure = await told.failure("it")
    assert failure.code is ErrorCode.HANDLER_CRASHED
    assert f"went over its memory limit of {4 * GIGABYTE} bytes" in failure.message
    assert "exit code 3" in (await told.failure("next")).message  # of another worker


@pytest.fixture
async def bounded(told: Told) -> AsyncIterator[ProcessExecutor]:
    """One worker in a cgroup of Linux."""
    need(CGROUP)
    async with started(workers(told, cgroups_at=cgroups.ROOT)) as executor:
        assert isinstance(executor, ProcessExecutor)
        assert executor._groups._folder is not None, "there is a cgroup, and it cannot be used"
        yield executor


def _folder() -> Path:
    return cgroups.delegated(cgroups.ROOT, cgroups.MEMBERSHIP.read_text())


async def test_linux_bounds_a_worker_that_loads_its_handlers_there(
    told: Told, bounded: ProcessExecutor
) -> None:
    limits = await _limits(told, bounded)
    assert limits["address_space"] == UNBOUNDED
    (group,) = _folder().glob(f"{WORKER}{os.getpid()}-*")
    assert limits["loaded_in"].strip().endswith(f"/{group.name}")
    assert (group / "memory.max").read_text().strip() == str(HALF_A_GIGABYTE)


async def test_linux_ends_a_worker_that_goes_over_its_limit_and_not_the_next(
    told: Told, bounded: ProcessExecutor
) -> None:
    bounded.run([job("big", "x.use_memory", 2 * LIMIT)])
    failure = await told.failure("big")
    assert failure.code is ErrorCode.HANDLER_CRASHED
    assert f"went over its memory limit of {LIMIT} bytes" in failure.message
    bounded.run([job("small", "x.use_memory", MEGABYTE)])
    assert (await told.of("small")).output == str(MEGABYTE).encode()


async def test_linux_bounds_a_worker_together_with_what_it_starts(
    told: Told, bounded: ProcessExecutor
) -> None:
    each = LIMIT // 2
    bounded.run([job("one", "x.use_together", {"programs": 1, "each": each})])
    assert (await told.of("one")).output == b"[0]"
    bounded.run([job("three", "x.use_together", {"programs": 3, "each": each})])
    assert "went over its memory limit" in (await told.failure("three")).message


async def test_linux_lets_a_program_reserve_more_than_it_uses(
    told: Told, bounded: ProcessExecutor
) -> None:
    bounded.run([job("it", "x.reserve", 8 * GIGABYTE)])
    assert (await told.of("it")).output == b"0"


async def test_linux_replaces_a_worker_that_kept_more_than_the_next_task_may_have(
    told: Told, bounded: ProcessExecutor
) -> None:
    bounded.run([job("first", "x.keep", 2 * LIMIT), job("next", "x.use_memory", MEGABYTE)])
    assert (await told.of("first")).failure is None
    assert (await told.of("next")).failure is None


async def test_linux_tells_a_worker_that_crashed_from_one_that_went_over_its_limit(
    told: Told, bounded: ProcessExecutor
) -> None:
    bounded.run([job("it", "x.exit", 3)])
    assert "exit code 3" in (await told.failure("it")).message


async def test_cgroups_of_linux_go_with_their_workers(told: Told) -> None:
    need(CGROUP)
    executors = [workers(told, cgroups_at=cgroups.ROOT) for _ in range(2)]
    for executor in executors:  # the second one as an agent that is started again
        async with started(executor):
            await wait_until(lambda: executor.free == 1, 20.0)  # noqa: B023 - called at once
            left = [*_folder().glob(f"{WORKER}{os.getpid()}-*")]
            assert len(left) == 1
            executor.run([job(f"it-{id(executor)}", "x.leave_child")])
            await told.of(f"it-{id(executor)}")
        assert not [*_folder().glob(f"{WORKER}{os.getpid()}-*")]
