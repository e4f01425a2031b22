"""The hot path's connections of a process: one to publish, one to consume.

Two, because a publisher that the broker holds back (an alarm) must not hold back acknowledgements.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from maniple.service.names import RECONNECTS
from maniple.service.runner import Runtime
from maniple.topology import Queue
from maniple.transport import Connection, Consumer, Link, Publisher, declare, declare_topology

START_TIMEOUT = 30.0


class HotPath:
    """A publishing link and a consuming link, with what lives on them.

    Enter `publishing` first (it declares the topology) and leave it last, so that what was consumed
    can be published. Both raise `BrokerUnavailable` when they do not open within 30 s.
    """

    def __init__(self, runtime: Runtime, queues: tuple[Queue, ...] = ()) -> None:
        """Describe the links; `queues` are declared besides those that all processes share."""
        self._queues = queues
        self._runtime = runtime
        settings = runtime.settings
        self.outlet = Link(
            settings.broker_url,
            name=runtime.connection_name("publish"),
            prepare=self._declare,
            on_state=lambda up: self._changed("publish", up=up),
        )
        self.intake = Link(
            settings.broker_url,
            name=runtime.connection_name("consume"),
            prepare=self._declare,  # a queue that was deleted is there again before it is consumed
            on_state=lambda up: self._changed("consume", up=up),
        )
        self.publisher = Publisher(self.outlet)
        self._consumers: list[Consumer] = []
        self._was_up: set[str] = set()

    @property
    def connections(self) -> tuple[str, ...]:
        """Names of the connections, as the broker shows them."""
        return (self.outlet.name, self.intake.name)

    def consume(self, consumer: Consumer) -> None:
        """Have a consumer started with the links."""
        self._consumers.append(consumer)
        self.intake.add(consumer)

    def reconnect(self) -> None:
        """Build both connections anew."""
        self.outlet.suspect()
        self.intake.suspect()

    async def pause(self) -> None:
        """Take nothing more."""
        await asyncio.gather(*(consumer.pause() for consumer in self._consumers))

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Declare the topology and keep the publishing link open."""
        await self.outlet.start(START_TIMEOUT)
        try:
            yield
        finally:
            await self.outlet.close()

    @asynccontextmanager
    async def consuming(self) -> AsyncIterator[None]:
        """Keep the consuming link open; acknowledgements that wait are sent before it closes."""
        await self.intake.start(START_TIMEOUT)
        try:
            yield
        finally:
            for consumer in self._consumers:
                await consumer.flush()
            await self.intake.close()

    async def _declare(self, connection: Connection) -> None:
        await declare_topology(connection)
        await declare(connection, queues=self._queues)

    def _changed(self, link: str, *, up: bool) -> None:
        if up and link in self._was_up:
            self._runtime.metrics.counter(RECONNECTS, link).inc()
        if up:
            self._was_up.add(link)
        self._runtime.health.set(
            f"broker.{link}", ok=up, detail="" if up else "not connected", required=True
        )
