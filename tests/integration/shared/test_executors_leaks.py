"""What one task leaves behind, the next one does not find."""

import asyncio
import os
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from executor_bench import Told, job, started, workers
from executor_handlers import TENANT
from maniple.codec import decode_value
from maniple_agent.executors import Executor, LoopExecutor, ThreadExecutor
from maniple_runtime.event_loop import new_event_loop
from waiting import wait_until

NOTHING = ["nobody", None]


class Chain(Told):
    """Runs one job after another, each where the executor tells of the one before it."""

    def __init__(self, capability: str, names: list[str]) -> None:
        super().__init__()
        self.left = [job(name, capability, name) for name in names]
        self.executor: Executor
        self.here: list[str] = []

    def begin(self, executor: Executor) -> None:
        self.executor = executor
        executor.run([self.left.pop(0)])

    def slots_free(self) -> None:
        super().slots_free()
        self.here.append(TENANT.get())
        if self.left and self.outcomes and self.executor.free:
            self.executor.run([self.left.pop(0)])

    def progress(self, job: Any, value: Any) -> None:
        super().progress(job, value)
        self.here.append(TENANT.get())


EXECUTORS: dict[str, Callable[[Told], Executor]] = {
    "x.sets": lambda told: LoopExecutor(1, "agent-1", told, new_event_loop, clock=monotonic),
    "x.pool_sets": lambda told: LoopExecutor(1, "agent-1", told, new_event_loop, clock=monotonic),
    "x.thread_sets": lambda told: ThreadExecutor(1, "agent-1", told, clock=monotonic),
    "x.process_sets": workers,
}


@pytest.mark.parametrize("capability", EXECUTORS)
async def test_a_task_finds_nothing_that_another_has_set(capability: str) -> None:
    names = ["one", "two", "three"]
    told = Chain(capability, names)
    async with started(EXECUTORS[capability](told)) as executor:
        await wait_until(lambda: executor.free > 0, 30)
        told.begin(executor)
        await wait_until(lambda: len(told.outcomes) == 3, 30)
    assert [decode_value(told.outcomes[name].output) for name in names] == [NOTHING] * 3
    assert set(told.here) == {"nobody"}


@pytest.fixture
def told_in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    known = [str(Path(one).resolve()) for one in os.environ.get("PYTHONPATH", "").split(":") if one]
    monkeypatch.setenv("PYTHONPATH", ":".join(known))
    monkeypatch.chdir(tmp_path)
    return Told()


async def moved(told: Told, executor: Executor, name: str, folder: str | None) -> Any:
    await wait_until(lambda: executor.free > 0, 30)
    executor.run([job(name, "x.moves", folder)])
    return decode_value((await told.of(name)).output)


async def test_a_worker_is_in_its_folder_again_for_each_task(
    told_in_folder: Told, tmp_path: Path
) -> None:
    async with started(workers(told_in_folder)) as executor:
        seen = [await moved(told_in_folder, executor, str(n), "/") for n in range(3)]
    assert seen == [str(tmp_path)] * 3


async def test_later_workers_start_where_the_agent_did(
    told_in_folder: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(workers(told_in_folder)) as executor:
        assert await moved(told_in_folder, executor, "first", "/") == str(tmp_path)
        os.chdir("/")  # as a handler in a thread may
        monkeypatch.setenv("PYTHONPATH", "nowhere")
        await moved(told_in_folder, executor, "dies", None)
        assert await moved(told_in_folder, executor, "second", "/") == str(tmp_path)


@pytest.mark.parametrize("capability", ["x.sets", "x.thread_sets"])
async def test_a_task_finds_what_was_set_when_handlers_were_loaded(capability: str) -> None:
    async def check() -> None:
        TENANT.set("of all")
        told = Told()
        async with started(EXECUTORS[capability](told)) as executor:
            for name in ("one", "two"):
                await wait_until(lambda: executor.free > 0, 30)
                executor.run([job(name, capability, name)])
                assert decode_value((await told.of(name)).output)[0] == "of all"

    await asyncio.get_running_loop().create_task(check(), context=copy_context())
