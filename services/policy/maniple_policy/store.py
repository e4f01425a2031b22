"""The store of policies: Consul KV by compare-and-set, with the last good copy on disk."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from pathlib import Path

from maniple.events import PolicyChanged
from maniple.service import names
from maniple.service.catalog import Entry
from maniple.service.consul import Consul, ConsulRefused, ConsulUnavailable
from maniple.service.health import Health
from maniple.service.policies import PolicySet
from maniple.service.policy_cache import read_json, write_atomically
from maniple.service.telemetry import Metrics, get_logger
from maniple_policy.domain.reconcile import NEW, Found, Plan, Write, reconcile
from maniple_policy.domain.records import Revision, Stored, read, succeed
from maniple_policy.errors import StoreUnavailable, UnknownPolicy, VersionConflict

WAIT = 30.0  # seconds of a blocking query
BACKOFF_CAP = 5.0
TRIES = 8
COMPONENT = "policies"

log = get_logger("maniple.policy")
Announce = Callable[[PolicyChanged], Awaitable[None]]


class Store:
    """The records in force in this process, kept equal to Consul's.

    `known` is False until there was something on disk or Consul was read, so that an empty set is
    not taken for the truth. `announce` is told of every revision that comes into force here, and
    may be told twice.
    """

    def __init__(  # noqa: PLR0913 - what it stands on, as values
        self,
        consul: Consul,
        prefix: str,
        path: Path,
        *,
        health: Health,
        metrics: Metrics,
        announce: Announce,
        now: Callable[[], datetime],
    ) -> None:
        self._consul = consul
        self._prefix = f"{prefix}/policies/"
        self._path = path
        self._health = health
        self._metrics = metrics
        self._announce = announce
        self._now = now
        self._lock = asyncio.Lock()
        self._records: dict[str, Stored] = {}
        self.policies = PolicySet()
        self.known = False

    @property
    def records(self) -> dict[str, Stored]:
        """All records by `kind/name`, tombstones among them."""
        return dict(self._records)

    def load(self) -> None:
        """Take what was kept on disk; a wrong record is logged and left out."""
        records = {}
        for value in read_json(self._path) or ():
            try:
                record = Stored.model_validate(value)
            except ValueError as error:
                log.warning("record on disk is wrong", reason=str(error))
            else:
                records[record.key] = record
        self._records = records
        self.known = bool(records)
        self._show()

    async def keep(self) -> None:
        """Follow Consul until cancelled; without it, go on with what is in force."""
        index, failures = 0, 0
        while True:
            try:
                newer, entries = await self._look(index)
                written = await self.sync(entries)
                index = index if written else (newer if newer >= index else 0)
                failures = 0
            except (ConsulUnavailable, ConsulRefused) as error:
                failures += 1
                index = 0
                log.info("following Consul failed", reason=str(error))
                pause = min(BACKOFF_CAP, 0.25 * 2.0 ** min(failures, 8))
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause)

    async def _look(self, index: int) -> tuple[int, list[Entry]]:
        if index == 0:  # a blocking query would wait for the first key of an empty Consul
            return await self._consul.kv_list(self._prefix)
        return await self._consul.watch(self._prefix, index, WAIT)

    async def sync(self, entries: Iterable[Entry]) -> int:
        """Bring our copy and Consul together; return how many keys were written.

        A write that another replica won is left: the next look sees what it wrote.
        """
        theirs = {e.key.removeprefix(self._prefix): Found(e.value, e.index) for e in entries}
        async with self._lock:
            plan = reconcile(self._records, theirs, self._now())
            written = [w for w in plan.write if await self._write(w)]
            if written:
                log.info("wrote policies to Consul", keys=[w.record.key for w in written])
            new = plan.take | {w.record.key: w.record for w in written}
            changed = [r for key, r in new.items() if r != self._records.get(key)]
            self._take(changed)
            self._report(plan)
            self.known = True
        await self._tell(changed)
        return len(plan.write)

    async def _write(self, write: Write) -> bool:
        key = self._prefix + write.record.key
        return await self._consul.kv_put(key, write.record.to_json(), cas=write.index)

    async def change(self, change: Revision, expect: int | None = None) -> tuple[Stored, bool]:
        """Store a revision under the next version; False beside the record if nothing changed.

        Raises `VersionConflict` if the policy is not at version `expect` (0: absent),
        `StoreUnavailable`, and `UnknownPolicy` for the tombstone of what is not there.
        """
        key = change.policy.key
        async with self._lock:
            try:
                record, changed = await self._change(key, change, expect)
            except (ConsulUnavailable, ConsulRefused) as error:
                raise StoreUnavailable(str(error)) from error
            self._take([record])
        if changed:
            await self._tell([record])
        return record, changed

    async def _change(self, key: str, change: Revision, expect: int | None) -> tuple[Stored, bool]:
        for _ in range(TRIES):
            entry = await self._consul.kv_get(self._prefix + key)
            before = _newest(self._records.get(key), entry, key)
            present = 0 if before is None or before.deleted else before.version
            if expect is not None and expect != present:
                raise VersionConflict(key, expect, present)
            if change.deleted and not present:
                raise UnknownPolicy(key)
            if before is not None and before.says_the_same(change):
                return before, False
            record = succeed(before, change)
            if await self._write(Write(record, entry.index if entry else NEW)):
                return record, True
        raise StoreUnavailable(f"{key}: others change it all the time")

    def _take(self, records: Iterable[Stored]) -> None:
        changed = {r.key: r for r in records if r != self._records.get(r.key)}
        if not changed:
            return
        self._records = self._records | changed
        self._show()
        try:
            kept = [record.model_dump(mode="json") for record in self._records.values()]
            write_atomically(self._path, kept)
        except OSError as error:
            log.warning("policies not kept on disk", path=str(self._path), reason=str(error))

    def _show(self) -> None:
        in_force = [r.policy for r in self._records.values() if not r.deleted]
        self.policies = PolicySet(in_force)
        for key in self._records:
            self._health.versions.pop(key, None)
        self._health.versions.update(self.policies.versions)
        self._metrics.forget(names.POLICY_VERSION)
        for policy in in_force:
            self._metrics.gauge(names.POLICY_VERSION, policy.kind, policy.name).set(policy.version)

    def _report(self, plan: Plan) -> None:
        self._metrics.gauge(names.POLICIES_INVALID).set(len(plan.invalid))
        detail = "; ".join(f"{key}: {reason}" for key, reason in sorted(plan.invalid.items()))
        if detail:
            log.error("Consul holds policies that cannot be used", reason=detail)
        self._health.set(COMPONENT, ok=not detail, detail=detail[:500])

    async def _tell(self, records: Iterable[Stored]) -> None:
        for record in records:
            log.info("policy in force", policy=record.key, version=record.version)
            await self._announce(
                PolicyChanged(
                    at=self._now(),
                    kind=record.policy.kind,
                    name=record.policy.name,
                    version=record.version,
                    deleted=record.deleted,
                    digest=self.policies.digest,
                    author=record.author,
                )
            )


def _newest(ours: Stored | None, entry: Entry | None, key: str) -> Stored | None:
    try:
        theirs = read(key, entry.value) if entry else None
    except ValueError:
        return ours
    if not isinstance(theirs, Stored):
        return ours
    return theirs if ours is None or theirs.version >= ours.version else ours
