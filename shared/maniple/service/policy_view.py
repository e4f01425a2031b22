"""The policies in force in a process that evaluates them."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from maniple.errors import BrokerUnavailable, PublishRefused, RequestFailed
from maniple.events import PolicyChanged
from maniple.service import names
from maniple.service.broker import ControlPlane
from maniple.service.policies import PolicySet, Resolved
from maniple.service.policy_cache import PolicyCache
from maniple.service.runner import Runtime
from maniple.topology import EVENTS

CHECK = 30.0  # seconds between comparisons of the digest
AGAIN = 0.2
TRIES = 10
COMPONENT = "policy service"


class PolicyView:
    """The last good set: from disk at the start, then as the policy service has it.

    A change is fetched when its event arrives; the digest is compared every 30 s besides. While the
    policy service is away, the set stays as it is and the component `policy service` says so.
    """

    def __init__(self, runtime: Runtime, plane: ControlPlane) -> None:
        settings = runtime.settings
        self._runtime = runtime
        self._plane = plane
        self._cache = PolicyCache(settings.data_dir / settings.environment / "policies.json")
        self._wanted = ""
        self._wake = asyncio.Event()
        self.current = PolicySet()

    async def start(self) -> None:
        """Load from disk and begin to follow; raises `BrokerUnavailable`."""
        kept = self._cache.load()
        if kept is not None:
            self._show(kept)
        await self._plane.subscribe(EVENTS, (PolicyChanged.KEY,), PolicyChanged, self.changed)
        self._runtime.spawn(self._keep(), "follow policies")

    def resolve(self, capability: str, tenant: str, labels: Mapping[str, str]) -> Resolved:
        """Say what holds for a task now."""
        return self.current.resolve(capability, tenant, labels)

    def changed(self, event: PolicyChanged) -> None:
        """Fetch, unless the change is already in force here."""
        if event.digest != self.current.digest:
            self._wanted = event.digest
            self._wake.set()

    async def refresh(self) -> None:
        """Compare with the policy service and take its set if it is another.

        Raises `RequestFailed`, `PublishRefused`, `BrokerUnavailable`, or `ValueError` for a set
        that cannot be read (one with kinds that are newer than this process).
        """
        answer = await self._plane.request(
            "policy", "policy.snapshot", {"digest": self.current.digest}
        )
        documents: Any = answer.get("policies")
        if documents is None:
            return
        policies = PolicySet.from_json(documents)
        self._show(policies)
        self._cache.store(policies)

    async def _keep(self) -> None:
        tries = 0
        while True:
            self._wake.clear()
            try:
                await self.refresh()
            except (RequestFailed, PublishRefused, BrokerUnavailable, ValueError) as error:
                self._runtime.health.set(COMPONENT, ok=False, detail=str(error)[:500])
                tries += 1
            else:
                self._runtime.health.set(COMPONENT, ok=True)
                # A replica of the policy service may not have the announced set yet.
                behind = bool(self._wanted) and self._wanted != self.current.digest
                tries = tries + 1 if behind else 0
            if not 0 < tries <= TRIES:
                tries, self._wanted = 0, ""
            await self._pause(AGAIN * 1.5**tries if tries else CHECK)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds * random.uniform(0.8, 1.2)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _show(self, policies: PolicySet) -> None:
        health, metrics = self._runtime.health, self._runtime.metrics
        for key in self.current.versions:
            health.versions.pop(key, None)
        health.versions.update(policies.versions)
        metrics.forget(names.POLICY_VERSION)
        for policy in policies.policies:
            metrics.gauge(names.POLICY_VERSION, policy.kind, policy.name).set(policy.version)
        self.current = policies
        self._runtime.log.info(
            "policies in force", digest=policies.digest, count=len(policies.policies)
        )
