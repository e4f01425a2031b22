"""The registry's state machine: pure, so every case is a value."""

import itertools
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from maniple.control import AgentDescription, AgentPhase, Announce, Heartbeat, Retire
from maniple_registry.domain.membership import (
    FINAL,
    TRANSITIONS,
    AgentRecord,
    AgentState,
    Bounds,
    Decision,
    Instant,
    decide,
    tick,
)

PAGE = Path(__file__).parents[2] / "docs" / "states" / "agent.md"
NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
BOUNDS = Bounds()
DESCRIPTION = AgentDescription.model_validate(
    {"agent": "a1", "incarnation": "1", "host": "h", "pid": 1, "started_at": NOW}
)


def beat(sequence: int = 1, **changes: Any) -> Heartbeat:
    fields = {"agent": "a1", "incarnation": "1", "sent_at": NOW, "digest": "d"}
    return Heartbeat.model_validate(fields | {"sequence": sequence} | changes)


def at(seconds: float) -> Instant:
    return Instant(seconds, NOW)


def known(record: AgentRecord | None) -> AgentRecord:
    assert record is not None
    return record


def active(heard: float = 0.0) -> AgentRecord:
    return known(decide(None, beat(description=DESCRIPTION), at(heard)).record)


def keys(decision: Decision) -> list[str]:
    return [event.KEY for event in decision.events]


def test_an_agent_that_describes_itself_is_registered() -> None:
    decision = decide(None, beat(description=DESCRIPTION), at(0))
    assert known(decision.record).state is AgentState.ACTIVE
    assert keys(decision) == ["agent.registered"]
    assert decision.commands == ()


def test_an_agent_that_nobody_described_is_asked_until_it_does() -> None:
    first = decide(None, beat(1), at(0))
    second = decide(first.record, beat(2), at(3))
    third = decide(second.record, beat(3, description=DESCRIPTION), at(6))
    assert (first.commands, second.commands, third.commands) == ((Announce(),), (Announce(),), ())
    assert keys(third) == ["agent.registered"]


def test_a_changed_digest_is_asked_about() -> None:
    assert decide(active(), beat(2, digest="other"), at(3)).commands == (Announce(),)


def test_silence_suspects_then_fails() -> None:
    assert keys(tick(active(), at(4.4), BOUNDS)) == []
    suspected = tick(active(), at(4.5), BOUNDS)
    assert keys(suspected) == ["agent.unreachable"]
    assert tick(known(suspected.record), at(8.9), BOUNDS).events == ()
    failed = tick(known(suspected.record), at(9), BOUNDS)
    assert keys(failed) == ["agent.failed"]
    assert failed.failed == (failed.record,)


def test_a_look_that_comes_late_tells_both_steps() -> None:
    assert keys(tick(active(), at(60), BOUNDS)) == ["agent.unreachable", "agent.failed"]


def test_a_suspected_agent_recovers_with_its_next_heartbeat() -> None:
    suspected = tick(active(), at(5), BOUNDS)
    recovered = decide(suspected.record, beat(2), at(6))
    assert keys(recovered) == ["agent.recovered"]
    assert known(recovered.record).state is AgentState.ACTIVE


def test_a_failed_incarnation_that_speaks_is_told_to_retire() -> None:
    failed = tick(active(), at(9), BOUNDS).record
    decision = decide(failed, beat(2), at(10))
    assert decision == Decision(failed, commands=(Retire(incarnation=beat().incarnation),))


def test_a_new_incarnation_begins_anew_after_a_failure() -> None:
    failed = tick(active(), at(9), BOUNDS).record
    decision = decide(failed, beat(1, incarnation="2", description=DESCRIPTION), at(10))
    assert keys(decision) == ["agent.registered"]
    assert known(decision.record).state is AgentState.ACTIVE
    assert decision.failed == ()


def test_a_new_incarnation_fails_the_one_that_it_replaces() -> None:
    decision = decide(active(), beat(1, incarnation="2", description=DESCRIPTION), at(1))
    assert keys(decision) == ["agent.failed", "agent.registered"]
    assert [gone.incarnation for gone in decision.failed] == ["1"]


def test_heartbeats_of_old_incarnations_change_nothing() -> None:
    newer = decide(active(), beat(1, incarnation="2", description=DESCRIPTION), at(1)).record
    left = decide(newer, beat(2, incarnation="2", state=AgentPhase.LEAVING), at(2)).record
    for record in (newer, left):
        assert decide(record, beat(99), at(3)) == Decision(record)


def test_an_agent_drains_and_leaves() -> None:
    draining = decide(active(), beat(2, state=AgentPhase.DRAINING), at(3))
    left = decide(draining.record, beat(3, state=AgentPhase.LEAVING), at(6))
    assert keys(draining) == ["agent.draining"]
    assert keys(left) == ["agent.left"]
    assert tick(known(left.record), at(605), BOUNDS).record == left.record
    assert tick(known(left.record), at(606), BOUNDS).record is None


def test_an_agent_that_is_frozen_while_draining_fails() -> None:
    draining = decide(active(), beat(2, state=AgentPhase.DRAINING), at(0)).record
    assert keys(tick(known(draining), at(9), BOUNDS)) == ["agent.failed"]


STEPS = st.lists(
    st.one_of(
        st.floats(0, 12),
        st.builds(
            beat,
            st.integers(0, 6),
            incarnation=st.sampled_from(["1", "2", "3"]),
            state=st.sampled_from(AgentPhase),
            digest=st.sampled_from(["d", "e"]),
            description=st.sampled_from([None, DESCRIPTION]),
        ),
    ),
    max_size=30,
)


def walk(steps: list[float | Heartbeat]) -> list[tuple[AgentRecord | None, AgentRecord | None]]:
    """Each step's record before and after, and both decisions made twice."""
    record: AgentRecord | None = None
    seconds = 0.0
    seen: list[tuple[AgentRecord | None, AgentRecord | None]] = []
    for step in steps:
        before = record
        if isinstance(step, Heartbeat):
            record = decide(before, step, at(seconds)).record
            again = decide(record, step, at(seconds + 1))
        else:
            seconds += step
            if before is None:
                continue
            record = tick(before, at(seconds), BOUNDS).record
            again = Decision(None) if record is None else tick(record, at(seconds), BOUNDS)
        assert (again.record, again.events, again.failed) == (record, (), ())
        seen.append((before, record))
    return seen


@given(steps=STEPS)
def test_deciding_twice_changes_nothing_and_final_is_final(steps: list[float | Heartbeat]) -> None:
    for before, after in walk(steps):
        if before is None or after is None or before.state not in FINAL:
            continue
        assert after.state is before.state or after.incarnation != before.incarnation


@given(steps=STEPS)
def test_every_change_of_state_is_in_the_table(steps: list[float | Heartbeat]) -> None:
    allowed = {(source, target) for (source, _), target in TRANSITIONS.items()}
    allowed |= {(a, c) for (a, b), (d, c) in itertools.product(allowed, allowed) if b is d}
    for before, after in walk(steps):
        if before and after and before.incarnation == after.incarnation:
            moved = (before.state, after.state)
            assert before.state is after.state or moved in allowed


def test_the_page_draws_the_table() -> None:
    drawn = re.findall(r"^ {4}(\S+) --> (\S+): (.+)$", PAGE.read_text(), re.MULTILINE)
    table = {(a or "[*]", str(b), str(why)) for (a, why), b in TRANSITIONS.items()}
    assert len(drawn) == len(table)
    assert set(drawn) == table
