"""Telling a dead connection from one that is only quiet, or blocked by a broker alarm.

A peer that vanishes silently (a cut cable, a frozen proxy, a lost NAT entry) closes nothing. But
the broker sends heartbeats, also to a connection that it blocks or is too busy to read from: two in
the seconds of one `Amqp.heartbeat`, or one if something else has just been sent.
"""

from maniple.amqp.wire.interface import Wire
from maniple.timings import Amqp


class Liveness:
    """Judges one connection; `tick` is to be called every `Amqp.tick` seconds.

    `blocked` tells whether a broker alarm (memory, disk) holds back what this process publishes.
    """

    def __init__(self, wire: Wire, times: Amqp) -> None:
        """Judge an open connection."""
        self._wire = wire
        self._most = times.ticks(times.silent)
        self._heard = -1
        self._quiet = 0
        self.blocked = False

    async def tick(self) -> bool:
        """Check the connection; return whether the broker still answers."""
        self.blocked = await self._wire.is_blocked()
        self._quiet = 0 if self._wire.heard != self._heard else self._quiet + 1
        self._heard = self._wire.heard
        return self._quiet < self._most
