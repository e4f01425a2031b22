"""Deaths that hide behind children: of a worker whose own child lives on, and of an agent."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ending import launched
from executor_bench import TOLD_WITHIN, Told, job, runs, started, workers
from maniple.errors import ErrorCode
from paths import PYTHONPATH
from waiting import wait_until


@contextmanager
def ending(pids: list[int]) -> Iterator[None]:
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("in_c", [False, True], ids=["in Python", "in C"])
@pytest.mark.parametrize("apart", [False, True], ids=["in its group", "in a group of its own"])
async def test_a_worker_that_ended_is_missed_though_its_child_lives(
    *, in_c: bool, apart: bool
) -> None:
    told = Told()
    with ending(told.values):
        async with started(workers(told)) as executor:
            executor.run([job("it", "x.exit_with_child", {"in_c": in_c, "apart": apart})])
            failure = await told.failure("it")
            assert failure.code is ErrorCode.HANDLER_CRASHED
            assert "exit code 3" in failure.message
            (child,) = told.values
            if apart:
                assert runs(child)  # else this would show nothing
            else:
                await wait_until(lambda: not runs(child))
            executor.run([job("next", "x.pid")])
            assert (await told.of("next")).failure is None


async def test_what_a_worker_said_before_it_ended_is_heard() -> None:
    told = Told()
    async with started(workers(told)) as executor:
        executor.run([job("it", "x.exit_with_child", {"in_c": False, "apart": False})])
        await told.of("it")
        assert len(told.values) == 1


async def test_what_a_handler_starts_in_a_worker_can_be_terminated() -> None:
    told = Told()
    async with started(workers(told)) as executor:
        executor.run([job("it", "x.terminates")])
        assert (await told.of("it")).output == str(-signal.SIGTERM).encode()


OWNER = """
import asyncio, sys
from time import monotonic
sys.path[:0] = {path!r}
from executor_bench import TOLD_WITHIN, Told, job, started, workers
from maniple_agent.executors import ThreadExecutor
from waiting import wait_until
async def main():
    told = Told()
    plain = ThreadExecutor(1, "a", told, clock=monotonic)
    async with started(workers(told)) as it, started(plain) as threads:
        it.run([job("worker", "x.pid")])
        worker = int((await told.of("worker")).output)
        it.run([job("in C", "x.in_c")])
        await wait_until(lambda: told.values, TOLD_WITHIN)
        threads.run([job("child", "x.forks")])
        child = int((await told.of("child")).output)
        print(child, worker, *told.values, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_workers_in_c_code_end_with_their_agent_though_a_child_of_that_lives_on() -> None:
    program = OWNER.format(path=PYTHONPATH.split(os.pathsep))
    async with launched(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE) as owner:
        assert owner.stdout is not None
        child, *theirs = map(int, (await owner.stdout.readline()).split())
        with ending([child]):
            assert len(theirs) == 2
            assert all(map(runs, theirs))
            owner.kill()
            await wait_until(lambda: not any(map(runs, theirs)))
            assert runs(child)  # else this would show nothing


async def test_a_worker_whose_agent_had_ended_before_it_began_ends() -> None:
    read, write = os.pipe()
    other = os.getppid()  # who has not started it
    try:
        async with launched(
            sys.executable,
            "-m",
            "maniple_agent.executors.worker",
            str(read),  # for its socket, which it is not to come to
            str(read),
            str(other),
            pass_fds=(read,),
            start_new_session=True,
        ) as worker:
            async with asyncio.timeout(3 * TOLD_WITHIN):
                await worker.wait()
            assert worker.returncode == -signal.SIGKILL
    finally:
        os.close(read)
        os.close(write)
