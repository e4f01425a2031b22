"""Which agents may have left a queue behind, and which lanes there are, kept in Consul.

Registries and dispatchers forget.
"""

from collections.abc import Iterable

from structlog.typing import FilteringBoundLogger

from maniple.service.consul import Consul, ConsulRefused, ConsulUnavailable


class Marks:
    """One key for each agent with a queue of its own, or each lane; every dispatcher sets it.

    Without Consul marks are set later, and nothing is found that only they tell of.
    """

    def __init__(
        self,
        consul: Consul,
        prefix: str,
        log: FilteringBoundLogger,
        folder: str = "agent-queues",
    ) -> None:
        """Keep them under `prefix`/`folder`/."""
        self._consul = consul
        self._folder = f"{prefix}/{folder}/"
        self._log = log
        self._known: set[str] = set()

    def has(self, names: Iterable[str]) -> bool:
        """Tell whether all of these are marked."""
        return self._known.issuperset(names)

    async def refresh(self, names: Iterable[str]) -> set[str]:
        """Mark these and return all that are marked."""
        try:
            for name in set(names) - self._known:
                await self._consul.kv_put(self._folder + name, b"")
                self._known.add(name)
            _, entries = await self._consul.kv_list(self._folder)
        except (ConsulUnavailable, ConsulRefused) as error:
            self._log.info("marks not kept", folder=self._folder, reason=str(error))
        else:
            # One that a Consul has lost that came back empty is so set again.
            self._known = {entry.key.removeprefix(self._folder) for entry in entries}
        return self._known

    async def remove(self, name: str) -> None:
        """Take a mark away: the queue is gone."""
        self._known.discard(name)
        try:
            await self._consul.kv_delete(self._folder + name)
        except (ConsulUnavailable, ConsulRefused) as error:
            self._log.info("mark not removed", folder=self._folder, name=name, reason=str(error))
