"""For what stands in for `maniple.amqp.Publisher`."""

import asyncio
from abc import abstractmethod

from maniple.amqp import Outgoing


class StartedInTasks:
    """Has `start` for whoever says in `publish` what becomes of a message."""

    @abstractmethod
    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        """Publish a message, or raise what the real one would."""

    def start(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish a message in a task."""
        return asyncio.ensure_future(self.publish(message))
