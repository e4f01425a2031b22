"""A cluster in memory, for unit tests of handlers and of programs that submit tasks.

    async def test_words_are_counted():
        async with maniple.testing.cluster(count_words) as client:
            handle = await client.submit("text.count", "a b")
            assert await handle.result() == 2

Nothing waits: a retry follows at once, and a task for a capability without a handler expires at
once with `no_agent`. Messages pass through the real codec and handlers run as in an agent, except
that handlers for processes run in threads. There are no policies, no lost agents, no redelivery;
test those against `maniple dev`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import ModuleType
from typing import Any

from msgspec import Raw

from maniple import codec
from maniple.attempts import Ran, conclude, context_of, expired, result_of, seconds_for
from maniple.client.core import Client
from maniple.client.handle import OutstandingHandles, Ticket
from maniple.clock import SYSTEM_CLOCK, Clock
from maniple.errors import ErrorCode, InvalidMessage
from maniple.execution import Outcome, run_async, run_sync, timed_out
from maniple.loading import load_registry
from maniple.messages import (
    CARRIED,
    DEFAULT_TTL,
    Envelope,
    Failure,
    Progress,
    Result,
    Status,
    Task,
    carried_by,
)
from maniple.task_registry import TaskRegistry
from maniple.tasks import Executor, TaskDefinition
from maniple.values import encode_progress

AGENT = "testing"
SLOTS = 16

__all__ = ["cluster"]


@contextlib.asynccontextmanager
async def cluster(
    *handlers: Callable[..., Any] | ModuleType | str, tenant: str = "default", slots: int = SLOTS
) -> AsyncIterator[Client]:
    """Give a client of a cluster that offers `handlers`: `@task` functions, modules or names.

    At most `slots` handlers run at a time. At the end, handlers that still run are cancelled.
    Raises `ConfigurationError` for something that is no handler.
    """
    registry = TaskRegistry()
    for handler in handlers:
        if isinstance(handler, ModuleType):
            registry.collect(handler)
        elif isinstance(handler, str):
            for definition in load_registry([handler]):
                registry.add(definition.function)
        else:
            registry.add(handler)
    for handler in handlers:
        if isinstance(handler, ModuleType):
            registry.check_module(handler)
    outstanding = OutstandingHandles()
    client = Client(MemoryCarrier(registry, outstanding, slots), outstanding, tenant=tenant)
    try:
        yield client
    finally:
        await client.close()


class MemoryCarrier:
    """Runs tasks in this process instead of sending them to a cluster."""

    def __init__(
        self,
        registry: TaskRegistry,
        outstanding: OutstandingHandles,
        slots: int,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Run the handlers of `registry`, at most `slots` at a time."""
        self.now = clock.now
        self._registry = registry
        self._outstanding = outstanding
        self._slots = asyncio.Semaphore(slots)
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="maniple-testing")
        self._running: set[asyncio.Task[None]] = set()

    def send(self, ticket: Ticket) -> None:
        """Start a task."""
        self._spawn(self._carry(ticket, ticket.body))

    async def close(self) -> None:
        """Cancel what runs. A thread that is still working runs on; its result is dropped."""
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        running = asyncio.get_running_loop().create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _carry(self, ticket: Ticket, body: bytes) -> None:
        try:
            (task,) = codec.decode_submission(body)
        except InvalidMessage as error:
            task = error
        if isinstance(task, InvalidMessage):
            ticket.sent(task)
            return
        ticket.sent(None)
        async with self._slots:
            result = await _Run(self, task).to_its_end()
        self._outstanding.settle_results(codec.decode_results(codec.encode([result])))

    def find(self, capability: str) -> TaskDefinition | None:
        """Return the handler of a capability."""
        return self._registry.get(capability)

    def report(self, progress: Progress) -> None:
        """Give progress to the client, after encoding and decoding it."""
        self._outstanding.report_all(codec.decode_list(codec.encode([progress]), Progress))

    async def in_thread(self, work: Callable[[], Outcome]) -> Outcome:
        """Run plain work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class _Run:
    """One task from its submission to its result."""

    def __init__(self, carrier: MemoryCarrier, task: Task) -> None:
        self._carrier = carrier
        self._loop = asyncio.get_running_loop()
        self._now = carrier.now
        now = carrier.now()
        self._envelope = Envelope(
            id=task.id or "",
            capability=task.capability or "",
            lane=task.capability or "",
            **dict(zip(CARRIED, carried_by(task), strict=True)),
            max_attempts=task.max_attempts,
            timeout=task.timeout,
            traceparent=task.traceparent,
            submitted_at=now,
            dispatched_at=now,
            deadline=task.deadline or now + timedelta(seconds=task.ttl or DEFAULT_TTL),
        )

    async def to_its_end(self) -> Result:
        envelope = self._envelope
        definition = self._carrier.find(envelope.capability)
        if definition is None:
            failure = Failure(
                code=ErrorCode.NO_AGENT, message="no handler here offers the capability"
            )
            return result_of(envelope, Status.EXPIRED, self._never_ran(), failure=failure)
        while True:
            started = self._now()
            timeout = seconds_for(envelope, definition, started)
            if timeout <= 0:
                return expired(envelope, self._never_ran())
            outcome = await self._attempt(definition, envelope, timeout)
            ran = Ran(AGENT, started, self._now(), limit=timeout)
            decision = conclude(envelope, definition, outcome, ran, jitter=lambda: 0.0)
            if isinstance(decision, Result):
                return decision
            envelope = decision.envelope

    async def _attempt(
        self, definition: TaskDefinition, envelope: Envelope, timeout: float
    ) -> Outcome:
        context = context_of(
            envelope, timeout, AGENT, lambda value: self._report(envelope.attempt, value)
        )
        if definition.executor is Executor.ASYNC:
            # In a task of its own, as another attempt would find what this one sets.
            return await self._loop.create_task(run_async(definition, context, envelope.payload))
        work = self._carrier.in_thread(lambda: run_sync(definition, context, envelope.payload))
        try:
            async with asyncio.timeout(timeout):
                return await work
        except TimeoutError:
            return timed_out(timeout)

    def _report(self, attempt: int, value: Any) -> None:
        raw = encode_progress(value)
        progress = Progress(
            id=self._envelope.id,
            capability=self._envelope.capability,
            attempt=attempt,
            value=Raw(raw),
            at=self._now(),
            tenant=self._envelope.tenant,
        )
        with contextlib.suppress(RuntimeError):  # a thread that outlives the test
            self._loop.call_soon_threadsafe(self._carrier.report, progress)

    def _never_ran(self) -> Ran:
        return Ran(AGENT, None, self._now())
