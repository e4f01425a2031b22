"""Which agents may have left a queue behind, kept in Consul: registries and dispatchers forget."""

from collections.abc import Iterable

from structlog.typing import FilteringBoundLogger

from maniple.service.consul import Consul, ConsulRefused, ConsulUnavailable


class Marks:
    """One key for each agent with a queue of its own; every dispatcher sets it.

    Without Consul marks are set later, and nothing is found that only they tell of.
    """

    def __init__(self, consul: Consul, prefix: str, log: FilteringBoundLogger) -> None:
        """Keep them under `prefix`/agent-queues/."""
        self._consul = consul
        self._folder = f"{prefix}/agent-queues/"
        self._log = log
        self._known: set[str] = set()

    def has(self, agents: Iterable[str]) -> bool:
        """Tell whether all of these agents are marked."""
        return self._known.issuperset(agents)

    async def refresh(self, agents: Iterable[str]) -> set[str]:
        """Mark these agents and return all that are marked."""
        try:
            for agent in set(agents) - self._known:
                await self._consul.kv_put(self._folder + agent, b"")
                self._known.add(agent)
            _, entries = await self._consul.kv_list(self._folder)
        except (ConsulUnavailable, ConsulRefused) as error:
            self._log.info("marks of agents not kept", reason=str(error))
        else:
            # One that a Consul has lost that came back empty is so set again.
            self._known = {entry.key.removeprefix(self._folder) for entry in entries}
        return self._known

    async def remove(self, agent: str) -> None:
        """Take the mark of an agent away: its queue is gone."""
        self._known.discard(agent)
        try:
            await self._consul.kv_delete(self._folder + agent)
        except (ConsulUnavailable, ConsulRefused) as error:
            self._log.info("mark of an agent not removed", agent=agent, reason=str(error))
