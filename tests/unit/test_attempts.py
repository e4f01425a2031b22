"""What becomes of an attempt: a result, another attempt, or another place."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from maniple.attempts import NextAttempt, Ran, conclude, last, seconds_for
from maniple.errors import ErrorCode
from maniple.execution import Outcome, failed, timed_out
from maniple.messages import Envelope, Failure, Result, RetryPlan, Status, Waiting
from maniple.tasks import TaskDefinition, define
from maniple.topology import DELAY_TIERS, SUSPECT_AFTER
from maniple_agent.domain.redelivery import Move, after_loss
from maniple_runtime.redelivery import LOST_AFTER

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RAN = Ran("agent-1", NOW - timedelta(seconds=1), NOW)
ENVELOPE = Envelope(
    id="1",
    capability="text.stats",
    lane="text.stats",
    submitted_at=NOW - timedelta(minutes=1),
    deadline=NOW + timedelta(days=1),
)
ERROR = failed(ErrorCode.HANDLER_ERROR, "no")


async def handler(payload: Any) -> Any:
    return payload


def definition(**options: Any) -> TaskDefinition:
    return define("text.stats", handler, options)  # type: ignore[arg-type]  # as a user gives them


def decided(
    envelope: Envelope, outcome: Outcome = ERROR, jitter: float = 1.0, **options: Any
) -> Result | NextAttempt:
    return conclude(envelope, definition(**options), outcome, RAN, lambda: jitter)


def test_a_success_is_a_result_with_all_that_is_known() -> None:
    result = decided(replace(ENVELOPE, attempt=2, lost=1, policies={"p": 3}), Outcome(b"42"))
    assert isinstance(result, Result)
    assert (result.status, bytes(result.output), result.error) == (Status.SUCCEEDED, b"42", None)
    assert (result.attempt, result.lost, result.agent, result.lane) == (
        2,
        1,
        "agent-1",
        "text.stats",
    )
    assert (result.started_at, result.finished_at) == (RAN.started_at, NOW)
    assert result.policies == {"p": 3}


def test_without_a_plan_there_is_one_attempt() -> None:
    result = decided(ENVELOPE)
    assert isinstance(result, Result)
    assert (result.status, result.error) == (Status.FAILED, ERROR.failure)


def test_the_envelopes_attempts_go_before_the_handlers() -> None:
    assert isinstance(decided(ENVELOPE, max_attempts=2), NextAttempt)
    assert isinstance(decided(replace(ENVELOPE, attempt=2), max_attempts=2), Result)
    assert isinstance(decided(replace(ENVELOPE, max_attempts=1), max_attempts=2), Result)
    again = decided(replace(ENVELOPE, max_attempts=3, attempt=2), max_attempts=1)
    assert isinstance(again, NextAttempt)
    assert again.envelope.attempt == 3


def test_what_cannot_end_otherwise_is_not_tried_again() -> None:
    outcome = failed(ErrorCode.INVALID_OUTPUT, "no", retryable=False)
    assert isinstance(decided(ENVELOPE, outcome, max_attempts=5), Result)


def test_a_plan_may_name_the_codes_that_are_tried_again() -> None:
    envelope = replace(ENVELOPE, max_attempts=5, retry=RetryPlan(codes=(ErrorCode.TIMEOUT,)))
    assert isinstance(decided(envelope, ERROR), Result)
    assert isinstance(decided(envelope, timed_out(3)), NextAttempt)


@given(attempt=st.integers(1, 999), jitter=st.floats(0, 1), factor=st.floats(1, 100))
def test_the_backoff_is_a_tier_below_its_cap_however_late_the_attempt(
    attempt: int, jitter: float, factor: float
) -> None:
    plan = RetryPlan(base=0.5, factor=factor, cap=30.0)
    envelope = replace(ENVELOPE, attempt=attempt, max_attempts=1000, retry=plan)
    again = decided(envelope, jitter=jitter)
    assert isinstance(again, NextAttempt)
    assert again.tier in DELAY_TIERS
    assert again.tier <= max(30.0 * jitter, DELAY_TIERS[0])
    assert again.envelope == replace(
        envelope,
        attempt=attempt + 1,
        dispatched_at=RAN.finished_at,
        waited_for=Waiting.NEXT_ATTEMPT.value,
    )


def test_a_handlers_retry_after_is_a_lower_bound() -> None:
    failure = Failure(code=ErrorCode.HANDLER_ERROR, message="busy", retry_after=30.0)
    again = decided(ENVELOPE, Outcome(failure=failure), jitter=0.0, max_attempts=2)
    assert isinstance(again, NextAttempt)
    assert again.tier == 30.0


def test_an_attempt_that_would_begin_after_the_deadline_is_not_made() -> None:
    envelope = replace(ENVELOPE, max_attempts=9, deadline=NOW + timedelta(seconds=0.9))
    assert isinstance(decided(envelope, jitter=0.8), NextAttempt)
    assert isinstance(decided(envelope, jitter=1.0), Result)


def test_a_timeout_at_the_deadline_is_an_expiry() -> None:
    result = decided(replace(ENVELOPE, deadline=NOW), timed_out(1), max_attempts=3)
    assert isinstance(result, Result)
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.EXPIRED, ErrorCode.DEADLINE_EXCEEDED)


def test_an_attempt_has_its_timeout_at_most_until_the_deadline() -> None:
    assert seconds_for(ENVELOPE, definition(), NOW) == 300.0
    assert seconds_for(ENVELOPE, definition(timeout=2.0), NOW) == 2.0
    assert seconds_for(replace(ENVELOPE, timeout=9.0), definition(timeout=2.0), NOW) == 9.0
    soon = replace(ENVELOPE, timeout=9.0, deadline=NOW + timedelta(seconds=3))
    assert seconds_for(soon, definition(), NOW) == 3.0
    assert seconds_for(replace(soon, deadline=NOW), definition(), NOW) <= 0


def test_a_lost_task_goes_to_its_lane_then_to_the_suspects() -> None:
    first = after_loss(ENVELOPE, None, RAN, suspect=False)
    assert isinstance(first, Move)
    assert (first.key, first.envelope.lost, first.envelope.suspected) == ("text.stats", 1, 0)
    second = after_loss(first.envelope, None, RAN, suspect=False)
    assert isinstance(second, Move)
    assert (second.key, second.envelope.lost) == ("text.stats.suspect", SUSPECT_AFTER)
    assert second.envelope.suspected == 0


def test_only_losses_among_the_suspects_count_towards_the_last_one() -> None:
    often = replace(ENVELOPE, lost=50)
    assert isinstance(after_loss(often, None, RAN, suspect=False), Move)
    envelope = replace(ENVELOPE, lost=2)
    for count in range(1, LOST_AFTER):
        fate = after_loss(envelope, None, RAN, suspect=True)
        assert isinstance(fate, Move)
        assert fate.envelope.suspected == count
        envelope = fate.envelope
    result = after_loss(envelope, None, RAN, suspect=True)
    assert isinstance(result, Result)
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.FAILED, ErrorCode.AGENT_LOST)
    assert result.lost == 7


def test_a_loss_is_no_attempt() -> None:
    fate = after_loss(replace(ENVELOPE, attempt=2), definition(), RAN, suspect=False)
    assert isinstance(fate, Move)
    assert fate.envelope.attempt == 2


@pytest.mark.parametrize("suspect", [False, True])
def test_what_may_run_at_most_once_ends_with_its_agent(suspect: bool) -> None:
    result = after_loss(ENVELOPE, definition(on_lost="fail"), RAN, suspect=suspect)
    assert isinstance(result, Result)
    assert result.error is not None
    assert (result.error.code, result.lost) == (ErrorCode.AGENT_LOST, 1)


def test_the_last_result_carries_the_failure() -> None:
    assert last(ENVELOPE, ERROR, RAN).error == ERROR.failure
