"""The registry's state machine under any sequence of what can happen to it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from maniple.timings import Bounds
from maniple_registry.domain import state_machine
from maniple_registry.domain.agent_record import (
    FINAL,
    UNKNOWN_LIFE,
    AgentRecord,
    AgentState,
    Decision,
    Instant,
    LaneView,
)
from maniple_registry.domain.stalled_consumers import look
from maniple_registry.domain.state_machine import check, decide, learn, seed, tick
from maniple_registry.domain.transitions import TRANSITIONS
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.messages import AgentDescription, AgentPhase, Heartbeat
from maniple_runtime.events import AgentFailed

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
BOUNDS = Bounds()
LIVES = ("1", "2", "3", "4")
DESCRIPTION = AgentDescription.model_validate(
    {"agent": "a1", "incarnation": "1", "host": "h", "pid": 1, "started_at": NOW, "lanes": ["x"]}
)
ALLOWED = {(source, target) for (source, _), target in TRANSITIONS.items()}
BEATS = {
    "sequence": st.integers(0, 30),
    "incarnation": st.sampled_from(LIVES),
    "state": st.sampled_from([*[AgentPhase.ACTIVE] * 4, *AgentPhase, AgentPhase("asleep")]),
    "slots": st.sampled_from([4, 4, 0]),
    "hungry": st.sampled_from([None, ("x",), ()]),
    "delivered": st.integers(0, 2),
    "described": st.booleans(),
    "overdue": st.booleans(),
}


class Membership(RuleBasedStateMachine):
    """One agent, its heartbeats, its silence, its checks, its lanes and other registries."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(state_machine, "PAST_KEPT", 1)  # of a longer past nothing is known
        self.latest = ""
        self.record: AgentRecord | None = None
        self.seconds = 0.0
        self.failed_events: list[str] = []
        self.ended: dict[str, AgentState] = {}

    @property
    def now(self) -> Instant:
        return Instant(self.seconds, NOW)

    def take(self, decision: Decision, again: Decision) -> None:
        """Keep a decision; having decided the same `again` on its record changes nothing."""
        assert (again.record, again.events, again.failed) == (decision.record, (), ())
        before, after = self.record, decision.record
        if before and after and before.incarnation == after.incarnation:
            path = (before.state, after.state)
            through = any((before.state, s) in ALLOWED and (s, after.state) in ALLOWED
                          for s in AgentState)  # fmt: skip
            assert before.state is after.state or path in ALLOWED or through
        self.failed_events += [e.id for e in decision.events if isinstance(e, AgentFailed)]
        for gone in decision.failed:
            self.ended[gone.incarnation] = AgentState.FAILED
        if after is not None and after.state in FINAL:
            self.ended.setdefault(after.incarnation, after.state)
        if after is None and before is not None:
            self.ended.clear()  # forgotten after ten minutes
            self.failed_events.clear()
            self.latest = ""
        self.record = after

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(seen=st.booleans())
    def begin(self, *, seen: bool) -> None:
        if seen:
            self.record = seed(AgentId("a1"), "abc", 0.0, self.now).record

    @rule(fields=st.fixed_dictionaries(BEATS))
    def beat(self, fields: dict[str, Any]) -> None:
        described, delivered = fields.pop("described"), fields.pop("delivered")
        if described:
            fields["description"] = DESCRIPTION
        fields["last_delivery_at"] = NOW + timedelta(seconds=delivered)
        fixed = {"agent": "a1", "sent_at": NOW, "digest": "d"}
        heartbeat = Heartbeat.model_validate(fixed | fields)
        decision = decide(self.record, heartbeat, self.now)
        self.take(decision, decide(decision.record, heartbeat, self.now))

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 4.5, 9.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        if self.record is not None:
            decision = tick(self.record, self.now, BOUNDS)
            done = decision.record is None
            assert done or decision.record is not None
            again = Decision(None) if done else tick(_is(decision.record), self.now, BOUNDS)
            self.take(decision, again)

    @rule(critical=st.booleans())
    def consul_checks(self, *, critical: bool) -> None:
        if self.record is not None:
            decision = check(self.record, self.now, BOUNDS, critical=critical)
            assert AgentFailed not in map(type, decision.events)
            self.take(decision, check(_is(decision.record), self.now, BOUNDS, critical=critical))

    @rule(
        ready=st.integers(0, 1),
        consumers=st.integers(0, 1),
        suspects=st.integers(0, 1),
        seconds=st.sampled_from([0, 1, 3]),
        spared=st.booleans(),
    )
    def look(
        self, *, ready: int, consumers: int, suspects: int, seconds: int, spared: bool
    ) -> None:
        self.seconds += seconds
        if self.record is not None:
            lanes = {
                "x": LaneView(ready, consumers),
                "x.suspect": LaneView(ready, suspects, by_consumers=True),
            }
            decision = look(self.record, lanes, self.now, BOUNDS, spared=spared)
            assert not (spared and decision.failed)
            again = look(_is(decision.record), lanes, self.now, BOUNDS, spared=spared)
            self.take(decision, again)

    @rule(incarnation=st.sampled_from([*LIVES, UNKNOWN_LIFE]))
    def others_say_failed(self, incarnation: str) -> None:
        fields = {"at": NOW, "agent": "a1", "incarnation": incarnation}
        event = AgentFailed.model_validate(fields)
        decision = learn(self.record, event, self.now)
        self.take(decision, learn(decision.record, event, self.now))

    @invariant()
    def what_has_ended_stays_ended(self) -> None:
        if self.record is not None and self.record.incarnation in self.ended:
            assert self.record.state is self.ended[self.record.incarnation]

    @invariant()
    def no_life_begins_behind_a_later_one(self) -> None:
        if self.record is not None:
            assert self.record.incarnation >= self.latest
            self.latest = self.record.incarnation

    @invariant()
    def an_incarnation_fails_once(self) -> None:
        assert len(set(self.failed_events)) == len(self.failed_events)

    @invariant()
    def who_is_active_is_in_no_doubt(self) -> None:
        if self.record is not None and self.record.state is AgentState.ACTIVE:
            assert not self.record.doubted


def _is(record: AgentRecord | None) -> AgentRecord:
    assert record is not None
    return record


TestMembership = Membership.TestCase
TestMembership.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
