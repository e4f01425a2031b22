"""Consuming one queue, with acknowledgements that travel together."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from maniple.amqp.byte_budget import ByteBudget, ByteShare
from maniple.amqp.connection_errors import is_loss
from maniple.amqp.delivery import Delivery, UnsettledDeliveries, raise_error
from maniple.amqp.supervision import CLOSE_TIMEOUT, safely
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel

QUIET = 0.05
APPLY = 0.2

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """What a consumer lives on: a link, or who keeps it on one."""

    def suspect(self) -> None:
        """Hear that something does not answer as it should, or that the queue is gone."""
        ...


class Consumer:
    """Consumes one queue on a channel of its own; `handle` is called with each delivery.

    A delivery that `handle` raises on is rejected, so that it cannot be held for ever.
    """

    def __init__(  # noqa: PLR0913 - what it consumes, and whom it tells
        self,
        queue: str,
        handle: Callable[[Delivery], None],
        *,
        prefetch: int,
        owner: Owner | None = None,
        arguments: dict[str, Any] | None = None,
        on_lost: Callable[[], None] | None = None,
        budget: ByteBudget | None = None,
        steady: bool = False,
    ) -> None:
        """Describe the consumer; `AmqpConnection.consume` puts it to work, and owns it.

        `on_lost` is called whenever its channel is gone, and with it what it delivered. A `budget`
        holds it back besides `pause`, and neither undoes the other; it only counts what a `steady`
        one holds.
        """
        self.owner = owner
        self._on_lost = on_lost
        self.queue = queue
        self.prefetch = prefetch
        self._arguments = arguments
        self._consumer_tag = ""
        self._in_force: int | None = None  # the prefetch that the broker knows, while we consume
        self._fitting = asyncio.Lock()
        self._refitting: asyncio.Task[None] | None = None
        self.waits = False
        """Whether the broker has not answered yet what it was asked for last."""
        self._paused = False
        self._stale = False
        self._budget = budget
        self._deliveries = UnsettledDeliveries(queue, handle)
        self._share: ByteShare | None = None
        if budget is not None:
            self._share = ByteShare(
                budget,
                queue,
                self._deliveries.hand,
                prefetch=lambda: self.prefetch,
                changed=None if steady else self._refit,
            )
            self._deliveries.count_by(self._share)
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def generation(self) -> int:
        """Counts connections."""
        return self._deliveries.generation

    @property
    def _channel(self) -> Channel | None:
        return self._deliveries.channel

    @property
    def hungry(self) -> bool:
        """Whether it would take more now: it consumes, and has fewer unsettled than it may have.

        One that the broker has not answered yet does not consume, as far as it knows.
        """
        return self.consumes and self.wants_more

    @property
    def wants_more(self) -> bool:
        """Whether it would take more now if its queue answered."""
        wanted = self._wanted
        return wanted is not None and len(self._deliveries.unsettled) < wanted

    @property
    def consumes(self) -> bool:
        """Whether it consumes, or is not to for now, as far as it knows."""
        return self._wanted is None or (self._in_force is not None and not self._stale)

    @property
    def waits_unopened(self) -> bool:
        """Whether it has deliveries that wait for room in its budget."""
        return self._share is not None and self._share.waits

    async def open(self, connection: Connection) -> Channel:
        """Open the channel and consume; of an attempt that is given up nothing stays open."""
        opening = asyncio.ensure_future(connection.channel())
        try:
            channel = await asyncio.shield(opening)
            self._deliveries.use_channel(channel)
            channel.on_cancelled.add(self._suspect)
            await self._fit()
        except BaseException:
            # The broker may have answered in this turn, and would go on to deliver there.
            opening.add_done_callback(self._close_opened)
            raise
        return channel

    def _close_opened(self, opening: asyncio.Future[Channel]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            closing = asyncio.create_task(close_channel(opening.result()))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    @property
    def unsettled(self) -> int:
        """Deliveries that are neither acknowledged nor refused."""
        return len(self._deliveries.unsettled)

    def lost(self) -> None:
        """Abandon the channel and every delivery tag of it."""
        self._deliveries.lost()
        self._in_force = None
        self._stale = False
        self.waits = False
        if self._refitting is not None:
            self._refitting.cancel()
        if self._share is not None:
            self._share.clear()
        if self._on_lost is not None:
            safely(self._on_lost)

    def retire(self) -> None:
        """Have no share of its budget any more: it will not consume again."""
        if self._budget is not None and self._share is not None:
            self._budget.leave(self._share)

    def want(self, *, prefetch: int | None = None, paused: bool | None = None) -> None:
        """Change what is wanted of the broker, which is told soon; nobody waits for its answer.

        `prefetch` is how many unacknowledged messages it may let this consumer have. One that is
        `paused` takes nothing more; what was delivered stays to be settled.
        """
        self.prefetch = self.prefetch if prefetch is None else prefetch
        self._paused = self._paused if paused is None else paused
        self._refit()

    def renew(self) -> None:
        """Consume anew: the broker may have lost the subscription, or its queue not answer."""
        self._stale = self._in_force is not None
        self._refit()

    async def resize(self, prefetch: int) -> None:
        """Change the prefetch, and return when that is in force.

        This and what follows return also when the channel is lost.
        """
        self.want(prefetch=prefetch)
        await self._fitted()

    async def pause(self) -> None:
        """Stop consuming, and return when the broker sends nothing more."""
        self.want(paused=True)
        await self._fitted()

    async def resume(self) -> None:
        """Consume again after `pause`."""
        self.want(paused=False)
        await self._fitted()

    async def flush(self) -> None:
        """Send the acknowledgements that wait."""
        await self._deliveries.flush()

    async def settle_delivery(self) -> None:
        """Stop consuming and have the acknowledgements applied; used before closing.

        A quorum queue takes 32 single ones from a channel at a time. What then waits in the channel
        is forgotten when that closes (3.10), and delivered again. The end of a subscription is
        applied in turn, behind them; if there is none, all that helps is time.
        """
        await self.flush()
        if self._wanted is None:
            await asyncio.sleep(APPLY)
        else:
            await self.pause()

    def _refit(self) -> None:
        # In a task of its own: a request whose caller is cancelled closes the channel.
        if self._channel is not None and (self._refitting is None or self._refitting.done()):
            self._refitting = asyncio.get_running_loop().create_task(self._fit_or_suspect())
            self._refitting.add_done_callback(raise_error)

    async def _fitted(self) -> None:
        if self._refitting is not None and not self._refitting.done():
            await asyncio.wait([self._refitting])

    async def _fit_or_suspect(self) -> None:
        channel = self._channel
        try:
            await self._fit()
        except (Exception, asyncio.CancelledError) as error:
            if not is_loss(error):
                if isinstance(error, asyncio.CancelledError):
                    raise
                _log.exception("%s cannot be consumed as it is to be", self.queue)
            if channel is not None and channel is self._channel:
                self._suspect()

    def _suspect(self) -> None:
        if self.owner is not None:
            self.owner.suspect()

    async def _fit(self) -> None:
        """Bring what the broker does to what is wanted, also when that changes meanwhile."""
        async with self._fitting:
            while (channel := self._channel) is not None and not self._is_fit:
                self.waits = True
                wanted = self._wanted
                if self._in_force is None and wanted is not None:
                    await self._consume(channel, wanted)
                else:
                    await self._cancel(channel)
            self.waits = False

    @property
    def _is_fit(self) -> bool:
        return self._in_force == self._wanted and not self._stale

    async def _cancel(self, channel: Channel) -> None:
        # What is under way to a consumer that is cancelled comes back as redelivered, as if we had
        # died with it (rabbitmq-server 3746); while nothing is acknowledged, nothing new sets out.
        async with self._deliveries.flushing:
            await asyncio.sleep(QUIET)
            if channel is self._channel:
                self._in_force, self._stale = None, False
                await channel.basic_cancel(self._consumer_tag)

    @property
    def _wanted(self) -> int | None:
        """The prefetch to consume with; None while it is not to consume."""
        share = self._share
        if self._paused or (share is not None and share.held_back):
            return None
        return self.prefetch if share is None else share.prefetch

    async def _consume(self, channel: Channel, prefetch: int) -> None:
        taker = self._deliveries.taker()
        await channel.basic_qos(prefetch_count=prefetch)
        tag = await channel.basic_consume(self.queue, taker, arguments=self._arguments)
        if channel is self._channel:
            self._consumer_tag = tag
            self._in_force = prefetch


async def close_channel(channel: Channel) -> None:
    """Close a channel; what the broker does not answer is not waited for."""
    with contextlib.suppress(Exception, asyncio.CancelledError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await channel.close()
