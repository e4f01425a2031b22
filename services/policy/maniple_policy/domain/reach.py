"""Which live agents and processes a policy matches."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from maniple.topology import lane_name
from maniple_policies import Policy
from maniple_policies.matching import ANY, matcher

GONE = frozenset({"failed", "left"})
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Known:
    """Agents by capability, and the lanes that have consumers."""

    capabilities: Mapping[str, int] = field(default_factory=dict)
    lanes: frozenset[str] = frozenset()

    @classmethod
    def of_agents(cls, agents: Iterable[Mapping[str, Any]]) -> "Known":
        """Read the registry's answer to `agents`."""
        capabilities: dict[str, int] = {}
        lanes: set[str] = set()
        for agent in agents:
            if agent.get("state") not in GONE:
                lanes.update(agent.get("lanes") or ())
                for capability in agent.get("capabilities") or ():
                    capabilities[capability] = capabilities.get(capability, 0) + 1
        return cls(capabilities, frozenset(lanes))

    def touched(self, policy: Policy) -> dict[str, int]:
        """Return the capabilities that a policy selects, each with its number of agents."""
        fits = matcher(policy.match.capability)
        return {
            name: count
            for name, count in sorted(self.capabilities.items())
            if fits is None or fits(name)
        }


def doubts(policy: Policy, known: Known | None, processes: Collection[str]) -> list[str]:
    """Return what in a policy refers to nothing that is alive; unknown facts raise no doubt."""
    found = []
    instance = matcher(policy.match.instance)
    if instance is not None and processes and not any(map(instance, processes)):
        found.append(f"no process is called {policy.match.instance!r}")
    if known is None:
        return found
    touched = known.touched(policy)
    if policy.match.capability != ANY and not touched:
        found.append(f"no agent has a capability that matches {policy.match.capability!r}")
    missing = sorted(
        lane
        for capability in touched
        for variant in policy.variants
        if (lane := lane_name(capability, variant)) not in known.lanes
    )
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        found.append(f"no agent reads the lane {', '.join(missing[:SHOWN])}{more}")
    if policy.instead is not None and policy.instead not in known.capabilities:
        found.append(f"no agent has the capability {policy.instead!r}")
    return found
