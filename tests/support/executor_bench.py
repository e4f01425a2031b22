"""Jobs for executors, and what executors report of them."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pytest
from msgspec import Raw

import executor_handlers
from maniple.codec import decode_value, encode
from maniple.errors import ErrorCode
from maniple.execution import Outcome
from maniple.messages import Envelope, Failure
from maniple.task_registry import TaskRegistry
from maniple_agent.executors import Executor, ProcessExecutor, loop_watch
from maniple_agent.fair_queue import FairShare
from maniple_agent.jobs import Bundle, Job
from needs import PROC, need
from waiting import wait_until

REGISTRY = TaskRegistry()
REGISTRY.collect(executor_handlers)
GIGABYTE = 1024**3
LONG = 3600.0
TOLD_WITHIN = 20.0  # a worker process imports the agent before it runs anything
NO_BUNDLE = cast("Bundle", None)  # executors settle nothing


class Told:
    """The reports of an executor."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.seconds: dict[str, float] = {}
        self.values: list[Any] = []
        self.reports: Counter[str] = Counter()
        self.freed = 0
        self.back: list[Job] = []
        self.raises: set[str] = set()

    def outcome(self, job: Job, outcome: Outcome, seconds: float) -> None:
        if job.envelope.id in self.raises:
            raise LookupError("a report that raises")
        assert job.envelope.id not in self.outcomes, "told twice"
        self.outcomes[job.envelope.id] = outcome
        self.seconds[job.envelope.id] = seconds

    def returned(self, jobs: Sequence[Job]) -> None:
        self.back += jobs

    def slots_free(self) -> None:
        self.freed += 1

    def progress(self, job: Job, value: Raw) -> None:
        self.values.append(decode_value(value))
        self.reports[job.envelope.id] += 1

    async def of(self, name: str) -> Outcome:
        await wait_until(lambda: name in self.outcomes, TOLD_WITHIN)
        return self.outcomes[name]

    async def failure(self, name: str) -> Failure:
        failure = (await self.of(name)).failure
        assert failure is not None
        return failure

    async def code(self, name: str) -> ErrorCode:
        return (await self.failure(name)).code


class Gate:
    """Something for a handler to wait at until the test opens it, in any process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def open(self) -> None:
        self._path.touch()


def now() -> datetime:
    return datetime.now(UTC)


def workers(
    told: Told,
    count: int = 1,
    *,
    known: Callable[[], datetime] = now,
    cgroups_at: Path | None = None,
) -> ProcessExecutor:
    return ProcessExecutor(
        count,
        "agent-1",
        told,
        handlers=[executor_handlers.__file__],
        memory=4 * GIGABYTE,
        known=known,
        clock=monotonic,
        cgroups_at=cgroups_at,
    )


def job(
    name: str,
    capability: str,
    payload: Any = None,
    timeout: float = 120.0,
    *,
    expires_in: float = 300.0,
) -> Job:
    submitted_at = now()
    envelope = Envelope(
        id=name,
        capability=capability,
        lane=capability,
        payload=Raw(encode(payload)),
        submitted_at=submitted_at,
        deadline=submitted_at + timedelta(seconds=expires_in),
    )
    definition = REGISTRY.get(capability)
    assert definition is not None
    made = Job(envelope, definition, NO_BUNDLE, suspect=False, share=FairShare(1.0))
    made.timeout = timeout
    return made


class Grace:
    """How long a loop's executor tolerates a handler beyond its timeout: for ever, until over.

    A handler that is ended before it has started would not be one that does not end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._patch.setattr(loop_watch, "GRACE", math.inf)
        self._patch.setattr(loop_watch, "WATCH_PERIOD", 0.02)

    def is_over(self) -> None:
        self._patch.setattr(loop_watch, "GRACE", 0.0)


@contextmanager
def timers_held() -> Iterator[Sequence[tuple[float, Callable[[], object]]]]:
    """Yield the timers of the block, with their seconds: the test decides when they fire."""
    loop, held = asyncio.get_running_loop(), []
    real = loop.call_later

    def hold(seconds: float, call: Callable[..., object], *arguments: object) -> Any:
        held.append((seconds, partial(call, *arguments)))
        return real(LONG, lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "call_later", hold)
        yield held


@asynccontextmanager
async def started(executor: Executor) -> AsyncIterator[Executor]:
    await executor.start(lambda work, name: asyncio.create_task(work, name=name))
    try:
        yield executor
    finally:
        await executor.stop()


def runs(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    need(PROC)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter while it is being reaped
        return False
