"""The stages of the pipeline: what each kind of policy decides, by values alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw

from maniple.errors import ErrorCode
from maniple.messages import Envelope, Waiting
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.limit import ConcurrencyLimit, ProbeLimit, TokenBucketLimit
from maniple_dispatcher.pipeline import bulkhead, circuit_breaker, rate_limit, route
from maniple_dispatcher.pipeline.fallback import Accept, Instead, Output, Substitute, instead
from maniple_dispatcher.pipeline.verdicts import (
    PASS,
    Delay,
    Divert,
    Pending,
    Reject,
    State,
    Verdict,
)
from maniple_dispatcher.result_cache import ResultCache
from maniple_policies import parse_policy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASK = Envelope(
    id="1", capability="a.b", lane="a.b", submitted_at=NOW, deadline=NOW + timedelta(hours=1)
)


def policy(kind: str, **spec: Any) -> Any:
    return parse_policy({"kind": kind, "name": "it", "spec": spec})


def state(
    passes: bool | None = None,
    seconds: float = 0.0,
    breaker: BreakerState = BreakerState.CLOSED,
    since: float = 0.0,
) -> State:
    return State(lambda _: (breaker, since), passes, seconds)


@pytest.mark.parametrize(
    ("over", "passes", "verdict"),
    [
        ("reject", True, PASS),
        ("degrade", True, PASS),
        ("degrade", False, Divert("a.b@small", "degraded")),
        (
            "reject",
            False,
            Reject(ErrorCode.RATE_LIMITED, "more than 5 tasks in 60 s", 0.0, Waiting.LIMITED),
        ),
    ],
)
def test_above_a_rate_limit_a_task_gets_what_the_policy_says(
    over: str, passes: bool, verdict: Verdict
) -> None:
    variant = {"variant": "small"} if over == "degrade" else {}
    limit = policy("rate_limit", limit=5, period=60, over=over, **variant)
    asks = rate_limit.decide(TASK, limit, state(), 0.0)
    assert isinstance(asks, Pending)
    assert isinstance(asks.limit, TokenBucketLimit)
    assert rate_limit.decide(TASK, limit, state(passes), 0.0) == verdict


def test_a_task_that_has_its_turn_later_waits_for_it() -> None:
    limit = policy("rate_limit", limit=5, over="shape")
    assert rate_limit.decide(TASK, limit, state(True, 7.0), 0.0) == Delay(
        7.0, Waiting.LIMITED, "shaped"
    )
    assert rate_limit.decide(TASK, limit, state(True, 0.001), 0.0) is PASS


@pytest.mark.parametrize("over", ["reject", "wait"])
def test_a_full_bulkhead_ends_a_task_only_if_it_says_so(over: str) -> None:
    room = policy("bulkhead", max_in_flight=3, over=over)
    assert bulkhead.decide(TASK, room, state(), 0.0) == Pending(
        ConcurrencyLimit("bulkhead/it", 3, "a.b")
    )
    assert bulkhead.decide(TASK, room, state(True), 0.0) is PASS
    full = bulkhead.decide(TASK, room, state(False, 1.0), 0.0)
    assert isinstance(full, Reject)
    assert (full.code, full.seconds, full.ends) == (ErrorCode.OVERLOADED, 1.0, over == "reject")


OPEN, HALF_OPEN, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED
ASKS = Pending(ProbeLimit("breaker\0a.b", "a.b"))


@pytest.mark.parametrize(
    ("breaker", "now", "passes", "verdict"),
    [
        (CLOSED, 101.0, None, PASS),
        (HALF_OPEN, 101.0, None, ASKS),
        (OPEN, 131.0, None, ASKS),  # its owner knows that it is half open by now
        (OPEN, 110.0, None, 20.0),
        (HALF_OPEN, 101.0, True, PASS),
        (CLOSED, 101.0, True, PASS),
        (OPEN, 110.0, True, 20.0),  # again, since that was granted
        (HALF_OPEN, 101.0, False, 3.0),
        (CLOSED, 101.0, False, 3.0),
    ],
)
def test_a_breaker_lets_through_what_it_may(
    breaker: BreakerState, now: float, passes: bool | None, verdict: Verdict | float
) -> None:
    opens = policy("circuit_breaker", consecutive=1, open_for=30)
    seconds = 0.0 if passes is None else 3.0
    found = circuit_breaker.decide(TASK, opens, state(passes, seconds, breaker, 100.0), now)
    if isinstance(verdict, float):
        assert isinstance(found, Reject)
        assert (found.code, found.seconds) == (ErrorCode.CIRCUIT_OPEN, verdict)
    else:
        assert found == verdict


def test_a_route_sends_a_task_another_way_only_if_it_is_another() -> None:
    assert route.decide(TASK, policy("route", variants=[{"weight": 1}]), state(), 0.0) is PASS
    other = policy("route", variants=[{"variant": "next", "weight": 1}])
    assert route.decide(TASK, other, state(), 0.0) == Divert("a.b@next")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"value": {"x": 1}}, Output(Raw(b'{"x":1}'))),
        ({"capability": "a.c"}, Substitute("a.c")),
        ({"accept": True}, Accept()),
        ({"last_good": True}, None),
        ({"value": 1, "on": ["circuit_open"]}, None),
    ],
)
def test_what_is_refused_gets_its_fallback_if_that_is_for_this(
    spec: dict[str, Any], expected: Instead | None
) -> None:
    refusal = Reject(ErrorCode.OVERLOADED, "full", 1.0, Waiting.FULL_BULKHEAD)
    found = instead(TASK, policy("fallback", **spec), refusal, ResultCache(), NOW)
    assert found == expected
