"""The history: what the cluster has said of itself, in records, by its registry and its pages."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from maniple.codec import decode_value
from maniple.messages import Result
from maniple_runtime.events import AgentEvent, Event
from maniple_runtime.records import Batch, Entry, FirstWins, TaskKey, Verdict

TENANT = "default"
ACTIVE = "active"
STEADY = 1.0
COPY = "~mirror"


class AgentView(NamedTuple):
    """What the registry says of one agent."""

    incarnation: str
    state: str


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the cluster; `at` is Unix time, `agents` is None if no registry answered.

    `unready` are the processes that do not say they are ready, and agents that nobody knows.
    """

    at: float
    agents: Mapping[str, AgentView] | None
    unready: frozenset[str]

    @property
    def whole(self) -> bool:
        """Whether every process says that it is ready and the registry that all agents are."""
        return (
            not self.unready
            and self.agents is not None
            and all(view.state == ACTIVE for view in self.agents.values())
        )


class History:
    """All that was heard and seen since the campaign began."""

    def __init__(self) -> None:
        self.ledger = FirstWins()
        self.others = FirstWins()
        """Of tasks that a fault submitted itself, and of copies that are nobody's."""
        self.events: list[AgentEvent] = []
        self.looks: list[Look] = []
        self.unreadable = 0
        self.outputs: dict[TaskKey, Any] = {}
        """What the first result of each task says that it returned."""
        self.policies: dict[TaskKey, frozenset[str]] = {}
        """The policies that it names."""
        self.changed: list[TaskKey] = []
        """Tasks of which a second result was taken for the first."""

    async def hear(self, batch: Batch) -> None:
        """Take records."""
        self.unreadable += batch.unreadable
        for entry in batch.entries:
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """Take one record."""
        record = entry.record
        if not isinstance(record, Event) and not _is_planned(record.tenant, record.id):
            self.others.take(entry)
            return
        verdict = self.ledger.take(entry)
        if isinstance(record, AgentEvent):
            self.events.append(record)
        if verdict is Verdict.FIRST and isinstance(record, Result):
            key = TaskKey(record.tenant, record.id)
            if key in self.outputs:
                self.changed.append(key)
            self.outputs[key] = decode_value(record.output)
            self.policies[key] = frozenset(record.policies)

    def said(self, kind: type[AgentEvent], since: float) -> Iterator[AgentEvent]:
        """Iterate over the events of a kind from a time on, each once."""
        seen: set[str] = set()
        for event in self.events:
            if isinstance(event, kind) and event.at.timestamp() >= since and event.id not in seen:
                seen.add(event.id)
                yield event

    def incarnation(self, agent: str) -> str:
        """Return the present life of an agent, as the registry last told."""
        for look in reversed(self.looks):
            if look.agents and agent in look.agents:
                return look.agents[agent].incarnation
        return ""

    def whole_since(self, time: float) -> float | None:
        """Return from when on, after `time`, everything was whole for a second; None if never."""
        since = None
        for look in self.looks[bisect_left(self.looks, time, key=attrgetter("at")) :]:
            if not look.whole:
                since = None
            elif since is None:
                since = look.at
            elif look.at - since >= STEADY:
                return since
        return None


def _is_planned(tenant: str, task: str) -> bool:
    return tenant == TENANT and not task.endswith(COPY)
