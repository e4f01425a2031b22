"""What the registry has to say: events until they are confirmed, commands once."""

import asyncio
from collections import deque
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from maniple.control import Command, agent_key
from maniple.errors import BrokerUnavailable, PublishRefused
from maniple.events import AgentEvent

WINDOW = 64  # publishes under way at once
REFUSED_PAUSE = 1.0


class Plane(Protocol):
    """What the outbox needs of `ControlPlane`."""

    async def emit(self, event: AgentEvent) -> None:
        """Publish an event."""

    async def command(self, key: str, command: Command) -> bool:
        """Publish a command."""

    async def wait_connected(self) -> None:
        """Wait for the connection."""


class Outbox:
    """Publishes in the background, in order of posting; events are sent until they are taken.

    Known weakness: what is not yet published is lost with the process. Another replica, or the
    next life, decides the same from the same silence and publishes it under the same ids.
    """

    def __init__(self, plane: Plane, log: FilteringBoundLogger) -> None:
        self._plane = plane
        self._log = log
        self._letters: deque[AgentEvent | tuple[str, Command]] = deque()
        self._posted = asyncio.Event()

    def post(self, event: AgentEvent) -> None:
        """Have an event published."""
        self._letters.append(event)
        self._posted.set()

    def tell(self, agent: str, command: Command) -> None:
        """Have a command sent to one agent."""
        self._letters.append((agent_key(agent), command))
        self._posted.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._posted.wait()
            self._posted.clear()
            while self._letters:
                window = [self._letters.popleft() for _ in range(min(WINDOW, len(self._letters)))]
                async with asyncio.TaskGroup() as group:
                    for letter in window:
                        group.create_task(self._deliver(letter))

    async def _deliver(self, letter: AgentEvent | tuple[str, Command]) -> None:
        if isinstance(letter, tuple):
            await self._command(*letter)
        else:
            await self._emit(letter)

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

    async def _command(self, key: str, command: Command) -> None:
        try:
            heard = await self._plane.command(key, command)
        except (BrokerUnavailable, PublishRefused) as error:
            self._log.info("command not sent", key=key, type=command.TYPE, reason=str(error))
            return
        if not heard:
            self._log.debug("nobody hears the command", key=key, type=command.TYPE)
