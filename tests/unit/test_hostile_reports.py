"""What dispatchers tell each other is hostile until checked: no number in it ends a process."""

import json
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maniple.timings import Peers
from maniple_dispatcher.limits.breaker import Breaker, BreakerState
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import BREAKER, LeaseOwner, probes_of
from maniple_dispatcher.limits.limit import ConcurrencyLimit, TokenBucketLimit
from maniple_dispatcher.limits.messages import MOST, BreakerNews, DispatcherReport
from maniple_dispatcher.limits.token_bucket import Terms, TokenBuckets
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_policies.kinds.rate_limit import FASTEST, SLOWEST, RateLimitSpec
from permits import ask_permit

ME, OTHER, LANE = "me", "other", "text.stats"
KEYS = ("rate_limit/a", "bulkhead/a", BREAKER + LANE)
SPEC = CircuitBreakerSpec(consecutive=3, open_for=5)
BEGINS = 100.0
STEP = 0.3

numbers = st.one_of(
    st.sampled_from([0.0, 5e-324, 1e-320, 1e-300, 1e-9, 0.5, 1.0, 1e9, 1e16, 1e300, 1.7e308]),
    st.floats(allow_nan=False, allow_infinity=False),
)
counts = st.one_of(
    st.sampled_from([0, 1, 2, MOST - 1, MOST, MOST + 1, 2**64, 10**30, -1]),
    st.integers(0, 5),
)
keys, lanes = st.sampled_from(KEYS), st.sampled_from([LANE, "", "\x00", "é" * 300])
asks = st.fixed_dictionaries(
    {"key": keys, "to": st.just(ME), "number": counts, "want": counts},
    optional={
        "rate": numbers,
        "capacity": numbers,
        "reserve": numbers,
        "most": counts,
        "lane": lanes,
        "lanes": st.lists(lanes, max_size=3),
        "had": st.lists(lanes, max_size=3),
        "used": counts,
        "freed": counts,
        "left": st.lists(lanes, max_size=3),
    },
)
grants = st.fixed_dictionaries(
    {"key": keys, "to": st.sampled_from([ME, OTHER]), "number": counts, "granted": counts},
    optional={"again": numbers, "first": numbers, "step": numbers, "undecided": st.booleans()},
)
news = st.fixed_dictionaries(
    {"lane": lanes, "state": st.sampled_from(["open", "closed", "half_open", "ajar"])},
    optional={"epoch": counts, "remaining": numbers},
)
reports = st.fixed_dictionaries(
    {"dispatcher": st.sampled_from([ME, OTHER])},
    optional={
        "ready": st.booleans(),
        "life": counts,
        "asks": st.lists(asks, max_size=3),
        "grants": st.lists(grants, max_size=3),
        "levels": st.dictionaries(keys, st.tuples(numbers, numbers, numbers), max_size=3),
        "rooms": st.dictionaries(keys, st.tuples(counts, st.lists(lanes, max_size=2)), max_size=3),
        "unsure": st.dictionaries(keys, counts, max_size=3),
        "breakers": st.lists(news, max_size=3),
        "going": st.dictionaries(keys, counts, max_size=3),
    },
)


def read(said: dict[str, Any]) -> DispatcherReport | None:
    """Return what a dispatcher makes of a body; None if it cannot be read, which is told."""
    try:
        return msgspec.json.decode(json.dumps(said), type=DispatcherReport)
    except msgspec.MsgspecError:
        return None


def told(coordinator: Coordinator, now: float) -> DispatcherReport:
    """Return what it says, as others read it: they would drop all of what they cannot read."""
    said = msgspec.json.encode(coordinator.make_report(now))
    return msgspec.json.decode(said, type=DispatcherReport)


def begun(until: float) -> Coordinator:
    """Return a dispatcher that hears itself only, at such a time of its start."""
    coordinator, now = Coordinator(ME, LeaseOwner(lambda _: SPEC), BEGINS, Peers()), BEGINS
    while now < until:
        coordinator.on_report(told(coordinator, now), now)
        coordinator.advance_time(now)
        now += STEP
    return coordinator


EARLY, LATE = BEGINS + 1.6, BEGINS + 6.0
"""It is ready, and does not yet know what others have granted; and it does."""
EXTREME = (1e-320, 1e-9, 1.0, 1e308)
MANY = (1, MOST)


@pytest.mark.parametrize("at", [EARLY, LATE])
def test_whatever_is_asked_is_answered_with_numbers(at: float) -> None:
    coordinator, asked = begun(at), 0
    for rate, capacity, reserve, most in product((0.0, *EXTREME), EXTREME, EXTREME, (0, 1, MOST)):
        for want, number in product(MANY, MANY):
            ask = {"key": f"k{asked}", "to": ME, "number": 1, "want": want, "used": number}
            shape = {"rate": rate, "capacity": capacity, "reserve": reserve, "most": most}
            report = read({"dispatcher": OTHER, "asks": [{**ask, **shape, "freed": number}]})
            assert report is not None
            coordinator.on_report(report, at)
            asked += 1
    answered = 0
    for _ in range(200):
        at += STEP
        coordinator.advance_time(at)
        coordinator.on_report(said := told(coordinator, at), at)
        answered += len(said.grants)
    assert answered == asked


