"""Who lives now: the agents by the registry, our own processes by Consul. Best effort."""

from collections.abc import Callable, Iterable

from maniple.errors import ManipleError
from maniple.service.broker import ControlPlane
from maniple.service.catalog import service_name
from maniple.service.consul import Consul, ConsulRefused, ConsulUnavailable
from maniple_policy.domain.reach import Known

PATIENCE = 1.0  # seconds
FRESH = 5.0
SILENT = 15.0  # seconds for which a registry that did not answer is not asked again


class Fleet:
    """Asks, and remembers the answer for some seconds; `clock` is monotonic."""

    def __init__(
        self, plane: ControlPlane, consul: Consul, environment: str, clock: Callable[[], float]
    ) -> None:
        self._plane = plane
        self._consul = consul
        self._environment = environment
        self._clock = clock
        self._known: Known | None = None
        self._until = float("-inf")

    async def known(self) -> Known | None:
        """Return what live agents offer; None if no registry says so within a second."""
        if self._clock() < self._until:
            return self._known
        try:
            answer = await self._plane.request("registry", "agents", timeout=PATIENCE)
            self._known = Known.of(answer.get("agents", ()))
        except (ManipleError, AttributeError, TypeError):  # or a registry that speaks otherwise
            self._known = None
        self._until = self._clock() + (SILENT if self._known is None else FRESH)
        return self._known

    async def present(self, services: Iterable[str]) -> dict[str, str] | None:
        """Return the service of each process of these that is in Consul; None without Consul."""
        found = {}
        try:
            for service in services:
                for instance in await self._consul.instances(service_name(service)):
                    if self._environment in instance.tags:
                        found[instance.id] = service
        except (ConsulUnavailable, ConsulRefused):
            return None
        return found
