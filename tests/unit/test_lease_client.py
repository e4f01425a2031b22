"""When permits are asked for, and what becomes of tasks whose limit nobody answers for."""

from collections.abc import Iterator

import pytest

from limits_simulation import Simulation
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.limit import ConcurrencyLimit, Limit, TokenBucketLimit
from maniple_dispatcher.limits.messages import Ask, DispatcherReport, Grant
from maniple_dispatcher.limits.token_bucket import Taken, Terms, TokenBuckets
from permits import ask_permit

TERMS = Terms(rate=100.0, capacity=100.0)
HUNDRED = TokenBucketLimit("rate_limit/hundred", TERMS)
SOON = 0.1  # seconds: some ways there and back, and no look or presence that happens to help


def with_one_other(key: str) -> tuple[Simulation, str]:
    """Two dispatchers, and the name of the one that does not own the key."""
    simulation = Simulation(2)
    (other,) = simulation.alive.keys() - {simulation.owner(key)}
    return simulation, other


def test_a_task_that_asks_while_a_request_is_under_way_is_answered_soon() -> None:
    simulation, other = with_one_other(HUNDRED.key)
    for round_ in range(1, 11):
        simulation.submit(other, HUNDRED)
        simulation.run(0.006)
        simulation.submit(other, HUNDRED)
        simulation.run(SOON)
        assert simulation.passed.total() == 2 * round_


def test_what_is_given_back_while_a_request_is_under_way_is_told_soon() -> None:
    simulation, other = with_one_other(HUNDRED.key)
    owner = simulation.alive[simulation.owner(HUNDRED.key)]
    simulation.submit(other, HUNDRED, 100)
    simulation.run(SOON)
    simulation.submit(other, HUNDRED)
    simulation.run(0.006)
    for _ in range(50):
        simulation.alive[other].return_permit(HUNDRED, simulation.now)
    simulation.run(SOON)
    assert owner.owned.grant_permits(HUNDRED, 100, simulation.now).granted > 50


class TwoCoordinators:
    """One that asks, and the name of another that owns what is asked for."""

    def __init__(self) -> None:
        self.asking = Coordinator("one", LeaseOwner(lambda _: None), 0.0)
        for name in ("one", "two"):
            self.asking.on_report(DispatcherReport(dispatcher=name, ready=True), 10.0)
        self.limit: Limit = next(self._of("two"))
        self.ours = next(self._of("one"))
        self.asking.make_report(10.0)
        self.passed: list[bool | None] = []

    def _of(self, owner: str) -> Iterator[TokenBucketLimit]:
        for number in range(100):
            if self.asking.peers.owner(f"rate_limit/{number}") == owner:
                yield TokenBucketLimit(f"rate_limit/{number}", TERMS)

    def ask(self, now: float) -> None:
        ask_permit(self.asking, self.limit, lambda passes, _: self.passed.append(passes), now)

    def due(self) -> bool:
        return self.asking.due

    def answer(self, ask: Ask, now: float) -> None:
        grant = Grant(key=ask.key, to="one", number=ask.number, granted=ask.want)
        self.asking.on_report(DispatcherReport(dispatcher="two", ready=True, grants=(grant,)), now)


def test_what_is_ours_is_given_at_once_and_the_others_are_told_and_of_theirs_nothing_is() -> None:
    coordinators = TwoCoordinators()
    assert coordinators.asking.take_permit(coordinators.limit, 10.0) is None
    assert not coordinators.due()
    given = [coordinators.asking.take_permit(coordinators.ours, 10.0) for _ in range(101)]
    assert given[:100] == [Taken(1)] * 100
    assert (given[100] or Taken(1)).granted == 0
    assert coordinators.due()


def test_nothing_is_due_while_a_request_is_under_way() -> None:
    two = TwoCoordinators()
    two.ask(10.0)
    (first,) = two.asking.make_report(10.0).asks
    two.ask(10.003)
    two.asking.return_permit(two.limit, 10.004)
    two.asking.advance_time(10.005)
    assert not two.due()
    two.answer(first, 10.01)
    assert two.due()
    (second,) = two.asking.make_report(10.01).asks
    assert (second.want, second.freed) == (1, 1)


def test_who_waited_for_a_request_that_nobody_answered_is_asked_for_next() -> None:
    two = TwoCoordinators()
    two.ask(10.0)
    two.asking.make_report(10.0)
    two.ask(10.003)
    assert not two.due()
    for moment in range(1, 21):
        two.asking.advance_time(10.0 + moment * 0.05)
    assert two.due()
    assert two.asking.make_report(11.0).asks


def test_what_an_answer_grants_that_came_too_late_is_given_back_once() -> None:
    two = TwoCoordinators()
    two.ask(10.0)
    two.ask(10.0)
    (late,) = two.asking.make_report(10.0).asks
    two.asking.advance_time(11.0)
    two.answer(late, 11.1)
    two.ask(11.2)
    (told,) = two.asking.make_report(11.2).asks
    two.answer(told, 11.3)
    two.ask(11.4)
    (then,) = two.asking.make_report(11.4).asks
    assert [late.freed, told.freed, then.freed] == [0, late.want, 0]


