"""Agents that come back and fail again while their queues are being emptied."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from maniple.amqp import QueueView
from maniple.clock import SYSTEM_CLOCK
from maniple.messages import Envelope
from maniple_dispatcher.affinity import queue_drainer
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.affinity.queue_drainer import QueueDrainer
from waiting import wait_until
from work_with_fakes import NOW

AGENT, LANES = "agent-1", frozenset({"cart.add"})
TASK = Envelope(
    id="1",
    capability="cart.add",
    lane="cart.add",
    affinity="key",
    submitted_at=NOW,
    deadline=NOW + timedelta(hours=1),
)


class Queue:
    """The queue of an agent; `rebound` is called when its binding is put back."""

    def __init__(self) -> None:
        self.there, self.consumers = True, 2
        self.consumed = 0
        self.quiet, self.lost = 1.0, False
        self.rebound: Callable[[], object] = bool

    async def inspect_queue(self) -> QueueView | None:
        return QueueView(0, self.consumers) if self.there else None

    async def remove_queue(self) -> None:
        self.there = False

    async def bind(self) -> None:
        self.rebound()

    async def consume(self) -> None:
        self.consumed += 1

    async def pause(self) -> None: ...

    async def unbind(self) -> None: ...


class Marks:
    """Notes for which agents the mark was removed, and `removing` each."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.removing: Callable[[], object] = bool

    async def remove_marker(self, agent: str) -> None:
        self.removing()
        self.removed.append(agent)


class DrainerWithFakes:
    """What moves the tasks of an agent, with fakes around it."""

    def __init__(self) -> None:
        self.assignment, self.queue, self.markers = Assignment(), Queue(), Marks()
        runtime: Any = SimpleNamespace(
            spawn=self._spawn, log=structlog.get_logger(), clock=SYSTEM_CLOCK
        )
        nothing: Any = None
        markers: Any = self.markers
        self.moves = QueueDrainer(
            runtime,
            nothing,
            nothing,
            self.assignment,
            markers,
            quiet=0.01,
            clock=lambda: NOW,
            traces=nothing,
        )

    def _spawn(self, work: Coroutine[Any, Any, None], _: str) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    def comes(self, incarnation: str) -> None:
        self.assignment.registered(AGENT, incarnation, LANES)

    def goes(self, incarnation: str) -> None:
        self.assignment.gone(AGENT, incarnation)
        self.moves.begin_draining(AGENT)


@pytest.fixture
def drainer(monkeypatch: pytest.MonkeyPatch) -> DrainerWithFakes:
    made = DrainerWithFakes()

    @asynccontextmanager
    async def leftover(*_: object) -> AsyncIterator[Queue]:
        yield made.queue

    monkeypatch.setattr(queue_drainer, "leftover", leftover)
    monkeypatch.setattr(queue_drainer, "POLL", 0.001)
    monkeypatch.setattr(queue_drainer, "AGAIN", 0.001)
    return made


async def test_an_agent_that_fails_again_while_its_queue_is_bound_is_not_forgotten(
    drainer: DrainerWithFakes,
) -> None:
    def fails_again() -> None:
        drainer.queue.consumers = 1
        drainer.goes("2")

    drainer.queue.rebound = fails_again
    drainer.comes("1")
    drainer.goes("1")
    await asyncio.sleep(0.02)
    assert not drainer.markers.removed
    drainer.comes("2")
    await wait_until(lambda: bool(drainer.markers.removed))
    assert not drainer.queue.there


async def test_an_agent_that_came_back_keeps_its_mark(drainer: DrainerWithFakes) -> None:
    drainer.queue.consumers = 1
    drainer.comes("1")
    drainer.goes("1")
    drainer.comes("2")
    await wait_until(lambda: not drainer.moves._moving)
    assert not drainer.markers.removed


async def test_an_agent_that_is_back_is_given_nothing_while_a_dispatcher_consumes_its_queue(
    drainer: DrainerWithFakes,
) -> None:
    drainer.comes("1")
    assert drainer.assignment.choose(TASK) == AGENT
    drainer.goes("1")
    await wait_until(lambda: drainer.queue.consumed > 0)
    drainer.comes("2")
    await asyncio.sleep(0.02)
    assert drainer.assignment.choose(TASK) is None
    drainer.queue.consumers = 1
    await wait_until(lambda: drainer.assignment.choose(TASK) == AGENT)


async def test_who_hears_at_once_that_it_failed_and_is_back_waits_for_other_dispatchers_too(
    drainer: DrainerWithFakes,
) -> None:
    drainer.comes("1")
    drainer.goes("1")
    drainer.comes("2")  # before the move has begun
    await asyncio.sleep(0.02)
    assert drainer.assignment.choose(TASK) is None
    drainer.queue.consumers = 1
    await wait_until(lambda: drainer.assignment.choose(TASK) == AGENT)
    assert drainer.queue.consumed == 0


async def test_the_queue_of_an_agent_that_was_replaced_is_not_consumed(
    drainer: DrainerWithFakes,
) -> None:
    looked = drainer.queue.inspect_queue

    async def inspect_queue() -> QueueView | None:
        drainer.comes("2")
        return await looked()

    drainer.queue.inspect_queue = inspect_queue  # type: ignore[method-assign]  # it comes back before we begin
    drainer.queue.consumers = 1
    drainer.comes("1")
    drainer.goes("1")
    await wait_until(lambda: not drainer.moves._moving)
    assert drainer.queue.consumed == 0


async def test_a_queue_that_is_made_while_the_mark_is_removed_is_removed_too(
    drainer: DrainerWithFakes,
) -> None:
    def comes_and_fails() -> None:
        drainer.markers.removing = bool
        drainer.queue.there = True
        drainer.comes("2")
        drainer.goes("2")

    drainer.queue.consumers = 1
    drainer.markers.removing = comes_and_fails
    drainer.comes("1")
    drainer.goes("1")
    await wait_until(lambda: len(drainer.markers.removed) == 2)
    assert not drainer.queue.there
