"""What the registry publishes: events until they are confirmed, commands once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from maniple.errors import BrokerUnavailable, PublishRefused
from maniple_runtime.control.messages import Command
from maniple_runtime.events import AgentEvent

WINDOW = 64  # publishes of each kind under way at once
REFUSED_PAUSE = 1.0

M = TypeVar("M")


class OutboxPlane(Protocol):
    """What the outbox needs of `ControlPlane`."""

    async def emit(self, event: AgentEvent) -> None:
        """Publish an event."""

    async def command(self, key: str, command: Command) -> bool:
        """Publish a command."""

    async def wait_connected(self) -> None:
        """Wait for the connection."""


class Outbox:
    """Publishes in the background, in the order of posting; events are repeated until confirmed.

    Events and commands do not wait for each other, nor for one that the broker keeps refusing, so
    that two events of one agent may arrive the wrong way round: consumers go by incarnations, of
    which each state is final for those before it.

    Known weakness: what is not yet published is lost with the process. Another replica, or the next
    life, decides the same from the same silence and publishes it under the same ids.
    """

    def __init__(self, plane: OutboxPlane, log: FilteringBoundLogger) -> None:
        self._plane = plane
        self._log = log
        self._events = _Messages(self._emit, log)
        self._commands = _Messages(self._command, log)

    def post(self, event: AgentEvent) -> None:
        """Queue an event."""
        self._events.enqueue(event)

    def tell(self, key: str, command: Command) -> None:
        """Queue a command for `key` on `maniple.control`."""
        self._commands.enqueue((key, command))

    async def publish_pending(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events.publish_messages())
            group.create_task(self._commands.publish_messages())

    async def _emit(self, event: AgentEvent) -> None:
        while True:
            try:
                return await self._plane.emit(event)
            except BrokerUnavailable:
                await self._plane.wait_connected()
            except PublishRefused as error:
                self._log.warning(
                    "event refused; trying again", event_id=event.id, reason=str(error)
                )
                await asyncio.sleep(REFUSED_PAUSE)

    async def _command(self, message: tuple[str, Command]) -> None:
        key, command = message
        try:
            heard = await self._plane.command(key, command)
        except (BrokerUnavailable, PublishRefused) as error:
            self._log.info("command not sent", key=key, type=command.TYPE, reason=str(error))
            return
        if not heard:
            self._log.debug("no agent receives the command", key=key, type=command.TYPE)


class _Messages(Generic[M]):
    """Messages of one kind, `WINDOW` of them in flight at once; one that fails is dropped."""

    def __init__(self, deliver: Callable[[M], Awaitable[None]], log: FilteringBoundLogger) -> None:
        self._deliver = deliver
        self._log = log
        self._waiting: asyncio.Queue[M] = asyncio.Queue()

    def enqueue(self, message: M) -> None:
        self._waiting.put_nowait(message)

    async def publish_messages(self) -> None:
        gate = asyncio.Semaphore(WINDOW)
        async with asyncio.TaskGroup() as group:
            while True:
                await gate.acquire()
                message = await self._waiting.get()
                publishing = group.create_task(self._guarded(message))
                publishing.add_done_callback(lambda _: gate.release())

    async def _guarded(self, message: M) -> None:
        try:
            await self._deliver(message)
        except Exception:  # noqa: BLE001 - one message that cannot be written must not end the registry
            self._log.exception("not published", message=repr(message)[:200])
