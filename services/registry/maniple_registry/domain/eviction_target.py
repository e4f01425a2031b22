"""What there is to be removed of a failed agent, and what belongs to it. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from maniple_runtime.control.field_types import AgentId


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be removed of a failed agent: connections by name or prefix, its entry."""

    agent: AgentId
    names: frozenset[str]
    prefix: str
    listed: bool
    """Whether the entry in Consul is its own, and not its successor's."""

    def is_found_in(self, names: Collection[str]) -> bool:
        """Tell whether all of its connections are among these names."""
        begun = not self.prefix or any(name.startswith(self.prefix) for name in names)
        return begun and self.names <= frozenset(names)

    def owns(self, life: str) -> bool:
        """Tell whether this life's entry in Consul is its own; an entry without a life is."""
        prefix = f"{self.agent}.{life}."
        if not life or not (self.names or self.prefix):
            return True
        return prefix == self.prefix or any(name.startswith(prefix) for name in self.names)
