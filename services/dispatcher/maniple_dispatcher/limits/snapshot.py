"""What a dispatcher keeps in Consul of the limits and breakers that it owns.

So that a limit of one an hour, a breaker that is open, or what waits in queues under a bulkhead,
outlives all dispatchers. Each writes a key of its own when something has changed, and looks now and
then whether it is still there: Consul may come back without it, or as it was long ago. It reads
those of all first; without Consul it goes on without. It writes nothing before it has read, and
nothing that it is not the owner of: what it does not know of is no news.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from structlog.typing import FilteringBoundLogger

from maniple.clock import Clock
from maniple_dispatcher.limits import snapshot_notes, snapshot_pages
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import BREAKER
from maniple_dispatcher.limits.messages import Room
from maniple_dispatcher.limits.snapshot_notes import OLD, SnapshotNotes
from maniple_dispatcher.limits.snapshot_pages import Written
from maniple_runtime.consul.catalog import CatalogEntry
from maniple_runtime.consul.client import CREATE_ONLY, Consul, ConsulRefused, ConsulUnavailable

PERIOD = 0.5
LOOK = 5.0  # seconds after which what was written is looked for, though nothing has changed
FRESH = 300  # seconds for which it need not be written again that a bulkhead is in use
STOPPING = 2.0  # seconds for which a stop waits that what is known is written
AT_ONCE = 1_000
_AWAY = (ConsulUnavailable, ConsulRefused)


class LimitSnapshot:
    """Keeps what is owned here under `prefix`/dispatchers/`instance`."""

    def __init__(  # noqa: PLR0913 - what it stands on, as values
        self,
        consul: Consul,
        prefix: str,
        instance: str,
        *,
        coordinator: Coordinator,
        log: FilteringBoundLogger,
        clock: Clock,
    ) -> None:
        self._consul = consul
        self._folder = f"{prefix}/dispatchers/"
        self._key = self._folder + instance
        self._coordinator = coordinator
        self._log = log
        self._clock, self._monotonic = clock, clock.monotonic
        self._loaded = False
        self._born, self._born_wall = self._monotonic(), self._wall()
        self._ours_before = SnapshotNotes()
        self._written = snapshot_pages.write(SnapshotNotes(), 0.0)
        self._without = frozenset[str]()

    def _wall(self) -> float:
        return self._clock.now().timestamp()

    async def load(self) -> bool:
        """Read what dispatchers have written down; tells whether Consul could be read."""
        try:
            await self._load()
        except _AWAY as error:
            self._log.info("limits and breakers not read", reason=str(error))
            return False
        return True

    async def _load(self) -> None:
        _, entries = await self._consul.kv_list(self._folder)
        found = {}
        for entry in entries:
            if (kept := self._read(entry)) is not None:
                found[entry] = kept
            await asyncio.sleep(0)  # each takes its time
        await self._restore(found.values())
        self._loaded = True  # once: what is read again counts for what it was before we began
        try:
            await self._forget_old(found)
        except _AWAY as error:
            self._log.info("old limits and breakers not deleted", reason=str(error))

    async def keep(self) -> None:
        """Load, then write down what changes, until cancelled.

        A start waits for no Consul: for its first second this dispatcher owns nothing anyway.
        """
        seen = (-1, -1)
        owned, peers = self._coordinator.owned, self._coordinator.peers
        while True:
            if not self._loaded:
                await self.load()
            await asyncio.sleep(PERIOD)
            owned.buckets.look_round(peers.owns, self._monotonic())
            version = owned.version, int(self._monotonic() // LOOK)
            if version == seen or not (self._loaded and peers.is_counted(peers.me)):
                continue
            try:
                if await self._write(look=version[1] != seen[1]):
                    seen = version
            except _AWAY as error:
                self._log.debug("limits and breakers not written", reason=str(error))

    async def write_now(self) -> None:
        """Write down what is ours and is not written yet: it soon is another's, or nobody's.

        It takes a while at most, and does not fail: what stops goes on to.
        """
        try:
            async with asyncio.timeout(STOPPING):
                if not self._loaded:
                    await self._load()
                while self._coordinator.peers.is_counted(self._coordinator.peers.me):
                    if await self._write(look=True):
                        break
        except (TimeoutError, *_AWAY) as error:
            self._log.warning("the latest of limits and breakers not written", reason=repr(error))
        except Exception:  # noqa: BLE001 - what comes next in the stop must not be lost with it
            self._log.exception("the latest of limits and breakers not written")

    async def _write(self, *, look: bool) -> bool:
        """Write down what is ours beside what was written there before, if that is any news.

        Without `look` what was written last is taken to be there. False if there is more to write,
        or if somebody else has written there meanwhile.
        """
        for _ in self._coordinator.owned.buckets.find_slow(
            self._coordinator.peers.owns, self._monotonic()
        ):
            await asyncio.sleep(0)  # there may be thousands, and tasks come meanwhile
        ours, done = self._ours(), not self._coordinator.owned.buckets.behind
        if not look and snapshot_notes.with_ours(self._ours_before, ours).says_as(
            self._ours_before
        ):
            return done  # most changes are of limits that are full again in a moment
        entry = await self._consul.kv_get(self._key)
        now = self._wall()
        before = self._before(entry)
        await asyncio.sleep(0)
        merged = snapshot_notes.with_ours(before or SnapshotNotes(), ours).lasting(now)
        written = snapshot_pages.write(merged, now)
        self._tell_what_is_left(written)
        if before is None or not written.notes.says_as(before.lasting(now)):
            cas = entry.index if entry else CREATE_ONLY
            if not await self._consul.kv_put(self._key, written.value, cas=cas):
                return False
            self._written = written
        self._ours_before = ours
        return done

    def _before(self, entry: CatalogEntry | None) -> SnapshotNotes | None:
        """Return what is written there; None if that cannot be read."""
        if entry is None:
            return SnapshotNotes()
        if entry.value == self._written.value:
            return self._written.notes  # reading it takes its time
        return self._read(entry)

    def _tell_what_is_left(self, written: Written) -> None:
        """Log of what there is too much to be written down, when that changes.

        What is left out is not known when all dispatchers die.
        """
        counts = Counter(written.left)
        counts["levels"] += self._coordinator.owned.buckets.left
        counts["lanes_of_rooms"] += written.bare
        without = +counts
        if without.keys() != self._without:
            self._without = frozenset(without)
            self._log.warning("too much to write down" if without else "all written", **without)

    def _ours(self) -> SnapshotNotes:
        now = self._monotonic()
        offset = self._wall() - now

        def wall(at: float) -> int:
            return round(at + offset)  # so that it stays the same

        owned, owns = self._coordinator.owned, self._coordinator.peers.owns
        levels = {key: (*level, wall(at)) for key, level, at in owned.buckets.slow()}
        ours = ((lane, b) for lane, b in owned.breakers() if owns(BREAKER + lane))
        breakers = {lane: (b.state.value, b.epoch, wall(b.since)) for lane, b in ours}
        today = wall(now) // FRESH * FRESH  # so that it stays the same for a while
        rooms = {k: (*room, today) for k, room in owned.bulkheads.lately_in_use(owns)}
        return SnapshotNotes(levels, breakers, rooms=rooms)

    def _left_behind(self, found: Iterable[SnapshotNotes], wall: float) -> dict[str, Room]:
        """Return the rooms that were written before we began, once we own any.

        Whoever has written since lives, and tells of its own.
        """
        if self._coordinator.peers.is_counted(self._coordinator.peers.me):
            found = [one for one in found if one.at < self._born_wall]
        before = snapshot_notes.latest(found).lasting(wall)
        return {key: room[:2] for key, room in before.rooms.items()}

    async def _restore(self, found: Collection[SnapshotNotes]) -> None:
        now, wall = self._monotonic(), self._wall()
        owned = self._coordinator.owned
        kept = snapshot_notes.latest(found).lasting(wall)
        for number, (key, (level, rate, capacity, at)) in enumerate(kept.levels.items()):
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
                now, wall = self._monotonic(), self._wall()
            owned.buckets.restore(key, (level, rate, capacity), wall - at, now)
        owned.bulkheads.remember(self._left_behind(found, wall), now, now - self._born)
        for lane, (state, epoch, since) in kept.breakers.items():
            owned.restore(lane, BreakerState(state), epoch, now - (wall - since))

    async def _forget_old(self, found: Mapping[CatalogEntry, SnapshotNotes]) -> None:
        """Delete what a dispatcher has left behind that has long gone."""
        now = self._wall()
        for entry, kept in found.items():
            if now - kept.at > OLD and not kept.lasting(now):
                await self._consul.kv_delete(entry.key, cas=entry.index)

    def _read(self, entry: CatalogEntry) -> SnapshotNotes | None:
        """Read one dispatcher's notes; None if they cannot be read."""
        try:
            return snapshot_notes.read(entry.value, self._wall())
        except (ValueError, RecursionError) as error:
            self._log.warning(
                "limits and breakers of a dispatcher cannot be read",
                key=entry.key,
                reason=repr(error),
            )
            return None
