"""What of a wait is the machine's: how long a message of nobody's takes on the cluster's own way.

It goes through the same network, the same broker and a quorum queue of its own, confirmed, twenty
times a second. A task that moves makes two such trips: the broker hands its message to another
agent, which sends it to the lane once more. What these take longer than usual, while it moves, no
agent is to blame for.

How soon everything works again is judged without it: that takes new processes, connections and
heartbeats, and not two trips; and what a trip took then is what the fault itself had held up.
"""

import asyncio
import contextlib
import time
from statistics import median

from maniple.amqp.wire.amqp_errors import AmqpError
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.properties import Properties
from maniple.amqp.wire.requests import Message

QUEUE = "maniple.agent.courier"
PERIOD = 0.05
TRIPS = 2
MOST, SHARE = 1.0, 0.25  # in seconds, and of the bound of a row
PAUSE = 0.5
OPENED_WITHIN = 5.0
GIVEN_UP = 60.0  # nothing else notices here that a broker says nothing any more


class Courier:
    """All trips so far: when each began (Unix time), and how many seconds it took."""

    def __init__(self) -> None:
        self.trips: list[tuple[float, float]] = []

    def held_up(self, since: float, until: float, bound: float) -> float:
        """Return for how long the machine held up a task that moved between these times.

        That is a quarter of the task's bound at most, and never more than a second: what takes
        everybody longer than that may well be our own doing.
        """
        meanwhile = [took for sent, took in self.trips if sent <= until and sent + took >= since]
        if not meanwhile:
            return 0.0
        usual = median(took for _, took in self.trips)
        return min(MOST, SHARE * bound, TRIPS * max(0.0, max(meanwhile) - usual))

    async def run(self, url: str) -> None:
        """Go on until cancelled, over every loss of the connection."""
        while True:
            with contextlib.suppress(AmqpError, OSError, asyncio.CancelledError):
                await self._serve(url)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            await asyncio.sleep(PAUSE)

    async def _serve(self, url: str) -> None:
        connection = Connection(url)
        await connection.open(OPENED_WITHIN)
        try:
            await self._send_on(connection)
        finally:
            await connection.close()

    async def _send_on(self, connection: Connection) -> None:
        channel = await connection.channel(publisher_confirms=True)
        await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        arrived, sent = asyncio.Event(), 0.0

        def take(message: Message) -> None:
            channel.basic_ack(message.tag)
            if message.body == str(sent).encode():  # no other that an earlier connection has left
                arrived.set()

        await channel.basic_consume(QUEUE, take)
        try:
            while True:
                arrived.clear()
                sent = time.time()
                async with asyncio.timeout(GIVEN_UP):
                    await channel.wait_writable()
                    await channel.publish(
                        str(sent).encode(), exchange="", routing_key=QUEUE, properties=Properties()
                    )
                    await arrived.wait()
                self.trips.append((sent, time.time() - sent))
                await asyncio.sleep(PERIOD)
        finally:
            async with asyncio.timeout(OPENED_WITHIN):
                await channel.queue_delete(QUEUE)