@settings(deadline=None)
@given(st.lists(reports, max_size=4), st.sampled_from([EARLY, LATE]))
def test_no_report_ends_a_dispatcher_or_silences_it(
    bodies: list[dict[str, Any]], begins: float
) -> None:
    coordinator, now, answers = begun(begins), begins, list[float]()
    limits = (
        TokenBucketLimit(KEYS[0], Terms(10.0, 10.0, 5.0)),
        ConcurrencyLimit(KEYS[1], most=5, lane=LANE),
        probes_of(LANE),
    )
    for body in bodies:
        if (report := read(body)) is not None:
            coordinator.on_report(report, now)
        for limit in limits:
            ask_permit(coordinator, limit, lambda _passes, seconds: answers.append(seconds), now)
        coordinator.on_report(told(coordinator, now), now)
        now += STEP
        coordinator.advance_time(now)
    for _ in range(20):  # until whatever waited has been answered
        now += STEP
        coordinator.advance_time(now)
        coordinator.on_report(told(coordinator, now), now)
    assert all(abs(seconds) < float("inf") for seconds in answers)
    assert told(coordinator, now).dispatcher == ME


@pytest.mark.parametrize(
    ("rate", "is_told"),
    [(1e-320, SLOWEST), (1e300, FASTEST), (5.0, 5.0)],
)
def test_a_bucket_of_another_is_within_what_a_policy_may_say(rate: float, is_told: float) -> None:
    buckets = TokenBuckets()
    buckets.follow_owner("rate_limit/a", (0.0, rate, 1e300), 1.0)
    ((_, (level, kept, capacity)),) = _all(buckets)
    assert (level, kept, capacity) == (0.0, is_told, 1_000_000)


def _all(buckets: TokenBuckets) -> list[tuple[str, tuple[float, float, float]]]:
    buckets.mark_all_changed(1.0, lambda _: True)
    return list(buckets.changes(1.0))


def test_a_policy_of_any_size_has_a_rate_that_can_be_divided_by() -> None:
    slow = RateLimitSpec(limit=1e-320, period=86_400)
    fast = RateLimitSpec(limit=1_000_000, period=1e-300)
    assert (slow.rate, fast.rate) == (SLOWEST, FASTEST)


def test_a_breaker_is_not_kept_open_for_longer_than_its_policy_says() -> None:
    breaker = Breaker()
    breaker.follow_owner(BreakerNews(lane=LANE, state="open", epoch=1, remaining=1e16), SPEC, 10.0)
    assert breaker.remaining(SPEC, 10.0) == SPEC.open_for
    assert breaker.advance_time(SPEC, 10.0 + SPEC.open_for)


def test_the_last_epoch_of_all_is_followed_by_itself() -> None:
    breaker = Breaker()
    breaker.follow_owner(BreakerNews(lane=LANE, state="open", epoch=MOST), SPEC, 10.0)
    assert breaker.advance_time(SPEC, 20.0)
    assert (breaker.epoch, breaker.state) == (MOST, BreakerState.HALF_OPEN)


@pytest.mark.parametrize("field", ["number", "want", "most", "used", "freed"])
@pytest.mark.parametrize("number", [-MOST - 1, MOST + 1, 10**300])
def test_a_count_that_is_none_is_not_read(field: str, number: int) -> None:
    ask = {"key": "rate_limit/a", "to": ME, "number": 1, "want": 1, field: number}
    assert read({"dispatcher": OTHER, "asks": [ask]}) is None
    assert read({"dispatcher": OTHER, "asks": [{**ask, field: 1}]}) is not None


@pytest.mark.parametrize(("field", "left"), [("used", 6), ("freed", 1)])
def test_what_an_older_dispatcher_takes_back_of_a_bucket_counts(field: str, left: int) -> None:
    coordinator, shape = begun(LATE), {"rate": 0.001, "capacity": 10.0}
    for number in (5, -5):
        ask = {"key": KEYS[0], "to": ME, "number": 1, "want": 2, **shape, field: number}
        report = read({"dispatcher": OTHER, "asks": [ask]})
        assert report is not None
        coordinator.on_report(report, LATE)
    level = coordinator.owned.buckets.level(KEYS[0], Terms(0.001, 10.0), LATE)
    assert level == pytest.approx(left, abs=0.1)


def test_no_room_is_taken_by_giving_back_less_than_none() -> None:
    coordinator = begun(LATE)
    for _ in range(3):
        ask = {"key": KEYS[1], "to": ME, "number": 1, "want": 1, "most": 5, "freed": -MOST}
        report = read({"dispatcher": OTHER, "asks": [ask]})
        assert report is not None
        coordinator.on_report(report, LATE)
    assert coordinator.owned.bulkheads.in_flight(KEYS[1]) == 3
    assert told(coordinator, LATE).rooms[KEYS[1]][0] == 3
