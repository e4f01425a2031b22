"""Dispatchers that all want to remove the queue of an agent that is gone, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from maniple.amqp import QueueView
from maniple_dispatcher.affinity import queue_drainer
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.affinity.queue_drainer import QueueDrainer
from virtual_time import Process, World, seeds

AGENT, LANES = "agent-1", frozenset({"cart.add"})
QUIET = 10.0
APART = 2 * QUIET  # within which they hear that the agent is gone
REMOVED_WITHIN = APART + 30 * QUIET
NOTHING: Any = None


class Queue:
    """The agent's queue: who consumes it, and whether it is there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.there = True
        self.consumers: set[View] = set()


class View:
    """What one dispatcher has of it; the broker takes its time to answer."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._touched = 0.0
        self.lost = False

    async def _answer(self) -> None:
        await asyncio.sleep(self._queue.world.between(0.001, 0.05))

    @property
    def quiet(self) -> float:
        return self._queue.world.now - self._touched

    async def inspect_queue(self) -> QueueView | None:
        await self._answer()
        return QueueView(0, len(self._queue.consumers)) if self._queue.there else None

    async def consume(self) -> None:
        await self._answer()
        self._touched = self._queue.world.now
        if self._queue.there:
            self._queue.consumers.add(self)
        else:
            self.lost = True

    async def pause(self) -> None:
        await self._answer()
        self._queue.consumers.discard(self)

    async def remove_queue(self) -> None:
        await self._answer()
        self._queue.there = False
        for one in self._queue.consumers:
            one.lost = True

    async def unbind(self) -> None: ...

    bind = unbind


class Marks:
    async def remove_marker(self, agent: str) -> None: ...


def start(world: World, name: str) -> None:
    """Have a dispatcher hear that the agent is gone."""
    process = Process(world, name)

    def spawn(work: Coroutine[Any, Any, None], _: str) -> asyncio.Task[None]:
        return process.create_task(work)

    runtime: Any = SimpleNamespace(spawn=spawn, log=structlog.get_logger(), clock=world.clock)
    marks: Any = Marks()
    assignment = Assignment()
    moves = QueueDrainer(
        runtime, NOTHING, NOTHING, assignment, marks, quiet=QUIET, clock=NOTHING, traces=NOTHING
    )
    assignment.registered(AGENT, "1", LANES)
    assignment.gone(AGENT, "1")
    process.step(lambda: moves.begin_draining(AGENT))


@pytest.mark.parametrize("dispatchers", [1, 2, 5, 10])
@pytest.mark.parametrize("chunk", seeds(20), ids=str)
def test_it_is_removed_however_many_they_are(chunk: range, dispatchers: int) -> None:
    for seed in chunk:
        with World(seed) as world:
            queue = Queue(world)

            @asynccontextmanager
            async def leftover(*_: object, queue: Queue = queue) -> AsyncIterator[View]:
                view = View(queue)
                try:
                    yield view
                finally:
                    queue.consumers.discard(view)

            world.patch.setattr(queue_drainer, "leftover", leftover)
            for number in range(dispatchers):
                world.after(world.between(0.0, APART), lambda n=number: start(world, f"d{n}"))  # type: ignore[misc]
            world.run(REMOVED_WITHIN)
            assert not queue.there
            assert not queue.consumers
