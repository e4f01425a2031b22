"""What a dispatcher keeps in Consul of the limits and breakers that it owns.

So that a limit of one an hour, a breaker that is open, or what waits in queues under a bulkhead,
outlives all dispatchers. Each writes a
key of its own when something has changed, and reads those of all first; without Consul it goes on
without. It writes nothing before it has read, and nothing that it is not the owner of: what it
does not know of is no news.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from time import monotonic

from structlog.typing import FilteringBoundLogger

from maniple.service.catalog import Entry
from maniple.service.consul import CREATE_ONLY, Consul, ConsulRefused, ConsulUnavailable
from maniple_dispatcher.domain import notes
from maniple_dispatcher.domain.breaker import State
from maniple_dispatcher.domain.fleet import Fleet
from maniple_dispatcher.domain.notes import OLD, Notes
from maniple_dispatcher.domain.owned import BREAKER

SLOW = 5.0  # seconds to fill: a bucket that takes longer is worth writing down
PERIOD = 0.5
FRESH = 300  # seconds for which it need not be written again that a bulkhead is in use
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

    async def load(self) -> bool:
        """Take what dispatchers have written down; tells whether Consul could be read."""
        try:
            _, entries = await self._consul.kv_list(self._folder)
            found = {entry: kept for entry in entries if (kept := self._read(entry)) is not None}
            self._restore(found.values())
            await self._forget_old(found)
        except _AWAY as error:
            self._log.info("limits and breakers not read", reason=str(error))
            return False
        return True

    async def keep(self) -> None:
        """Load, then write down what changes, until cancelled.

        A start waits for no Consul: for its first second this dispatcher owns nothing anyway.
        """
        loaded, seen, written = False, (-1, -1), Notes()
        while True:
            loaded = loaded or await self.load()
            await asyncio.sleep(PERIOD)
            peers = self._fleet.peers
            version = self._fleet.owned.version, int(monotonic() // FRESH)
            if not loaded or version == seen or not peers.counts(peers.me):
                continue
            ours = self._ours()
            try:
                if ours == written or await self._write(ours):
                    seen, written = version, ours
            except _AWAY as error:
                self._log.debug("limits and breakers not written", reason=str(error))

    async def _write(self, ours: Notes) -> bool:
        """Write down what is ours beside what was written there before; False if that changed."""
        entry = await self._consul.kv_get(self._key)
        now = time.time()
        before = None if entry is None else self._read(entry)
        value = notes.with_ours(before or Notes(), ours).lasting(now).to_json(now)
        return await self._consul.kv_put(
            self._key, value, cas=entry.index if entry else CREATE_ONLY
        )

    def _ours(self) -> Notes:
        offset = time.time() - monotonic()

        def wall(at: float) -> int:
            return round(at + offset)  # so that it stays the same

        owned, owns = self._fleet.owned, self._fleet.peers.owns
        levels = {key: (*level, wall(at)) for key, level, at in owned.buckets.slow(SLOW, owns)}
        ours = ((lane, b) for lane, b in owned.breakers() if owns(BREAKER + lane))
        breakers = {lane: (b.state.value, b.epoch, wall(b.since)) for lane, b in ours}
        today = wall(monotonic()) // FRESH * FRESH  # so that it stays the same for a while
        rooms = {k: (*room, today) for k, room in owned.bulkheads.lately_in_use(owns)}
        return Notes(levels, breakers, rooms=rooms)

    def _restore(self, found: Iterable[Notes]) -> None:
        now, wall = monotonic(), time.time()
        owned = self._fleet.owned
        kept = notes.latest(found).lasting(wall)
        for key, (level, rate, capacity, at) in kept.levels.items():
            owned.buckets.restore(key, (level, rate, capacity), wall - at, now)
        owned.bulkheads.remember({key: room[:2] for key, room in kept.rooms.items()})
        for lane, (state, epoch, since) in kept.breakers.items():
            owned.restore(lane, State(state), epoch, now - (wall - since))

    async def _forget_old(self, found: Mapping[Entry, Notes]) -> None:
        """Delete what a dispatcher has left behind that has long gone."""
        now = time.time()
        for entry, kept in found.items():
            if now - kept.at > OLD and not kept.lasting(now):
                await self._consul.kv_delete(entry.key, cas=entry.index)

    def _read(self, entry: Entry) -> Notes | None:
        """Read one dispatcher's notes; None if they cannot be read."""
        try:
            return notes.read(entry.value, time.time())
        except (ValueError, RecursionError) as error:
            self._log.warning("unreadable memory", key=entry.key, reason=repr(error))
            return None
