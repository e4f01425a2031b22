"""`maniple_dispatcher.limits.breaker`: when a breaker opens, and when it closes again."""

from hypothesis import given
from hypothesis import strategies as st

from maniple_dispatcher.limits.breaker import Breaker, BreakerState, Ends
from maniple_dispatcher.limits.gossip import show
from maniple_dispatcher.limits.lease_owner import LeaseOwner, probes_of
from maniple_dispatcher.limits.messages import BreakerNews
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_runtime.metric_names import BREAKER_OPEN
from maniple_runtime.telemetry import MAX_CHILDREN, Metrics

LANE = "text.stats"
THREE = CircuitBreakerSpec(consecutive=3, open_for=10.0, probes=2)
HALF = CircuitBreakerSpec(ratio=0.5, window=10.0, minimum=10, open_for=10.0)


def failed(number: int) -> Ends:
    return Ends(failed=number, failing=number)


def opened(spec: CircuitBreakerSpec = THREE) -> Breaker:
    breaker = Breaker()
    assert breaker.record_outcomes(failed(20), spec, 0.0)
    return breaker


def half_open() -> Breaker:
    breaker = opened()
    assert breaker.advance_time(THREE, 10.0)
    return breaker


def test_it_opens_after_so_many_failures_since_the_last_success() -> None:
    breaker = Breaker()
    assert not breaker.record_outcomes(failed(2), THREE, 0.0)
    assert not breaker.record_outcomes(Ends(succeeded=1, failed=5, failing=1), THREE, 1.0)
    assert not breaker.record_outcomes(failed(1), THREE, 2.0)
    assert breaker.record_outcomes(failed(1), THREE, 3.0)
    assert (breaker.state, breaker.epoch) == (BreakerState.OPEN, 1)


def test_it_opens_at_a_ratio_of_enough_attempts_within_its_window() -> None:
    breaker = Breaker()
    assert not breaker.record_outcomes(failed(9), HALF, 0.0)
    assert not breaker.record_outcomes(Ends(succeeded=5), HALF, 11.0)  # the nine are too old
    assert not breaker.record_outcomes(failed(4), HALF, 12.0)
    assert breaker.record_outcomes(failed(1), HALF, 13.0)


def test_an_open_one_lets_nothing_through_until_it_is_time() -> None:
    breaker = opened()
    assert breaker.probe(5, THREE, 4.0) == (0, 6.0)
    assert not breaker.advance_time(THREE, 9.9)
    assert breaker.advance_time(THREE, 10.0)
    assert breaker.state is BreakerState.HALF_OPEN


def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    breaker = opened()
    assert not breaker.record_outcomes(Ends(succeeded=50), THREE, 1.0)
    assert breaker.advance_time(THREE, 10.0)
    assert not breaker.record_outcomes(failed(3), THREE, 10.1)  # no probe has been given out yet
    assert breaker.state is BreakerState.HALF_OPEN


def test_probes_are_given_out_once() -> None:
    breaker = half_open()
    assert [breaker.probe(want, THREE, 10.0)[0] for want in (1, 5, 5)] == [1, 1, 0]


def test_probes_whose_end_nobody_hears_of_are_given_out_again() -> None:
    breaker = half_open()
    breaker.probe(2, THREE, 10.0)
    assert breaker.probe(2, THREE, 19.0)[0] == 0
    assert breaker.probe(2, THREE, 20.1)[0] == 2


def test_it_closes_when_all_probes_succeed_and_opens_when_one_fails() -> None:
    for ends, state in ((Ends(succeeded=1), BreakerState.CLOSED), (failed(1), BreakerState.OPEN)):
        breaker = half_open()
        breaker.probe(2, THREE, 10.0)
        assert not breaker.record_outcomes(Ends(succeeded=1), THREE, 10.5)
        assert breaker.record_outcomes(ends, THREE, 11.0)
        assert breaker.state is state


def test_a_follower_takes_what_is_later_and_knows_when_it_may_ask() -> None:
    owner, follower = opened(), Breaker()
    news = owner.news("lane", THREE, 4.0)
    assert follower.follow_owner(news, THREE, 100.0)
    assert (follower.state, follower.remaining(THREE, 101.0)) == (BreakerState.OPEN, 5.0)
    owner.advance_time(THREE, 10.0)
    assert follower.follow_owner(owner.news("lane", THREE, 10.0), THREE, 106.0)
    assert not follower.follow_owner(news, THREE, 107.0)
    assert follower.state is BreakerState.HALF_OPEN


