"""Publishing with confirms."""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from maniple.amqp.connection import AmqpConnection
from maniple.amqp.connection_errors import LOST, is_loss
from maniple.amqp.first_publish import FirstPublishes, Place
from maniple.amqp.outgoing import Outgoing, post_outgoing, refused, send_outgoing
from maniple.amqp.refusal import check_published, end_of
from maniple.amqp.supervision import FIRST_BACKOFF
from maniple.amqp.suspect_addresses import LOSS_SECONDS, SHUNNED_SECONDS, SuspectAddresses
from maniple.amqp.wire.amqp_errors import (
    INTERNAL_ERROR,
    ConnectionRefused,
    PublishFailed,
    PublishImpossible,
    PublishReturned,
)
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.errors import BrokerUnavailable

LOST_AFTER = 10  # of `Amqp.confirm`, on a channel that answers


class Publisher:
    """Publishes with confirms on a channel of its own, across reconnections."""

    def __init__(
        self,
        link: AmqpConnection,
        *,
        max_losses: int | None = None,
        scouts: FirstPublishes | None = None,
        suspects: SuspectAddresses | None = None,
        tells_refusals: bool = False,
    ) -> None:
        """Publish on `link`, which must not have been started yet.

        With `scouts` the first message to each place goes over another channel, and so does a
        message to a place where a confirm has been missing for `Amqp.answer` seconds: that queue
        may have no leader, which would stop the channel. Leave it off where either everything or
        nothing is answered.

        A message that is under way at `max_losses` losses of the connection (None: any number)
        fails with `PublishRefused`: it may be the cause. After the first loss it is sent with no
        other suspect message beside it, so that they do not fail because of it. A message that
        `suspects` take for the cause fails at once if the broker said so, and its losses count
        against no other message.

        With `tells_refusals` a message for which the broker closes the channel (its user lacks the
        right, or it is too large) raises `BrokerRefused`. Otherwise it is sent again until an
        operator has mended that.
        """
        self._link = link
        self._max_losses = max_losses
        self._scouts = scouts
        self._suspects = suspects
        self._blamed: Channel | None = None
        """The channel on which a suspect is under way, or was when the channel was lost."""
        self._broken: Channel | None = None
        """The last channel that the broker closed for an error of its own."""
        self._lost_ones = asyncio.Lock()
        self._tells_refusals = tells_refusals
        self._channel: Channel | None = None
        self._ticks = 0
        self._sent = 0
        # In order of sending: the tick in which each was, and whither.
        self._unconfirmed: dict[int, tuple[int, Place]] = {}
        self._answered = 0  # the tick in which was sent what has been answered
        self._asking: asyncio.Task[None] | None = None
        self._asked = 0
        link.add_endpoint(self, self.overdue)

    async def open(self, connection: Connection) -> Channel:
        """Open the channel with confirms on."""
        channel = await connection.channel(publisher_confirms=True)
        self._channel = channel
        self._answered = self._ticks
        if self._scouts is not None:
            self._scouts.use_connection(connection)
        return channel

    def lost(self) -> None:
        """Forget the channel; waiting publishes are sent again on the next one."""
        self._channel = None
        if self._scouts is not None:
            self._scouts.lost()
        if self._suspects is not None:
            self._suspects.record_loss()
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def overdue(self) -> bool:
        """Tell whether the channel no longer answers; called at each tick.

        A confirm that is missing for `Amqp.confirm` seconds may be the fault of one queue: while
        later messages are confirmed, or the channel answers a request within `Amqp.answer` seconds,
        the other publishes go on. After ten times as long the confirm may have been lost, and the
        message is sent again all the same.

        It is not called at ticks at which a broker alarm holds back publishes: these do not count.
        """
        self._ticks += 1
        if self._suspects is not None:
            self._suspects.set_time(self._ticks)
        oldest, _ = next(iter(self._unconfirmed.values()), (self._ticks, None))
        times = self._link.times
        most = times.ticks(times.confirm)
        self._tell_scouts(times.ticks(times.answer), LOST_AFTER * most)
        if self._ticks - oldest <= most or self._ticks - self._answered <= most:
            return self._ticks - oldest > LOST_AFTER * most
        if self._asking is None:
            self._asked = self._ticks
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        return self._ticks - self._asked > times.ticks(times.answer)

    def _tell_scouts(self, patience: int, lost_after: int) -> None:
        if self._scouts is None:
            return
        self._scouts.tick(lost_after)
        for sent_at, place in self._unconfirmed.values():
            if self._ticks - sent_at <= patience:
                break
            self._scouts.forget_address(place)

    async def _ask(self) -> None:
        """Send a request on the channel whose answer needs no queue."""
        channel, asked = self._channel, self._ticks
        try:
            if channel is not None:
                await channel.basic_qos(prefetch_count=0)
                self._answered = max(self._answered, asked)
        except (Exception, asyncio.CancelledError) as error:
            if not is_loss(error):
                raise
        finally:
            self._asking = None

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        """Publish and return when the broker has confirmed.

        After a lost connection the message is sent again, under the same id, unless it is `once`.
        Raises `PublishRefused` when a queue refuses it or nothing is bound, `BrokerUnavailable`
        after `timeout` seconds (None: never) or when the connection is closed, `BrokerRefused` as
        described above.
        """
        if timeout is None:
            await self._publish(message)
            return
        try:
            async with asyncio.timeout(timeout):
                await self._publish(message)
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"RabbitMQ did not confirm a message to {message.exchange}/{message.routing_key} "
                f"within {timeout:g} s: {self._reason}"
            ) from error

    @property
    def _reason(self) -> BaseException | str:
        if self._link.blocked:
            return "it holds back publishers (memory or disk alarm)"
        return self._link.last_error or "no answer"

    def start(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish, and return a future that ends as `publish` without a `timeout` would.

        What nothing stands in the way of goes out in this turn, and no task is made for it. One
        that is cancelled is not sent again; it may arrive nevertheless.
        """
        loop, channel, place = asyncio.get_running_loop(), self._channel, message.place
        if channel is None or not self._may_follow(channel, place):
            return loop.create_task(self._publish(message))
        try:
            confirm = post_outgoing(channel, message, message.properties())
        except (PublishImpossible, *LOST):
            return loop.create_task(self._publish(message))  # which finds out what that means
        number = self._count_sent(place)
        started: asyncio.Future[None] = loop.create_future()
        confirm.add_done_callback(partial(self._confirmed, started, message, channel, number))
        return started

    def _count_sent(self, place: Place) -> int:
        """Record that a message goes out now, and return the number under which it is kept."""
        self._sent = number = self._sent + 1
        self._unconfirmed[number] = self._ticks, place
        return number

    def _may_follow(self, channel: Channel, place: Place) -> bool:
        """Tell whether a message to a place may go out at once, beside all others."""
        return (
            channel.writable
            and self._link.is_up
            and (self._scouts is None or self._scouts.knows(place))
            and self.trusts(place[1])
            and not self.shuns(place[1])
        )

    def _confirmed(
        self,
        started: asyncio.Future[None],
        message: Outgoing,
        channel: Channel,
        number: int,
        confirm: asyncio.Future[None],
    ) -> None:
        """Take the answer to what was started, or go on after a loss as `_publish` does."""
        sent_at, _ = self._unconfirmed.pop(number)
        error = confirm.exception()
        if error is None or isinstance(error, PublishFailed):
            self._hear(message, channel, sent_at, error)
        if started.done():
            return
        if error is None:
            started.set_result(None)
        elif isinstance(error, PublishFailed):
            started.set_exception(refused(message, error))
        else:
            again = self._publish_again(message, channel, error)
            _follow(started, asyncio.get_running_loop().create_task(again))

    async def _publish_again(
        self, message: Outgoing, channel: Channel, error: BaseException
    ) -> None:
        await self._after_loss(message, channel, error)
        if message.once:
            raise _never_confirmed()
        await self._publish(message, lost_on=channel)

    async def _publish(self, message: Outgoing, lost_on: Channel | None = None) -> None:
        begun = self._channel
        losses = int(lost_on is not None and self._blamed is not lost_on)
        while losses != self._max_losses and not self.shuns(message.routing_key):
            suspected = not self.trusts(message.routing_key)
            async with self._turn(message, losses, suspected=suspected):
                if self.shuns(message.routing_key):
                    break
                # It may have been cleared of that meanwhile.
                suspected = suspected and not self.trusts(message.routing_key)
                channel = await self._open_channel(message.place)
                if message.once and channel is not begun:
                    raise BrokerUnavailable("the connection is not the one on which it was begun")
                if suspected:
                    self._blamed = channel
                if await self._is_published(channel, message, repeated=lost_on is not None):
                    return
                if suspected:
                    self._blame(message, channel)
            if message.once:
                raise _never_confirmed()
            if channel is not lost_on:
                lost_on = channel
                losses += suspected or self._blamed is not channel
        raise refused(message)

    def shuns(self, key: str) -> bool:
        """Tell whether publishes there fail for now, because they would cost the connection."""
        return self._suspects is not None and self._suspects.shuns(key, self._ticks)

    def trusts(self, key: str) -> bool:
        """Tell whether publishes there are known not to cost this connection."""
        return self._suspects is None or not self._suspects.suspects(key)

    def _turn(
        self, message: Outgoing, losses: int, *, suspected: bool
    ) -> AbstractAsyncContextManager[None]:
        if suspected and self._suspects is not None:
            return self._suspects.alone(message.routing_key)
        return self._lost_ones if losses and self._max_losses else nullcontext()

    def _blame(self, message: Outgoing, channel: Channel) -> None:
        if self._suspects is not None:
            ticks = self._link.times.ticks
            self._suspects.blame(
                message.routing_key,
                self._ticks,
                shunned=ticks(SHUNNED_SECONDS),
                held=ticks(LOSS_SECONDS),
                sure=self._broken is channel,
            )

    async def _open_channel(self, place: Place) -> Channel:
        """Return the channel, once it is open and no scout to `place` is under way."""
        while True:
            await self._link.wait_up()
            if self._channel is None:
                await asyncio.sleep(0)
            elif (
                (scouts := self._scouts) is None
                or scouts.knows(place)
                or await scouts.is_free(place)
            ):
                return self._channel

    async def _is_published(self, channel: Channel, message: Outgoing, *, repeated: bool) -> bool:
        """Publish once; False if the connection was lost before the confirm."""
        try:
            await self._publish_once(channel, message, repeated=repeated)
        except (PublishFailed, PublishImpossible) as error:
            raise refused(message, error) from error
        except (Exception, asyncio.CancelledError) as error:
            if not is_loss(error):
                raise
            await self._after_loss(message, channel, error)
            return False
        return True

    async def _after_loss(self, message: Outgoing, channel: Channel, error: BaseException) -> None:
        """Have another connection built: only that tells what became of a message."""
        if isinstance(error, ConnectionRefused) and error.code == INTERNAL_ERROR:
            self._broken = channel
        if self._channel is channel:
            self._link.suspect()
            await asyncio.sleep(FIRST_BACKOFF)
        if self._tells_refusals:
            check_published(end_of(channel), *message.place, len(message.body))

    async def _publish_once(self, channel: Channel, message: Outgoing, *, repeated: bool) -> None:
        sent_at, place, scouts = self._ticks, message.place, self._scouts
        number = self._count_sent(place)
        properties = message.properties(repeated=repeated)
        known = scouts is None or scouts.knows(place)
        try:
            if scouts is None or known:
                await send_outgoing(channel, message, properties)
            else:
                await scouts.publish_first(
                    place, lambda scout: send_outgoing(scout, message, properties)
                )
        except PublishFailed as error:
            self._hear(message, channel, sent_at if known else None, error)
            raise
        finally:
            del self._unconfirmed[number]
        self._hear(message, channel, sent_at if known else None)

    def _hear(
        self,
        message: Outgoing,
        channel: Channel,
        sent_at: int | None,
        error: PublishFailed | None = None,
    ) -> None:
        """Record what the broker answers, if only a refusal; with `sent_at` it did on `channel`."""
        if sent_at is not None:
            self._answered = max(self._answered, sent_at)
            if self._scouts is not None:
                if error is None:
                    self._scouts.learn(message.place)
                elif isinstance(error, PublishReturned):
                    self._scouts.forget_address(message.place)
        suspects, key = self._suspects, message.routing_key
        if suspects is not None and self._channel is channel and suspects.suspects(key):
            suspects.record_answer(key)
            if self._blamed is channel:
                self._blamed = None


def _never_confirmed() -> BrokerUnavailable:
    return BrokerUnavailable("the connection was lost before RabbitMQ confirmed")


def _follow(started: asyncio.Future[None], task: asyncio.Task[None]) -> None:
    """Have a future end as a task does, and the task be cancelled with it."""

    def end(task: asyncio.Task[None]) -> None:
        if started.done():
            return
        if task.cancelled():
            started.cancel()
        elif (error := task.exception()) is not None:
            started.set_exception(error)
        else:
            started.set_result(None)

    task.add_done_callback(end)
    started.add_done_callback(lambda ended: ended.cancelled() and task.cancel())
