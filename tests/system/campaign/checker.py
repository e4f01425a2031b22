"""The checker of agents: whether what was told of them is what they were."""

from collections.abc import Iterable, Iterator

from maniple_runtime.events import AgentEvent, AgentFailed, AgentUnreachable
from system.campaign.history import ACTIVE, History
from system.campaign.nemesis import Expected, Fault, Incident

SUSPECTED_WITHIN = 5.5  # four and a half seconds of silence, and one to say so
FAILED_WITHIN = 10.0  # nine seconds of silence, and one to say so
ANSWER_SECONDS = 1.0  # for which the answer to a look may take: it tells what was true then
SHOWN_ALIVE = frozenset({"active", "unreachable", "draining"})


def check_agents(fault: Fault, incident: Incident, history: History) -> Iterator[str]:
    """Compare what was told since a fault with what it did."""
    yield from _failures(fault, incident, history)
    for event in history.said(AgentUnreachable, incident.struck):
        if not explains(fault, incident, event):
            yield f"{event.agent} was said to be unreachable, and nothing kept it silent"
    if fault.expected is Expected.ALIVE:
        return
    for agent, life in incident.lives.items():
        yield from _suspicion(agent, life, incident, history)
        yield from _shown(agent, life, incident, history)


def explains(fault: Fault, incident: Incident, event: AgentEvent) -> bool:
    """Whether a fault is why an agent was said to be unreachable."""
    at, agent = event.at.timestamp(), str(event.agent)
    if fault.shakes_all:
        return incident.struck <= at <= incident.over + fault.whole_within
    silent = fault.expected is not Expected.ALIVE and agent in incident.lives
    same = event.incarnation in {incident.lives.get(agent), ""}  # "": known from Consul alone
    return silent and same and incident.struck <= at <= incident.gone_until(agent) + 1.0


def unexplained(history: History, rows: Iterable[tuple[Fault, Incident]]) -> Iterator[str]:
    """Account for every agent that was said to be unreachable in the whole run."""
    known = list(rows)
    for event in history.said(AgentUnreachable, 0.0):
        if not any(explains(fault, incident, event) for fault, incident in known):
            yield f"{event.agent} was said to be unreachable at {event.at:%H:%M:%S} without a fault"


def _failures(fault: Fault, incident: Incident, history: History) -> Iterator[str]:
    expected = fault.failures(incident)
    failures = {
        (str(event.agent), str(event.incarnation)): event.at.timestamp() - incident.struck
        for event in history.said(AgentFailed, incident.struck)
    }
    for agent, life in failures.keys() - expected:
        yield f"{agent} was declared failed after {failures[agent, life]:.1f} s though it lived"
    for agent, life in expected:
        told = failures.get((agent, life))
        if told is None or told > FAILED_WITHIN:
            when = "never" if told is None else f"only after {told:.1f} s"
            yield f"{agent} was declared failed {when}"
        elif told + incident.struck < incident.undecided_until:
            yield f"{agent} was declared failed after {told:.1f} s, before who should do it died"
        if history.incarnation(agent) == life:
            yield f"{agent} did not come back as a new incarnation"


def _suspicion(agent: str, life: str, incident: Incident, history: History) -> Iterator[str]:
    told = [
        event.at.timestamp() - incident.struck
        for kind in (AgentUnreachable, AgentFailed)
        for event in history.said(kind, incident.struck)
        if (event.agent, event.incarnation) == (agent, life)
    ]
    if not told:
        yield f"{agent} was not suspected"
    elif min(told) > SUSPECTED_WITHIN:
        yield f"{agent} was suspected only after {min(told):.1f} s"


def _shown(agent: str, life: str, incident: Incident, history: History) -> Iterator[str]:
    """Tell the first look that showed an agent as better than it was."""
    killed = agent in incident.killed.values()
    until = incident.gone_until(agent) - ANSWER_SECONDS
    for look in history.looks:
        view, after = (look.agents or {}).get(agent), look.at - incident.struck
        # While it lives nobody else has its id; when it was killed its next life has.
        if view is None or look.at >= until or (killed and view.incarnation != life):
            continue
        well = after > SUSPECTED_WITHIN and view.state == ACTIVE
        if well or (after > FAILED_WITHIN and view.state in SHOWN_ALIVE):
            yield f"{agent} was shown {view.state} {after:.1f} s after it had gone"
            return
