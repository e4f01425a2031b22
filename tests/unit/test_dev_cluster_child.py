"""Supervision of one child process."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maniple_cli.dev_cluster.child import Child, ChildSpec, Death, tail_of
from maniple_cli.dev_cluster.errors import ServerMissing
from maniple_cli.dev_cluster.reaper import ProcessReaper
from maniple_runtime.event_loop import new_event_loop
from needs import PS, need
from waiting import wait_until


@pytest.fixture
def reaper() -> Iterator[ProcessReaper]:
    with ProcessReaper() as reaper:
        yield reaper


def spec_of(folder: Path, code: str) -> ChildSpec:
    return ChildSpec("worker", (sys.executable, "-S", "-c", code), folder / "worker.log")


@pytest.mark.parametrize("factory", [new_event_loop, asyncio.new_event_loop])
def test_what_a_child_writes_is_open_to_nobody_else_whatever_loop_starts_it(
    tmp_path: Path, reaper: ProcessReaper, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    written = tmp_path / "written"
    child = Child(spec_of(tmp_path, f"open({str(written)!r}, 'w').close()"), reaper)

    async def end() -> None:
        await child.start_process()
        await wait_until(lambda: child.last_death is not None)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(end())
    assert [path.stat().st_mode & 0o777 for path in (written, child.spec.log)] == [0o600, 0o600]


async def test_a_death_is_told_with_code_and_last_words(
    tmp_path: Path, reaper: ProcessReaper
) -> None:
    deaths: list[Death] = []
    child = Child(
        spec_of(tmp_path, "import sys; sys.exit('out of beans')"), reaper, on_death=deaths.append
    )
    await child.start_process()
    await wait_until(lambda: bool(deaths))
    assert (deaths[0].cause, deaths[0].tail) == ("exit status 1", "out of beans")
    assert deaths[0].is_failure
    assert not child.running


async def test_a_restarted_child_waits_longer_each_time(
    tmp_path: Path, reaper: ProcessReaper
) -> None:
    deaths: list[Death] = []
    child = Child(
        spec_of(tmp_path, "import os; os._exit(1)"), reaper, restart=True, on_death=deaths.append
    )
    await child.start_process()
    await wait_until(lambda: len(deaths) == 3)
    await child.stop(1)
    first, second, third = (death.restart_in or 0.0 for death in deaths)
    assert 0.25 <= first <= 0.5 <= second <= 1.0 <= third <= 2.0


async def test_stopping_is_no_death(tmp_path: Path, reaper: ProcessReaper) -> None:
    deaths: list[Death] = []
    code = "import time; time.sleep(60)"
    child = Child(spec_of(tmp_path, code), reaper, restart=True, on_death=deaths.append)
    await child.start_process()
    await child.stop(5)
    await child.stop(5)
    assert deaths == []
    assert not child.running


def living(group: int) -> list[str]:
    """States of the group's processes; a zombie is dead, whenever its new parent notices."""
    need(PS)
    states = subprocess.run(
        ["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True
    )
    found = [line.split() for line in states.stdout.splitlines()]
    return [stat for pgid, stat in found if int(pgid) == group and not stat.startswith("Z")]


async def test_workers_of_a_dead_child_do_not_outlive_it(
    tmp_path: Path, reaper: ProcessReaper
) -> None:
    code = "import os, time; os.fork() == 0 and time.sleep(60); time.sleep(60)"
    deaths: list[Death] = []
    child = Child(spec_of(tmp_path, code), reaper, on_death=deaths.append)
    await child.start_process()
    await wait_until(lambda: len(living(child.pid)) == 2)
    os.kill(child.pid, signal.SIGKILL)
    await wait_until(lambda: bool(deaths))
    await wait_until(lambda: living(child.pid) == [])


async def test_a_missing_program_is_named(tmp_path: Path, reaper: ProcessReaper) -> None:
    child = Child(ChildSpec("x", ("/nowhere/server",), tmp_path / "x.log"), reaper)
    with pytest.raises(ServerMissing, match="/nowhere/server"):
        await child.start_process()


def test_the_tail_of_a_long_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert tail_of(log, 2) == "line 9998\nline 9999"
