"""What a campaign knows after one fault, made up for the tests of what it would see."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Raw

from maniple.messages import Result, Status
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.events import AgentEvent, AgentFailed, AgentUnreachable
from maniple_runtime.records import Entry, Position
from system.campaign.client_history import ClientHistory, Told
from system.campaign.courier import Courier
from system.campaign.history import AgentView, History, Look
from system.campaign.journal import Journal
from system.campaign.matrix import Row
from system.campaign.measure import Evidence, measure
from system.campaign.nemesis import Expected, Fault, Incident
from system.campaign.nemesis_faults import nothing
from system.campaign.workload import AFFINE, PlannedTask, Submitter

STRUCK = 1_000.0
TASK = PlannedTask("t1", "campaign.async", 1.0, Submitter.PLAIN, 0.0)
AT_HOME = PlannedTask("t2", AFFINE, 1.0, Submitter.PLAIN, 0.0, affinity="key")


class Case:
    """What is known after the agent a1 was killed, which held t1 and t2."""

    def __init__(self, journal: Path) -> None:
        self._path = journal
        self.client_history = ClientHistory()
        self.history = History()
        self.courier = Courier()
        self.fault = Fault(
            "an agent is killed", nothing, expected=Expected.FAILED, moves_within=1.0
        )
        self.incident = Incident(STRUCK - 1, STRUCK, STRUCK, {"a1": "1"}, {7: "a1"})

    def good(self) -> "Case":
        """Describe a cluster in which everything is as it should be."""
        for task in ("t1", "t2"):
            self.client_history.confirm(task)
            self.client_history.tell(task, Told("succeeded", 1.0))
            self.ran("a1", -0.5, task=task)
        self.ran("a2", 0.5)
        self.ran("a2", 9.5, task="t2")
        self.ended(0)
        self.ended(1, task="t2")
        self.failed("a1", 3.0)
        self.shown(4.0, "2")
        self.shown(5.0, "2")
        return self

    def frozen(self) -> "Case":
        """Describe a fault that froze a1 for 12 s, after which all is as it should be."""
        self.fault = Fault(
            "an agent is frozen", nothing, expected=Expected.FAILED, moves_within=10.0
        )
        self.incident = Incident(STRUCK - 1, STRUCK, STRUCK + 12.0, {"a1": "1"})
        self.history.events.clear()
        self.history.looks.clear()
        self.suspected("a1", 4.0)
        self.failed("a1", 8.5)
        self.shown(3.9, "1")
        self.shown(4.1, "1", "unreachable")
        self.shown(8.6, "1", "failed")
        self.shown(13.0, "2")
        self.shown(14.0, "2")
        return self

    def alive(self) -> "Case":
        """Describe a fault that hit a1 without any harm or event."""
        self.fault = Fault("connections are reset", nothing)
        self.incident = Incident(STRUCK - 1, STRUCK, STRUCK + 4.0, {"a1": "1"})
        self.history.events.clear()
        return self

    def forget_runs(self) -> None:
        self._path.write_text("")

    def ran(
        self, agent: str, after: float, finished: float | None = None, task: str = "t1"
    ) -> None:
        run = f"{agent}{after}{task}"
        note = {"run": run, "task": task, "agent": agent, "started": STRUCK + after}
        notes = [note, {**note, "finished": STRUCK + finished}] if finished else [note]
        with self._path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in notes)

    def ended(
        self,
        offset: int,
        status: Status = Status.SUCCEEDED,
        task: str = "t1",
        output: bytes = b"1.0",
    ) -> None:
        result = Result(
            id=task,
            capability="c",
            status=status,
            lost=1,
            output=Raw(output),
            finished_at=datetime.fromtimestamp(STRUCK + offset, UTC),
        )
        self.history.take(Entry(Position(offset), result))

    def failed(self, agent: str, after: float, life: str = "1") -> None:
        self._said(AgentFailed, agent, after, life)

    def suspected(self, agent: str, after: float, life: str = "1") -> None:
        self._said(AgentUnreachable, agent, after, life)

    def _said(self, kind: type[AgentEvent], agent: str, after: float, life: str) -> None:
        at = datetime.fromtimestamp(STRUCK + after, UTC)
        fields: dict[str, Any] = {"agent": AgentId(agent), "incarnation": Incarnation(life)}
        fields["sequence"] = len(self.history.events)  # each suspicion is one of its own
        self.history.events.append(kind(at=at, **fields))

    def shown(self, after: float, life: str, state: str = "active") -> None:
        views = {"a1": AgentView(life, state), "a2": AgentView("1", "active")}
        self.history.looks.append(Look(STRUCK + after, views, frozenset()))

    @property
    def evidence(self) -> Evidence:
        journal = Journal(self._path)
        journal.read()
        return Evidence(self.client_history, self.history, journal, self.courier)

    def row(self) -> Row:
        return measure(self.fault, self.incident, [TASK, AT_HOME], self.evidence)

    @property
    def said(self) -> str:
        return "; ".join(self.row().problems)
