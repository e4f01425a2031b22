"""Limits that hold for all dispatchers together, in simulated time."""

from functools import partial

import msgspec
import pytest

from limits_simulation import Simulation
from maniple.amqp.batching import MAX_BYTES
from maniple.timings import Peers
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.limit import ConcurrencyLimit, TokenBucketLimit
from maniple_dispatcher.limits.listeners import MOST_TOLD
from maniple_dispatcher.limits.messages import DispatcherReport
from maniple_dispatcher.limits.token_bucket import Terms
from permits import ask_permit

THOUSAND = TokenBucketLimit("rate_limit/thousand", Terms(rate=1000.0, capacity=1000.0))
ONE_A_MINUTE = TokenBucketLimit("rate_limit/minute", Terms(rate=1 / 60, capacity=1.0))
LARGEST = MAX_BYTES + 1_000


def names(simulation: Simulation) -> list[str]:
    return sorted(simulation.alive)


@pytest.mark.parametrize("dispatchers", [1, 2, 4])
@pytest.mark.parametrize("tasks", [1, 100], ids=["alone", "in arrays"])
def test_a_limit_of_a_thousand_passes_a_thousand(dispatchers: int, tasks: int) -> None:
    simulation = Simulation(dispatchers)
    begun = simulation.now
    simulation.load(names(simulation), THOUSAND, rate=4000 / dispatchers, tasks=tasks, seconds=12)
    settled = [simulation.passed[second] for second in range(int(begun) + 2, int(begun) + 11)]
    assert sum(settled) / len(settled) == pytest.approx(1000, rel=0.03)


@pytest.mark.parametrize("dispatchers", [2, 4])
def test_it_does_so_when_one_dispatcher_gets_nearly_everything(dispatchers: int) -> None:
    simulation = Simulation(dispatchers)
    first, *others = names(simulation)
    begun = simulation.now
    for name in others:
        simulation.after(0.0, partial(simulation.submit, name, THOUSAND))
    simulation.load([first], THOUSAND, rate=3000, seconds=12)
    settled = [simulation.passed[second] for second in range(int(begun) + 2, int(begun) + 11)]
    assert sum(settled) / len(settled) == pytest.approx(1000, rel=0.03)


def test_what_is_under_the_limit_passes_whole() -> None:
    simulation = Simulation(3)
    simulation.load(names(simulation), THOUSAND, rate=300, seconds=5)
    simulation.run(1)
    assert (sum(simulation.passed.values()), simulation.refused) == (4500, [])


def test_one_a_minute_passes_one_a_minute_also_when_its_owner_dies() -> None:
    simulation = Simulation(3)
    for _ in range(4):
        simulation.load(names(simulation), ONE_A_MINUTE, rate=2, seconds=30)
        simulation.kill(simulation.owner(ONE_A_MINUTE.key))
        simulation.load(names(simulation), ONE_A_MINUTE, rate=2, seconds=10)
        simulation.start(f"next-{simulation.now}")
        simulation.load(names(simulation), ONE_A_MINUTE, rate=2, seconds=20)
    # Four minutes: the token that was there, and one each minute.
    assert sum(simulation.passed.values()) in (4, 5)


@pytest.mark.parametrize("dispatchers", [2, 3])
def test_one_a_minute_passes_one_a_minute_also_while_its_owner_stands_still(
    dispatchers: int,
) -> None:
    simulation = Simulation(dispatchers)
    for _ in range(30):
        simulation.freeze(simulation.owner(ONE_A_MINUTE.key), 1.9)
        simulation.load(names(simulation), ONE_A_MINUTE, rate=2, seconds=8)
    # Four minutes: the token that was there, and one each minute.
    assert sum(simulation.passed.values()) in (4, 5)


def test_a_thousand_go_on_when_their_owner_dies() -> None:
    simulation = Simulation(4)
    simulation.load(names(simulation), THOUSAND, rate=1000, seconds=6)
    simulation.kill(simulation.owner(THOUSAND.key))
    begun = int(simulation.now)
    simulation.load(names(simulation), THOUSAND, rate=1000, seconds=8)
    seconds = [simulation.passed[second] for second in range(begun, begun + 7)]
    assert min(seconds) > 500
    assert sum(seconds) / 7 == pytest.approx(1000, rel=0.03)  # what was missing comes afterwards
    assert max(seconds) < 1500
    assert sum(seconds[3:]) / 4 == pytest.approx(1000, rel=0.03)


