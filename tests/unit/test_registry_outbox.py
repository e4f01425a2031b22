"""`maniple_registry.outbox`: what happens to one message holds up no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog

from maniple.errors import PublishRefused
from maniple_registry.outbox import WINDOW, Outbox
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import Announce, Command
from maniple_runtime.events import AgentEvent, AgentFailed
from waiting import wait_until

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


class FakePlane:
    """Refuses events of agents called `refused…`, cannot write keys called `long…`."""

    def __init__(self) -> None:
        self.emitted: list[str] = []
        self.commanded: list[str] = []

    async def emit(self, event: AgentEvent) -> None:
        if event.agent.startswith("refused"):
            raise PublishRefused("maniple.events", event.KEY, unroutable=False)
        if event.agent.startswith("long"):
            raise TypeError("no short string")
        self.emitted.append(event.agent)

    async def command(self, key: str, command: Command) -> bool:
        del command
        if key.startswith("long"):
            raise TypeError("no short string")
        self.commanded.append(key)
        return True

    async def wait_connected(self) -> None: ...


@asynccontextmanager
async def outbox() -> AsyncIterator[tuple[Outbox, FakePlane, asyncio.Task[None]]]:
    plane = FakePlane()
    made = Outbox(plane, structlog.get_logger())
    task = asyncio.create_task(made.publish_pending())
    yield made, plane, task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def failed(agent: str) -> AgentFailed:
    return AgentFailed(at=NOW, agent=AgentId(agent), incarnation=Incarnation("1"))


async def test_events_that_the_broker_keeps_refusing_hold_up_neither_commands_nor_others() -> None:
    async with outbox() as (made, plane, _):
        made.post(failed("refused"))
        made.tell("a1", Announce())
        made.post(failed("a1"))
        await wait_until(lambda: (plane.commanded, plane.emitted) == (["a1"], ["a1"]))
        for number in range(2 * WINDOW):
            made.post(failed(f"refused-{number}"))
        made.tell("a2", Announce())
        await wait_until(lambda: plane.commanded == ["a1", "a2"])


async def test_messages_that_cannot_be_written_are_dropped_and_the_others_go_on() -> None:
    async with outbox() as (made, plane, task):
        made.tell("long", Announce())
        made.post(failed("long"))
        made.tell("a1", Announce())
        made.post(failed("a1"))
        await wait_until(lambda: (plane.commanded, plane.emitted) == (["a1"], ["a1"]))
        assert not task.done()


async def test_messages_go_in_order_of_posting() -> None:
    async with outbox() as (made, plane, _):
        names = [f"a{number}" for number in range(3 * WINDOW)]
        for name in names:
            made.post(failed(name))
        await wait_until(lambda: len(plane.emitted) == len(names))
        assert plane.emitted == names