ends = st.builds(Ends, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))


@given(st.lists(st.tuples(ends, st.integers(0, 3), st.floats(0, 6)), max_size=60))
def test_an_open_breaker_never_lets_more_through_than_its_probes(
    history: list[tuple[Ends, int, float]],
) -> None:
    breaker, now, passed, epoch = Breaker(), 0.0, 0, 0
    for heard, want, pause in history:
        now += pause
        breaker.record_outcomes(heard, THREE, now)
        breaker.advance_time(THREE, now)
        assert breaker.epoch >= epoch
        if breaker.epoch != epoch:
            epoch, passed = breaker.epoch, 0
        granted, _ = breaker.probe(want, THREE, now)
        if breaker.state is BreakerState.OPEN:
            assert granted == 0
        if breaker.state is BreakerState.HALF_OPEN:
            if now - breaker.given_at == 0.0:
                passed = min(passed, THREE.probes - granted) + granted
            assert passed <= THREE.probes


def test_breakers_beyond_the_labels_are_counted_and_open_ones_come_first() -> None:
    metrics, lanes = Metrics(), [f"lane-{number}" for number in range(MAX_CHILDREN + 10)]
    breakers = {lane: Breaker(BreakerState.OPEN) for lane in lanes}

    def shown() -> dict[str, float]:
        show(metrics, breakers.items())
        (family,) = [one for one in metrics.registry.collect() if one.name == BREAKER_OPEN.name]
        return {sample.labels["lane"]: sample.value for sample in family.samples}

    assert shown()["other"] == 10
    breakers[lanes[-1]] = Breaker(BreakerState.CLOSED)
    assert shown()["other"] == 9
    breakers = {lane: Breaker(BreakerState.CLOSED) for lane in lanes} | {
        lanes[-1]: Breaker(BreakerState.OPEN)
    }
    assert shown()[lanes[-1]] == 1
    assert sum(shown().values()) == 1


class Dispatcher:
    """What one knows of a lane's breaker, under a policy that comes and goes."""

    def __init__(self, born: int = 0) -> None:
        self.spec: CircuitBreakerSpec | None = THREE
        self.born = born
        self.known = True
        self.owned = LeaseOwner(
            lambda _: self.spec, born=lambda: self.born, known=lambda: self.known
        )

    def fails(self, times: int) -> None:
        self.owned.record_outcomes(LANE, failed(times), 0.0)

    def tells(self, other: "Dispatcher") -> None:
        other.owned.follow_owners(list(self.owned.news(0.0)), 0.0)

    def shows(self, state: BreakerState) -> bool:
        return self.owned.breaker(LANE)[0] is state


def one_forgot(after: float) -> tuple[Dispatcher, Dispatcher]:
    """Return an owner that saw a policy go and come again, and one that saw no gap between them.

    Before, the breaker was open, and had been `after` seconds ago.
    """
    owner, other = Dispatcher(born=1000), Dispatcher(born=1000)
    owner.fails(3)
    owner.tells(other)
    assert other.shows(BreakerState.OPEN)
    owner.owned.advance_breakers(lambda _: True, after)
    owner.tells(other)
    owner.spec = None
    owner.owned.advance_breakers(lambda _: True, after)
    owner.spec, owner.born = THREE, 2000
    assert owner.shows(BreakerState.CLOSED)
    return owner, other


def test_who_kept_a_breaker_of_a_policy_that_was_made_anew_takes_what_the_new_one_becomes() -> None:
    owner, other = one_forgot(THREE.open_for)
    assert other.shows(BreakerState.HALF_OPEN)
    owner.fails(3)
    owner.tells(other)
    assert other.shows(BreakerState.OPEN)


def test_who_asks_an_owner_for_a_probe_that_knows_of_no_fault_is_told_that_it_is_closed() -> None:
    owner, other = one_forgot(0.0)
    assert other.shows(BreakerState.OPEN)
    assert owner.owned.grant_permits(probes_of(LANE), 5, THREE.open_for).granted == 5
    owner.tells(other)
    assert other.shows(BreakerState.CLOSED)


def test_a_breaker_that_was_written_down_is_taken_by_one_that_has_just_begun() -> None:
    begun = Dispatcher(born=2000)
    begun.owned.restore(LANE, BreakerState.OPEN, 1001, 0.0)
    assert begun.shows(BreakerState.OPEN)
    begun.owned.advance_breakers(lambda _: True, THREE.open_for)
    assert [one.epoch for one in begun.owned.news(0.0)] == [2001]