def test_a_new_dispatcher_learns_what_is_left_before_it_decides() -> None:
    simulation = Simulation(1)
    hundred_an_hour = TokenBucketLimit("rate_limit/hour", Terms(rate=100 / 3600, capacity=100.0))
    simulation.submit("dispatcher-0", hundred_an_hour, 100)
    for number in range(6):
        simulation.start(f"more-{number}")
    simulation.run(2)
    simulation.load(names(simulation), hundred_an_hour, rate=10, seconds=10)
    assert sum(simulation.passed.values()) == 100


def listening(name: str) -> Coordinator:
    """One that has listened for long enough to count at 0."""
    return Coordinator(name, LeaseOwner(lambda _: None), -Peers().listens)


def told(coordinator: Coordinator, now: float) -> tuple[list[DispatcherReport], int]:
    """What it tells until nothing is due, and how large the largest message is."""
    reports = []
    while coordinator.due:
        reports.append(coordinator.make_report(now))
    return reports, max(len(msgspec.json.encode(report)) for report in reports)


def test_a_hundred_thousand_bulkheads_and_buckets_are_told_in_small_messages() -> None:
    coordinator = listening("one")
    coordinator.on_report(DispatcherReport(dispatcher="one", ready=True), 0.0)
    keys = {f"bulkhead/each/default/{number:06}" for number in range(100_000)}
    for key in keys:
        coordinator.owned.bulkheads.take_slots(key, 1, 1, 0.0)
        coordinator.owned.buckets.take_tokens(key, Terms(rate=0.01, capacity=2.0), 1, 0.0)
    _, largest = told(coordinator, 0.0)
    assert largest < LARGEST
    coordinator.on_report(DispatcherReport(dispatcher="two"), 1.0)  # it begins, and knows nothing
    reports, largest = told(coordinator, 1.0)
    assert largest < LARGEST
    assert {key for report in reports for key in report.rooms} == keys
    assert {key for report in reports for key in report.levels} == keys


def test_what_is_still_to_be_told_when_its_owner_changes_is_told() -> None:
    coordinator = listening("one")
    coordinator.on_report(DispatcherReport(dispatcher="one", ready=True), 0.0)
    keys = {f"bulkhead/each/default/{number:06}" for number in range(5_000)}
    for key in keys:
        coordinator.owned.bulkheads.take_slots(key, 1, 1, 0.0)
    told(coordinator, 0.0)
    coordinator.on_report(DispatcherReport(dispatcher="two"), 1.0)
    first = coordinator.make_report(1.0)
    assert first.rooms.keys() < keys
    coordinator.on_report(DispatcherReport(dispatcher="two", ready=True), 1.0)
    reports, _ = told(coordinator, 1.0)
    assert {key for report in (first, *reports) for key in report.rooms} == keys


def times_told_all(coordinator: Coordinator, seconds: float, begun: float, life: int = 0) -> int:
    """Tell how often all is told while another goes on saying that it listens."""
    listens, times = DispatcherReport(dispatcher="deaf", life=life), 0
    for tenth in range(int(seconds * 10)):
        now = begun + tenth / 10
        coordinator.on_report(DispatcherReport(dispatcher="one", ready=True), now)
        coordinator.on_report(listens, now)
        reports = told(coordinator, now)[0] if coordinator.due else []
        times += any(report.levels for report in reports)
    return times


def test_who_never_comes_to_count_is_not_told_all_for_ever_but_in_each_life_for_some_seconds() -> (
    None
):
    coordinator = Coordinator("one", LeaseOwner(lambda _: None), 0.0)
    coordinator.on_report(DispatcherReport(dispatcher="one", ready=True), 0.0)
    coordinator.owned.buckets.take_tokens("rate_limit/a", Terms(rate=0.001, capacity=2.0), 1, 0.0)
    assert 5 <= times_told_all(coordinator, 20.0, 0.0) <= MOST_TOLD
    assert times_told_all(coordinator, 20.0, 30.0) == 0
    assert 5 <= times_told_all(coordinator, 20.0, 60.0, life=1) <= MOST_TOLD


def test_many_requests_and_their_answers_are_told_in_small_messages() -> None:
    asking, owner = Coordinator("one", LeaseOwner(lambda _: None), 0.0), listening("two")
    for coordinator in (asking, owner):
        coordinator.on_report(DispatcherReport(dispatcher="two", ready=True), 0.0)
    granted = []
    for number in range(20_000):
        limit = ConcurrencyLimit(f"bulkhead/each/default/{number:06}", most=1, lane="text.stats")
        ask_permit(asking, limit, lambda passes, _: granted.append(passes), 0.0)
    requests, largest = told(asking, 0.0)
    assert largest < LARGEST
    for request in requests:
        owner.on_report(request, 0.5)
    answers, largest = told(owner, 0.5)
    assert largest < LARGEST
    for answer in answers:
        asking.on_report(answer, 0.5)
    assert granted == [True] * 20_000
