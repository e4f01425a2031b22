"""The registry's view of an agent, decided from heartbeats, silence and Consul's checks.

Pure: time is an argument. The allowed transitions are in `transitions`; what its lanes show about
it, in `stalled_consumers`.
"""

from dataclasses import replace
from typing import Final

from maniple.timings import Bounds
from maniple_registry.domain.agent_record import (
    FINAL,
    UNKNOWN_LIFE,
    AgentRecord,
    AgentState,
    Decision,
    Instant,
    places_of,
)
from maniple_registry.domain.stalled_consumers import starves_still
from maniple_registry.domain.transition_events import event_of, move
from maniple_registry.domain.transitions import TRANSITIONS, Trigger
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation, began, is_of_the_future, order
from maniple_runtime.control.messages import AgentPhase, Announce, Heartbeat, Retire
from maniple_runtime.events import (
    AgentDraining,
    AgentEvent,
    AgentFailed,
    AgentRecovered,
    AgentRegistered,
)

PAST_KEPT = 8
REPLACED = "replaced by a new incarnation"


_SAID: Final = {
    AgentPhase.ACTIVE: Trigger.HEARD,
    AgentPhase.DRAINING: Trigger.DRAINS,
    AgentPhase.LEAVING: Trigger.LEAVES,
}


def _said(heartbeat: Heartbeat) -> Trigger:
    """Return a heartbeat's phase; a newer agent's may be unknown here."""
    return _SAID.get(heartbeat.state, Trigger.HEARD)


def seed(agent: AgentId, life: str, heard: float, now: Instant) -> Decision:
    """Return the record of an agent that is in Consul and not heard, as if heard at `heard`."""
    heartbeat = _unheard(agent, UNKNOWN_LIFE, now)
    state = TRANSITIONS[None, Trigger.SEEN]
    return Decision(AgentRecord(state, heartbeat, heard, heard, begun=heard, life=life))


def decide(record: AgentRecord | None, heartbeat: Heartbeat, now: Instant) -> Decision:
    """Apply a heartbeat; one that is late, doubled or of an old incarnation changes no state.

    Nor does one of an incarnation of the future: all later ones would seem older.
    """
    if record is None or heartbeat.incarnation != record.incarnation:
        return _another(record, heartbeat, now)
    if record.state is AgentState.FAILED:
        return Decision(record, commands=(Retire(incarnation=record.incarnation),))
    if record.state is AgentState.LEFT or heartbeat.sequence <= record.heartbeat.sequence:
        return Decision(record)
    return _hear(record, heartbeat, now)


def _another(record: AgentRecord | None, heartbeat: Heartbeat, now: Instant) -> Decision:
    if _cannot_be(record, heartbeat, now):
        return Decision(record, refused=True)
    if record is None:
        return _first(heartbeat, now)
    if record.incarnation == UNKNOWN_LIFE:
        return _meet(record, heartbeat, now)
    return _other_incarnation(record, heartbeat, now)


def _cannot_be(record: AgentRecord | None, heartbeat: Heartbeat, now: Instant) -> bool:
    # Its clock may be wrong, or ours. And one that comes back begins after the life that has ended.
    before = began(record.incarnation) if record is not None else None
    times = (now.at.timestamp(), heartbeat.sent_at.timestamp(), before or 0.0)
    return is_of_the_future(heartbeat.incarnation, *times)


def tick(record: AgentRecord, now: Instant, bounds: Bounds) -> Decision:
    """Apply the passing of time: suspect, fail or forget an agent that was silent for too long."""
    if record.state in FINAL:
        return Decision(None if now.seconds >= record.since + bounds.forgotten else record)
    events: tuple[AgentEvent, ...] = ()
    for trigger, bound in (
        (Trigger.SUSPECTED, bounds.unreachable),
        (Trigger.LOST, bounds.failed),
    ):
        if now.seconds < record.heard + bound:
            break
        record, told = move(record, trigger, now, f"{trigger} ({bound:g} s)")
        events += told
    failed = (record,) if record.state is AgentState.FAILED else ()
    return Decision(record, events, failed=failed)


