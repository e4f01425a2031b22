"""What a dispatcher keeps in Consul of the limits and breakers that it owns.

So that a limit of one an hour, or a breaker that is open, outlives all dispatchers. Each writes a
key of its own when something has changed, and reads those of all at its start; without Consul it
goes on without.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from time import monotonic
from typing import Any

from structlog.typing import FilteringBoundLogger

from maniple.service.catalog import Entry
from maniple.service.consul import Consul, ConsulRefused, ConsulUnavailable
from maniple_dispatcher.domain.breaker import State
from maniple_dispatcher.domain.fleet import Fleet
from maniple_dispatcher.domain.owned import BREAKER

SLOW = 5.0  # seconds to fill: a bucket that takes longer is worth writing down
PERIOD = 0.5
OLD = 86_400.0  # seconds, the longest period of a limit
_AWAY = (ConsulUnavailable, ConsulRefused)


class Memory:
    """Keeps what `fleet` owns under `prefix`/dispatchers/`instance`."""

    def __init__(
        self,
        consul: Consul,
        prefix: str,
        instance: str,
        *,
        fleet: Fleet,
        log: FilteringBoundLogger,
    ) -> None:
        self._consul = consul
        self._folder = f"{prefix}/dispatchers/"
        self._key = self._folder + instance
        self._fleet = fleet
        self._log = log
        self._written: dict[str, Any] = {}

    async def load(self) -> None:
        """Take what dispatchers have written down; what is known already is left."""
        try:
            _, entries = await self._consul.kv_list(self._folder)
            for entry in entries:
                if time.time() - self._read(entry) > OLD:
                    await self._consul.kv_delete(entry.key)
        except _AWAY as error:
            self._log.info("limits and breakers not read", reason=str(error))

    async def keep(self) -> None:
        """Load, then write down what changes, until cancelled.

        A start waits for no Consul: for its first second this dispatcher owns nothing anyway.
        """
        await self.load()
        seen = -1
        while True:
            await asyncio.sleep(PERIOD)
            if seen == (seen := self._fleet.owned.version):
                continue
            now = dict(self._state())
            if now == self._written:
                continue
            try:
                value = json.dumps({"at": time.time(), **now}).encode()
                await self._consul.kv_put(self._key, value)
                self._written = now
            except _AWAY as error:
                self._log.debug("limits and breakers not written", reason=str(error))

    def _state(self) -> Iterator[tuple[str, Any]]:
        offset = time.time() - monotonic()

        def wall(at: float) -> int:
            return round(at + offset)  # so that it stays the same

        owned, owns = self._fleet.owned, self._fleet.peers.owns
        slow = owned.buckets.slow(SLOW, owns)
        yield "levels", {key: [*level, wall(at)] for key, level, at in slow}
        ours = ((lane, b) for lane, b in owned.breakers() if owns(BREAKER + lane))
        yield "breakers", {lane: [b.state, b.epoch, wall(b.since)] for lane, b in ours}

    def _read(self, entry: Entry) -> float:
        """Take one dispatcher's memory, and return when it was written; 0 if nobody can tell."""
        try:
            kept = json.loads(entry.value)
            now, wall = monotonic(), time.time()
            owned = self._fleet.owned
            for key, (level, rate, capacity, at) in kept["levels"].items():
                owned.buckets.restore(key, (level, rate, capacity), max(0.0, wall - at), now)
            for lane, (state, epoch, since) in kept["breakers"].items():
                owned.restore(lane, State(state), int(epoch), now - max(0.0, wall - since))
            return float(kept["at"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._log.warning("unreadable memory", key=entry.key, reason=repr(error))
            return 0.0
