"""Limits while dispatchers come, stand still and die, under lopsided load, in simulated time."""

import random
from collections.abc import Callable

import pytest

from limits_simulation import Simulation
from maniple.timings import Peers
from maniple_dispatcher.limits.breaker import Ends
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import BREAKER, LeaseOwner
from maniple_dispatcher.limits.limit import Limit, TokenBucketLimit
from maniple_dispatcher.limits.messages import Ask, DispatcherReport, Grant
from maniple_dispatcher.limits.token_bucket import Terms, TokenBuckets
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from permits import ask_permit

TERMS = Terms(rate=1000.0, capacity=1000.0)
THOUSAND = TokenBucketLimit("rate_limit/thousand", TERMS)
FIRST = "dispatcher-0"
BURST_IS_OVER = 3.0
CHANGE = 5.0
WHOLE = 15.0


def lopsided() -> Simulation:
    """Four dispatchers, of which all but the first take eight tasks at a time."""
    network = random.Random(1)
    made = Simulation(4, travel=lambda: network.uniform(0.001, 0.05))
    for name in sorted(made.alive.keys() - {FIRST}):
        made.take_turns(name, THOUSAND, tasks=8)
    return made


def owner_dies(simulation: Simulation) -> None:
    simulation.kill(simulation.owner(THOUSAND.key))


def owner_stands_still(seconds: float) -> Callable[[Simulation], None]:
    def change(simulation: Simulation) -> None:
        simulation.freeze(simulation.owner(THOUSAND.key), seconds)

    return change


def other_stands_still(simulation: Simulation) -> None:
    others = simulation.alive.keys() - {FIRST, simulation.owner(THOUSAND.key)}
    simulation.freeze(min(others), 1.5)


def another_joins(simulation: Simulation) -> None:
    simulation.start("newcomer")
    simulation.take_turns("newcomer", THOUSAND, tasks=8)


