"""Where an admitted task waits, and what it is told when it waits no longer."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from maniple.errors import ErrorCode
from maniple.messages import Envelope, Status, Waiting
from maniple.topology import DELAY_TIERS
from maniple_dispatcher.pipeline.verdicts import (
    WAITS,
    expired,
    is_committed,
    overloaded,
    rest_of,
    shorter,
    wait,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
WHY = Waiting.NO_AGENT
ENVELOPE = Envelope(
    id="1",
    capability="text.stats",
    lane="text.stats@eu",
    tenant="acme",
    attempt=2,
    lost=1,
    submitted_at=NOW - timedelta(minutes=1),
    deadline=NOW + timedelta(hours=1),
)


def test_waits_grow_between_two_times_and_then_stay() -> None:
    envelope, tiers = ENVELOPE, []
    for _ in range(len(WAITS) + 2):
        tiers.append(
            tuple(wait(envelope, NOW, WHY, longer=longer).tier for longer in (False, True))
        )
        envelope = wait(envelope, NOW, WHY, longer=True).envelope
    assert tiers == [*WAITS, WAITS[-1], WAITS[-1]]
    assert envelope == replace(ENVELOPE, waits=len(WAITS) + 2, waited_for=WHY.value)
    assert {tier for pair in WAITS for tier in pair} <= set(DELAY_TIERS)


@given(waits=st.integers(0, 1000), remaining=st.floats(-10, 100), longer=st.booleans())
def test_a_wait_is_a_tier_and_ends_about_when_the_task_expires(
    waits: int, remaining: float, longer: bool
) -> None:
    envelope = replace(ENVELOPE, waits=waits, deadline=NOW + timedelta(seconds=remaining))
    tier = wait(envelope, NOW, WHY, longer=longer).tier
    assert tier in DELAY_TIERS
    assert tier <= max(0.0, remaining) + DELAY_TIERS[0] + 1e-6
    assert wait(envelope, NOW, WHY, longer=longer).tier == tier


@given(due=st.floats(-10, 4000), remaining=st.floats(-10, 4000))
def test_what_is_not_due_before_it_expires_waits_no_longer_than_that(
    due: float, remaining: float
) -> None:
    envelope = replace(
        ENVELOPE,
        not_before=NOW + timedelta(seconds=due),
        deadline=NOW + timedelta(seconds=remaining),
    )
    tier = rest_of(envelope, NOW, Waiting.LIMITED).tier
    assert tier <= max(0.0, min(due, remaining)) + DELAY_TIERS[0] + 1e-6


def test_every_tier_but_the_shortest_has_a_shorter_one() -> None:
    assert [shorter(tier) for tier in DELAY_TIERS] == [None, *DELAY_TIERS[:-1]]


def test_only_a_new_submission_may_be_ended_for_want_of_room() -> None:
    assert not is_committed(replace(ENVELOPE, accepted=False))
    assert is_committed(replace(ENVELOPE, accepted=True))
    assert is_committed(wait(ENVELOPE, NOW, WHY, longer=False).envelope)


def test_what_expires_says_what_it_waited_for() -> None:
    result = expired(ENVELOPE, NOW, waiting="no_agent")
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.EXPIRED, ErrorCode.DEADLINE_EXCEEDED)
    assert "(no agent)" in result.error.message
    assert (result.id, result.tenant, result.lane) == ("1", "acme", "text.stats@eu")
    assert (result.attempt, result.lost, result.finished_at) == (2, 1, NOW)


def test_what_is_overloaded_says_when_to_come_again() -> None:
    result = overloaded(ENVELOPE, NOW, 5.0)
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.REJECTED, ErrorCode.OVERLOADED)
    assert result.error.retry_after == 5.0
