"""The hot path's connections of a process: one to publish, one to consume, one for foreign replies.

A publisher that the broker holds back (an alarm) must not hold back acknowledgements; and what is
published to addresses that outsiders chose must not cost the others their connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from maniple.service.broker import BLOCKED
from maniple.service.names import PUBLISHING_BLOCKED, RECONNECTS
from maniple.service.runner import Runtime
from maniple.topology import Queue
from maniple.transport import Connection, Consumer, Link, Publisher, declare, declare_topology

START_TIMEOUT = 30.0
SETTLE_TIMEOUT = 1.0
MAX_LOSSES = 3  # of its connection, while one and the same reply was under way


class HotPath:
    """A publishing link, a consuming link and one for foreign replies, with what lives on them.

    Enter `publishing` first (it declares the topology) and leave it last, so that what was consumed
    can be published. Both raise `BrokerUnavailable` when they do not open within 30 s.
    """

    def __init__(self, runtime: Runtime, queues: tuple[Queue, ...] = ()) -> None:
        """Describe the links; `queues` are declared besides those that all processes share."""
        self._queues = queues
        self._runtime = runtime
        runtime.metrics.gauge(PUBLISHING_BLOCKED, "publish")
        settings = runtime.settings
        times = settings.timings.amqp
        self.outlet = Link(
            settings.broker_url,
            name=runtime.connection_name("publish"),
            prepare=self._declare,
            on_state=lambda up: self._changed("publish", up=up),
            on_blocked=self._on_blocked,
            times=times,
        )
        self.intake = Link(
            settings.broker_url,
            name=runtime.connection_name("consume"),
            prepare=self._declare,  # a queue that was deleted is there again before it is consumed
            on_state=lambda up: self._changed("consume", up=up),
            times=times,
            holds=True,
        )
        self._reply_link = Link(
            settings.broker_url,
            name=runtime.connection_name("reply"),
            on_state=lambda up: self._changed("reply", up=up, required=False),
            times=times,
        )
        self.publisher = Publisher(self.outlet)
        self.replier = Publisher(self._reply_link, max_losses=MAX_LOSSES)
        """For what goes to addresses that outsiders chose."""
        self._consumers: list[Consumer] = []
        self._was_up: set[str] = set()
        self._differing: tuple[str, ...] = ()

    @property
    def connections(self) -> tuple[str, ...]:
        """Names of the connections, as the broker shows them."""
        return (self.outlet.name, self.intake.name, self._reply_link.name)

    @property
    def up(self) -> bool:
        """Whether the connections that tasks need stand, as far as this process knows."""
        return self.outlet.is_up and self.intake.is_up

    @property
    def blocked(self) -> bool:
        """Whether an alarm of the broker (memory, disk) holds back what is published."""
        return self.outlet.blocked

    def consume(self, consumer: Consumer) -> None:
        """Have a consumer started with the links."""
        self._consumers.append(consumer)
        self.intake.add(consumer)

    def reconnect(self) -> None:
        """Build the connections anew."""
        for link in (self.outlet, self.intake, self._reply_link):
            link.suspect()

    async def pause(self) -> None:
        """Take nothing more."""
        await asyncio.gather(*(consumer.pause() for consumer in self._consumers))

    async def resume(self) -> None:
        """Take again after `pause`."""
        await asyncio.gather(*(consumer.resume() for consumer in self._consumers))

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Declare the topology and keep the publishing links open."""
        async with AsyncExitStack() as links:
            for link in (self.outlet, self._reply_link):
                await link.start(START_TIMEOUT)
                links.push_async_callback(link.close)
            yield

    @asynccontextmanager
    async def consuming(self) -> AsyncIterator[None]:
        """Keep the consuming link open; acknowledgements are applied before it closes."""
        await self.intake.start(START_TIMEOUT)
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_TIMEOUT):
                    await asyncio.gather(*(consumer.settle() for consumer in self._consumers))
            await self.intake.close()

    async def _declare(self, connection: Connection) -> None:
        differing = await declare_topology(connection)
        differing += await declare(connection, queues=self._queues)
        if differing != self._differing:
            self._differing = differing
            self._tell_differing()

    def _tell_differing(self) -> None:
        """Say which queues were not made by us; what to do about it, `maniple doctor` tells."""
        detail = f"made with other arguments: {', '.join(self._differing)}"
        self._runtime.health.set(
            "broker.queues", ok=not self._differing, detail=detail if self._differing else ""
        )
        if self._differing:
            self._runtime.log.warning("queues are used as they are", queues=self._differing)

    def _on_blocked(self, blocked: bool) -> None:  # noqa: FBT001 - a callback's one argument
        self._runtime.metrics.gauge(PUBLISHING_BLOCKED, "publish").set(blocked)
        detail = BLOCKED if blocked else ""
        self._runtime.health.set("broker.publishing", ok=not blocked, detail=detail)

    def _changed(self, link: str, *, up: bool, required: bool = True) -> None:
        reconnects = self._runtime.metrics.counter(RECONNECTS, link)
        if up and link in self._was_up:
            reconnects.inc()
        if up:
            self._was_up.add(link)
        self._runtime.health.set(
            f"broker.{link}", ok=up, detail="" if up else "not connected", required=required
        )
