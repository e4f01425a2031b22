"""The routing keys on `maniple.control`: which agents a command reaches."""

from collections.abc import Iterable


def agent_key(agent: str) -> str:
    """Return the key on `maniple.control` that reaches one agent."""
    return f"agent.{agent}"


def capability_key(capability: str) -> str:
    """Return the key on `maniple.control` that reaches all agents of a capability."""
    return f"capability.{capability}"


ALL_AGENTS = "all"


def control_keys(agent: str, capabilities: Iterable[str]) -> tuple[str, ...]:
    """Return the routing keys with which an agent binds its control queue."""
    return (ALL_AGENTS, agent_key(agent), *map(capability_key, sorted(capabilities)))
