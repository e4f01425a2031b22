"""`domain.pending_actions`: a standby does what nobody else has done, in time and once."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from maniple.timings import Bounds, Standby
from maniple_registry.domain.agent_record import AgentRecord, AgentState
from maniple_registry.domain.pending_actions import Evict, PendingActions, Tell
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import Announce, Heartbeat, Reconnect
from maniple_runtime.events import AgentFailed

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
STEP = 0.1
GRACE, RECONNECT_GRACE = Standby().grace, Standby().reconnect_grace
A1 = AgentId("a1")


def failed(agent: str) -> AgentFailed:
    return AgentFailed(at=NOW, agent=AgentId(agent), incarnation=Incarnation("1"))


def test_a_leader_acts_at_once_and_a_standby_after_its_grace() -> None:
    agenda = PendingActions()
    agenda.add_action(failed("a1"), 0)
    agenda.add_action(failed("a2"), 0.1)
    assert agenda.due(0.49, leading=False) == []
    assert agenda.due(GRACE, leading=False) == [failed("a1")]
    assert agenda.due(GRACE, leading=True) == [failed("a2")]
    assert len(agenda) == 0


def test_what_was_seen_done_is_not_done_again() -> None:
    agenda = PendingActions()
    agenda.see(failed("a1").id, 0)
    agenda.add_action(failed("a1"), 0.1)
    agenda.add_action(failed("a2"), 0.1)
    agenda.see(failed("a2").id, 0.2)
    assert agenda.due(1, leading=False) == []


def test_what_was_seen_long_ago_may_be_said_again() -> None:
    agenda = PendingActions()
    agenda.see(failed("a1").id, 0)
    agenda.see(failed("a2").id, 11)
    agenda.add_action(failed("a1"), 11)
    assert agenda.due(11, leading=True) == [failed("a1")]


def test_a_command_that_waits_is_not_added_twice() -> None:
    agenda = PendingActions()
    for _ in range(3):
        agenda.add_action(Tell(A1, Announce()), 0)
    agenda.add_action(Tell(A1, Reconnect()), 0)
    assert agenda.due(GRACE, leading=False) == [Tell(A1, Announce())]
    assert agenda.due(RECONNECT_GRACE - 0.1, leading=False) == []
    assert agenda.due(RECONNECT_GRACE, leading=False) == [Tell(A1, Reconnect())]


def test_a_standby_has_an_agent_reconnect_soon_only_while_nobody_leads() -> None:
    agenda = PendingActions()
    agenda.add_action(Tell(A1, Reconnect()), 0, led=False)
    assert agenda.due(GRACE, leading=False) == [Tell(A1, Reconnect())]
    assert Bounds().hopeless - Bounds().reconnect <= RECONNECT_GRACE


def test_a_standby_evicts_again_although_the_failure_was_told() -> None:
    heartbeat = Heartbeat(
        agent=A1, incarnation=Incarnation("1"), sequence=1, sent_at=NOW, digest="d"
    )
    evict = Evict(AgentRecord(AgentState.FAILED, heartbeat, 0, 0))
    agenda = PendingActions()
    for deed in (failed("a1"), evict, evict):
        agenda.add_action(deed, 0)
    agenda.see(failed("a1").id, 0.1)
    assert agenda.due(0.49, leading=False) == []
    assert agenda.due(GRACE, leading=False) == [evict]
    assert len(agenda) == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5)),
        st.tuples(st.just("see"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(1, 8)),
    ),
    max_size=60,
)


@given(steps=STEPS, leads_from=st.integers(0, 60))
def test_every_event_is_told_by_somebody_in_time_and_by_us_at_most_once(
    steps: list[tuple[str, int]], leads_from: int
) -> None:
    agenda, now = PendingActions(), 0.0
    decided: dict[str, float] = {}
    done: set[str] = set()
    for turn, (what, number) in enumerate(steps):
        event = failed(f"a{number}")
        if what == "add" and event.id not in decided:
            decided[event.id] = now
            agenda.add_action(event, now)
        elif what == "see":
            done.add(event.id)
            agenda.see(event.id, now)
        elif what == "wait":
            now += STEP * number
        for deed in agenda.due(now, leading=turn >= leads_from):
            assert isinstance(deed, AgentFailed)
            assert deed.id not in done
            done.add(deed.id)
        late = {i for i, at in decided.items() if turn >= leads_from or now >= at + GRACE}
        assert late <= done