def test_what_was_settled_here_is_not_taken_back_when_its_owner_returns() -> None:
    two, now = TwoCoordinators(), 10.0
    asking = two.asking

    def hear(other: DispatcherReport) -> None:
        asking.on_report(DispatcherReport(dispatcher="one", ready=True), now)
        asking.on_report(other, now)
        asking.advance_time(now)

    for _ in range(3):
        asking.return_permit(two.limit, now)
    assert [ask.freed for ask in asking.make_report(now).asks] == [3]
    now += 0.5  # nobody answers
    hear(DispatcherReport(dispatcher="two", ready=True))
    hear(DispatcherReport(dispatcher="two", leaving=True))
    assert asking.peers.owns(two.limit.key)
    hear(DispatcherReport(dispatcher="two", ready=True))
    asking.return_permit(two.limit, now)
    assert [(ask.used, ask.freed) for ask in asking.make_report(now).asks] == [(0, 1)]


def test_the_next_owner_of_a_limit_is_not_taken_for_silent_like_the_last() -> None:
    two = TwoCoordinators()
    two.ask(10.0)
    two.asking.make_report(10.0)
    two.asking.advance_time(11.0)  # from now on it is silent
    two.asking.on_report(DispatcherReport(dispatcher="two", leaving=True), 11.0)
    number = 0
    while two.asking.peers.owner(two.limit.key) in ("one", None):
        number += 1
        two.asking.on_report(DispatcherReport(dispatcher=f"next-{number}", ready=True), 11.0)
    two.asking.make_report(11.0)
    two.passed.clear()
    two.ask(11.01)
    assert two.passed == []  # it waits for an answer


def test_a_token_that_is_given_back_leaves_what_is_reserved_alone() -> None:
    buckets, shape = TokenBuckets(), Terms(rate=100.0, capacity=100.0, reserve=60.0)
    last = buckets.take_tokens("x", shape, 3100, now=0.0)
    assert last.wait(3099) == pytest.approx(30.0)
    buckets.spend("x", shape, -1, now=0.0)
    assert buckets.take_tokens("x", shape, 1, now=0.0).wait(0) == pytest.approx(30.0)
    buckets.spend("x", shape, 1, now=0.0)
    assert buckets.take_tokens("x", shape, 1, now=0.0).wait(0) == pytest.approx(30.02)


@pytest.mark.parametrize("way", ["follow", "restore", "take"])
def test_buckets_have_a_bound_whoever_tells_of_them(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maniple_dispatcher.limits.token_bucket.MAX_BUCKETS", 20)
    known = TokenBuckets()
    known.follow_owner("empty", (-50.0, TERMS.rate, TERMS.capacity), 0.0)
    for number in range(100):
        key, level = str(number), (99.0, TERMS.rate, TERMS.capacity)
        if way == "follow":
            known.follow_owner(key, level, 0.0)
        elif way == "restore":
            known.restore(key, level, 0.0, 0.0)
        else:
            known.take_tokens(key, TERMS, 1, 0.0)
    assert len(known) <= 20
    assert known.level("empty", TERMS, 0.0) == -50.0


QUIET = TokenBucketLimit("rate_limit/quiet", Terms(rate=0.1, capacity=12.0))
UNTIL_ANOTHER_OWNS_IT = 1.5


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_quiet_limit_whose_owner_dies_goes_on_with_what_was_left(asked_before: bool) -> None:
    simulation = Simulation(3)
    owner = simulation.owner(QUIET.key)
    others = sorted(simulation.alive.keys() - {owner})
    if asked_before:
        for name in others:
            simulation.submit(name, QUIET)
        simulation.run(10.0)
        simulation.passed.clear()
    simulation.kill(owner)
    for name in others:
        simulation.submit(name, QUIET, 3)
    simulation.run(UNTIL_ANOTHER_OWNS_IT)
    assert (simulation.passed.total(), simulation.refused) == (6, [])


def test_no_more_than_was_left_passes_while_an_owner_is_dead() -> None:
    simulation = Simulation(3)
    simulation.kill(simulation.owner(QUIET.key))
    simulation.load(sorted(simulation.alive), QUIET, rate=20.0, seconds=10.0)
    assert simulation.passed.total() in (12, 13)


def test_what_passed_while_an_owner_stood_still_is_owed_when_it_comes_back() -> None:
    simulation, other = with_one_other(QUIET.key)
    owner = simulation.owner(QUIET.key)
    simulation.freeze(owner, 1.9)
    simulation.load([owner, other], QUIET, rate=20.0, seconds=100.0)
    # What was there, and what came in a hundred seconds.
    assert simulation.passed.total() in (21, 22, 23)


def test_what_is_above_what_was_left_nobody_has_refused() -> None:
    two = TwoCoordinators()
    two.limit = TokenBucketLimit(two.limit.key, Terms(rate=0.001, capacity=6.0))
    for _ in range(4):
        two.ask(10.0)
    two.asking.make_report(10.0)
    two.asking.advance_time(11.0)
    two.ask(11.0)
    assert two.passed == [True] * 3 + [None] * 2


def test_who_asks_for_room_is_told_when_nobody_decides() -> None:
    two = TwoCoordinators()
    two.limit = ConcurrencyLimit(two.limit.key, most=1000, lane="text.stats")
    two.ask(10.0)
    two.asking.make_report(10.0)
    two.asking.advance_time(11.0)
    assert two.passed == [None]
