"""All agents that the registry knows, and which deadlines are due. Pure: time is an argument."""

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from maniple.timings import Bounds
from maniple_registry.domain.agent_record import (
    FINAL,
    UNKNOWN_LIFE,
    AgentRecord,
    AgentState,
    Decision,
    Instant,
    LaneView,
)
from maniple_registry.domain.eviction_target import Target
from maniple_registry.domain.silent_queues import SilentQueues
from maniple_registry.domain.stalled_consumers import Crowd, look
from maniple_registry.domain.state_machine import check, deadline, decide, learn, seed, tick
from maniple_registry.domain.timing_mismatch import Risk, explained, misfit
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.messages import Announce, Command, Heartbeat, Reconnect, Retire
from maniple_runtime.events import AgentEvent, AgentFailed

Decided = list[tuple[AgentId, Decision]]


class Agents:
    """Records by agent. A heartbeat costs a look-up: deadlines are only checked when due.

    An agent's entry in the heap is a time before which nothing can have happened to it.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._records: dict[AgentId, AgentRecord] = {}
        self._ids: list[AgentId] = []  # of the records, in order
        self._planned: dict[AgentId, float] = {}
        self._due: list[tuple[float, AgentId]] = []
        self._looked_at = AgentId("")
        self.suspected: frozenset[str] = frozenset()
        self._silent = SilentQueues(self._bounds.hopeless)

    def __iter__(self) -> Iterator[AgentRecord]:
        return map(self._records.__getitem__, tuple(self._ids))

    @property
    def size(self) -> int:
        """The number of agents."""
        return len(self._ids)

    def following(self, agent: str, most: int) -> list[AgentRecord]:
        """Return the records after that of `agent` in the order of ids, at most so many."""
        start = bisect_right(self._ids, agent)
        return [self._records[one] for one in self._ids[start : start + most]]

    def get_record(self, agent: str) -> AgentRecord | None:
        """Return the record of an agent."""
        return self._records.get(AgentId(agent))

    def hears(self, agent: str) -> bool:
        """Tell whether an agent has sent a heartbeat, and was not only seen in Consul."""
        record = self.get_record(agent)
        return record is not None and record.incarnation != UNKNOWN_LIFE

    def counts(self) -> dict[AgentState, int]:
        """Return the number of agents in each state."""
        found = Counter(record.state for record in self._records.values())
        return {state: found[state] for state in AgentState}

    def misfits(self) -> list[tuple[AgentRecord, Risk]]:
        """Return the agents whose reported timings do not fit our bounds."""
        return [
            (record, risk)
            for record in self._records.values()
            if record.description is not None
            and record.state not in FINAL
            and (risk := misfit(record.description.timings, self._bounds)) is not None
        ]

    def explained(self, record: AgentRecord) -> str:
        """Return why one of these does not fit."""
        told = record.description.timings if record.description else None
        return explained(told, self._bounds)

    # --- heartbeats and silence ----------------------------------------------------------

    def record_heartbeat(self, heartbeat: Heartbeat, now: Instant) -> Decision:
        """Apply a heartbeat and keep what was decided."""
        return self._keep(decide(self._records.get(heartbeat.agent), heartbeat, now))

    def seed(self, agent: str, life: str, heard: float, now: Instant) -> None:
        """Add an agent that is in Consul as heard at `heard`, unless it is known."""
        if self.get_record(agent) is None:
            self._keep(seed(AgentId(agent), life, heard, now))

    def overdue(self, now: Instant) -> list[AgentId]:
        """Return, once each, the agents whose silence, or final state, has reached a bound."""
        found = []
        while self._due and self._due[0][0] <= now.seconds:
            planned, agent = heapq.heappop(self._due)
            if self._planned.get(agent) != planned:
                continue  # an earlier look was planned since, and taken
            del self._planned[agent]
            record = self._records.get(agent)
            if record is None:
                continue
            due = deadline(record, self._bounds)
            if due <= now.seconds:
                found.append(agent)
            else:
                self._plan(agent, due)
        return found

    def postpone(self, agents: Iterable[AgentId]) -> None:
        """Have overdue agents returned again."""
        for agent in agents:
            record = self._records.get(agent)
            if record is not None:
                self._plan(agent, deadline(record, self._bounds))

    def condemns(self, agents: Iterable[AgentId], now: Instant) -> bool:
        """Tell whether `judge` would declare one of these failed."""
        found = filter(None, map(self._records.get, agents))
        limit = now.seconds - self._bounds.failed
        return any(one.state not in FINAL and one.heard <= limit for one in found)

    def judge(self, agents: Iterable[AgentId], now: Instant) -> Decided:
        """Return what silence until now has changed about the overdue agents."""
        decisions = []
        for agent in agents:
            record = self._records.get(agent)
            if record is None:
                continue  # forgotten since it was overdue
            decision = tick(record, now, self._bounds)
            if decision.record is None:
                self._forget(agent)
            decisions.append((agent, self._keep(decision)))
        return decisions

    def silent(self, now: Instant) -> tuple[int, int]:
        """Return how many agents have missed a heartbeat, and how many there are."""
        heard = [r.heard for r in self._records.values() if r.state not in FINAL]
        limit = now.seconds - self._bounds.unreachable
        return sum(at <= limit for at in heard), len(heard)

    # --- what else is known of them ------------------------------------------------------

    def apply_checks(self, critical: Collection[str], now: Instant) -> Decided:
        """Apply the ids of all agents whose HTTP check is critical; return the changes."""
        changed = [
            (record, record.agent in critical)
            for record in self._records.values()
            if record.unwell != (record.agent in critical)
        ]
        return [
            (record.agent, self._keep(check(record, now, self._bounds, critical=unwell)))
            for record, unwell in changed
        ]

    def open_lanes(self) -> set[str]:
        """Return the lanes of which some agent reports that it would take more now."""
        return {lane for record in self._records.values() for lane in record.open_lanes()}

    def addressed(self, most: int) -> list[AgentId]:
        """Return agents whose own queue is to be inspected now: doubted ones, and the next ones.

        At most so many of each, because there may be as many queues as agents.
        """
        own = sorted(r.agent for r in self._records.values() if r.is_addressed and r.open_lanes())
        doubted = [agent for agent in own if self._starves_alone(self._records[agent])][:most]
        start = bisect_right(own, self._looked_at)
        rest = (own[start:] + own[:start])[:most]
        self._looked_at = rest[-1] if rest else self._looked_at
        return sorted({*doubted, *rest})

    @staticmethod
    def _starves_alone(record: AgentRecord) -> bool:
        return record.starving is not None and record.starving.place == record.own_place

    def update_queue_views(self, views: Mapping[str, LaneView], now: Instant) -> Decided:
        """Apply inspected places; return what that has changed, by agent.

        `suspected` are then the places that are more likely at fault than the agents that starve
        there, or that all report to consume there.
        """
        untaken = any(view.untaken for view in views.values())
        concerned = [
            record
            for record in self._records.values()
            if record.starving is not None or (untaken and record.open_lanes())
        ]
        suspected, decided = set(), []
        crowd = Crowd(self._records.values() if concerned else (), views, now, self._bounds)
        for record in concerned:
            spared = crowd.spares(record)
            if spared and record.starving is not None:
                suspected.add(record.starving.place)
            decision = look(record, crowd.views_for(record), now, self._bounds, spared=spared)
            decided.append((record.agent, self._keep(decision)))
        self.suspected = self._silent.find_silent(self._records.values(), now.seconds) | suspected
        return decided

    def learn_event(self, event: AgentFailed, now: Instant) -> Decision:
        """Apply what another registry has declared."""
        return self._keep(learn(self._records.get(event.agent), event, now))

    # --- whether something is still to be done -------------------------------------------

    def wants(self, agent: AgentId, command: Command) -> bool:
        """Tell whether an agent still is in the state for which the command was decided."""
        record = self._records.get(agent)
        match record, command:
            case None, _:
                return False
            case AgentRecord(), Announce():
                return record.state not in FINAL and record.digest != record.heartbeat.digest
            case AgentRecord(), Retire():
                return _wants_retired(record, command)
            case AgentRecord(), Reconnect():
                return record.starving is not None and record.state not in FINAL
            case _:
                return True

    def stands(self, event: AgentEvent) -> bool:
        """Whether an event of a life that was unknown is not that of a life known since."""
        record = self._records.get(event.agent)
        return (
            event.incarnation != UNKNOWN_LIFE
            or record is None
            or record.incarnation == UNKNOWN_LIFE
        )

    def target(self, failed: AgentRecord) -> Target:
        """Return what is to be removed of a failed agent that its successor does not use."""
        now = self._records.get(failed.agent)
        successor = now if now is not None and now.incarnation != failed.incarnation else None
        names = frozenset(failed.heartbeat.connections)
        if successor is not None:
            names -= frozenset(successor.heartbeat.connections)
        known = bool(failed.heartbeat.connections) or successor is not None
        return Target(failed.agent, names, "" if known else failed.prefix, successor is None)

    def _keep(self, decision: Decision) -> Decision:
        record = decision.record
        if record is not None:
            if record.agent not in self._records:
                insort(self._ids, record.agent)
            self._records[record.agent] = record
            self._plan(record.agent, deadline(record, self._bounds))
        return decision

    def _forget(self, agent: AgentId) -> None:
        del self._records[agent]
        del self._ids[bisect_left(self._ids, agent)]
        self._planned.pop(agent, None)  # it may have been heard since it was overdue

    def _plan(self, agent: AgentId, due: float) -> None:
        if due < self._planned.get(agent, math.inf):
            self._planned[agent] = due
            heapq.heappush(self._due, (due, agent))


def _wants_retired(record: AgentRecord, command: Retire) -> bool:
    if command.incarnation == record.incarnation:
        return record.state is AgentState.FAILED
    replaced = record.state not in FINAL
    ended = command.incarnation in record.past
    older = not replaced and command.incarnation < record.incarnation
    return (ended or older) and command.replaced == replaced
