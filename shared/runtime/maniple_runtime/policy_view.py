"""The policies in force in a process that evaluates them."""

import asyncio
import random
import threading
from collections.abc import Mapping
from typing import Any

from maniple.errors import BrokerUnavailable, PublishRefused, RequestFailed
from maniple_policies import InForce, PolicySet, Resolved, Where
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.events import PolicyApplied, PolicyChanged
from maniple_runtime.policy_cache import PolicyCache, revision_in
from maniple_runtime.policy_versions import show_versions
from maniple_runtime.runtime import Runtime

NEWS = 50  # versions that a report names at most
AGAIN = 0.2
TRIES = 10
TRIES_UNSURE = 3  # to reach a replica of the policy service that can read Consul
SPREAD = 0.2  # seconds over which processes report what came into force in all of them at once
COMPONENT = "policy service"
UNSURE = "it cannot read Consul, and there may be newer policies"


class PolicyView:
    """The last good set: from disk at the start, then from the policy service.

    A change is applied from its event, or fetched when the event alone does not give the announced
    set; besides, digests are compared every `Policies.check` seconds. A set older than the one in
    force is ignored, whoever sends it. While the policy service is unavailable, the set stays as it
    is and the component `policy service` says so. What is in force here is reported by the event
    `policy.applied`, after each change and every `Policies.check` seconds.
    """

    def __init__(self, runtime: Runtime, plane: ControlPlane) -> None:
        settings = runtime.settings
        self._runtime = runtime
        self._check = settings.timings.policies.check
        self._plane = plane
        self._where = Where(settings.instance, settings.region)
        path = settings.data_dir / settings.environment / "policies.json"
        self._cache = PolicyCache(path, self._where)
        self._wanted = ""
        self._told = False
        self._sure = True
        self._wake = asyncio.Event()
        self._writing = threading.Lock()
        self._kept: PolicySet | None = None
        self._reported: PolicySet | None = None
        self._report_at = 0.0
        self.current = PolicySet()
        self.known = False
        """Whether there is a set, even an empty one: from disk, or received."""

    def load_kept(self) -> None:
        """Use the set that this process had last, until it receives another."""
        kept = self._cache.load()
        if kept is not None:
            self._kept = kept
            self._show(kept)
            self.known = True

    def start_following(self) -> None:
        """Fetch the set in force, now and periodically."""
        self._runtime.spawn(self._follow(), "follow policies")

    def resolve(
        self, capability: str, tenant: str, labels: Mapping[str, str], task: str = ""
    ) -> Resolved:
        """Return what the policies say about a task now."""
        return self.current.resolve(capability, tenant, labels, task)

    def on_policy_changed(self, event: PolicyChanged) -> None:
        """Apply a change, if that gives the announced set; else have the set fetched."""
        if event.digest == self.current.digest and self._confirm(event.revision or None):
            self._wake.set()
        if event.digest in {self.current.digest, self._wanted} or self._is_past(event.revision):
            return
        told = _told(self.current, event)
        if told is None:
            self._wanted = event.digest
        elif told.may_replace(self.current):
            self._show(told)
            self._told = self.known = True
        else:
            return
        self._wake.set()

    async def refresh(self) -> None:
        """Compare with the policy service and use its set if it differs and is not older.

        Raises `RequestFailed`, `PublishRefused`, `BrokerUnavailable`, or `ValueError` for a set
        that cannot be read (with kinds that are newer than this process).
        """
        asked = self.current
        answer = await self._plane.request("policy", "policy.snapshot", {"digest": asked.digest})
        self._sure = answer.get("current") is not False
        documents: Any = answer.get("policies")
        revision = revision_in(answer)
        if documents is None:
            if answer.get("digest") == self.current.digest:
                self._confirm(revision)
                self.known |= self._sure
            return
        if revision is None and self.current is not asked:  # what came meanwhile is newer
            return
        policies = PolicySet.from_json(documents, self._where, revision=revision)
        if policies.may_replace(self.current):
            # An older policy service tells none, and its set may lack what ours has at that
            # revision: whoever tells one has the later set.
            known = self.current.revision
            before = None if known is None else max(0, known - 1)
            self._show(policies if revision is not None else policies.at_revision(before))
            self.known |= self._sure
        else:
            self._runtime.log.info(
                "an older set of policies is not taken", digest=policies.digest, revision=revision
            )

    def _confirm(self, revision: int | None) -> bool:
        """Use a newer revision for the set in force, to which the cluster may have returned.

        Otherwise a set from in between would count as newer.
        """
        known = self.current.revision
        if revision is None or (known is not None and revision <= known):
            return False
        self.current = self.current.at_revision(revision)
        return True

    def _is_past(self, revision: int) -> bool:
        """Tell whether a change was made before the set in force was."""
        known = self.current.revision
        return 0 < revision < known if known is not None else False

    async def _follow(self) -> None:
        try:
            await self._keep()
        finally:  # however soon after a change this process ends
            if self._kept is not None and self._kept is not self.current:
                self._write(self.current)

    def _write(self, policies: PolicySet) -> None:
        """Write a set to disk, unless another is in force by now; in any thread."""
        with self._writing:
            if policies is self.current:
                self._cache.store(policies)

    async def _keep(self) -> None:
        tries = 0
        while True:
            self._wake.clear()
            if self._told and not self._wanted:
                self._told = False
                await self._settle(spread=SPREAD)
                await self._pause(self._check)
                continue
            try:
                await self.refresh()
            except (RequestFailed, PublishRefused, BrokerUnavailable, ValueError) as error:
                self._runtime.health.set(COMPONENT, ok=False, detail=str(error)[:500])
                tries += 1
            else:
                self._runtime.health.set(COMPONENT, ok=True, detail="" if self._sure else UNSURE)
                # A replica of the policy service may not have the announced set yet.
                behind = bool(self._wanted) and self._wanted != self.current.digest
                tries = tries + 1 if behind or not self._sure else 0
            if not 0 < tries <= (TRIES if self._sure or self._wanted else TRIES_UNSURE):
                tries, self._wanted = 0, ""
            await self._settle()
            await self._pause(AGAIN * 1.5**tries if tries else self._check)

    async def _settle(self, spread: float = 0.0) -> None:
        """Write a new set to disk, and report it after up to `spread` seconds."""
        policies = self.current
        if self._kept is not policies:
            await asyncio.to_thread(self._write, policies)  # it waits for the disk
            self._kept = policies
        if spread and await self._pause(random.uniform(0, spread)):
            return  # what is newer by now is kept at once, and told of in place of this
        await self._report(policies)

    async def _report(self, policies: PolicySet) -> None:
        """Report what is in force here, if it is new or the last report is old."""
        before = self._reported
        now = self._runtime.clock.monotonic()
        is_told = before is not None and _identity(before) == _identity(policies)
        if is_told and now < self._report_at:
            return
        settings = self._runtime.settings
        event = PolicyApplied(
            at=self._runtime.clock.now(),
            service=settings.service,
            instance=settings.instance,
            digest=policies.digest,
            revision=policies.revision or 0,
            versions=_news(before.versions if before else {}, policies.versions),
        )
        try:
            await self._plane.emit(event)
        except (PublishRefused, BrokerUnavailable) as error:
            self._runtime.log.info("policies in force not reported", reason=str(error))
        else:
            self._reported, self._report_at = policies, now + self._check / 2

    async def _pause(self, seconds: float) -> bool:
        """Wait for about so long; True as soon as there is something to do."""
        try:
            async with asyncio.timeout(seconds * random.uniform(0.8, 1.2)):
                return await self._wake.wait()
        except TimeoutError:
            return False

    def _show(self, policies: PolicySet) -> None:
        before, self.current = self.current, policies
        health, metrics = self._runtime.health, self._runtime.metrics
        show_versions(health, metrics, before.versions, policies.versions)
        self._runtime.log.info(
            "policies in force",
            digest=policies.digest,
            revision=policies.revision,
            count=len(policies.policies),
        )


def _identity(policies: PolicySet) -> tuple[str, int | None]:
    return policies.digest, policies.revision


def _told(policies: PolicySet, event: PolicyChanged) -> PolicySet | None:
    """Return the set after an event, if the event's content gives the announced one."""
    if event.in_force is None and not event.deleted:
        return None
    try:
        one = None if event.deleted else InForce.model_validate(event.in_force)
        key = f"{event.kind}/{event.name}"
        known = policies.revision  # an older policy service tells none, but has raised it
        raised = None if known is None else known + 1
        after = policies.replacing(key, one, event.revision or raised)
    except ValueError:  # of a kind that is newer than this process
        return None
    return after if after.digest == event.digest else None


def _news(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return what has changed, unless that is too much: then the digest has to do."""
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return {key: after.get(key, 0) for key in changed} if len(changed) <= NEWS else {}