def test_who_missed_an_opening_closes_nothing_by_telling_what_it_knows() -> None:
    owner, late = Dispatcher(born=1000), Dispatcher(born=5000)
    owner.fails(3)
    owner.owned.advance_breakers(lambda _: True, THREE.open_for)
    owner.tells(late)  # half open; what it has not heard of yet is born later there
    owner.owned.grant_permits(probes_of(LANE), 1, THREE.open_for)
    owner.fails(1)
    late.owned.mark_all_changed(THREE.open_for, lambda _: False)
    late.tells(owner)
    assert owner.shows(BreakerState.OPEN)


def test_who_knows_of_no_change_tells_of_none() -> None:
    one = Dispatcher(born=5000)
    one.owned.record_outcomes(LANE, Ends(succeeded=1), 0.0)
    one.owned.mark_all_changed(0.0, lambda _: True)
    assert list(one.owned.news(0.0)) == []


def test_a_clock_that_is_behind_does_not_make_a_new_breaker_older() -> None:
    ahead, behind = Dispatcher(born=90_000), Dispatcher(born=1000)
    ahead.fails(3)
    ahead.tells(behind)
    behind.spec = None
    behind.owned.advance_breakers(lambda _: True, 0.0)
    behind.spec = THREE
    ahead.owned.advance_breakers(lambda _: True, THREE.open_for)
    behind.fails(3)
    behind.tells(ahead)
    assert ahead.shows(BreakerState.OPEN)


class Unknowing(Dispatcher):
    """One that has not heard yet which policies there are."""

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.known = None, False
        self.owned = LeaseOwner(lambda _: self.spec, known=lambda: self.known)

    def learns(self, spec: CircuitBreakerSpec | None, now: float) -> None:
        self.spec, self.known = spec, True
        self.owned.advance_breakers(lambda _: True, now)


def test_what_was_written_down_or_told_before_the_policies_came_holds_once_they_have() -> None:
    restored, told, owner = Unknowing(), Unknowing(), Dispatcher()
    restored.owned.restore(LANE, BreakerState.OPEN, 7, 0.0)
    owner.fails(3)
    owner.tells(told)
    for one in (restored, told):
        one.owned.advance_breakers(lambda _: True, 1.0)
        one.learns(THREE, 2.0)
        assert one.shows(BreakerState.OPEN)
        assert one.owned.breaker(LANE)[1] == 0.0  # it goes by when that was heard
        one.owned.advance_breakers(lambda _: True, THREE.open_for)
        assert one.shows(BreakerState.HALF_OPEN)


def test_what_was_heard_last_before_the_policies_came_counts() -> None:
    one = Unknowing()
    states = [(BreakerState.CLOSED, 9), (BreakerState.OPEN, 8)]
    for state, epoch in states:
        news = BreakerNews(lane=LANE, state=state, epoch=epoch, remaining=5.0)
        one.owned.follow_owners([news], 0.0)
    one.learns(THREE, 0.0)
    assert one.shows(BreakerState.CLOSED)


def test_a_state_of_a_newer_dispatcher_costs_nothing_else_that_it_says() -> None:
    one = Dispatcher()
    news = [
        BreakerNews(lane="another", state="throttled", epoch=9),
        BreakerNews(lane=LANE, state="open", epoch=9, remaining=5.0),
    ]
    one.owned.follow_owners(news, 0.0)
    assert one.shows(BreakerState.OPEN)
    assert one.owned.breaker("another")[0] is BreakerState.CLOSED


def test_a_breaker_is_forgotten_whose_policy_is_not_among_those_that_have_come() -> None:
    one = Unknowing()
    one.owned.restore(LANE, BreakerState.OPEN, 7, 0.0)
    one.learns(None, 1.0)
    assert one.shows(BreakerState.CLOSED)


def test_an_owner_without_policies_lets_no_probe_through_a_breaker_that_it_knows_to_be_shut() -> (
    None
):
    restored, told, owner, new = Unknowing(), Unknowing(), Dispatcher(), Unknowing()
    restored.owned.restore(LANE, BreakerState.OPEN, 7, 0.0)
    owner.fails(3)
    owner.tells(told)
    granted = [
        one.owned.grant_permits(probes_of(LANE), 5, 1.0).granted for one in (restored, told, new)
    ]
    assert granted == [0, 0, 5]
