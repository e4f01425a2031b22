"""The store of policies: Consul KV by compare-and-set, with the last good copy on disk."""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import not_
from pathlib import Path

from tenacity import AsyncRetrying, RetryCallState, RetryError, retry_if_result, stop_after_attempt

from maniple_policies import PolicySet
from maniple_policy.change_event import event_of
from maniple_policy.change_request import ChangeRequest
from maniple_policy.domain.changes import AT_ONCE, Step, Wanted, fitting, steps
from maniple_policy.domain.reconcile import NEW, Found, Plan, Write, reconcile
from maniple_policy.domain.records import Stored, revision_of
from maniple_policy.domain.request_log import RequestLog
from maniple_policy.errors import StoreUnavailable
from maniple_policy.records_on_disk import RecordsOnDisk
from maniple_runtime import metric_names
from maniple_runtime.backoff import EqualJitter, error_of
from maniple_runtime.consul.catalog import CatalogEntry, Put
from maniple_runtime.consul.client import Consul, ConsulRefused, ConsulUnavailable
from maniple_runtime.control.requests import Asked
from maniple_runtime.events import PolicyChanged
from maniple_runtime.health import Health
from maniple_runtime.policy_versions import show_versions
from maniple_runtime.telemetry import Metrics, get_logger

WAIT = 10.0  # seconds of a blocking query, and so until it is known that Consul does not answer
TRIES = 40
GUARD = ".guard"  # written with every new version, so that two cannot be decided side by side
MOST_NAMED = 100  # unusable policies that are named
MOST_OF_A_KEY = 200  # characters, as kind and name have at most
COMPONENT = "policies"
READING = "policies in Consul"
AHEAD = "policies elsewhere"
LOST = "processes run revision {}, lost here, where {} is: apply all policies to have one again"

log = get_logger("maniple.policy")
Announce = Callable[[PolicyChanged], Awaitable[None]]