def check(record: AgentRecord, now: Instant, bounds: Bounds, *, critical: bool) -> Decision:
    """Apply the state of the agent's HTTP check in Consul; it suspects, and never fails."""
    if record.state in FINAL or record.unwell == critical:
        return Decision(record)
    if critical and now.seconds - record.begun < bounds.unwell:
        return Decision(record)  # it failed for a life before this one
    record = replace(record, unwell=critical)
    if not critical:
        return Decision(record)
    return Decision(*move(record, Trigger.UNWELL, now, Trigger.UNWELL))


def learn(record: AgentRecord | None, event: AgentFailed, now: Instant) -> Decision:
    """Apply another registry's declaration that an incarnation failed: it is final here too."""
    if is_of_the_future(event.incarnation):
        return Decision(record, refused=True)
    if record is None:
        if event.incarnation == UNKNOWN_LIFE:
            return Decision(None)
        heartbeat = _unheard(event.agent, event.incarnation, now)
        state = TRANSITIONS[None, Trigger.TOLD]
        return Decision(AgentRecord(state, heartbeat, now.seconds, now.seconds))
    if record.incarnation not in {event.incarnation, UNKNOWN_LIFE}:
        return Decision(record)
    heartbeat = record.heartbeat.model_copy(update={"incarnation": event.incarnation})
    named = replace(record, heartbeat=heartbeat)
    if record.state in FINAL:  # of which we perhaps did not know which life it was
        return Decision(named)
    failed, _ = move(named, Trigger.TOLD, now)
    return Decision(failed, failed=(failed,))


def deadline(record: AgentRecord, bounds: Bounds) -> float:
    """Return the second at which `tick` may next change this record."""
    match record.state:
        case AgentState.ACTIVE:
            return record.heard + bounds.unreachable
        case AgentState.UNREACHABLE | AgentState.DRAINING:
            return record.heard + bounds.failed
        case _:
            return record.since + bounds.forgotten


def _unheard(agent: AgentId, incarnation: Incarnation, now: Instant) -> Heartbeat:
    # Not validated: a life that is not known has no name.
    return Heartbeat.model_construct(
        agent=agent, incarnation=incarnation, sequence=0, sent_at=now.at, digest=""
    )


def _first(heartbeat: Heartbeat, now: Instant, life: str = "") -> Decision:
    """Return the record of an unknown life; one that stood still may have failed unnoticed."""
    if not heartbeat.overdue or heartbeat.state is AgentPhase.LEAVING:
        return _begin(heartbeat, now, ())
    state = TRANSITIONS[None, Trigger.OVERDUE]
    record = AgentRecord(state, heartbeat, now.seconds, now.seconds, life=life)
    return Decision(record, commands=(Retire(incarnation=heartbeat.incarnation),))


def _begin(heartbeat: Heartbeat, now: Instant, past: tuple[Incarnation, ...]) -> Decision:
    state = TRANSITIONS.get((None, _said(heartbeat)))
    if state is None:
        return Decision(None)
    offset = _offset(heartbeat, now)
    record = AgentRecord(
        state,
        heartbeat,
        now.seconds,
        now.seconds,
        past=past,
        begun=now.seconds,
        offset=offset,
        ahead=offset,
    )
    events = (event_of(AgentDraining, record, now),) if state is AgentState.DRAINING else ()
    return _described(record, heartbeat, now, events)


def _meet(record: AgentRecord, heartbeat: Heartbeat, now: Instant) -> Decision:
    """Apply the first heartbeat of an agent that was only seen in Consul."""
    if record.state is AgentState.FAILED and record.has_connection_in(heartbeat.connections):
        known = replace(record, heartbeat=heartbeat)
        return Decision(known, commands=(Retire(incarnation=heartbeat.incarnation),))
    begun = _first(heartbeat, now, record.life)
    if begun.record is None:
        return Decision(record)
    if record.state is not AgentState.UNREACHABLE or begun.record.state is not AgentState.ACTIVE:
        return begun
    return replace(begun, events=(*begun.events, event_of(AgentRecovered, begun.record, now)))


