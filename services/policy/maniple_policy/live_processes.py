"""What is alive: the agents by the registry, our own processes by Consul. Best effort."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from maniple.errors import ManipleError
from maniple_policy.domain.reach import Known
from maniple_runtime.consul.catalog import service_name
from maniple_runtime.consul.client import Consul, ConsulRefused, ConsulUnavailable
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.listing import all_agents
from maniple_runtime.telemetry import get_logger

PATIENCE = 1.0  # seconds, with each page
FRESH = 5.0
SILENT = 15.0  # seconds for which a registry that did not answer is not asked again

log = get_logger("maniple.policy")


@dataclass(frozen=True, slots=True)
class Present:
    """The processes in Consul at a time: the service of each, of those `services` alone.

    `processes` is None where Consul did not answer.
    """

    at: float
    services: frozenset[str] = frozenset()
    processes: Mapping[str, str] | None = field(default_factory=dict)


class LiveProcesses:
    """Asks, and remembers the answer for some seconds."""

    def __init__(
        self, plane: ControlPlane, consul: Consul, environment: str, monotonic: Callable[[], float]
    ) -> None:
        self._plane = plane
        self._consul = consul
        self._environment = environment
        self._monotonic = monotonic
        self._known: Known | None = None
        self._until = float("-inf")
        self._present = Present(float("-inf"))
        self._looking = asyncio.Lock()

    async def known(self) -> Known | None:
        """Return what live agents offer; None if no registry says a page of it within a second."""
        if self._monotonic() < self._until:
            return self._known
        try:
            request = partial(self._plane.request, "registry", "agents", timeout=PATIENCE)
            self._known = Known.of_agents((await all_agents(request))["agents"])
        except (ManipleError, AttributeError, TypeError):  # or a registry that speaks otherwise
            self._known = None
        self._until = self._monotonic() + (SILENT if self._known is None else FRESH)
        return self._known

    async def present(self, services: Collection[str], at_most: float) -> Present:
        """Return which processes of these services are in Consul, at most `at_most` seconds old.

        Consul lists whole services, so that one request serves all callers at about the same time.
        """
        async with self._looking:
            seen = self._present
            if self._monotonic() - seen.at > at_most or not seen.services.issuperset(services):
                seen = await self._look(frozenset(services))
                self._present = seen
            return seen

    async def _look(self, services: frozenset[str]) -> Present:
        begun = self._monotonic()
        found = {}
        try:
            for service in sorted(services):
                for instance in await self._consul.instances(service_name(service)):
                    if self._environment in instance.tags:
                        found[instance.id] = service
        except (ConsulUnavailable, ConsulRefused) as error:
            if self._present.processes is not None:
                log.warning("Consul does not say who is present", reason=str(error))
            return Present(begun, services, None)
        return Present(begun, services, found)