class Store:
    """The records in force in this process, kept equal to Consul's.

    `invalid` is what Consul holds that is not in force, by `kind/name`, and why: the first 100.
    `revision` is that of the whole set, and rises with every change.

    `known` is False until there was something on disk or Consul was read, so that an empty set is
    not taken for the truth; `current` is whether Consul can be read. `newest` is the highest
    revision that a process runs: if it is above ours, Consul and our disk have lost that set.
    `announce` is called with every revision that comes into force here, perhaps twice.
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
        self._disk = RecordsOnDisk(path)
        self._health = health
        self._metrics = metrics
        self._announce = announce
        self._now = now
        self._lock = asyncio.Lock()
        self._records = self._disk.kept
        self._refused: dict[str, Stored] = {}
        self.policies, self.invalid = PolicySet(revision=0), dict[str, str]()
        self._index = 0
        self.known = self.current = False
        self.revision = self.newest = 0

    @property
    def _floor(self) -> int:
        return self.newest if self.newest > self.revision else 0

    @property
    def records(self) -> dict[str, Stored]:
        """All records by `kind/name`, with tombstones."""
        return dict(self._records)

    def load(self) -> None:
        """Read the copy on disk; a wrong record is logged and left out."""
        self._records = self._disk.load_records()
        self.known = bool(self._records)
        self._show()

    async def keep(self) -> None:
        """Follow Consul until cancelled; without it, what is in force stays."""
        # Whatever is written there, what is in force stays so.
        following = AsyncRetrying(wait=EqualJitter(), before_sleep=self._begin_anew)
        while True:
            async for attempt in following:
                with attempt:
                    await self._follow()

    async def _follow(self) -> None:
        newer, entries = await self._look()
        if not await self.sync(entries):
            self._index = newer if newer >= self._index else 0

    def _begin_anew(self, failed: RetryCallState) -> None:
        self._index = 0
        error = error_of(failed)
        if isinstance(error, ConsulUnavailable | ConsulRefused):
            self._is_current(str(error))
            log.info("following Consul failed", reason=str(error))
        else:
            self._is_current(repr(error))
            log.error("following Consul failed", exc_info=error)

    async def _look(self) -> tuple[int, list[CatalogEntry]]:
        if self._index == 0:  # a blocking query would wait for the first key of an empty Consul
            return await self._consul.kv_list(self._prefix)
        return await self._consul.watch(self._prefix, self._index, WAIT)

    async def sync(self, entries: Iterable[CatalogEntry]) -> int:
        """Bring our copy and Consul together; return how many keys were to be written.

        A write that another replica won is dropped: the next look sees what that wrote.
        """
        async with self._lock:
            look = self._read(entries)
            changed = await self._settle(look)
        await self._publish(changed)
        return len(look.plan.write)

    def _read(self, entries: Iterable[CatalogEntry]) -> "_Look":
        found = {e.key.removeprefix(self._prefix): Found(e.value, e.index) for e in entries}
        guard = found.pop(GUARD, Found(b"", NEW))
        plan = reconcile(self._records, found, self._now(), self._floor)
        indices = {key: one.index for key, one in found.items()}
        return _Look(plan, indices, guard.index, RequestLog.read(guard.value))

    async def _settle(self, look: "_Look") -> list[Stored]:
        """Write and adopt what the plan says; return what is new here."""
        plan = look.plan
        edits = [write.record for write in plan.write if write.edit][:AT_ONCE]
        written = [w.record for w in plan.write if not w.edit and await self._write(w)]
        if edits and await self._commit(look, look.memory, edits):
            written += edits
        if written:
            log.info("wrote policies to Consul", keys=[record.key for record in written])
        new = plan.take | {record.key: record for record in written}
        changed = [r for key, r in new.items() if r != self._records.get(key)]
        self._take(changed)
        self._refused = dict(plan.tied)
        self._report(plan)
        self.known = True
        self._is_current()
        return changed

    def _is_current(self, away: str = "") -> None:
        self.current = not away
        detail = f"what is told may be old: {away}"[:500] if away else ""
        self._health.set(READING, ok=self.current, detail=detail)

    def look_ahead(self) -> None:
        """Report if processes run a set that is lost here; a change reaches all nevertheless."""
        lost = self.current and self._floor > 0
        detail = LOST.format(self.newest, self.revision) if lost else ""
        self._health.set(AHEAD, ok=not lost, detail=detail)

    async def _write(self, write: Write) -> bool:
        key, value = self._prefix + write.record.key, write.record.to_json()
        return await self._consul.kv_put(key, value, cas=write.index)

    async def _commit(self, look: "_Look", memory: RequestLog, records: Sequence[Stored]) -> bool:
        """Store new versions, all or none; False if anybody has stored any since the look.

        Ties were checked against all other records, so none of these may have changed.
        """
        # Always another value: Consul keeps the index of a key that is written as it was.
        guard = memory.to_value(token=secrets.token_hex(8))
        puts = [Put(self._prefix + GUARD, guard, look.guard)]
        for record in records:
            index = look.indices.get(record.key, NEW)
            puts.append(Put(self._prefix + record.key, record.to_json(), index))
        return await self._consul.transaction(puts)

    def plan(self, wanted: Sequence[Wanted]) -> list[Step]:
        """Return what these changes would do; raises as `change` does, but needs no Consul."""
        return steps(self._records, wanted, self._refused, self._floor)

    async def change(
        self, asked: Asked, keys: Sequence[str], wanted: Callable[[], Sequence[Wanted]]
    ) -> list[Step]:
        """Store what is `wanted` of these policies under their next versions, for a request.

        `wanted` is called with what Consul holds in force here. All are checked before any is
        stored; up to 60 are stored in one transaction, more in several. What the same request has
        done before, here or at another replica, is not repeated. Raises `VersionConflict`,
        `UnknownPolicy`, `PolicyTie`, `StoreUnavailable`, and what `wanted` does.
        """
        work = ChangeRequest(asked, keys, wanted)
        advancing = AsyncRetrying(
            retry=retry_if_result(not_),
            wait=lambda tried: random.uniform(0, 0.005 * tried.attempt_number),
            stop=stop_after_attempt(TRIES),
        )
        try:
            async with self._lock:
                await advancing(self._advance, work)
        except RetryError:
            raise StoreUnavailable("others change policies all the time") from None
        except (ConsulUnavailable, ConsulRefused) as error:
            self._is_current(str(error))
            raise StoreUnavailable(str(error)) from error
        finally:
            await self._publish(work.news)
        return [work.done[key] for key in keys]

    async def _advance(self, work: ChangeRequest) -> bool:
        """Do some of what is not done yet; True when nothing is left."""
        look = self._read((await self._consul.kv_list(self._prefix))[1])
        work.news += await self._settle(look)
        if look.plan.write:
            return False  # the look is out of date
        work.recall(look.memory, self._records)
        found = steps(self._records, work.remaining(), self._refused, self._floor)
        now = [step for step in found if not step.changed]
        now += fitting([step for step in found if step.changed])
        records = [step.record for step in now if step.changed]
        done = work.done | {step.record.key: step for step in now}
        if records or (now and work.comes_again):
            memory = look.memory.after(work.request, work.keys, done)
            if not await self._commit(look, memory, records):
                return False
        self._take(records)
        work.news += records
        work.done = done
        return len(done) == len(work.keys)

    def _take(self, records: Iterable[Stored]) -> None:
        changed = {r.key: r for r in records if r != self._records.get(r.key)}
        if not changed:
            return
        self._records = self._records | changed
        self._show()

    async def _publish(self, news: Sequence[Stored]) -> None:
        """Announce what is new and write it to disk, independently of each other."""
        keeping = asyncio.create_task(self._disk.keep_latest(lambda: self._records))
        try:
            await self._tell(news)
        finally:
            await keeping

    def _show(self) -> None:
        in_force = [r.in_force for r in self._records.values() if not r.deleted]
        self.revision = revision_of(self._records.values())
        before, self.policies = self.policies, PolicySet(in_force, revision=self.revision)
        show_versions(self._health, self._metrics, before.versions, self.policies.versions)

    def _report(self, plan: Plan) -> None:
        before, self.invalid = self.invalid, _some(plan.invalid)
        self._metrics.gauge(metric_names.POLICIES_INVALID).set(len(plan.invalid))
        detail = "; ".join(f"{key}: {reason}" for key, reason in self.invalid.items())
        if detail and self.invalid != before:
            number = len(plan.invalid)
            log.error("Consul holds policies that cannot be used", number=number, reason=detail)
        self._health.set(COMPONENT, ok=not detail, detail=detail[:500])

    async def _tell(self, records: Sequence[Stored]) -> None:
        # The digest is that of all changes together: none of several could be taken alone.
        alone, events = len(records) == 1, list[PolicyChanged]()
        for record in records:
            log.info("policy in force", policy=record.key, version=record.version)
            events.append(event_of(record, self.policies, self._now(), alone=alone))
        await asyncio.gather(*map(self._announce, events))


def _some(invalid: Mapping[str, str]) -> dict[str, str]:
    """Return the first of the unusable keys, truncated."""
    return {key[:MOST_OF_A_KEY]: invalid[key] for key in sorted(invalid)[:MOST_NAMED]}


@dataclass(frozen=True, slots=True)
class _Look:
    """What Consul held: what to do about it, the index of each key, and the guard's.

    `memory` is the log of requests until then.
    """

    plan: Plan
    indices: Mapping[str, int]
    guard: int
    memory: RequestLog