def _other_incarnation(record: AgentRecord, heartbeat: Heartbeat, now: Instant) -> Decision:
    if heartbeat.incarnation in record.past:
        return _answer_past(record, heartbeat)
    if heartbeat.incarnation < record.incarnation and not _is_set_right(record, heartbeat, now):
        # Incarnations sort by time, but a host's clock may have been set back between two of them,
        # and of a long past nothing is kept. Behind one that has ended none of these begins.
        return _answer_past(record, heartbeat) if record.state in FINAL else Decision(record)
    past = (*record.past, record.incarnation)[-PAST_KEPT:]
    begun = _begin(heartbeat, now, past)
    if begun.record is None:
        return Decision(record)
    if record.state in FINAL:
        return begun
    gone = replace(record, state=AgentState.FAILED, since=now.seconds)
    events = (event_of(AgentFailed, gone, now, REPLACED), *begun.events)
    return replace(begun, events=events, failed=(gone,))


def _is_set_right(record: AgentRecord, heartbeat: Heartbeat, now: Instant) -> bool:
    """Tell whether its clock was far ahead at the start of the known life, and no more."""
    at = now.at.timestamp()
    first_heard = at - (now.seconds - record.begun)
    by_clock = began(heartbeat.incarnation)
    if by_clock is None or by_clock < first_heard:
        return False
    latest = max(at, heartbeat.sent_at.timestamp())  # our clock may be behind
    return order(heartbeat.incarnation, latest) > order(record.incarnation, latest)


def _answer_past(record: AgentRecord, heartbeat: Heartbeat) -> Decision:
    """Answer a process that was taken for dead: it shall leave its id to its new owner.

    Where nobody has it, it comes back as a life that sorts after the one that ended last.
    """
    if heartbeat.state is AgentPhase.LEAVING:
        return Decision(record)
    replaced = record.state not in FINAL
    after = "" if replaced else record.incarnation
    retire = Retire(incarnation=heartbeat.incarnation, replaced=replaced, after=after)
    return Decision(record, commands=(retire,))


def _hear(record: AgentRecord, heartbeat: Heartbeat, now: Instant) -> Decision:
    delivered = heartbeat.last_delivery_at
    fed = delivered is not None and delivered != record.heartbeat.last_delivery_at
    offset = _offset(heartbeat, now)
    # Written out for each heartbeat: `replace` costs several times as much.
    heard = AgentRecord(
        record.state,
        heartbeat,
        now.seconds,
        record.since,
        record.description,
        record.digest,
        record.past,
        record.begun,
        record.unwell,
        record.starving,
        record.life,
        record.places,
        now.seconds if fed else record.fed,
        offset,
        max(offset, record.offset),
    )
    if record.starving is not None and not starves_still(heard, record.starving):
        heard = replace(heard, starving=None)
    trigger = _said(heartbeat)
    if trigger is Trigger.HEARD and heard.doubted:
        return _described(heard, heartbeat, now, ())
    moved, events = move(heard, trigger, now)
    return _described(moved, heartbeat, now, events)


def _offset(heartbeat: Heartbeat, now: Instant) -> float:
    return (heartbeat.sent_at - now.at).total_seconds()


def _described(
    record: AgentRecord, heartbeat: Heartbeat, now: Instant, events: tuple[AgentEvent, ...]
) -> Decision:
    if heartbeat.digest == record.digest or record.state in FINAL:
        return Decision(record, events)
    description = heartbeat.description
    if description is None:
        return Decision(record, events, (Announce(),))
    places = places_of(description)
    record = replace(record, description=description, digest=heartbeat.digest, places=places)
    registered = AgentRegistered(
        at=now.at,
        agent=record.agent,
        incarnation=record.incarnation,
        sequence=heartbeat.sequence,
        description=description,
    )
    return Decision(record, (registered, *events))
