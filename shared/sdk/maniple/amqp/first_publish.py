"""The first publish to a queue goes over a channel that nothing else uses.

RabbitMQ registers a channel with the leader of a quorum queue at the channel's first publish to it,
and does nothing else on that channel until the leader answers. While the queue has no leader,
nothing that is published on the channel is confirmed, to whatever queue; and a queue with 32
unconfirmed messages of a channel stops the whole connection some 400 messages later. Measured on
RabbitMQ 3.10; other channels of the connection keep working.

So before a channel publishes to a place for the first time, or again after a confirm has been
missing for some seconds, a scout is sent: one of the messages to be published, over a channel of
its own. Other messages to the same place wait until the scout is confirmed. An unconfirmed scout
keeps its channel; others get other channels, up to `MOST`. If nobody waits for a scout any more and
its channel answers other requests, its confirm may have been lost, and another scout may be sent.

Only the messages that were waiting follow at once, because a moment later the queue may have lost
its leader; a message that comes later, before the first of those is confirmed, is another scout. So
a place with little traffic is served by scouts alone, which costs no more.

Known weakness: while `MOST` places do not answer, no place that is not known yet is tried until one
of them does.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from maniple.amqp.connection_errors import LOST
from maniple.amqp.wire.amqp_errors import (
    ChannelLost,
    PublishFailed,
    PublishReturned,
)
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel

MOST = 64
KEPT = 4  # channels that wait for the next scout
SPARE = 5  # channels of the connection that are not for scouts
MOST_KNOWN = 8192  # places; their names may be from outside
SOON = 1  # ticks within which a refusal is an answer of the queue

Place = tuple[str, str]
"""Name of an exchange, and a routing key on it."""

Publish = Callable[[Channel], Awaitable[object]]
"""Publishes one message on a channel; raises as `send_outgoing`."""


class _Scout:
    """A scout under way; `back` is set when it is confirmed, or will not be sent."""

    def __init__(self, place: Place, connection: Connection | None) -> None:
        self.place = place
        self.connection = connection
        self.since = 0
        self.waits = True
        """It has no channel yet."""
        self.channel: Channel | None = None
        self.orphaned = False
        """Nobody waits for its confirm."""
        self.sending: asyncio.Task[None] | None = None
        self.asked = False
        """Whether its channel has been asked for an answer that needs no queue."""
        self.back = asyncio.Event()


class FirstPublishes:
    """Which places the channel may publish to, and the scouts to all other places."""

    def __init__(self, queueless: Callable[[str], bool] = lambda _: False) -> None:
        """Start without a connection; keys that are `queueless` need no scout."""
        self._queueless = queueless
        self._known: set[Place] = set()
        self._found: set[Place] = set()  # just now
        self._ticks = 0
        self._connection: Connection | None = None
        self._most = 0
        self._channels = 0
        self._idle: list[Channel] = []
        self._out: dict[Place, _Scout] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    def use_connection(self, connection: Connection) -> None:
        """Send scouts over this connection from now on."""
        self._connection = connection
        self._known, self._found = set(), set()  # an answer may have been told after the loss
        self._most = max(1, min(MOST, connection.channel_max - SPARE))

    def lost(self) -> None:
        """Forget everything that was known of a connection that is lost."""
        self._connection = None
        self._known, self._found, self._idle, self._channels = set(), set(), [], 0
        out, self._out = self._out, {}
        for scout in out.values():
            scout.back.set()
        for task in self._sending:
            task.cancel()

    def tick(self, patience: int) -> None:
        """Count a tick; `patience` is after how many an answer may have been lost."""
        self._ticks += 1
        for scout in self._out.values():
            overdue = not scout.waits and self._ticks - scout.since > patience
            if overdue and scout.orphaned and not scout.asked:
                scout.asked = True
                self._own(asyncio.create_task(self._ask(scout), name=f"ask of {scout.place}"))

    async def _ask(self, scout: _Scout) -> None:
        """Give up a scout whose channel still answers."""
        if scout.channel is not None:
            with contextlib.suppress(*LOST):
                await scout.channel.basic_qos(prefetch_count=0)
                if scout.sending is not None:
                    scout.sending.cancel()

    def knows(self, place: Place) -> bool:
        """Tell whether the channel may publish there."""
        return place in self._known or place in self._found or self._queueless(place[1])

    def learn(self, place: Place) -> None:
        """Record that what was published there on the channel itself was answered."""
        if place not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()  # what is in use is soon found again
            self._known.add(place)

    def forget_address(self, place: Place) -> None:
        """Record that something published there is not answered, or that nothing is there."""
        self._known.discard(place)
        self._found.discard(place)

    async def is_free(self, place: Place) -> bool:
        """Tell whether the caller may publish there or send a scout; if False, ask again.

        It becomes free when the scout under way is confirmed, or the connection is lost.
        """
        scout = self._out.get(place)
        if scout is None or self.knows(place):
            return True
        await scout.back.wait()
        return False

    async def publish_first(self, place: Place, publish: Publish) -> None:
        """Publish a message there as a scout; raises as `publish` does.

        If the caller is cancelled while the scout is under way, the publish continues, and its
        confirm still makes the place known; a scout that was not sent yet is dropped.
        """
        scout = self._out[place] = _Scout(place, self._connection)
        sending = asyncio.create_task(self._send(scout, publish), name=f"scout {place}")
        scout.sending = sending
        sending.add_done_callback(lambda _: self._came_back(scout))  # also of one that never began
        self._own(sending)
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            scout.orphaned = True
            if scout.waits:
                sending.cancel()
            raise

    async def _send(self, scout: _Scout, publish: Publish) -> None:
        channel, sound = None, True
        try:
            scout.channel = channel = await self._channel(scout)
            scout.since = self._ticks
            await publish(channel)
            self._take_answer(scout)
        except PublishReturned:
            raise  # nothing is there, but something may come to be
        except PublishFailed:
            # One that comes late may be for want of a leader; that channel does not try again.
            sound = self._ticks - scout.since <= SOON
            if sound:
                self._take_answer(scout)
            raise
        except asyncio.CancelledError:
            sound = False  # an answer may come yet
            raise
        finally:
            if self._connection is scout.connection:
                self._give_back(channel, sound=sound)

    def _came_back(self, scout: _Scout) -> None:
        if self._out.get(scout.place) is scout:
            del self._out[scout.place]
        scout.back.set()
        # After those that it wakes.
        asyncio.get_running_loop().call_soon(self._found.discard, scout.place)

    def _take_answer(self, scout: _Scout) -> None:
        if self._connection is scout.connection:
            self._found.add(scout.place)

    async def _channel(self, scout: _Scout) -> Channel:
        """Return a channel for a scout, once one is free; `lost` ends the waiting."""
        if scout.connection is None:
            raise ChannelLost("closed")
        while True:
            while self._idle:
                channel = self._idle.pop()
                if not channel.is_closed:
                    scout.waits = False
                    return channel
                self._channels -= 1
            if self._channels < self._most:
                scout.waits = False
                return await self._opened(scout.connection)
            self._freed.clear()
            await self._freed.wait()

    async def _opened(self, connection: Connection) -> Channel:
        self._channels += 1
        try:
            return await connection.channel(publisher_confirms=True)
        except BaseException:
            if self._connection is connection:
                self._channels -= 1
            raise

    def _give_back(self, channel: Channel | None, *, sound: bool) -> None:
        if channel is None:
            return
        if sound and len(self._idle) < KEPT and not channel.is_closed:
            self._idle.append(channel)
        else:
            self._channels -= 1
            self._own(asyncio.create_task(_close(channel), name="close a scout's channel"))
        self._freed.set()

    def _own(self, task: asyncio.Task[None]) -> None:
        self._sending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled():
            task.exception()  # who waits for it has it, if anybody does


async def _close(channel: Channel) -> None:
    with contextlib.suppress(*LOST):
        await channel.close()