CHANGES: dict[str, Callable[[Simulation], None]] = {
    "its owner dies": owner_dies,
    "its owner stands still for a moment": owner_stands_still(0.5),
    "its owner stands still until others look": owner_stands_still(1.5),
    "its owner stands still until it is replaced": owner_stands_still(3.0),
    "another one stands still": other_stands_still,
    "another one joins": another_joins,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_thousand_pass_under_lopsided_load_also_while(
    change: Callable[[Simulation], None],
) -> None:
    simulation = lopsided()
    begun = simulation.now
    simulation.after(CHANGE, lambda: change(simulation))
    simulation.load([FIRST], THOUSAND, rate=1400, seconds=WHOLE, tasks=8)
    settled = simulation.rate(begun + BURST_IS_OVER, begun + WHOLE - 1)
    assert settled == pytest.approx(1000, rel=0.03)
    # What was not let through while nobody owned the limit may come at once, up to its burst.
    for second in range(int(BURST_IS_OVER), int(WHOLE) - 1):
        assert simulation.rate(begun + second, begun + second + 1) < 2050


def test_a_thousand_pass_while_dispatchers_get_to_know_each_other() -> None:
    network = random.Random(3)
    simulation = Simulation(0, travel=lambda: network.uniform(0.001, 0.05))
    begun = simulation.now
    for number in range(4):
        simulation.start(f"dispatcher-{number}")
        if number:
            simulation.take_turns(f"dispatcher-{number}", THOUSAND, tasks=8)
        simulation.load([FIRST], THOUSAND, rate=1400, seconds=2.5, tasks=8)
    simulation.load([FIRST], THOUSAND, rate=1400, seconds=2.0, tasks=8)
    assert simulation.rate(begun + BURST_IS_OVER, begun + 11) == pytest.approx(1000, rel=0.03)


@pytest.mark.parametrize("travel", [0.35, 0.5, 0.8])
def test_whose_owner_is_slow_to_answer_goes_on_with_its_share(travel: float) -> None:
    simulation = Simulation(2, travel=lambda: travel)
    simulation.run(3.0)
    owner = simulation.owner(THOUSAND.key)
    (other,) = simulation.alive.keys() - {owner}
    begun = simulation.now
    simulation.load([other], THOUSAND, rate=1500, seconds=12, tasks=8)
    assert simulation.rate(begun + 3, begun + 12) == pytest.approx(500, rel=0.05)
    begun = simulation.now
    simulation.load([owner, other], THOUSAND, rate=1500, seconds=12, tasks=8)
    assert simulation.rate(begun + 2, begun + 11) == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_nearly_everything_passes_whose_owner_answers_when_its_busy_machine_lets_it(
    seed: int,
) -> None:
    network = random.Random(seed)
    simulation = Simulation(2, travel=lambda: network.uniform(0.1, 0.4))
    simulation.run(3.0)
    (other,) = simulation.alive.keys() - {simulation.owner(THOUSAND.key)}
    begun = simulation.now
    simulation.load([other], THOUSAND, rate=3000, seconds=12, tasks=8)
    assert simulation.rate(begun + 3, begun + 11) > 850
    simulation.run(2.0)
    assert simulation.passed.total() <= 1000 + 1000 * (simulation.now - begun)


def test_what_was_used_unasked_is_taken_of_what_the_bucket_had_no_room_for() -> None:
    buckets = TokenBuckets()
    buckets.take_tokens("x", TERMS, 1000, now=0.0)
    # For two seconds nobody owned it, and 800 were let through: 200 more than it has room for
    # were left, so it is full.
    buckets.spend("x", TERMS, 500, now=2.0)
    buckets.spend("x", TERMS, 300, now=2.0)
    assert buckets.take_tokens("x", TERMS, 2000, now=2.0).granted == 1000


def test_what_was_used_in_addition_is_owed() -> None:
    buckets = TokenBuckets()
    buckets.take_tokens("x", TERMS, 1000, now=0.0)
    buckets.spend("x", TERMS, 2500, now=2.0)
    assert buckets.take_tokens("x", TERMS, 1, now=2.499).granted == 0
    assert buckets.take_tokens("x", TERMS, 1, now=2.502).granted == 1


def test_what_a_bucket_at_rest_had_no_room_for_is_no_treasure() -> None:
    buckets = TokenBuckets()
    for second in range(100):
        buckets.take_tokens("x", TERMS, 1, now=float(second))
    most = TERMS.capacity + Peers().spilled * TERMS.rate
    buckets.spend("x", TERMS, most, now=99.5)
    assert buckets.take_tokens("x", TERMS, 1000, now=99.5).granted <= 1


def ready(coordinator: Coordinator, *names: str) -> Coordinator:
    for name in names:
        coordinator.on_report(DispatcherReport(dispatcher=name, ready=True), 10.0)
    coordinator.make_report(10.0)
    return coordinator


def owned_by(coordinator: Coordinator, name: str) -> Limit:
    keys = (f"rate_limit/{number}" for number in range(100))
    return next(
        TokenBucketLimit(key, TERMS) for key in keys if coordinator.peers.owner(key) == name
    )


def test_how_attempts_ended_opens_breakers_of_our_own_lanes_only() -> None:
    spec = CircuitBreakerSpec(consecutive=3)
    coordinator = ready(Coordinator("one", LeaseOwner(lambda _: spec), 0.0), "one", "two")
    owner = coordinator.peers.owner
    ours = next(lane for lane in map(str, range(99)) if owner(BREAKER + lane) == "one")
    theirs = next(lane for lane in map(str, range(99)) if owner(BREAKER + lane) == "two")
    due = [coordinator.due]
    for lane in (theirs, ours):
        coordinator.record_outcomes(lane, Ends(failed=3, failing=3), 10.0)
        due.append(coordinator.due)
    assert due == [False, False, True]
    assert [told.lane for told in coordinator.make_report(10.0).breakers] == [ours]


def test_a_dispatcher_tells_newcomers_only_what_was_decided_by_itself() -> None:
    coordinator = ready(Coordinator("one", LeaseOwner(lambda _: None), 0.0), "one", "two")
    ours, theirs = owned_by(coordinator, "one"), owned_by(coordinator, "two")
    coordinator.owned.grant_permits(ours, 500, 10.0)
    levels = {theirs.key: (500.0, TERMS.rate, TERMS.capacity)}
    coordinator.on_report(DispatcherReport(dispatcher="two", ready=True, levels=levels), 10.0)
    coordinator.make_report(10.0)
    coordinator.on_report(DispatcherReport(dispatcher="three"), 10.3)
    assert coordinator.make_report(10.3).levels.keys() == {ours.key}


def test_who_listens_is_told_everything_some_times_a_second() -> None:
    coordinator = ready(Coordinator("one", LeaseOwner(lambda _: None), 0.0), "one", "two")
    ours = owned_by(coordinator, "one")
    coordinator.owned.grant_permits(ours, 1000, 10.0)
    coordinator.make_report(10.0)
    told = 0
    for report in range(100):
        now = 10.0 + report / 100
        coordinator.on_report(DispatcherReport(dispatcher="three"), now)
        told += bool(coordinator.make_report(now).levels)
    assert 3 <= told <= 1 / Peers().tells_all


def test_what_a_former_owner_grants_late_is_not_given_back_to_the_next() -> None:
    coordinator = ready(Coordinator("one", LeaseOwner(lambda _: None), 0.0), "one", "two", "three")
    limit = next(
        limit
        for limit in (TokenBucketLimit(f"rate_limit/{number}", TERMS) for number in range(100))
        if coordinator.peers.owner(limit.key) == "two" and _next_owner(limit.key) == "three"
    )
    ask_permit(coordinator, limit, lambda *_: None, 10.0)
    (asked,) = coordinator.make_report(10.0).asks
    coordinator.advance_time(10.5)
    coordinator.on_report(DispatcherReport(dispatcher="two", leaving=True), 10.5)
    late = Grant(key=limit.key, to="one", number=asked.number, granted=1)
    coordinator.on_report(DispatcherReport(dispatcher="two", grants=(late,)), 10.6)
    ask_permit(coordinator, limit, lambda *_: None, 10.6)
    (next_asked,) = coordinator.make_report(10.6).asks
    assert (next_asked.to, next_asked.freed) == ("three", 0)


def _next_owner(key: str) -> str | None:
    return ready(Coordinator("one", LeaseOwner(lambda _: None), 0.0), "one", "three").peers.owner(
        key
    )


def test_what_was_freed_is_not_lost_when_the_limit_becomes_ours() -> None:
    coordinator = ready(Coordinator("one", LeaseOwner(lambda _: None), 0.0), "one", "two")
    limit = owned_by(coordinator, "two")
    levels = {limit.key: (0.0, TERMS.rate, TERMS.capacity)}
    coordinator.on_report(DispatcherReport(dispatcher="two", ready=True, levels=levels), 10.0)
    for _ in range(5):
        coordinator.return_permit(limit, 10.0)
    coordinator.on_report(DispatcherReport(dispatcher="two", leaving=True), 10.0)
    coordinator.advance_time(10.0)
    passed: list[bool | None] = []
    for _ in range(6):
        ask_permit(coordinator, limit, lambda passes, _: passed.append(passes), 10.0)
    assert passed == [True] * 5 + [False]


def test_a_dispatcher_that_begins_anew_does_not_answer_what_it_was_asked_before() -> None:
    coordinator = ready(Coordinator("one", LeaseOwner(lambda _: None), 0.0), "one", "two")
    limit = owned_by(coordinator, "one")
    coordinator.rejoin(20.0)
    said_before = DispatcherReport(dispatcher="one", ready=True)
    asked_before = Ask(key=limit.key, to="one", number=1, want=10, rate=1000.0, capacity=1000.0)
    coordinator.on_report(said_before, 20.0)
    coordinator.on_report(
        DispatcherReport(dispatcher="two", ready=True, asks=(asked_before,)), 20.0
    )
    assert coordinator.make_report(20.0).grants == ()
