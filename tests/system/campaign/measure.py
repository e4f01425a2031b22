"""What one fault did, from what the submitters, the stream, the handlers and the registry say."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

from maniple_runtime.events import AgentEvent, AgentFailed, AgentUnreachable
from maniple_runtime.records import End, TaskKey
from system.campaign.checker import check_agents
from system.campaign.client_history import ClientHistory
from system.campaign.courier import Courier
from system.campaign.history import TENANT, History
from system.campaign.journal import Journal
from system.campaign.matrix import Row
from system.campaign.moves import Ends, moves, stuck
from system.campaign.nemesis import Fault, Incident
from system.campaign.workload import PlannedTask

AT_HOME_WITHIN = 11.0  # they wait in their agent's own queue until it has failed
SILENCE = 3.0  # the longest time without any news of a result while work goes on


@dataclass(frozen=True)
class Evidence:
    """All that is known."""

    client_history: ClientHistory
    history: History
    journal: Journal
    courier: Courier = field(default_factory=Courier)
    deciding: Callable[[str], frozenset[str]] = lambda _: frozenset()
    """Which policies the result of a capability's task has to name."""

    def ends(self, task: str) -> tuple[End, ...]:
        """Return the terminal results of a task, the first first."""
        fate = self.history.ledger.get(TaskKey(TENANT, task))
        return fate.ends if fate else ()


def measure(
    fault: Fault,
    incident: Incident,
    tasks: Collection[PlannedTask],
    evidence: Evidence,
) -> Row:
    """Return the row of a fault whose tasks have had time enough to end."""
    ends = {task.id: evidence.ends(task.id) for task in tasks}
    lost = [task for task in ends if task in evidence.client_history.confirmed and not ends[task]]
    free = {task.id: ends[task.id] for task in tasks if task.affinity is None}
    at_home = {task.id: ends[task.id] for task in tasks if task.affinity is not None}
    came = {task.id: incident.begun + task.due for task in tasks}
    moved, moved_later = (
        {} if fault.moves_within is None else moves(incident, some, evidence.journal, came)
        for some in (free, at_home)
    )
    whole = evidence.history.whole_since(incident.over)
    row = Row(
        fault=fault.name,
        tasks=len(tasks),
        lost=len(lost),
        suspected=_first(AgentUnreachable, incident, evidence.history),
        failed=_first(AgentFailed, incident, evidence.history),
        whole=None if whole is None else whole - incident.over,
        moved=len(moved),
        migrated=max(moved.values(), default=None),
        moved_later=len(moved_later),
        migrated_later=max(moved_later.values(), default=None),
        re_executed=sum(len(evidence.journal.of(task)) > 1 for task in ends),
        late=sum(max(0, len(found) - 1) for found in ends.values()),
    )
    problems = (
        *incident.problems,
        *_lost_or_untold(lost, tasks, evidence),
        *_wrong_ends(tasks, ends, evidence),
        *_too_slow(fault, row, incident, evidence.courier),
        *_moved_wrongly(fault, incident, ends, evidence.journal),
        *_waited(fault, incident, tasks, evidence.journal),
        *_idle(fault, incident, evidence.client_history),
        *check_agents(fault, incident, evidence.history),
    )
    return replace(row, problems=problems)


def _first(kind: type[AgentEvent], incident: Incident, history: History) -> float | None:
    """Return when the last of the agents that were hit was first said to be so."""
    times = {
        event.agent: event.at.timestamp() - incident.struck
        for event in reversed(list(history.said(kind, incident.struck)))
        if incident.lives.get(event.agent) == event.incarnation
    }
    return max(times.values(), default=None)


def _lost_or_untold(
    lost: list[str], tasks: Collection[PlannedTask], evidence: Evidence
) -> Iterator[str]:
    client_history = evidence.client_history
    if lost:
        yield f"{len(lost)} confirmed tasks have no terminal result: {_some(lost)}"
    unconfirmed = [task.id for task in tasks if task.id not in client_history.confirmed]
    if unconfirmed:
        yield f"{len(unconfirmed)} submissions were never confirmed: {_some(unconfirmed)}"
    untold = [task.id for task in tasks if task.id not in client_history.told]
    if untold:
        yield f"the submitters of {len(untold)} tasks were told nothing: {_some(untold)}"


def _wrong_ends(tasks: Collection[PlannedTask], ends: Ends, evidence: Evidence) -> Iterator[str]:
    for task in tasks:
        told, found = evidence.client_history.told.get(task.id), ends[task.id]
        if not told or not found:
            continue
        status = found[0].ending.status.value
        if told.status != status:
            yield f"{task.id} ended {status}, and its submitter was told {told.status}"
        if status != "succeeded":
            yield f"{task.id} ended {status} ({found[0].ending.code})"
            continue
        key = TaskKey(TENANT, task.id)
        missing = evidence.deciding(task.capability) - evidence.history.policies[key]
        if missing:
            yield f"{task.id} was not judged by {', '.join(sorted(missing))}"
        recorded = evidence.history.outputs.get(key)
        for output, where in ((told.output, "its submitter"), (recorded, "the records")):
            if output != task.seconds:
                yield f"{task.id} returned {output} in place of {task.seconds}, says {where}"


def _too_slow(fault: Fault, row: Row, incident: Incident, courier: Courier) -> Iterator[str]:
    if row.whole is None:
        yield "not everything worked again"
    elif row.whole > fault.whole_within:
        yield f"everything worked again only after {row.whole:.1f} s"
    if fault.moves_within is None:
        return
    if not row.moved:
        yield "what was hit had no tasks that had to move"
    migrated = row.migrated or 0.0
    until = incident.struck + migrated
    held_up = courier.held_up(incident.struck, until, fault.moves_within)
    if migrated - held_up > fault.moves_within:
        yield f"a task ran elsewhere only after {migrated:.1f} s ({held_up:.1f} s held up)"
    if (row.migrated_later or 0) > AT_HOME_WITHIN:
        yield f"a task with affinity ran elsewhere only after {row.migrated_later:.1f} s"


def _moved_wrongly(fault: Fault, incident: Incident, ends: Ends, journal: Journal) -> Iterator[str]:
    left = [] if fault.moves_within is None else stuck(incident, ends, journal)
    if left:
        yield f"{len(left)} tasks of what was hit never ran elsewhere: {_some(left)}"


def _waited(
    fault: Fault, incident: Incident, tasks: Collection[PlannedTask], journal: Journal
) -> Iterator[str]:
    """Tell which tasks with affinity began too late, wherever they waited."""
    waited = {
        task.id: runs[0].started - max(incident.struck, incident.begun + task.due)
        for task in tasks
        if task.affinity is not None and (runs := journal.of(task.id))
    }
    late = sorted(task for task, seconds in waited.items() if seconds > AT_HOME_WITHIN)
    if late and fault.moves_within is not None:
        longest = max(waited.values())
        yield f"{len(late)} tasks with affinity waited for up to {longest:.1f} s: {_some(late)}"


def _idle(fault: Fault, incident: Incident, client_history: ClientHistory) -> Iterator[str]:
    """Tell the longest time in which nothing ended, if work had to go on."""
    if not fault.works_meanwhile:
        return
    news = [at for at in client_history.news if incident.struck < at < incident.over]
    gap = max(b - a for a, b in pairwise([incident.struck, *news, incident.over]))
    if gap > SILENCE:
        yield f"no task ended for {gap:.1f} s while work had to go on"


def _some(tasks: list[str]) -> str:
    return ", ".join(tasks[:3]) + (", …" if len(tasks) > 3 else "")
