"""All agents that the registry knows, and who is due for a look. Pure: time is an argument."""

import heapq
import math
from collections import Counter
from collections.abc import Iterator

from maniple.control import AgentId, Heartbeat
from maniple_registry.domain.membership import (
    AgentRecord,
    AgentState,
    Bounds,
    Decision,
    Instant,
    deadline,
    decide,
    tick,
)


class Fleet:
    """Records by agent. A heartbeat costs a look-up: deadlines are only looked at when due.

    An agent's entry in the heap is a time before which nothing can have happened to it.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._records: dict[AgentId, AgentRecord] = {}
        self._planned: dict[AgentId, float] = {}
        self._due: list[tuple[float, AgentId]] = []

    def __iter__(self) -> Iterator[AgentRecord]:
        return iter(sorted(self._records.values(), key=lambda record: record.agent))

    def get(self, agent: str) -> AgentRecord | None:
        """Return the record of an agent."""
        return self._records.get(AgentId(agent))

    def hear(self, heartbeat: Heartbeat, now: Instant) -> Decision:
        """Take a heartbeat and keep what was decided."""
        decision = decide(self._records.get(heartbeat.agent), heartbeat, now)
        if decision.record is not None:
            self._keep(decision.record)
        return decision

    def pass_time(self, now: Instant) -> list[Decision]:
        """Return what silence until now has changed."""
        decisions = []
        while self._due and self._due[0][0] <= now.seconds:
            planned, agent = heapq.heappop(self._due)
            if self._planned.get(agent) != planned:
                continue  # an earlier look was planned since, and taken
            del self._planned[agent]
            decision = tick(self._records[agent], now, self._bounds)
            if decision.record is None:
                del self._records[agent]
            else:
                self._keep(decision.record)
            if decision.events:
                decisions.append(decision)
        return decisions

    def counts(self) -> dict[AgentState, int]:
        """Return the number of agents in each state."""
        found = Counter(record.state for record in self._records.values())
        return {state: found[state] for state in AgentState}

    def _keep(self, record: AgentRecord) -> None:
        self._records[record.agent] = record
        due = deadline(record, self._bounds)
        if due < self._planned.get(record.agent, math.inf):
            self._planned[record.agent] = due
            heapq.heappush(self._due, (due, record.agent))
