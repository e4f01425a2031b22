"""The hot path's connections of a process: one to publish, one to consume, one for foreign replies.

A publishing connection that the broker blocks (an alarm) must not hold back acknowledgements; and
messages to addresses that outsiders chose must not cost the others their connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from maniple.amqp import (
    AmqpConnection,
    ByteBudget,
    Connection,
    Consumer,
    Delivery,
    FirstPublishes,
    Publisher,
    Subscription,
    SuspectAddresses,
    declare,
    declare_topology,
)
from maniple.topology import QUEUES, Queue
from maniple_runtime.control.plane import BLOCKED
from maniple_runtime.direct_replies import is_direct, node_of
from maniple_runtime.metric_names import (
    HELD_BYTES,
    PUBLISHING_BLOCKED,
    QUEUES_HELD_BACK,
    RECONNECTS,
)
from maniple_runtime.runtime import Runtime

START_TIMEOUT = 30.0
PAUSE_TIMEOUT = 2.0
SETTLE_TIMEOUT = 1.0
POLL = 0.05
LATELY = 60.0
MAX_LOSSES = 3  # of its connection, while one and the same reply was under way


class HotPath:
    """The connections for publishing, consuming and foreign replies, with their endpoints.

    Enter `publishing` first (it declares the topology) and leave it last, so that results of what
    was consumed can be published. Both raise `BrokerUnavailable` when they are not up within 30 s.
    """

    def __init__(self, runtime: Runtime, *, held_bytes: int, staged: bool = False) -> None:
        """Describe the connections; messages of about `held_bytes` are held at a time.

        With `staged`, deliveries beyond that are held back from their handlers; see `ByteBudget`.
        """
        self._runtime = runtime
        runtime.metrics.gauge(PUBLISHING_BLOCKED, "publish")
        self._held = runtime.metrics.gauge(HELD_BYTES)
        self._held_back = runtime.metrics.gauge(QUEUES_HELD_BACK)
        self.budget = ByteBudget(held_bytes, staged=staged, on_look=self._tell_budget)
        settings = runtime.settings
        times = settings.timings.amqp
        self._patience = times.answer
        self.outlet = AmqpConnection(
            settings.broker_url,
            name=runtime.connection_name("publish"),
            prepare=self._declare,
            on_state=lambda up: self._changed("publish", up=up),
            on_blocked=self._on_blocked,
            times=times,
        )
        self.intake = AmqpConnection(
            settings.broker_url,
            name=runtime.connection_name("consume"),
            on_state=lambda up: self._changed("consume", up=up),
            times=times,
            holds=True,
            budget=self.budget,
        )
        self._reply_link = AmqpConnection(
            settings.broker_url,
            name=runtime.connection_name("reply"),
            on_state=lambda up: self._changed("reply", up=up, required=False),
            times=times,
        )
        self.publisher = Publisher(self.outlet, scouts=FirstPublishes())
        self.replier = Publisher(
            self._reply_link,
            max_losses=MAX_LOSSES,
            scouts=FirstPublishes(is_direct),
            suspects=SuspectAddresses(node_of),
        )
        """For messages to addresses that outsiders chose."""
        self._keepers: dict[str, Subscription] = {}
        self._was_up: set[str] = set()
        self._lost_at = self._back_at = 0.0
        self._differing: set[str] = set()

    @property
    def connections(self) -> tuple[str, ...]:
        """Names of the connections, as the broker shows them."""
        return (self.outlet.name, self.intake.name, self._reply_link.name)

    @property
    def up(self) -> bool:
        """Whether the connections that tasks need are up, as far as this process knows."""
        return self.outlet.is_up and self.intake.is_up

    @property
    def outage(self) -> float:
        """Seconds for which nothing could be consumed, if that was in the last minute; else 0.

        Losses within a minute of each other count as one, from the first on.
        """
        return (
            self._back_at - self._lost_at
            if self._runtime.clock.monotonic() - self._back_at < LATELY
            else 0.0
        )

    @property
    def publishes(self) -> bool:
        """Whether the broker accepts publishes, as far as this process knows."""
        return self.outlet.is_up and not self.outlet.blocked

    @property
    def blocked(self) -> bool:
        """Whether a broker alarm (memory, disk) holds back what is published."""
        return self.outlet.blocked

    def consume(
        self,
        queue: Queue,
        handle: Callable[[Delivery], None],
        prefetch: int,
        *,
        on_lost: Callable[[], None] | None = None,
    ) -> Consumer:
        """Declare and consume a queue while the connections are up, and return its consumer.

        `on_lost` is called at once when its channel is lost, and its deliveries with it. A queue
        that does not answer costs no other.
        """
        consumer = Consumer(
            queue.name, handle, prefetch=prefetch, on_lost=on_lost, budget=self.budget
        )

        async def prepare(connection: Connection) -> None:
            self._take_differing(await declare(connection, queues=(queue,)), (queue,))

        on_silent = partial(self._on_silent, queue.name)
        self._keepers[queue.name] = self.intake.consume(consumer, prepare, on_silent)
        return consumer

    def reconnect(self) -> None:
        """Rebuild the connections."""
        for link in (self.outlet, self.intake, self._reply_link):
            link.suspect()

    def stop_consuming(self) -> None:
        """Stop consuming as soon as the queues answer; `resume` undoes it, however soon."""
        for keeper in self._keepers.values():
            keeper.consumer.want(paused=True)

    async def pause(self, limit: float = PAUSE_TIMEOUT) -> None:
        """Stop consuming and wait for that, at most `limit` seconds for a silent queue."""
        self.stop_consuming()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await asyncio.gather(*(one.consumer.pause() for one in self._keepers.values()))

    async def opened(self) -> None:
        """Return when all deliveries have been passed to their handlers, or are lost."""
        consumers = [keeper.consumer for keeper in self._keepers.values()]
        while any(one.waits_unopened for one in consumers):  # noqa: ASYNC110 - told by nobody
            await asyncio.sleep(POLL)

    def resume(self) -> None:
        """Consume again after `stop_consuming` or `pause`, as soon as the queues answer."""
        for keeper in self._keepers.values():
            keeper.consumer.want(paused=False)

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
                    await asyncio.gather(
                        *(keeper.consumer.settle_delivery() for keeper in self._keepers.values())
                    )
            await self.intake.close()

    async def _declare(self, connection: Connection) -> None:
        # At most twice: for the first queue that does not answer, then for all others. Together
        # that is less than a connection has to open.
        found = await declare_topology(connection, self._patience / 2)
        self._take_differing(found, QUEUES)

    def _take_differing(self, found: tuple[str, ...], of: tuple[Queue, ...]) -> None:
        differing = (self._differing - {queue.name for queue in of}) | set(found)
        if differing != self._differing:
            self._differing = differing
            if found:
                self._runtime.log.warning(
                    "queues have other arguments than ours; they are used as they are", queues=found
                )
            self._tell_queues()

    def _on_silent(self, queue: str, silent: bool) -> None:  # noqa: FBT001 - a callback's last
        if silent:
            reason = repr(self._keepers[queue].last_error or "no answer")
            self._runtime.log.warning("a queue is not consumed", queue=queue, reason=reason)
        else:
            self._runtime.log.info("a queue is consumed again", queue=queue)
        self._tell_queues()

    def _tell_queues(self) -> None:
        """Report at `/health` which queues were not declared by us; see `maniple doctor`."""
        silent = {name for name, keeper in self._keepers.items() if keeper.silent}
        wrong = (("made with other arguments", self._differing), ("do not answer", silent))
        detail = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in wrong if names)
        self._runtime.health.set("broker.queues", ok=not detail, detail=detail)

    def _tell_budget(self, budget: ByteBudget) -> None:
        """Report at `/health` whether the byte budget keeps this process from consuming more."""
        self._held.set(budget.held)
        queues = budget.held_back
        self._held_back.set(len(queues))
        detail = ""
        if queues:
            detail = (
                f"{budget.held} bytes of messages are held (MANIPLE_HELD_BYTES: {budget.limit}): "
                f"nothing more is taken from {', '.join(sorted(queues))} until half is settled"
            )
        self._runtime.health.set("broker.bytes", ok=not queues, detail=detail)

    def _on_blocked(self, blocked: bool) -> None:  # noqa: FBT001 - a callback's one argument
        self._runtime.metrics.gauge(PUBLISHING_BLOCKED, "publish").set(blocked)
        detail = BLOCKED if blocked else ""
        self._runtime.health.set("broker.publishing", ok=not blocked, detail=detail)

    def _changed(self, link: str, *, up: bool, required: bool = True) -> None:
        if link == "consume" and not up:
            if not self.outage:
                self._lost_at = self._runtime.clock.monotonic()
            self._back_at = self._runtime.clock.monotonic()
        elif link == "consume" and link in self._was_up:
            self._back_at = self._runtime.clock.monotonic()
        reconnects = self._runtime.metrics.counter(RECONNECTS, link)
        if up and link in self._was_up:
            reconnects.inc()
        if up:
            self._was_up.add(link)
        self._runtime.health.set(
            f"broker.{link}", ok=up, detail="" if up else "not connected", required=required
        )
