"""Which agents may have left a queue behind, and which lanes there are, kept in Consul.

Registries and dispatchers forget. Whoever can write to Consul can put there what is no name, or far
more than there are: neither may become queues that are looked for.
"""

from collections.abc import Callable, Iterable
from itertools import islice

from structlog.typing import FilteringBoundLogger

from maniple_runtime.consul.client import Consul, ConsulRefused, ConsulUnavailable
from maniple_runtime.control.field_types import is_agent_name

MOST = 2048  # marks of others that are taken


class QueueMarkers:
    """One key for each agent with a queue of its own, or each lane; every dispatcher sets it.

    Without Consul marks are set later, and nothing is found that only they tell of.
    """

    def __init__(
        self,
        consul: Consul,
        prefix: str,
        log: FilteringBoundLogger,
        folder: str = "agent-queues",
        *,
        is_name: Callable[[str], bool] = is_agent_name,
    ) -> None:
        """Keep them under `prefix`/`folder`/; what `is_name` is not true of is passed over."""
        self._consul = consul
        self._folder = f"{prefix}/{folder}/"
        self._log = log
        self._is_name = is_name
        self._known: set[str] = set()
        self._odd = 0

    def has(self, names: Iterable[str]) -> bool:
        """Tell whether all of these are marked."""
        return self._known.issuperset(names)

    async def refresh(self, names: Iterable[str]) -> set[str]:
        """Mark these and return all that are marked."""
        ours = set(names)
        try:
            for name in ours - self._known:
                await self._consul.kv_put(self._folder + name, b"")
                self._known.add(name)
            _, entries = await self._consul.kv_list(self._folder)
        except (ConsulUnavailable, ConsulRefused) as error:
            self._log.info("markers of queues not written", folder=self._folder, reason=str(error))
        else:
            # One that a Consul has lost that came back empty is so set again.
            found = {entry.key.removeprefix(self._folder) for entry in entries}
            self._known = self._taken(found, ours)
        return self._known

    def _taken(self, found: set[str], ours: set[str]) -> set[str]:
        others = islice(filter(self._is_name, sorted(found - ours)), MOST)
        taken = {*others, *(found & ours)}
        odd = len(found) - len(taken)
        if odd > self._odd:
            self._log.warning("markers of queues are ignored", folder=self._folder, number=odd)
        self._odd = odd
        return taken

    async def remove_marker(self, name: str) -> None:
        """Remove a mark: the queue is gone."""
        self._known.discard(name)
        try:
            await self._consul.kv_delete(self._folder + name)
        except (ConsulUnavailable, ConsulRefused) as error:
            self._log.info(
                "marker of a queue not removed", folder=self._folder, name=name, reason=str(error)
            )
