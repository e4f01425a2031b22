"""Jobs for executors, and what these report of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from msgspec import Raw

import executor_handlers
from maniple.codec import decode_value, encode
from maniple.errors import ErrorCode
from maniple.execution import Outcome
from maniple.messages import Envelope
from maniple.tasks import TaskRegistry
from maniple_agent.bundle import Bundle
from maniple_agent.executors import Executor, Job, ProcessExecutor
from needs import PROC, need
from waiting import wait_until

REGISTRY = TaskRegistry()
REGISTRY.collect(executor_handlers)
GIGABYTE = 1024**3
NO_BUNDLE = cast("Bundle", None)  # executors settle nothing


class Told:
    """What an executor reported."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.seconds: dict[str, float] = {}
        self.values: list[Any] = []
        self.freed = 0
        self.raises: set[str] = set()

    def outcome(self, job: Job, outcome: Outcome, seconds: float) -> None:
        if job.envelope.id in self.raises:
            raise LookupError("a report that raises")
        assert job.envelope.id not in self.outcomes, "told twice"
        self.outcomes[job.envelope.id] = outcome
        self.seconds[job.envelope.id] = seconds

    def slots_free(self) -> None:
        self.freed += 1

    def progress(self, _job: Job, value: Raw) -> None:
        self.values.append(decode_value(value))

    async def of(self, name: str, seconds: float = 10.0) -> Outcome:
        await wait_until(lambda: name in self.outcomes, seconds)
        return self.outcomes[name]

    async def code(self, name: str, seconds: float = 10.0) -> ErrorCode:
        failure = (await self.of(name, seconds)).failure
        assert failure is not None
        return failure.code


def workers(told: Told, count: int = 1) -> ProcessExecutor:
    return ProcessExecutor(
        count,
        "agent-1",
        told,
        handlers=[executor_handlers.__file__],
        memory=4 * GIGABYTE,
        clock=lambda: datetime.now(UTC),
    )


def job(
    name: str,
    capability: str,
    payload: Any = None,
    timeout: float = 120.0,
    *,
    expires_in: float = 300.0,
) -> Job:
    now = datetime.now(UTC)
    envelope = Envelope(
        id=name,
        capability=capability,
        lane=capability,
        payload=Raw(encode(payload)),
        submitted_at=now,
        deadline=now + timedelta(seconds=expires_in),
    )
    definition = REGISTRY.get(capability)
    assert definition is not None
    made = Job(envelope, definition, NO_BUNDLE, suspect=False)
    made.timeout = timeout
    return made


@asynccontextmanager
async def started(executor: Executor) -> AsyncIterator[Executor]:
    await executor.start(lambda work, name: asyncio.create_task(work, name=name))
    try:
        yield executor
    finally:
        await executor.stop()


def runs(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    need(PROC)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter while it is being reaped
        return False
